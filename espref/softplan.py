r"""Chapter 7. Soft sliced plans: soft sorts on both sides, the monotone plan between ranks in the middle.

With P and Q the soft sorts of the projected clouds, $G = P^\top A\, Q$, where A is the monotone plan between the sorted
weights (for n = m and uniform weights, 1/n times the identity). Its mass is 1, but its marginals are those of P and Q:
right for balanced sorts, off for SoftSort.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist

from ._checks import Array, as_beta, as_directions, as_exponent, as_pair, as_tau, as_values, as_weights
from .expected import SlicedPlan, gibbs_weights
from .lift import _finite_cost, ground_cost, project
from .line import QUANTA, quantise, rank_pieces
from .softsort import as_flag, as_power, weighted_soft_sort


def rank_plan(a: ArrayLike, b: ArrayLike) -> coo_array:
    r"""The monotone plan A between ranks: the one that couples sorted points of weights a and b.

    With $\alpha_i = a_1 + \dots + a_i$ and $\beta_j = b_1 + \dots + b_j$, the entry $A_{ij}$ is the length of
    $[\alpha_{i-1}, \alpha_i] \cap [\beta_{j-1}, \beta_j]$; for n = m and uniform weights, 1/n times the identity.

    Parameters
    ----------
    a, b : (n,) and (m,)
        Weights in the order of their ranks, nonnegative, sum 1.

    Returns
    -------
    scipy.sparse.coo_array, shape (n, m)
        Mass 1, marginals a and b, at most n + m - 1 entries, no stored zeros.

    Raises
    ------
    ValueError
        For malformed input.

    Examples
    --------
    >>> from espref import rank_plan
    >>> rank_plan([0.5, 0.5], [0.25, 0.25, 0.5]).toarray()
    array([[0.25, 0.25, 0.  ],
           [0.  , 0.  , 0.5 ]])

    References
    ----------
    peyre2019computational
    """
    a, b = as_values(a, "a"), as_values(b, "b")
    return _rank_plan(as_weights(a, len(a), "a"), as_weights(b, len(b), "b"))


def soft_scores(points: Array, theta: Array, tau: float) -> Array:
    """<x_i, theta>, (n,), equal points tied exactly. At tau = 0 only the order counts, and no scale is too large."""
    if tau == 0:
        return project(points, theta[None])[0]
    scores = np.einsum("ld,nd->ln", theta[None], points)[0]  # not BLAS: see lift.project
    if not np.isfinite(scores).all():
        raise ValueError("directions: expected finite scores <x_i, theta>, got an overflow; rescale the directions")
    return scores


def _rank_plan(a: Array, b: Array) -> coo_array:
    rows, cols, mass = rank_pieces(quantise(a, b))
    return coo_array((mass, (rows, cols)), shape=(len(a), len(b)))


def _soft_plan(u: Array, v: Array, a: Array, b: Array, tau: float, power: int, balanced: bool) -> Array:
    heavy_a, heavy_b = np.flatnonzero(a >= 1 / QUANTA), np.flatnonzero(b >= 1 / QUANTA)  # as on the line
    u, v, mass_a, mass_b = u[heavy_a], v[heavy_b], a[heavy_a], b[heavy_b]
    p = weighted_soft_sort(u, mass_a, tau, power, balanced)
    q = weighted_soft_sort(v, mass_b, tau, power, balanced)
    ranks = _rank_plan(mass_a[u.argsort(kind="stable")], mass_b[v.argsort(kind="stable")])
    plan = np.zeros((len(a), len(b)))
    plan[np.ix_(heavy_a, heavy_b)] = p.T @ (ranks @ q)
    return plan


def soft_line_plan(
    u: ArrayLike,
    v: ArrayLike,
    tau: float,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    power: int = 1,
    balanced: bool = False,
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
    balanced : bool
        With balanced sorts G is a plan for every tau: marginals a and b to 1e-13. Otherwise its mass is 1, and its
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
    return _soft_plan(u, v, a, b, as_tau(tau), as_power(power), as_flag(balanced, "balanced"))


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
    balanced: bool = False,
) -> SlicedPlan:
    r"""The expected soft plan $\sum_l w_l G_l$, $w_l \propto e^{-\beta \langle C, G_l \rangle}$, over soft slice plans.

    Parameters are those of :func:`espref.expected_sliced_plan` and :func:`espref.soft_line_plan`; the scores are
    <x_i, theta_l>, so that tau is in units of (length x |theta|)^power.

    Returns
    -------
    SlicedPlan
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
    balanced = as_flag(balanced, "balanced")
    ground = cdist(x, y, "sqeuclidean") if p == 2 else ground_cost(x, y, p)  # the first takes no (n, m, d) memory
    _finite_cost(ground.max())
    pairs = ((soft_scores(x, theta, tau), soft_scores(y, theta, tau)) for theta in directions)
    plans = [_soft_plan(u, v, a, b, tau, power, balanced) for u, v in pairs]
    costs = np.array([np.vdot(ground, plan) for plan in plans])
    weights = gibbs_weights(costs, beta)
    return SlicedPlan(np.tensordot(weights, plans, axes=1), float(weights @ costs), weights, costs)
