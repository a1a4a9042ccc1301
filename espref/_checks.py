"""What arguments must look like: every public function turns its input into clean float64 arrays here.

Each function names the argument in its error, says what was expected and what came.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, sparray, spmatrix

from ._labels import refuse_hidden, refuse_other_columns, refuse_other_rows

Array = NDArray[np.float64]
Plan: TypeAlias = Array | sparray | spmatrix

#: Where random numbers come from.
RandomSource: TypeAlias = int | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None

#: The largest count of anything: no array could hold more.
MOST = 2**62


class Limit(Exception):
    """A limit that the documentation states: the input is valid, but the result cannot be computed or certified."""


class InputLimit(ValueError, Limit):
    """A result beyond the range of floats, or too large to hold."""


class NumericalLimit(RuntimeError, Limit):
    """An iteration that did not converge, or a solution that could not be certified."""


def _real_array(value: Any, name: str) -> tuple[Array, np.dtype[Any]]:
    """``value`` as float64, and the dtype it came with."""
    refuse_hidden(value, name)
    try:
        raw = np.asarray(value)
    except (
        ValueError,
        TypeError,
        RuntimeError,
    ) as error:  # ragged lists; tensors that require gradients or live on GPUs
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: expected an array of real numbers, got what NumPy cannot read: {reason}") from error
    if raw.dtype.kind not in "buif":
        hint = "; .to_numpy(dtype=float) converts nullable and Arrow columns" if hasattr(value, "to_numpy") else ""
        raise ValueError(f"{name}: expected real numbers, got dtype {raw.dtype}{hint}")
    with np.errstate(over="ignore", under="ignore"):
        array = np.asarray(raw, dtype=np.float64, order="C")
    _refuse_new_ties(raw, array, name)
    return array, raw.dtype


def _refuse_new_ties(raw: NDArray[Any], array: Array, name: str) -> None:
    """Integers beyond 2^53 and long doubles may be rounded, but different ones must not become equal."""
    wide = raw.dtype.kind in "iu" and raw.dtype.itemsize == 8 and raw.size and max(raw.max(), -int(raw.min())) > 2**53
    if not wide and not (raw.dtype.kind == "f" and raw.dtype.itemsize > 8):
        return
    columns = (raw.reshape(-1, 1), array.reshape(-1, 1)) if raw.ndim != 2 else (raw, array)
    for before, after in zip(columns[0].T, columns[1].T, strict=True):
        if len(np.unique(before)) != len(np.unique(after)):
            raise ValueError(
                f"{name}: expected numbers that float64 tells apart, got {raw.dtype} values that round to the same; "
                "subtract a common offset first"
            )


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
    """Two clouds of the same dimension, shapes (n, d) and (m, d), whose coordinates have no differing names."""
    source, target = as_points(x, names[0]), as_points(y, names[1])
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"{names[1]}: expected the dimension of {names[0]}, d = {source.shape[1]}, got d = {target.shape[1]}"
        )
    refuse_other_columns(x, y, names)
    return source, target


def as_measures(
    x: ArrayLike, y: ArrayLike, a: ArrayLike | None, b: ArrayLike | None
) -> tuple[Array, Array, Array, Array]:
    """Two weighted clouds: x (n, d), y (m, d), a (n,), b (m,)."""
    source, target = as_pair(x, y)
    refuse_other_rows(x, a, ("x", "a"))
    refuse_other_rows(y, b, ("y", "b"))
    return source, target, as_weights(a, len(source), "a"), as_weights(b, len(target), "b")


def as_line_measures(
    u: ArrayLike, v: ArrayLike, a: ArrayLike | None, b: ArrayLike | None
) -> tuple[Array, Array, Array, Array]:
    """Two weighted clouds on the line: u (n,), v (m,), a (n,), b (m,)."""
    source, target = as_values(u, "u"), as_values(v, "v")
    refuse_other_rows(u, a, ("u", "a"))
    refuse_other_rows(v, b, ("v", "b"))
    return source, target, as_weights(a, len(source), "a"), as_weights(b, len(target), "b")


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
        counts = "; of counts, pass counts / counts.sum()" if dtype.kind in "iu" else ""
        raise ValueError(f"{name}: expected weights that sum to 1, got a sum of {total!r}{counts}")
    return array / total


def as_directions(value: ArrayLike, dim: int) -> Array:
    """Directions, shape (L, d), L >= 1, no zero row. Only the direction of a row matters, not its length."""
    array, _ = _real_array(value, "directions")
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] != dim:
        hint = "; one direction per row: pass directions.T" if array.ndim == 2 and len(array) == dim else ""
        raise ValueError(f"directions: expected shape (L, {dim}) with L >= 1, got shape {array.shape}{hint}")
    _finite(array, "directions")
    zero = np.flatnonzero(~array.any(axis=1))
    if len(zero):
        raise ValueError(f"directions: expected nonzero rows, got a zero direction at row {zero[0]}")
    return array


def as_prior(value: ArrayLike | None, n: int) -> Array:
    """Prior weights over slices, shape (L,); see :func:`as_weights`."""
    return as_weights(value, n, "prior")


def as_levels(value: ArrayLike, name: str) -> Array:
    """Numbers in [0, 1], of any shape, at least one."""
    array, _ = _real_array(value, name)
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one level, got shape {array.shape}")
    _finite(array, name)
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"{name}: expected levels in [0, 1], got {array.min():g} to {array.max():g}")
    return array


def as_plan(plan: Plan | ArrayLike) -> coo_array:
    """A matrix, dense or sparse, as sparse entries of finite float64 numbers; it need not be a transport plan."""
    sparse = isinstance(plan, (sparray, spmatrix))
    given: Any = plan if sparse else _real_array(plan, "plan")[0]
    if given.ndim != 2:  # scipy has no sparse array without dimensions
        raise ValueError(f"plan: expected shape (n, m) with n, m >= 1, got shape {given.shape}")
    entries = coo_array(given)
    if 0 in entries.shape:
        raise ValueError(f"plan: expected shape (n, m) with n, m >= 1, got shape {entries.shape}")
    values, _ = _real_array(entries.data, "plan")
    for k in np.flatnonzero(~np.isfinite(values))[:1]:
        where = f"({entries.row[k]}, {entries.col[k]})"
        raise ValueError(f"plan: expected finite numbers, got {values[k]} at index {where}")
    return coo_array((values, (entries.row, entries.col)), shape=entries.shape)


def as_nonnegative_plan(plan: Plan | ArrayLike) -> coo_array:
    """The positive entries of a plan, at least one, each once, row by row."""
    entries = as_plan(plan).tocsr().tocoo()  # adds up entries that are listed twice
    if entries.nnz and entries.data.min() < 0:
        k = int(entries.data.argmin())
        where = f"({entries.row[k]}, {entries.col[k]})"
        raise ValueError(f"plan: expected nonnegative entries, got {entries.data[k]} at index {where}")
    entries.eliminate_zeros()
    if not entries.nnz:
        raise ValueError("plan: expected some mass, all entries are 0")
    return entries


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


def as_tau(value: float, *, infinite: bool = False) -> float:
    """Temperature of the soft sort: tau >= 0, zero being the hard limit. Infinity only where it has a meaning."""
    return as_real(value, "tau", least=0, infinite=infinite)


def as_exponent(value: float, *, infinite: bool = False) -> float:
    """Exponent of the ground cost |x - y|^p: p >= 1. Infinity, the bottleneck cost, only where it has a meaning."""
    return as_real(value, "p", least=1, infinite=infinite)


def as_fraction(value: float, name: str) -> float:
    """A number in [0, 1]."""
    number = as_real(value, name, least=0)
    if number > 1:
        raise ValueError(f"{name}: expected a number <= 1, got {value!r}")
    return number


def as_count(value: int, name: str, *, least: int = 1) -> int:
    """A whole number >= ``least``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
    if value > MOST:
        raise ValueError(f"{name}: expected a whole number <= {MOST}, got a larger one")
    return int(value)


def as_power(power: int) -> int:
    """The exponent q of the sort kernel: 1 (Laplace) or 2 (Gauss)."""
    number = isinstance(power, (int, float, np.number)) and not isinstance(power, bool)
    if not number or power not in (1, 2):
        raise ValueError(f"power: expected 1 (Laplace kernel) or 2 (Gauss kernel), got {power!r}")
    return int(power)


def as_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def as_flag(value: bool, name: str) -> bool:
    """True or False, nothing that merely counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def as_generator(rng: RandomSource) -> np.random.Generator:
    """The only source of random numbers (SPEC 7): what NumPy's ``default_rng`` takes; None for fresh entropy."""
    if rng is None or isinstance(rng, (np.random.Generator, np.random.BitGenerator, np.random.SeedSequence)):
        return np.random.default_rng(rng)
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, (int, np.integer)) or rng < 0:
        raise ValueError(f"rng: expected a whole number >= 0 or a NumPy source of random numbers, got {rng!r}")
    return np.random.default_rng(rng)  # a seed may have any number of bits
