"""Tokens of a merge: padding, rows from elsewhere, chat templates; the same rows as mergekit where it is there."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import merge_oracles as oracles
import numpy as np
import pytest
from merge_pico import LLAMA, llama_shapes, read, weights
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.cli._main import run
from heredity.errors import ConfigError, MismatchError
from heredity.merging import Recipe
from heredity.merging.resolve import resolve
from heredity.vocabulary import vocabulary_in
from heredity.writer import write_checkpoint
from pico import write_adapter

TOKENS = {"a": ["x", "y", "z", "u"], "b": ["z", "w", "x", "v", "q"]}
ROWS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEREDITY_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(TOKENS):
        model(tmp_path / name, TOKENS[name], seed)
    return tmp_path


def model(folder: Path, tokens: list[str], seed: int, rows: int | None = None) -> None:
    """Write a Llama of one layer with a word-level tokenizer; more rows than tokens are padding."""
    rows = rows or len(tokens)
    shapes = {n: (rows, *s[1:]) if n in ROWS else s for n, s in llama_shapes(1).items()}
    made = {n: (w, "F32") for n, w in weights(shapes, seed, 0.1).items()}
    config = {**LLAMA, "num_hidden_layers": 1, "vocab_size": rows}
    write_checkpoint(folder, made, config=config, overwrite=folder.exists())
    entries = {token: i for i, token in enumerate(tokens)}
    table = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": entries, "unk_token": tokens[0]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(table))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def merged(root: Path, text: str, suffix: str = ".toml") -> tuple[dict[str, ndarray], Path]:
    (root / f"r{suffix}").write_text(text)
    out = resolve(Recipe.load(root / f"r{suffix}")).save(root / "out", overwrite=True)
    return read(Checkpoint.open(out)), out


def row(root: Path, name: str, tensor: str, token: str) -> ndarray:
    return read(Checkpoint.open(root / name))[tensor][TOKENS[name].index(token)]


def test_rows_are_padded_with_each_model_s_mean(root: Path) -> None:
    text = '[merge]\nmethod = "linear"\nmodels = ["a", "b"]\ntokenizer = { source = "union", pad_to_multiple_of = 8 }'
    found, out = merged(root, text)
    a, b = (read(Checkpoint.open(root / n)) for n in "ab")
    union = [*TOKENS["a"], "w", "v", "q"]
    for tensor in ROWS:
        assert found[tensor].shape == (8, 16)
        for i, token in enumerate(union):
            have = [row(root, n, tensor, token) for n in "ab" if token in TOKENS[n]]
            np.testing.assert_allclose(found[tensor][i], np.mean(have, axis=0), rtol=1e-6)
        joined = [  # each model's rows in the union, what it lacks borrowed from the other
            np.array(
                [w[tensor][TOKENS[n].index(t)] if t in TOKENS[n] else row(root, o, tensor, t) for t in union]
            )
            for n, o, w in (("a", "b", a), ("b", "a", b))
        ]
        np.testing.assert_allclose(
            found[tensor][7], (joined[0].mean(0) + joined[1].mean(0)) / 2, rtol=1e-5, atol=1e-7
        )
    assert Checkpoint.open(out).config["vocab_size"] == 8
    assert vocabulary_in(out) == {token: i for i, token in enumerate(union)}


@pytest.mark.parametrize(("rows", "multiple", "expected"), [(4, 4, 4), (4, 3, 6), (6, 3, 6), (6, 4, 4)])
def test_equal_tokens_stay_where_they_are_if_their_rows_fit(
    rows: int, multiple: int, expected: int, root: Path
) -> None:
    for seed, name in enumerate("ab"):
        model(root / name, TOKENS["a"], seed, rows)
    tokenizer = f'{{ source = "base", pad_to_multiple_of = {multiple} }}'
    text = f'[merge]\nmethod = "linear"\nmodels = ["a", "b"]\ntokenizer = {tokenizer}'
    found, _ = merged(root, text)
    a, b = (read(Checkpoint.open(root / n))[ROWS[0]] for n in "ab")
    assert len(found[ROWS[0]]) == expected
    np.testing.assert_allclose(found[ROWS[0]][:4], (a + b)[:4] / 2, rtol=1e-6)


def test_equal_tokens_padded_differently_are_joined(root: Path) -> None:
    model(root / "a", TOKENS["a"], 0, 6)
    model(root / "b", TOKENS["a"], 1, 8)
    text = '[merge]\nmethod = "slerp"\nt = 0.3\nmodels = ["a", "b"]\ntokenizer = "base"'
    found, _ = merged(root, text)
    for tensor in ROWS:
        a, b = (read(Checkpoint.open(root / n))[tensor][:4].astype(np.float64) for n in "ab")
        np.testing.assert_allclose(found[tensor], oracles.slerp(a, [b], 0.3), rtol=1e-5, atol=1e-7)


def test_single_rows_come_from_where_the_recipe_says(root: Path) -> None:
    text = """
merge_method: linear
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
tokenizer:
  source: base
  pad_to_multiple_of: 4
  tokens:
    u: {source: {kind: zero}}
    y: {source: {kind: model_token, model: b, token: q}}
    x: {source: b, force: true}
    z: {source: {kind: model_token, model: a, token_id: 1}, force: true}
    "<new>": {source: {kind: model_token, model: a, token: u}}
"""
    found, out = merged(root, text, ".yml")
    for tensor in ROWS:
        expected = {
            "x": row(root, "b", tensor, "x"),
            "y": 0.25 * row(root, "a", tensor, "y") + 0.75 * row(root, "b", tensor, "q"),
            "z": row(root, "a", tensor, "y"),
            "u": 0.25 * row(root, "a", tensor, "u"),
            "<new>": row(root, "a", tensor, "u"),
        }
        for i, values in enumerate(expected.values()):
            np.testing.assert_allclose(found[tensor][i], values, rtol=1e-6, atol=1e-8)
        assert len(found[tensor]) == 8
    assert vocabulary_in(out) == {"x": 0, "y": 1, "z": 2, "u": 3, "<new>": 4}
    again = json.loads((out / "heredity.lock.json").read_text())["recipe"]["merge"]
    assert Recipe.of(again, root=root).tokenizer == Recipe.load(root / "r.yml").tokenizer
    assert run(["verify", str(out), "--tensors", "99"]) == 0


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ('x = { source = { kind = "model_token", model = "a", token = "nope" } }', "a has no row for 'nope'"),
        ('x = { source = { kind = "model_token", model = "a", token_id = 99 } }', "a has no row 99"),
        ('x = { source = { kind = "model_token", model = "a" } }', "'token' or 'token_id'"),
        ('x = { source = { kind = "magic" } }', "is no source of a row"),
        ('x = { force = true }', "expected a table with 'source'"),
        ('x = { source = "c" }', "which is not merged"),
    ],
)  # fmt: skip
def test_rows_that_are_not_there_are_refused(tokens: str, words: str, root: Path) -> None:
    model(root / "c", TOKENS["a"], 3)
    text = f'[merge]\nmethod = "linear"\nmodels = ["a", "b"]\n[merge.tokenizer.tokens]\n{tokens}'
    with pytest.raises(ConfigError, match=words):
        merged(root, text)


@pytest.mark.parametrize("value", ["0", "true", '"64"'])
def test_a_multiple_is_a_number(value: str, root: Path) -> None:
    text = f'[merge]\nmethod = "linear"\nmodels = ["a"]\ntokenizer = {{ pad_to_multiple_of = {value} }}'
    with pytest.raises(ConfigError, match="is no number of rows"):
        merged(root, text)


def test_a_chain_and_an_adapter_have_their_bases_tokens(root: Path) -> None:
    named = {"base_model_name_or_path": str(root / "b")}
    write_adapter(root / "lora", {"model.embed_tokens": (5, 16)}, **named)
    text = """
[merge]
method = "linear"
models = ["left", "a"]
tokenizer = "union"
[merge.left]
method = "linear"
models = ["lora"]
"""
    found, out = merged(root, text)
    lora = read(Checkpoint.open(root / "lora"))[ROWS[0]]
    np.testing.assert_allclose(found[ROWS[0]][0], (lora[0] + row(root, "a", ROWS[0], "z")) / 2, rtol=1e-5)
    assert list(vocabulary_in(out) or {}) == [*TOKENS["b"], "y", "u"]


def test_a_joined_adapter_is_not_taken_for_its_base(root: Path) -> None:
    named = {"base_model_name_or_path": str(root / "b")}
    write_adapter(root / "lora", {"model.embed_tokens": (5, 16)}, alpha=0.1, **named)
    text = '[merge]\nmethod = "slerp"\nt = 0.3\nbase = "b"\nmodels = ["lora"]\ntokenizer = "a"'
    found, _ = merged(root, text)
    order = [TOKENS["b"].index(t) if t in TOKENS["b"] else -1 for t in TOKENS["a"]]
    b, lora = (read(Checkpoint.open(root / n))[ROWS[0]].astype(np.float64) for n in ("b", "lora"))
    left, right = (np.array([w[i] if i >= 0 else 0 * w[0] for i in order]) for w in (b, lora))
    np.testing.assert_allclose(found[ROWS[0]], oracles.slerp(left, [right], 0.3), rtol=1e-5, atol=1e-7)


def test_a_model_without_a_tokenizer_is_named(root: Path) -> None:
    (root / "b" / "tokenizer.json").unlink()
    with pytest.raises(MismatchError, match="b: has no tokenizer"):
        merged(root, '[merge]\nmethod = "linear"\nmodels = ["a", "b"]\ntokenizer = "union"')


JINJA = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(JINJA, JINJA), ("chatml", "<|im_start|>"), ("mine.jinja", "{{ mine }}"), ("auto", "{{ two }}")],
)
def test_chat_templates(wanted: str, expected: str, root: Path) -> None:
    model(root / "c", TOKENS["a"], 3)
    (root / "a" / "chat_template.jinja").write_text("{{ one }}")
    settings: dict[str, Any] = {"chat_template": [{"name": "default", "template": "{{ two }}\n"}]}
    (root / "b" / "tokenizer_config.json").write_text(json.dumps(settings))
    (root / "c" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ two }}"}))
    (root / "mine.jinja").write_text("{{ mine }}")
    template = json.dumps(wanted)
    text = '[merge]\nmethod = "linear"\nmodels = ["a", "b", "c"]\ntokenizer = "union"\n'
    _, out = merged(root, f"{text}chat_template = {template}")
    assert expected in (out / "chat_template.jinja").read_text()
    assert expected in json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
    assert (root / "a" / "chat_template.jinja").read_text() == "{{ one }}"
    yaml = "merge_method: linear\nmodels: [{model: a}, {model: b}, {model: c}]\ntokenizer_source: union\n"
    _, out = merged(root, f"{yaml}chat_template: {template}", ".yml")
    assert expected in (out / "chat_template.jinja").read_text()
    assert run(["verify", str(out)]) == 0


def test_without_any_chat_template_auto_changes_nothing(root: Path) -> None:
    _, out = merged(root, '[merge]\nmethod = "linear"\nmodels = ["a"]\nchat_template = "auto"')
    assert not (out / "chat_template.jinja").exists()
    assert json.loads((out / "heredity.lock.json").read_text())["notes"] == ["no model has a chat template"]


def test_a_donor_on_the_command_line_keeps_joined_rows_and_their_tokenizer(root: Path) -> None:
    (root / "r.toml").write_text('[merge]\nmethod = "linear"\nmodels = ["a", "b"]\ntokenizer = "union"')
    config = json.loads((root / "b" / "config.json").read_text()) | {"rope_theta": 5.0}
    (root / "b" / "config.json").write_text(json.dumps(config))
    assert run(["merge", str(root / "r.toml"), str(root / "out"), "--donor", str(root / "b"), "-q"]) == 0
    assert Checkpoint.open(root / "out").config["rope_theta"] == 5.0
    assert len(vocabulary_in(root / "out") or {}) == len(read(Checkpoint.open(root / "out"))[ROWS[0]]) == 7


PEER = os.environ.get("HEREDITY_MERGEKIT_PYTHON", "")
PEER_CASES = {
    "union": "tokenizer_source: union",
    "base": "tokenizer_source: base",
    "padded": "tokenizer: {source: union, pad_to_multiple_of: 16}",
    "rows": """tokenizer:
  source: base
  tokens:
    u: {source: {kind: zero}}
    x: {source: B, force: true}
    z: {source: {kind: model_token, model: B, token_id: 3}, force: true}
    y: {source: {kind: model_token, model: A, token: y}}""",
}


@pytest.mark.peer
@pytest.mark.skipif(not PEER, reason="HEREDITY_MERGEKIT_PYTHON names no interpreter with mergekit 0.1.5")
def test_rows_are_the_peer_s(root: Path) -> None:
    jobs = []
    for case, text in PEER_CASES.items():
        places = text.replace(" A,", f" {root / 'a'},").replace(" B,", f" {root / 'b'},")
        config = root / f"{case}.yml"
        config.write_text(
            f"merge_method: linear\nbase_model: {root / 'a'}\ndtype: float32\nout_dtype: float32\n"
            f"models: [{{model: {root / 'a'}, parameters: {{weight: 1}}}}, "
            f"{{model: {root / 'b'}, parameters: {{weight: 3}}}}]\n{places}\n"
        )
        jobs.append([str(config), str(root / f"peer {case}")])
    (root / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).parent / "peer_merges.py"
    done = subprocess.run(
        [PEER, str(script), str(root / "jobs.json")], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for case in PEER_CASES:
        out = resolve(Recipe.load(root / f"{case}.yml")).save(root / f"ours {case}")
        ours, peers = read(Checkpoint.open(out)), read(Checkpoint.open(root / f"peer {case}"))
        mine, theirs = vocabulary_in(out), vocabulary_in(root / f"peer {case}")
        assert mine is not None
        assert theirs is not None
        assert set(mine) == set(theirs), case
        for tensor in ROWS:
            assert ours[tensor].shape == peers[tensor].shape, case
            for token, place in theirs.items():
                np.testing.assert_allclose(
                    ours[tensor][mine[token]],
                    peers[tensor][place],
                    rtol=1e-5,
                    atol=1e-8,
                    err_msg=f"{case} {token}",
                )
            np.testing.assert_allclose(
                ours[tensor][len(mine) :], peers[tensor][len(mine) :], rtol=1e-5, atol=1e-7, err_msg=case
            )
