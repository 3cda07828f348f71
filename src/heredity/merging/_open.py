"""Open what a merge is made of: a folder, a Hub id, or an adapter on a base of its own, "base+adapter"."""

from pathlib import Path

from heredity.adapter import AdaptedCheckpoint, open_adapter
from heredity.checkpoint import ADAPTER_CONFIG, Checkpoint
from heredity.coverage import refuse_quantised
from heredity.errors import CheckpointError
from heredity.hub import resolve as from_hub
from heredity.writer import TOKENIZER_FILES


def open_input(ref: str | Path | Checkpoint, root: Path = Path()) -> Checkpoint:
    """Open a model of a merge; headers only.

    Args:
        ref: a folder, a file, a Hub id, or two of them, "base+adapter"; an open checkpoint stays as it is.
        root: folder that paths may be relative to.

    Raises:
        CheckpointError: missing, truncated or damaged.
        MismatchError: quantised: its stored numbers are not its weights.
    """
    if isinstance(ref, Checkpoint):
        opened = ref
    elif pair := adapter_on_base(str(ref), root):
        opened = adapted(open_input(pair[0], root), pair[1], root)
    else:
        opened = Checkpoint.open(_found(str(ref), root))
    refuse_quantised(opened)
    return opened


def adapted(base: Checkpoint, adapter: str, root: Path = Path()) -> AdaptedCheckpoint:
    """Open a LoRA folder, or a Hub id of one, on this base, whatever base its own configuration names.

    Raises:
        CheckpointError: it is no adapter.
        MismatchError: it does not fit the base.
    """
    path = Path(_found(adapter, root))
    if not path.exists():
        path = from_hub(adapter)
    if not (path / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"{path}: has no {ADAPTER_CONFIG}", "after the + comes a LoRA folder, before it its base"
        )
    return open_adapter(path, base=base)


def adapter_on_base(ref: str, root: Path = Path()) -> tuple[str, str] | None:
    """Return the two parts of "base+adapter", or None if `ref` is one folder or Hub id."""
    if "+" not in ref or ref.startswith("archive:") or _is_local(ref, root):
        return None
    cuts = [i for i, letter in enumerate(ref) if letter == "+"]
    pairs = [(ref[:i], ref[i + 1 :]) for i in cuts if ref[:i] and ref[i + 1 :]]
    here = [pair for pair in pairs if _is_local(pair[0], root) and _is_local(pair[1], root)]
    return next(iter(here or pairs), None)


def location(checkpoint: Checkpoint) -> str:
    """Return what `open_input` opens again, from any folder; unlike the path it tells an adapter's bases apart."""
    stored, own = _stored(checkpoint), str(checkpoint.path.absolute())
    return f"{location(stored.base)}+{own}" if isinstance(stored, AdaptedCheckpoint) else own


def input_files(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Return the files that a merge of a checkpoint depends on: its weights, and an adapter's scale."""
    adapter = isinstance(_stored(checkpoint), AdaptedCheckpoint)
    own = (checkpoint.path / ADAPTER_CONFIG,) if adapter else ()
    return (*checkpoint.files, *own)


def configured(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint whose folder has the configuration: itself, or an adapter's base."""
    stored = _stored(checkpoint)
    return stored.base if isinstance(stored, AdaptedCheckpoint) else stored


def tokenized(checkpoint: Checkpoint) -> Path:
    """Return the folder that has a checkpoint's tokenizer: an adapter's own, where it brings one."""
    stored = _stored(checkpoint)
    folder = stored.path if stored.path.is_dir() else stored.path.parent
    if isinstance(stored, AdaptedCheckpoint) and not any((folder / n).is_file() for n in TOKENIZER_FILES):
        return tokenized(stored.base)
    return folder


def _stored(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint that a view of rows in another order is a view of."""
    stored: Checkpoint = getattr(checkpoint, "stored", checkpoint)
    return stored


def _found(ref: str, root: Path) -> str:
    return str(root / ref) if (root / ref).exists() else ref


def _is_local(ref: str, root: Path) -> bool:
    return (root / ref).exists() or Path(ref).exists()
