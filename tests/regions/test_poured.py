"""`heredity search` on a tiny Llama: its trace is the loss of poured merges; a second run goes on with it."""

import json
import sys
from pathlib import Path

import pytest

from heredity.checkpoint import Checkpoint
from heredity.cli._main import run
from heredity.corpora.documents import Document
from heredity.corpora.tokenizer import train_tokenizer
from heredity.corpora.tokens import write_stream
from heredity.models.evaluate import lm_scores
from heredity.models.load import load

sys.path.insert(0, str(Path(__file__).parents[1] / "merging"))
from merge_pico import LLAMA, llama_shapes, weights

from heredity.writer import write_checkpoint


def test_search_over_t(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"the {noun} sat on the {noun}." for noun in ("cat", "dog", "hen", "cow")]
    train_tokenizer(texts * 3, vocab_size=270, out=tmp_path / "tokenizer")
    documents = [Document(key=f"d{i}", domain="x", text=text) for i, text in enumerate(texts)]
    stream = write_stream(
        documents,
        tmp_path / "tokenizer" / "tokenizer.json",
        tmp_path / "stream",
        context=8,
        max_tokens_per_domain=None,
    )
    shapes = {n: (270, *s[1:]) if s[0] == 40 else s for n, s in llama_shapes().items()}
    for seed, name in enumerate("ab"):
        made = {n: (w, "F32") for n, w in weights(shapes, seed, 0.1).items()}
        write_checkpoint(tmp_path / name, made, config={**LLAMA, "vocab_size": 270})
    (tmp_path / "r.toml").write_text('[merge]\nmethod = "slerp"\nt = 0.5\nmodels = ["a", "b"]')
    command = [
        "search",
        str(tmp_path / "r.toml"),
        "--data",
        str(tmp_path / "stream"),
        "--by",
        "grid",
        "--steps",
        "3",
    ]
    assert run([*command, "--trace", str(tmp_path / "trace.json"), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    losses = {step["weights"][0]: step["loss"] for step in found["steps"]}
    for t, name in ((0.0, "a"), (1.0, "b")):
        model = load(Checkpoint.open(tmp_path / name).path)
        assert losses[t] == pytest.approx(lm_scores(model, stream).summary()[0], rel=1e-6)
    assert found["best"]["loss"] == min(losses.values())
    kept = json.loads((tmp_path / "trace.json").read_text())
    kept["steps"][0]["loss"] = -1.0  # a second run believes the trace and does not evaluate again
    (tmp_path / "trace.json").write_text(json.dumps(kept))
    assert run([*command, "--trace", str(tmp_path / "trace.json"), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["loss"] == -1.0
