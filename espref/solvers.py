"""Chapter 10. Exact and entropic solvers: POT's, and its own sliced plans, with the conventions of this package.

Needs the extra ``verify``. POT is an independent implementation: no other module of the mathematics uses it.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _costs
from ._checks import (
    Array,
    NumericalLimit,
    as_beta,
    as_count,
    as_directions,
    as_exponent,
    as_measures,
    as_pair,
    as_real,
)
from ._floats import underflow_is_zero
from .expected import DenseSlicedPlan, gibbs_weights
from .lift import marginal_defect, transport_cost

#: What an exact plan may cost above the optimum, relative to its cost.
OPTIMALITY = 1e-9

#: How far the marginals of an exact plan may be off, relative to each weight.
LOST_MASS = 1e-9

#: How often a problem is solved, and where reduced costs are capped, in units that the gap can pay for.
MOST_SOLVES = 5
CAP = 1e4

#: How far a Sinkhorn plan's mass, and any of its marginals relative to its weight, may be off before it is refused.
MASS_SLACK = 1e-3


class SolverPlan(NamedTuple):
    """A dense plan and its cost <C, plan>, without the entropy.

    See Also
    --------
    exact_plan, sinkhorn_plan

    Examples
    --------
    >>> from espref.solvers import exact_plan
    >>> plan, cost = exact_plan([[0.0]], [[3.0]])
    >>> plan, cost
    (array([[1.]]), 9.0)
    """

    plan: Array  # (n, m), mass 1
    cost: float  # <C, plan>


def _pot() -> ModuleType:
    try:
        return import_module("ot")
    except ImportError as error:
        raise ImportError("espref.solvers needs POT: pip install 'espref[verify]'") from error


@underflow_is_zero
def ground_cost(x: ArrayLike, y: ArrayLike, *, p: float = 2) -> Array:
    """The matrix of |x_i - y_j|^p, shape (n, m).

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    p : float
        Exponent, >= 1.

    Returns
    -------
    (n, m) array
        In units of length^p.

    Raises
    ------
    ValueError
        For malformed input, or when an entry over- or underflows.

    See Also
    --------
    espref.transport_cost

    Examples
    --------
    >>> from espref.solvers import ground_cost
    >>> ground_cost([[0.0]], [[3.0], [4.0]])
    array([[ 9., 16.]])
    """
    x, y = as_pair(x, y)
    p = as_exponent(p)
    ground = _costs.ground_cost(x, y, p)
    for i, j in np.argwhere(~_costs.in_range(ground)):
        _costs.as_representable(float(ground[i, j]), float(np.abs(x[i] - y[j]).max()))
    return ground


@underflow_is_zero
def exact_plan(
    x: ArrayLike, y: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, p: float = 2
) -> SolverPlan:
    r"""Exact optimal transport, $W_p^p = \min_G \langle C, G \rangle$ over plans G, by POT's network simplex.

    The plan is certified by duality. POT's tolerances are absolute, so costs are first reduced by their row and column
    minima and divided by the largest one; with potentials $f_i + g_j \le C_{ij}$ from the solver,

    $$\langle C, G \rangle - \langle C, G^* \rangle \le \sum_{ij} (C_{ij} - f_i - g_j)\, G_{ij} ,$$

    which must be below ``OPTIMALITY`` times the cost. Where a few large costs hide the others, the problem is solved
    again for the reduced costs, capped.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.

    Returns
    -------
    SolverPlan
        plan (n, m), mass 1, and its cost.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the plan cannot be certified to be optimal, or loses the mass of points of very little weight.

    See Also
    --------
    sinkhorn_plan, espref.line_plan

    Examples
    --------
    >>> from espref.solvers import exact_plan
    >>> exact_plan([[0.0], [1.0]], [[3.0], [2.0]]).plan
    array([[0. , 0.5],
           [0.5, 0. ]])

    References
    ----------
    flamary2021pot, peyre2019computational
    """
    ot = _pot()
    x, y, a, b = as_measures(x, y, a, b)
    cost = ground_cost(x, y, p=p)
    reduced = cost - cost.min(axis=1, keepdims=True)
    reduced -= reduced.min(axis=0)
    problem = reduced
    for _ in range(MOST_SOLVES):
        largest = problem.max() or 1.0
        plan, log = ot.emd(a, b, problem / largest, numItermax=10_000_000, log=True)
        if log["warning"] is not None:
            raise NumericalLimit(f"exact_plan: {log['warning']}")
        plan = _with_marginals(plan, a, b)
        potentials = largest * log["u"]
        target_potentials = (problem - potentials[:, None]).min(axis=0)
        potentials = (problem - target_potentials).min(axis=1)
        slack = problem - potentials[:, None] - target_potentials
        gap = float(np.vdot(slack, plan))
        if gap <= OPTIMALITY * np.vdot(cost, plan):
            return SolverPlan(plan, transport_cost(plan, x, y, p=p))
        problem = np.minimum(slack, CAP * gap / min(a[a > 0].min(), b[b > 0].min()))
    worth = float(np.vdot(cost, plan))
    raise NumericalLimit(f"exact_plan: not certified, up to {gap:.1g} above the optimum at a cost of {worth:.3g}")


def _with_marginals(plan: Array, a: Array, b: Array) -> Array:
    """The plan with rows and columns rescaled: the solver rounds absolutely, which distorts light points."""
    for _ in range(3):
        for axis, weights in ((1, a[:, None]), (0, b)):
            sums = plan.sum(axis=axis, keepdims=True)
            plan = plan * np.divide(weights, sums, out=np.ones_like(sums), where=sums > 0)
    defect = marginal_defect(plan, a, b)
    if defect > LOST_MASS:
        raise NumericalLimit(
            f"exact_plan: the solver loses the mass of light points, marginals off by {defect:.1g} of a weight; "
            "leave out the points of least weight"
        )
    return plan


@underflow_is_zero
def sinkhorn_plan(
    x: ArrayLike,
    y: ArrayLike,
    reg: float,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float = 2,
    n_iter: int = 10_000,
) -> SolverPlan:
    r"""Entropic optimal transport, $\min_G \langle C, G \rangle + \mathrm{reg} \sum_{ij} G_{ij} \log G_{ij}$.

    POT's Sinkhorn iteration in the log domain. Its mass is checked: the iteration in the standard domain can underflow
    to a plan without mass and only warn. reg > 0 is in units of the cost.

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    reg : float
        Weight of the entropy, > 0, in units of the cost.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.
    n_iter : int
        The most iterations, >= 1.

    Returns
    -------
    SolverPlan
        plan (n, m), mass 1, and its cost, without the entropy.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When after ``n_iter`` iterations the mass is not 1, or a marginal is off by more than 1e-3 of its weight.

    See Also
    --------
    exact_plan, espref.sinkhorn_attention

    Examples
    --------
    >>> from espref.solvers import sinkhorn_plan
    >>> sinkhorn_plan([[0.0], [1.0]], [[0.0], [1.0]], reg=1.0).plan.round(2)
    array([[0.37, 0.13],
           [0.13, 0.37]])

    References
    ----------
    flamary2021pot, peyre2019computational
    """
    ot = _pot()
    x, y, a, b = as_measures(x, y, a, b)
    reg, n_iter = as_real(reg, "reg", least=0, above=True), as_count(n_iter, "n_iter")
    cost = ground_cost(x, y, p=p)
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.simplefilter("ignore")  # what POT warns of is checked below; the log of weight 0 is -inf, and right
        plan = ot.sinkhorn(a, b, cost, reg, method="sinkhorn_log", numItermax=n_iter, stopThr=1e-10)
    mass = float(plan.sum())
    off = marginal_defect(plan, a, b) if np.isfinite(mass) else np.inf
    if not (abs(mass - 1) <= MASS_SLACK and off <= MASS_SLACK):
        raise NumericalLimit(
            f"sinkhorn_plan: mass {mass:.3g}, marginals off by {off:.1g} after {n_iter} iterations; raise reg or n_iter"
        )
    return SolverPlan(plan, transport_cost(plan, x, y, p=p))


@underflow_is_zero
def pot_expected_sliced_plan(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    p: float = 2,
) -> DenseSlicedPlan:
    """POT's slices, with costs, Gibbs weights and average recomputed here.

    POT 0.9.7 returns right plans but wrong slice *costs* whenever n != m or weights are not uniform, and for some
    uniform n = m too; so its plans with beta > 0 are wrong there. Each slice is therefore taken alone, at beta = 0.
    It keeps some order of tied points, not always that of the input (``ties="first"`` here).

    Parameters
    ----------
    x, y : (n, d) and (m, d)
        Source and target.
    directions : (L, d)
        One direction per row.
    a, b : (n,) and (m,), optional
        Weights, sum 1; uniform by default.
    beta : float
        Inverse temperature over slices, >= 0, in units of 1 / length^p.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.

    Returns
    -------
    DenseSlicedPlan
        plan (n, m), mass 1, cost, weights (L,), costs (L,).

    Raises
    ------
    ValueError
        For malformed input.

    See Also
    --------
    espref.expected_sliced_plan

    Examples
    --------
    >>> from espref.solvers import pot_expected_sliced_plan
    >>> pot_expected_sliced_plan([[0.0], [1.0]], [[3.0], [2.0]], [[1.0]]).plan
    array([[0. , 0.5],
           [0.5, 0. ]])

    References
    ----------
    flamary2021pot, liu2025est
    """
    ot = _pot()
    x, y, a, b = as_measures(x, y, a, b)
    directions = as_directions(directions, x.shape[1])
    beta = as_beta(beta)
    plans = [
        ot.sliced.expected_sliced_plan(x, y, a, b, projections=direction[:, None], beta=0.0, dense=True)[0]
        for direction in directions
    ]
    costs = np.array([transport_cost(plan, x, y, p=p) for plan in plans])
    weights = gibbs_weights(costs, beta)
    return DenseSlicedPlan(np.tensordot(weights, plans, axes=1), float(weights @ costs), weights, costs)
