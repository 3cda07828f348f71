"""`heredity track` over families that are there already: a planted one, a broken one, a ready stream, adapters."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from feature_pico import DOMAINS, write_text
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, MistralConfig, MistralForCausalLM

from heredity.cli._main import run
from heredity.corpora import train_tokenizer
from heredity.corpora.stream import TokenStream
from heredity.errors import ConfigError, DiskFullError, StoreError
from heredity.family import Family, Member
from heredity.run import Run
from heredity.studies.features.members import load_member
from heredity.studies.tracking import config as settings_of
from heredity.studies.tracking import kin
from heredity.studies.tracking.sizes import estimate
from heredity.studies.tracking.text import check_length, cut

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SETTINGS = [
    "--set", "text.context=32", "--set", "text.shared_tokens=2000", "--set", "sae.latents=96", "--set", "sae.k=8",
    "--set", "sae.tokens=20000", "--set", "sae.batch_tokens=512", "--set", "sae.learning_rate=3e-3", "--set",
    "sae.stream_tokens=2000", "--set", "sae.evaluation_tokens=1000", "--set", "lineage.min_firings=20", "--set",
    "lineage.min_joint=20", "--set", "lineage.resamples=20", "--set", "highlights=3", "--set", "explain=5",
]  # fmt: skip


def noisy(model: torch.nn.Module, amount: float, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * parameter.std() * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, a base, a near and a far child, their average; and an encoder with a child."""
    root = tmp_path_factory.mktemp("world")
    write_text(root / "text", documents=10, words=400)
    texts = [file.read_text() for file in sorted((root / "text").glob("*/*.txt"))]
    words = train_tokenizer(texts, vocab_size=320, out=root / "words").parent
    base = MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=None))
    state = {}
    for name, amount in (("base", 0.0), ("near", 0.05), ("far", 1.0)):
        torch.manual_seed(0)
        model = noisy(MistralForCausalLM(base.config), amount, len(name))
        state[name] = model.state_dict()
        model.save_pretrained(root / "lm" / name)
    mean = {key: (state["near"][key] + state["far"][key]) / 2 for key in state["base"]}
    base.load_state_dict(mean)
    base.save_pretrained(root / "lm" / "both")
    for name, amount in (("base", 0.0), ("child", 0.1)):
        torch.manual_seed(0)
        noisy(BertModel(BertConfig(**SMALL)), amount, 3).save_pretrained(root / "bert" / name)
    for model in sorted(root.glob("*/*/config.json")):
        for file in words.iterdir():
            shutil.copy(file, model.parent)
    members = [
        Member(name="base", path="base"),
        *(Member(name=n, path=n, parents=("base",)) for n in ("near", "far")),
    ]
    child = Member(name="child", path="child", parents=("base",))
    both = Member(name="both", path="both", parents=("near", "far"))
    Family("lm", [*members, both]).save(root / "lm" / "family.toml")
    Family("bert", [members[0], child]).save(root / "bert" / "family.toml")
    return root


def track(world: Path, *arguments: object) -> tuple[int, Any, str]:
    import io
    from contextlib import redirect_stderr, redirect_stdout

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(["track", *map(str, arguments), "--json", "-q"])
    return code, json.loads(out.getvalue()) if out.getvalue() else None, err.getvalue()


@pytest.fixture(scope="module")
def tracked(world: Path) -> Path:
    """A run over four models, interrupted once and resumed."""
    from heredity.studies.features import following

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    data = [part for d in DOMAINS[:2] for part in ("--data", f"{d}=text:{world}/text/{d}/*.txt")]
    arguments = (world / "lm", *data, *SETTINGS, "-o", world / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(following.track, "evaluate_saes", stop)
        assert track(world, *arguments)[0] == 130
    code, _, said = track(world, *arguments)
    assert (code, "--resume" in said) == (2, True)
    trained = {
        file: file.stat().st_mtime_ns for file in (world / "run" / "saes").glob("*/sae_weights.safetensors")
    }
    assert len(trained) == 8
    code, made, said = track(world, *arguments, "--resume")
    assert code == 0, said
    assert trained == {file: file.stat().st_mtime_ns for file in trained}
    assert [edge["child"] for edge in made["edges"]] == ["near", "far", "both", "both"]
    assert track(world, *arguments, "--resume")[1] == made
    return world / "run"


def table(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "tables" / f"{name}.parquet")


def test_a_near_child_keeps_more_than_a_far_one(tracked: Path) -> None:
    edges = table(tracked, "edges")
    kept = dict(zip(edges["child"][:2], edges["persist"][:2], strict=True))
    assert kept["near"] > 1.5 * kept["far"]
    assert edges["floor"].max() < kept["near"]
    members = table(tracked, "members")
    distance = {row["member"]: row["parent_distances"] for row in members.iter_rows(named=True)}
    assert distance["near"][0] < distance["far"][0]
    assert len(distance["both"]) == 2
    assert table(tracked, "losses")["member"].unique(maintain_order=True).to_list() == [
        "base",
        "near",
        "far",
        "both",
    ]
    assert "middle" not in (tracked / "config.toml").read_text()
    assert 'site = "model.layers.0.mlp.down_proj:input"' in (tracked / "config.toml").read_text()


def test_the_page_has_no_section_for_what_track_never_makes(tracked: Path) -> None:
    page = (tracked / "report.html").read_text()
    assert "Between the two children" not in page
    assert "What the merge took" in page
    assert "Heritability of each edge against the distance" in page


def test_encoders_over_a_ready_stream(world: Path, tracked: Path) -> None:
    code, made, said = track(
        world, world / "bert", "--data", tracked / "text" / "train", *SETTINGS, "--set", "text.held_out=0.5",
        "--site", "encoder.layer.1.output.dense:input", "-o", world / "encoders",
    )  # fmt: skip
    assert code == 0, said
    assert made["edges"][0]["heritability"] is None or made["edges"][0]["persist"] > 0
    assert table(world / "encoders", "saes")["ce_recovered"].is_null().all()
    assert not (world / "encoders" / "tables" / "losses.parquet").exists()
    assert "recover" not in made["findings"][0]
    assert "What each model can do" not in (world / "encoders" / "report.html").read_text()


def test_a_dry_run_says_what_it_will_cost_and_does_nothing(world: Path, tmp_path: Path) -> None:
    data = ("--data", world / "text" / "plays")
    code, made, said = track(world, world / "lm", *data, *SETTINGS, "-o", tmp_path / "x", "--dry-run")
    assert code == 0, said
    assert (made["members"], made["edges"], made["d"], made["saes"]) == (4, 4, 48, 8)
    assert made["disk_bytes"]["activations to train on"] == 4 * 2000 * 48 * 2
    assert made["core_seconds"] > 0
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "arguments", "code", "said"),
    [
        ("", [], 2, "neither corpora nor a stream"),
        ("", ["--data", "{text}", "--site", "model.layers.0.mlp.down_prj:input"], 2, "did you mean"),
        ("", ["--data", "{text}", "--set", "sae.q=1"], 2, "unknown field 'q'"),
        ("", ["--data", "{text}", "--set", "sae.mix=cumulative"], 2, "not known - at $.sae.mix"),
        ("", ["--data", "{text}", "--set", "sae.latents=100000"], 1, "the average latent would fire"),
        ("tokenizer", ["--data", "{text}"], 3, "base and near have different tokenizers: 2 of 320 tokens, first"),
        ("width", ["--data", "{text}"], 3, "is 48 wide in base and 40 in near"),
        ("orphans", ["--data", "{text}"], 2, "no member has a parent"),
        ("none", ["--data", "{text}", "--set", "sae.k=97"], 2, "k = 97 of 96 latents - at $.sae.k"),
        ("none", ["--data", "{text}", "--crosscoder", "--set", "crosscoder.k=97"], 2, "k = 97 of 96 latents"),
        ("none", ["--data", "{text}", "--set", "crosscoder.k=9"], 2, "hint: add --crosscoder"),
        ("none", ["--data", "{text}", "--crosscoder", "--set", "crosscoder="], 2, "takes it out"),
        ("none", ["--data", "{text}", "--init", "parent", "--set", "sae.init=random"], 2, "--init parent, and --set"),
        ("none", ["--data", "{text}", "--device", "gpu"], 2, "not a torch device"),
        ("nan", ["--data", "{text}"], 1, "1 of 1536 elements are NaN or infinite"),
        ("overflow", ["--data", "{text}"], 1, "near: the loss is not finite"),
    ],
)  # fmt: skip
def test_what_cannot_be_tracked_is_refused_with_the_reason(
    world: Path, tmp_path: Path, change: str, arguments: list[str], code: int, said: str
) -> None:
    for name in ("base", "near"):
        shutil.copytree(world / "lm" / name, tmp_path / "lm" / name)
    parents = () if change == "orphans" else ("base",)
    Family("two", [Member(name="base", path="base"), Member(name="near", path="near", parents=parents)]).save(
        tmp_path / "lm" / "family.toml"
    )
    _break(tmp_path / "lm" / "near", change)
    given = [one.format(text=world / "text" / "plays") for one in arguments]
    found, _, text = track(world, tmp_path / "lm", *SETTINGS, *given, "-o", tmp_path / "out")
    assert found == code, text
    assert said in text
    assert "hint: " in text


def _break(folder: Path, change: str) -> None:
    if change == "tokenizer":
        words = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = words["model"]["vocab"]
        a, b = sorted(vocabulary, key=vocabulary.__getitem__)[300:302]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
        (folder / "tokenizer.json").write_text(json.dumps(words))
    elif change == "width":
        config = MistralConfig(
            **SMALL | {"intermediate_size": 40}, num_key_value_heads=2, sliding_window=None
        )
        MistralForCausalLM(config).save_pretrained(folder)
    elif change in ("nan", "overflow"):
        model = MistralForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            mlp = model.model.layers[0].mlp
            if change == "nan":
                mlp.up_proj.weight[0, 0] = float("inf")
            else:
                mlp.up_proj.weight *= 1e25
                mlp.gate_proj.weight *= 1e25
        model.save_pretrained(folder)


def test_activations_that_are_not_finite_are_named(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "bert", tmp_path / "bert")
    model = BertModel.from_pretrained(tmp_path / "bert" / "child")
    with torch.no_grad():
        model.encoder.layer[0].intermediate.dense.weight.fill_(3e38)
    model.save_pretrained(tmp_path / "bert" / "child")
    code, _, said = track(
        world, tmp_path / "bert", "--data", world / "text" / "plays", *SETTINGS, "-o", tmp_path / "out"
    )
    assert code == 1
    assert "child, encoder.layer.0.output.dense:input: shard 0, step 0: activations are not finite" in said


def test_a_stream_is_cut_without_a_document_on_both_sides(tracked: Path) -> None:
    whole = TokenStream.open(tracked / "text" / "train")
    train, rest = cut(whole, 0.4)
    assert not {*train.document_keys} & {*rest.document_keys}
    assert train.domains == rest.domains == whole.domains
    assert 0.2 < rest.n_tokens / whole.n_tokens < 0.6
    for part in (train, rest):
        for row in part.documents.iter_rows(named=True):
            own = np.asarray(part.tokens[row["start"] : row["stop"]])
            at = whole.documents.row(by_predicate=pl.col("key") == row["key"], named=True)
            text = np.asarray(whole.tokens[at["start"] : at["stop"]])
            windows = np.lib.stride_tricks.sliding_window_view(text, len(own))
            assert (windows == own).all(axis=1).any()


def test_one_long_document_cannot_be_cut(tracked: Path) -> None:
    whole = TokenStream.open(tracked / "text" / "train").of("plays")
    one = whole.documents.with_columns(start=pl.lit(0), stop=pl.lit(whole.n_tokens)).head(1)
    stream = TokenStream(
        whole.tokens, one, context=whole.context, domains=("plays",), tokenizer_sha256=whole.tokenizer_sha256
    )
    with pytest.raises(StoreError, match="ends in one document"):
        cut(stream, 0.3)


def test_a_small_disk_is_found_before_starting(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = kin.resolved(Family.load(world / "lm"))
    given = {"name": "lm", "family": "x", "text": {"corpora": [{"domain": "a", "source": "text:a"}]}}
    values = settings_of.settings(None, given, ("sae.site=model.layers.0.mlp.down_proj:input",))
    sizes = estimate(settings_of.build(values), family, 1)
    sizes.check(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFullError, match="needs about"):
        sizes.check(tmp_path / "not" / "there")


def test_an_adapter_is_poured_into_its_parent(world: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=size).astype(np.float32)) for size in ((2, 32), (48, 2)))
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["up_proj"],
        "base_model_name_or_path": "x",
    }
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    place = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    save_file({f"{place}A.weight": a, f"{place}B.weight": b}, tmp_path / "lora" / "adapter_model.safetensors")
    members = [Member(name="base", path=str(world / "lm" / "base"))]
    members.append(Member(name="lora", path=str(tmp_path / "lora"), parents=("base",), relation="adapter"))
    family = kin.resolved(Family("two", members, tmp_path))
    made = Run.open(tmp_path / "run", command="track", config={}, seed=0)
    kin.keep(made, family)
    live = load_member(made, "lora", device="cpu")
    base = load_member(made, "base", device="cpu")
    want = base.model.layers[0].mlp.up_proj.weight + 2 * b @ a
    torch.testing.assert_close(live.model.layers[0].mlp.up_proj.weight, want)
    torch.testing.assert_close(
        live.model.layers[1].mlp.up_proj.weight, base.model.layers[1].mlp.up_proj.weight
    )
    assert kin.check_site(family, None) == "model.layers.0.mlp.down_proj:input"
    assert kin.check_tokenizers(family) == "base"


def test_a_settings_file_lies_between_the_defaults_and_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "track.toml"
    file.write_text("highlights = 5\n[sae]\nk = 16\nlatents = 64\n")
    values = settings_of.settings(file, {"name": "x"}, ("sae.k=4",))
    assert (values["highlights"], values["sae"]["k"], values["sae"]["latents"]) == (5, 4, 64)
    assert values["sae"]["seeds"] == settings_of.defaults()["sae"]["seeds"]
    file.write_text("highlights = \n")
    with pytest.raises(ConfigError, match=r"track\.toml: not TOML"):
        settings_of.settings(file, {}, ())
    config = settings_of.build(settings_of.settings(None, {
        "name": "x", "family": "y", "text": {"stream": "z"}, "sae": {"site": "a:input"}
    }, ()))  # fmt: skip
    with pytest.raises(StoreError, match="10 tokens"):
        check_length(config, 10)
