"""Model cards: read who a model was made from, write who a merge was made from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heredity.errors import CheckpointError


@dataclass(frozen=True)
class Card:
    """What a card says of descent.

    Attributes:
        base_models: ids of the models it was made from.
        relation: "finetune", "merge", "adapter", "quantized", or empty.
        license: or empty.
        tags: all tags.
    """

    base_models: tuple[str, ...] = ()
    relation: str = ""
    license: str = ""
    tags: tuple[str, ...] = ()


def read_card(folder: Path) -> Card:
    """Read the front matter of a folder's README.md; an empty card if there is none.

    Raises:
        CheckpointError: the front matter is not YAML.
    """
    path = folder / "README.md"
    if not path.is_file():
        return Card()
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return Card()
    front = text[3:].split("\n---", 1)[0]
    try:
        values: Any = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise CheckpointError(
            f"{path}: the front matter is not YAML ({str(error).splitlines()[0]})", "mend the card"
        ) from None
    if not isinstance(values, dict):
        return Card()
    return Card(
        _strings(values.get("base_model")),
        str(values.get("base_model_relation") or ""),
        str(values.get("license") or ""),
        _strings(values.get("tags")),
    )


def write_card(
    title: str, body: str, *, base_models: Sequence[str], relation: str = "merge", tags: Sequence[str] = (),
    library: str = "transformers",
) -> str:  # fmt: skip
    """Return the text of a README.md with the Hub's metadata for descent.

    >>> print(write_card("ab", "A merge.", base_models=["org/a", "org/b"]).splitlines()[1])
    base_model: ["org/a", "org/b"]
    """
    front = {
        "base_model": list(base_models), "base_model_relation": relation,
        "tags": list(dict.fromkeys([relation, "heredity", *tags])), "library_name": library,
    }  # fmt: skip
    lines = [
        f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in front.items()
    ]  # JSON is YAML
    return "\n".join(["---", *lines, "---", "", f"# {title}", "", body.strip(), ""])


def _strings(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(v) for v in value) if isinstance(value, list | tuple) else (str(value),)
