r"""Chapter 5. The exact expectation in the plane: no sampling of directions.

As $\theta$ turns, the order of the projections, and with it $G_\theta$, changes only where $\theta$ is orthogonal to a
difference $x_i - x_{i'}$ or $y_j - y_{j'}$. Between two such breakpoints everything is constant, so the mean over the
circle is a finite sum over arcs, weighted by their length. It is the yardstick of every sampling scheme.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array

from ._checks import Array, as_beta, as_exponent, as_pair, as_weights
from ._costs import ground_cost
from ._ties import Index
from .expected import SlicedPlan, gibbs_weights
from .line import monotone_pieces, quantise, rank_pieces

#: Arcs times points that are sorted at once.
_CHUNK = 2**20

#: Shorter arcs (radians) are rounding: points on one line have one breakpoint, computed in several ways.
SHORTEST = 1e-13


def circle_plan(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    p: float = 2,
) -> SlicedPlan:
    r"""The expected sliced plan over all directions of the plane, exactly.

    $$\bar G = \frac{\int_0^\pi e^{-\beta c_\theta}\, G_\theta\, d\theta}{\int_0^\pi e^{-\beta c_\theta}\, d\theta}
             = \sum_k w_k G_k, \qquad w_k \propto \ell_k\, e^{-\beta c_k},$$

    over the arcs k on which the plan is constant, of length $\ell_k$. Opposite directions give the same plan, so half a
    circle is enough. Ties: equal points share their mass; directions that tie distinct points have measure zero.

    Parameters
    ----------
    x, y : (n, 2) and (m, 2)
        Source and target.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    beta : float
        Inverse temperature over slices, >= 0.
    p : float
        Exponent of the ground cost, >= 1.

    Returns
    -------
    SlicedPlan
        plan, cost, weights (K,) and costs (K,) of the arcs in order of angle. K is at most
        n (n - 1) / 2 + m (m - 1) / 2; each arc is sorted anew, O(K (n + m) log(n + m)) time in all.

    Raises
    ------
    ValueError
        For malformed input or d != 2.

    Examples
    --------
    Two points side by side against two above each other: half the circle matches one way, half the other.

    >>> from espref import circle_plan
    >>> circle_plan([[0, 0], [1, 0]], [[0, 0], [0, 1]]).plan.toarray()
    array([[0.25, 0.25],
           [0.25, 0.25]])

    References
    ----------
    liu2025est
    """
    x, y = as_pair(x, y)
    if x.shape[1] != 2:
        raise ValueError(f"x: expected points of the plane, d = 2, got d = {x.shape[1]}")
    a, b = as_weights(a, len(x), "a"), as_weights(b, len(y), "b")
    beta, p = as_beta(beta), as_exponent(p)
    source, target = _distinct(x, a), _distinct(y, b)
    lengths, middles = arcs(source.points, target.points)
    ground = ground_cost(x[source.first], y[target.first], p)
    costs = np.empty(len(lengths))
    for part, i, j, mass in _pieces(source, target, middles):
        costs[part] = np.einsum("ak,ak->a", ground[i, j], np.broadcast_to(mass, i.shape))
    weights = gibbs_weights(costs, beta, lengths / lengths.sum())
    plan = np.zeros(ground.size)
    for part, i, j, mass in _pieces(source, target, middles):  # sorted again: nothing of size arcs x points is kept
        entries = weights[part, None] * mass
        plan += np.bincount((i * ground.shape[1] + j).ravel(), entries.ravel(), minlength=plan.size)
    full = _spread(plan.reshape(ground.shape), source, target, a, b)
    return SlicedPlan(full, float(weights @ costs), weights, costs)


# Behind the definition: breakpoints, arcs, and equal points taken as one.


class Arcs(NamedTuple):
    """The arcs of the half circle [0, pi) on which both orders are constant."""

    lengths: Array  # (K,) in radians, sum pi
    middles: Array  # (K,) angle of the middle of each arc


def _breakpoints(points: Array) -> Array:
    """Angles in [0, pi) orthogonal to the difference of two distinct points."""
    i, j = np.triu_indices(len(points), 1)
    difference = points[i] - points[j]
    return np.unique(np.arctan2(difference[:, 0], -difference[:, 1]) % np.pi)


def arcs(x: Array, y: Array) -> Arcs:
    """The arcs between the breakpoints of two clouds of distinct points, (n, 2) and (m, 2)."""
    ends = np.union1d(_breakpoints(x), _breakpoints(y))
    if len(ends) == 0:  # a single point on both sides: one plan on the whole half circle
        return Arcs(np.array([np.pi]), np.array([np.pi / 2]))
    ends = np.append(ends, ends[0] + np.pi)
    lengths, middles = np.diff(ends), (ends[1:] + ends[:-1]) / 2
    proper = lengths > SHORTEST  # shorter: one breakpoint, rounded in two ways
    return Arcs(lengths[proper], middles[proper])


class Distinct(NamedTuple):
    """The U distinct points of positive weight of a cloud of n."""

    points: Array  # (U, 2) scaled by a power of two: only the order matters, so plans are unchanged
    first: Index  # (U,)  where each stands in the cloud
    heavy: Index  # points of positive weight, in the cloud
    place: Index  # which distinct point each of them is
    weights: Array  # (U,)


def _distinct(points: Array, weights: Array) -> Distinct:
    heavy = np.flatnonzero(weights)
    points, first, place = np.unique(points[heavy], axis=0, return_index=True, return_inverse=True)
    place = place.ravel()
    return Distinct(
        np.ldexp(points, -np.frexp(np.abs(points).max())[1]),
        heavy[first],
        heavy,
        place,
        np.bincount(place, weights[heavy]).astype(np.float64),
    )


def _pieces(source: Distinct, target: Distinct, middles: Array) -> Iterator[tuple[slice, Index, Index, Array]]:
    """For some arcs at a time: the arcs, and source, target and mass of their pieces, (arcs, pieces) each."""
    x, y = source.points - source.points.mean(axis=0), target.points - target.points.mean(axis=0)
    quanta = quantise(source.weights, target.weights)
    uniform = (
        len(set(quanta.source)) == len(set(quanta.target)) == 1
    )  # the same ranks meet on every arc: 2 to 4 times faster
    step = max(1, _CHUNK // (len(x) + len(y)))
    for start in range(0, len(middles), step):
        part = slice(start, start + step)
        directions = np.column_stack([np.cos(middles[part]), np.sin(middles[part])])
        sigma, tau = (directions @ x.T).argsort(axis=1), (directions @ y.T).argsort(axis=1)
        if uniform:
            rows, cols, mass = rank_pieces(quanta)
            yield part, sigma[:, rows], tau[:, cols], mass
        else:
            rows, cols, whole = monotone_pieces(quanta.source[sigma], quanta.target[tau])
            mass = whole / quanta.total
            yield part, np.take_along_axis(sigma, rows, 1), np.take_along_axis(tau, cols, 1), mass


def _spread(plan: Array, source: Distinct, target: Distinct, a: Array, b: Array) -> coo_array:
    """From distinct points back to all n x m points, in proportion to their weights."""
    share_a = a[source.heavy] / source.weights[source.place]
    share_b = b[target.heavy] / target.weights[target.place]
    full = np.zeros((len(a), len(b)))
    full[np.ix_(source.heavy, target.heavy)] = plan[np.ix_(source.place, target.place)] * share_a[:, None] * share_b
    return coo_array(full)
