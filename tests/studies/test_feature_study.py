"""The study from text to page: the same by the same seed, other by another, resumed to the same tables."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import polars as pl
import pytest
from feature_pico import config, write_text
from polars.testing import assert_frame_equal

pytest.importorskip("torch")

from heredity.errors import ConfigError, CorpusError, HeredityError
from heredity.run import Run
from heredity.studies.features.config import PRESETS, StudyConfig, plain, preset, with_values
from heredity.studies.features.study import study
from heredity.tomlfile import to_toml


def run_study(out: Path, root: Path, settings: StudyConfig, seed: int = 0) -> tuple[Run, bool]:
    run = Run.open(out, command="demo", config=plain(settings), seed=seed, resume=out.exists())
    return run, study(run, settings, root=root)


def tables(run: Run) -> dict[str, pl.DataFrame]:
    return {file.stem: pl.read_parquet(file) for file in sorted(run.path.glob("tables/*.parquet"))}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    return folder


@pytest.fixture(scope="module")
def first(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(tmp_path_factory.mktemp("runs") / "first", text, config())[0]


def test_every_table_and_the_page_are_made(first: Run) -> None:
    made = tables(first)
    wanted = {
        "corpora", "members", "training", "losses", "sweep", "saes", "sae_curve", "edges", "tau_curve", "r_histogram",
        "matches", "flows", "inheritance", "universal", "latents", "highlights", "contexts", "explanations", "findings",
        "matchings", "historical", "consensus", "consensus_latents", "consensus_edges", "consensus_matches",
        "ablation", "ablation_alike",
    }  # fmt: skip
    assert wanted <= made.keys()
    edges = made["edges"]
    assert edges.select("parent", "child").rows() == [
        ("base", "lua"), ("base", "verse"), ("lua", "lua-verse"), ("verse", "lua-verse"),
    ]  # fmt: skip
    for name in ("persist", "floor", "ceiling", "disappear", "undecided", "emerge"):
        assert edges[name].is_between(0, 1).all(), name
    whole = edges["persist"] + edges["disappear"] + edges["undecided"]
    assert (whole - 1).abs().max() < 1e-9  # type: ignore[operator]
    page = (first.path / "report.html").read_text()
    assert all(sentence.split(" ")[0] in page for sentence in made["findings"]["text"])
    assert made["sweep"].filter("chosen")["t"].n_unique() == 1


def test_latents_have_statistics_effects_and_explanations(first: Run) -> None:
    made = tables(first)
    for name in ("latent_statistics", "effects"):
        assert made[name].group_by("member").len()["len"].to_list() == [96] * 4
    shown = made["explanations"].select("member", "latent").sort("member", "latent")
    measured = made["measured_effects"].select("member", "latent")
    assert measured.height
    assert measured.join(shown, on=["member", "latent"], how="anti").is_empty()
    assert made["explanations"]["explainer"].unique().to_list() == ["rules"]
    scores = made["explanations"].drop_nulls("score")
    assert scores.height + made["explanations"]["failed"].drop_nulls().len() == shown.height
    assert made["explanation_summary"]["above_null"].min() > 0.5  # type: ignore[operator]
    assert made["measured_effects"]["measured"].mean() > 0.5  # type: ignore[operator]


def test_an_explainer_that_cannot_be_made_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"unknown explainer 'rulez' - at \$\.explainers\[0\]"):
        config(explainers=({"name": "rulez"},))


def test_the_members_load_with_transformers(first: Run) -> None:
    from heredity.models.load import load, tokenizer

    assert "lua-verse" in (first.path / "family" / "family.toml").read_text()
    for name in ("base", "lua", "verse", "lua-verse"):
        folder = first.path / "family" / name
        assert load(folder).config.model_type == "mistral"
        assert tokenizer(folder).decode(tokenizer(folder).encode("bafe dogi")) == "bafe dogi"


def test_no_text_is_trained_on_and_tested_on(first: Run) -> None:
    keys = {
        name: set(pl.read_parquet(first.path / "text" / name / "documents.parquet")["key"])
        for name in ("train", "validation", "test", "shared")
    }
    assert not keys["train"] & (keys["validation"] | keys["test"] | keys["shared"])
    assert not keys["validation"] & keys["test"]


def test_the_same_seed_gives_the_same_tables(first: Run, text: Path, tmp_path: Path) -> None:
    again, made = run_study(tmp_path / "again", text, config())
    assert made
    assert tables(again).keys() == tables(first).keys()
    for name, table in tables(first).items():
        assert_frame_equal(table, tables(again)[name], check_exact=True)
    assert run_study(tmp_path / "again", text, config())[1] is False  # everything was done


def test_another_seed_gives_other_numbers(first: Run, text: Path, tmp_path: Path) -> None:
    other, _ = run_study(tmp_path / "other", text, config(), seed=1)
    for name in ("losses", "saes", "edges"):
        assert not tables(other)[name].equals(tables(first)[name]), name


def test_killed_and_resumed_gives_the_same_tables(first: Run, text: Path, tmp_path: Path) -> None:
    settings = text / "study.toml"
    settings.write_text(to_toml(plain(config())))
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "heredity",
        "demo",
        "--config",
        str(settings),
        "-o",
        str(out),
        "-q",
        "--json",
    ]
    codes = []
    for stop in ("train lua", "saes"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while process.poll() is None and not _reached(out, stop):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        codes.append(process.returncode)
        if process.returncode == 130:
            assert said.strip().splitlines()[-2:] == [
                "error: interrupted",
                "hint: run the same command with --resume to go on",
            ]
    assert codes[0] == 130
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert msgspec.json.decode(done.stdout)["schema"] == 1
    resumed = {file.stem: pl.read_parquet(file) for file in sorted(out.glob("tables/*.parquet"))}
    for name, table in tables(first).items():
        assert_frame_equal(table, resumed[name], check_exact=True)


def _reached(out: Path, stage: str) -> bool:
    """Whether the stage before this one is done, so that this one is running."""
    order = [
        "text",
        "train base",
        "train lua",
        "train verse",
        "sweep",
        "merge",
        "losses",
        "saes",
        "sae quality",
    ]
    try:
        done = msgspec.json.decode((out / "run.json").read_bytes())["stages"]
    except FileNotFoundError:
        return False
    return order[order.index(stage) - 1] in done


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_read_and_written_back(name: str) -> None:
    settings = preset(name)
    from heredity.studies.features.config import parse

    assert parse(to_toml(plain(settings)), name) == settings
    assert settings.domains_of(settings.merge.name) == tuple(c.domain for c in settings.text.corpora)
    assert set(settings.domains_of(settings.base.name)) == set(settings.base.domains)


def test_the_paper_preset_reads_folders_with_the_hubs_layout(tmp_path: Path) -> None:
    settings = preset("paper")
    assert settings.base.training.learning_rate == 6e-4
    assert settings.merge.t == 0.58
    assert settings.sae.latents == 16 * settings.base.model["intermediate_size"] == 16384
    from heredity.corpora import load

    for spec in settings.text.corpora:
        name = spec.source.removeprefix("hf:")
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        (tmp_path / name / "README.md").write_text("---\nlicense: mit\n---\n")
        pl.DataFrame({spec.text: [f"{name} one", f"{name} two"]}).write_parquet(
            data / "train-00000-of-00001.parquet"
        )
        local = msgspec.structs.replace(spec, source=f"hf:{tmp_path / name}")
        assert sorted(d.text for d in load(local, archives={}, seed=0, root=tmp_path)) == [
            f"{name} one",
            f"{name} two",
        ]


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("merge.left=verse", "both 'verse'"),
        ("merge.left=base", "'base' is not a child"),
        ("base.domains=['poems']", "no corpus for domain 'poems'"),
        ("text.corpora.1.domain=plays", "two corpora for domain 'plays'"),
        ("children.0.name=base", "four different names"),
        ("sae.seeds=1", r"\$\.sae\.seeds"),
        ("lineage.tau=1.5", r"\$\.lineage\.tau"),
        ("text.test=0.9", "leave no text to train on"),
        ("sae.q=1", "unknown field 'q'"),
        ("nothing", "not key=value"),
        ("sae.site.x=1", "no such setting"),
    ],
)
def test_bad_settings_are_named_with_their_place(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_values(config(), (assignment,))


def test_an_empty_corpus_is_named(text: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("\n")
    settings = with_values(config(), ("text.corpora.0.source=text:empty/*.txt",))
    with pytest.raises(CorpusError, match=r"empty/\*\.txt: no text for domain 'plays'"):
        run_study(tmp_path / "out", tmp_path, settings)


def test_a_child_that_learned_nothing_stops_the_sweep(text: Path, tmp_path: Path) -> None:
    settings = with_values(
        config(), ("children.0.training.learning_rate=10.0", "children.0.training.clip=1000.0")
    )
    with pytest.raises(HeredityError, match=r"lua: (fine-tuning did not lower|the loss is not finite)"):
        run_study(tmp_path / "out", text, settings)
