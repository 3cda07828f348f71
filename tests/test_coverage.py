"""Models that cover each other only in part: names, prefixes, tied heads, vocabularies, quantised files."""

import numpy as np
import pytest

from gram_oracle import check, family_of
from heredity import Checkpoint, Family, Gram
from heredity.errors import MismatchError
from pico import write_model, write_raw, write_tokenizer


def test_missing_extra_and_misshapen_tensors(pico_family):
    pico = pico_family()
    weights = {n: w.astype(np.float32) for n, w in pico.values["a"].items()}
    weights["model.extra.weight"] = weights.pop("model.norm.weight")
    write_model(pico.paths["a"], weights)
    with pytest.raises(MismatchError, match=r"model.norm.weight is missing in a \(and 1 more\)"):
        Gram.compute(family_of(pico))
    gram = Gram.compute(family_of(pico), allow_partial=True)
    assert "model.norm.weight" not in gram.tensors
    assert gram.left_out == {"model.norm.weight (a)": "missing", "model.extra.weight (a)": "extra"}
    check(gram, pico)
    weights["model.norm.weight"] = np.zeros(3, np.float32)
    write_model(pico.paths["a"], weights)
    with pytest.raises(MismatchError, match=r"model.norm.weight is \[8\] in the reference and \[3\] in a"):
        Gram.compute(family_of(pico))


def test_unrelated_architectures_share_nothing(pico_family):
    llama, bert = pico_family(kind="llama"), pico_family(kind="bert")
    both = Family.of({"llama": llama.paths["base"], "bert": bert.paths["base"]})
    with pytest.raises(MismatchError, match="missing in bert"):
        Gram.compute(both, allow_partial=True)


@pytest.mark.parametrize(
    ("kind", "prefix"), [("llama", "model."), ("gpt2", "transformer."), ("bert", "bert.")]
)
def test_prefixes_may_differ(pico_family, kind, prefix):
    pico = pico_family(kind=kind, tied=True)
    bare = {n.removeprefix(prefix): w.astype(np.float32) for n, w in pico.values["b"].items()}
    write_model(pico.paths["b"], bare)
    check(Gram.compute(family_of(pico)), pico)
    swapped = Gram.compute(family_of(pico), reference="b", members=["a"])  # and the other way round
    assert all(not name.startswith(prefix) for name in swapped.tensors)


def test_tied_and_untied_heads(pico_family):
    pico = pico_family(tied=False)
    tied = {n: w.astype(np.float32) for n, w in pico.values["a"].items() if n != "lm_head.weight"}
    write_model(pico.paths["a"], tied, config={"tie_word_embeddings": True})
    pico.values["a"]["lm_head.weight"] = pico.values["a"]["model.embed_tokens.weight"]
    gram = Gram.compute(family_of(pico), include_head=True)
    assert "lm_head.weight" in gram.tensors
    check(gram, pico)
    all_tied = pico_family(tied=True)
    assert "lm_head.weight" not in Gram.compute(family_of(all_tied), include_head=True).tensors


def test_vocabularies_are_joined_by_token(pico_family):
    pico = pico_family(tied=True)
    rng = np.random.default_rng(3)
    tokens = {
        "base": [f"t{i}" for i in range(24)],
        "a": [f"t{i}" for i in rng.permutation(24)],
        "c": [f"t{i}" for i in range(24)],
    }
    tokens["b"] = ["new", *(f"t{i}" for i in range(23, 3, -1)), "x", "y"]
    for name, path in pico.paths.items():
        write_tokenizer(path, tokens[name])
    weights = {n: w.astype(np.float32) for n, w in pico.values["b"].items()}
    weights["model.embed_tokens.weight"] = rng.normal(size=(23, 8)).astype(np.float32)
    pico.values["b"] = write_model(pico.paths["b"], weights)
    gram = Gram.compute(family_of(pico))
    shared = [f"t{i}" for i in range(4, 24)]
    for name in pico.paths:
        rows = [tokens[name].index(t) for t in shared]
        pico.values[name]["model.embed_tokens.weight"] = pico.values[name]["model.embed_tokens.weight"][rows]
    assert gram.tensors["model.embed_tokens.weight"].shape == (20, 8)
    check(gram, pico)


def test_vocabularies_without_tokenizers_do_not_join(pico_family):
    pico = pico_family(tied=True)
    weights = {n: w.astype(np.float32) for n, w in pico.values["b"].items()}
    weights["model.embed_tokens.weight"] = np.zeros((25, 8), np.float32)
    write_model(pico.paths["b"], weights)
    with pytest.raises(MismatchError, match=r"embed_tokens.weight is \[24, 8\].*\[25, 8\] in b.*tokenizer"):
        Gram.compute(family_of(pico))


@pytest.mark.parametrize(("scale", "dtype"), [("weight_scale_inv", "F8_E4M3"), (None, "I32")])
def test_quantised_weights_are_refused(tmp_path, scale, dtype):
    header = {"a.weight": {"dtype": dtype, "shape": [4], "data_offsets": [0, 16 if dtype == "I32" else 4]}}
    data = b"\0" * header["a.weight"]["data_offsets"][1]
    if scale:
        header[f"a.{scale}"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
        data += b"\0" * 4
    checkpoints = {}
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_raw(tmp_path / name / "model.safetensors", header, data)
        (tmp_path / name / "config.json").write_text('{"quantization_config": {}}')
        checkpoints[name] = Checkpoint.open(tmp_path / name)
    with pytest.raises(MismatchError, match=r"a\.weight is (multiplied by|packed as)"):
        Gram.compute(checkpoints)
