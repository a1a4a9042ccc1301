r"""Chapter 4. Many slices: Gibbs weights, the expected sliced plan, the min-sliced plan, the EST distance.

With slice costs $c_l$ and an inverse temperature $\beta$, $w_l \propto e^{-\beta c_l}$ and
$\bar G = \sum_l w_l G_{\theta_l}$: the plain mean at $\beta = 0$, the cheapest slice as $\beta \to \infty$.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, csr_array

from ._checks import Array, as_beta, as_exponent, as_prior, as_values
from ._costs import matching_cost
from ._threads import in_threads
from ._ties import Matching, refuse_large, split_ties
from .lift import as_clouds, over_slices, slice_costs, sliced_plans


class SlicedPlan(NamedTuple):
    """A sparse plan averaged over slices; ``plan.toarray()`` is the matrix."""

    plan: coo_array  # (n, m), mass 1
    cost: float  # expected cost, sum_l weights_l costs_l = <C, plan>
    weights: Array  # (L,) of the slices, sum 1
    costs: Array  # (L,) of the slices


class DenseSlicedPlan(NamedTuple):
    """A dense plan averaged over slices."""

    plan: Array  # (n, m), mass 1
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
    normalised: Array = weights / weights.sum()
    return normalised


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
        One direction per row.
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
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, ties)
    p, beta, prior = as_exponent(p), as_beta(beta), as_prior(prior, len(directions))

    def work(matching: Matching) -> tuple[Matching, float]:
        return matching, matching_cost(matching, x, y, a, b, p)

    matchings, slice_cost = zip(*over_slices(work, x, y, directions, a, b, ties), strict=True)
    costs = np.array(slice_cost)
    weights = gibbs_weights(costs, beta, prior)
    return SlicedPlan(_average(matchings, weights, a, b), float(weights @ costs), weights, costs)


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

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.
    ties : "split" or "first"
        See :func:`espref.line_plan`.

    Returns
    -------
    SlicedPlan
        plan (coo_array, (n, m), mass 1, marginals a and b), cost, weights (L,): 1 at the cheapest direction and 0
        elsewhere, costs (L,).

    Raises
    ------
    ValueError
        For malformed input, costs that overflow, or ties that spread over too many entries.

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
    ties: str = "split",
    prior: ArrayLike | None = None,
) -> float:
    r"""The expected sliced transport distance $(\sum_l w_l c_l)^{1/p}$; no plan is built.

    A metric in the sense of Liu et al. for beta = 0; for beta > 0 the triangle inequality can fail (see the ledger).

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row.
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
    float, in units of length.

    Raises
    ------
    ValueError
        For malformed input, or costs that overflow.

    Examples
    --------
    >>> from espref import est_distance
    >>> est_distance([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 0.0]])
    5.0

    References
    ----------
    liu2025est
    """
    costs = slice_costs(x, y, directions, a, b, p=p, ties=ties)
    return float((gibbs_weights(costs, beta, prior) @ costs) ** (1 / p))


# Behind the definition: equal entries of many sparse plans added up.


def _average(matchings: Sequence[Matching], weights: Array, a: Array, b: Array) -> coo_array:
    """sum_l w_l G_l, equal entries added up: two halves of the slices, and then their sum."""
    used = [(matching, w) for matching, w in zip(matchings, weights, strict=True) if w > 0]
    refuse_large(matching for matching, _ in used)
    middle = (len(used) + 1) // 2
    halves = [half for half in (used[:middle], used[middle:]) if half]
    total = sum(in_threads(lambda half: _weighted_sum(half, a, b), halves, len(a) + len(b)))
    total.eliminate_zeros()
    return total.tocoo()


def _weighted_sum(used: Sequence[tuple[Matching, float]], a: Array, b: Array) -> csr_array:
    parts = [(split_ties(matching, a, b), w) for matching, w in used]
    rows, cols = (
        np.concatenate([pieces[side] for pieces, _ in parts], dtype=np.int32, casting="same_kind") for side in (0, 1)
    )
    mass = np.concatenate([w * pieces.mass for pieces, w in parts])
    return csr_array((mass, (rows, cols)), shape=(len(a), len(b)))  # which adds up equal entries
