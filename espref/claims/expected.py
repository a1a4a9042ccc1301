"""Chapter 4 of the ledger: Gibbs weights, expected and min-sliced plans, the EST distance."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from .. import directions as dirs
from .. import expected, lift, solvers
from .._checks import Array
from .ledger import claim
from .problems import (
    EPS,
    NotMeasurable,
    Problem,
    inverse_temperature,
    on_grid,
    order_is_certain,
    positive,
    uniform,
)


def _plan(problem: Problem, beta: float = 0.0, p: float = 2) -> expected.SlicedPlan:
    directions = problem.directions()
    return expected.expected_sliced_plan(problem.x, problem.y, directions, problem.a, problem.b, beta=beta, p=p)


def _costs(problem: Problem) -> np.ndarray:
    return lift.slice_costs(problem.x, problem.y, problem.directions(), problem.a, problem.b)


@claim(
    "expected.marginals",
    kind="theorem",
    on="pair",
    tolerance=1e-14,
    source="liu2025est",
    statement=r"The expected sliced plan has marginals $a$ and $b$ for every $\beta$, and so has the "
    r"min-sliced plan.",
    measured=r"largest deviation of a row or column sum, at $\beta = 0$, at one $\beta > 0$ and at $\beta = "
    r"\infty$",
)
def marginals(problem: Problem) -> float:
    """A convex combination of plans is a plan."""
    beta, worst = inverse_temperature(_costs(problem)), 0.0
    smallest = expected.min_sliced_plan(problem.x, problem.y, problem.directions(), problem.a, problem.b)
    for plan, *_ in (_plan(problem), _plan(problem, beta), _plan(problem, np.inf), smallest):
        worst = max(
            worst, float(abs(plan.sum(axis=1) - problem.a).max()), float(abs(plan.sum(axis=0) - problem.b).max())
        )
    return worst


@claim(
    "expected.cost-is-mean-of-slices",
    kind="theorem",
    on="pair",
    tolerance=1e-13,
    source="liu2025est",
    statement=r"The cost of the expected sliced plan is the mean of the slice costs, $\langle C, \bar G "
    r"\rangle = \sum_l w_l c_l$, and its $p$-th root is the EST distance.",
    measured=r"largest relative difference for $p = 1, 2$ at $\beta = 1/2$",
)
def cost_is_mean(problem: Problem) -> float:
    """The cost is linear in the plan."""
    worst = 0.0
    for p in (1, 2):
        plan, cost, weights, costs = _plan(problem, 0.5, p)
        distance = expected.est_distance(
            problem.x, problem.y, problem.directions(), problem.a, problem.b, beta=0.5, p=p
        )
        direct = positive(lift.transport_cost(plan, problem.x, problem.y, p=p), "the cost of the plan")
        worst = max(worst, *(abs(other - direct) / direct for other in (cost, float(weights @ costs), distance**p)))
    return worst


@claim(
    "expected.chain-of-costs",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    needs=("ot",),
    source="liu2025est, mahey2023swgg",
    statement=r"Let $\beta \ge 0$ and $p \ge 1$. Over one set of directions $SW_p^p \le W_p^p \le \min_l c_l "
    r"\le \mathrm{EST}_\beta^p \le \mathrm{EST}_0^p$.",
    measured=r"largest violation for $p = 1, 2$, relative to $\mathrm{EST}_0^p$",
)
def chain_of_costs(problem: Problem) -> float:
    """Projecting shortens distances; the optimal plan is the cheapest of all plans; a minimum is below every mean;
    Gibbs weights favour cheap slices, which lowers the mean."""
    x, y, a, b, worst = problem.x, problem.y, problem.a, problem.b, 0.0
    for p in (1, 2):
        projected = []
        for direction in problem.directions():
            u, v = x @ direction[:, None], y @ direction[:, None]
            projected.append(lift.slice_costs(u, v, [[1.0]], a, b, p=p)[0])
        chain = [
            float(np.mean(projected)),
            solvers.exact_plan(x, y, a, b, p=p).cost,
            expected.min_sliced_plan(x, y, problem.directions(), a, b, p=p).cost,
            _plan(problem, inverse_temperature(_plan(problem, p=p).costs), p).cost,
            _plan(problem, 0.0, p).cost,
        ]
        worst = max(worst, float(-min(np.diff(chain)) / positive(chain[-1], "the cost of every slice")))
    return max(worst, 0.0)


@chain_of_costs.without(
    "one set of directions: the cheapest slice of one against the mean of another", at_least=0.4, on="fixed"
)
def two_sets_of_directions() -> float:
    """The first axis ties the two points of a cloud, the second matches each with itself."""
    points = [[0.0, 0.0], [0.0, 1.0]]
    smallest = expected.min_sliced_plan(points, points, np.eye(2)[:1]).cost
    return smallest - expected.expected_sliced_plan(points, points, [[0.0, 1.0]]).cost


@claim(
    "expected.cost-decreases-in-beta",
    kind="theorem",
    on="pair",
    tolerance=1e-6,
    source="liu2025est",
    statement=r"The expected cost decreases in $\beta$, at the rate of the weighted variance: "
    r"$\frac{d}{d\beta} \sum_l w_l c_l = -\mathrm{Var}_w(c) \le 0$.",
    measured=r"deviation of the central difference quotient, relative to $\mathrm{Var}_w(c)$",
)
def decreases_in_beta(problem: Problem) -> float:
    r"""$\partial w_l / \partial\beta = -w_l (c_l - \sum_k w_k c_k)$. Multiply by $c_l$ and sum over $l$."""
    costs = _costs(problem)
    if np.ptp(costs) <= 1e-9 * costs.max():  # all equal but for rounding: any others
        costs = problem.rng(4).gamma(2.0, size=12)
    beta = inverse_temperature(costs)
    step = 1e-4 * beta

    def mean(at: float) -> float:
        return float(expected.gibbs_weights(costs, at) @ (costs - costs.min()))

    weights = expected.gibbs_weights(costs, beta)
    variance = weights @ (costs - weights @ costs) ** 2
    return float(abs((mean(beta + step) - mean(beta - step)) / (2 * step) + variance) / variance)


@claim(
    "expected.beta-zero-is-the-mean",
    kind="theorem",
    on="pair",
    tolerance=1e-15,
    source="liu2025est",
    statement=r"At $\beta = 0$ and with a uniform prior the expected sliced plan is the mean of the slice "
    r"plans, $\bar G = \frac1L \sum_l G_{\theta_l}$.",
    measured=r"largest difference of an entry",
)
def beta_zero(problem: Problem) -> float:
    r"""At $\beta = 0$ Gibbs weights are the prior, here 1/L."""
    plans = lift.sliced_plans(problem.x, problem.y, problem.directions(), problem.a, problem.b)
    mean = sum(plan.toarray() for plan in plans) / len(plans)
    return float(abs(_plan(problem).plan.toarray() - mean).max())


@beta_zero.without("$\\beta = 0$: two slices of the costs 1/2 and 0, at $\\beta = 10$", at_least=0.2, on="fixed")
def tilted_mean() -> float:
    """The cheap slice has nearly all the weight."""
    points = [[0.0, 0.0], [0.0, 1.0]]
    plans = [expected.expected_sliced_plan(points, points, np.eye(2), beta=beta).plan for beta in (0.0, 10.0)]
    return 2 * float(abs(plans[0] - plans[1]).max())


@claim(
    "expected.beta-infinity-is-the-minimum",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    source="mahey2023swgg, liu2025est",
    statement=r"Let the prior be uniform. Then $0 \le \mathrm{EST}_\beta^p - \min_l c_l \le \log(L) / \beta$ "
    r"for every $\beta > 0$. At $\beta = \infty$ the expected plan is the mean of the plans of the cheapest "
    r"slices; if there is only one such slice, it is the min-sliced plan.",
    measured=r"largest violation of the bounds over four values of $\beta$, relative to the cost of the min-sliced "
    r"plan, largest variation of $\frac1\beta \log w_l + c_l$, relative to the largest $c_l$, or largest difference "
    r"of an entry at $\beta = \infty$; slices whose costs differ by rounding may count as equally cheap",
)
def beta_infinity(problem: Problem) -> float:
    r"""Gibbs weights minimise $\langle w, c \rangle + \frac{1}{\beta} \mathrm{KL}(w \,|\, 1/L)$; compare them
    with weight 1 on the cheapest slice, whose divergence is $\log L$."""
    directions = problem.directions()
    smallest = expected.min_sliced_plan(problem.x, problem.y, directions, problem.a, problem.b)
    positive(smallest.cost, "the cost of the cheapest slice")
    worst = abs(smallest.cost - smallest.costs.min()) / smallest.cost
    for beta in np.array([0.1, 1, 10, 1000]) * inverse_temperature(smallest.costs):
        gibbs = _plan(problem, beta)
        gap, used = gibbs.cost - smallest.cost, gibbs.weights > 1e-200
        slope = np.log(gibbs.weights[used]) / beta + gibbs.costs[used]  # constant: Gibbs weights at beta, no other
        worst = max(worst, (gap - np.log(len(directions)) / beta) / smallest.cost, -gap / smallest.cost)
        worst = max(worst, float(np.ptp(slope)) / smallest.costs.max())
    coldest = _plan(problem, np.inf)
    cheapest = coldest.weights > 0
    worst = max(worst, float(np.ptp(smallest.costs[cheapest])) / smallest.cost)
    left_out = problem.a @ problem.x, problem.b @ problem.y  # in costs between centred clouds a common shift is no part
    centred = lift.slice_costs(problem.x - left_out[0], problem.y - left_out[1], directions, problem.a, problem.b)
    if ((centred <= centred.min() * (1 + 4 * EPS)) & ~cheapest).any():
        return 1.0
    mean = sum(plan.toarray() for plan in lift.sliced_plans(
        problem.x, problem.y, directions[cheapest], problem.a, problem.b)) / cheapest.sum()  # fmt: skip
    limit = abs(coldest.plan.toarray() - mean).max()
    only = abs(smallest.plan.toarray() - mean).max() if cheapest.sum() == 1 else 0.0
    return float(max(worst, limit, only))


@beta_infinity.without("a uniform prior: one that hardly knows the cheapest slice", at_least=0.8, on="fixed")
def unknown_slice() -> float:
    """With the prior 1e-9 on the cheap one of two slices the gap is close to 1, and the bound log(2) / 5."""
    weights = expected.gibbs_weights([0.0, 1.0], 5.0, [1e-9, 1 - 1e-9])
    return float(weights[1] - np.log(2) / 5)


@claim(
    "expected.gibbs-weights-are-optimal",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"Gibbs weights minimise the free energy $F(w) = \langle w, c \rangle + \frac{1}{\beta} "
    r"\mathrm{KL}(w \,|\, \pi)$ over the simplex, and the least value is $-\frac{1}{\beta} \log \sum_l \pi_l "
    r"e^{-\beta c_l}$.",
    measured=r"difference of their free energy from that value, or the most by which one of 50 random $w$ is "
    r"below it",
)
def gibbs_optimal(rng: np.random.Generator) -> float:
    r"""$F(w) = F(w^*) + \frac{1}{\beta} \mathrm{KL}(w \,|\, w^*)$ for the Gibbs weights $w^*$."""
    costs, prior, beta = rng.gamma(2, size=8), rng.dirichlet(np.ones(8)), 3.0

    def free_energy(w: np.ndarray) -> float:
        return float(w @ costs + w @ np.log(w / prior) / beta)

    least = free_energy(expected.gibbs_weights(costs, beta, prior))
    value = -np.log(prior @ np.exp(-beta * costs)) / beta
    others = min(free_energy(w) for w in rng.dirichlet(np.ones(8), 50))
    return max(abs(least - float(value)), least - others)


@gibbs_optimal.without("the inverse temperature of F: weights at twice that", at_least=0.01, on="fixed")
def colder_weights() -> float:
    """They have a larger free energy, by their divergence from the Gibbs weights."""
    costs, prior, beta = np.array([0.0, 1.0, 2.0]), np.full(3, 1 / 3), 1.0
    w = expected.gibbs_weights(costs, 2 * beta, prior)
    return float(w @ costs + w @ np.log(w / prior) / beta + np.log(prior @ np.exp(-beta * costs)) / beta)


@claim(
    "expected.prior-is-multiplicity",
    kind="theorem",
    on="pair",
    tolerance=1e-14,
    source="",
    statement=r"A direction repeated $k$ times among $L$ counts as one direction with prior $k / L$: the "
    r"expected plans are equal, for every $\beta$.",
    measured=r"largest difference of an entry, or relative difference of the costs",
)
def prior_is_multiplicity(problem: Problem) -> float:
    """Equal directions have equal costs, and their Gibbs weights add up."""
    directions, counts = problem.directions(4), np.array([3, 1, 2, 2])
    beta = inverse_temperature(_costs(problem))
    args = (problem.a, problem.b)
    repeated = np.repeat(directions, counts, axis=0)
    many = expected.expected_sliced_plan(problem.x, problem.y, repeated, *args, beta=beta)
    few = expected.expected_sliced_plan(problem.x, problem.y, directions, *args, beta=beta, prior=counts / 8)
    cost = positive(few.cost, "the cost of the plan")
    return float(max(abs(many.plan - few.plan).max(), abs(many.cost - few.cost) / cost))


@prior_is_multiplicity.without(
    "the prior: uniform weights for directions of unequal multiplicity", at_least=0.06, on="fixed"
)
def forgotten_multiplicity() -> float:
    """Three times the first axis and once the second are not one of each."""
    points = [[0.0, 0.0], [0.0, 1.0]]
    few, many = (expected.expected_sliced_plan(points, points, np.eye(2)[rows]).plan for rows in ([0, 1], [0, 0, 0, 1]))
    return float(abs(few - many).max())


@claim(
    "expected.symmetry",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    source="liu2025est",
    statement=r"Exchanging source and target transposes the expected sliced plan and leaves the EST distance "
    r"unchanged.",
    measured=r"largest difference of an entry, or relative difference of the costs",
)
def symmetry(problem: Problem) -> float:
    r"""Exchanging the two sides transposes the monotone plan of each slice. (Gibbs weights magnify the rounding errors
    of the costs by $\beta c$, a few hundred in high dimension.)"""
    directions, beta = problem.directions(), inverse_temperature(_costs(problem))
    there = _plan(problem, beta)
    back = expected.expected_sliced_plan(problem.y, problem.x, directions, problem.b, problem.a, beta=beta)
    cost = positive(there.cost, "the cost of the plan")
    return float(max(abs(there.plan.T - back.plan).max(), abs(there.cost - back.cost) / cost))


@claim(
    "expected.triangle-inequality",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="liu2025est",
    statement=r"At $\beta = 0$, with ties split, the EST distance satisfies the triangle inequality for every "
    r"fixed set of directions, all weights and every $p \ge 1$.",
    measured=r"largest violation over random triples for $p = 1, 2$, relative to the sum of the two distances",
)
def triangle(rng: np.random.Generator) -> float:
    r"""In each direction, draw one uniform level and read the quantile functions of all three clouds at it; among tied
    points, draw in proportion to their weights. The pairs of this triple are distributed as the three lifted plans.
    Average over directions and apply Minkowski's inequality in $L^p$."""
    worst = 0.0
    for p in (1, 2):
        for _ in range(10):
            directions = np.vstack([dirs.sample_directions(3, 2, rng=rng), np.eye(2)])  # axes tie the integer points
            clouds = [(rng.integers(0, 4, (n, 2)) + rng.normal(0, 0.3, (n, 2)) * (n % 2), rng.dirichlet(np.ones(n)))
                      for n in rng.integers(1, 7, 3)]  # fmt: skip
            first, second, direct = (
                expected.est_distance(clouds[i][0], clouds[j][0], directions, clouds[i][1], clouds[j][1], p=p)
                for i, j in ((0, 1), (1, 2), (0, 2))
            )
            worst = max(worst, (direct - (first + second)) / ((first + second) or 1))
    return worst


@triangle.without(
    "$\\beta = 0$: the clouds of `expected.no-metric-for-positive-beta`, $\\beta = 5$", at_least=0.5, on="fixed"
)
def tilted_triangle() -> float:
    """The weights of the directions then depend on the pair."""
    return _triangle_gap(5.0)


@claim(
    "expected.zero-on-the-diagonal",
    kind="theorem",
    on="pair",
    tolerance=1e-14,
    source="liu2025est",
    statement=r"If no direction ties two distinct points of $\mu$, then $\mathrm{EST}_\beta(\mu, \mu) = 0$.",
    measured=r"this distance at $\beta = 1$, relative to the extent of $\mu$, over directions in which rounding "
    r"ties no points either",
)
def zero_on_diagonal(problem: Problem) -> float:
    """Then every slice plan matches each point with itself."""
    spread = positive(np.ptp(problem.x, axis=0).max(), "the extent of the source")
    directions = problem.directions()
    certain = order_is_certain(problem.x, directions)
    if not certain.any():
        raise NotMeasurable("in every direction rounding may tie distinct points")
    distance = expected.est_distance(problem.x, problem.x, directions[certain], problem.a, problem.a, beta=1.0)
    return float(distance / spread)


@zero_on_diagonal.without("directions that tie no points: one slice along an axis, on a grid", at_least=0.1, on="fixed")
def tied_diagonal() -> float:
    """All points of a column of the grid have the same projection, and share their mass."""
    grid = np.array([(i, j) for i in range(4) for j in range(4)], dtype=float)
    return expected.est_distance(grid, grid, [[1.0, 0.0]]) / 3


@claim(
    "expected.ties-break-the-identity",
    kind="refutation",
    on="fixed",
    tolerance=0.49,
    source="",
    statement=r"“$\mathrm{EST}_\beta(\mu, \mu) = 0$ for every measure and every set of directions.” Let $\mu = "
    r"\frac12 (\delta_{(0,0)} + \delta_{(0,1)})$, $p = 2$, and take the two axes as directions. The first axis "
    r"ties both points, and $\mathrm{EST}_0(\mu, \mu) = \frac12$.",
    measured=r"$\mathrm{EST}_0(\mu, \mu)$",
)
def ties_break_identity() -> float:
    """In the slice along the first axis half the mass of each point moves by 1, at cost 1/2; in the other none moves.
    The mean is 1/4, and its square root 1/2."""
    points = [[0.0, 0.0], [0.0, 1.0]]
    return expected.est_distance(points, points, np.eye(2))


#: Three clouds of four points. All slices from the first to the third are costly; both have a cheap one to the second.
_FAR_APART = np.array(
    [
        [[1.7, 4.4], [-4.6, 0.6], [-0.2, -2.5], [1.6, -3.0]],
        [[1.7, -3.1], [-4.5, 0.6], [1.6, 4.1], [-0.1, -2.5]],
        [[1.7, -3.1], [-4.8, 0.6], [-0.1, -2.3], [1.6, 4.1]],
    ]
)


def _triangle_gap(beta: float) -> float:
    """Direct distance less the detour: positive where the triangle inequality fails."""
    angles = np.pi * np.arange(3) / 3
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    x, y, z = _FAR_APART
    direct = expected.est_distance(x, z, directions, beta=beta)
    detour = expected.est_distance(x, y, directions, beta=beta) + expected.est_distance(y, z, directions, beta=beta)
    return direct - detour


@claim(
    "expected.no-metric-for-positive-beta",
    kind="refutation",
    on="fixed",
    tolerance=0.5,
    source="",
    statement=r"“For every set of directions and every $\beta$ the EST distance satisfies the triangle inequality.” "
    r"With three equispaced directions of the plane and $\beta = 5$ it does not, for three clouds of four points.",
    measured=r"$\mathrm{EST}_\beta(x, z) - \mathrm{EST}_\beta(x, y) - \mathrm{EST}_\beta(y, z)$",
    corrected="0.2.0: an earlier version did not say that the directions are three.",
)
def no_metric() -> float:
    r"""Gibbs weights depend on the pair of clouds. The proof for $\beta = 0$ needs the same weights for all three
    pairs. These clouds obey the inequality on the whole circle of directions; others do not even there
    (`circle.no-metric-for-positive-beta`)."""
    return _triangle_gap(5.0)


@no_metric.without("$\\beta > 0$: at $\\beta = 0$ the same clouds satisfy it, by this much", at_least=0.1)
def metric_again() -> float:
    """See `expected.triangle-inequality`."""
    return -_triangle_gap(0.0)


@claim(
    "expected.translation",
    kind="theorem",
    on="pair",
    tolerance=1e-9,
    source="",
    statement=r"For $p = 2$, translating one cloud leaves every Gibbs weight unchanged, at every $\beta$.",
    measured=r"largest change of a weight, on coordinates rounded so that the shift is exact, over directions in "
    r"which rounding cannot change the order of the points",
)
def translation(problem: Problem) -> float:
    r"""All slice costs change by the same constant, $|t|^2 + 2 \langle t, \bar x - \bar y \rangle$, which
    normalising the weights cancels."""
    x, y = on_grid(problem, 44)
    size = np.frexp(np.ptp(x, axis=0).max())[1]
    shift = np.ldexp(np.rint(64 * problem.rng(5).normal(size=problem.dim)), size - 6)
    directions = problem.directions()
    certain = (
        order_is_certain(x, directions) & order_is_certain(x + shift, directions) & order_is_certain(y, directions)
    )
    if not certain.any():
        raise NotMeasurable("in every direction the order of the points is decided by rounding")
    directions, weights = directions[certain], (problem.a, problem.b)
    beta = inverse_temperature(lift.slice_costs(x, y, directions, *weights))
    stay, moved = (expected.expected_sliced_plan(c, y, directions, *weights, beta=beta).weights for c in (x, x + shift))
    return float(abs(stay - moved).max())


@translation.without("$p = 2$: the same with $p = 1$", at_least=1e-3, on="seed")
def translation_first_power(rng: np.random.Generator) -> float:
    """The first power of the distance does not expand in this way."""
    x, y, directions = rng.normal(size=(9, 2)), rng.normal(size=(9, 2)), dirs.sample_directions(5, 2, rng=rng)
    weights = (
        expected.gibbs_weights(lift.slice_costs(cloud, y, directions, p=1), 5.0) for cloud in (x, x + [2.0, 0.0])
    )
    return float(abs(next(weights) - next(weights)).max())


@claim(
    "expected.scaling",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    source="",
    statement=r"Let $s > 0$. Scaling both clouds by $s$ turns $\beta$ into $\beta / s^p$: $\mathrm{EST}_{\beta "
    r"/ s^p}(s x, s y) = s\, \mathrm{EST}_\beta(x, y)$.",
    measured=r"largest relative difference for $p = 1, 2, 3$",
)
def scaling(problem: Problem) -> float:
    """Plans are unchanged, and costs are multiplied by $s^p$. Powers of two keep the differences of points exact."""
    directions, worst = problem.directions(), 0.0
    for p, s in ((1, 4.0), (2, 0.25), (3, 8.0)):
        args = (directions, problem.a, problem.b)
        beta = inverse_temperature(_plan(problem, p=p).costs)
        scaled = expected.est_distance(s * problem.x, s * problem.y, *args, beta=beta / s**p, p=p)
        unscaled = expected.est_distance(problem.x, problem.y, *args, beta=beta, p=p)
        worst = max(worst, abs(scaled / (s * positive(unscaled, "the distance")) - 1))
    return worst


@scaling.without("the factor $s^{-p}$: the same $\\beta$", at_least=0.1, on="fixed")
def unscaled_beta() -> float:
    """Ten times larger, the same clouds have other Gibbs weights: the expensive slice loses its weight."""
    points = np.array([[0.0, 0.0], [0.0, 1.0]])
    small, large = (expected.est_distance(s * points, s * points, np.eye(2), beta=1.0) for s in (1.0, 10.0))
    return abs(large / (10 * small) - 1)


@claim(
    "expected.on-the-line-it-is-wasserstein",
    kind="theorem",
    on="seed",
    tolerance=1e-13,
    source="liu2025est",
    statement=r"For $d = 1$ the EST distance is the Wasserstein distance, for every $\beta$ and every set of "
    r"directions.",
    measured=r"relative difference from the quantile formula for $p = 2$ at $\beta = 2$",
)
def wasserstein_on_the_line(rng: np.random.Generator) -> float:
    """The only directions are +1 and -1, and both give the monotone plan."""
    u, v = rng.normal(size=12), rng.normal(size=18)
    a, b = rng.dirichlet(np.ones(12)), uniform(18)
    sort_u, sort_v = u.argsort(), v.argsort()
    end_a, end_b = a[sort_u].cumsum(), b[sort_v].cumsum()
    ends = np.unique(np.concatenate([[0.0], end_a[:-1], end_b[:-1], [1.0]]))
    middles = (ends[1:] + ends[:-1]) / 2
    gap = u[sort_u][end_a[:-1].searchsorted(middles)] - v[sort_v][end_b[:-1].searchsorted(middles)]
    distance = expected.est_distance(u[:, None], v[:, None], dirs.sample_directions(5, 1, rng=rng), a, b, beta=2.0)
    return float(abs(distance - np.sqrt(np.diff(ends) @ gap**2)) / distance)


@wasserstein_on_the_line.without("$d = 1$: the plane", at_least=0.7, on="fixed")
def not_in_the_plane() -> float:
    """One slice that ties two points: the distance of the cloud from itself is not 0."""
    points = [[0.0, 0.0], [0.0, 1.0]]
    return expected.est_distance(points, points, [[1.0, 0.0]])


@claim(
    "expected.birkhoff",
    kind="theorem",
    on="square",
    tolerance=1e-14,
    source="liu2025est",
    statement=r"For $n = m$, uniform weights and no ties, $n \bar G = \sum_l w_l \Pi_l$ is a convex "
    r"combination of at most $L$ permutation matrices: a point of Birkhoff's polytope.",
    measured=r"largest difference of an entry from the combination of permutations found by `argsort`, plus "
    r"the deviation of $\sum_l w_l$ from 1",
)
def birkhoff(problem: Problem) -> float:
    """Each slice plan is a permutation matrix divided by n."""
    x = problem.x + 1e-6 * problem.rng(6).normal(size=problem.x.shape)  # no ties
    y = problem.y + 1e-6 * problem.rng(7).normal(size=problem.y.shape)
    directions, n = problem.directions(), len(x)
    result = expected.expected_sliced_plan(x, y, directions, beta=1.0)
    combined = np.zeros((n, n))
    for w, direction in zip(result.weights, directions, strict=True):
        combined[np.argsort(x @ direction), np.argsort(y @ direction)] += w
    return float(abs(n * result.plan.toarray() - combined).max() + abs(result.weights.sum() - 1))


@birkhoff.without("untied points", at_least=0.49, on="fixed")
def tied_permutation() -> float:
    """Two tied points share two targets: the plan is 1/4 everywhere, and no permutation."""
    plan = expected.expected_sliced_plan([[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0]]).plan
    return float(abs(2 * plan.toarray() - np.eye(2)).max())


@claim(
    "expected.barycentric-map-keeps-the-mean",
    kind="theorem",
    on="pair",
    tolerance=1e-13,
    source="",
    statement=r"The barycentric map $T(x_i) = \frac{1}{a_i} \sum_j \bar G_{ij}\, y_j$ has mean $\sum_i a_i "
    r"T(x_i) = \sum_j b_j y_j$, and its variance is at most that of the target.",
    measured=r"largest violation, of the mean in standard deviations of the target, of the variance relative "
    r"to the target's",
)
def barycentric_map(problem: Problem) -> float:
    """The column sums of the plan are b; the variance is bounded by Jensen's inequality."""
    plan = _plan(problem, inverse_temperature(_costs(problem))).plan
    a, y = problem.a, problem.y - problem.b @ problem.y
    y -= problem.b @ y  # far from the origin the first mean is rounded
    images = (plan @ y) / np.where(a > 0, a, 1)[:, None]
    spread = float(problem.b @ (y**2).sum(axis=1))
    mean = np.abs(a @ images).max() / np.sqrt(positive(spread, "the variance of the target"))
    return float(max(mean, (a @ (images**2).sum(axis=1) - spread) / spread))


@claim(
    "expected.nearly-independent-in-high-dimension",
    kind="measurement",
    on="seed",
    tolerance=0.2,
    source="",
    statement=r"For isotropic Gaussian clouds the gain of the mean of slices over the independent coupling, $1 "
    r"- \mathrm{EST}_0^2 / \langle C, a b^\top \rangle$, decays like $1 / d$.",
    measured=r"deviation of the fitted log-log slope from $-1$, for $n = m = 96$, $L = 200$ and $d = 2 \dots "
    r"256$",
    corrected=r"0.2.0: an earlier version said that only $\beta > 0$ improves on it. For isotropic Gaussian clouds "
    r"all slices cost $2 d - 2$ in that limit, so that Gibbs weights have nothing to choose from; the gain of the "
    r"cheapest slice at small $n$ is an effect of the sample.",
)
def high_dimension(rng: np.random.Generator) -> float:
    r"""A slice matches one coordinate out of $d$ and leaves the others independent. So in high dimension the mean of
    all slices is nearly the independent coupling: it costs $2 d - 2$ in the limit of many points, against $2 d$
    (`lift.gaussian-slice-cost`)."""
    dims, gains = [2, 4, 8, 16, 32, 64, 128, 256], []
    for dim in dims:
        x, y = rng.normal(size=(2, 96, dim))
        costs = lift.slice_costs(x, y, dirs.sample_directions(200, dim, rng=rng))
        independent = ((x - y.mean(axis=0)) ** 2).sum(axis=1).mean() + y.var(axis=0).sum()
        gains.append(1 - costs.mean() / independent)
    return float(abs(np.polyfit(np.log(dims), np.log(np.maximum(gains, 1e-300)), 1)[0] + 1))


def _best_assignment(x: Array, y: Array) -> float:
    """Squared Wasserstein distance of two clouds of n points with uniform weights."""
    ground = ((x[:, None] - y) ** 2).sum(axis=-1)
    return float(ground[linear_sum_assignment(ground)].mean())


@claim(
    "expected.samples-do-not-approach",
    kind="refutation",
    on="seed",
    tolerance=3,
    source="",
    statement=r"“The EST distance and min-SWGG between two samples of one law tend to 0, as $W_2$ does.” For samples "
    r"of the standard normal law of $R^d$ both tend to $\sqrt{2 (d - 1)}$ at p = 2, for every fixed number of "
    r"directions: EST does not metrise weak convergence if the limit is not discrete.",
    measured=r"distance by the cheapest of 16 slices over $W_2$, for two samples of 500 points of the plane",
)
def samples_do_not_approach(rng: np.random.Generator) -> float:
    r"""A slice couples two samples by their projections and leaves the orthogonal coordinates nearly independent:
    its cost tends to $2 d - 2$ (`lift.gaussian-slice-cost`), and so does the least of finitely many. $W_2$ tends to
    0."""
    x, y = rng.normal(size=(2, 500, 2))
    smallest = expected.min_sliced_plan(x, y, dirs.sample_directions(16, 2, rng=rng)).cost
    return float(np.sqrt(smallest / _best_assignment(x, y)))


@samples_do_not_approach.without(
    "a law that is not discrete: weights that converge on four points", at_least=0.99, on="fixed"
)
def discrete_law() -> float:
    """On fixed points that no direction ties, weights that differ by 1e-8 move a mass of 1e-8: EST is below 0.01."""
    points, weights = np.array([[0.0, 0.0], [1.0, 0.3], [0.2, 1.1], [1.3, 0.9]]), np.full(4, 0.25)
    moved = weights + 1e-8 * np.array([1, -1, 1, -1])
    rows = dirs.sample_directions(7, 2, method="equispaced")
    return 1 - expected.est_distance(points, points, rows, weights, moved)


@claim(
    "expected.is-continuous",
    kind="refutation",
    on="fixed",
    tolerance=0.7,
    source="",
    statement=r"“For a fixed finite set of directions the EST distance is continuous in the measures.” Let $\mu = "
    r"\frac12 (\delta_{(0,0)} + \delta_{(0,1)})$ and $\mu_\varepsilon = \frac12 (\delta_{(\varepsilon, 0)} + "
    r"\delta_{(-\varepsilon, 1)})$, and take the first axis as the only direction. Then $W_2(\mu, \mu_\varepsilon) = "
    r"\varepsilon$, and $\mathrm{EST}(\mu, \mu_\varepsilon) \ge \sqrt{1/2}$ for every $\varepsilon > 0$.",
    measured=r"$\mathrm{EST}(\mu, \mu_\varepsilon)$ at $\varepsilon = 10^{-9}$",
)
def is_continuous() -> float:
    r"""The first axis ties the points of $\mu$, which share their mass: half of it moves by $\varepsilon$ and half
    to the other point, at the cost $\frac12 \varepsilon^2 + \frac12 (1 + \varepsilon^2)$."""
    return expected.est_distance([[0, 0], [0, 1]], [[1e-9, 0], [-1e-9, 1]], [[1.0, 0.0]])


@is_continuous.without("a direction that ties two points: the second axis", at_least=0.7)
def continuous_again() -> float:
    """Along the second axis both points keep their place, and the distance is epsilon."""
    return 0.71 - expected.est_distance([[0, 0], [0, 1]], [[1e-9, 0], [-1e-9, 1]], [[0.0, 1.0]])


@claim(
    "expected.sliced-wasserstein-times-the-dimension",
    kind="theorem",
    on="seed",
    tolerance=1e-13,
    source="",
    statement=r"Let the directions have the second moment $\sum_l \pi_l \theta_l \theta_l^\top = I / d$. Then $d\, "
    r"SW_2^2 \le W_2^2$, which sharpens $SW_2^2 \le W_2^2$.",
    measured="largest excess, relative to $W_2^2$, over three blocks of orthogonal directions in $R^4$ and over the "
    "axes",
)
def times_the_dimension(rng: np.random.Generator) -> float:
    r"""Let $G$ be optimal in space. On the line of $\theta$ it costs $\sum G_{ij} \langle \theta, x_i - y_j
    \rangle^2$, at least as much as the monotone plan. In the mean over directions this is $\sum G_{ij} |x_i - y_j|^2
    / d$."""
    x, y = rng.normal(size=(15, 4)), rng.normal(size=(15, 4)) @ np.diag([3, 1, 0.3, 0.1]) + 1
    best, worst = _best_assignment(x, y), -np.inf
    for rows in (dirs.sample_directions(12, 4, method="orthogonal", rng=rng), np.eye(4)):
        squares = [lift.slice_costs(x @ row[:, None], y @ row[:, None], [[1.0]])[0] for row in rows]
        worst = max(worst, float(4 * np.mean(squares) / best - 1))
    return max(worst, 0.0)


@times_the_dimension.without("the second moment $I / d$: directions along a shift", at_least=2.9, on="fixed")
def along_a_shift() -> float:
    r"""For a shift along $\theta$, $SW_2 = W_2$ in this direction alone: $d$ times too much."""
    points = np.eye(4)
    cost = lift.slice_costs(points[:, :1], points[:, :1] + 1, [[1.0]])[0]
    return float(4 * cost / _best_assignment(points, points + points[0]) - 1)


@claim(
    "expected.some-slice-is-optimal-in-high-dimension",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="",
    statement=r"Let $d \ge 2 n - 2$, $n = m$ and the weights be uniform. In general position every permutation is the "
    r"plan of some slice, so that some slice is optimal.",
    measured=r"relative difference of the cheapest slice from the best assignment, for $n = 6$ and $d = 10$",
)
def some_slice_is_optimal(rng: np.random.Generator) -> float:
    r"""Ask for $\langle \theta, x_i - x_1 \rangle = i - 1 = \langle \theta, y_{\sigma(i)} - y_{\sigma(1)} \rangle$
    for $i = 2, \dots, n$: these are $2 n - 2$ linear equations for $d$ unknowns, independent in general position.
    Any solution sorts both clouds so that $\sigma$ matches ranks."""
    x, y = rng.normal(size=(2, 6, 10))
    ground = ((x[:, None] - y) ** 2).sum(axis=-1)
    order = linear_sum_assignment(ground)[1]
    system = np.vstack([x[1:] - x[0], y[order[1:]] - y[order[0]]])
    theta = np.linalg.lstsq(system, np.tile(np.arange(1.0, 6.0), 2), rcond=None)[0]
    return float(abs(lift.slice_costs(x, y, theta[None] / np.linalg.norm(theta))[0] / _best_assignment(x, y) - 1))


@some_slice_is_optimal.without("the dimension: a triangle in the plane", at_least=1e-3, on="fixed")
def no_slice_is_optimal() -> float:
    """The triangle against its reflection (`circle.odd-polygon`): in the plane no slice costs less than 2, and the
    optimum 1."""
    angles = 2 * np.pi * np.arange(3) / 3
    x = np.column_stack([np.cos(angles), np.sin(angles)])
    rows = dirs.sample_directions(50, 2, method="equispaced") @ [
        [np.cos(0.1), np.sin(0.1)],
        [-np.sin(0.1), np.cos(0.1)],
    ]
    return float(lift.slice_costs(x, -x, rows).min() / _best_assignment(x, -x) - 1)


def _entropy(rows: Array) -> Array:
    """Entropy of each row."""
    return np.asarray(-np.sum(rows * np.log(np.where(rows > 0, rows, 1)), axis=-1))


@claim(
    "expected.entropy-of-rows",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"For $n = m$, uniform weights and no ties, the entropy of every row of $n \bar G$ is at most that of "
    r"the Gibbs weights: $H(n \bar G_{i \cdot}) \le H(w) \le \log L$. So $L$ slices spread a point over at most "
    r"$e^{H(w)} \le L$ others.",
    measured=r"largest excess over ten values of $\beta$",
)
def entropy_of_rows(rng: np.random.Generator) -> float:
    r"""Each slice matches point $i$ with one partner. Row $i$ is the law of the partner of a slice drawn with the
    weights $w$: a function of the slice, which has no more entropy than the slice itself. The uniform law has the
    most."""
    x, y = rng.normal(size=(2, 20, 3))
    directions, worst = dirs.sample_directions(8, 3, rng=rng), -np.inf
    for beta in np.geomspace(0.01, 10, 10):
        plan, _, weights, _ = expected.expected_sliced_plan(x, y, directions, beta=beta)
        chain = [float(_entropy(20 * plan.toarray()).max()), float(_entropy(weights)), np.log(8)]
        worst = max(worst, -float(np.diff(chain).min()))
    return max(worst, 0.0)


@entropy_of_rows.without("untied points: one slice that ties them all", at_least=1.3, on="fixed")
def entropy_of_ties() -> float:
    """Four points above one another share their mass: the row has the entropy log 4, one slice none."""
    points = np.column_stack([np.zeros(4), np.arange(4.0)])
    plan = expected.expected_sliced_plan(points, points, [[1.0, 0.0]]).plan
    return float(_entropy(4 * plan.toarray()).max())


def _most_positive(distances: Array) -> float:
    """Largest eigenvalue of a matrix on the vectors of sum 0, relative to the largest modulus."""
    centre = np.eye(len(distances)) - 1 / len(distances)
    values = np.linalg.eigvalsh(centre @ distances @ centre)
    return float(values[-1] / abs(values).max())


@claim(
    "expected.hilbertian-at-beta-zero",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"At $\beta = 0$, with ties split, $\mathrm{EST}_p^p$ is conditionally negative definite for $1 \le p "
    r"\le 2$, for every fixed set of directions, all weights, sizes and ties: $\sum_{st} c_s c_t\, "
    r"\mathrm{EST}_p^p(\mu_s, \mu_t) \le 0$ whenever $\sum_s c_s = 0$. So $e^{-\gamma\, \mathrm{EST}_p^p}$ is a "
    r"positive definite kernel on clouds for every $\gamma > 0$, and where no direction ties two points, "
    r"$\mathrm{EST}_2$ is a distance in an $L^2$ space.",
    measured="largest eigenvalue of the matrix of seven clouds on the vectors of sum 0, relative to the largest "
    "modulus, or most negative eigenvalue of the kernel, for $p = 1, 3/2, 2$",
)
def hilbertian(rng: np.random.Generator) -> float:
    r"""In each direction draw one uniform level, and for every cloud a point at this level of the quantile function;
    of tied points, one in proportion to its weight, independently for each appearance of the cloud. Then
    $\mathrm{EST}_p^p(\mu_s, \mu_t) = \mathrm{E}\, |X_s - X_t'|^p$, with two independent draws among ties. Given
    direction and level, $|x - y|^p = \mathrm{const} \int (1 - \cos \langle \xi, x - y \rangle)\, |\xi|^{-d - p}\,
    d\xi$ for $0 < p < 2$, and for p = 2 the squared norm is a limit. The draws being independent, $\sum c_s c_t\,
    \mathrm{E} \cos \langle \xi, X_s - X_t' \rangle = |\sum_s c_s\, \mathrm{E}\, e^{i \langle \xi, X_s \rangle}|^2
    \ge 0$, and the constant 1 drops out: the sum is at most 0. The kernel is positive definite by Schoenberg's
    theorem. Without ties $X_s$ is a function of direction and level, the lifted quantile map, and $\mathrm{EST}_2$
    the $L^2$ distance of these maps. (The triangle inequality at $\beta = 0$ is a corollary.)"""
    directions = np.vstack([dirs.sample_directions(4, 2, rng=rng), np.eye(2)])  # the axes tie whole points
    clouds = [rng.integers(0, 4, (n, 2)) + rng.normal(0, 0.3, (n, 2)) * (n % 2) for n in rng.integers(1, 7, 7)]
    weights, worst = [rng.dirichlet(np.ones(len(cloud))) for cloud in clouds], 0.0
    for p in (1, 1.5, 2):
        matrix = np.zeros((7, 7))
        for s, t in np.ndindex(7, 7):
            matrix[s, t] = expected.est_distance(clouds[s], clouds[t], directions, weights[s], weights[t], p=p) ** p
        kernel = np.linalg.eigvalsh(np.exp(-matrix / matrix.mean()))
        worst = max(worst, _most_positive((matrix + matrix.T) / 2), -float(kernel[0] / kernel[-1]))
    return worst


@hilbertian.without("$p \\le 2$: three points on the line, p = 3", at_least=0.1, on="fixed")
def third_power() -> float:
    """With the coefficients 1, -2, 1 the sum for the points 0, 1, 2 is 2 (-2 + 8 - 2) = 8 > 0."""
    points = [[[0.0]], [[1.0]], [[2.0]]]
    return _most_positive(np.array([[expected.est_distance(x, y, [[1.0]], p=3) ** 3 for y in points] for x in points]))
