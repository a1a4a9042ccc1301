r"""Chapter 3. Lifting: a plan on the line, read between points of $R^d$.

Project source and target on a direction $\theta$, match them on the line, and let the plan $G_\theta$ couple the points
themselves. It costs $c_\theta = \sum_{ij} |x_i - y_j|^p\, G_{\theta,ij}$, in all of $R^d$.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, sparray, spmatrix

from ._checks import Array, _real_array, as_choice, as_directions, as_exponent, as_pair, as_weights
from .line import (
    TIES,
    Index,
    Matching,
    class_shares,
    class_sizes,
    match,
    refuse_large,
    split_ties,
    tied_pairs,
    to_plan,
)

#: Coordinates of differences x_i - y_j held at once: small enough to stay in cache (measured 2 to 3 times faster).
_CHUNK = 2**16

#: Points from which threads pay (measured), how many are used at most, and how many slices one takes at a time.
WORTH_A_THREAD = 4096
_MOST_THREADS = 8
_SLICES = 8

S = TypeVar("S")
T = TypeVar("T")


def project(points: Array, directions: Array) -> Array:
    """Scores <x_i, theta_l>, shape (L, n).

    einsum, not a BLAS product: each score is summed in the same order wherever it stands: equal points stay tied.
    Lengths of directions, and huge or tiny clouds, are scaled by powers of two first, so that nothing over- or
    underflows; no plan on the line notices.
    """
    exponents = np.frexp(np.abs(directions).max(axis=1, keepdims=True))[1]
    size = np.frexp(max(points.max(), -points.min()))[1]
    shift = np.clip(size, -900, 900) - size
    return np.einsum("ld,nd->ln", np.ldexp(directions, -exponents), np.ldexp(points, shift) if shift else points)


def over_slices(
    work: Callable[[Matching], T], x: Array, y: Array, directions: Array, a: Array, b: Array, ties: str
) -> list[T]:
    """``work`` on the monotone plan of every slice, in the order of the directions.

    Slices are independent: large ones are shared among threads, each computed as it would be alone.
    """

    def some(start: int) -> list[T]:
        part = directions[start : start + _SLICES]
        return [work(match(u, v, a, b, ties)) for u, v in zip(project(x, part), project(y, part), strict=True)]

    return list(chain.from_iterable(in_threads(some, range(0, len(directions), _SLICES), len(x) + len(y))))


def in_threads(work: Callable[[S], T], items: Sequence[S], points: int) -> list[T]:
    """``work`` on every item, in order; in threads where there are points enough."""
    if points < WORTH_A_THREAD or len(items) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        return list(threads.map(work, items))


def _checked(
    x: ArrayLike, y: ArrayLike, directions: ArrayLike, a: ArrayLike | None, b: ArrayLike | None, ties: str
) -> tuple[Array, Array, Array, Array, Array]:
    x, y = as_pair(x, y)
    directions = as_directions(directions, x.shape[1])
    as_choice(ties, "ties", TIES)
    return x, y, directions, as_weights(a, len(x), "a"), as_weights(b, len(y), "b")


def sliced_plans(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    ties: str = "split",
) -> list[coo_array]:
    """The lifted plan of every direction.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction a row.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    ties : "split" or "first"
        See :func:`espref.line_plan`.

    Returns
    -------
    list of L scipy.sparse.coo_array, shape (n, m)
        Each with mass 1 and marginals a and b; without ties at most n + m - 1 entries.

    Raises
    ------
    ValueError
        For malformed input, or when splitting ties would take too many entries.

    Examples
    --------
    >>> from espref import sliced_plans
    >>> sliced_plans([[0, 0], [1, 1]], [[5, 0], [0, 5]], [[1, 0], [0, 1]])[0].toarray()
    array([[0. , 0.5],
           [0.5, 0. ]])

    References
    ----------
    liu2025est
    """
    x, y, directions, a, b = _checked(x, y, directions, a, b, ties)
    kept = over_slices(lambda matching: matching, x, y, directions, a, b, ties)
    refuse_large(kept)
    return [to_plan(split_ties(matching, a, b), len(x), len(y)) for matching in kept]


def slice_costs(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float = 2,
    ties: str = "split",
) -> Array:
    r"""The cost $c_\theta = \sum_{ij} |x_i - y_j|^p\, G_{\theta,ij}$ of every lifted plan, without building any.

    Parameters are those of :func:`sliced_plans`; ``p >= 1`` is the exponent of the Euclidean ground cost.
    Memory beyond the input is O((L + d) (n + m)). A class of tied points is met through its mean when p = 2,
    and pair by pair, some at a time, for other p.

    Returns
    -------
    (L,) array, in units of length^p.

    Raises
    ------
    ValueError
        For malformed input, or when a cost overflows.

    Examples
    --------
    >>> from espref import slice_costs
    >>> slice_costs([[0, 0], [1, 1]], [[5, 0], [0, 5]], [[1, 0], [0, 1]])
    array([21., 21.])

    References
    ----------
    liu2025est
    """
    x, y, directions, a, b = _checked(x, y, directions, a, b, ties)
    p = as_exponent(p)
    return np.array(over_slices(lambda m: matching_cost(m, x, y, a, b, p), x, y, directions, a, b, ties))


def matching_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float) -> float:
    """The cost of one slice."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not matching.tied:
            cost = _untied_cost(matching, x, y, p)
        elif p == 2:
            cost = _tied_squared_cost(matching, x, y, a, b)
        else:
            cost = _tied_cost(matching, x, y, a, b, p)
    return _finite_cost(cost)


def _finite_cost(cost: float) -> float:
    if not np.isfinite(cost):
        raise ValueError("x, y: expected points whose cost |x - y|^p is finite, got an overflow; rescale the points")
    return float(cost)


def _untied_cost(matching: Matching, x: Array, y: Array, p: float) -> float:
    rows, cols, mass = matching.pieces
    if len(rows) == len(matching.source_order) == len(x):  # one piece a point: leave x where it is, and move y only
        partner = np.empty(len(x), dtype=np.intp)
        partner[matching.source_order[rows]] = matching.target_order[cols]
        weights = np.empty(len(x))
        weights[matching.source_order[rows]] = mass
        return _paired_cost(x, y, None, partner, weights, p)
    return _paired_cost(x, y, matching.source_order[rows], matching.target_order[cols], mass, p)


def _paired_cost(x: Array, y: Array, i: Index | None, j: Index, mass: Array, p: float) -> float:
    """sum_k mass_k |x_{i_k} - y_{j_k}|^p, some pairs at a time; i = None stands for 0, 1, 2, ..."""
    step = max(1, _CHUNK // x.shape[1])
    total = 0.0
    ys, xs = np.empty((2, min(step, len(j)), x.shape[1]))
    for start in range(0, len(j), step):
        part = slice(start, min(start + step, len(j)))
        size = part.stop - start
        difference = y.take(j[part], axis=0, out=ys[:size], mode="clip")  # "clip": the mode that writes to out directly
        difference -= x[part] if i is None else x.take(i[part], axis=0, out=xs[:size], mode="clip")
        total += float(mass[part] @ _powers(difference, p))
    return total


def _powers(difference: Array, p: float) -> Array:
    """|difference|^p of every row."""
    if p == 2:
        return np.einsum("kd,kd->k", difference, difference)
    size = np.frexp(max(difference.max(), -difference.min()))[1]
    if abs(size) > 400:  # the square may over- or underflow where the power does not
        difference = np.ldexp(difference, -size)
        return np.ldexp(np.sqrt(_powers(difference, 2)), size) ** p
    return _powers(difference, 2) ** (p / 2)


def ground_cost(x: Array, y: Array, p: float) -> Array:
    """|x_i - y_j|^p, (n, m)."""
    with np.errstate(over="ignore"):
        difference = x[:, None, :] - y[None, :, :]
        ground = _powers(difference.reshape(-1, x.shape[1]), p).reshape(len(x), len(y))
    _finite_cost(ground.max())
    return ground


def _class_moments(points: Array, weights: Array, order: Index, starts: Index) -> tuple[Array, Array]:
    """Weighted mean of every class, seen from its first point, (U, d), and mean squared distance to the mean, (U,)."""
    share, sizes = class_shares(weights, order, starts), class_sizes(starts, len(order))
    offsets = points[order]
    offsets -= np.repeat(points[order[starts]], sizes, axis=0)
    means = np.add.reduceat(share[:, None] * offsets, starts)
    offsets -= np.repeat(means, sizes, axis=0)
    return means, np.add.reduceat(share * _powers(offsets, 2), starts)


def _tied_squared_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array) -> float:
    """Between two classes the mean of |x - y|^2 is |mean - mean|^2 plus both variances.

    Means are kept as offsets from a point of the class, which loses no digits far from the origin.
    """
    x_means, x_spread = _class_moments(x, a, matching.source_order, matching.source_starts)
    y_means, y_spread = _class_moments(y, b, matching.target_order, matching.target_starts)
    x_first, y_first = matching.source_order[matching.source_starts], matching.target_order[matching.target_starts]
    step = max(1, _CHUNK // x.shape[1])
    total = 0.0
    for start in range(0, len(matching.pieces.mass), step):
        i, j, mass = (part[start : start + step] for part in matching.pieces)
        between = x[x_first[i]] - y[y_first[j]]
        between += x_means[i] - y_means[j]
        total += float(mass @ (_powers(between, 2) + x_spread[i] + y_spread[j]))
    return total


def _tied_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float) -> float:
    """All pairs of points of every two matched classes, some at a time."""
    step = max(1, _CHUNK // x.shape[1])
    return sum(_paired_cost(x, y, *part, p) for part in tied_pairs(matching, a, b, step))


Plan: TypeAlias = Array | sparray | spmatrix


def _as_plan(plan: Plan | ArrayLike) -> coo_array:
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


def transport_cost(plan: Plan, x: ArrayLike, y: ArrayLike, *, p: float = 2) -> float:
    r"""The cost $\langle C, G \rangle = \sum_{ij} |x_i - y_j|^p\, G_{ij}$ of a plan, dense or sparse.

    Raises
    ------
    ValueError
        When shapes disagree or the cost overflows.

    Examples
    --------
    >>> from espref import transport_cost
    >>> transport_cost([[0.5, 0], [0, 0.5]], [[0.0], [1.0]], [[2.0], [3.0]])
    4.0
    """
    x, y = as_pair(x, y)
    p = as_exponent(p)
    entries = _as_plan(plan)
    if entries.shape != (len(x), len(y)):
        raise ValueError(f"plan: expected shape ({len(x)}, {len(y)}), got shape {entries.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return _finite_cost(_paired_cost(x, y, entries.row, entries.col, entries.data, p))


def marginal_defect(plan: Plan, a: ArrayLike | None = None, b: ArrayLike | None = None) -> float:
    r"""How far a plan is from its marginals: the largest of $|G 1 - a| / a$ and $|G^T 1 - b| / b$ over all points.

    A point of weight zero counts with the mass the plan gives it, relative to the mean weight. Zero for a plan.

    Raises
    ------
    ValueError
        When shapes disagree.

    Examples
    --------
    >>> from espref import marginal_defect
    >>> marginal_defect([[0.5, 0.0], [0.25, 0.25]])
    0.5
    """
    entries = _as_plan(plan)
    n, m = entries.shape
    a, b = as_weights(a, n, "a"), as_weights(b, m, "b")
    rows = np.bincount(entries.row, entries.data, minlength=n)
    cols = np.bincount(entries.col, entries.data, minlength=m)
    with np.errstate(over="ignore"):  # mass on a point of nearly no weight
        deviations = [
            np.abs(sums - weights) / np.where(weights > 0, weights, 1 / len(weights))
            for sums, weights in ((rows, a), (cols, b))
        ]
    return float(max(deviation.max() for deviation in deviations))
