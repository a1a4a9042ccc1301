"""What arguments must look like: every public function turns its input into clean float64 arrays here.

Each function names the argument in its error, says what was expected and what came.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: The largest count of anything: no array could hold more.
MOST = 2**62


def _real_array(value: ArrayLike, name: str) -> tuple[Array, np.dtype[Any]]:
    """``value`` as float64, and the dtype it came with."""
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: expected an array of real numbers, got a ragged or unreadable one") from error
    if raw.dtype.kind not in "buif":
        raise ValueError(f"{name}: expected real numbers, got dtype {raw.dtype}")
    with np.errstate(over="ignore"):
        return np.asarray(raw, dtype=np.float64, order="C"), raw.dtype


def _finite(array: Array, name: str) -> Array:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = ", ".join(map(str, bad[0]))
        raise ValueError(f"{name}: expected finite numbers, got {array[tuple(bad[0])]} at index ({where})")
    return array


def as_values(value: ArrayLike, name: str) -> Array:
    """Points on the line: a finite, non-empty vector, shape (n,)."""
    array, _ = _real_array(value, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty vector of shape (n,), got shape {array.shape}")
    return _finite(array, name)


def as_points(value: ArrayLike, name: str) -> Array:
    """Points of R^d: a finite array of shape (n, d), n >= 1, d >= 1."""
    array, _ = _real_array(value, name)
    if array.ndim != 2 or array.size == 0:
        hint = " (points on the line are a column: x[:, None])" if array.ndim == 1 and array.size else ""
        raise ValueError(f"{name}: expected shape (n, d) with n, d >= 1, got shape {array.shape}{hint}")
    return _finite(array, name)


def as_pair(x: ArrayLike, y: ArrayLike, names: tuple[str, str] = ("x", "y")) -> tuple[Array, Array]:
    """Two clouds of the same dimension, shapes (n, d) and (m, d)."""
    x, y = as_points(x, names[0]), as_points(y, names[1])
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{names[1]}: expected the dimension of {names[0]}, d = {x.shape[1]}, got d = {y.shape[1]}")
    return x, y


def as_weights(value: ArrayLike | None, n: int, name: str) -> Array:
    """Probability weights, shape (n,), that sum to 1; None means uniform.

    A sum within 1e-9 of 1 (within 16 units of rounding for narrower floats) is renormalised, any other refused.
    """
    if value is None:
        return np.full(n, 1.0 / n)
    array, dtype = _real_array(value, name)
    if array.shape != (n,):
        raise ValueError(f"{name}: expected {n} weights, shape ({n},), got shape {array.shape}")
    _finite(array, name)
    if array.min() < 0:
        i = int(array.argmin())
        raise ValueError(f"{name}: expected nonnegative weights, got {array[i]} at index {i}")
    total = math.fsum(array) if array.max() < 1e300 / n else math.inf
    slack = max(1e-9, 16 * np.finfo(dtype).eps) if dtype.kind == "f" else 1e-9
    if total == 0:
        raise ValueError(f"{name}: expected weights that sum to 1, all are zero")
    if abs(total - 1) > slack:
        raise ValueError(f"{name}: expected weights that sum to 1, got a sum of {total!r}")
    return array / total


def as_directions(value: ArrayLike, dim: int) -> Array:
    """Directions, shape (L, d), L >= 1, no zero row. Only the direction of a row matters, not its length."""
    array, _ = _real_array(value, "directions")
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] != dim:
        raise ValueError(f"directions: expected shape (L, {dim}) with L >= 1, got shape {array.shape}")
    _finite(array, "directions")
    zero = np.flatnonzero(~array.any(axis=1))
    if len(zero):
        raise ValueError(f"directions: expected nonzero rows, got a zero direction at row {zero[0]}")
    return array


def as_prior(value: ArrayLike | None, n: int) -> Array:
    """Prior weights over slices, shape (L,); see :func:`as_weights`."""
    return as_weights(value, n, "prior")


def as_real(value: float, name: str, *, least: float, infinite: bool = False, above: bool = False) -> float:
    """A real number >= ``least`` (> ``least`` if ``above``), infinite only where allowed."""
    expected = f"a number {'>' if above else '>='} {least:g}" + ("" if infinite else " and finite")
    try:
        if np.ndim(value) or isinstance(value, (str, bytes)) or np.iscomplexobj(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected {expected}, got {value!r}") from error
    too_small = number <= least if above else number < least
    if math.isnan(number) or too_small or (math.isinf(number) and not infinite):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return number


def as_beta(value: float) -> float:
    """Inverse temperature over slices: beta >= 0; infinity selects the cheapest slices."""
    return as_real(value, "beta", least=0, infinite=True)


def as_tau(value: float) -> float:
    """Temperature of the soft sort: tau >= 0, zero being the hard limit."""
    return as_real(value, "tau", least=0)


def as_exponent(value: float) -> float:
    """Exponent of the ground cost |x - y|^p: p >= 1."""
    return as_real(value, "p", least=1)


def as_count(value: int, name: str, *, least: int = 1) -> int:
    """A whole number >= ``least``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
    if value > MOST:
        raise ValueError(f"{name}: expected a whole number <= {MOST}, got a larger one")
    return int(value)


def as_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def as_generator(seed: int | np.random.Generator | None) -> np.random.Generator:
    """The only source of random numbers: an int, a numpy Generator, or None for fresh entropy."""
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is None:
        return np.random.default_rng()
    return np.random.default_rng(as_count(seed, "seed", least=0))
