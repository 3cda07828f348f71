"""`heredity evaluate`: how good an SAE is, on text that it was not trained on."""

from pathlib import Path
from typing import Any

import click

from heredity.cli import _options


@click.command()
@click.argument("sae", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, multiple=True, metavar="DATA",
    help="Folder of a token stream; or text: a file, a folder, text:GLOB, jsonl:GLOB …; repeatable.",
)  # fmt: skip
@click.option("--site", metavar="MODULE:SIDE", help="Where the SAE stands.  [default: where it was trained]")
@click.option("--domain", "domains", multiple=True, help="Use this domain of the text; repeatable.")
@click.option(
    "--max-tokens",
    type=click.IntRange(2),
    default=50_000,
    show_default=True,
    help="Most tokens of each domain.",
)
@click.option("--context", type=click.IntRange(2), help="Tokens of a context of text.  [default: the SAE's]")
@click.option("-k", "ks", type=click.IntRange(1), multiple=True, help="Other k of a TopK SAE; repeatable.")
@click.option(
    "--ablation", type=click.Choice(["zero", "mean"]), default="zero", show_default=True,
    help="What the recovered loss is measured against.",
)  # fmt: skip
@_options.device
@_options.seed
@_options.as_json
def command(
    sae: Path, model: Path, data: tuple[str, ...], site: str | None, domains: tuple[str, ...], max_tokens: int,
    context: int | None, ks: tuple[int, ...], ablation: str, device: str, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure an SAE of MODEL on held-out text: L0, FVU, dead latents, and the loss that a causal LM recovers."""
    import tempfile

    import msgspec

    from heredity.checkpoint import Checkpoint
    from heredity.cli._text import ends_for, stream_of
    from heredity.errors import ConfigError
    from heredity.features.evaluate import no_loss, quality_curve
    from heredity.features.sae import load
    from heredity.models.architecture import open_model

    loaded = load(sae)
    place = site or str(loaded.metadata.get("site") or "")
    if not place:
        raise ConfigError(f"{sae}: does not say at which site it stands", "name it with --site")
    folder = Checkpoint.open(str(model)).path
    with tempfile.TemporaryDirectory() as work:
        stream = stream_of(
            data, folder, Path(work), context=context or int(loaded.metadata.get("context") or 128), domains=domains,
            max_tokens=max_tokens, seed=seed,
        )  # fmt: skip
        live = open_model(folder, device=device)
        found = quality_curve(
            loaded, live, stream, place, [None, *ks], ablation="mean" if ablation == "mean" else "zero",
            ends=ends_for(live, folder),
        )  # fmt: skip
    why = no_loss(live)
    rows: list[dict[str, Any]] = [msgspec.to_builtins(one) for one in found]
    lines = [_line(row) for row in rows]
    if why is not None:
        lines.append(f"no recovered loss: {why}")
    _options.emit(
        {"sae": str(sae), "model": str(model), "site": place, "no_loss": why, "quality": rows}, as_json=as_json,
        lines=lines,
    )  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    k = "" if row["k"] is None else f"k = {row['k']}: "
    recovered = (
        f", CE recovered {row['ce_recovered']:.1%} ({row['ce_clean']:.3f} clean, {row['ce_sae']:.3f} with the SAE, "
        f"{row['ce_zero']:.3f} with {row['ablation']})"
        if row["ce_recovered"] is not None
        else ""
    )
    return (
        f"{k}L0 {row['l0']:.1f}, FVU {row['fvu']:.4f}, dead {row['dead_share']:.1%}{recovered}, "
        f"on {row['n_tokens']:,} tokens"
    )
