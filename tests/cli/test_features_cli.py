"""sites, harvest, train and evaluate, from a folder of text to a measured SAE; each resumed and refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, MistralConfig, MistralForCausalLM

from heredity.cli._main import run
from heredity.corpora import train_tokenizer

SITE = "model.layers.0.mlp.down_proj:input"
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "dogs",
    "run",
    "over",
    "hills",
    "in",
    "rain",
    "while",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text of two domains, and two pico models with a tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for domain in ("news", "tales"):
        (folder / domain).mkdir()
        for number in range(4):
            (folder / domain / f"{number}.txt").write_text(" ".join(rng.choice(WORDS, 500)) + "\n")
    texts = [file.read_text() for file in sorted(folder.glob("*/*.txt"))]
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 290,
    }
    MistralForCausalLM(MistralConfig(**size, num_key_value_heads=2, sliding_window=None)).save_pretrained(
        folder / "lm"
    )
    BertModel(BertConfig(**size)).save_pretrained(folder / "bert")
    for model in ("lm", "bert"):
        made = train_tokenizer(texts, vocab_size=290, out=folder / f"{model}-tokenizer").parent
        for file in made.iterdir():
            (folder / model / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "bert" / "tokenizer_config.json").read_text())
    settings |= {"cls_token": "<s>", "sep_token": "</s>"}
    (folder / "bert" / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = run([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = run(list(map(str, arguments)))
    return code, capsys.readouterr().err


@pytest.fixture(scope="module")
def store(world: Path) -> Path:
    out = world / "store"
    assert run([
        "harvest", str(world / "lm"), "--site", SITE, "--data", str(world / "news"), "--data",
        f"stories=text:{world}/tales/*.txt", "--context", "32", "-o", str(out), "-q",
    ]) == 0  # fmt: skip
    return out


def test_sites_lists_what_harvest_takes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = say(capsys, "sites", world / "lm", "--mlp")
    assert found["kind"] == "decoder"
    assert found["recommended"] == SITE
    assert [row["module"] for row in found["modules"]] == [f"model.layers.{i}.mlp.down_proj" for i in (0, 1)]
    assert run(["sites", str(world / "bert"), "--match", "layer.1"]) == 0
    shown = capsys.readouterr().out
    assert "* encoder.layer.1.output.dense" in shown
    assert "layer.0.output" not in shown.replace("--site encoder.layer.0.output.dense:input", "")


def test_a_harvest_keeps_every_token_of_every_domain(store: Path) -> None:
    from heredity.corpora import TokenStream
    from heredity.features.store import ActivationStore

    kept, stream = ActivationStore.open(store), TokenStream.open(store / "stream")
    assert stream.domains == ("news", "stories")
    assert kept.n_tokens == stream.n_tokens > 1000
    assert (kept.d, kept.meta.member, kept.meta.site) == (24, "lm", SITE)


def test_several_sites_and_a_ready_stream(
    world: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = [f"model.layers.{i}.mlp.down_proj:input" for i in (0, 1)]
    arguments = ["harvest", world / "lm", "--site", sites[0], "--site", sites[1], "--data", store / "stream"]
    made = say(
        capsys, *arguments, "-o", tmp_path / "two", "--domain", "news", "--max-tokens", 320, "--name", "base"
    )
    assert [row["tokens"] for row in made["stores"]] == [320, 320]
    again = say(
        capsys,
        *arguments,
        "-o",
        tmp_path / "two",
        "--domain",
        "news",
        "--max-tokens",
        320,
        "--name",
        "base",
        "--resume",
    )
    assert again == made
    code, said = refused(capsys, *arguments, "-o", tmp_path / "two")
    assert (code, "not empty" in said) == (2, True)


def test_an_encoder_is_read_between_its_ends_and_measured_without_a_loss(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from heredity.features.store import ActivationStore

    site = "encoder.layer.0.output.dense:input"
    say(
        capsys,
        "harvest",
        world / "bert",
        "--site",
        site,
        "--data",
        world / "news",
        "--context",
        16,
        "-o",
        tmp_path / "s",
    )
    assert ActivationStore.open(tmp_path / "s").meta.ends == (0, 1)
    say(
        capsys,
        "train",
        tmp_path / "s",
        "-o",
        tmp_path / "sae",
        "--set",
        "d_sae=48",
        "--set",
        "k=4",
        "--set",
        "tokens=4000",
        "--set",
        "batch_tokens=256",
    )
    found = say(capsys, "evaluate", tmp_path / "sae", world / "bert", "--data", world / "tales")
    assert found["site"] == site
    assert "encoder predicts no next token" in found["no_loss"]
    assert found["quality"][0]["ce_recovered"] is None
    assert 0 < found["quality"][0]["fvu"] < 1


@pytest.mark.parametrize(("variant", "settings"), [("topk", ["k=4"]), ("l1", ["l1=0.3"])])
def test_train_and_evaluate(
    world: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variant: str,
    settings: list[str],
) -> None:
    common = ["--set", "d_sae=48", "--set", "tokens=6000", "--set", "batch_tokens=256", "--set", "rate=0.003"]
    own = [part for one in settings for part in ("--set", one)]
    made = say(capsys, "train", store, "-o", tmp_path / "sae", "--variant", variant, *own, *common)
    assert (made["d_in"], made["d_sae"], made["training"]["tokens"]) == (24, 48, 6000)
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == [
        "cfg.json",
        "history.json",
        "sae_weights.safetensors",
    ]
    found = say(
        capsys, "evaluate", tmp_path / "sae", world / "lm", "--data", store / "stream", "--max-tokens", 640
    )
    first = found["quality"][0]
    assert first["fvu"] < 0.9
    assert first["n_tokens"] == 1280
    assert first["ce_recovered"] is not None
    assert found["no_loss"] is None
    child = say(
        capsys,
        "train",
        store,
        "-o",
        tmp_path / "child",
        "--variant",
        variant,
        *own,
        *common,
        "--init",
        tmp_path / "sae",
    )
    assert child["last"]["fvu"] <= made["last"]["fvu"] + 0.02


def test_a_start_that_does_not_fit_leaves_the_folder_alone(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae, out = tmp_path / "sae", tmp_path / "out"
    small = [part for one in ("k=4", "tokens=2560", "batch_tokens=256") for part in ("--set", one)]
    say(capsys, "train", store, "-o", sae, "--set", "d_sae=48", *small)
    shutil.copytree(sae, out)
    before = (out / "sae_weights.safetensors").read_bytes()
    common = ["train", store, "-o", out, "--overwrite", "--init", sae]
    code, error = refused(capsys, *common, "--set", "d_sae=96", *small)
    assert code == 3
    assert "cannot begin with the SAE" in error
    code, error = refused(capsys, *common, "--variant", "crosscoder", *small)
    assert code == 2
    assert "crosscoder always begins" in error
    assert (out / "sae_weights.safetensors").read_bytes() == before


def test_an_interrupted_training_resumes_to_the_same_bytes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heredity.features import diary

    settings = [
        "--dtype",
        "float32",
        "--set",
        "d_sae=48",
        "--set",
        "k=4",
        "--set",
        "tokens=25600",
        "--set",
        "batch_tokens=256",
        "--set",
        "checkpoint_every=30",
    ]
    monkeypatch.setattr(diary, "EVERY", 10)
    assert run(["train", str(store), "-o", str(tmp_path / "whole"), *settings, "-q"]) == 0
    write = diary.write_bytes

    def stop(path: Path, data: bytes) -> None:
        write(path, data)
        if path.name == "history.json" and json.loads(data)[-1]["step"] == 70:
            raise KeyboardInterrupt

    monkeypatch.setattr(diary, "write_bytes", stop)
    assert run(["train", str(store), "-o", str(tmp_path / "cut"), *settings, "-q"]) == 130
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    monkeypatch.setattr(diary, "write_bytes", write)
    assert run(["train", str(store), "-o", str(tmp_path / "cut"), *settings, "-q"]) == 2
    assert run(["train", str(store), "-o", str(tmp_path / "cut"), *settings, "-q", "--resume"]) == 0
    for name in ("sae_weights.safetensors", "history.json", "cfg.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["harvest", "{lm}", "--site", SITE.replace("pro", "pr"), "--data", "{news}"], 2, f"did you mean {SITE[:-6]}"),
        (["harvest", "{lm}", "--site", "model.layers.0.mlp", "--data", "{news}"], 2, "MODULE:input or MODULE:output"),
        (["harvest", "{lm}", "--data", "{news}"], 2, "either --site, or --input-gram"),
        (["harvest", "{lm}", "--site", SITE, "--data", "nowhere"], 2, "nowhere: no such file"),
        (["harvest", "{lm}", "--site", SITE, "--data", "{news}", "--context", "5000"], 1, "less than a block of 5000"),
        (["train", "{store}", "--variant", "topp"], 2, "no SAE variant 'topp'"),
        (["train", "{store}", "--set", "q=4"], 2, "--set q: no such setting of topk"),
        (["train", "{store}", "--set", "k=0"], 2, "--set for topk"),
        (["train", "{store}", "{store}", "--set", "k=2"], 3, "trained on one store"),
        (["train", "{news}", "--set", "k=2"], 1, "no finished activation store"),
        (["train", "{store}", "--set", "d_sae=8", "--set", "k=9"], 2, "k = 9 of 8 latents"),
        (["train", "{store}", "--variant", "batchtopk", "--set", "d_sae=8", "--set", "k=9"], 2, "k = 9 of 8 latents"),
        (["train", "{store}", "--set", "k=2", "--set", "batch_tokens=100000"], 1, "fewer than one batch"),
        (["train", "{store}", "--set", "k=2", "--set", "d_sae=1000000000000000"], 1, "not enough memory"),
        (["train", "{store}", "--set", "k=2", "--device", "gpu"], 2, "not a torch device"),
        (["train", "{store}", "--variant", "crosscoder", "--set", "k=2"], 2, "one STORE is given"),
        (["train", "{store}", "{store}", "--variant", "crosscoder", "--set", "k=2"], 2, "two STOREs are of a member"),
        (["harvest", "{lm}", "--site", SITE, "--data", "{news}", "--device", "gpu"], 2, "not a torch device"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_any_work(
    world: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    places = {"lm": world / "lm", "news": world / "news", "store": store}
    found, text = refused(capsys, *[one.format(**places) for one in arguments], "-o", tmp_path / "out")
    assert found == code
    assert said in text
    assert "hint: " in text
    assert not (tmp_path / "out").exists()


def test_the_variants_are_listed_with_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--variants"]) == 0
    shown = capsys.readouterr().out
    assert "topk: " in shown
    assert "d_sae, k" in shown
    assert "checkpoint_every=500" in shown


def test_a_harvest_of_another_text_leaves_a_finished_one_alone(
    world: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    shutil.copytree(store, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    text = ["--data", world / "news", "--data", f"stories=text:{world}/tales/*.txt"]
    common = ["harvest", world / "lm", "--site", SITE, *text, "-o", out, "--resume"]
    code, error = refused(capsys, *common, "--context", 16)
    assert (code, "of contexts of another length" in error) == (3, True)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    say(capsys, *common, "--context", 32)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_a_broken_model_is_not_measured(
    world: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        part for one in ("k=4", "d_sae=48", "tokens=2560", "batch_tokens=256") for part in ("--set", one)
    ]
    say(capsys, "train", store, "-o", tmp_path / "sae", *small)
    shutil.copytree(world / "lm", tmp_path / "broken")
    model = MistralForCausalLM.from_pretrained(tmp_path / "broken")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    code, error = refused(
        capsys, "evaluate", tmp_path / "sae", tmp_path / "broken", "--data", store / "stream"
    )
    assert code == 1
    assert f"site {SITE}: activations are not finite at step 0" in error
