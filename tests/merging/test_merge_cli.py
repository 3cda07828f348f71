"""The verbs methods, plan, merge and verify, from recipe to verdict; exit codes and hints."""

import json
from pathlib import Path

import numpy as np
import pytest
from merge_pico import LLAMA, family, llama_shapes, read, weights

from heredity.checkpoint import Checkpoint
from heredity.cli._main import run
from heredity.merging import Recipe
from heredity.merging.resolve import resolve
from heredity.writer import write_checkpoint

RECIPE = (
    '[merge]\nmethod = "slerp"\nmodels = ["a", "b"]\nt = [{ filter = "mlp", value = 0.25 }, { value = 0.5 }]'
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    family(tmp_path, models=2, dtype="BF16")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_plan_merge_verify(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out, agreed = str(root / "recipe.toml"), str(root / "out"), str(root / "plan.json")
    assert run(["plan", recipe, "--json", "--measure", "--save", agreed]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["schema"] == 1
    assert plan["passes"] == 2
    assert plan["filters"] == {"t": {"mlp": 9, "*": 21}}
    assert plan["lerp"] == []
    assert run(["merge", recipe, out, "--plan", agreed, "--json", "-q", "--hash-inputs"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["layers"][0]["layer"] == 0
    assert done["bytes"] == (root / "out" / "model.safetensors").stat().st_size
    assert run(["verify", out, "--tensors", "5"]) == 0
    assert "made again, same bytes" in capsys.readouterr().out
    assert run(["merge", recipe, out]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(["merge", recipe, out, "--overwrite", "--set", "t=0.1", "-q"]) == 0
    lock = json.loads((root / "out" / "heredity.lock.json").read_text())
    assert lock["tensors"]["lm_head.weight"]["t"] == pytest.approx(0.1, abs=0.01)


def test_a_plan_of_other_inputs_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, agreed = str(root / "recipe.toml"), str(root / "plan.json")
    assert run(["plan", recipe, "--save", agreed]) == 0
    assert run(["merge", recipe, str(root / "x"), "--plan", agreed, "--set", "t=0.9"]) == 3
    write_checkpoint(
        root / "b",
        {n: (w, "BF16") for n, w in weights(llama_shapes(), 9).items()},
        config=LLAMA,
        overwrite=True,
    )
    assert run(["merge", recipe, str(root / "x"), "--plan", agreed]) == 3
    assert "changed since it was planned" in capsys.readouterr().err
    assert not (root / "x").exists()


def test_dry_run_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", str(root / "recipe.toml"), str(root / "out"), "--dry-run"]) == 0
    assert "would merge 30 tensors" in capsys.readouterr().out
    assert not (root / "out").exists()


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["methods"]) == 23
    assert run(["methods", "ties"]) == 0
    assert "density = 1.0" in capsys.readouterr().out
    assert run(["methods", "tiess"]) == 2
    assert "did you mean 'ties'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('[merge]\nmethod = "ties"\nmodels = ["a"]\ndensty = 1', 2, "unknown field 'densty' - at $.merge"),
        ('[merge]\nmethod = "linear"\nmodels = ["a", "nowhere"]', 1, "nowhere"),
        ('[merge]\nmethod = "linear"\nmodels = ["a", "deep"]', 3, "has tensor model.layers.3"),
    ],
)
def test_errors_have_their_exit_codes(
    text: str, code: int, words: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(
        root / "deep", {n: (w, "F32") for n, w in weights(llama_shapes(4), 1).items()}, config=LLAMA
    )
    (root / "bad.toml").write_text(text)
    assert run(["merge", str(root / "bad.toml"), str(root / "out")]) == code
    assert words in capsys.readouterr().err


def _tokenizer(folder: Path, tokens: list[str], added: list[str]) -> None:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    entries = [{"id": len(tokens) + i, "content": token, "special": True} for i, token in enumerate(added)]
    table = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": entries}
    (folder / "tokenizer.json").write_text(json.dumps(table))


@pytest.mark.parametrize("wanted", ["union", "base", "b"])
def test_vocabularies_are_joined_by_token(
    wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEREDITY_CACHE", str(tmp_path / "cache"))
    tokens = {"a": ["x", "y", "z"], "b": ["z", "w", "x", "v"]}
    added = {"a": ["<a>"], "b": []}
    made = {}
    for seed, name in enumerate(tokens):
        count = len(tokens[name]) + len(added[name])
        shapes = {
            "model.embed_tokens.weight": (count, 4),
            "model.norm.weight": (4,),
            "lm_head.weight": (count, 4),
        }
        made[name] = weights(shapes, seed)
        config = {**LLAMA, "vocab_size": count}
        write_checkpoint(tmp_path / name, {n: (w, "F32") for n, w in made[name].items()}, config=config)
        _tokenizer(tmp_path / name, tokens[name], added[name])
    (tmp_path / "r.toml").write_text(
        f'[merge]\nmethod = "linear"\nmodels = ["a", "b"]\ntokenizer = "{wanted}"'
    )
    out = Checkpoint.open(resolve(Recipe.load(tmp_path / "r.toml")).save(tmp_path / "out"))
    expected = {"union": ["x", "y", "z", "<a>", "w", "v"], "base": ["x", "y", "z", "<a>"], "b": tokens["b"]}[
        wanted
    ]
    rows = {name: {t: i for i, t in enumerate([*tokens[name], *added[name]])} for name in tokens}
    for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
        for row, token in enumerate(expected):
            have = [made[n][tensor][rows[n][token]] for n in tokens if token in rows[n]]
            np.testing.assert_allclose(read(out)[tensor][row], np.mean(have, axis=0), rtol=1e-6)
    assert out.config["vocab_size"] == len(expected)
    table = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    found = {**table["model"]["vocab"], **{e["content"]: e["id"] for e in table["added_tokens"]}}
    assert sorted(found, key=found.__getitem__) == expected
