"""Find a Hub checkpoint in the local cache, or fetch its headers' files: org/name or org/name@revision."""

import os
import re
from pathlib import Path

from heredity.errors import CheckpointError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "README.md"]


def resolve(ref: str, *, revision: str | None = None, offline: bool | None = None) -> Path:
    """Return the local folder of a Hub id, downloading what is missing unless offline.

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
    try:
        folder = snapshot_download(
            repository, revision=revision or suffix or None, allow_patterns=_FILES, local_files_only=offline
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
    return Path(folder)
