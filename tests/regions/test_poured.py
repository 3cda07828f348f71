"""`heredity search` on a tiny Llama: its trace is the loss of poured merges; a second run goes on with it."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from heredity.checkpoint import Checkpoint
from heredity.cli._main import run
from heredity.corpora.documents import Document
from heredity.corpora.tokenizer import train_tokenizer
from heredity.corpora.tokens import TokenStream, write_stream
from heredity.merging import Recipe, Slerp
from heredity.merging.resolve import resolve
from heredity.models.evaluate import lm_scores
from heredity.models.load import load

sys.path.insert(0, str(Path(__file__).parents[1] / "merging"))
from merge_pico import LLAMA, llama_shapes, read, weights

from heredity.writer import write_checkpoint


@pytest.fixture
def stream(tmp_path: Path) -> TokenStream:
    """Write a stream, and tiny Llamas a to d of its vocabulary: c and d are near a and b."""
    texts = [f"the {noun} sat on the {noun}." for noun in ("cat", "dog", "hen", "cow")]
    train_tokenizer(texts * 3, vocab_size=270, out=tmp_path / "tokenizer")
    documents = [Document(key=f"d{i}", domain="x", text=text) for i, text in enumerate(texts)]
    shapes = {n: (270, *s[1:]) if s[0] == 40 else s for n, s in llama_shapes().items()}
    far = {name: weights(shapes, seed, 0.1) for seed, name in enumerate(("a", "b", "noise"))}
    far |= {
        new: {n: w + 0.1 * far["noise"][n] for n, w in far[old].items()}
        for new, old in (("c", "a"), ("d", "b"))
    }
    for name in "abcd":
        made = {n: (w, "F32") for n, w in far[name].items()}
        write_checkpoint(tmp_path / name, made, config={**LLAMA, "vocab_size": 270})
    file = tmp_path / "tokenizer" / "tokenizer.json"
    return write_stream(documents, file, tmp_path / "stream", context=8, max_tokens_per_domain=None)


def test_search_over_t(stream: TokenStream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_search_by_clusters(stream: TokenStream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text('[merge]\nmethod = "linear"\nmodels = ["a", "b", "c", "d"]')
    command = ["search", str(tmp_path / "r.toml"), "--data", str(tmp_path / "stream"), "--by", "clusters"]
    assert run([*command, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert "2 clusters: [0, 1, 0, 1]" in shown.err
    whys = [step["why"] for step in found["steps"]]
    assert whys[:3] == ["cluster 0: 0 alone", "cluster 0: 2 alone", whys[2]]
    assert whys[2] in ("cluster 0: with 0", "cluster 0: with 2")
    assert found["best"]["loss"] == min(step["loss"] for step in found["steps"])
    assert run([*command, "--clusters", "1", "-q"]) == 0
    assert "best: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "by"), [("linear", "golden"), ("slerp", "clusters"), ("centroid", "grid")]
)
def test_a_search_that_the_method_has_no_room_for_is_refused(
    method: str, by: str, stream: TokenStream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t = "t = 0.5\n" if method == "slerp" else ""
    (tmp_path / "r.toml").write_text(f'[merge]\nmethod = "{method}"\n{t}models = ["a", "b"]')
    assert run(["search", str(tmp_path / "r.toml"), "--data", str(tmp_path / "stream"), "--by", by]) == 2
    assert "search" in capsys.readouterr().err


def test_a_trace_of_something_else_is_refused(
    stream: TokenStream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.json"
    for models in ('["a", "b"]', '["a", "c"]'):
        (tmp_path / "r.toml").write_text(f'[merge]\nmethod = "slerp"\nt = 0.5\nmodels = {models}')
        command = [
            "search",
            str(tmp_path / "r.toml"),
            "--data",
            str(tmp_path / "stream"),
            "--trace",
            str(trace),
        ]
        code = run([*command, "--by", "grid", "--steps", "2", "-q"])
        assert code == (0 if "b" in models else 2)
    assert "trace of another recipe" in capsys.readouterr().err
    trace.write_text("{}")
    assert run([*command, "-q"]) == 2
    assert "is no trace" in capsys.readouterr().err


def test_search_among_pickled_models(
    stream: TokenStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEREDITY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "r.toml").write_text('[merge]\nmethod = "slerp"\nt = 0.5\nmodels = ["a", "b"]')
    command = [
        "search",
        str(tmp_path / "r.toml"),
        "--data",
        str(tmp_path / "stream"),
        "--by",
        "grid",
        "--steps",
        "2",
    ]
    assert run([*command, "--json", "-q"]) == 0
    before = json.loads(capsys.readouterr().out)["steps"]
    for name in "ab":
        held = {n: torch.from_numpy(w) for n, w in read(Checkpoint.open(tmp_path / name)).items()}
        torch.save(held, tmp_path / name / "pytorch_model.bin")
        (tmp_path / name / "model.safetensors").unlink()
    assert run([*command, "-q"]) == 1
    assert "--allow-pickle-weights" in capsys.readouterr().err
    assert run([*command, "--json", "-q", "--allow-pickle-weights"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == before


@pytest.mark.parametrize("case", ["golden", "clusters"])
def test_a_search_leaves_a_table_a_page_and_the_recipe_of_the_best(
    case: str,
    stream: TokenStream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = {
        "golden": '[merge]\nmethod = "slerp"\nt = 0.5\nmodels = ["a", "b"]',
        "clusters": '[merge]\nmethod = "linear"\nmodels = [{ model = "a", weight = 9.0 }, "left", "c", "d"]\n'
        '[merge.left]\nmethod = "linear"\nmodels = ["b"]',
    }[case]
    (tmp_path / "r.toml").write_text(head)
    out = tmp_path / "elsewhere" / "search"
    command = ["search", str(tmp_path / "r.toml"), "--data", str(tmp_path / "stream"), "--by", case, "-q"]
    command += ["--tolerance", "0.4", "-o", str(out)]
    assert run([*command, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    table = pl.read_parquet(out / "tables" / "search.parquet")
    assert table["loss"].min() == best["loss"]
    assert "heredity search" in (out / "report.html").read_text()
    if case == "clusters":
        assert table["why"][0] == "cluster 0: a alone"
        assert [f"weight {name}" for name in ("a", "left", "c", "d")] == table.columns[-4:]
    prepared = resolve(Recipe.load(out / "best.toml"))
    model = load(tmp_path / "a")
    monkeypatch.chdir(tmp_path.parent)  # the recipe holds where the models are
    prepared.load(model)
    assert lm_scores(model, stream).summary()[0] == pytest.approx(best["loss"], rel=1e-6)
    assert run(command) == 2
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr("heredity.regions.poured.lm_scores", None)  # to evaluate again would fail
    assert run([*command, "--resume"]) == 0


def test_a_method_in_the_place_of_another_leaves_a_recipe_of_its_own(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        made = {n: (w, "F32") for n, w in weights(llama_shapes(1), seed, 0.1).items()}
        write_checkpoint(tmp_path / name, made, config=LLAMA)
    text = '[merge]\nmethod = "linear"\nmodels = [{ model = "a", weight = 9.0 }, "b"]\ndtype = "bfloat16"\nseed = 3'
    (tmp_path / "r.toml").write_text(text)
    found = resolve(Recipe.load(tmp_path / "r.toml")).using(Slerp(t=0.25)).recipe["merge"]
    assert found == {"method": "slerp", "t": 0.25, "models": ["a", "b"], "dtype": "BF16", "seed": 3}
