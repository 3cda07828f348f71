"""Numbers as the page writes them: one format per quantity, a dash for what is not known."""

import math

MISSING = "–"
_NBSP = "\u00a0"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as a percentage: 0.423 → '42.3 %'."""
    return MISSING if _unknown(value) else f"{_signed(value, 100, digits)}{_NBSP}%"


def percent_range(low: float | None, high: float | None, digits: int = 1) -> str:
    """Write an interval of shares: '40.1 to 44.5 %'."""
    if _unknown(low) or _unknown(high):
        return MISSING
    return f"{_signed(low, 100, digits)} to {_signed(high, 100, digits)}{_NBSP}%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a plain number: '2.413', '−0.020'."""
    return MISSING if _unknown(value) else _signed(value, 1, digits)


def decimal_range(low: float | None, high: float | None, digits: int = 3) -> str:
    """Write an interval of plain numbers: '2.401 to 2.426'."""
    if _unknown(low) or _unknown(high):
        return MISSING
    return f"{_signed(low, 1, digits)} to {_signed(high, 1, digits)}"


def count(value: float | None) -> str:
    """Write a whole number with separators, a mean of whole numbers with one decimal: '12,345'."""
    if _unknown(value):
        return MISSING
    return f"{value:,.0f}" if float(value or 0).is_integer() or abs(value or 0) >= 100 else f"{value:,.1f}"


def size(value: float | None) -> str:
    """Write bytes in decimal units: '1.67 MB'."""
    if value is None or _unknown(value):
        return MISSING
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f}{_NBSP}{unit}" if unit == "bytes" else f"{value:.3g}{_NBSP}{unit}"
        value /= 1000
    return f"{value:.3g}{_NBSP}TB"


def duration(seconds: float | None) -> str:
    """Write seconds as people say them: '42 s', '3 min 20 s', '2 h 05 min'."""
    if seconds is None or _unknown(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}{_NBSP}s" if seconds < 10 else f"{seconds:.0f}{_NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_NBSP}min {rest:02d}{_NBSP}s"
    return f"{minutes // 60}{_NBSP}h {minutes % 60:02d}{_NBSP}min"


def rate(value: float | None) -> str:
    """Write a small rate to two significant digits: '0.00012', '1.2e-07'."""
    return MISSING if _unknown(value) else f"{value:.2g}"


def _unknown(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _signed(value: float | None, scale: float, digits: int) -> str:
    text = f"{scale * (value or 0.0):,.{digits}f}"
    return text.replace("-", "" if float(text.replace(",", "")) == 0 else "\u2212")
