"""A page for every feature: JavaScript files beside the report, loaded when they are asked for.

features/index.js     what is searched: of every latent its firings, tokens, words, and what became of it
features/M-N.js       the N-th 128 latents of member M: contexts, ancestors and descendants, statistics

A report of 65,536 latents so opens as fast as one of none. The files hold data alone, as JSON in one call each.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from heredity.atomic import replacing_folder, write_bytes
from heredity.report.view import View

CHUNK = 128
NEEDS = ("latents", "contexts", "matches", "edges")
FATES = {"persists": "p", "disappears": "g", "emerges": "g", "undecided": "u"}
_TOKENS, _CONTEXTS, _PARTNERS = 6, 5, 3


def write_feature_files(view: View, folder: Path) -> int:
    """Write the folder `features` anew, whole or not at all; nothing while the run has no features.

    Args:
        view: the run.
        folder: of the report.

    Returns:
        How many latents have a page.
    """
    if not view.has(*NEEDS):
        return 0
    members = [_Member(view, number, name) for number, name in enumerate(view.members)]
    with replacing_folder(folder / "features") as temporary:
        index = {
            "tau": view.tau, "chunk": CHUNK, "domains": members[0].domains,
            "members": [member.index() for member in members],
        }  # fmt: skip
        write_bytes(temporary / "index.js", _call("index", index))
        for member in members:
            for chunk, latents in enumerate(member.chunks()):
                write_bytes(
                    temporary / f"{member.number}-{chunk}.js", _call("chunk", [member.number, chunk, latents])
                )
    return sum(member.n_pages for member in members)


class _Member:
    """One member's first SAE, every table of it turned into lists by latent."""

    def __init__(self, view: View, number: int, name: str) -> None:
        self.view, self.number, self.name = view, number, name
        own = view.table("latents").filter(pl.col("member") == name)
        self.seed = own["seed"].min() if own.height else 0
        self.latents = own.filter(pl.col("seed") == self.seed).sort("latent")
        self.domains = list(self.latents["domains"][0]) if self.latents.height else []
        self.parents = view.parents.get(name, [])
        self.children = [child for child in view.members if name in view.parents.get(child, [])]
        self.explained = _by_latent(self._own("explanations"), ("explainer", "rule", "score", "null_score"))
        self.found_by = dict(self._pairs_of("consensus_latents", "found_by"))
        agreed = self._own("consensus")
        self.n_seeds = 1 if agreed is None else max(agreed["n_seeds"].to_list())
        self.costs = self._costs()
        self.up = {parent: self._partners(parent, name) for parent in self.parents}
        self.down = {child: self._partners(name, child) for child in self.children}

    @property
    def n_pages(self) -> int:
        """Latents that fire."""
        return int((self.latents["firings"] > 0).sum())

    def index(self) -> dict[str, Any]:
        """Give what is searched, one list per field."""
        size = range(self.latents.height)
        rules = [self.explained.get(latent, [("", "", None, None)])[0] for latent in size]
        return {
            "name": self.name,
            "colour": self.view.colours[self.name],
            "parents": self.parents,
            "children": self.children,
            "firings": self.latents["firings"].to_list(),
            "interest": _rounded(self.latents["interest"], 3) if "interest" in self.latents.columns else None,
            "tokens": [tokens[:_TOKENS] for tokens in self.latents["top_tokens"].to_list()],
            "rules": [rule or "" for _, rule, _, _ in rules],
            "scores": [None if score is None else round(score, 2) for _, _, score, _ in rules],
            "up": {name: _fates(partners, len(size)) for name, partners in self.up.items()},
            "down": {name: _fates(partners, len(size)) for name, partners in self.down.items()},
            "universal": self._universal(),
            "agreed": sorted(self.found_by),
            "seeds": self.n_seeds,
        }

    def chunks(self) -> Iterable[list[dict[str, Any]]]:
        """Give the pages, a chunk of latents at a time."""
        columns = ("latent", "firings", "firing_rate", "rare", "mean_activation", "domain_share")
        rows = self.latents.select(columns).rows()
        contexts, said = self._contexts(), self.explained
        statistics = _by_latent(
            self._own("latent_statistics"), ("rate_tokens", "rates", "context_excess", "context_position")
        )
        effects = _by_latent(
            self._own("effects"), ("promoted", "suppressed", "observed", "observed_null_high")
        )
        for start in range(0, len(rows), CHUNK):
            yield [
                {
                    "l": latent, "n": firings, "rate": _short(rate), "rare": rare, "mean": _short(mean),
                    "domains": [_short(share) for share in shares],
                    "contexts": contexts.get(latent, []),
                    "says": [[who, rule, *map(_short, scores)] for who, rule, *scores in said.get(latent, [])],
                    "sure": [_pairs(tokens, often) for tokens, often, _, _ in statistics.get(latent, [])[:1]],
                    "place": [[*map(_short, rest)] for _, _, *rest in statistics.get(latent, [])[:1]],
                    "next": [
                        [(up or [])[:_TOKENS], (down or [])[:_TOKENS], *map(_short, rest)]
                        for up, down, *rest in effects.get(latent, [])[:1]
                    ],
                    "found_by": self.found_by.get(latent), "cost": self.costs.get(latent),
                    "up": {name: found.get(latent, []) for name, found in self.up.items()},
                    "down": {name: found.get(latent, []) for name, found in self.down.items()},
                }
                for latent, firings, rate, rare, mean, shares in rows[start : start + CHUNK]
            ]  # fmt: skip

    def _own(self, name: str) -> pl.DataFrame | None:
        """Return the rows of a table that are of this SAE, or nothing while it is not made."""
        if not self.view.has(name):
            return None
        table = self.view.table(name).filter(pl.col("member") == self.name)
        return table.filter(pl.col("seed") == self.seed) if "seed" in table.columns else table

    def _pairs_of(self, name: str, column: str) -> list[tuple[int, Any]]:
        """Return (latent, value of the column) of a table's rows that are of this SAE."""
        own = self._own(name)
        return [] if own is None else list(own.select("latent", column).iter_rows())

    def _costs(self) -> dict[int, tuple[Any, ...]]:
        """Return what the removal of single latents costs over all domains: nats per token, with its interval."""
        own = self._own("ablation")
        if own is None:
            return {}
        whole = own.filter(kind="latent", domain="all").select("latent", "loss_change", "low", "high")
        return {latent: tuple(map(_short, cost)) for latent, *cost in whole.iter_rows()}

    def _universal(self) -> list[int]:
        own = self._own("universal")
        return [] if own is None else own["latent"].to_list()

    def _partners(self, parent: str, child: str) -> dict[int, list[tuple[Any, ...]]]:
        """Return, of each judged latent, (partner, r, joint firings, fate letter) of its best partners."""
        side, other = ("child", "parent") if child == self.name else ("parent", "child")
        table = self.view.table("matches").filter(pl.col("parent") == parent, pl.col("child") == child)
        first = [pl.col(name) == pl.col(name).min() for name in ("seed_parent", "seed_child")]
        table = table.filter(*first).filter(pl.col("rank") < _PARTNERS)
        if "side" in table.columns:
            table = table.filter(pl.col("side") == side)
        columns = [f"latent_{side}", f"latent_{other}", "r", "joint_firings", "verdict"]
        found: dict[int, list[tuple[Any, ...]]] = {}
        for own, partner, r, joint, verdict in table.sort(columns[0], "rank").select(columns).iter_rows():
            if own is not None and partner is not None:
                found.setdefault(own, []).append((partner, _short(r), joint, FATES.get(verdict, "u")))
        return found

    def _contexts(self) -> dict[int, list[tuple[Any, ...]]]:
        """Return, of each latent, (number of the domain, document, tokens, places and heights of firings by turns)."""
        own = self._own("contexts")
        if own is None:
            return {}
        domains = {name: place for place, name in enumerate(self.domains)}
        found: dict[int, list[tuple[Any, ...]]] = {}
        columns = ("latent", "domain", "document", "tokens", "activations")
        for latent, domain, document, tokens, heights in (
            own.sort("latent", "rank").select(columns).iter_rows()
        ):
            rows = found.setdefault(latent, [])
            if len(rows) < _CONTEXTS:
                fires = [
                    x for place, height in enumerate(heights) if height > 0 for x in (place, _short(height))
                ]
                rows.append((domains.get(domain, 0), document, tokens, fires))
        return found


def _by_latent(table: pl.DataFrame | None, columns: tuple[str, ...]) -> dict[int, list[tuple[Any, ...]]]:
    """Group the rows of a table by latent; a column that it does not have is null."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    if table is None:
        return found
    there = [pl.col(name) if name in table.columns else pl.lit(None).alias(name) for name in columns]
    for latent, *values in table.select("latent", *there).iter_rows():
        found.setdefault(latent, []).append(tuple(values))
    return found


def _fates(partners: Mapping[int, list[tuple[Any, ...]]], size: int) -> dict[str, Any]:
    """Return one letter per latent (- where it was not judged), and r of the best partner in hundredths."""
    letters = ["-"] * size
    best = [0] * size
    for latent, rows in partners.items():
        letters[latent] = rows[0][3]
        best[latent] = round(100 * max((r or 0.0) for _, r, _, _ in rows))
    return {"fate": "".join(letters), "r": best}


def _pairs(tokens: list[str] | None, shares: list[float] | None) -> list[tuple[str, Any]]:
    return [(token, _short(share)) for token, share in zip(tokens or [], shares or [], strict=False)][
        :_TOKENS
    ]


def _rounded(column: pl.Series, digits: int) -> list[float]:
    return column.round(digits).to_list()


def _short(value: Any) -> Any:
    """Round a number to three significant digits: what a page shows."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.3g}") if value == value else None  # NaN is nothing


def _call(name: str, data: Any) -> bytes:
    return b"heredity." + name.encode() + b"(" + msgspec.json.encode(data) + b");\n"
