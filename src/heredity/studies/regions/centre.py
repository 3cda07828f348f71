"""Is the centre of a region a better start than the pretrained model, and does `start` find as good a one for less?

For every set the centre is the mean of all members but those of the set itself and of a set with the same texts.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from heredity.models.batches import EncodedTask
from heredity.models.load import tokenizer
from heredity.regions.candidates import candidates
from heredity.regions.evidence import evidence, paired_over_seeds
from heredity.regions.start import at_budget, find_start
from heredity.regions.tuned import AfterTuning
from heredity.regions.walk import centroid
from heredity.run import Run
from heredity.studies.regions.config import RegionsStudy, Starts
from heredity.studies.regions.material import Material

Say = Callable[[str], None]


def others(config: RegionsStudy, material: Material, data: str) -> list[str]:
    """Return the members that were trained neither on a set nor on one with the same texts."""
    forbidden = {data, config.controls.get(data)}
    return [name for name, own in material.data.items() if own not in forbidden]


def nearness(config: RegionsStudy, material: Material, data: str) -> float:
    """Return how far the centre is from a set's own models' mean, over how far the base is; below 1 it is nearer."""
    own = [name for name, mine in material.data.items() if mine == data]
    products = material.ground.products([*own, *others(config, material, data)])
    k = len(own)
    mean, centre = products[:k, :k].mean(), products[k:, k:].mean()
    squared = mean - 2 * products[:k, k:].mean() + centre
    return float(np.sqrt(max(squared, 0.0) / mean))


def start_from_centre(run: Run, config: RegionsStudy, material: Material, say: Say) -> None:
    """Write `centre` (every fine-tune) and `centre_sets` (a difference for each set).

    `gain` is the accuracy from the centre minus that from the base, on the same held-out rows and seeds, with the
    middle 95 % over resamples of rows and seeds; `nearness` is the function's.
    """
    ground = material.ground
    rows, sets = [], []
    every = [(regime, name) for regime in material.regimes for name in regime.sets]
    middles = {name: centroid(others(config, material, name), f"centre for {name}") for _, name in every}
    ground.ahead([
        (place, [regime.tuned(name, seed)])
        for regime, name in every
        for place in (ground.member("base"), middles[name])
        for seed in range(config.centre.seeds)
    ], say=say)  # fmt: skip
    for regime in material.regimes:
        for name in regime.sets:
            starts = {"base": ground.member("base"), "centre": middles[name]}
            scores = {}
            for start, place in starts.items():
                scores[start] = [
                    ground.score(place, [regime.tuned(name, seed)])[0][-1]
                    for seed in range(config.centre.seeds)
                ]
                rows += [
                    (regime.name, name, config.groups[name], seed, start, score.loss, score.accuracy, score.n)
                    for seed, score in enumerate(scores[start])
                ]
            key = f"{regime.name} {name}"
            gain, low, high = paired_over_seeds(scores["centre"], scores["base"], seed=run.seed, name=key)
            base, centre = (
                float(np.mean([s.accuracy for s in scores[start]])) for start in ("base", "centre")
            )
            losses = [float(np.mean([s.loss for s in scores[start]])) for start in ("base", "centre")]
            what = (
                regime.name,
                name,
                config.groups[name],
                base,
                centre,
                gain,
                low,
                high,
                losses[0] - losses[1],
            )
            sets.append((*what, nearness(config, material, name)))
            say(f"{regime.name}, {name}: {base:.3f} from the base, {centre:.3f} from the centre")
    columns = ["regime", "data", "family", "seed", "start", "loss", "accuracy", "n"]
    run.write_table("centre", pl.DataFrame(rows, schema=columns, orient="row"))
    columns = [
        "regime",
        "data",
        "family",
        "base",
        "centre",
        "gain",
        "gain_low",
        "gain_high",
        "loss_saved",
        "nearness",
    ]
    run.write_table("centre_sets", pl.DataFrame(sets, schema=columns, orient="row"))


def search_starts(
    run: Run, config: RegionsStudy, settings: Starts, material: Material, tasks: Callable[[str], EncodedTask],
    dtype: str, say: Say,
) -> None:  # fmt: skip
    """Write `starts` (one row for each held-out set) and `starts_all` (every candidate, tuned in full).

    `gap` is the test accuracy of the start that was found minus that of the best of all candidates, which brute force
    has tuned in full; the best is chosen by its validation loss, as brute force would, and `gap_to_oracle` by its test
    accuracy, which nobody could.
    """
    ground = material.ground
    words = tokenizer(ground.checkpoints[ground.base].path)
    rows, every = [], []
    for name in settings.sets:
        data = tasks(name)
        allowed = others(config, material, name)
        seeds = {m.name: int(m.labels["seed"]) for m in material.family.members if "seed" in m.labels}
        found = candidates(ground, [member for member in allowed if seeds[member] < settings.members_per_set])
        search = settings.search
        start = find_start(
            ground, found, data, settings.tuning, search, seed=run.seed, dtype=dtype, tokenizer=words, say=say
        )
        full: list[AfterTuning] = [
            at_budget(data, settings.tuning, 1.0, seed=run.seed + s, dtype=dtype)
            for s in range(settings.seeds)
        ]
        ground.ahead([(c.place, full) for c in found], say=say)
        scores = {c.place.name: ground.score(c.place, full) for c in found}
        for label, pairs in scores.items():
            every.append((
                name, label, float(np.mean([p[0].loss for p in pairs])), float(np.mean([p[0].accuracy for p in pairs])),
                float(np.mean([p[1].accuracy for p in pairs])), label == start.chosen.place.name,
            ))  # fmt: skip
        chosen = start.chosen.place.name
        best = min(scores, key=lambda label: (np.mean([p[0].loss for p in scores[label]]), label))
        oracle = max(scores, key=lambda label: (np.mean([p[1].accuracy for p in scores[label]]), label))
        gaps = [
            paired_over_seeds(
                [p[1] for p in scores[chosen]],
                [p[1] for p in scores[rival]],
                seed=run.seed,
                name=f"{name} {rival}",
            )
            for rival in (best, oracle)
        ]
        mean = {label: float(np.mean([p[1].accuracy for p in pairs])) for label, pairs in scores.items()}
        rows.append((
            name, len(found), chosen, mean[chosen], best, mean[best], *gaps[0], oracle, mean[oracle], *gaps[1],
            mean.get("base"), start.cost["of brute force"],
        ))  # fmt: skip
        run.write_table(f"evidence_{name}", evidence(start, found, seed=run.seed))
        say(f"{name}: start from {chosen}, {100 * start.cost['of brute force']:.0f} % of brute force")
    columns = [
        "data", "candidates", "chosen", "accuracy", "best", "best_accuracy", "gap", "gap_low", "gap_high", "oracle",
        "oracle_accuracy", "gap_to_oracle", "gap_to_oracle_low", "gap_to_oracle_high", "base_accuracy", "cost_share",
    ]  # fmt: skip
    run.write_table("starts", pl.DataFrame(rows, schema=columns, orient="row"))
    columns = ["data", "candidate", "validation_loss", "validation_accuracy", "test_accuracy", "chosen"]
    run.write_table("starts_all", pl.DataFrame(every, schema=columns, orient="row"))
