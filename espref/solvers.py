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
from ._checks import Array, as_beta, as_count, as_directions, as_exponent, as_pair, as_real, as_weights
from .expected import DenseSlicedPlan, gibbs_weights
from .lift import transport_cost

#: How far a Sinkhorn plan's mass, and any of its marginals, may be off before it is refused.
MASS_SLACK = 1e-4


class SolverPlan(NamedTuple):
    """A dense plan and its cost <C, plan>, without the entropy."""

    plan: Array  # (n, m), mass 1
    cost: float  # <C, plan>


def _pot() -> ModuleType:
    try:
        return import_module("ot")
    except ImportError as error:
        raise ImportError("espref.solvers needs POT: pip install 'espref[verify]'") from error


def ground_cost(x: ArrayLike, y: ArrayLike, *, p: float = 2) -> Array:
    """The matrix of |x_i - y_j|^p, shape (n, m)."""
    x, y = as_pair(x, y)
    return _costs.ground_cost(x, y, as_exponent(p))


def exact_plan(
    x: ArrayLike, y: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, p: float = 2
) -> SolverPlan:
    r"""Exact optimal transport, $W_p^p = \min_G \langle C, G \rangle$ over plans G, by POT's network simplex.

    x (n, d), y (m, d), weights a, b (uniform by default), ground cost |x - y|^p.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the solver does not reach the optimum.

    References
    ----------
    flamary2021pot, peyre2019computational
    """
    ot = _pot()
    x, y = as_pair(x, y)
    a, b = as_weights(a, len(x), "a"), as_weights(b, len(y), "b")
    cost = ground_cost(x, y, p=p)
    largest = cost.max() or 1.0  # POT's tolerance is absolute: it takes very small costs for zero
    plan, log = ot.emd(a, b, cost / largest, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"exact_plan: {log['warning']}")
    return SolverPlan(plan, transport_cost(plan, x, y, p=p))


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

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the plan's mass is not 1, or a marginal is further than 1e-4 from a or b, after ``n_iter`` iterations.

    References
    ----------
    flamary2021pot, peyre2019computational
    """
    ot = _pot()
    x, y = as_pair(x, y)
    a, b = as_weights(a, len(x), "a"), as_weights(b, len(y), "b")
    reg, n_iter = as_real(reg, "reg", least=0, above=True), as_count(n_iter, "n_iter")
    cost = ground_cost(x, y, p=p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns of is checked below; the log of weight 0 is -inf, and right
        plan = ot.sinkhorn(a, b, cost, reg, method="sinkhorn_log", numItermax=n_iter, stopThr=1e-10)
    off = max(np.abs(plan.sum(axis=1) - a).max(), np.abs(plan.sum(axis=0) - b).max())
    if not (abs(plan.sum() - 1) <= MASS_SLACK and off <= MASS_SLACK):
        raise RuntimeError(
            f"sinkhorn_plan: mass {plan.sum():.3g}, marginals off by {off:.1g} after {n_iter} iterations; "
            "raise reg or n_iter"
        )
    return SolverPlan(plan, transport_cost(plan, x, y, p=p))


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

    Raises
    ------
    ValueError
        For malformed input.

    References
    ----------
    flamary2021pot, liu2025est
    """
    ot = _pot()
    x, y = as_pair(x, y)
    directions = as_directions(directions, x.shape[1])
    a, b = as_weights(a, len(x), "a"), as_weights(b, len(y), "b")
    beta = as_beta(beta)
    plans = [
        ot.sliced.expected_sliced_plan(x, y, a, b, projections=direction[:, None], beta=0.0, dense=True)[0]
        for direction in directions
    ]
    costs = np.array([transport_cost(plan, x, y, p=p) for plan in plans])
    weights = gibbs_weights(costs, beta)
    return DenseSlicedPlan(np.tensordot(weights, plans, axes=1), float(weights @ costs), weights, costs)
