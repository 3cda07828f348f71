"""Fine-tune an encoder classifier or a causal LM on labelled texts: in full, biases only, the head only, or LoRA.

    tuned = finetune("base", read_task("data/snli"), Path("snli-0"), FineTuning(learning_rate=5e-5), seed=0)

A seed decides the head's first weights, the order of the data and the dropout. The result is a checkpoint folder
with `finetune.json` (settings, scores, cost) and tables beside the weights, whole or not at all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import polars as pl

from heredity.atomic import replacing_folder, write_text
from heredity.checkpoint import Checkpoint
from heredity.corpora.labelled import LabelledTask
from heredity.errors import CheckpointError, ConfigError
from heredity.jsonfile import read_table
from heredity.models import lora
from heredity.models.batches import context_of, encode_task
from heredity.models.classifier import (
    HEAD,
    Classifier,
    copy_tokenizer,
    load_encoder,
    pooling_of,
    save_encoder,
)
from heredity.models.fit import fit
from heredity.models.load import load, quiet_transformers, tokenizer
from heredity.models.tuning import FineTuning, Trained

Kind = Literal["classify", "lm"]
RECORD, HISTORY, CARTOGRAPHY = "finetune.json", "history.parquet", "cartography.parquet"
PREDICTIONS, VALIDATION = "predictions.parquet", "validation.parquet"
FORMAT = 1


def finetune(
    model: str | Path,
    task: LabelledTask,
    out: Path,
    config: FineTuning | None = None,
    *,
    seed: int = 0,
    kind: Kind | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Fine-tune a checkpoint and write the result; one that is there already is read, not made again.

    Args:
        model: folder, Hub id or `archive:FILE#FOLDER`.
        task: data.
        out: folder of the result.
        config: the settings.
        seed: of the head's first weights, the order of the data and the dropout.
        kind: "classify" puts a linear head on the model; "lm" trains a causal LM's own next-token loss; None
            takes "lm" for a causal LM and data without labels, else "classify".
        device: torch device.
        dtype: "float32", or a half precision that the forward pass is run in; weights stay float32.
        overwrite: discard what is in `out`.
        progress: draw a progress bar on stderr.
        say: takes a line after every epoch.

    Raises:
        ConfigError: settings that do not fit the model or the data, or `out` holds another result.
        CheckpointError: the model cannot be loaded.
        StoreError: the loss stopped being finite.
        ExtraMissingError: LoRA without peft.
    """
    config = config or FineTuning()
    source = Checkpoint.open(model)
    kind = kind or ("classify" if task.labels else "lm")
    identity = {
        "format": FORMAT, "model": str(model), "data": task.digest, "kind": kind, "seed": seed,
        "settings": msgspec.to_builtins(config), "dtype": dtype,
    }  # fmt: skip
    done = _done(out, identity, overwrite)
    if done is not None:
        return done
    check_kind(kind, task, source)
    live = (
        load_encoder(source.path, layers=config.layers, device=device)
        if kind == "classify"
        else _language_model(source, config, device)
    )
    lost = next((n for n, p in live.named_parameters() if not bool(p.isfinite().all())), None)
    if lost is not None:
        raise CheckpointError(
            f"{source.path}: tensor {lost} holds NaN or infinity", "start from another model"
        )
    encoded = encode_task(
        task, tokenizer(source.path), max_tokens=config.max_tokens, context=context_of(live)
    )
    adapter = lora.attach(live, rank=config.rank, seed=seed) if config.method == "lora" else None
    if kind == "classify":
        live = Classifier(live, len(task.labels), pooling=pooling_of(live), seed=seed)
    trained = fit(live, encoded, config, seed=seed, dtype=dtype, label=out.name, progress=progress, say=say)
    record = identity | {
        "task": task.name, "labels": list(task.labels), "pooling": getattr(live, "pooling", None),
        "scores": trained.scores, "cost": trained.cost, "notes": list(trained.notes),
        "rows": _each_part(lambda part: len(getattr(task, part))),
        "truncated": _each_part(lambda part: getattr(encoded, part).truncated),
    }  # fmt: skip
    _write(out, live, adapter, source.path, trained, record)
    return trained


def read_finetuned(folder: Path) -> tuple[dict[str, Any], Trained]:
    """Read the record and the tables of a result.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not (folder / RECORD).is_file():
        raise CheckpointError(f"{folder}: no {RECORD}", "`heredity finetune` makes such a folder")
    record = read_table(folder / RECORD)
    try:
        tables = [pl.read_parquet(folder / name) for name in (HISTORY, CARTOGRAPHY, PREDICTIONS, VALIDATION)]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CheckpointError(f"{folder}: {error}", "fine-tune again with --overwrite") from None
    trained = Trained(
        scores=record["scores"], history=tables[0], cartography=tables[1], predictions=tables[2],
        validation=tables[3], cost=record["cost"], notes=tuple(record["notes"]),
    )  # fmt: skip
    return record, trained


def check_kind(kind: Kind, task: LabelledTask, source: Checkpoint) -> None:
    """Refuse a task that a model has no head for.

    Raises:
        ConfigError: pairs for a causal LM, or no labels for a classifier.
    """
    if kind == "lm" and task.train.pairs is not None:
        raise ConfigError(
            f"{task.name}: pairs of texts, and {source.name} as a language model has no head for pairs",
            "--as classify puts a head on it",
        )
    if kind == "lm" and not is_lm(source):
        raise ConfigError(f"{source.path}: is not a causal language model", "--as classify needs labels")
    if kind == "classify" and not task.labels:
        raise ConfigError(f"{task.name}: no labels to classify by", "--as lm trains on texts alone")


def is_lm(source: Checkpoint) -> bool:
    """Say whether a checkpoint's configuration names a causal language model."""
    return any(
        str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in source.config.get("architectures") or ()
    )


def _language_model(source: Checkpoint, config: FineTuning, device: str) -> Any:
    if config.layers is not None:
        raise ConfigError(f"{source.path}: layers of a language model are not cut", "leave `layers` out")
    return load(source.path, device=device)


def _done(out: Path, identity: dict[str, Any], overwrite: bool) -> Trained | None:
    if not out.exists() or overwrite or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / RECORD).is_file():
        raise ConfigError(f"{out}: exists and is not a fine-tuned model", "choose another output with -o")
    record, trained = read_finetuned(out)
    if {name: record.get(name) for name in identity} != json.loads(json.dumps(identity)):
        raise ConfigError(
            f"{out}: holds a model of other settings, data or seed", "add --overwrite, or choose another -o"
        )
    return trained


def _each_part(count: Callable[[str], int]) -> dict[str, int]:
    return {part: count(part) for part in ("train", "validation", "test")}


def _write(
    out: Path, live: Any, adapter: Any, tokenizer_folder: Path, trained: Trained, record: dict[str, Any]
) -> None:
    from safetensors.torch import save_file

    with replacing_folder(out) as folder:
        if adapter is not None:
            lora.save_and_merge(adapter, folder / "adapter")
        if isinstance(live, Classifier):
            save_encoder(live.encoder, tokenizer_folder, folder)
            head = {"weight": live.head.weight, "bias": live.head.bias}
            save_file({name: t.detach().cpu().contiguous() for name, t in head.items()}, folder / HEAD)
        else:
            with quiet_transformers():
                live.save_pretrained(folder)
            copy_tokenizer(tokenizer_folder, folder)
        tables = {
            HISTORY: trained.history, CARTOGRAPHY: trained.cartography, PREDICTIONS: trained.predictions,
            VALIDATION: trained.validation,
        }  # fmt: skip
        for name, table in tables.items():
            table.write_parquet(folder / name, statistics=False)
        write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
