"""SAELens 6 reads our folders to the same activations, and we read the folders it writes.

Needs an interpreter that has SAELens: HEREDITY_SAELENS_PYTHON. Differences are relative to the largest value.
"""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from sae_examples import EXAMPLES, some

from heredity.features.sae import load, save
from heredity.seeds import generator

PEER = os.environ.get("HEREDITY_SAELENS_PYTHON", "")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not PEER, reason="HEREDITY_SAELENS_PYTHON names no interpreter with SAELens 6"),
]

READ = sorted(set(EXAMPLES) - {"crosscoder"})
WRITTEN = ("standard", "topk", "topk rescaled", "jumprelu", "gated", "gated plain input")
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
from sae_lens import SAE
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

folder = Path(sys.argv[1])
x = torch.from_numpy(np.load(folder / "x.npy"))

def keep(name, sae):
    with torch.no_grad():
        codes = sae.encode(x)
        codes = codes.to_dense() if codes.is_sparse else codes
        np.savez(folder / f"{name}.npz", codes=codes.numpy(), again=sae.decode(codes).numpy())

for name in json.loads(sys.argv[2]):
    keep(name, SAE.load_from_disk(folder / name))

torch.manual_seed(0)
made = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 5}),
    "topk rescaled": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {"apply_b_dec_to_input": False}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
    "gated plain input": (GatedSAE, GatedSAEConfig, {"apply_b_dec_to_input": False}),
}
for name, (kind, config, settings) in made.items():
    sae = kind(config(d_in=24, d_sae=60, **settings))
    with torch.no_grad():
        for own, value in sae.named_parameters():
            value.copy_(torch.randn_like(value) * (0.3 if value.ndim == 2 else 0.1))
            if own == "threshold":
                value.abs_().add_(0.2)
    sae.save_model(folder / "theirs" / name)
    keep(f"theirs-{name}", sae)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Our folders, theirs, and what SAELens computes with both."""
    folder = tmp_path_factory.mktemp("saelens")
    for name in READ:
        save(some(EXAMPLES[name]), folder / name)
    np.save(folder / "x.npy", generator(3, "x").standard_normal((400, 24)).astype(np.float32))
    subprocess.run(
        [PEER, "-c", SCRIPT, str(folder), json.dumps(READ)], check=True, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return folder


def compare(folder, sae, answer):
    x = np.load(folder / "x.npy")
    theirs = np.load(folder / f"{answer}.npz")
    mine = sae.codes(x)
    scale = np.abs(theirs["codes"]).max()
    assert (theirs["codes"] > 0).sum() == len(mine.values) > 100
    np.testing.assert_allclose(mine.dense(sae.d_sae), theirs["codes"], atol=1e-6 * scale)
    scale = np.abs(theirs["again"]).max()
    np.testing.assert_allclose(sae.reconstruct(torch.from_numpy(x))[0], theirs["again"], atol=2e-6 * scale)


@pytest.mark.parametrize("name", READ)
def test_saelens_reads_ours(answers, name):
    compare(answers, some(EXAMPLES[name]), name)


@pytest.mark.parametrize("name", WRITTEN)
def test_we_read_what_saelens_writes(answers, name):
    compare(answers, load(answers / "theirs" / name), f"theirs-{name}")
