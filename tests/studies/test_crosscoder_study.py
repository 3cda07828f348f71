"""A crosscoder in `heredity track`: its tables and section, no pass made twice, killed and resumed to the same bits."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_tracking import SETTINGS, track, world

from heredity.errors import MismatchError
from heredity.execute import Serial
from heredity.family import Family, Member
from heredity.features import diary
from heredity.features import harvest as harvesting
from heredity.features.lineage import Lineage
from heredity.features.sae import Crosscoder
from heredity.features.sae._format import load as load_sae
from heredity.run import Run
from heredity.studies.features import crosscoder, following
from heredity.studies.features.crosscoder import CrosscoderJob, check_related, train_one
from heredity.studies.features.text import Streams
from heredity.studies.features.track import codes_of
from heredity.studies.tracking import config as settings_of
from heredity.studies.tracking.config import Subject

__all__ = ["world"]  # a fixture
TABLES = (
    "crosscoder", "crosscoder_quality", "crosscoder_pairs", "crosscoder_meeting", "crosscoder_edges",
    "crosscoder_training",
)  # fmt: skip
SMALL = (
    *SETTINGS,
    "--crosscoder",
    "--set",
    "crosscoder.k=3",
    "--set",
    "crosscoder.learning_rate=0.006",
    "--set",
    "explain=0",
)


@pytest.fixture(scope="module")
def family(world: Path) -> Path:
    """The base and its near child."""
    folder = world / "pair"
    folder.mkdir()
    members = [Member(name="base", path=str(world / "lm" / "base"))]
    members.append(Member(name="near", path=str(world / "lm" / "near"), parents=("base",)))
    Family("pair", members, folder).save(folder / "family.toml")
    return folder


@pytest.fixture(scope="module")
def passes() -> list[str]:
    """Folders into which activations were harvested, as long as the module lasts."""
    return []


@pytest.fixture(scope="module")
def crossed(world: Path, family: Path, passes: list[str]) -> Path:
    """A run with a crosscoder, stopped in each of its stages and resumed."""
    arguments = (family, "--data", f"plays=text:{world}/text/plays/*.txt", *SMALL, "-o", world / "crossed")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    write = harvesting.StoreWriter.write

    def counted(self: Any, shard: int, rows: Any) -> None:
        passes.append(self.path.name)
        write(self, shard, rows)

    with pytest.MonkeyPatch.context() as counting:
        counting.setattr(harvesting.StoreWriter, "write", counted)
        counting.setattr(following.track, "Processes", Serial)  # the crosscoder itself is trained in its own
        for more, name in (((), "train_saes"), (("--resume",), None)):
            with pytest.MonkeyPatch.context() as patched:
                if name:
                    patched.setattr(following.track, name, stop)
                else:
                    patched.setattr(crosscoder, "encode_members", stop)
                assert track(world, *arguments, *more)[0] == 130
        code, _, said = track(world, *arguments, "--resume")
        assert code == 0, said
    return world / "crossed"


def table(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "tables" / f"{name}.parquet")


def test_every_table_is_made_and_the_page_has_its_section(crossed: Path) -> None:
    assert load_sae(crossed / "saes" / "crosscoder").variant == Crosscoder(
        d_sae=96, k=3, members=("base", "near")
    )
    latents = table(crossed, "crosscoder")
    assert latents.height == 96
    assert latents["relative_norm"].struct.fields == ["base", "near"]
    assert table(crossed, "crosscoder_quality")["member"].to_list() == ["base", "near"]
    assert table(crossed, "crosscoder_quality")["ce_recovered"].null_count() == 0
    (edge,) = table(crossed, "crosscoder_edges").to_dicts()
    assert (edge["parent"], edge["child"], edge["pairs"]) == ("base", "near", 4)
    pairs = table(crossed, "crosscoder_pairs")
    assert (pairs["floor"] <= pairs["paired"]).all()
    judged = table(crossed, "edges")
    counts = table(crossed, "crosscoder_meeting").group_by("member").agg(pl.col("count").sum() / 4)
    assert dict(counts.iter_rows()) == {"base": judged["n_parent"][0], "near": judged["n_child"][0]}
    page = (crossed / "report.html").read_text()
    assert '<section id="crosscoder"' in page
    findings = table(crossed, "findings").filter(section="crosscoder")["text"]
    assert findings[0].startswith("A crosscoder over both members leaves")


def test_a_sparser_crosscoder_is_warned_of_where_its_numbers_are(crossed: Path) -> None:
    (line,) = table(crossed, "warnings").filter(section="crosscoder")["text"]
    assert line.startswith("crosscoder beside SAEs: L0 ")
    assert "(the crosscoder) and 8.0 (" in line
    assert line in (crossed / "report.html").read_text()


def test_no_activation_is_harvested_twice_nor_left(crossed: Path, passes: list[str]) -> None:
    # the members' own, what is held out for quality, and the shared text
    assert sorted(passes) == ["base", "base-shared", "member-0", "member-1", "near", "near-shared"]
    assert not [path for path in (crossed / "activations").rglob("*") if path.is_file()]
    assert not list((crossed / "work").iterdir())


def test_made_anew_the_tables_are_the_same(crossed: Path, tmp_path: Path) -> None:
    """From the crosscoder's weights on: measured, encoded, judged and compared again, by hand."""
    shutil.copytree(crossed, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for stage in ("crosscoder quality", "crosscoder latents"):
        del record["stages"][stage]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    shutil.rmtree(tmp_path / "run" / "codes" / "crosscoder")
    run = Run.open(
        tmp_path / "run", command="track", config=record["config"], seed=record["seed"], resume=True
    )
    config = settings_of.build(record["config"])
    subject = Subject(config, Family.load(tmp_path / "run" / "family"), ("plays",))
    streams = _streams(tmp_path / "run" / "text")
    crosscoder.judge(run, subject, streams, device="cpu", say=lambda _: None)
    found = codes_of(run, subject, streams, device="cpu")
    members = {name: found[name, "topk"] for name in subject.members}
    lineage = Lineage(members, [("base", "near")], streams.shared, config.lineage, seed=run.seed)
    for name, made in crosscoder.edges(run, subject, lineage).items():
        assert_frame_equal(made, table(crossed, name), check_exact=True)
    for name in ("crosscoder", "crosscoder_quality"):
        assert_frame_equal(run.table(name), table(crossed, name), check_exact=True)


@pytest.mark.parametrize("stop_at", [60, 150])
def test_a_training_that_is_killed_ends_with_the_same_bits(
    tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_track import store

    def job(name: str) -> CrosscoderJob:
        return CrosscoderJob(
            kind=Crosscoder(d_sae=24, k=3, members=("m", "n")), stores=(stores[0], stores[1]), stream=7, device="cpu",
            training=crosscoder.Training(tokens=64 * 200, batch_tokens=64, checkpoint_every=40),
            out=str(tmp_path / name), checkpoint=str(tmp_path / f"{name}.safetensors"),
        )  # fmt: skip

    stores = [store(tmp_path / f"store-{member}") for member in "mn"]
    meta = Path(stores[1]) / "meta.json"
    meta.write_bytes(msgspec.json.encode(msgspec.json.decode(meta.read_bytes()) | {"member": "n"}))
    monkeypatch.setattr(diary, "EVERY", 10)
    whole = train_one(job("whole"))
    write = diary.write_bytes

    def interrupted(path: Path, data: bytes) -> None:
        write(path, data)
        if msgspec.json.decode(data)[-1]["step"] == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(diary, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_one(job("broken"))
    monkeypatch.setattr(diary, "write_bytes", write)
    assert train_one(job("broken")) == whole
    weights = [(tmp_path / name / "sae_weights.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_a_dry_run_counts_it(world: Path, family: Path, tmp_path: Path) -> None:
    common = (family, "--data", world / "text" / "plays", *SETTINGS, "-o", tmp_path / "x", "--dry-run")
    plain, with_it = (track(world, *common, *more)[1] for more in ((), ("--crosscoder",)))
    assert (plain["crosscoder"], with_it["crosscoder"]) == (0, 96)
    assert with_it["train_flops"] - plain["train_flops"] == 2 * 2 * 48 * 96 * 20_000
    assert with_it["harvest_flops"] > plain["harvest_flops"]
    assert with_it["firing_pairs"] > plain["firing_pairs"]
    more = with_it["disk_bytes"]["SAEs"] - plain["disk_bytes"]["SAEs"]
    assert more == 4 * (2 * 2 * 48 * 96 + 2 * 96 + 2 * 48)
    assert with_it["disk_bytes"]["activations to compare on"] == 2 * 2000 * 48 * 2


def test_strangers_share_no_crosscoder(world: Path, tmp_path: Path) -> None:
    members = [
        Member(name="base", path=str(world / "lm" / "base")),
        Member(name="near", path=str(world / "lm" / "near"), parents=("base",)),
        Member(name="far", path=str(world / "lm" / "far")),
    ]
    family = Family("three", members, tmp_path)
    with pytest.raises(MismatchError, match="base and far are not related"):
        check_related(family)
    check_related(Family("two", members[:2], tmp_path))
    family.save(tmp_path / "family.toml")
    code, _, said = track(world, tmp_path, "--data", world / "text" / "plays", *SMALL, "-o", tmp_path / "x")
    assert (code, "not related" in said) == (3, True)
    code, _, said = track(
        world, world / "pair", "--data", world / "text" / "plays", *SETTINGS, "--set", "crosscoder.k=3"
    )
    assert (code, "no such setting" in said) == (2, True)
    code, _, said = track(
        world, world / "pair", "--data", world / "text" / "plays", *SMALL, "--set", "crosscoder.q=3"
    )
    assert (code, "unknown field 'q'" in said) == (2, True)


def _streams(folder: Path) -> Streams:
    from heredity.corpora import TokenStream

    opened = {name: TokenStream.open(folder / name) for name in ("train", "validation", "test", "shared")}
    return Streams(**opened, tokenizer=folder / "tokenizer")
