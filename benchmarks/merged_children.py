"""Merge the demo's two children by several methods and measure every result on both children's domains.

    python benchmarks/merged_children.py RUN WORK

RUN is a finished run of `heredity demo`; nothing in it is changed. WORK gets the recipes, the statistics of the
two children for regmean and fisher, the merged folders and scores.json. Every merge is made by `heredity merge`
at the method's defaults (or what is written in METHODS: nothing is tuned), loaded by transformers, and scored on
the test split of the run's token stream, with 95 % intervals by resampling documents.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import polars as pl

from heredity.corpora.tokens import TokenStream
from heredity.family import Family
from heredity.models.evaluate import lm_scores
from heredity.models.load import load, threads

METHODS = {
    "linear": "", "slerp": "t = 0.5", "karcher": "", "model_stock": "base", "task_arithmetic": "base",
    "ties": "base\ndensity = 0.5", "dare_ties": "base\ndensity = 0.5", "regmean": "statistics",
    "fisher": "statistics",
}  # fmt: skip


def main() -> None:
    """Merge, measure, print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="Folder of a finished demo.")
    parser.add_argument("work", type=Path, help="Folder to write to.")
    parser.add_argument("--tokens", type=int, default=100_000, help="Text of each child's statistics.")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    family = Family.load(asked.run / "family")
    base = next(member.name for member in family.members if member.relation == "base")
    domains = {m.name: m.labels["domain"] for m in family.members if "domain" in m.labels}
    folders = {m.name: (family.root / m.path).absolute() for m in family.members}
    asked.work.mkdir(parents=True, exist_ok=True)
    for child, domain in domains.items():
        _heredity(
            "harvest", folders[child], "--input-gram", "--fisher", "--data", asked.run / "text" / "train",
            "--domain", domain, "--max-tokens", asked.tokens, "-o", asked.work / f"{child}.stats", "--overwrite",
        )  # fmt: skip
    models = {name: folders[name] for name in (base, *domains)}
    for method, settings in METHODS.items():
        recipe = asked.work / f"{method}.toml"
        recipe.write_text(_recipe(method, settings, folders, base, list(domains)))
        _heredity("merge", recipe, asked.work / method, "--overwrite", "-q")
        models[method] = asked.work / method
    stream = TokenStream.open(asked.run / "text" / "test").of(list(domains.values()))
    tables = []
    with threads(asked.threads):
        for name, folder in models.items():
            tables.append(lm_scores(load(folder), stream).table().with_columns(model=pl.lit(name)))
    scores = pl.concat(tables)
    (asked.work / "scores.json").write_text(json.dumps(scores.to_dicts(), indent=1) + "\n")
    print(_markdown(scores, list(domains.values())))


def _recipe(method: str, settings: str, folders: dict[str, Path], base: str, children: list[str]) -> str:
    lines = ["[merge]", f'method = "{method}"', f"models = {json.dumps([str(folders[c]) for c in children])}"]
    for setting in settings.splitlines():
        if setting == "base":
            lines.append(f"base = {json.dumps(str(folders[base]))}")
        elif setting == "statistics":
            lines.append(f"statistics = {json.dumps([f'{child}.stats' for child in children])}")
        else:
            lines.append(setting)
    return "\n".join(lines) + "\n"


def _heredity(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "heredity", *map(str, arguments)], check=True, stdout=sys.stderr)


def _markdown(scores: pl.DataFrame, domains: list[str]) -> str:
    """Return a row for each model: loss and accuracy on each domain, intervals in brackets, mean loss last."""
    columns = [f"{domain}: {what}" for domain in domains for what in ("loss, nats/token", "accuracy, %")]
    lines = ["| model | " + " | ".join([*columns, "mean loss"]) + " |", "|---" * (2 + len(columns)) + "|"]
    for (name,), rows in scores.group_by("model", maintain_order=True):
        of = {row["domain"]: row for row in rows.to_dicts()}
        cells = []
        for domain in domains:
            row = of[domain]
            cells.append(f"{row['loss']:.3f} [{row['loss_low']:.2f}, {row['loss_high']:.2f}]")
            low, high = 100 * row["accuracy_low"], 100 * row["accuracy_high"]
            cells.append(f"{100 * row['accuracy']:.1f} [{low:.1f}, {high:.1f}]")
        mean = sum(of[domain]["loss"] for domain in domains) / len(domains)
        lines.append("| " + " | ".join([str(name), *cells, f"{mean:.3f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
