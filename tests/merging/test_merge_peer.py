"""The same numbers as mergekit 0.1.5, on families of three architectures, in bf16 and in fp32.

Needs an interpreter that has mergekit: HEREDITY_MERGEKIT_PYTHON. Arithmetic is fp32 on both sides.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from merge_pico import family, read
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.merging import Recipe
from heredity.merging.resolve import resolve

PEER = os.environ.get("HEREDITY_MERGEKIT_PYTHON", "")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not PEER, reason="HEREDITY_MERGEKIT_PYTHON names no interpreter with mergekit 0.1.5"),
]

AB = "models: [{model: a}, {model: b}]"
ABC = "models: [{model: a}, {model: b}, {model: c}]"
WEIGHTED = """models:
  - {model: a, parameters: {weight: 0.5, density: 0.6}}
  - {model: b, parameters: {weight: 0.3, density: 0.5}}
  - {model: c, parameters: {weight: -0.2, density: 0.7}}"""
EXACT = {
    "linear": "models: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: 0.9}}]",
    "linear sum": f"{WEIGHTED}\nparameters: {{normalize: false}}",
    "slerp": "models: [{model: a}, {model: b}]\nbase_model: a\nparameters: {t: 0.58}",
    "slerp gradient": """base_model: b
models: [{model: a}, {model: b}]
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5""",
    "nuslerp": """models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: 3}}""",
    "nuslerp base": """base_model: base
models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: 3}}""",
    "nuslerp rows": """models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: 2}}
parameters: {nuslerp_flatten: false}""",
    "nuslerp columns": """models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: 2}}
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}""",
    "multislerp": f"{ABC}\nparameters: {{weight: 1}}",
    "multislerp base": f"base_model: base\n{ABC}\nparameters: {{weight: [1, 2]}}",
    "karcher": ABC,
    "model_stock": f"base_model: base\n{ABC}",
    "model_stock filters": f"base_model: base\n{ABC}\nparameters: {{filter_wise: true}}",
    "task_arithmetic": f"base_model: base\n{WEIGHTED}\nparameters: {{lambda: 0.7}}",
    "ties": f"base_model: base\n{WEIGHTED}",
    "ties plain": f"base_model: base\n{AB}\nparameters: {{weight: 1, density: 0.3, normalize: false}}",
    "breadcrumbs": f"base_model: base\n{WEIGHTED}\nparameters: {{gamma: 0.05}}",
    "breadcrumbs_ties": f"base_model: base\n{WEIGHTED}\nparameters: {{gamma: 0.05}}",
    "sce": f"base_model: base\n{ABC}\nparameters: {{select_topk: 0.4}}",
    "sce whole": f"base_model: base\n{ABC}",
    "nearswap": f"base_model: a\n{AB}\nparameters: {{t: 0.01}}",
    "ram": f"base_model: base\n{ABC}\nparameters: {{epsilon: 0.01}}",
    "ramplus_tl": f"base_model: base\n{ABC}\nparameters: {{epsilon: 0.01, r: 0.4}}",
    "passthrough slices": """slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 2]}]""",
    "linear slices": """slices:
  - sources:
    - {model: a, layer_range: [0, 1], parameters: {weight: 0.5}}
    - {model: b, layer_range: [1, 2], parameters: {weight: [0, 1]}}
  - sources: [{model: c, layer_range: [0, 2], parameters: {weight: 1}}]""",
    "linear module": """modules:
  default:
    models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: [0, 1]}}]""",
}
TIED = ("ties", "breadcrumbs", "sce")  # which of equal magnitudes is kept is the peer's sort's whim
RANDOM = {
    "dare_linear": f"base_model: base\n{AB}\nparameters: {{weight: 0.5, density: 0.6}}",
    "dare_ties": f"base_model: base\n{AB}\nparameters: {{weight: 0.5, density: 0.6}}",
    "della": f"base_model: base\n{AB}\nparameters: {{weight: 0.5, density: 0.6, epsilon: 0.2}}",
    "della_linear": f"base_model: base\n{AB}\nparameters: {{weight: 0.5, density: 0.6, epsilon: 0.2}}",
}
FAMILIES = [(a, d) for a in ("llama", "gpt2", "bert") for d in ("BF16", "F32")]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write all families, let the peer carry out all merges in one process, and carry them out ourselves."""
    root = tmp_path_factory.mktemp("peer")
    jobs = []
    for architecture, dtype in FAMILIES:
        folder = root / f"{architecture}-{dtype}"
        family(folder, architecture, models=3, dtype=dtype)
        for case, text in {**EXACT, **RANDOM}.items():
            if not _fits(case, architecture):
                continue
            method = case.split()[0]
            for old in ("a", "b", "c", "base"):
                text = text.replace(f"model: {old}}}", f"model: {folder / old}}}")
                text = text.replace(f"model: {old},", f"model: {folder / old},")
                text = text.replace(f"base_model: {old}\n", f"base_model: {folder / old}\n")
            out = {"BF16": "bfloat16", "F32": "float32"}[dtype]
            config = folder / f"{case}.yml"
            config.write_text(f"merge_method: {method}\ndtype: float32\nout_dtype: {out}\n{text}\n")
            jobs.append([str(config), str(folder / f"peer {case}")])
            resolve(Recipe.load(config)).save(folder / f"ours {case}")
    (root / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).parent / "peer_merges.py"
    subprocess.run([PEER, str(script), str(root / "jobs.json")], check=True, capture_output=True, timeout=900)
    return root


def _fits(case: str, architecture: str) -> bool:
    return architecture == "llama" or "slices" not in case


def _both(folder: Path, case: str) -> tuple[dict[str, ndarray], dict[str, ndarray]]:
    return tuple(read(Checkpoint.open(folder / f"{who} {case}")) for who in ("ours", "peer"))  # type: ignore[return-value]


def _agreement(ours: ndarray, peers: ndarray, dtype: str) -> ndarray:
    """Say where two tensors agree: to one ulp of bf16 (of 1e-3 below it), or to 1e-5 in fp32."""
    size = np.maximum(np.abs(peers), 1e-3)
    limit = 2.0 ** (np.floor(np.log2(size)) - 7) if dtype == "BF16" else 1e-5 * size
    return np.asarray(np.abs(ours - peers) <= limit)


@pytest.mark.parametrize(("architecture", "dtype"), FAMILIES)
@pytest.mark.parametrize("case", EXACT)
def test_same_numbers(case: str, architecture: str, dtype: str, merged: Path) -> None:
    if not _fits(case, architecture):
        pytest.skip("slices are compared on the Llama family")
    ours, peers = _both(merged / f"{architecture}-{dtype}", case)
    shared = sorted(set(ours) & set(peers))
    assert shared == sorted(peers)
    agree = np.concatenate([_agreement(ours[n], peers[n], dtype).ravel() for n in shared])
    least = 0.985 if case.startswith(TIED) and dtype == "BF16" else 0.999
    assert agree.mean() >= least, f"{1 - agree.mean():.2%} of {agree.size} elements differ"


@pytest.mark.parametrize("case", RANDOM)
def test_randomised_methods_have_the_same_distribution(case: str, merged: Path) -> None:
    folder = merged / "llama-F32"
    ours, peers = _both(folder, case)
    base = read(Checkpoint.open(folder / "base"))
    moved = [np.concatenate([(w[n] - base[n]).ravel() for n in sorted(base)]) for w in (ours, peers)]
    shares = [float((m != 0).mean()) for m in moved]
    norms = [float(np.abs(m).sum()) for m in moved]
    spreads = [float(m.std()) for m in moved]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert norms[0] == pytest.approx(norms[1], rel=0.03)
    assert spreads[0] == pytest.approx(spreads[1], rel=0.05)
