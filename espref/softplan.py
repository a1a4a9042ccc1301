r"""Chapter 7. Soft sliced plans: soft sorts on both sides, the monotone plan between ranks in the middle.

With P and Q the soft sorts of the projected clouds, $G = P^\top A\, Q$, where A is the monotone plan between the sorted
weights (for n = m and uniform weights, 1/n times the identity). Its mass is 1, but its marginals are those of P and Q:
right for balanced sorts, off for SoftSort.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from ._checks import (
    Array,
    as_beta,
    as_choice,
    as_directions,
    as_exponent,
    as_finite_cost,
    as_pair,
    as_power,
    as_prior,
    as_tau,
    as_values,
    as_weights,
)
from ._costs import ground_cost
from .expected import DenseSlicedPlan, gibbs_weights
from .lift import project
from .line import QUANTA, rank_plan
from .softsort import SORTS, weighted_soft_permutation


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
    u, v = as_values(u, "u"), as_values(v, "v")
    a, b = as_weights(a, len(u), "a"), as_weights(b, len(v), "b")
    return soft_plan(u, v, a, b, as_tau(tau), as_power(power), as_choice(sort, "sort", SORTS))


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

    References
    ----------
    shahbazi2025espformer
    """
    x, y = as_pair(x, y)
    directions = as_directions(directions, x.shape[1])
    a, b = as_weights(a, len(x), "a"), as_weights(b, len(y), "b")
    tau, beta, p, power = as_tau(tau), as_beta(beta), as_exponent(p), as_power(power)
    sort, prior = as_choice(sort, "sort", SORTS), as_prior(prior, len(directions))
    ground = cdist(x, y, "sqeuclidean") if p == 2 else ground_cost(x, y, p)  # the first takes no (n, m, d) memory
    as_finite_cost(ground.max())
    pairs = ((soft_scores(x, theta, tau), soft_scores(y, theta, tau)) for theta in directions)
    plans = [soft_plan(u, v, a, b, tau, power, sort) for u, v in pairs]
    costs = np.array([np.vdot(ground, plan) for plan in plans])
    weights = gibbs_weights(costs, beta, prior)
    return DenseSlicedPlan(np.tensordot(weights, plans, axes=1), float(weights @ costs), weights, costs)


# Behind the definition: scores that tie, and points without weight.


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
    heavy_a, heavy_b = np.flatnonzero(a >= 1 / QUANTA), np.flatnonzero(b >= 1 / QUANTA)  # as on the line
    u, v, mass_a, mass_b = u[heavy_a], v[heavy_b], a[heavy_a], b[heavy_b]
    p = weighted_soft_permutation(u, mass_a, tau, power, sort)
    q = weighted_soft_permutation(v, mass_b, tau, power, sort)
    ranks = rank_plan(mass_a[u.argsort(kind="stable")], mass_b[v.argsort(kind="stable")])
    plan = np.zeros((len(a), len(b)))
    plan[np.ix_(heavy_a, heavy_b)] = p.T @ (ranks @ q)
    return plan
