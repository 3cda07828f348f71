"""evaluate over several models: a crosscoder in each of its members, and what is refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_features_cli import SITE, refused, say, world
from transformers import AutoModel, AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from heredity.cli._evaluating import by_member
from heredity.cli._main import run
from heredity.errors import ConfigError

__all__ = ["world"]  # a fixture
ENCODER = "encoder.layer.0.output.dense:input"


@pytest.fixture(scope="module")
def family(world: Path) -> Path:
    """A child of each model, and a crosscoder over each pair."""
    for name, kind, site in (("lm", AutoModelForCausalLM, SITE), ("bert", AutoModel, ENCODER)):
        child, stores = world / f"{name}-child", []
        shutil.copytree(world / name, child)
        model = kind.from_pretrained(child)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * parameter.abs().mean() * torch.randn_like(parameter))
        model.save_pretrained(child)
        for member, folder in (("base", world / name), ("child", child)):
            stores.append(str(world / f"{name}-{member}-store"))
            assert run([
                "harvest", str(folder), "--site", site, "--data", str(world / "news"), "--context", "16", "--name",
                member, "-o", stores[-1], "-q",
            ]) == 0  # fmt: skip
        small = ("d_sae=48", "k=4", "tokens=6000", "batch_tokens=256", "rate=0.003")
        settings = [part for one in small for part in ("--set", one)]
        out = str(world / f"{name}-crosscoder")
        assert run(["train", *stores, "--variant", "crosscoder", "-o", out, *settings, "-q"]) == 0
    _strangers(world)
    return world


def test_a_crosscoder_has_one_line_per_member(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", family / "lm-crosscoder"]
    text = ["--data", family / "tales", "--max-tokens", 320]
    found = say(capsys, *common, f"child={family}/lm-child", f"base={family}/lm", *text)
    assert [row["member"] for row in found["quality"]] == ["base", "child"]
    assert found["models"] == {"base": f"{family}/lm", "child": f"{family}/lm-child"}
    assert found["no_loss"] == {"base": None, "child": None}
    first, second = found["quality"]
    assert first["l0"] == second["l0"]
    assert first["ce_clean"] != second["ce_clean"]
    assert all(0 < row["fvu"] < 1 and row["ce_recovered"] is not None for row in found["quality"])
    in_order = say(capsys, *common, family / "lm", family / "lm-child", *text)
    assert in_order == found
    assert (
        run(list(map(str, [*common, family / "lm", family / "lm-child", *text, "--ablation", "mean"]))) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["base", "child"]
    assert all("with mean" in line for line in lines)


def test_encoders_are_measured_without_a_loss(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", family / "bert-crosscoder", family / "bert", family / "bert-child"]
    found = say(capsys, *command, "--data", family / "tales")
    assert all("encoder predicts no next token" in why for why in found["no_loss"].values())
    assert [row["ce_recovered"] for row in found["quality"]] == [None, None]
    assert all(0 < row["fvu"] < 1 for row in found["quality"])


@pytest.mark.parametrize(
    ("models", "more", "code", "said"),
    [
        (["{w}/lm"], [], 2, "1 model for a crosscoder over 2 members"),
        (["base={w}/lm"], [], 2, "1 model for a crosscoder over 2 members, child has none"),
        (["{w}/lm", "{w}/lm-child", "{w}/lm"], [], 2, "3 models for a crosscoder over 2 members"),
        (["base={w}/lm", "kid={w}/lm-child"], [], 2, "over base, child, not over 'kid'"),
        (["base={w}/lm", "base={w}/lm-child"], [], 2, "base is given twice"),
        (["base={w}/lm", "{w}/lm-child"], [], 2, "some models are named, others are not"),
        (["{w}/lm", "{w}/nowhere"], [], 1, "nowhere"),
        (["{w}/lm", "{w}/lm-child"], ["-k", "3"], 2, "a crosscoder SAE has no k"),
        (["{w}/lm", "{w}/lm-child"], ["--site", SITE.replace("down_proj", "down")], 2, "did you mean"),
        (["{w}/lm", "{w}/lm-child"], ["--site", SITE.replace("input", "output")], 3, "32 wide together"),
        (["{w}/lm", "{w}/narrow"], [], 3, "base and child differ in d: 24 and 20"),
        (["{w}/lm", "{w}/other-words"], [], 3, "base and child have different tokenizers: 2 of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(
    family: Path,
    capsys: pytest.CaptureFixture[str],
    models: list[str],
    more: list[str],
    code: int,
    said: str,
) -> None:
    given = [one.format(w=family) for one in models]
    found, text = refused(
        capsys, "evaluate", family / "lm-crosscoder", *given, "--data", family / "tales", *more
    )
    assert found == code, text
    assert said in text
    assert len(text.strip().splitlines()) == 2
    assert "hint: " in text


def test_an_sae_of_one_member_takes_one_model(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "d_sae=48", "--set", "k=4", "--set", "tokens=2000", "--set", "batch_tokens=256"]
    say(capsys, "train", family / "lm-base-store", "-o", family / "plain", *settings)
    code, text = refused(
        capsys, "evaluate", family / "plain", family / "lm", family / "lm-child", "--data", family / "tales"
    )
    assert (code, "2 models for an SAE of one member" in text) == (2, True)


def test_names_in_paths_are_no_members(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    paths = [str(tmp_path / "a=b"), "owner/model"]
    assert by_member(("base", "child"), paths) == dict(zip(("base", "child"), paths, strict=True))
    with pytest.raises(ConfigError, match="not over 'kid'"):
        by_member(("base", "child"), ["kid=x", "y"])


def _strangers(world: Path) -> None:
    """Make a model of another width, and one of another tokenizer."""
    for name in ("narrow", "other-words"):
        shutil.copytree(world / "lm", world / name)
    settings = json.loads((world / "lm" / "config.json").read_text())
    narrow = MistralConfig(**settings | {"intermediate_size": 20})
    MistralForCausalLM(narrow).save_pretrained(world / "narrow")
    words = json.loads((world / "lm" / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    a, b = sorted(vocabulary, key=vocabulary.__getitem__)[270:272]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (world / "other-words" / "tokenizer.json").write_text(json.dumps(words))
