r"""Chapter 7. Soft sliced plans: soft sorts on both sides, the monotone plan between ranks in the middle.

With P and Q the soft sorts of the projected clouds, $G = P^\top A\, Q$, where A is the monotone plan between the sorted
weights (for n = m and uniform weights, 1/n times the identity). Its mass is 1, but its marginals are those of P and Q:
right for balanced sorts, off for SoftSort.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._checks import (
    Array,
    as_beta,
    as_choice,
    as_directions,
    as_exponent,
    as_line_measures,
    as_measures,
    as_power,
    as_prior,
    as_tau,
)
from ._costs import COST_ROUNDING, as_representable, far_apart, ground_cost, in_range
from ._floats import underflow_is_zero
from .expected import DenseSlicedPlan, gibbs_weights
from .lift import project
from .line import rank_plan
from .softsort import SORTS, weighted_soft_permutation


@underflow_is_zero
def soft_line_plan(
    u: ArrayLike,
    v: ArrayLike,
    tau: float,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    power: int = 1,
    sort: str = "soft",
) -> Array:
    r"""The soft transport plan $G = P^\top A\, Q$ between two weighted clouds on the line.

    P and Q are soft sorts that see the weights, $P_{ij} \propto K_{ij} a_j$, and A is the monotone plan between the
    sorted weights. As tau -> 0, G tends to the tie-splitting plan of :func:`espref.line_plan`, weights included.

    Parameters
    ----------
    u, v : (n,) and (m,)
        Points of the source and of the target.
    tau : float
        Temperature of the soft sort, >= 0, in units of score^power.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    power : 1 or 2
        Exponent of the sort kernel.
    sort : "soft" or "balanced"
        With balanced sorts G is a plan for every tau: marginals a and b to 1e-13. With SoftSort its mass is 1, and its
        marginals are only near a and b.

    Returns
    -------
    (n, m) array, nonnegative, mass 1.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    line_plan, expected_soft_plan

    Examples
    --------
    >>> from espref import soft_line_plan
    >>> soft_line_plan([3.0, 1.0], [10.0, 20.0], tau=0)
    array([[0. , 0.5],
           [0.5, 0. ]])

    References
    ----------
    shahbazi2025espformer
    """
    u, v, a, b = as_line_measures(u, v, a, b)
    return soft_plan(u, v, a, b, as_tau(tau), as_power(power), as_choice(sort, "sort", SORTS))


@underflow_is_zero
def expected_soft_plan(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    tau: float,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    p: float = 2,
    power: int = 1,
    sort: str = "soft",
    prior: ArrayLike | None = None,
) -> DenseSlicedPlan:
    r"""The expected soft plan $\sum_l w_l G_l$, where $w_l \propto \pi_l e^{-\beta \langle C, G_l \rangle}$.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row; the scores that are sorted are <x_i, theta_l>.
    tau : float
        Temperature of the soft sort, >= 0, in units of (length x |theta|)^power.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    beta : float
        Inverse temperature over slices, >= 0, in units of 1 / length^p. 0 is the plain mean, inf the cheapest slices.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.
    power : 1 or 2
        Exponent of the sort kernel.
    sort : "soft" or "balanced"
        See :func:`espref.soft_line_plan`.
    prior : (L,), optional
        Weights $\pi$ of the directions themselves, sum 1; see :func:`espref.direction_weights`.

    Returns
    -------
    DenseSlicedPlan
        plan (ndarray, (n, m), mass 1), cost, weights (L,), costs (L,).

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    soft_line_plan, expected_sliced_plan, esp_attention

    Examples
    --------
    >>> from espref import expected_soft_plan
    >>> expected_soft_plan([[0.0], [1.0]], [[2.0], [3.0]], [[1.0]], tau=1.0, sort="balanced").plan.sum(axis=0)
    array([0.5, 0.5])

    References
    ----------
    shahbazi2025espformer
    """
    x, y, a, b = as_measures(x, y, a, b)
    directions = as_directions(directions, x.shape[1])
    tau, beta, p, power = as_tau(tau), as_beta(beta), as_exponent(p), as_power(power)
    sort, prior = as_choice(sort, "sort", SORTS), as_prior(prior, len(directions))
    result = mean_soft_plan(x, y, directions, tau, a, b, beta, p, power, sort, prior)
    if not in_range(result.costs).all():  # zero, or too small for a float?
        distance = ground_cost(x, y, 1)
        for theta, cost in zip(directions, result.costs, strict=True):
            plan = soft_plan(soft_scores(x, theta, tau), soft_scores(y, theta, tau), a, b, tau, power, sort)
            as_representable(cost, float(distance[plan > 0].max()))
    return result


def mean_soft_plan(
    x: Array,
    y: Array,
    directions: Array,
    tau: float,
    a: Array,
    b: Array,
    beta: float,
    p: float,
    power: int,
    sort: str,
    prior: Array,
) -> DenseSlicedPlan:
    """The body of :func:`expected_soft_plan`, slice by slice; costs may underflow."""
    ground = ground_cost(x, y, p)
    mean = RunningMean(np.zeros((len(x), len(y))), beta)
    costs, comparable = np.empty((2, len(directions)))
    exact = tau == 0 or sort == "balanced"  # the plans have marginals a and b
    shifted = p == 2 and far_apart(x, y, a, b)
    for k, theta in enumerate(directions):
        plan = soft_plan(soft_scores(x, theta, tau), soft_scores(y, theta, tau), a, b, tau, power, sort)
        costs[k] = np.vdot(ground, plan)
        comparable[k] = centred_cost(plan, x, y, a, b, exact) if shifted else costs[k]
        mean.add(plan, comparable[k], prior[k])
    weights = gibbs_weights(comparable, beta, prior)
    return DenseSlicedPlan(mean.result(), float(weights @ costs), weights, costs)


# Behind the definition: scores that tie, points without weight, means over slices one slice at a time.


class RunningMean:
    """sum_l w_l G_l with Gibbs weights w_l, one slice at a time: nothing of size slices x points is kept."""

    def __init__(self, zero: Array, beta: float) -> None:
        self.total, self.norm, self.least, self.beta = zero, 0.0, np.inf, beta

    def add(self, value: Array, cost: float, prior: float) -> None:
        """One slice more. Weights are relative to the cheapest slice so far."""
        if prior == 0:
            return
        if cost < self.least:
            if self.norm > 0:
                factor = self._damping(cost, self.least)
                self.total, self.norm = self.total * factor, self.norm * factor
            self.least = cost
        weight = prior * self._damping(self.least, cost)
        if weight > 0:
            self.total, self.norm = self.total + weight * value, self.norm + weight

    def _damping(self, low: float, high: float) -> float:
        excess = high - low
        if excess <= COST_ROUNDING * abs(low):
            return 1.0
        with np.errstate(over="ignore"):
            return float(np.exp(-np.float64(self.beta) * excess))

    def result(self) -> Array:
        """The mean over all slices that were added."""
        return self.total / self.norm


def centred_cost(plan: Array, x: Array, y: Array, a: Array, b: Array, exact: bool) -> float:
    """The cost of a plan for p = 2, less the squared distance of the clouds' means.

    The same for all slices, that distance would drown the differences of costs between clouds far apart. ``exact`` says
    that the plan has marginals a and b; otherwise a term remains that is linear in the distance.
    """
    x_mean, y_mean = a @ x, b @ y
    x, y, rows, cols = x - x_mean, y - y_mean, plan.sum(axis=1), plan.sum(axis=0)
    squares = rows @ np.einsum("nd,nd->n", x, x) + cols @ np.einsum("md,md->m", y, y)
    cost = squares - 2 * np.vdot(x, plan @ y)
    return float(cost if exact else cost + 2 * (x_mean - y_mean) @ (rows @ x - cols @ y))


def soft_scores(points: Array, theta: Array, tau: float) -> Array:
    """<x_i, theta>, (n,), equal points tied exactly. At tau = 0 only the order counts, and no scale is too large."""
    if tau == 0:
        order_only: Array = project(points, theta[None])[0]
        return order_only
    scores: Array = np.einsum("ld,nd->ln", theta[None], points)[0]  # not BLAS: see lift.project
    if not np.isfinite(scores).all():
        raise ValueError("directions: expected finite scores <x_i, theta>, got an overflow; rescale the directions")
    return scores


def soft_plan(u: Array, v: Array, a: Array, b: Array, tau: float, power: int, sort: str) -> Array:
    """P^T A Q, (n, m), for scores u, v."""
    heavy_a, heavy_b = np.flatnonzero(a), np.flatnonzero(b)  # points without weight have no rank
    u, v, mass_a, mass_b = u[heavy_a], v[heavy_b], a[heavy_a], b[heavy_b]
    p = weighted_soft_permutation(u, mass_a, tau, power, sort)
    q = weighted_soft_permutation(v, mass_b, tau, power, sort)
    ranks = rank_plan(mass_a[u.argsort(kind="stable")], mass_b[v.argsort(kind="stable")])
    plan = np.zeros((len(a), len(b)))
    plan[np.ix_(heavy_a, heavy_b)] = p.T @ (ranks @ q)
    return plan
