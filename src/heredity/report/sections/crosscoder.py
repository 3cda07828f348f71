"""What a crosscoder over all members says of each edge, beside what correlation says."""

from typing import Any

import polars as pl

from heredity.report import crosscoder_figures, share_figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan(
    "crosscoder", "What a crosscoder says",
    ("crosscoder", "crosscoder_quality", "crosscoder_edges", "crosscoder_meeting", "crosscoder_pairs"),
)  # fmt: skip

WORDS = ("both", "parent only", "child only", "graded", "other", "unpaired")
_OTHER = ("neither", "shrunk", "decoupled", "rare", "dead")
_LACKS, _HAS = 0.2, 0.8  # as the table's verdicts are made
_EXPECTED = {"persists": "both", "disappears": "parent only", "emerges": "child only"}


def values(view: View) -> dict[str, Any]:
    """Give its quality, whose its latents are, and how its words meet correlation's on every edge."""
    table, edges = view.table("crosscoder"), view.table("crosscoder_edges")
    judged = table.filter(~pl.col("verdict").is_in(["rare", "dead"]))
    return {
        "members": _members(view),
        "latents": table.height,
        "judged": judged.height,
        "silent": {name: table.filter(verdict=name).height for name in ("rare", "dead")},
        "verdicts": _verdicts(judged),
        "edges": [{**edge, "ends": _ends(view, edge["parent"], edge["child"])} for edge in edges.to_dicts()],
        "pairs": view.table("crosscoder_pairs").to_dicts(),
        "expected": _EXPECTED,
        "words": WORDS,
        "tau": view.tau,
        "colours": view.colours,
        "warnings": view.warnings(PLAN.anchor),
        "without_kappa": edges.filter(pl.col("kappa").is_null()).height,
        "figure_": _agreement(edges),
        "divided": [
            _divided(judged, place, *edge)
            for place, edge in enumerate(edges.select("parent", "child").iter_rows())
        ],
    }


def _members(view: View) -> list[dict[str, Any]]:
    """Return the crosscoder's quality in every member, with the mean of the member's own SAEs beside it."""
    quality = view.table("crosscoder_quality")
    if not view.has("saes"):
        return quality.with_columns(own_l0=None, own_fvu=None, own_ce=None).to_dicts()
    own = (
        view.table("saes")
        .filter(variant=view.variant)
        .group_by("member")
        .agg(own_l0=pl.col("l0").mean(), own_fvu=pl.col("fvu").mean(), own_ce=pl.col("ce_recovered").mean())
    )
    return quality.join(own, on="member", how="left", maintain_order="left").to_dicts()


def _verdicts(judged: pl.DataFrame) -> list[dict[str, Any]]:
    """Count latents by verdict, the exclusive ones by whose they are; the most frequent first."""
    owners = (
        pl.when(pl.col("verdict") == "exclusive")
        .then(pl.col("owners"))
        .otherwise(pl.lit([], pl.List(pl.String)))
    )
    counts = judged.group_by("verdict", owners=owners, maintain_order=True).len("count")
    order = {
        name: place for place, name in enumerate(("shared", "exclusive", "graded", "shrunk", "decoupled"))
    }
    rank = pl.col("verdict").replace_strict(order, default=len(order))
    return (
        counts.sort(rank, -pl.col("count").cast(pl.Int64), maintain_order=True)
        .with_columns(share=pl.col("count") / max(1, judged.height))
        .to_dicts()
    )


def _ends(view: View, parent: str, child: str) -> list[dict[str, Any]]:
    """Return, for each end and word of correlation, how many latents it has (mean over pairs of seeds) and the
    crosscoder's words on them, as shares."""
    table = view.table("crosscoder_meeting").filter(parent=parent, child=child)
    pairs = table.select("seed_parent", "seed_child").n_unique()
    table = table.with_columns(
        crosscoder=pl.when(pl.col("crosscoder").is_in(_OTHER)).then(pl.lit("other")).otherwise("crosscoder")
    )
    ends = []
    for member in (parent, child):
        rows = []
        for word in ("persists", "disappears", "emerges", "undecided"):
            own = table.filter(member=member, correlation=word)
            whole = int(own["count"].sum())
            if whole:
                count = dict(own.group_by("crosscoder").agg(pl.col("count").sum()).iter_rows())
                shares = {name: count.get(name, 0) / whole for name in WORDS}
                rows.append({"correlation": word, "count": whole / pairs, "shares": shares})
        ends.append({"member": member, "rows": rows})
    return ends


def _agreement(edges: pl.DataFrame) -> Figure | None:
    """Draw agreement beside chance, where it can be told from it."""
    known = edges.drop_nulls("kappa")
    if not known.height:
        return None
    rows = known.select(
        row=pl.col("parent") + " → " + pl.col("child"), series=pl.lit("both methods decide and agree"), value="agree",
        low="agree_low", high="agree_high", floor="chance", floor_low="chance", floor_high="chance_p95",
    )  # fmt: skip
    return Figure(
        name="crosscoder-agreement",
        plot=share_figures.between(
            rows, x="latents on which both methods say the same, %", chance="shuffled partners"
        ),
        caption="Of the latents on which both methods decide, the share on which they say the same, beside what it "
        "would be with partners shuffled among each SAE's latents (its bar ends at the 95th percentile); bars are "
        "95 % intervals over latents drawn anew.",
        numbers=edges,
        height=share_figures.height(known.height, 1),
    )


def _divided(judged: pl.DataFrame, place: int, parent: str, child: str) -> Figure:
    counts = crosscoder_figures.divided(judged, parent, child)
    return Figure(
        name=f"crosscoder-norms-{place}",
        plot=crosscoder_figures.norm_histogram(counts, parent, child, (_LACKS, _HAS)),
        caption=f"{parent} → {child}: the crosscoder's latents by how their decoder is divided between the two; dotted "
        "lines bound what only one end has, and what both have.",
        numbers=counts,
        height=280,
    )
