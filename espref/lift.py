r"""Chapter 3. Lifting: a plan on the line, read between points of $R^d$.

Project source and target on a direction $\theta$, match them on the line, and let the plan $G_\theta$ couple the points
themselves. It costs $c_\theta = \sum_{ij} |x_i - y_j|^p\, G_{\theta,ij}$, in all of $R^d$. In code, for one direction,
``line_plan(x @ theta, y @ theta)``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array

from ._checks import Array, Plan, as_choice, as_directions, as_exponent, as_measures, as_pair, as_plan, as_weights
from ._costs import as_representable, in_range, matching_cost, paired_cost, root_cost
from ._floats import underflow_is_zero
from ._matching import match
from ._quanta import quantise
from ._threads import in_threads
from ._ties import Matching, refuse_large, sparse_plan
from .line import TIES

#: Slices that one thread takes at a time.
_SLICES = 8

T = TypeVar("T")


@underflow_is_zero
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
        One direction per row.
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

    See Also
    --------
    slice_costs, expected_sliced_plan

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
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, ties)
    matchings = over_slices(lambda matching: matching, x, y, directions, a, b, ties)
    refuse_large(matchings)
    return [sparse_plan(matching, a, b) for matching in matchings]


@underflow_is_zero
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

    Memory beyond the input is O((L + d) (n + m)). A class of tied points enters through its mean and spread when p = 2,
    and pair by pair, in chunks, for other p.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1. With ``inf`` a cost is the largest |x - y| that carries mass.
    ties : "split" or "first"
        See :func:`espref.line_plan`.

    Returns
    -------
    (L,) array, in units of length^p (of length for p = inf).

    Raises
    ------
    ValueError
        For malformed input, or when a cost over- or underflows.

    See Also
    --------
    sliced_plans, gibbs_weights

    Examples
    --------
    >>> from espref import slice_costs
    >>> slice_costs([[0, 0], [1, 1]], [[5, 0], [0, 5]], [[1, 0], [0, 1]])
    array([21., 21.])

    References
    ----------
    liu2025est
    """
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, ties)
    p = as_exponent(p, infinite=True)
    return np.array(over_slices(lambda m: slice_cost(m, x, y, a, b, p), x, y, directions, a, b, ties))


@underflow_is_zero
def transport_cost(plan: Plan, x: ArrayLike, y: ArrayLike, *, p: float = 2) -> float:
    r"""The cost $\langle C, G \rangle = \sum_{ij} |x_i - y_j|^p\, G_{ij}$ of a plan, dense or sparse.

    Parameters
    ----------
    plan : (n, m) array or sparse array
        Any matrix of finite numbers.
    x, y : (n, d) and (m, d)
        Source and target.
    p : float
        Exponent of the ground cost, >= 1. With ``inf``, the largest |x - y| that carries mass.

    Returns
    -------
    float, in units of length^p times mass (of length for p = inf).

    Raises
    ------
    ValueError
        When shapes disagree, or the cost over- or underflows.

    See Also
    --------
    slice_costs, espref.solvers.ground_cost

    Examples
    --------
    >>> from espref import transport_cost
    >>> transport_cost([[0.5, 0], [0, 0.5]], [[0.0], [1.0]], [[2.0], [3.0]])
    4.0
    """
    x, y = as_pair(x, y)
    p = as_exponent(p, infinite=True)
    entries = as_plan(plan)
    if entries.shape != (len(x), len(y)):
        raise ValueError(f"plan: expected shape ({len(x)}, {len(y)}), got shape {entries.shape}")
    pairs = x, y, entries.row, entries.col, entries.data
    with np.errstate(over="ignore", invalid="ignore"):
        cost = paired_cost(*pairs, p)
        if in_range(abs(cost)) or (cost == 0 and entries.data.min(initial=0.0) < 0):
            return cost
        return as_representable(cost, paired_cost(*pairs, np.inf))


@underflow_is_zero
def marginal_defect(plan: Plan, a: ArrayLike | None = None, b: ArrayLike | None = None) -> float:
    r"""How far a plan is from its marginals: the largest of $|G 1 - a| / a$ and $|G^T 1 - b| / b$ over all points.

    Zero for a plan with these marginals. For a point of weight zero, the mass that the plan gives it, relative to the
    mean weight.

    Parameters
    ----------
    plan : (n, m) array or sparse array
        Any matrix of finite numbers.
    a, b : (n,) and (m,), optional
        The marginals it should have, sum 1; uniform by default.

    Returns
    -------
    float, without a unit.

    Raises
    ------
    ValueError
        When shapes disagree.

    See Also
    --------
    transport_cost

    Examples
    --------
    >>> from espref import marginal_defect
    >>> marginal_defect([[0.5, 0.0], [0.25, 0.25]])
    0.5
    """
    entries = as_plan(plan)
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


# Behind the definition: projections that keep ties, and slices shared among threads.


def project(points: Array, directions: Array) -> Array:
    """Scores <x_i, theta_l>, shape (L, n).

    By einsum and not by BLAS, so that every score is summed in the same order and equal points stay tied. Directions,
    and clouds that are huge or tiny, are scaled by powers of two first, so that nothing over- or underflows; axes and
    diagonals become 0, 1 and -1, so that grids tie exactly. Only the order matters, so plans are unchanged.
    """
    units = np.ldexp(directions, -np.frexp(np.abs(directions).max(axis=1, keepdims=True))[1])
    largest = np.abs(units).max(axis=1, keepdims=True)
    units = np.where(((units == 0) | (np.abs(units) == largest)).all(axis=1, keepdims=True), np.sign(units), units)
    size = int(np.frexp(max(points.max(), -points.min()))[1])
    room = 1022 - int(np.frexp(points.shape[1])[1])
    shift = min(room - size, 0) if size > -900 else -900 - size
    scores: Array = np.einsum("ld,nd->ln", units, np.ldexp(points, shift) if shift else points)
    return scores


def over_slices(
    work: Callable[[Matching], T], x: Array, y: Array, directions: Array, a: Array, b: Array, ties: str
) -> list[T]:
    """``work`` on the monotone plan of every slice, in the order of the directions.

    Slices are independent: large ones are shared among threads, each computed as it would be alone.
    """
    quanta = quantise(a, b)

    def work_on_part(start: int) -> list[T]:
        part = directions[start : start + _SLICES]
        return [work(match(u, v, quanta, ties)) for u, v in zip(project(x, part), project(y, part), strict=True)]

    return list(chain.from_iterable(in_threads(work_on_part, range(0, len(directions), _SLICES), len(x) + len(y))))


def slice_cost(matching: Matching, x: Array, y: Array, a: Array, b: Array, p: float) -> float:
    """The cost of one slice; ValueError when it is out of the range of floats."""
    cost = matching_cost(matching, x, y, a, b, p)
    return cost if in_range(cost) else as_representable(cost, root_cost(matching, x, y, a, b))


def as_clouds(
    x: ArrayLike, y: ArrayLike, directions: ArrayLike, a: ArrayLike | None, b: ArrayLike | None, ties: str
) -> tuple[Array, Array, Array, Array, Array]:
    """The arguments that all functions of slices share, checked; weights as arrays."""
    source, target, source_weights, target_weights = as_measures(x, y, a, b)
    as_choice(ties, "ties", TIES)
    return source, target, as_directions(directions, source.shape[1]), source_weights, target_weights
