r"""Chapter 4. Many slices: Gibbs weights, the expected sliced plan, the min-sliced plan, the EST distance.

With slice costs $c_l$ and an inverse temperature $\beta$, $w_l \propto e^{-\beta c_l}$ and
$\bar G = \sum_l w_l G_{\theta_l}$: the plain mean at $\beta = 0$, the cheapest slice as $\beta \to \infty$.
"""

from __future__ import annotations

from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array

from ._checks import Array, as_beta, as_exponent, as_prior, as_values
from ._costs import COST_ROUNDING, in_range, log_cost, matching_cost, root_cost
from ._floats import underflow_is_zero
from ._slices import average, comparable_costs, distance_from_logs, matched, projected_costs
from ._ties import sparse_plan
from .lift import as_clouds, over_slices


class SlicedPlan(NamedTuple):
    """A sparse plan averaged over slices; ``plan.toarray()`` is the matrix, which ``np.asarray(plan)`` is not.

    See Also
    --------
    expected_sliced_plan, min_sliced_plan, circle_plan

    Examples
    --------
    >>> from espref import expected_sliced_plan
    >>> result = expected_sliced_plan([[0.0], [1.0]], [[3.0]], [[1.0]])
    >>> result.plan.shape, result.cost
    ((2, 1), 6.5)
    """

    plan: coo_array[np.float64, tuple[int, int]]  # (n, m), mass 1
    cost: float  # expected cost, sum_l weights_l costs_l = <C, plan>
    weights: Array  # (L,) of the slices, sum 1
    costs: Array  # (L,) of the slices


class DenseSlicedPlan(NamedTuple):
    """A dense plan averaged over slices.

    See Also
    --------
    expected_soft_plan

    Examples
    --------
    >>> from espref import expected_soft_plan
    >>> expected_soft_plan([[0.0], [1.0]], [[3.0]], [[1.0]], tau=0.1).plan
    array([[0.5],
           [0.5]])
    """

    plan: Array  # (n, m), mass 1
    cost: float  # expected cost, sum_l weights_l costs_l = <C, plan>
    weights: Array  # (L,) of the slices, sum 1
    costs: Array  # (L,) of the slices


@underflow_is_zero
def gibbs_weights(costs: ArrayLike, beta: float, prior: ArrayLike | None = None) -> Array:
    r"""Gibbs weights $w_l = \pi_l e^{-\beta c_l} / \sum_k \pi_k e^{-\beta c_k}$.

    Parameters
    ----------
    costs : (L,)
        Slice costs.
    beta : float
        Inverse temperature over slices, >= 0, in units of 1 / cost. ``inf`` leaves the cheapest slices only. Costs that
        agree with the least within rounding (1e-14 of it) count as equal to it.
    prior : (L,), optional
        $\pi$, sum 1: quadrature weights of the directions; uniform by default.

    Returns
    -------
    (L,) array, sum 1.

    Raises
    ------
    ValueError
        For malformed input.

    See Also
    --------
    slice_costs, expected_sliced_plan

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
    least = costs[prior > 0].min()
    with np.errstate(over="ignore"):
        excess = np.maximum(costs - least, 0.0)
    excess[excess <= COST_ROUNDING * abs(least)] = 0.0
    with np.errstate(over="ignore"):
        damping = np.multiply(excess, beta, out=np.zeros_like(costs), where=excess != 0)  # 0 * inf is 0 here
        weights = np.where(prior > 0, prior * np.exp(-damping), 0.0)
        normalised: Array = weights / weights.sum()
    return normalised


@underflow_is_zero
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
        Exponent of the ground cost |x - y|^p, >= 1. With ``inf`` a slice costs the largest |x - y| that carries mass.
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
        For malformed input, costs that over- or underflow, or ties that spread over too many entries.

    See Also
    --------
    min_sliced_plan, circle_plan, expected_soft_plan, est_distance

    Examples
    --------
    >>> from espref import expected_sliced_plan
    >>> expected_sliced_plan([[0, 0], [1, 1]], [[5, 0], [0, 5]], [[1, 0], [0, 1]]).plan.toarray()
    array([[0.25, 0.25],
           [0.25, 0.25]])

    References
    ----------
    liu2025est, tanguy2025sliced (general measures)
    """
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, ties)
    p, beta, prior = as_exponent(p, infinite=True), as_beta(beta), as_prior(prior, len(directions))
    matchings, costs = matched(x, y, directions, a, b, p, ties)
    weights = gibbs_weights(comparable_costs(matchings, costs, x, y, a, b, p) if beta > 0 else costs, beta, prior)
    return SlicedPlan(average(matchings, weights, a, b), float(weights @ costs), weights, costs)


@underflow_is_zero
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
    """The lifted plan of the cheapest direction (the first, if several are equally cheap), min-SWGG when p = 2.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1. With ``inf`` a slice costs the largest |x - y| that carries mass.
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
        For malformed input, costs that over- or underflow, or ties that spread over too many entries.

    See Also
    --------
    expected_sliced_plan

    Examples
    --------
    >>> from espref import min_sliced_plan
    >>> min_sliced_plan([[0, 0], [1, 3]], [[0, 1], [1, 0]], [[1, 0], [0, 1]]).weights
    array([0., 1.])

    References
    ----------
    mahey2023swgg
    """
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, ties)
    p = as_exponent(p, infinite=True)
    matchings, costs = matched(x, y, directions, a, b, p, ties)
    weights = np.zeros(len(costs))
    cheapest = int(gibbs_weights(comparable_costs(matchings, costs, x, y, a, b, p), np.inf).argmax())
    weights[cheapest] = 1.0
    return SlicedPlan(sparse_plan(matchings[cheapest], a, b), float(costs[cheapest]), weights, costs)


@underflow_is_zero
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
        Exponent of the ground cost |x - y|^p, >= 1. With ``inf`` a slice costs the largest |x - y| that carries mass.
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

    See Also
    --------
    expected_sliced_plan, sliced_wasserstein

    Examples
    --------
    >>> from espref import est_distance
    >>> est_distance([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 0.0]])
    5.0

    References
    ----------
    liu2025est
    """
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, ties)
    p, beta, prior = as_exponent(p, infinite=True), as_beta(beta), as_prior(prior, len(directions))
    matchings = over_slices(lambda matching: matching, x, y, directions, a, b, ties)
    costs = np.array([matching_cost(matching, x, y, a, b, p) for matching in matchings])
    if p == np.inf:
        return float(gibbs_weights(costs, beta, prior) @ costs)
    out = ~in_range(costs)
    if not any(root_cost(matching, x, y, a, b) > 0 for matching in compress(matchings, out)):
        comparable = comparable_costs(matchings, costs, x, y, a, b, p) if beta > 0 else costs
        return float((gibbs_weights(comparable, beta, prior) @ costs) ** (1 / p))
    logs = np.array([log_cost(matching, x, y, a, b, p) for matching in matchings])
    return distance_from_logs(logs, beta, p, prior)


@underflow_is_zero
def sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float = 2,
    prior: ArrayLike | None = None,
) -> float:
    r"""The sliced Wasserstein distance, the mean cost of the projections.

    $$SW_p = \Bigl(\sum_l \pi_l W_p^p(\langle \theta_l, x \rangle, \langle \theta_l, y \rangle)\Bigr)^{1/p} .$$

    The cost is measured on the line and not in $R^d$, so it is at most $W_p$, while :func:`est_distance` is at least.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row; projections are on the unit vector of each.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    p : float
        Exponent of the ground cost, >= 1.
    prior : (L,), optional
        Weights $\pi$ of the directions, sum 1; see :func:`espref.direction_weights`.

    Returns
    -------
    float, in units of length.

    Raises
    ------
    ValueError
        For malformed input, or distances that over- or underflow.

    See Also
    --------
    max_sliced_wasserstein, est_distance

    Examples
    --------
    >>> from espref import sliced_wasserstein
    >>> sliced_wasserstein([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]], p=1)
    3.5

    References
    ----------
    bonneel2015sliced
    """
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, "first")
    p, prior = as_exponent(p), as_prior(prior, len(directions))
    costs, unit = projected_costs(x, y, directions, a, b, p, prior)
    return float(unit * (prior @ costs) ** (1 / p))


@underflow_is_zero
def max_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float = 2,
) -> float:
    r"""The largest $W_p$ of the projections on the given directions.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row; projections are on the unit vector of each.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    p : float
        Exponent of the ground cost, >= 1.

    Returns
    -------
    float, in units of length.

    Raises
    ------
    ValueError
        For malformed input, or distances that over- or underflow.

    See Also
    --------
    sliced_wasserstein

    Examples
    --------
    >>> from espref import max_sliced_wasserstein
    >>> max_sliced_wasserstein([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]])
    4.0
    """
    x, y, directions, a, b = as_clouds(x, y, directions, a, b, "first")
    p = as_exponent(p)
    costs, unit = projected_costs(x, y, directions, a, b, p, as_prior(None, len(directions)))
    return float(unit * costs.max() ** (1 / p))
