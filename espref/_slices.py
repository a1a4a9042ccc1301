"""Machinery of many slices: what decides between them, and equal entries of many sparse plans added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.special import logsumexp

from ._checks import Array
from ._costs import COST_ROUNDING, as_representable, matching_cost, root_cost
from ._matching import match
from ._quanta import quantise
from ._threads import in_threads
from ._ties import Matching, refuse_large, sparse_plan
from .lift import over_slices, slice_cost


def matched(
    x: Array, y: Array, directions: Array, a: Array, b: Array, p: float, ties: str
) -> tuple[Sequence[Matching], Array]:
    """The matching and the cost of every slice."""

    def work(matching: Matching) -> tuple[Matching, float]:
        return matching, slice_cost(matching, x, y, a, b, p)

    matchings, costs = zip(*over_slices(work, x, y, directions, a, b, ties), strict=True)
    return matchings, np.array(costs)


def projected_costs(
    x: Array, y: Array, directions: Array, a: Array, b: Array, p: float, prior: Array
) -> tuple[Array, float]:
    """(W_p / unit)^p between the projections on every direction, (L,), and the unit, the largest distance that counts.

    In that unit nothing that matters over- or underflows.
    """
    units = directions / np.abs(directions).max(axis=1, keepdims=True)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    quanta = quantise(a, b)
    with np.errstate(over="ignore", invalid="ignore"):
        lines = [(x @ theta[:, None], y @ theta[:, None], a, b) for theta in units[prior > 0]]
    if not all(np.isfinite(u).all() and np.isfinite(v).all() for u, v, *_ in lines):
        as_representable(np.inf, np.inf)
    matchings = [match(u[:, 0], v[:, 0], quanta, "first") for u, v, *_ in lines]
    largest = max(root_cost(matching, *line) for matching, line in zip(matchings, lines, strict=True))
    unit = as_representable(largest, largest) or 1.0
    costs = np.zeros(len(units))
    costs[prior > 0] = [
        matching_cost(matching, *line, p, unit) for matching, line in zip(matchings, lines, strict=True)
    ]
    return costs, unit


def comparable_costs(
    matchings: Sequence[Matching], costs: Array, x: Array, y: Array, a: Array, b: Array, p: float
) -> Array:
    """Slice costs up to a constant, with digits that a common shift of the clouds does not drown.

    For p = 2 all slices contain the same squared distance between the means. Where that is most of them, each cloud is
    centred at its own mean.
    """
    if p != 2:
        return costs
    x_mean, y_mean = a @ x, b @ y
    if np.square(x_mean - y_mean).sum() <= 0.5 * costs.min():
        return costs
    x, y = x - x_mean, y - y_mean
    return np.array([matching_cost(matching, x, y, a, b, p) for matching in matchings])


def distance_from_logs(logs: Array, beta: float, p: float, prior: Array) -> float:
    """(sum_l w_l c_l)^(1/p) from the logarithms of costs that floats cannot hold."""
    possible = prior > 0
    least = logs[possible].min()
    with np.errstate(all="ignore"):
        excess = np.where(logs > least, np.exp(least) * np.expm1(logs - least), 0.0)
        excess[np.isnan(excess)] = np.exp(logs[np.isnan(excess)])
        if beta == np.inf:
            excess = np.where(logs <= least + COST_ROUNDING * max(1.0, abs(least)), 0.0, np.inf)
        damping = np.where(excess > 0, beta * excess, 0.0) if beta > 0 else np.zeros_like(logs)
        weights = np.where(possible, prior * np.exp(-damping), 0.0)
        return float(np.exp(logsumexp(logs, b=weights / weights.sum()) / p))


def average(matchings: Sequence[Matching], weights: Array, a: Array, b: Array) -> coo_array:
    """sum_l w_l G_l, equal entries added up: two halves of the slices, and then their sum."""
    used = [(matching, w) for matching, w in zip(matchings, weights, strict=True) if w > 0]
    refuse_large(matching for matching, _ in used)
    middle = (len(used) + 1) // 2
    halves = [half for half in (used[:middle], used[middle:]) if half]
    first, *rest = in_threads(lambda half: _weighted_sum(half, a, b), halves, len(a) + len(b))
    total = first + rest[0] if rest else first
    total.eliminate_zeros()
    return total.tocoo()


def _weighted_sum(used: Sequence[tuple[Matching, float]], a: Array, b: Array) -> csr_array:
    plans = [(sparse_plan(matching, a, b), w) for matching, w in used]
    rows, cols = (np.concatenate([getattr(plan, axis) for plan, _ in plans]) for axis in ("row", "col"))
    mass = np.concatenate([w * plan.data for plan, w in plans])
    return csr_array((mass, (rows, cols)), shape=(len(a), len(b)))  # which adds up equal entries
