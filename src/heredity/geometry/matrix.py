"""A square matrix whose rows have names, and the file it is read from.

`numpy.asarray(matrix)` gives its values, so a `Matrix` goes wherever an array goes.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.errors import ConfigError

_ASYMMETRY = 1e-6


class Matrix(msgspec.Struct, frozen=True, eq=False):
    """Pairwise numbers between named models: similarities or distances.

    Attributes:
        names: one for each row, in order, all different.
        values: float64[n, n], symmetric and finite.
    """

    names: tuple[str, ...]
    values: Float[ndarray, "n n"]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.names)

    def select(self, keep: Sequence[str]) -> "Matrix":
        """Return the rows and columns of some names, in the order given.

        Raises:
            ConfigError: a name is not in the matrix.
        """
        missing = [name for name in keep if name not in self.names]
        if missing:
            raise ConfigError(f"no row named {missing[0]!r}", f"the matrix has: {', '.join(self.names)}")
        rows = [self.names.index(name) for name in keep]
        return Matrix(tuple(keep), self.values[np.ix_(rows, rows)])

    def labels(self, field: str) -> tuple[str, ...]:
        """Read one field of names such as `seed_1_data_9`: `labels("data")` gives '9'.

        Raises:
            ConfigError: a name has no such field.
        """
        return tuple(_field(name, field) for name in self.names)


def read_matrix(path: str | Path) -> Matrix:
    """Read a matrix from comma-separated text: a header row of names, then one row of numbers for each.

    A whole line may be quoted, as in the files released with arXiv 2302.04863.

    Raises:
        ConfigError: the file cannot be read, or is not a symmetric square of finite numbers under its header.
    """
    path = Path(path)
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", "give a comma-separated text file") from None
    if not lines:
        raise ConfigError(f"{path}: is empty", "the first line holds the names, the next ones the rows")
    rows = [_cells(line) for line in lines]
    names = tuple(rows[0])
    try:
        values = np.array([[float(cell) for cell in row] for row in rows[1:]], dtype=np.float64)
    except ValueError as error:
        raise ConfigError(
            f"{path}: {error}", "every row has one number for each name of the header"
        ) from None
    if values.shape != (len(names), len(names)):
        shape = " × ".join(map(str, values.shape))
        raise ConfigError(f"{path}: {len(names)} names but {shape} numbers", "the matrix must be square")
    return Matrix(names, checked(values, str(path), names))


def checked(values: Any, what: str = "matrix", names: Sequence[str] | None = None) -> Float[ndarray, "n n"]:
    """Return float64[n, n], made exactly symmetric.

    Raises:
        ConfigError: it is not square, not finite, or not symmetric to 1e-6 of its largest value.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ConfigError(f"{what}: shape {list(values.shape)}", "pairwise functions take a square matrix")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        place = f"{names[row]}, {names[column]}" if names else f"{row}, {column}"
        raise ConfigError(
            f"{what}: not a finite number at [{place}]", "leave that model out, or mend its weights"
        )
    if names is not None and len(dict.fromkeys(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ConfigError(f"{what}: two rows are named {twice!r}", "names must differ")
    if np.abs(values - values.T).max() > _ASYMMETRY * max(1.0, float(np.abs(values).max())):
        raise ConfigError(
            f"{what}: not symmetric", "pairwise numbers must not depend on the order of the pair"
        )
    return (values + values.T) / 2


def _cells(line: str) -> list[str]:
    cells = next(csv.reader([line.strip()], skipinitialspace=True))
    if len(cells) == 1:
        cells = cells[0].split(",")  # the whole line was quoted
    return [cell.strip() for cell in cells]


def _field(name: str, field: str) -> str:
    parts = name.split("_")
    if field not in parts[::2]:
        raise ConfigError(f"{name!r} has no field {field!r}", "names look like seed_1_data_9")
    return parts[2 * parts[::2].index(field) + 1]
