"""Numbers as sentences write them: shares and decimals, alone or as ranges."""

from typing import Any

import polars as pl


def number(value: Any) -> float:
    """Return what polars gives for a minimum, a mean or a cell as a float."""
    return float(value)


def span(shares: pl.Series, digits: int = 1) -> str:
    """Write shares as a range in per cent, or as one where they round to the same."""
    low, high = (f"{number(end):.{digits}%}" for end in (shares.min(), shares.max()))
    return low if low == high else f"{low.removesuffix('%')} to {high}"


def decimals(values: pl.Series) -> str:
    """Write numbers as a range with two digits, or as one where they round to the same."""
    low, high = plain(values.min()), plain(values.max())
    return low if low == high else f"{low} to {high}"


def plain(value: Any, digits: int = 2) -> str:
    """Write a number with some digits, never as −0.00."""
    text = f"{float(value):.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")
