"""Small JSON files that come with checkpoints: read as a table, or refused by name."""

import json
from pathlib import Path
from typing import Any

from heredity.errors import CheckpointError


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file cannot be read, is not JSON, or is not an object.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})", "download or write it again") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: is not a table", "download or write it again")
    return table
