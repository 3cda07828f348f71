"""Which checkpoint, or which mean of them, should the next fine-tune start from?

Recall: one representative of each cluster, and the few candidates that belong to none, are scored by a cheap proxy
on a sample of the task's training rows: the generalised loss (for a language model, the loss as it stands). The
members of the best clusters follow. Then successive halving: the best go through real fine-tunes at a share of the
budget, the better half goes on, until one is tuned in full.

Source: arXiv 2404.00069 (coarse recall, fine selection); Jamieson & Talwalkar 2016 (successive halving); the centre
as a start is that of arXiv 2302.04863.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from heredity.errors import ConfigError, StoreError
from heredity.models.batches import EncodedTask, context_of, encode_task
from heredity.models.tuning import FineTuning
from heredity.regions.candidates import Candidate, representatives
from heredity.regions.evaluations import Score
from heredity.regions.ground import Ground
from heredity.regions.metrics import AsItStands, Generalised, Metric
from heredity.regions.tuned import AfterTuning
from heredity.seeds import generator

Count = Annotated[int, Meta(ge=1)]
_FEWEST = 8  # rows of a proxy: half fit a head, a quarter choose it, a quarter score it
_TRAINING = 3  # a training row costs as much as three forwards: forwards, and twice that backwards


class StartSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a start is searched.

    Attributes:
        proxy_rows: training rows that the proxy uses: half to fit a head, a quarter to choose it, a quarter to score.
        clusters: how many of the best clusters have their members scored.
        finalists: candidates that are fine-tuned at the first rung.
        rungs: rounds of real fine-tunes; each has twice the budget of the one before, the last has all of it.
        seeds: fine-tunes of each candidate at every rung.
    """

    proxy_rows: Annotated[int, Meta(ge=16)] = 600
    clusters: Count = 2
    finalists: Count = 4
    rungs: Count = 3
    seeds: Count = 1


class Rung(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One round of real fine-tunes.

    Attributes:
        number: from 0.
        rows: training rows that each fine-tune passes over.
        names: of the candidates, best first.
        loss: mean validation loss of each over seeds.
        accuracy: mean validation accuracy of each.
        test_accuracy: mean test accuracy of each.
        hits: right or not, mean over seeds, of each on every validation row.
    """

    number: int
    rows: int
    names: tuple[str, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    hits: np.ndarray[Any, np.dtype[np.float64]]


class Start(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The chosen start, and why.

    Attributes:
        chosen: the candidate.
        proxies: name → proxy loss of those that were scored.
        rungs: the rounds.
        cost: forwards-equivalent rows: "proxy", "tuning", "all", "brute force", and the share "of brute force".
    """

    chosen: Candidate
    proxies: dict[str, float]
    rungs: tuple[Rung, ...]
    cost: dict[str, float]


def find_start(
    ground: Ground,
    found: Sequence[Candidate],
    data: EncodedTask,
    config: FineTuning,
    settings: StartSettings,
    *,
    seed: int,
    dtype: str = "float32",
    tokenizer: Any = None,
    say: Callable[[str], None] = lambda _: None,
) -> Start:
    """Choose among candidates.

    Args:
        ground: the family.
        found: candidates, see `candidates.candidates`.
        data: the task; its test part is scored and never decides.
        config: how it will be fine-tuned in the end: the full budget.
        settings: of the search.
        seed: of samples and fine-tunes.
        dtype: of the forward pass.
        tokenizer: the family's, to encode the proxy's sample.
        say: takes a line of progress at a time.

    Raises:
        ConfigError: no candidate.
    """
    if not found:
        raise ConfigError("no candidate to start from", "give a family with a base or members")
    proxy = proxy_metric(ground, data, settings, tokenizer, seed=seed, dtype=dtype)
    proxies = _recall(ground, found, proxy, settings, say)
    ranked = sorted(proxies, key=lambda name: (proxies[name], name))
    by_name = {candidate.place.name: candidate for candidate in found}
    # what costs nothing to try is always tried: the base and the centroid, whatever the proxy thinks of them
    safe = [c.place.name for c in found if c.kind in ("base", "centroid")][: max(1, settings.finalists // 2)]
    names = list(dict.fromkeys([*safe, *ranked]))[: settings.finalists]
    rungs: list[Rung] = []
    for number in range(settings.rungs):
        if rungs:
            names = list(rungs[-1].names[: -(-len(names) // 2)])
        last = number == settings.rungs - 1
        if len(names) == 1 and not last:
            continue  # nothing to decide before the full budget
        share = 2.0 ** (number - settings.rungs + 1)
        metrics = [at_budget(data, config, share, seed=seed + s, dtype=dtype) for s in range(settings.seeds)]
        rungs.append(_rung(ground, [by_name[name] for name in names], metrics, number, say))
    if not np.isfinite(rungs[-1].loss[0]):
        raise StoreError(
            f"{data.task.name}: no fine-tune of {', '.join(rungs[-1].names)} kept a finite loss",
            "lower the learning rate",
        )
    chosen = by_name[rungs[-1].names[0]]
    return Start(
        chosen=chosen, proxies=proxies, rungs=tuple(rungs),
        cost=_cost(proxy, proxies, rungs, len(found), config, data, settings),
    )  # fmt: skip


def proxy_metric(
    ground: Ground, data: EncodedTask, settings: StartSettings, tokenizer: Any, *, seed: int, dtype: str
) -> Metric:
    """Return the proxy: a metric over a sample of the task's training rows alone."""
    count = min(settings.proxy_rows, len(data.train))
    if count < _FEWEST:
        raise ConfigError(
            f"{data.task.name}: {count} training rows are too few to choose by", f"give {_FEWEST} or more"
        )
    rows = generator(seed, "proxy rows", data.task.name).permutation(len(data.train))[:count]
    half, quarter = count // 2, count // 4
    cut = (rows[:half], rows[half : half + quarter], rows[half + quarter :])
    parts = [data.task.train.take(np.sort(part)) for part in cut]
    name = f"{data.task.name}: proxy"
    task = msgspec.structs.replace(
        data.task, name=name, train=parts[0], validation=parts[1], test=parts[2], notes=()
    )
    encoded = encode_task(task, tokenizer, max_tokens=data.max_tokens, context=context_of(ground.model))
    return Generalised(encoded, dtype) if data.task.labels else AsItStands(encoded, dtype)


def at_budget(data: EncodedTask, config: FineTuning, share: float, *, seed: int, dtype: str) -> AfterTuning:
    """Return a fine-tune that passes over a share of the rows: fewer epochs first, then fewer rows."""
    rows = len(data.train)
    seen = max(1.0, share * config.epochs * rows)
    epochs = max(1, min(config.epochs, round(seen / rows)))
    kept = min(rows, max(2, round(seen / epochs)))
    if kept < rows:
        chosen = np.sort(generator(seed, "budget", data.task.name).permutation(rows)[:kept])
        train = msgspec.structs.replace(
            data.train, ids=tuple(data.train.ids[i] for i in chosen),
            types=None if data.train.types is None else tuple(data.train.types[i] for i in chosen),
            labels=data.train.labels[chosen] if len(data.train.labels) else data.train.labels,
        )  # fmt: skip
        task = msgspec.structs.replace(data.task, train=data.task.train.take(chosen))
        data = msgspec.structs.replace(data, train=train, task=task)
    return AfterTuning(data, msgspec.structs.replace(config, epochs=epochs), seed, dtype)


def _recall(
    ground: Ground, found: Sequence[Candidate], proxy: Metric, settings: StartSettings,
    say: Callable[[str], None],
) -> dict[str, float]:  # fmt: skip
    """Score what belongs to no cluster, one representative of each cluster, then the members of the best ones."""
    proxies: dict[str, float] = {}

    def score(candidate: Candidate) -> float:
        name = candidate.place.name
        if name not in proxies:
            proxies[name] = ground.score(candidate.place, [proxy])[0][0].loss
            say(f"proxy of {name}: {proxies[name]:.4f}")
        return proxies[name]

    def score_all(several: Sequence[Candidate]) -> None:
        ground.ahead([(candidate.place, [proxy]) for candidate in several])
        for candidate in several:
            score(candidate)

    score_all([*(c for c in found if c.cluster < 0), *representatives(found)])
    chosen = sorted(representatives(found), key=lambda c: (score(c), c.cluster))[: settings.clusters]
    best = {candidate.cluster for candidate in chosen}
    score_all([candidate for candidate in found if candidate.cluster in best])
    return proxies


def _rung(
    ground: Ground, tried: Sequence[Candidate], metrics: Sequence[AfterTuning], number: int,
    say: Callable[[str], None],
) -> Rung:  # fmt: skip
    rows = []
    ground.ahead([(candidate.place, metrics) for candidate in tried])
    for candidate in tried:
        scores = ground.score(candidate.place, metrics)
        validation, test = [pair[0] for pair in scores], [pair[1] for pair in scores]
        loss = float(np.mean([score.loss for score in validation]))
        accuracy = float(np.mean([score.accuracy for score in validation]))
        hits = np.mean([_hits(score, len(metrics[0].encoded.validation)) for score in validation], axis=0)
        rows.append((loss, candidate.place.name, accuracy, float(np.mean([s.accuracy for s in test])), hits))
        say(f"rung {number}: {candidate.place.name}: loss {loss:.4f}, accuracy {accuracy:.3f} on validation")
    rows.sort(key=lambda row: row[:2])
    return Rung(
        number=number, rows=metrics[0].rows_seen, names=tuple(row[1] for row in rows),
        loss=tuple(row[0] for row in rows), accuracy=tuple(row[2] for row in rows),
        test_accuracy=tuple(row[3] for row in rows),
        hits=np.array([row[4] for row in rows], np.float64),
    )  # fmt: skip


def _hits(score: Score, n: int) -> np.ndarray[Any, Any]:
    return np.zeros(n) if score.hits is None else np.asarray(score.hits, np.float64)


def _cost(
    proxy: Metric, proxies: dict[str, float], rungs: Sequence[Rung], candidates: int, config: FineTuning,
    data: EncodedTask, settings: StartSettings,
) -> dict[str, float]:  # fmt: skip
    encoded: Any = proxy
    parts = encoded.encoded
    rows = (
        len(parts.test)
        if not data.task.labels
        else sum(map(len, (parts.train, parts.validation, parts.test)))
    )
    scored = float(len(proxies) * rows)
    tuning = float(sum(_TRAINING * rung.rows * len(rung.names) * settings.seeds for rung in rungs))
    brute = float(candidates * _TRAINING * config.epochs * len(data.train) * settings.seeds)
    return {
        "proxy": scored, "tuning": tuning, "all": scored + tuning, "brute force": brute,
        "of brute force": (scored + tuning) / brute,
    }  # fmt: skip
