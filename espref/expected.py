r"""Chapter 4. Many slices: Gibbs weights, the expected sliced plan, the min-sliced plan, the EST distance.

With slice costs $c_l$ and an inverse temperature $\beta$, $w_l \propto e^{-\beta c_l}$ and
$\bar G = \sum_l w_l G_{\theta_l}$: the plain mean at $\beta = 0$, the cheapest slice as $\beta \to \infty$.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, csr_array

from ._checks import Array, as_beta, as_exponent, as_prior, as_values
from .lift import _checked, in_threads, matching_cost, over_slices, slice_costs, sliced_plans
from .line import QUANTA, Matching, refuse_large, split_ties


class SlicedPlan(NamedTuple):
    """A plan averaged over slices."""

    plan: Any  # coo_array (exact) or ndarray (soft), (n, m), mass 1
    cost: float  # expected cost, sum_l weights_l costs_l = <C, plan>
    weights: Array  # (L,) of the slices, sum 1
    costs: Array  # (L,) of the slices


def gibbs_weights(costs: ArrayLike, beta: float, prior: ArrayLike | None = None) -> Array:
    r"""Gibbs weights $w_l = \pi_l e^{-\beta c_l} / \sum_k \pi_k e^{-\beta c_k}$.

    Parameters
    ----------
    costs : (L,)
        Slice costs.
    beta : float
        Inverse temperature over slices, >= 0, in units of 1 / cost. ``inf`` leaves the cheapest slices only.
    prior : (L,), optional
        $\pi$, sum 1: quadrature weights of the directions; uniform by default.

    Returns
    -------
    (L,) array, sum 1.

    Raises
    ------
    ValueError
        For malformed input.

    Examples
    --------
    >>> from espref import gibbs_weights
    >>> gibbs_weights([0.0, 1.0], beta=0)
    array([0.5, 0.5])
    >>> gibbs_weights([0.0, 1.0, 0.0], beta=float("inf"))
    array([0.5, 0. , 0.5])

    References
    ----------
    liu2025est
    """
    costs, beta = as_values(costs, "costs"), as_beta(beta)
    prior = as_prior(prior, len(costs))
    if beta == 0:
        return prior
    with np.errstate(over="ignore", under="ignore"):
        excess = costs - costs[prior > 0].min()
        damping = np.zeros_like(costs)
        np.multiply(excess, beta, out=damping, where=excess != 0)  # 0 * inf is 0 here
        weights = np.where(prior > 0, prior * np.exp(-np.where(prior > 0, damping, 0.0)), 0.0)
    return weights / weights.sum()


def _average(kept: Sequence[Matching], weights: Array, a: Array, b: Array) -> coo_array:
    """sum_l w_l G_l, equal entries added up; two halves of the slices, and then their sum."""
    used = [(matching, w) for matching, w in zip(kept, weights, strict=True) if w > 0]
    refuse_large(matching for matching, _ in used)
    middle = (len(used) + 1) // 2
    halves = [half for half in (used[:middle], used[middle:]) if half]
    total = sum(in_threads(lambda half: _sum(half, a, b), halves, len(a) + len(b)))
    total.eliminate_zeros()
    return total.tocoo()


def _sum(used: Sequence[tuple[Matching, float]], a: Array, b: Array) -> csr_array:
    n, m = len(a), len(b)
    parts = [(split_ties(matching, a, b), w) for matching, w in used]
    if a.min() >= 1 / QUANTA and all(len(pieces.mass) == n for pieces, _ in parts):  # one entry a row: CSR, no sorting
        columns = np.empty((n, len(parts)), dtype=np.int32)
        masses = np.empty((n, len(parts)))
        for slot, (pieces, w) in enumerate(parts):
            columns[pieces.source, slot] = pieces.target
            masses[pieces.source, slot] = w * pieces.mass
        starts = np.arange(0, n * len(parts) + 1, len(parts))
        total = csr_array((masses.ravel(), columns.ravel(), starts), shape=(n, m))
    else:
        rows = np.concatenate([pieces.source for pieces, _ in parts], dtype=np.int32, casting="same_kind")
        columns = np.concatenate([pieces.target for pieces, _ in parts], dtype=np.int32, casting="same_kind")
        data = np.concatenate([w * pieces.mass for pieces, w in parts])
        total = csr_array((data, (rows, columns)), shape=(n, m))
    total.sum_duplicates()
    return total


def expected_sliced_plan(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    p: float = 2,
    ties: str = "split",
    prior: ArrayLike | None = None,
) -> SlicedPlan:
    r"""The expected sliced transport plan $\bar G = \sum_l w_l G_{\theta_l}$, with $w_l \propto \pi_l e^{-\beta c_l}$.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction a row.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    beta : float
        Inverse temperature over slices, >= 0, in units of 1 / length^p. 0 is the plain mean, inf the cheapest slices.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.
    ties : "split" or "first"
        See :func:`espref.line_plan`.
    prior : (L,), optional
        Weights $\pi$ of the directions themselves, sum 1; see :func:`espref.direction_weights`.

    Returns
    -------
    SlicedPlan
        plan (coo_array, (n, m), mass 1, marginals a and b), cost, weights (L,), costs (L,).

    Raises
    ------
    ValueError
        For malformed input, costs that overflow, or ties that spread over too many entries.

    Examples
    --------
    >>> from espref import expected_sliced_plan
    >>> expected_sliced_plan([[0, 0], [1, 1]], [[5, 0], [0, 5]], [[1, 0], [0, 1]]).plan.toarray()
    array([[0.25, 0.25],
           [0.25, 0.25]])

    References
    ----------
    liu2025est
    """
    x, y, directions, a, b = _checked(x, y, directions, a, b, ties)
    p, beta, prior = as_exponent(p), as_beta(beta), as_prior(prior, len(directions))

    def work(matching: Matching) -> tuple[Matching, float]:
        return matching, matching_cost(matching, x, y, a, b, p)

    kept, slice_cost = zip(*over_slices(work, x, y, directions, a, b, ties), strict=True)
    costs = np.array(slice_cost)
    weights = gibbs_weights(costs, beta, prior)
    return SlicedPlan(_average(kept, weights, a, b), float(weights @ costs), weights, costs)


def min_sliced_plan(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float = 2,
    ties: str = "split",
) -> SlicedPlan:
    """The lifted plan of the cheapest direction (the first of them), min-SWGG when p = 2.

    Parameters, errors and result are those of :func:`expected_sliced_plan`; the weights are 1 at that direction.

    Examples
    --------
    >>> from espref import min_sliced_plan
    >>> min_sliced_plan([[0, 0], [1, 3]], [[0, 1], [1, 0]], [[1, 0], [0, 1]]).weights
    array([0., 1.])

    References
    ----------
    mahey2023swgg
    """
    costs = slice_costs(x, y, directions, a, b, p=p, ties=ties)
    cheapest = costs.argmin()
    weights = np.zeros(len(costs))
    weights[cheapest] = 1.0
    plan = sliced_plans(x, y, np.asarray(directions)[[cheapest]], a, b, ties=ties)[0]
    return SlicedPlan(plan, float(costs[cheapest]), weights, costs)


def est_distance(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    p: float = 2,
) -> float:
    r"""The expected sliced transport distance $(\sum_l w_l c_l)^{1/p}$, in units of length; no plan is built.

    A metric in the sense of Liu et al. for beta = 0; for beta > 0 the triangle inequality can fail (see the ledger).
    Parameters and errors are those of :func:`expected_sliced_plan`.

    Examples
    --------
    >>> from espref import est_distance
    >>> est_distance([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 0.0]])
    5.0

    References
    ----------
    liu2025est
    """
    costs = slice_costs(x, y, directions, a, b, p=p)
    return float(gibbs_weights(costs, beta) @ costs) ** (1 / p)
