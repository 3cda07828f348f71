"""The model card of a merge, with the metadata by which the Hub shows its family."""

import json
from collections.abc import Mapping
from typing import Any

from heredity.run import to_toml


def text(name: str, lock: Mapping[str, Any]) -> str:
    """Return README.md: front matter, inputs, recipe, how to check it."""
    inputs = [entry["name"] for entry in lock["inputs"]]
    method = lock["recipe"].get("merge", {}).get("method", "merge")
    lines = ["---", "base_model:", *(f"- {json.dumps(model, ensure_ascii=False)}" for model in inputs)]
    lines += [
        "base_model_relation: merge",
        "library_name: transformers",
        "tags:",
        "- merge",
        "- heredity",
        "---",
        "",
    ]
    lines += [
        f"# {name}",
        "",
        f"A merge of {_listed(inputs)} by `{method}`, made with heredity {lock['heredity']}.",
        "",
    ]
    lines += [f"Configuration and tokenizer come from `{lock['donor']}`.", "", "## Recipe", ""]
    lines += ["```toml", to_toml(lock["recipe"]).strip(), "```", ""]
    if lock["notes"]:
        lines += ["## Notes", "", *(f"- {note}" for note in lock["notes"]), ""]
    lines += [
        "`heredity.lock.json` holds the hashes and the coefficients of every tensor;",
        "`heredity verify` checks them.",
        "",
    ]
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
