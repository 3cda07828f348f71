"""The features themselves: universal ones, and the most interesting of every edge, with their contexts."""

from typing import Any

import polars as pl

from heredity.report.feature_files import NEEDS
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("features", "The features", ("highlights",), "the chosen features and their contexts")

SHOWN = 10
_KINDS = ("persists", "emerges", "disappears")


def values(view: View) -> dict[str, Any]:
    """Give the cards of the universal features and of every edge, in the order of rank."""
    cards = _Cards(view)
    table = view.table("highlights").sort("rank", maintain_order=True)
    universal = table.filter(kind="universal").unique(["member", "latent"], keep="first", maintain_order=True)
    return {
        "universal": [cards.card(row) for row in universal.head(SHOWN).iter_rows(named=True)],
        "universal_count": view.table("universal")["index"].n_unique() if view.has("universal") else None,
        "n_members": len(view.members),
        "tau": view.tau,
        "paged": view.has(*NEEDS),
        "edges": [edge for edge in _edges(table, cards) if edge["cards"]],
        "colours": view.colours,
    }


def _edges(table: pl.DataFrame, cards: "_Cards") -> list[dict[str, Any]]:
    rest = table.filter(pl.col("kind") != "universal")
    return [
        {"parent": parent, "child": child, "cards": [cards.card(row) for row in _fair(rows)]}
        for (parent, child), rows in rest.group_by("edge_parent", "edge_child", maintain_order=True)
    ]


def _fair(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Take the ten of an edge in turn from each kind, so that none fills the list; then sort by kind."""
    turn = pl.int_range(pl.len()).over("kind")
    chosen = rows.with_columns(_turn=turn).sort("_turn", maintain_order=True).head(SHOWN)
    order = {kind: place for place, kind in enumerate(_KINDS)}
    return sorted(chosen.to_dicts(), key=lambda row: (order.get(row["kind"], len(order)), row["rank"]))


class _Cards:
    """Everything that is known of a latent, looked up by member, latent and, where given, seed."""

    def __init__(self, view: View) -> None:
        self._latents = _by_latent(view, "latents")
        self._contexts = _by_latent(view, "contexts")
        self._explanations = _by_latent(view, "explanations")

    def card(self, row: dict[str, Any]) -> dict[str, Any]:
        """Give a highlight with its own and its partner's latent."""
        seed, partner_seed = row.get("seed"), row.get("partner_seed")
        partner = row["partner_member"]
        return {
            **row,
            "own": self._latent(row["member"], row["latent"], seed),
            "partner": self._latent(partner, row["partner_latent"], partner_seed)
            if partner is not None
            else None,
        }

    def _latent(self, member: str, latent: int, seed: int | None) -> dict[str, Any]:
        contexts = sorted(_pick(self._contexts, member, latent, seed), key=lambda row: row["rank"])
        strongest = max((max(row["activations"], default=0.0) for row in contexts), default=0.0)
        facts = _pick(self._latents, member, latent, seed)
        explanation = _pick(self._explanations, member, latent, seed)
        return {
            "member": member, "latent": latent, "seed": facts[0]["seed"] if facts else seed,
            "contexts": contexts, "strongest": strongest,
            "firing_rate": facts[0]["firing_rate"] if facts else None,
            "top_tokens": list(dict.fromkeys(facts[0]["top_tokens"])) if facts else [],
            "explanation": explanation[0] if explanation else None,
        }  # fmt: skip


def _by_latent(view: View, name: str) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    if not view.has(name):
        return found
    for row in _only_shown(view, view.table(name)).iter_rows(named=True):
        found.setdefault((row["member"], row["latent"]), []).append(row)
    return found


def _only_shown(view: View, table: pl.DataFrame) -> pl.DataFrame:
    """Keep the latents of the highlights: a table of all latents is long, and Python rows of it slow."""
    highlights = view.table("highlights")
    own = highlights.select("member", "latent")
    partners = highlights.select(member="partner_member", latent="partner_latent").drop_nulls()
    shown = {*own.iter_rows(), *partners.iter_rows()}
    keys = pl.DataFrame(sorted(shown), {"member": pl.String, "latent": table.schema["latent"]}, orient="row")
    return table.join(keys, on=["member", "latent"], how="semi", maintain_order="left")


def _pick(
    found: dict[tuple[str, int], list[dict[str, Any]]], member: str, latent: int, seed: int | None
) -> list[dict[str, Any]]:
    """Return a latent's rows of one seed: the one asked for, or the first that has any."""
    rows = found.get((member, latent), [])
    if not rows or "seed" not in rows[0]:
        return rows
    wanted = rows[0]["seed"] if seed is None else seed
    return [row for row in rows if row["seed"] == wanted]
