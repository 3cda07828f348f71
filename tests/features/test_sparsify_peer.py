"""We read the folders that sparsify writes, and compute what it computes with them.

Needs an interpreter that has sparsify (eai-sparsify 1.3): HEREDITY_SPARSIFY_PYTHON. Differences are relative to the
largest value.
"""

import os
import subprocess

import numpy as np
import pytest
import torch

from heredity.errors import StoreError
from heredity.features.sae import load
from heredity.features.sae.topk import TopK
from heredity.seeds import generator

PEER = os.environ.get("HEREDITY_SPARSIFY_PYTHON", "")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not PEER, reason="HEREDITY_SPARSIFY_PYTHON names no interpreter with sparsify 1.3"),
]

READ = {"latents": (60, 5), "factor": (48, 3)}
SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
from sparsify import SparseCoder, SparseCoderConfig

folder = Path(sys.argv[1])
x = torch.from_numpy(np.load(folder / "x.npy"))
torch.manual_seed(0)
made = {
    "latents": SparseCoderConfig(num_latents=60, k=5),
    "factor": SparseCoderConfig(expansion_factor=2, k=3),
    "groupmax": SparseCoderConfig(num_latents=60, k=5, activation="groupmax"),
}
for name, config in made.items():
    sae = SparseCoder(24, config)
    with torch.no_grad():
        for value in sae.parameters():
            value.copy_(torch.randn_like(value) * (0.3 if value.ndim == 2 else 0.1))
        sae.save_to_disk(folder / name)
        top, index, _ = sae.encode(x)
        codes = torch.zeros(len(x), sae.num_latents).scatter_(1, index, top)
        np.savez(folder / f"{name}.npz", codes=codes.numpy(), again=sae.decode(top, index).numpy())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("sparsify")
    np.save(where / "x.npy", generator(3, "x").standard_normal((400, 24)).astype(np.float32))
    subprocess.run(
        [PEER, "-c", SCRIPT, str(where)], check=True, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return where


@pytest.mark.parametrize("name", READ)
def test_activations_and_reconstructions_are_sparsifys(folder, name):
    x, theirs, sae = np.load(folder / "x.npy"), np.load(folder / f"{name}.npz"), load(folder / name)
    assert sae.variant == TopK(d_sae=READ[name][0], k=READ[name][1])
    codes = sae.codes(x)
    assert len(codes.values) == (theirs["codes"] > 0).sum() > 100
    np.testing.assert_allclose(
        codes.dense(sae.d_sae), theirs["codes"], atol=1e-6 * np.abs(theirs["codes"]).max()
    )
    again = sae.reconstruct(torch.from_numpy(x))[0]
    np.testing.assert_allclose(again, theirs["again"], atol=2e-6 * np.abs(theirs["again"]).max())


def test_another_activation_is_refused(folder):
    with pytest.raises(StoreError, match="activation is 'groupmax'"):
        load(folder / "groupmax")
