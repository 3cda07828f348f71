"""SAEs of any kind are followed, and such as begin at their parent's: through models that are there already."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feature_pico import DOMAINS, config
from polars.testing import assert_frame_equal
from test_tracking import SETTINGS, table, track, world  # noqa: F401

from heredity.errors import ConfigError
from heredity.execute import Serial
from heredity.family import Family
from heredity.features.codes import Codes
from heredity.features.sae import load
from heredity.studies.features import jobs
from heredity.studies.features import track as stage
from heredity.studies.features.config import with_values
from heredity.studies.features.jobs import SaeJob

QUICK = [*SETTINGS, "--set", "sae.tokens=12000", "--set", "explain=0"]
Follow = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    """Train one SAE after the other here: new processes cost more than training does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage, "Processes", lambda jobs: Serial())
        yield


@pytest.fixture(scope="module")
def follow(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Follow:  # noqa: F811
    """Track two members of the family, or all."""
    folder = tmp_path_factory.mktemp("kinds")
    family = Family.load(world / "lm")
    two = [family.member(name) for name in ("base", "near")]
    Family("two", two, world / "lm").save(world / "lm" / "near.toml")
    data = [part for d in DOMAINS[:2] for part in ("--data", f"{d}=text:{world}/text/{d}/*.txt")]

    def run(name: str, *arguments: str, family: str = "near", code: int = 0, said: str = "") -> Path:
        file = world / "lm" / f"{family}.toml"
        found, _, text = track(world, file, *data, *QUICK, *arguments, "-o", folder / name)
        assert found == (1 if said else code), text
        assert said in text
        return folder / name

    return run


@pytest.fixture(scope="module")
def warm(follow: Follow) -> Path:
    """All members, each SAE begun at the parent's; interrupted after the first generation, and resumed."""
    whole = jobs.generations

    def first(waiting: list[SaeJob]) -> Iterator[list[SaeJob]]:
        yield next(iter(whole(waiting)))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage, "generations", first)
        out = follow("warm", "--init", "parent", family="family", code=130)
    assert sorted(p.parent.name for p in out.glob("saes/*/history.json")) == ["base-topk-0", "base-topk-1"]
    return follow("warm", "--init", "parent", "--resume", family="family")


def test_latents_keep_their_index_from_parent_to_child(warm: Path) -> None:
    rows = table(warm, "identity")
    assert rows.select("parent", "child", "through").unique(maintain_order=True).rows() == [
        ("base", "near", "base"), ("base", "far", "base"), ("near", "both", "near"), ("far", "both", "base"),
    ]  # fmt: skip
    near, far = (rows.filter(parent="base", child=name) for name in ("near", "far"))
    assert near["kept"].min() > 0.5  # type: ignore[operator]
    assert near["best_at_index"].min() > 0.8  # type: ignore[operator]
    assert far["kept"].max() < near["kept"].min()  # type: ignore[operator]
    assert rows["kept_null"].max() < 0.05  # type: ignore[operator]
    assert near["kept_control"].min() >= near["kept"].max() - 0.2  # type: ignore[operator]
    assert rows.filter(parent="far")["kept_control"].is_null().all()
    assert (
        table(warm, "identity_latents").filter(parent="base", child="near", seed=0)["kept"].mean()
        == near["kept"][0]
    )


def test_shares_are_of_seeds_without_a_common_start(warm: Path) -> None:
    edges = table(warm, "edges")
    assert edges["n_seed_pairs"].to_list() == [2] * 4
    matches = table(warm, "matches").filter(parent="base", child="near", side="parent", rank=0)
    share = {
        pair: (rows["verdict"] == "persists").mean()
        for pair, rows in matches.group_by("seed_parent", "seed_child")
    }
    assert edges["persist"][0] == pytest.approx((share[0, 1] + share[1, 0]) / 2)  # type: ignore[operator]
    assert share[0, 0] > 1.5 * edges["persist"][0]  # type: ignore[operator]
    warnings = table(warm, "warnings").filter(section="persistence")["text"].to_list()
    assert warnings[0].startswith("Each child's SAEs begin at its parent's")


def test_the_page_and_the_findings_say_that_starts_are_shared(warm: Path) -> None:
    page, said = (warm / "report.html").read_text(), table(warm, "findings")
    assert "What became of each latent" in page
    assert "no evidence of inheritance" in page.split('id="persistence"')[1].split("</section>")[0]
    assert said.filter(section="persistence")["text"].str.contains("in an SAE of another seed").head(4).all()
    assert said.filter(section="identity")["text"].str.contains("base → near").any()
    assert "each child's begun at its parent's" in said["text"][-1]


def test_records_name_the_sae_that_one_began_with(warm: Path) -> None:
    saes = [row for row in table(warm, "saes").iter_rows(named=True) if row["init"]]
    assert len(saes) == 3 * 2 + 2 * 2  # children, and what the starts of children are held against
    for row in saes:
        start, digest = row["init"].split(" ")
        made = load(warm / "saes" / f"{row['member']}-{row['variant']}-{row['seed']}")
        assert made.metadata["init"]["digest"] == digest
        assert start.endswith(f"-topk-{row['seed']}")
    begun = {(row["member"], row["variant"]): row["init"].split("-")[0] for row in saes}
    assert begun[("both", "topk")] == "near"  # the parent that the family names first
    assert begun[("base", "topk-again")] == "base"
    first = load(warm / "saes" / "base-topk-0")
    assert "init" not in first.metadata


def test_an_undisturbed_run_has_the_same_tables(warm: Path, follow: Follow) -> None:
    again = follow("again", "--init", "parent", family="family")
    names = sorted(file.stem for file in (warm / "tables").glob("*.parquet"))
    assert names == sorted(file.stem for file in (again / "tables").glob("*.parquet"))
    for name in names:
        assert_frame_equal(table(warm, name), table(again, name), check_exact=True)


KINDS = {
    "batchtopk": ["sae.k=8"],
    "jumprelu": ["sae.options.l0=0.5"],
    "l1": ["sae.options.l1=1.0", "sae.init=parent"],
    "gated": ["sae.options.l1=0.5", "sae.seeds=3", "lineage.tau=0.4"],
}


@pytest.mark.parametrize("variant", KINDS)
def test_any_kind_is_followed_to_the_page(follow: Follow, variant: str) -> None:
    changes = [part for one in (f"sae.variant={variant}", *KINDS[variant]) for part in ("--set", one)]
    out = follow(variant, *changes)
    seeds = 3 if variant == "gated" else 2
    names = {f"{member}-{variant}-{seed}" for member in ("base", "near") for seed in range(seeds)}
    warm = "sae.init=parent" in KINDS[variant]
    names |= {f"base-{variant}-again-{seed}" for seed in range(seeds)} if warm else set()
    dictionaries = {file.parent.name for file in out.glob("saes/*/cfg.json")}
    assert names == {name for name in dictionaries if not name.endswith("-consensus")}
    assert {file.parent.name for file in out.glob("codes/*/meta.json")} == names
    saes, edges = table(out, "saes"), table(out, "edges")
    assert saes["variant"].unique(maintain_order=True).to_list() == [variant, f"{variant}-again"][: 1 + warm]
    assert saes["k"].is_null().all()
    assert table(out, "sae_curve").is_empty()
    assert edges["floor"][0] <= edges["persist"][0] < 1
    assert edges["l0_parent"][0] == pytest.approx(saes.filter(member="base")["l0"].mean(), rel=0.3)
    if warm:
        assert table(out, "identity")["kept"].min() > 10 * table(out, "identity")["kept_null"].max() + 0.1  # type: ignore[operator]
    else:
        assert not (out / "tables" / "identity.parquet").exists()
    page = (out / "report.html").read_text()
    # A penalty sparsifies for as long as it is trained with: the SAEs begun at the base's have a lower L0.
    l0 = [Codes.open(out / "codes" / name).l0 for name in sorted(names) if "again" not in name]
    assert (max(l0) > 1.2 * min(l0)) == (variant == "l1")
    shares = page.split('id="persistence"')[1].split("</section>")[0]
    assert ("differ by more than 20 %, compare with care." in shares) == (variant == "l1")
    findings = " ".join(table(out, "findings").filter(section="persistence")["text"])
    assert ("To be read with care: L0 is" in findings) == (variant == "l1")
    assert "TopK SAEs" not in page.replace("BatchTopK SAEs", "") or "only a TopK SAE" in page
    assert "curve over L0" not in page
    said = " ".join(table(out, "warnings")["text"])
    assert ("not saved as an SAE, Gated SAEs cannot be" in said) == (variant == "gated")


def test_what_is_trained_on_is_in_the_estimate(follow: Follow, world: Path) -> None:  # noqa: F811
    data = ("--data", world / "text" / "plays")
    cold, made = (
        track(world, world / "lm", *data, *QUICK, *more, "--dry-run")[1]
        for more in ((), ("--init", "parent"))
    )
    assert (cold["saes"], made["saes"]) == (8, 12)
    assert made["train_flops"] == pytest.approx(1.5 * cold["train_flops"])


def test_sparse_saes_that_hardly_fire_are_refused(follow: Follow) -> None:
    # The guess at L0 (k of a kind that has none) lets the run begin; what the SAEs do then stops it.
    changes = (
        "sae.variant=l1",
        "sae.options.l1=1.0",
        "sae.k=96",
        "lineage.min_firings=3960",
        "lineage.min_joint=1",
    )
    follow("dead", *(part for one in changes for part in ("--set", one)), said="no latent fires 3960 times")


def test_less_text_than_a_batch_is_refused(follow: Follow) -> None:
    out = follow("small", "--set", "sae.batch_tokens=100000", said="fewer than one batch of 100,000")
    assert not list(out.glob("activations/*/*.bin"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("sae.variant=l1", "sae.options.l1=2.0"), r"sae\.l1 is an L1 SAE beside .* - at \$\.sae\.l1"),
        (("sae.variant=jumprelu",), r"jumprelu: missing field 'l0' - at \$\.sae\.options"),
        (("sae.variant=gated", "sae.options.l1=-1"), r"gated: .* >= 0\.0 - at \$\.sae\.options\.l1"),
        (("sae.options.k=3",), r"k is sae\.k - at \$\.sae\.options"),
        (("sae.options.d_sae=3",), r"d_sae is sae\.latents - at \$\.sae\.options"),
        (("sae.options.bandwidth=3",), r"topk: unknown field 'bandwidth' - at \$\.sae\.options"),
        (("sae.variant=crosscoder",), r"'crosscoder' - at '?\$\.sae\.variant"),
        (("sae.init=base",), r"'base' - at '?\$\.sae\.init"),
    ],
)
def test_settings_that_do_not_fit_the_kind_are_refused(changes: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_values(config(), changes)


def test_the_l1_sae_for_comparison_is_taken_out_by_an_empty_value() -> None:
    made = with_values(config(), ("sae.variant=l1", "sae.options.l1=2.0", "sae.l1="))
    assert made.sae.l1 is None
    assert made.sae.kind.penalty == 2.0
    assert with_values(config(), ("sae.variant=batchtopk",)).sae.kind.k == made.sae.k  # type: ignore[attr-defined]
