"""What a stored number format does to a merge: how large its rounding is, and how it bends the coefficients.

Rounding is no small independent noise here. Where a parent differs from the base by less than one step of the
format, the rounded merge takes the value of the heavier parent outright, so that .3 / .7 reads as .17 / .83.
The size of that effect depends on ‖Δ‖/‖w‖ alone, and is found by simulating the merge.
"""

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity import seeds

SIGNIFICAND_BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 3}
_ELEMENTS = 1 << 15
_STEPS = 12
_CLOSE = 0.003
_RMS = 0.3924  # of one rounding, relative to the values, in units of 2^−bits (log-uniform significands)


class Bent(msgspec.Struct, frozen=True, eq=False):
    """What a merge reads as, once stored.

    Attributes:
        coefficients: read back from the rounded merge.
        residual: ‖δ − Σ a_i δ_i‖ / ‖δ‖ of the rounded merge.
    """

    coefficients: Float[ndarray, "m"]
    residual: float


def noise(dtype: str) -> float:
    """Return the root mean square rounding error of a format, relative to the values; 0 if unknown."""
    return _RMS * 2.0 ** -SIGNIFICAND_BITS[dtype] if dtype in SIGNIFICAND_BITS else 0.0


def rounded(values: Float[ndarray, "*n"], dtype: str) -> Float[ndarray, "*n"]:
    """Round to the significand of a format, ties to even; exponents are not limited."""
    bits = SIGNIFICAND_BITS.get(dtype, 53)
    significand, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.round(significand * 2.0**bits), exponent - bits))


def straightened(
    read: Float[ndarray, "m"],
    products: Float[ndarray, "m m"],
    reference_norm: float,
    parent_dtypes: tuple[str, ...],
    dtype: str,
) -> tuple[Float[ndarray, "m"], float]:
    """Find the coefficients of a merge that, once stored, would read as those observed.

    Args:
        read: coefficients as read.
        products, reference_norm, parent_dtypes, dtype: as `bent`.

    Returns:
        The coefficients, and the residual that storing such a merge leaves.
    """
    guess = read
    for _ in range(_STEPS):
        seen = bent(guess, products, reference_norm, parent_dtypes, dtype)
        off = read - seen.coefficients
        if np.abs(off).max() < _CLOSE:
            break
        guess = np.maximum(guess + off / 2, 0.0)
    return guess, bent(guess, products, reference_norm, parent_dtypes, dtype).residual


def bent(
    coefficients: Float[ndarray, "m"],
    products: Float[ndarray, "m m"],
    reference_norm: float,
    parent_dtypes: tuple[str, ...],
    dtype: str,
    seed: int = 0,
) -> Bent:
    """Simulate a merge of normal weights with given task-vector products, store it, read its coefficients.

    Args:
        coefficients: of the parents' task vectors.
        products: inner products of the parents' task vectors.
        reference_norm: ‖w_ref‖ over the same elements.
        parent_dtypes: the format each parent is stored in.
        dtype: the format the merge is stored in.
        seed: of the simulated weights.
    """
    rng = seeds.generator(seed, "rounding of a merge")
    values, vectors = np.linalg.eigh(products)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    base = rounded(rng.standard_normal(_ELEMENTS) * reference_norm, dtype)
    steps = root @ rng.standard_normal((len(coefficients), _ELEMENTS))
    deltas = np.array(
        [rounded(base + step, kind) - base for step, kind in zip(steps, parent_dtypes, strict=True)]
    )
    child = rounded(base + coefficients @ deltas, dtype) - base
    read = np.linalg.lstsq(deltas @ deltas.T, deltas @ child, rcond=None)[0]
    norm = float(np.linalg.norm(child))
    left = float(np.linalg.norm(child - read @ deltas))
    return Bent(read, left / norm if norm > 0 else 0.0)
