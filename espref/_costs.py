"""Machinery of costs: sums of |x_i - y_j|^p over a plan, without building more than a cache holds.

The plain form of a slice's cost is ``transport_cost(plan, x, y)``; the functions here compute the same number from the
matching of the projected points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ._checks import Array, InputLimit
from ._ties import Classes, Index, Matching, tied_pairs

#: Coordinates of differences x_i - y_j held at once: small enough to stay in cache (measured 2 to 3 times faster).
CHUNK = 2**16


#: Relative rounding of a cost: costs that differ by less are equal.
COST_ROUNDING = 64 * float(np.finfo(np.float64).eps)

#: Smaller costs have lost digits to underflow.
_SMALLEST = 1e-307


def matching_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float, scale: float = 1.0) -> float:
    """The cost of one slice, sum of mass (|x - y| / scale)^p, or the largest |x - y| for p = inf; it may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not matching.tied:
            return _untied_cost(matching, x, y, p, scale)
        if p == 2 and scale == 1:
            return _tied_squared_cost(matching, x, y, a, b)
        return _tied_cost(matching, x, y, a, b, p, scale)


def root_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array) -> float:
    """The largest |x - y| that carries mass."""
    return matching_cost(matching, x, y, a, b, np.inf)


def log_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float) -> float:
    """The logarithm of a cost, which may be out of the range of floats; -inf for cost 0."""
    largest = root_cost(matching, x, y, a, b)
    if largest == 0:
        return -np.inf
    return float(p * np.log(largest) + np.log(matching_cost(matching, x, y, a, b, p, largest)))


def in_range(cost: Array | float) -> NDArray[np.bool_]:
    """Whether costs neither overflowed nor lost digits to underflow; a cost of 0 may be exact, and is not in range."""
    return np.isfinite(cost) & (np.asarray(cost) >= _SMALLEST)


def as_representable(cost: float, largest: float, names: str = "x, y") -> float:
    """A cost that neither overflowed nor underflowed; ``largest`` is the largest distance that carries mass.

    ``names`` are those of the arguments that hold the points.
    """
    if largest > 0 and not in_range(cost):
        what = "underflow" if cost < 1 else "overflow"
        wanted = "is not too small for a float" if cost < 1 else "is finite"
        raise InputLimit(f"{names}: expected points whose cost |x - y|^p {wanted}, got an {what}; rescale the points")
    return cost


def _untied_cost(matching: Matching, x: Array, y: Array, p: float, scale: float) -> float:
    rows, cols, mass = matching.pieces
    source, target = matching.source.order, matching.target.order
    if len(rows) == len(source) == len(x):  # one piece per point: leave x where it is, and gather y only
        partner = np.empty(len(x), dtype=np.intp)
        partner[source[rows]] = target[cols]
        weights = np.empty(len(x))
        weights[source[rows]] = mass
        return paired_cost(x, y, None, partner, weights, p, scale)
    return paired_cost(x, y, source[rows], target[cols], mass, p, scale)


def paired_cost(x: Array, y: Array, i: Index | None, j: Index, mass: Array, p: float, scale: float = 1.0) -> float:
    """sum_k mass_k (|x_{i_k} - y_{j_k}| / scale)^p, some pairs at a time; i = None stands for 0, 1, 2, ...

    For p = inf, the largest distance of a pair whose mass is not zero.
    """
    step = max(1, CHUNK // x.shape[1])
    total = 0.0
    ys, xs = np.empty((2, min(step, len(j)), x.shape[1]))
    for start in range(0, len(j), step):
        part = slice(start, min(start + step, len(j)))
        size = part.stop - start
        difference = y.take(j[part], axis=0, out=ys[:size], mode="clip")  # "clip": the mode that writes to out directly
        difference -= x[part] if i is None else x.take(i[part], axis=0, out=xs[:size], mode="clip")
        if p == np.inf:
            total = max(total, float(np.where(mass[part] != 0, powers(difference, 1), 0.0).max()))
        else:
            total += float(mass[part] @ powers(difference, p, scale))
    return total


def powers(difference: Array, p: float, scale: float = 1.0) -> Array:
    """(|difference| / scale)^p of every row."""
    if p == 2 and scale == 1:
        squares: Array = np.einsum("kd,kd->k", difference, difference)
        return squares
    size = int(np.frexp(max(difference.max(), -difference.min()))[1])
    if abs(size) > 400 or scale != 1:  # the square may over- or underflow where the power does not
        distance = np.ldexp(np.sqrt(powers(np.ldexp(difference, -size), 2)), size)
        return np.asarray((distance / scale) ** p)
    return np.asarray(powers(difference, 2) ** (p / 2))


def ground_cost(x: Array, y: Array, p: float) -> Array:
    """|x_i - y_j|^p, (n, m); raises ValueError when an entry overflows."""
    size = int(np.frexp(max(np.abs(x).max(), np.abs(y).max()))[1])
    with np.errstate(over="ignore"):
        distance = cdist(x, y)
        if abs(size) > 400:  # squares may over- or underflow where distances do not
            scaled = np.ldexp(cdist(np.ldexp(x, -size), np.ldexp(y, -size)), size)
            distance = np.where((distance > 1e-150) & (distance < 1e150), distance, scaled)
        ground = distance**p
    if np.isinf(ground.max()):
        as_representable(np.inf, np.inf)
    return np.asarray(ground)


def _class_moments(points: Array, weights: Array, classes: Classes) -> tuple[Array, Array]:
    """Weighted mean of every class, seen from its first point, (U, d), and mean squared distance to the mean, (U,)."""
    (order, starts), share, sizes = classes, classes.shares(weights), classes.sizes()
    offsets = points[order]
    offsets -= np.repeat(points[order[starts]], sizes, axis=0)
    means = np.add.reduceat(share[:, None] * offsets, starts)
    offsets -= np.repeat(means, sizes, axis=0)
    return means, np.add.reduceat(share * powers(offsets, 2), starts)


def _tied_squared_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array) -> float:
    """Between two classes the mean of |x - y|^2 is |mean - mean|^2 plus both variances.

    Means are kept as offsets from a point of the class, which loses no digits far from the origin.
    """
    x_means, x_spread = _class_moments(x, a, matching.source)
    y_means, y_spread = _class_moments(y, b, matching.target)
    x_first, y_first = (side.order[side.starts] for side in (matching.source, matching.target))
    step = max(1, CHUNK // x.shape[1])
    total = 0.0
    for start in range(0, len(matching.pieces.mass), step):
        i, j, mass = (part[start : start + step] for part in matching.pieces)
        between = x[x_first[i]] - y[y_first[j]]
        between += x_means[i] - y_means[j]
        total += float(mass @ (powers(between, 2) + x_spread[i] + y_spread[j]))
    return total


def _tied_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float, scale: float) -> float:
    """All pairs of points of every two matched classes, some at a time."""
    step = max(1, CHUNK // x.shape[1])
    parts = (paired_cost(x, y, *part, p, scale) for part in tied_pairs(matching, a, b, step))
    return max(parts) if p == np.inf else sum(parts)


def far_apart(x: Array, y: Array, a: Array, b: Array) -> bool:
    """Whether the squared distance of the means is several times what the clouds spread around them."""
    x_mean, y_mean = a @ x, b @ y
    spread = a @ np.square(x - x_mean).sum(axis=1) + b @ np.square(y - y_mean).sum(axis=1)
    return bool(np.square(x_mean - y_mean).sum() > 4 * spread)
