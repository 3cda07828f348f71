"""Describe a checkpoint from its headers, configuration and card, without reading a weight."""

from pathlib import Path
from typing import Any

import numpy as np

from heredity.adapter import AdaptedCheckpoint
from heredity.card import read_card
from heredity.checkpoint import ADAPTER_CONFIG, Checkpoint
from heredity.digests import known_sha256, sha256_of
from heredity.errors import CheckpointError
from heredity.header import read_header
from heredity.hub import remote_tensors
from heredity.jsonfile import read_table


def describe(
    ref: str | Path, *, revision: str | None = None, offline: bool | None = None, hash_files: bool = False
) -> dict[str, Any]:
    """Return what is known of a checkpoint as plain values.

    Keys: name, path, architecture, kind ("model", "adapter" or "remote"), parameters, bytes, dtypes (format →
    elements), tied, files (name, bytes, sha256 or None), parents, relation, tensors (name → dtype and shape).

    Args:
        ref: folder, file or Hub id.
        revision: of a Hub id.
        offline: never use the network.
        hash_files: read files whose sha256 is not known yet.

    Raises:
        CheckpointError: it cannot be opened.
    """
    folder = Path(ref)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "model.safetensors").exists():
        return _adapter(folder, hash_files)
    try:
        checkpoint = Checkpoint.open(ref, revision=revision, offline=True)
    except CheckpointError:
        if offline or folder.exists() or "/" not in str(ref):
            raise
        return _remote(str(ref), revision)
    if isinstance(checkpoint, AdaptedCheckpoint):
        return _adapter(checkpoint.path, hash_files)
    tensors = {name: (info.dtype, info.shape) for name, info in checkpoint.tensors.items()}
    config = checkpoint.config
    card = read_card(checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent)
    return {
        **_facts(checkpoint.name, "model", tensors),
        "path": str(checkpoint.path),
        "architecture": ", ".join(config.get("architectures") or []) or config.get("model_type"),
        "tied": config.get("tie_word_embeddings"),
        "bytes": sum(info.nbytes for info in checkpoint.tensors.values()),
        "files": [_file(file, hash_files) for file in checkpoint.files],
        "parents": list(card.base_models),
        "relation": card.relation or None,
    }


def lines(facts: dict[str, Any], *, tensors: bool = False) -> list[str]:
    """Return a description for people."""
    formats = ", ".join(f"{dtype} {share(n, facts['elements'])}" for dtype, n in facts["dtypes"].items())
    found = [
        f"{facts['name']}: {facts['architecture'] or 'no config.json'} ({facts['kind']})",
        f"  {len(facts['tensors'])} tensors, {facts['elements']:,} elements, "
        f"{facts['bytes']:,} bytes; {formats}",
    ]
    if facts["tied"] is not None:
        found.append(f"  head {'tied to' if facts['tied'] else 'apart from'} the embedding")
    for file in facts["files"]:
        digest = file["sha256"] or "not known (--hash reads it)"
        found += [f"  {file['name']}  {file['bytes']:,} bytes  sha256 {digest}"]
    if facts["parents"]:
        found.append(
            f"  from {', '.join(facts['parents'])}" + (f" ({facts['relation']})" if facts["relation"] else "")
        )
    if tensors:
        found += [f"  {name}  {dtype} {list(shape)}" for name, (dtype, shape) in facts["tensors"].items()]
    return found


def share(part: int, whole: int) -> str:
    """Return a percentage, or "all".

    >>> share(1, 4), share(4, 4)
    ('25.0 %', 'all')
    """
    return "all" if part == whole else f"{100 * part / whole:.1f} %"


def _adapter(folder: Path, hash_files: bool) -> dict[str, Any]:
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        raise CheckpointError(
            f"{folder}: has no {file.name}", "pickled adapters are not opened: save it as safetensors"
        )
    infos, _ = read_header(file)
    config = read_table(folder / ADAPTER_CONFIG)
    parent = config.get("base_model_name_or_path")
    kind = f"{config.get('peft_type', 'LORA')} r={config.get('r')} alpha={config.get('lora_alpha')}"
    return {
        **_facts(folder.resolve().name, "adapter", {name: (i.dtype, i.shape) for name, i in infos.items()}),
        "path": str(folder),
        "architecture": kind + (" rslora" if config.get("use_rslora") else ""),
        "tied": None,
        "bytes": sum(info.nbytes for info in infos.values()),
        "files": [_file(file, hash_files)],
        "parents": [parent] if parent else [],
        "relation": "adapter",
    }


def _remote(ref: str, revision: str | None) -> dict[str, Any]:
    tensors = remote_tensors(ref, revision=revision)
    return {
        **_facts(ref.partition("@")[0].rsplit("/", 1)[-1], "remote", tensors),
        "path": ref, "architecture": None, "tied": None, "files": [], "parents": [], "relation": None,
        "bytes": sum(int(np.prod(shape)) * _item_bytes(dtype) for dtype, shape in tensors.values()),
    }  # fmt: skip


def _facts(name: str, kind: str, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    dtypes: dict[str, int] = {}
    for dtype, shape in tensors.values():
        dtypes[dtype] = dtypes.get(dtype, 0) + int(np.prod(shape, dtype=np.int64))
    ordered = dict(sorted(dtypes.items(), key=lambda item: (-item[1], item[0])))
    return {
        "name": name,
        "kind": kind,
        "elements": sum(dtypes.values()),
        "dtypes": ordered,
        "tensors": tensors,
    }


def _file(path: Path, hash_files: bool) -> dict[str, Any]:
    digest = sha256_of(path) if hash_files else known_sha256(path)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _item_bytes(dtype: str) -> int:
    from heredity.header import DTYPE_BYTES

    return DTYPE_BYTES.get(dtype, 0)
