"""`heredity evaluate`: how good an SAE is, on text that it was not trained on."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("sae", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
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
    sae: Path, models: tuple[str, ...], data: tuple[str, ...], site: str | None, domains: tuple[str, ...],
    max_tokens: int, context: int | None, ks: tuple[int, ...], ablation: str, device: str, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure an SAE of MODEL on held-out text: L0, FVU, dead latents, and the loss that a causal LM recovers.

    A crosscoder is measured in each of its members: give their models as NAME=PATH, or as paths in the members' order.
    """
    from heredity.cli._evaluating import Text, quality
    from heredity.errors import ConfigError
    from heredity.features.sae import load

    loaded = load(sae)
    place = site or str(loaded.metadata.get("site") or "")
    if not place:
        raise ConfigError(f"{sae}: does not say at which site it stands", "name it with --site")
    text = Text(
        data=data, domains=domains, max_tokens=max_tokens, seed=seed,
        context=context or int(loaded.metadata.get("context") or 128),
    )  # fmt: skip
    values, lines = quality(loaded, models, text, place, ks, "mean" if ablation == "mean" else "zero", device)
    _options.emit({"sae": str(sae), "site": place, **values}, as_json=as_json, lines=lines)
