"""Chapter 1 of the ledger: transport on the line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

from .. import lift, line
from .._checks import Array
from .ledger import claim
from .problems import Problem, positive, uniform

EXPONENTS = (1.0, 1.5, 2.0, 3.0)


def scores(problem: Problem) -> tuple[Array, Array]:
    """Both clouds projected on one random direction, shapes (n,) and (m,)."""
    direction = problem.directions(1)
    return lift.project(problem.x, direction)[0], lift.project(problem.y, direction)[0]


def _cost(plan: coo_array, u: Array, v: Array, h: Callable[[Array], Array]) -> float:
    """Cost of a plan on the line for the ground cost h(u - v)."""
    return float(h(u[plan.row] - v[plan.col]) @ plan.data)


def _excess(problem: Problem, h: Callable[[Array], Array]) -> float:
    """Difference of the monotone plan's cost from the optimum, relative to the largest cost (as is the solver's
    error)."""
    from ot import emd

    u, v = scores(problem)
    ground = h(u[:, None] - v)
    largest = float(ground.max()) or 1.0
    best = (emd(problem.a, problem.b, ground / largest, numItermax=10**7) * ground).sum()
    cost = _cost(line.line_plan(u, v, problem.a, problem.b), u, v, h)
    return abs(cost - float(best)) / largest


@claim(
    "line.sorted-is-optimal",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    needs=("ot",),
    source="peyre2019computational",
    statement=r"Let $h$ be convex. Then the monotone plan between two measures on the line is optimal for the "
    r"cost $h(u - v)$.",
    measured=r"difference of its cost from that of POT's network simplex for $h(t) = |t|^p$, $p = 1, 3/2, 2, "
    r"3$, relative to the largest cost of a pair",
)
def sorted_is_optimal(problem: Problem) -> float:
    r"""For $u \le u'$ and $v \le v'$, convexity gives $h(u - v) + h(u' - v') \le h(u - v') + h(u' - v)$: uncrossing
    two pieces of mass never costs more. Why uncrossing ends: among the optimal plans, a compact set, take one for
    which $\sum_{ij} G_{ij} u_i v_j$ is largest. If two of its entries crossed, with $u < u'$ and $v < v'$,
    uncrossing them would give an optimal plan for which that sum is larger, by the mass times $(u' - u)(v' - v)$. So
    this plan has no crossings. As a measure on the plane, a plan without crossings is unique: the mass that it gives
    to $(-\infty, s] \times (-\infty, t]$ is $\min(F_\mu(s), F_\nu(t))$. (Corrected: an earlier version said neither
    why uncrossing ends nor in which sense the plan is unique.) An optimal plan need not be unique; see
    `line.optimal-plans-are-not-unique`."""
    return max(_excess(problem, _power(p)) for p in EXPONENTS)


def _power(p: float) -> Callable[[Array], Array]:
    """The ground cost h(t) = |t|^p."""
    return lambda t: np.abs(t) ** p


@sorted_is_optimal.without("convexity of the cost: $h(t) = \\sqrt{|t|}$", at_least=1e-3, on="fixed")
def concave_cost() -> float:
    """One long move is cheaper than two short ones."""
    u, v = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    ground = np.sqrt(np.abs(u[:, None] - v))
    rows, cols = linear_sum_assignment(ground)
    return _cost(line.line_plan(u, v), u, v, _power(0.5)) - float(ground[rows, cols].mean())


@claim(
    "line.optimal-plans-are-not-unique",
    kind="theorem",
    on="fixed",
    tolerance=1e-15,
    source="",
    statement=r"For $p = 1$ there can be several optimal plans: from $\{0, 1\}$ to $\{1, 2\}$ with uniform weights "
    r"every plan is optimal, and costs 1. If $h$ is strictly convex, the monotone plan is, as a measure, the only "
    r"optimal one.",
    measured=r"largest deviation from 1 of the cost of the monotone plan, of the decreasing one and of a mixture",
)
def not_unique() -> float:
    r"""All targets lie to the right of all sources: $|u - v| = v - u$, and the cost is the difference of the means.
    If $h$ is strictly convex, uncrossing two entries with $u < u'$ and $v < v'$ costs strictly less, so that an
    optimal plan has no crossing, and there is one such measure (`line.sorted-is-optimal`)."""
    u, v = [[0.0], [1.0]], [[1.0], [2.0]]
    monotone = line.line_plan([0.0, 1.0], [1.0, 2.0]).toarray()
    plans = (monotone, monotone[::-1], 0.3 * monotone + 0.7 * monotone[::-1])
    return max(abs(lift.transport_cost(plan, u, v, p=1) - 1) for plan in plans)


@not_unique.without("$p = 1$: for $p = 2$ the decreasing plan costs more", at_least=1.0)
def unique_for_squares() -> float:
    """One point moves by 2 and the other not at all: 4 / 2, against 1."""
    monotone = line.line_plan([0.0, 1.0], [1.0, 2.0]).toarray()
    u, v = [[0.0], [1.0]], [[1.0], [2.0]]
    return lift.transport_cost(monotone[::-1], u, v) - lift.transport_cost(monotone, u, v)


@claim(
    "line.agrees-with-assignment",
    kind="theorem",
    on="square",
    tolerance=1e-12,
    source="peyre2019computational",
    statement=r"For $n = m$ and uniform weights the monotone plan costs $\min_\sigma \frac1n \sum_i |u_i - "
    r"v_{\sigma(i)}|^p$, the least over all assignments, for every $p \ge 1$.",
    measured=r"difference of its cost from that of SciPy's assignment solver for $p = 1, 3/2, 2, 3$, relative "
    r"to the mean cost of a pair",
)
def agrees_with_assignment(problem: Problem) -> float:
    """By Birkhoff's theorem some permutation is an optimal plan."""
    u, v = scores(problem)
    worst = 0.0
    for p in EXPONENTS:
        ground = np.abs(u[:, None] - v) ** p
        rows, cols = linear_sum_assignment(ground)
        cost = lift.transport_cost(line.line_plan(u, v), u[:, None], v[:, None], p=p)
        mean = positive(ground.mean(), "the mean cost of a pair")
        worst = max(worst, float(abs(cost - ground[rows, cols].mean()) / mean))
    return worst


@agrees_with_assignment.without("uniform weights: most of the mass at opposite ends", at_least=0.79, on="fixed")
def assignment_of_weights() -> float:
    """No permutation describes a plan that splits mass: here 0.8 of it moves by 1, and the best assignment moves
    nothing."""
    plan = line.line_plan([0.0, 1.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9])
    return lift.transport_cost(plan, [[0.0], [1.0]], [[0.0], [1.0]], p=1)


@claim(
    "line.cost-is-area-between-distribution-functions",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    source="peyre2019computational",
    statement=r"For $p = 1$ the optimal cost is the area between the distribution functions, $\int |F_\mu(t) - "
    r"F_\nu(t)|\,dt$.",
    measured=r"difference of the monotone plan's cost from SciPy's integral, which matches no points, relative "
    r"to the cost of the independent coupling",
)
def area(problem: Problem) -> float:
    r"""The cost is $\int_0^1 |F_\mu^{-1}(s) - F_\nu^{-1}(s)|\,ds$: the same area, integrated along the other axis."""
    u, v = scores(problem)
    cost = lift.transport_cost(line.line_plan(u, v, problem.a, problem.b), u[:, None], v[:, None], p=1)
    expected = float(stats.wasserstein_distance(u, v, problem.a, problem.b))
    independent = positive(
        float(problem.a @ np.abs(u[:, None] - v) @ problem.b), "the cost of the independent coupling"
    )
    return abs(cost - expected) / independent


@area.without("$p = 1$: p = 2", at_least=1.9, on="fixed")
def area_of_squares() -> float:
    """From 0 to 2 the cost is 4, and the area 2."""
    cost = lift.transport_cost(line.line_plan([0.0], [2.0]), [[0.0]], [[2.0]])
    return cost - float(stats.wasserstein_distance([0.0], [2.0]))


@claim(
    "line.marginals",
    kind="theorem",
    on="pair",
    tolerance=1e-14,
    source="",
    statement=r"The monotone plan has marginals $a$ and $b$, whether ties are split or kept in order.",
    measured=r"largest deviation of a row or column sum",
)
def marginals(problem: Problem) -> float:
    """Weights are rounded to whole numbers of one small unit, and cumulative sums are matched as whole numbers: the
    pieces of each point add up to its weight exactly."""
    u, v = scores(problem)
    worst = 0.0
    for ties in line.TIES:
        plan = line.line_plan(u, v, problem.a, problem.b, ties=ties)
        worst = max(
            worst, float(abs(plan.sum(axis=1) - problem.a).max()), float(abs(plan.sum(axis=0) - problem.b).max())
        )
    return worst


@claim(
    "line.few-entries",
    kind="theorem",
    on="pair",
    tolerance=0,
    source="peyre2019computational",
    statement=r"Without ties the monotone plan has at most $n + m - 1$ nonzero entries.",
    measured=r"number of entries above $n + m - 1$, plus the number of entries that are stored but zero, with "
    r"ties kept in order",
)
def few_entries(problem: Problem) -> float:
    """Every piece of mass uses up a source or a target point, and the last piece uses up both."""
    u, v = scores(problem)
    plan = line.line_plan(u, v, problem.a, problem.b, ties="first")
    return float(max(0, plan.nnz - (len(u) + len(v) - 1)) + np.count_nonzero(plan.data == 0))


@few_entries.without("distinct values", at_least=1, on="fixed")
def tied_entries() -> float:
    """Three equal points against two have all six entries, two more than n + m - 1."""
    return float(line.line_plan([0.0, 0.0, 0.0], [1.0, 2.0]).nnz - 4)


@claim(
    "line.permutation",
    kind="theorem",
    on="square",
    tolerance=0,
    source="",
    statement=r"For $n = m$, uniform weights and no ties, $n G$ is the permutation matrix that matches ranks.",
    measured=r"largest difference of an entry of $G$, with ties kept in order",
)
def permutation(problem: Problem) -> float:
    """Rank i has the interval [i/n, (i+1)/n] of cumulative weight, in the source and in the target."""
    u, v = scores(problem)
    plan = line.line_plan(u, v, ties="first")
    expected = np.zeros(plan.shape)
    expected[np.argsort(u, kind="stable"), np.argsort(v, kind="stable")] = 1
    return float(abs(plan.toarray() - expected / len(u)).max())


@permutation.without("equal sizes: two points against three", at_least=0.3, on="fixed")
def two_against_three() -> float:
    """The middle target is split: an entry of 2 G is 1/3."""
    entries = 2 * line.line_plan([0.0, 1.0], [0.0, 1.0, 2.0]).toarray()
    return float(np.minimum(abs(entries), abs(1 - entries)).max())


@claim(
    "line.rank-coupling-is-interval-overlap",
    kind="theorem",
    on="seed",
    tolerance=1e-16,
    source="",
    statement=r"For uniform weights and points sorted without ties, $G_{ij}$ is the length of $[\frac{i}{n}, "
    r"\frac{i+1}{n}] \cap [\frac{j}{m}, \frac{j+1}{m}]$, $i$ and $j$ counted from 0.",
    measured=r"largest difference of an entry",
)
def interval_overlap(rng: np.random.Generator) -> float:
    """The monotone plan matches equal levels of cumulative weight. The overlaps are computed in whole numbers."""
    n, m = rng.integers(2, 40, 2)
    i, j = np.arange(n)[:, None], np.arange(m)
    overlap = np.maximum(0, np.minimum((i + 1) * m, (j + 1) * n) - np.maximum(i * m, j * n)) / (n * m)
    return float(abs(line.line_plan(np.arange(n), np.arange(m)).toarray() - overlap).max())


@interval_overlap.without("uniform weights", at_least=0.39, on="fixed")
def weighted_overlap() -> float:
    """With the weights 0.9 and 0.1 the first two points share 0.5, and the second source point starts at 0.9."""
    plan = line.line_plan([0.0, 1.0], [0.0, 1.0], [0.9, 0.1]).toarray()
    return float(abs(plan - np.eye(2) / 2).max())


@claim(
    "line.support-is-monotone",
    kind="theorem",
    on="pair",
    tolerance=0,
    source="peyre2019computational",
    statement=r"No two entries of the monotone plan cross: if $G_{ij} > 0$, $G_{i'j'} > 0$ and $u_i < u_{i'}$, "
    r"then $v_j \le v_{j'}$.",
    measured=r"number of crossings",
)
def monotone_support(problem: Problem) -> float:
    """Mass is used up from left to right on both sides."""
    u, v = scores(problem)
    plan = line.line_plan(u, v, problem.a, problem.b)
    left, right = u[plan.row], v[plan.col]
    return float(np.count_nonzero((left[:, None] < left) & (right[:, None] > right)))


@claim(
    "line.depends-on-order-only",
    kind="theorem",
    on="pair",
    tolerance=0,
    source="",
    statement=r"Let $f$ and $g$ be strictly increasing. Then the monotone plan between $f(u)$ and $g(v)$ is "
    r"the one between $u$ and $v$.",
    measured=r"largest change of an entry, with $f$ a cubic function of the ranks of $u$ and $g(v) = 4 v$",
)
def order_only(problem: Problem) -> float:
    """Only the order of the points and their weights enter. Ranks represent any increasing map without rounding."""
    u, v = scores(problem)
    ranks = np.unique(u, return_inverse=True)[1].ravel()
    plan = line.line_plan(u, v, problem.a, problem.b)
    moved = line.line_plan(ranks.astype(float) ** 3 - 5, 4 * v, problem.a, problem.b)
    return float(abs(plan - moved).max())


@order_only.without("the direction of the map: a decreasing one", at_least=1e-3, on="square")
def reversed_order(problem: Problem) -> float:
    """Reversing one side reverses the plan."""
    u, v = scores(problem)
    return float(abs(line.line_plan(u, v) - line.line_plan(-u, v)).max() * len(u))


@claim(
    "line.tie-splitting-is-numbering-free",
    kind="theorem",
    on="pair",
    tolerance=1e-15,
    source="liu2025est",
    statement=r"The tie-splitting plan does not depend on how the points are numbered: permuting the source "
    r"permutes the rows, whatever values are equal.",
    measured=r"largest difference of an entry, on values rounded so that many are tied",
)
def numbering_free(problem: Problem) -> float:
    r"""No order of indices enters the formula $a_i b_j \Lambda(U_i, V_j) / (A(U_i) B(V_j))$."""
    order = problem.rng(2).permutation(len(problem.x))
    u, v = np.round(scores(problem)[0], 1), np.round(scores(problem)[1], 1)
    plan = line.line_plan(u, v, problem.a, problem.b).toarray()
    return float(abs(line.line_plan(u[order], v, problem.a[order], problem.b).toarray() - plan[order]).max())


@numbering_free.without("splitting: ties kept in input order", at_least=0.1, on="fixed")
def keeps_numbering() -> float:
    """Two equal points exchange partners when their numbers are exchanged."""
    plan = line.line_plan([0.0, 0.0], [1.0, 2.0], [0.6, 0.4], ties="first").toarray()
    swapped = line.line_plan([0.0, 0.0], [1.0, 2.0], [0.4, 0.6], ties="first").toarray()
    return float(abs(swapped - plan[::-1]).max())


@claim(
    "line.tie-splitting-formula",
    kind="theorem",
    on="pair",
    tolerance=1e-14,
    source="liu2025est",
    statement=r"The tie-splitting plan is $G_{ij} = \frac{a_i}{A(U_i)} \frac{b_j}{B(V_j)} \Lambda(U_i, V_j)$, "
    r"where $\Lambda$ is the monotone plan between the distinct values, $U_i$ and $V_j$ are the classes of "
    r"$u_i$ and $v_j$, $A$ and $B$ their weights, and $0/0 = 0$.",
    measured=r"largest difference of an entry, on values rounded so that many are tied",
)
def splitting_formula(problem: Problem) -> float:
    """This is the definition. The check computes the plan between distinct values from their distribution functions."""
    u, v = np.round(scores(problem)[0], 1), np.round(scores(problem)[1], 1)
    a, b = problem.a, problem.b
    _, of_u = np.unique(u, return_inverse=True)
    _, of_v = np.unique(v, return_inverse=True)
    big_a, big_b = np.bincount(of_u, a), np.bincount(of_v, b)
    high_a, high_b = big_a.cumsum()[:, None], big_b.cumsum()
    overlap = np.minimum(high_a, high_b) - np.maximum(high_a - big_a[:, None], high_b - big_b)
    share = overlap.clip(0) / np.where(np.outer(big_a, big_b) > 0, np.outer(big_a, big_b), 1)
    expected = a[:, None] * b * share[np.ix_(of_u, of_v)]
    return float(abs(line.line_plan(u, v, a, b).toarray() - expected).max())


@splitting_formula.without("splitting: ties kept in input order", at_least=0.24, on="fixed")
def unsplit_ties() -> float:
    """Of two equal points the first goes to the first target, instead of half of it."""
    plan = line.line_plan([0.0, 0.0], [1.0, 2.0], ties="first").toarray()
    return float(abs(plan - 0.25).max())


@claim(
    "line.merging-ties",
    kind="theorem",
    on="seed",
    tolerance=1e-15,
    source="liu2025est",
    statement=r"If equal points of a cloud are merged into one point with their total weight, the entries of "
    r"the merged points add up.",
    measured=r"largest difference of an entry",
)
def merging(rng: np.random.Generator) -> float:
    """Sum the tie-splitting formula over a class of equal points."""
    u, v = rng.integers(0, 5, 12).astype(float), rng.normal(size=9)
    a, b = rng.dirichlet(np.ones(12)), uniform(9)
    distinct, place = np.unique(u, return_inverse=True)
    merged = line.line_plan(distinct, v, np.bincount(place, a), b).toarray()
    summed = np.zeros_like(merged)
    np.add.at(summed, place, line.line_plan(u, v, a, b).toarray())
    return float(abs(merged - summed).max())


@claim(
    "line.potentials-certify-the-plan",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    source="peyre2019computational",
    statement=r"Let $p \ge 1$, and let f and g grow with the cost along the walk of the monotone plan, one source or "
    r"one target point at a time. Then $f_i + g_j \le |u_i - v_j|^p$ for all $i, j$, and $\sum_i a_i f_i + \sum_j b_j "
    r"g_j = W_p^p$.",
    measured=r"largest violation of the inequality, and deviation of the dual value from the cost of the plan, for "
    r"$p = 1, 3/2, 2, 3$, relative to the largest cost of a pair",
)
def potentials_certify(problem: Problem) -> float:
    r"""On the walk $f_i + g_j$ equals the cost $c_{ij}$. Off it, convexity gives the Monge property
    $c_{ij} + c_{i+1,j+1} \le c_{i,j+1} + c_{i+1,j}$, so that $c_{ij} - f_i - g_j$ does not decrease away from the walk
    and is at least 0. The plan lives on the walk, hence the equality; by weak duality no plan is cheaper."""
    u, v = scores(problem)
    worst = 0.0
    for p in EXPONENTS:
        f, g = line.line_potentials(u, v, problem.a, problem.b, p=p)
        ground = abs(u[:, None] - v) ** p
        largest = float(ground.max()) or 1.0
        cost = _cost(line.line_plan(u, v, problem.a, problem.b), u, v, _power(p))
        gap = abs(problem.a @ f + problem.b @ g - cost)
        worst = max(worst, float((f[:, None] + g - ground).max()) / largest, float(gap) / largest)
    return worst


@potentials_certify.without("convexity of the cost: $|u - v|^{1/2}$", at_least=1e-3, on="seed")
def potentials_of_a_concave_cost(rng: np.random.Generator) -> float:
    """The same walk for a concave cost: some inequality fails."""
    u, v = np.sort(rng.normal(size=12)), np.sort(rng.normal(size=12))
    ground = abs(u[:, None] - v) ** 0.5
    f, g = np.zeros(12), np.zeros(12)
    f[0] = ground[0, 0]
    for k in range(11):  # down to the next source point, then on to the next target point
        f[k + 1] = ground[k + 1, k] - g[k]
        g[k + 1] = ground[k + 1, k + 1] - f[k + 1]
    return float((f[:, None] + g - ground).max())
