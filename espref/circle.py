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

from ._checks import Array, as_beta, as_exponent, as_measures
from ._costs import far_apart, ground_cost
from ._floats import underflow_is_zero
from ._matching import monotone_pieces, rank_pieces
from ._quanta import balanced_total, quantise, reconcile
from ._ties import Index
from .expected import SlicedPlan, gibbs_weights

#: Arcs times points that are held at once: small enough to stay in cache.
_CHUNK = 2**16


@underflow_is_zero
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
    The circle is that of the directions; for transport between points on a circle see ``ot.wasserstein_circle``.

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

    See Also
    --------
    expected_sliced_plan, sample_directions

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
    x, y, a, b = as_measures(x, y, a, b)
    if x.shape[1] != 2:
        raise ValueError(f"x: expected points of the plane, d = 2, got d = {x.shape[1]}")
    beta, p = as_beta(beta), as_exponent(p, infinite=True)
    source, target = _distinct(x, a), _distinct(y, b)
    sweep = _sweep(source.points, target.points)
    costs, comparable = _arc_costs(source, target, sweep, x, y, p)
    weights = gibbs_weights(comparable if beta > 0 else costs, beta, sweep.lengths / sweep.lengths.sum())
    size = len(target.weights)
    plan = np.zeros(len(source.weights) * size)
    for part, i, j, mass in _pieces(source, target, sweep):  # swept again: nothing of size arcs x points is kept
        entries = weights[part, None] * mass
        plan += np.bincount((i * size + j).ravel(), entries.ravel(), minlength=plan.size)
    full = _spread(plan.reshape(-1, size), source, target, a, b)
    return SlicedPlan(full, float(weights @ costs), weights, costs)


# Behind the definition: the order of the points on every arc, exactly, and equal points taken as one.


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


class Swaps(NamedTuple):
    """Pairs of points of one cloud, and the angles at which they swap: orthogonal to their difference."""

    above: Index  # (E,)  the point that is above the other one in all directions before the swap, from angle 0 on
    below: Index  # (E,)
    angle: Array  # (E, 2) a vector with that angle, in [0, pi)


class Sweep(NamedTuple):
    """Arcs between swaps; arc k lies behind swap number k and those before it, arc 0 before all of them too."""

    lengths: Array  # (K,) in radians, sum pi
    source: tuple[Index, Index, Index]  # above, below, and the arc from which on they are swapped, in order of arcs
    target: tuple[Index, Index, Index]


def _swaps(points: Array) -> Swaps:
    i, j = np.triu_indices(len(points), 1)
    difference = points[i] - points[j]
    reverse = (difference[:, 0] < 0) | ((difference[:, 0] == 0) & (difference[:, 1] > 0))
    difference = np.where(reverse[:, None], -difference, difference)
    normal = np.column_stack([-difference[:, 1], difference[:, 0]]) + 0.0  # no negative zero: angles below pi
    return Swaps(np.where(reverse, j, i), np.where(reverse, i, j), normal)


def _cross(one: Array, other: Array) -> tuple[Array, Array]:
    """The cross product of rows, and a bound on its rounding: coordinates are differences, each rounded once."""
    left, right = one[:, 0] * other[:, 1], one[:, 1] * other[:, 0]
    return left - right, 4 * float(np.finfo(np.float64).eps) * (np.abs(left) + np.abs(right))


def _sweep(x: Array, y: Array) -> Sweep:
    """All swaps of two clouds in order of their angles. Those that rounding cannot tell apart are one."""
    swaps = _swaps(x), _swaps(y)
    angle = np.concatenate([swaps[0].angle, swaps[1].angle])
    if len(angle) == 0:  # a single point on both sides: one plan on the whole half circle
        none = np.empty(0, dtype=np.int64)
        return Sweep(np.array([np.pi]), (none, none, none), (none, none, none))
    angle = np.ldexp(angle, -np.frexp(np.abs(angle).max(axis=1, keepdims=True))[1])
    order = np.arctan2(angle[:, 1], angle[:, 0]).argsort(kind="stable")
    while True:  # angles that nearly agree may be in the wrong order: cross products tell, to rounding
        cross, slack = _cross(angle[order[:-1]], angle[order[1:]])
        wrong = cross < -slack
        wrong[1:] &= ~wrong[:-1]
        if not wrong.any():
            break
        first = np.flatnonzero(wrong)
        order[first], order[first + 1] = order[first + 1], order[first]
    apart = (cross > slack) | (np.einsum("kd,kd->k", angle[order[:-1]], angle[order[1:]]) < 0)
    number = np.concatenate([[0], np.cumsum(apart)])  # of the breakpoint that each swap belongs to
    cross, slack = _cross(angle[order[-1:]], -angle[order[:1]])
    if number[-1] > 0 and cross[0] <= slack[0]:  # the last breakpoint is the first, half a turn later
        around = number == number[-1]
        number[around] = 0
        first = order[around]
        angle[first] = -angle[first]
        flipped = np.isin(np.arange(len(angle)), first)
    else:
        flipped = np.zeros(len(angle), dtype=bool)
    order, number = order[number.argsort(kind="stable")], np.sort(number)
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    ends = angle[order[starts]]
    following = np.concatenate([ends[1:], -ends[:1]])
    lengths = np.arctan2(np.abs(_cross(ends, following)[0]), np.einsum("kd,kd->k", ends, following))
    if len(ends) == 1:
        lengths = np.array([np.pi])
    arc = np.empty(len(order), dtype=np.int64)
    arc[order] = number
    cut = len(swaps[0].above)
    parts = []
    for side, part in zip(swaps, (slice(cut), slice(cut, None)), strict=True):
        above = np.where(flipped[part], side.below, side.above)
        below = np.where(flipped[part], side.above, side.below)
        by_arc = arc[part].argsort(kind="stable")
        parts.append((above[by_arc], below[by_arc], arc[part][by_arc]))
    return Sweep(lengths, parts[0], parts[1])


def _orders(n: int, swaps: tuple[Index, Index, Index], start: int, stop: int, ranks: Index) -> tuple[Index, Index]:
    """Points in ascending order on arcs start ... stop - 1, (arcs, n); ``ranks`` (n,) on the arc before, and the last.

    Each swap moves one point down by one rank and one up: no projection is computed, and nothing is rounded.
    """
    above, below, arc = swaps
    part, arcs = slice(*arc.searchsorted([start, stop])), stop - start
    up, down = (np.bincount((arc[part] - start) * n + side[part], minlength=arcs * n) for side in (below, above))
    all_ranks = ranks + (up - down).reshape(arcs, n).cumsum(axis=0)
    order = np.empty(arcs * n, dtype=np.int64)
    order[(all_ranks + n * np.arange(arcs)[:, None]).ravel()] = np.tile(np.arange(n), arcs)
    return order.reshape(arcs, n), all_ranks[-1]


def _pieces(source: Distinct, target: Distinct, sweep: Sweep) -> Iterator[tuple[slice, Index, Index, Array]]:
    """For some arcs at a time: the arcs, and source, target and mass of their pieces, (arcs, pieces) each."""
    n, m = len(source.weights), len(target.weights)
    quanta = quantise(source.weights, target.weights)
    whole = quanta.source, quanta.target
    if quanta.slack:
        whole = balanced_total(whole[0], quanta.total), balanced_total(whole[1], quanta.total)
    uniform = all(
        (side == side[:, :1]).all() for side in whole
    )  # the same ranks meet on every arc: 2 to 4 times faster
    ranks_x: Index = np.bincount(sweep.source[0], minlength=n)  # before the first swap
    ranks_y: Index = np.bincount(sweep.target[0], minlength=m)
    step = max(1, _CHUNK // (n + m))
    for start in range(0, len(sweep.lengths), step):
        stop = min(start + step, len(sweep.lengths))
        sigma, ranks_x = _orders(n, sweep.source, start, stop, ranks_x)
        tau, ranks_y = _orders(m, sweep.target, start, stop, ranks_y)
        if uniform:
            rows, cols, mass = rank_pieces(*whole, quanta.total, quanta.slack)
            yield slice(start, stop), sigma[:, rows], tau[:, cols], mass
        else:
            rows, cols, mass = monotone_pieces(whole[0][:, sigma], whole[1][:, tau])
            sliver = ((mass > 0) & (mass <= quanta.slack)).any(axis=1)
            if sliver.any():  # which rounding of the weights may have made
                weights = whole[0][:, sigma[sliver]], whole[1][:, tau[sliver]]
                again = monotone_pieces(weights[0], reconcile(*weights, quanta.slack))
                rows[sliver], cols[sliver], mass[sliver] = again
            i, j = np.take_along_axis(sigma, rows, 1), np.take_along_axis(tau, cols, 1)
            yield slice(start, stop), i, j, mass / quanta.total


def _arc_costs(source: Distinct, target: Distinct, sweep: Sweep, x: Array, y: Array, p: float) -> tuple[Array, Array]:
    """Costs of the arcs, and the same up to a constant that would drown their differences (p = 2, clouds far apart)."""
    x, y = x[source.first], y[target.first]
    shifted = p == 2 and far_apart(x, y, source.weights, target.weights)
    grounds = [ground_cost(x, y, 1 if p == np.inf else p)]
    if shifted:
        grounds.append(ground_cost(x - source.weights @ x, y - target.weights @ y, 2))
    costs = np.empty((len(grounds), len(sweep.lengths)))
    for part, i, j, mass in _pieces(source, target, sweep):
        mass = np.broadcast_to(mass, i.shape)
        for k, ground in enumerate(grounds):
            paired = ground[i, j]
            costs[k, part] = (
                np.where(mass > 0, paired, 0.0).max(axis=1) if p == np.inf else np.einsum("ak,ak->a", paired, mass)
            )
    return costs[0], costs[-1]


def _spread(plan: Array, source: Distinct, target: Distinct, a: Array, b: Array) -> coo_array:
    """From distinct points back to all n x m points, in proportion to their weights."""
    share_a = a[source.heavy] / source.weights[source.place]
    share_b = b[target.heavy] / target.weights[target.place]
    full = np.zeros((len(a), len(b)))
    full[np.ix_(source.heavy, target.heavy)] = plan[np.ix_(source.place, target.place)] * share_a[:, None] * share_b
    return coo_array(full)
