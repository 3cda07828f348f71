"""What a recipe says of the result's tokens: whose they are, how rows are padded, where single rows come from.

Source: the `tokenizer` table of mergekit 0.1.5.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from heredity.errors import ConfigError

_ROW = (
    'write { source = "model" }, { source = { kind = "zero" } } or { source = { kind = "model_token", … } }'
)


class TokenRow(Struct, frozen=True, kw_only=True):
    """Where the rows of one token come from, in models that lack it; in all of them with `force`.

    Attributes:
        model: whose row it is; None is zeros.
        token: another token of that model, whose row is taken.
        row: the number of the row that is taken.
        force: replace the rows of models that have the token too.
    """

    model: str | None = None
    token: str | None = None
    row: int | None = None
    force: bool = False


class Tokens(Struct, frozen=True, kw_only=True):
    """The tokens of the result.

    Attributes:
        source: "union", "base" or a model's name.
        pad_to_multiple_of: rows are added until their number is a multiple; a model's added rows are its mean.
        rows: token → its row; a token that the source lacks is added to it.
    """

    source: str = "union"
    pad_to_multiple_of: int | None = None
    rows: dict[str, TokenRow] = {}

    def record(self) -> Any:
        """Return plain values that `read_tokens` reads."""
        rows = {token: _record(row) for token, row in self.rows.items()}
        if not rows and self.pad_to_multiple_of is None:
            return self.source
        padded = {"pad_to_multiple_of": self.pad_to_multiple_of} if self.pad_to_multiple_of else {}
        return {"source": self.source, **padded, **({"tokens": rows} if rows else {})}


def read_tokens(value: Any, where: str, reference: Callable[[Any], str] = str) -> Tokens | None:
    """Read a recipe's `tokenizer`: a name, or a table with source, pad_to_multiple_of and tokens.

    Args:
        value: of the key; None says nothing.
        where: of the key, for messages.
        reference: reads a model's name.

    Raises:
        ConfigError: something in it is unknown or cannot be used.
    """
    if value is None or isinstance(value, str):
        return None if value is None else Tokens(source=value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected a name or a table - at {where}", 'tokenizer = "union"')
    for key in value:
        if key not in ("source", "pad_to_multiple_of", "tokens"):
            raise ConfigError(
                f"unknown field '{key}' - at {where}", "it has source, pad_to_multiple_of and tokens"
            )
    multiple = value.get("pad_to_multiple_of")
    if multiple is not None and (not isinstance(multiple, int) or isinstance(multiple, bool) or multiple < 1):
        raise ConfigError(f"{multiple!r} is no number of rows - at {where}.pad_to_multiple_of", "say 64")
    rows = value.get("tokens") or {}
    if not isinstance(rows, Mapping):
        raise ConfigError(f"expected a table - at {where}.tokens", _ROW)
    return Tokens(
        source=reference(value.get("source") or "union"),
        pad_to_multiple_of=multiple,
        rows={str(t): _row(row, f"{where}.tokens.{t}", reference) for t, row in rows.items()},
    )


def _row(value: Any, where: str, reference: Callable[[Any], str]) -> TokenRow:
    if not isinstance(value, Mapping) or not {"source"} <= set(value) <= {"source", "force"}:
        raise ConfigError(f"expected a table with 'source' - at {where}", _ROW)
    source, force = value["source"], bool(value.get("force", False))
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if kind == "zero":
        return TokenRow(force=force)
    if kind == "model_token":
        token, row = source.get("token"), source.get("token_id")
        if "model" not in source or (token is None) == (row is None):
            raise ConfigError(f"model_token takes 'model', and 'token' or 'token_id' - at {where}", _ROW)
        return TokenRow(model=reference(source["model"]), token=token, row=row, force=force)
    if source is None or kind is not None:
        raise ConfigError(f"{source!r} is no source of a row - at {where}", _ROW)
    return TokenRow(model=reference(source), force=force)


def _record(row: TokenRow) -> dict[str, Any]:
    source: Any = row.model
    if row.model is None:
        source = {"kind": "zero"}
    elif row.token is not None:
        source = {"kind": "model_token", "model": row.model, "token": row.token}
    elif row.row is not None:
        source = {"kind": "model_token", "model": row.model, "token_id": row.row}
    return {"source": source, **({"force": True} if row.force else {})}
