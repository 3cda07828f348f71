"""What `path`, `plane`, `region` and `start` share: the options that say what places are measured on."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

data = click.option(
    "--data", "data", multiple=True, metavar="DATA",
    help="Labelled texts (NAME.train.jsonl, a folder, hf:NAME) for the loss of a new head; repeatable.",
)  # fmt: skip
text = click.option(
    "--text", type=click.Path(path_type=Path), help="Token stream for a language model's loss."
)
heads = click.option("--own-heads", is_flag=True, help="Measure the members' own heads, mixed as they are.")
rows = click.option(
    "--rows", type=click.IntRange(4), default=1000, show_default=True,
    help="Rows of DATA to fit a head on; half as many choose its strength, as many are reported on.",
)  # fmt: skip
max_tokens = click.option("--max-tokens", type=click.IntRange(4), default=128, show_default=True)
dtype = click.option("--dtype", default="float32", show_default=True, help="Of the forward pass.")


def measured_on(command: Command) -> Command:
    """Add the options of what places are measured on."""
    for option in (dtype, max_tokens, rows, heads, text, data):
        command = option(command)
    return command


def given(data: Sequence[str], text: Path | None, heads: bool) -> Literal["encoder", "lm"]:
    """Return the kind of model that the options ask for: "encoder" or "lm".

    Raises:
        ConfigError: neither labelled texts nor a token stream, or both.
    """
    from heredity.errors import ConfigError

    if bool(data) == (text is not None):
        raise ConfigError(
            "give labelled texts with --data, or a token stream with --text",
            "one of them, not both or neither",
        )
    if heads and text is not None:
        raise ConfigError("--own-heads is about classifiers", "leave it out with --text")
    return "encoder" if data else "lm"


def metrics_for(
    family: Any, ground: Any, data: Sequence[str], text: Path | None, *, heads: bool, rows: int, max_tokens: int,
    dtype: str, seed: int,
) -> list[Any]:  # fmt: skip
    """Return the metrics that the options ask for."""
    from heredity.corpora.labelled import read_task
    from heredity.corpora.tokens import TokenStream
    from heredity.models.batches import context_of, encode_task
    from heredity.models.load import tokenizer
    from heredity.regions.metrics import Generalised, LmLoss, own_heads

    if text is not None:
        return [LmLoss(TokenStream.open(text))]
    source = ground.checkpoints[ground.base].path
    words, context = tokenizer(source), context_of(ground.model)
    found: list[Any] = []
    for ref in data:
        task = read_task(ref, seed=seed).sample(
            train=rows, validation=max(2, rows // 2), test=rows, seed=seed
        )
        encoded = encode_task(task, words, max_tokens=max_tokens, context=context)
        if heads:
            folders = {name: ground.checkpoints[name].path for name in ground.members}
            found.append(own_heads(folders, encoded, dtype))
        else:
            found.append(Generalised(encoded, dtype))
    return found


def notes_of(metrics: Sequence[Any]) -> list[str]:
    """Return what was done to the data, truncation counted, naming the set."""
    return [f"{m.data[0]}: {note}" for m in metrics if hasattr(m, "encoded") for note in m.encoded.notes]


def plain_rows(run: Any, table: str) -> list[dict[str, Any]]:
    """Return a table as plain rows for JSON, which has no infinity: what is not finite is null."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in run.table(table).to_dicts()
    ]


def finish(run: Any, findings: Sequence[str], metrics: Sequence[Any]) -> list[str]:
    """Write the tables `findings` and `warnings`; return the findings with what was done to the data."""
    import polars as pl

    texts = notes_of(metrics)
    run.write_table("findings", pl.DataFrame({"order": range(len(findings)), "text": list(findings)}))
    schema = {"kind": pl.String, "text": pl.String}
    run.write_table("warnings", pl.DataFrame([("data", text) for text in texts], schema=schema, orient="row"))
    return [*findings, *(f"note: {text}" for text in texts)]
