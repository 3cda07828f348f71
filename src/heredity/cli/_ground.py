"""What `path`, `plane`, `region` and `start` share: the options that say what places are measured on."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

from heredity.cli import _options

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


class Measured(NamedTuple):
    """What places are measured on, as the options of `measured_on` say."""

    data: tuple[str, ...]
    text: Path | None
    own_heads: bool
    rows: int
    max_tokens: int
    dtype: str

    @property
    def kind(self) -> Literal["encoder", "lm"]:
        """The kind of model that can be measured so.

        Raises:
            ConfigError: neither labelled texts nor a token stream, or both.
        """
        from heredity.errors import ConfigError

        if bool(self.data) == (self.text is not None):
            raise ConfigError(
                "give labelled texts with --data, or a token stream with --text",
                "one of them, not both or neither",
            )
        if self.own_heads and self.text is not None:
            raise ConfigError("--own-heads is about classifiers", "leave it out with --text")
        return "encoder" if self.data else "lm"

    @property
    def record(self) -> dict[str, Any]:
        """The options as the run folder keeps them."""
        return self._asdict() | {
            "data": list(self.data),
            "text": None if self.text is None else str(self.text),
        }

    def read(self, *, seed: int) -> list[Any]:
        """Return the labelled tasks, or the one token stream: what is wrong with them is said before all else.

        Raises:
            ConfigError: two sets have one name, or there is no such dtype.
            CorpusError: a set cannot be read.
        """
        from heredity.corpora.labelled import read_task
        from heredity.corpora.tokens import TokenStream
        from heredity.errors import ConfigError
        from heredity.models.load import dtype_of

        _ = self.kind
        dtype_of(self.dtype)
        if self.text is not None:
            return [TokenStream.open(self.text)]
        tasks = [
            read_task(ref, seed=seed).sample(
                train=self.rows, validation=max(2, self.rows // 2), test=self.rows, seed=seed
            )
            for ref in self.data
        ]
        names = [task.name for task in tasks]
        twice = next((name for n, name in enumerate(names) if name in names[:n]), None)
        if twice is not None:
            raise ConfigError(
                f"--data: two sets are called {twice}", "give each set once, under its own name"
            )
        return tasks

    def metrics(self, ground: Any, read: list[Any]) -> list[Any]:
        """Return the metrics that the options ask for, over what `read` gave."""
        from heredity.models.batches import context_of, encode_task
        from heredity.models.load import tokenizer
        from heredity.regions.metrics import Generalised, LmLoss, own_heads

        if self.text is not None:
            return [LmLoss(stream) for stream in read]
        words, context = tokenizer(ground.checkpoints[ground.base].path), context_of(ground.model)
        found: list[Any] = []
        for task in read:
            encoded = encode_task(task, words, max_tokens=self.max_tokens, context=context)
            if self.own_heads:
                folders = {name: ground.checkpoints[name].path for name in ground.members}
                found.append(own_heads(folders, encoded, self.dtype))
            else:
                found.append(Generalised(encoded, self.dtype))
        return found


def measured_on(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of what places are measured on; the command gets them as one `measured`."""

    @functools.wraps(command)
    def gathering(**values: Any) -> None:
        measured = Measured(**{name: values.pop(name) for name in Measured._fields})
        command(measured=measured, **values)

    for option in (dtype, max_tokens, rows, heads, text, data):
        gathering = option(gathering)
    return gathering


def survey(
    run: Any, family: Any, measured: Measured, read: list[Any], work: Callable[[Any, list[Any]], Sequence[str]], *,
    device: str, jobs: int, members: Sequence[str] | None = None,
) -> list[str]:  # fmt: skip
    """Open the ground, let `work` measure on it what the options ask for, draw the page; return the findings."""
    from heredity.regions.ground import Ground
    from heredity.report import write_report

    with run.recorded():
        folder = run.folder("ground")
        ground = Ground.open(
            family, kind=measured.kind, folder=folder, members=members, device=device, jobs=jobs
        )
        metrics = measured.metrics(ground, read)
        findings = _finish(run, work(ground, metrics), metrics)
        ground.close()
        write_report(run)
    return findings


def tell(run: Any, findings: Sequence[str], *, as_json: bool, tables: Sequence[str] = ()) -> None:
    """Print the findings and where the page is; as JSON, with the named tables."""
    page = run.path / "report.html"
    rows = {name: plain_rows(run, name) for name in tables}
    _options.emit(
        {"run": str(run.path), "report": str(page), "findings": findings, **rows},
        as_json=as_json, lines=[*findings, "", f"report: {page}"],
    )  # fmt: skip


def _notes_of(metrics: Sequence[Any]) -> list[str]:
    """Return what was done to the data, truncation counted, naming the set."""
    return [f"{m.data[0]}: {note}" for m in metrics if hasattr(m, "encoded") for note in m.encoded.notes]


def plain_rows(run: Any, table: str) -> list[dict[str, Any]]:
    """Return a table as plain rows for JSON, which has no infinity: what is not finite is null."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in run.table(table).to_dicts()
    ]


def _finish(run: Any, findings: Sequence[str], metrics: Sequence[Any]) -> list[str]:
    """Write the tables `findings` and `warnings`; return the findings with what was done to the data."""
    import polars as pl

    texts = _notes_of(metrics)
    run.write_table("findings", pl.DataFrame({"order": range(len(findings)), "text": list(findings)}))
    schema = {"kind": pl.String, "text": pl.String}
    run.write_table("warnings", pl.DataFrame([("data", text) for text in texts], schema=schema, orient="row"))
    return [*findings, *(f"note: {text}" for text in texts)]
