"""Chapter 10 of the ledger: the exact and entropic solvers, and two errors of POT 0.9.7."""

from __future__ import annotations

from importlib import metadata

import numpy as np
from scipy.optimize import linear_sum_assignment

from .. import expected, lift, maps, solvers
from .._checks import Array
from .ledger import claim
from .problems import NotMeasurable, Problem, positive


def _about_pot(version: str) -> None:
    """Raise where POT is installed in another version than the claim is about."""
    installed = metadata.version("POT")
    if not (installed + ".").startswith(version + "."):
        raise NotMeasurable(f"about POT {version}; {installed} is installed")


@claim(
    "solvers.pot-slice-costs-are-wrong",
    kind="refutation",
    on="fixed",
    tolerance=0.01,
    needs=("ot",),
    source="flamary2021pot",
    statement=r"“The slice costs that POT 0.9.7 returns are the costs of its slice plans.” They are not for $n "
    r"= m = 7$.",
    measured=r"relative difference of the returned cost from $\langle C, G \rangle$ of the plan returned with "
    r"it",
)
def pot_costs() -> float:
    """Counterexample by computation. The plans are right; see `solvers.pot-plans-agree`. The cause:
    `ot.utils.sparse_ot_dist` takes the mass of a pair from the place of its source point in the list of masses, not
    from the place of the pair. It is reached when n differs from m or the weights do, and at n = 7 because seven
    times 1/7, rounded, is not 1."""
    _about_pot("0.9.7")
    from ot import sliced

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(7, 2))
    direction = np.array([[1.0], [0.0]])
    plan, cost = sliced.expected_sliced_plan(x, y, projections=direction, beta=1.0, dense=True)
    return float(abs(cost - lift.transport_cost(plan, x, y)) / lift.transport_cost(plan, x, y))


@claim(
    "solvers.pot-simplex-has-no-scale",
    kind="refutation",
    on="fixed",
    tolerance=0.1,
    needs=("ot",),
    source="flamary2021pot",
    statement=r"“POT's network simplex finds an optimal plan, whatever the unit of length.” For two clouds of "
    r"20 points, $10^{-8}$ across, POT 0.9.7 returns a plan that is not optimal, without a warning.",
    measured=r"excess of its cost over that of the best assignment, relative to the latter",
)
def pot_scale() -> float:
    """Counterexample by computation: POT takes an improvement of about $10^{-14}$ for none. Therefore `exact_plan`
    divides the costs by the largest one before it calls POT."""
    _about_pot("0.9.7")
    from ot import emd

    rng = np.random.default_rng(0)
    x, y = 1e-8 * rng.normal(size=(2, 20, 2))
    ground = solvers.ground_cost(x, y)
    best = ground[linear_sum_assignment(ground)].mean()
    return float((emd([], [], ground) * ground).sum() / best - 1)


@claim(
    "solvers.pot-plans-agree",
    kind="property",
    on="pair",
    tolerance=1e-15,
    needs=("ot",),
    source="flamary2021pot",
    statement=r"Without ties, POT's slice plans averaged with the Gibbs weights of their costs are the "
    r"expected sliced plan.",
    measured=r"largest difference of an entry, with the costs of POT's plans computed here, relative to the "
    r"quotient of the largest cost of a pair and that of the cheapest slice, by which rounding of a mass grows",
)
def pot_plans(problem: Problem) -> float:
    """Both implement one definition. A little noise on the points removes ties."""
    rng = problem.rng(3)
    x = problem.x + 1e-3 * rng.normal(size=problem.x.shape)
    y = problem.y + 1e-3 * rng.normal(size=problem.y.shape)
    directions = problem.directions(4)
    beta = float(1 / lift.slice_costs(x, y, directions, problem.a, problem.b).min())
    condition = beta * float(solvers.ground_cost(x, y).max())
    ours = expected.expected_sliced_plan(x, y, directions, problem.a, problem.b, beta=beta)
    theirs = solvers.pot_expected_sliced_plan(x, y, directions, problem.a, problem.b, beta=beta)
    return float(np.abs(ours.plan.toarray() - theirs.plan).max() / condition)


@claim(
    "solvers.exact-plan-is-optimal",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    needs=("ot",),
    source="peyre2019computational",
    statement=r"The exact plan $G$ is optimal: it has marginals $a$ and $b$, and there are potentials with "
    r"$f_i + g_j \le C_{ij}$ and $\sum_i a_i f_i + \sum_j b_j g_j = \langle C, G \rangle$.",
    measured=r"difference of the two values, relative to the largest cost, or largest deviation of a row or "
    r"column sum",
)
def exact_is_optimal(problem: Problem) -> float:
    r"""Duality: the value of such potentials is a lower bound for the cost of every plan. Those of an optimal plan are
    lengths of shortest paths (Bellman and Ford) in the graph whose edges lead from $x_i$ to $y_j$ at length $C_{ij}$,
    and back at length $-C_{ij}$ where $G_{ij} > 0$. If a plan is not optimal, this graph has a cycle of negative
    length, and there are no such potentials."""
    plan, cost = solvers.exact_plan(problem.x, problem.y, problem.a, problem.b)
    ground = solvers.ground_cost(problem.x, problem.y)
    back, f = np.where(plan > 0, ground, -np.inf), np.zeros(len(ground))
    for _ in range(sum(ground.shape)):
        g = (ground - f[:, None]).min(axis=0)
        f, before = np.maximum(f, (back - g).max(axis=1)), f
        if np.array_equal(f, before):
            break
    g = (ground - f[:, None]).min(axis=0)
    deviation = max(abs(plan.sum(axis=1) - problem.a).max(), abs(plan.sum(axis=0) - problem.b).max())
    largest = positive(ground.max(), "the cost of every pair")
    return float(max(abs(problem.a @ f + problem.b @ g - cost) / largest, deviation))


def _regularisation(problem: Problem) -> float:
    """A twentieth of the largest cost: far from the independent coupling, and large enough for the kernel not to
    underflow."""
    return positive(solvers.ground_cost(problem.x, problem.y).max(), "the cost of every pair") / 20


@claim(
    "solvers.entropy-is-largest-at-equal-cost",
    kind="theorem",
    on="pair",
    tolerance=1e-6,
    needs=("ot",),
    source="peyre2019computational",
    statement=r"The Sinkhorn plan minimises $\langle C, G \rangle - \varepsilon H(G)$ over all plans, with the "
    r"entropy $H(G) = -\sum_{ij} G_{ij} \log G_{ij}$: $\log G_{ij} + C_{ij} / \varepsilon$ is a sum $f_i + g_j$ "
    r"wherever $a_i b_j > 0$. So no plan of equal cost has more entropy.",
    measured=r"largest deviation of $\log G_{ij} + C_{ij} / \varepsilon$ from a sum, or most by which the expected "
    r"sliced plan or the independent coupling is below the minimum, relative to $\varepsilon$, a twentieth of the "
    r"largest cost",
)
def entropy_is_largest(problem: Problem) -> float:
    r"""The objective is strictly convex. Its gradient is $C_{ij} + \varepsilon (1 + \log G_{ij})$, and at a positive
    plan it vanishes along all changes that keep the marginals if and only if it is a sum $f_i + g_j$. That fixes the
    regularisation: with another one the sum would be off by a multiple of $C$. The expected sliced plan and the
    independent coupling are two other plans."""
    directions = problem.directions()
    sliced = expected.expected_sliced_plan(problem.x, problem.y, directions, problem.a, problem.b)
    reg = _regularisation(problem)
    entropic = solvers.sinkhorn_plan(problem.x, problem.y, reg, problem.a, problem.b)

    def objective(plan: np.ndarray) -> float:
        mass = plan[plan > 0]
        return lift.transport_cost(plan, problem.x, problem.y) + reg * float(mass @ np.log(mass))

    least, ours = objective(entropic.plan), objective(sliced.plan.toarray())
    independent = objective(np.outer(problem.a, problem.b))
    rows, columns = np.flatnonzero(problem.a), np.flatnonzero(problem.b)
    sums = np.log(entropic.plan[np.ix_(rows, columns)])
    sums += solvers.ground_cost(problem.x, problem.y)[np.ix_(rows, columns)] / reg
    mixed = sums - sums[:1] - sums[:, :1] + sums[0, 0]
    return max(0.0, (least - min(ours, independent)) / reg, float(abs(mixed).max()))


@entropy_is_largest.without("the same $\\varepsilon$: twice the regularisation", at_least=0.01, on="fixed")
def other_epsilon() -> float:
    r"""$\log G + C / \varepsilon$ is then no sum."""
    x, y = np.array([[0.0], [1.0]]), np.array([[0.2], [1.5]])
    sums = np.log(solvers.sinkhorn_plan(x, y, 1.0).plan) + solvers.ground_cost(x, y) / 0.5
    return float(abs(sums[0, 0] + sums[1, 1] - sums[0, 1] - sums[1, 0]))


@claim(
    "solvers.sliced-plan-is-sparser-than-sinkhorn",
    kind="measurement",
    on="pair",
    tolerance=1.0,
    needs=("ot",),
    source="",
    statement=r"Without ties the expected sliced plan of $L$ slices has at most $L (n + m - 1)$ nonzero "
    r"entries. The Sinkhorn plan is positive at all pairs of points with positive weight.",
    measured=r"larger of two ratios: entries of the sliced plan over $L (n + m - 1)$, with ties kept in order, "
    r"and pairs of positive weight over nonzero entries of the Sinkhorn plan, at a regularisation of a "
    r"twentieth of the largest cost",
)
def sparser(problem: Problem) -> float:
    """A slice has at most n + m - 1 entries (`line.few-entries`); scaling a positive kernel leaves it positive."""
    sliced = expected.expected_sliced_plan(
        problem.x, problem.y, problem.directions(4), problem.a, problem.b, ties="first"
    )
    entropic = solvers.sinkhorn_plan(problem.x, problem.y, _regularisation(problem), problem.a, problem.b)
    pairs = np.count_nonzero(problem.a) * np.count_nonzero(problem.b)
    allowed = 4 * (len(problem.x) + len(problem.y) - 1)
    return float(max(sliced.plan.nnz / allowed, pairs / np.count_nonzero(entropic.plan)))


@claim(
    "solvers.interpolation-of-an-optimal-plan-is-a-geodesic",
    kind="theorem",
    on="pair",
    tolerance=1e-9,
    needs=("ot",),
    source="mccann1997convexity",
    statement=r"Let $G$ be optimal for squared costs, and let $\mu_t$ have mass $G_{ij}$ at $(1 - t)\, x_i + t\, y_j$. "
    r"Then $W_2(\mu_s, \mu_t) = |s - t|\, W_2(\mu_0, \mu_1)$ for $0 \le s, t \le 1$.",
    measured=r"difference from $1/4$ of the quotient of the squared distances, for $s = 1/4$ and $t = 3/4$",
)
def interpolation_is_a_geodesic(problem: Problem) -> float:
    r"""The plan that moves each piece along has the cost $(s - t)^2 W_2^2$, so no distance is larger; and by the
    triangle inequality along $0, s, t, 1$ none is smaller."""
    plan, cost = solvers.exact_plan(problem.x, problem.y, problem.a, problem.b)
    return _off_geodesic(plan, problem.x, problem.y, positive(cost, "the cost of the optimal plan"))


def _off_geodesic(plan: Array, x: Array, y: Array, cost: float) -> float:
    before, after = (maps.displacement_interpolation(plan, x, y, t) for t in (0.25, 0.75))
    least = solvers.exact_plan(before.points, after.points, before.weights, after.weights).cost
    return abs(least / cost - 0.25)


@interpolation_is_a_geodesic.without("optimality: a plan whose paths cross", at_least=0.2, on="fixed")
def crossing_paths() -> float:
    """0 goes to 1, and 1 to 0, at the cost 1. At the times 1/4 and 3/4 the clouds are equal."""
    ends = np.array([[0.0], [1.0]])
    return _off_geodesic(np.array([[0.0, 0.5], [0.5, 0.0]]), ends, ends, 1.0)


@claim(
    "solvers.map-of-an-optimal-plan-is-optimal",
    kind="theorem",
    on="pair",
    tolerance=1e-9,
    needs=("ot",),
    source="ambrosio2008gradient",
    statement=r"Let $G$ be optimal for squared costs, and $T(x_i) = \frac{1}{a_i} \sum_j G_{ij}\, y_j$. Then the plan "
    r"that sends each $x_i$ to $T(x_i)$ is optimal between $\mu$ and its image under $T$.",
    measured=r"cost of this plan above the optimum, relative to the cost of $G$",
)
def map_is_optimal(problem: Problem) -> float:
    r"""An optimal plan lies in the subdifferential of a convex function $\varphi$: $y_j \in \partial \varphi(x_i)$
    where $G_{ij} > 0$. These sets are convex, so $T(x_i)$ lies in $\partial \varphi(x_i)$ too, and a plan within a
    subdifferential is optimal. Points without weight have no image and are left out."""
    heavy = problem.a > 0
    x, a = problem.x[heavy], problem.a[heavy]
    plan, cost = solvers.exact_plan(x, problem.y, a, problem.b)
    return _above_optimum(plan, x, problem.y, a, positive(cost, "the cost of the optimal plan"))


def _above_optimum(plan: Array, x: Array, y: Array, a: Array, scale: float) -> float:
    images = maps.barycentric_map(plan, y)
    moved = lift.transport_cost(np.diag(a), x, images)
    return (moved - solvers.exact_plan(x, images, a, a).cost) / scale


@map_is_optimal.without("optimality: a plan whose paths cross", at_least=0.5, on="fixed")
def crossing_map() -> float:
    """Its map exchanges 0 and 1, at the cost 1, where nothing needs to be moved."""
    ends = np.array([[0.0], [1.0]])
    return _above_optimum(np.array([[0.0, 0.5], [0.5, 0.0]]), ends, ends, np.full(2, 0.5), 1.0)
