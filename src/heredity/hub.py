"""Find a Hub checkpoint in the local cache, or fetch its headers' files: org/name or org/name@revision."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from heredity.errors import CheckpointError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "README.md"]


def resolve(
    ref: str, *, revision: str | None = None, offline: bool | None = None, pickles: Sequence[str] = ()
) -> Path:
    """Return the local folder of a Hub id, downloading what is missing unless offline.

    Args:
        ref: org/name or org/name@revision.
        revision: branch, tag or commit.
        offline: never use the network; default: HF_HUB_OFFLINE.
        pickles: names of pickled weights that may be used where there are no safetensors.

    Raises:
        CheckpointError: not a folder and not a Hub id, not in the cache while offline, or the Hub refused.
    """
    if not _ID.fullmatch(ref) or ref.count("/") != 1 + ref.partition("@")[2].count("/"):
        raise CheckpointError(
            f"{ref}: no such file or folder", "give a folder, a .safetensors file, or a Hub id as org/name"
        )
    repository, _, suffix = ref.partition("@")
    if suffix and revision and suffix != revision:
        raise CheckpointError(f"{ref}: two revisions, {suffix} and {revision}", "give one of them")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if offline is None:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}

    def download(patterns: list[str]) -> Path:
        found = snapshot_download(
            repository, revision=revision or suffix or None, allow_patterns=patterns, local_files_only=offline
        )
        return Path(found)

    try:
        folder = download(_FILES)
        if pickles and not any(folder.glob("*.safetensors")):
            folder = download(
                [*_FILES, *pickles, *(name.replace(".bin.index.json", "-*.bin") for name in pickles)]
            )
    except LocalEntryNotFoundError:
        why = "and the network is off" if offline else "and the Hub cannot be reached"
        raise CheckpointError(
            f"{ref}: no such folder, not in the Hub cache, {why}", "check the name, or go online once"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{ref}: the Hub refused ({first_line})", "check the id, the revision, and HF_TOKEN"
        ) from None
    return folder


def remote_tensors(ref: str, *, revision: str | None = None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of every tensor of a Hub checkpoint, by reading its headers only.

    Raises:
        CheckpointError: not a Hub id, offline, or the Hub refused.
    """
    repository, _, suffix = ref.partition("@")
    if not _NAME.fullmatch(repository):
        raise CheckpointError(f"{ref}: not a Hub id", "give it as org/name or org/name@revision")
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, OfflineModeIsEnabled

    try:
        found = get_safetensors_metadata(repository, revision=revision or suffix or None)
    except NotASafetensorsRepoError:
        raise CheckpointError(f"{ref}: has no safetensors weights", "choose a repository that has") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{ref}: the Hub cannot be asked ({first_line})", "check the id and the network"
        ) from None
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in sorted(found.files_metadata):
        for name, info in sorted(found.files_metadata[file].tensors.items()):
            tensors[name] = (str(info.dtype), tuple(info.shape))
    return tensors
