"""Brute force in float64 for Gram matrices, and families with adapters."""

import numpy as np

from heredity import Family
from heredity.family import Member
from pico import write_adapter


def family_of(pico, base="base"):
    return Family.of(pico.paths, base=base)


def check(gram, pico, reference="base", members=None, tolerance=1e-6):
    """Compare with brute force in fp64; errors are relative to the product of the norms."""
    members = members or pico.members
    for name, tensor in gram.tensors.items():
        rows = pico.deltas(name, reference, members)
        exact = rows @ rows.T
        norms = np.sqrt(np.diag(exact))
        scale = np.maximum(np.outer(norms, norms), 1e-300)
        assert (np.abs(tensor.products - exact) / scale).max() < tolerance, name
        assert np.allclose(
            tensor.sums, rows.sum(axis=1), rtol=1e-6, atol=1e-6 * np.abs(rows).sum(axis=1).max()
        ), name
        assert np.array_equal(tensor.products, tensor.products.T), name
        raw = np.stack([pico.values[m][name].ravel() for m in (reference, *members)])
        assert np.allclose(tensor.raw(), raw @ raw.T, rtol=1e-6, atol=1e-6 * np.abs(raw @ raw.T).max()), name


def same_bits(a, b):
    assert list(a.tensors) == list(b.tensors)
    for name in a.tensors:
        assert a.tensors[name].products.tobytes() == b.tensors[name].products.tobytes(), name
        assert a.tensors[name].sums.tobytes() == b.tensors[name].sums.tobytes(), name
    for name in a.elements:
        assert np.array_equal(a.elements[name].both, b.elements[name].both)
        assert np.array_equal(a.elements[name].agree, b.elements[name].agree)


TARGETS = {
    "model.layers.0.self_attn.q_proj": (8, 8),
    "model.layers.0.mlp.up_proj": (24, 8),
    "model.embed_tokens": (24, 8),
}


def adapt(pico, name, **options):
    dense = write_adapter(pico.root / name, options.pop("targets", TARGETS), **options)
    pico.paths[name] = pico.root / name
    pico.values[name] = {n: w + dense.get(n, 0) for n, w in pico.values["base"].items()}
    for n, w in (options.get("saved") or {}).items():
        pico.values[name][n] = w.astype(np.float64)


def adapted_family(pico, adapters):
    members = [Member(name="base", path=str(pico.paths["base"]))]
    for name, path in pico.paths.items():
        if name != "base":
            relation = "adapter" if name in adapters else "finetune"
            members.append(Member(name=name, path=str(path), parents=("base",), relation=relation))
    return Family("f", members)
