"""Tokenizers of results that no model has: tokens added, another chat template; made once, in the cache."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from heredity.atomic import write_bytes
from heredity.checkpoint import Checkpoint
from heredity.digests import cache_folder
from heredity.errors import ConfigError, MismatchError
from heredity.jsonfile import read_table
from heredity.merging._open import tokenized
from heredity.writer import TOKENIZER_FILES

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
_BUILT_IN = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
}
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


def with_tokens(source: Path, added: Mapping[str, int], models: Sequence[Checkpoint]) -> Path:
    """Return a folder with a tokenizer's files and tokens added to it.

    Args:
        source: folder of the tokenizer.
        added: token → its row.
        models: whose tokenizers say how an added token is treated.

    Raises:
        MismatchError: the tokenizer has no tokenizer.json.
    """
    if not (source / "tokenizer.json").exists():
        raise MismatchError(f"{source}: has no tokenizer.json to add tokens to", 'use tokenizer = "base"')
    table = read_table(source / "tokenizer.json")
    known: dict[str, dict[str, Any]] = {}
    for checkpoint in models:
        file = tokenized(checkpoint) / "tokenizer.json"
        for entry in (read_table(file).get("added_tokens") or []) if file.exists() else []:
            known.setdefault(entry["content"], entry)
    entries = [{**_PLAIN, **known.get(t, {}), "id": row, "content": t} for t, row in added.items()]
    table["added_tokens"] = [*(table.get("added_tokens") or []), *entries]
    return _cached(source, {"tokenizer.json": json.dumps(table, ensure_ascii=False)})


def with_template(source: Path, template: str, notes: list[str]) -> Path:
    """Return a folder with a tokenizer's files and this chat template in place of its own."""
    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        notes.append(f"{source.name} has no tokenizer: the chat template stands alone")
    changed = {TEMPLATE: template}
    if (source / SETTINGS).is_file():  # where transformers before 4.49 looks for it
        settings = read_table(source / SETTINGS) | {"chat_template": template}
        changed[SETTINGS] = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    return _cached(source, changed, leave_out=("chat_template.json",))


def template_text(wanted: str, root: Path) -> str:
    """Return the text of a chat template: "chatml", a .jinja file beside the recipe, or the text itself.

    "auto" stays: it depends on the models.

    Raises:
        ConfigError: it is none of these.
    """
    if wanted == "auto" or "{" in wanted:
        return wanted
    if wanted in _BUILT_IN:
        return _BUILT_IN[wanted]
    if wanted.endswith(".jinja"):
        try:
            return (root / wanted).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{root / wanted}: cannot be read ({error})", "name a Jinja file") from None
    raise ConfigError(
        f"'chat_template' {wanted!r} is not built in",
        f"give 'auto', {', '.join(map(repr, _BUILT_IN))}, a .jinja file, or the template's text",
    )


def usual_template(models: Sequence[Checkpoint], notes: list[str]) -> str | None:
    """Return the chat template that most models have; of equals, the one that comes first; None if none has one."""
    found = Counter(text.strip() for model in models if (text := _own_template(tokenized(model))))
    if not found:
        notes.append("no model has a chat template")
        return None
    text, count = found.most_common(1)[0]
    notes.append(f"chat template of {count} of {len(models)} models")
    return text


def _own_template(folder: Path) -> str | None:
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    if not (folder / SETTINGS).is_file():
        return None
    found = read_table(folder / SETTINGS).get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _cached(source: Path, changed: Mapping[str, str], leave_out: Sequence[str] = ()) -> Path:
    """Write a tokenizer's files, some of them changed, into a folder of the cache named by what they are."""
    names = [n for n in TOKENIZER_FILES if n not in leave_out and (source / n).is_file()]
    files = {name: (source / name).read_bytes() for name in names}
    files |= {name: text.encode() for name, text in changed.items()}
    digest = sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    target = cache_folder() / "tokenizers" / digest.hexdigest()[:24]
    for name, data in files.items():
        if not (target / name).exists():
            write_bytes(target / name, data)
    return target
