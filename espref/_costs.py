"""Machinery of costs: sums of |x_i - y_j|^p over a plan, without building more than a cache holds.

The plain form of a slice's cost is ``transport_cost(plan, x, y)``; the functions here compute the same number from the
matching of the projected points.
"""

from __future__ import annotations

import numpy as np

from ._checks import Array, as_finite_cost
from ._ties import Classes, Index, Matching, tied_pairs

#: Coordinates of differences x_i - y_j held at once: small enough to stay in cache (measured 2 to 3 times faster).
CHUNK = 2**16


def matching_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float) -> float:
    """The cost of one slice."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not matching.tied:
            cost = _untied_cost(matching, x, y, p)
        elif p == 2:
            cost = _tied_squared_cost(matching, x, y, a, b)
        else:
            cost = _tied_cost(matching, x, y, a, b, p)
    return as_finite_cost(cost)


def _untied_cost(matching: Matching, x: Array, y: Array, p: float) -> float:
    rows, cols, mass = matching.pieces
    source, target = matching.source.order, matching.target.order
    if len(rows) == len(source) == len(x):  # one piece per point: leave x where it is, and gather y only
        partner = np.empty(len(x), dtype=np.intp)
        partner[source[rows]] = target[cols]
        weights = np.empty(len(x))
        weights[source[rows]] = mass
        return paired_cost(x, y, None, partner, weights, p)
    return paired_cost(x, y, source[rows], target[cols], mass, p)


def paired_cost(x: Array, y: Array, i: Index | None, j: Index, mass: Array, p: float) -> float:
    """sum_k mass_k |x_{i_k} - y_{j_k}|^p, some pairs at a time; i = None stands for 0, 1, 2, ..."""
    step = max(1, CHUNK // x.shape[1])
    total = 0.0
    ys, xs = np.empty((2, min(step, len(j)), x.shape[1]))
    for start in range(0, len(j), step):
        part = slice(start, min(start + step, len(j)))
        size = part.stop - start
        difference = y.take(j[part], axis=0, out=ys[:size], mode="clip")  # "clip": the mode that writes to out directly
        difference -= x[part] if i is None else x.take(i[part], axis=0, out=xs[:size], mode="clip")
        total += float(mass[part] @ powers(difference, p))
    return total


def powers(difference: Array, p: float) -> Array:
    """|difference|^p of every row."""
    if p == 2:
        squares: Array = np.einsum("kd,kd->k", difference, difference)
        return squares
    size = np.frexp(max(difference.max(), -difference.min()))[1]
    if abs(size) > 400:  # the square may over- or underflow where the power does not
        difference = np.ldexp(difference, -size)
        return np.ldexp(np.sqrt(powers(difference, 2)), size) ** p
    return powers(difference, 2) ** (p / 2)


def ground_cost(x: Array, y: Array, p: float) -> Array:
    """|x_i - y_j|^p, (n, m)."""
    with np.errstate(over="ignore"):
        difference = x[:, None, :] - y[None, :, :]
        ground = powers(difference.reshape(-1, x.shape[1]), p).reshape(len(x), len(y))
    as_finite_cost(ground.max())
    return ground


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


def _tied_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float) -> float:
    """All pairs of points of every two matched classes, some at a time."""
    step = max(1, CHUNK // x.shape[1])
    return sum(paired_cost(x, y, *part, p) for part in tied_pairs(matching, a, b, step))
