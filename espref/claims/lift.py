"""Chapter 3 of the ledger: lifted plans and their costs."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

from .. import lift, line, solvers
from ..directions import sample_directions
from .ledger import claim
from .line import EXPONENTS
from .problems import Problem, positive


def _plans(problem: Problem, n_directions: int = 6, ties: str = "split") -> list[coo_array]:
    return lift.sliced_plans(problem.x, problem.y, problem.directions(n_directions), problem.a, problem.b, ties=ties)


@claim(
    "lift.marginals",
    kind="theorem",
    on="pair",
    tolerance=1e-14,
    source="liu2025est",
    statement=r"Every lifted plan is a plan between source and target: $G_\theta \ge 0$, with marginals $a$ "
    r"and $b$.",
    measured=r"largest deviation of a row or column sum, or largest negative entry, with ties split and with "
    r"ties kept in order",
)
def marginals(problem: Problem) -> float:
    """The lifted plan has the entries of the plan on the line, whose marginals are a and b."""
    worst = 0.0
    for plan in _plans(problem) + _plans(problem, ties="first"):
        deviation = max(abs(plan.sum(axis=1) - problem.a).max(), abs(plan.sum(axis=0) - problem.b).max())
        worst = max(worst, float(deviation), -float(plan.data.min()))
    return worst


@claim(
    "lift.costs-need-no-plan",
    kind="theorem",
    on="pair",
    tolerance=1e-13,
    source="",
    statement=r"Let $\Lambda$ be the monotone plan between the classes $U$, $V$ of tied points, with weighted "
    r"means $\bar x_U$, $\bar y_V$ and variances $\sigma_U^2$, $\sigma_V^2$. For $p = 2$ the cost of the "
    r"lifted plan is $\langle C, G_\theta \rangle = \sum_{U, V} \Lambda(U, V)\, (|\bar x_U - \bar y_V|^2 + "
    r"\sigma_U^2 + \sigma_V^2)$, so that the plan itself is not needed.",
    measured=r"largest relative difference of `slice_costs` from $\langle C, G_\theta \rangle$ for $p = 1, "
    r"3/2, 2, 3$, with ties split and with ties kept in order, along random directions and along axes, where "
    r"grids tie",
)
def costs_need_no_plan(problem: Problem) -> float:
    r"""Within a pair of classes the plan is independent, and the mean of $|x - y|^2$ over independent $x$ and $y$ is
    $|\bar x - \bar y|^2$ plus both variances. For other $p$ the pairs are summed one by one."""
    directions = np.vstack([problem.directions(4), np.eye(problem.dim)[:2]])
    worst = 0.0
    for ties in line.TIES:
        plans = lift.sliced_plans(problem.x, problem.y, directions, problem.a, problem.b, ties=ties)
        for p in EXPONENTS:
            costs = lift.slice_costs(problem.x, problem.y, directions, problem.a, problem.b, p=p, ties=ties)
            ground = np.linalg.norm(problem.x[:, None] - problem.y, axis=-1) ** p
            direct = np.array([(plan.toarray() * ground).sum() for plan in plans])
            positive(direct.min(), "the cost of a slice")
            worst = max(worst, float((abs(costs - direct) / direct).max()))
    return worst


@costs_need_no_plan.without("$p = 2$: p = 1", at_least=0.9, on="fixed")
def moments_of_first_power() -> float:
    """Two tied points at distance 2 from their mean: the mean distance is 2, and the variance 4."""
    cost = lift.slice_costs([[0.0, -2.0], [0.0, 2.0]], [[0.0, 0.0]], [[1.0, 0.0]], p=1)[0]
    return float(abs(cost - 4) / cost)


@claim(
    "lift.transport-cost-is-linear",
    kind="theorem",
    on="pair",
    tolerance=1e-13,
    source="",
    statement=r"For $p = 2$ and every plan $G$, $\langle C, G \rangle = \sum_i a_i |x_i|^2 + \sum_j b_j "
    r"|y_j|^2 - 2 \langle x, G y \rangle$.",
    measured=r"difference of the two sides, and of the cost of a sparse plan from that of the same plan as a "
    r"dense array, relative to the first two terms",
)
def cost_is_linear(problem: Problem) -> float:
    """Expand the square and use the marginals. Both clouds are centred at the target's mean, so that the terms stay
    small."""
    plan = _plans(problem, 1)[0]
    centre = problem.b @ problem.y
    x, y = problem.x - centre, problem.y - centre
    parts = problem.a @ (x**2).sum(1) + problem.b @ (y**2).sum(1)
    expanded = parts - 2 * np.sum(x * (plan @ y))
    sparse, dense = (lift.transport_cost(g, problem.x, problem.y) for g in (plan, plan.toarray()))
    return float(max(abs(sparse - expanded), abs(sparse - dense)) / positive(parts, "the extent of both clouds"))


@cost_is_linear.without("$p = 2$: p = 1", at_least=0.49, on="fixed")
def expansion_of_first_power() -> float:
    """From 0 to 2 the expansion gives 4."""
    return abs(lift.transport_cost(np.ones((1, 1)), [[0.0]], [[2.0]], p=1) - 4) / 4


@claim(
    "lift.above-wasserstein",
    kind="theorem",
    on="pair",
    tolerance=1e-12,
    needs=("ot",),
    source="liu2025est",
    statement=r"No lifted plan costs less than the optimal one: $c_\theta \ge W_p^p$ for every direction and "
    r"every $p \ge 1$.",
    measured=r"largest shortfall for $p = 1, 2$, relative to $W_p^p$",
)
def above_wasserstein(problem: Problem) -> float:
    """The lifted plan is one of the plans over which $W_p^p$ is the minimum."""
    worst = 0.0
    for p in (1, 2):
        best = solvers.exact_plan(problem.x, problem.y, problem.a, problem.b, p=p).cost
        costs = lift.slice_costs(problem.x, problem.y, problem.directions(), problem.a, problem.b, p=p)
        worst = max(worst, float((best - costs).max()) / positive(best, "the optimal cost"))
    return worst


@claim(
    "lift.line-cost-below-slice-cost",
    kind="theorem",
    on="pair",
    tolerance=1e-13,
    source="",
    statement=r"Let $|\theta| = 1$. The cost of a slice on the line is at most that of its lifted plan: "
    r"$\sum_{ij} |\langle \theta, x_i - y_j \rangle|^p\, G_{\theta,ij} \le c_\theta$.",
    measured=r"largest excess for $p = 1, 3/2, 2, 3$, relative to $c_\theta$",
)
def projected_cost(problem: Problem) -> float:
    r"""$|\langle \theta, x_i - y_j \rangle| \le |x_i - y_j|$ by Cauchy and Schwarz."""
    directions, worst = problem.directions(6), -np.inf
    for p in EXPONENTS:
        costs = lift.slice_costs(problem.x, problem.y, directions, problem.a, problem.b, p=p)
        for direction, plan, cost in zip(directions, _plans(problem), costs, strict=True):
            pieces = np.arange(plan.nnz)  # differences first: projections of points nearly equal lose their digits
            steps = (problem.x[plan.row] - problem.y[plan.col]) @ direction[:, None]
            projected = lift.transport_cost(coo_array((plan.data, (pieces, pieces))), steps, 0 * steps, p=p)
            worst = max(worst, (projected - cost) / positive(cost, "the cost of a slice"))
    return float(max(worst, 0))


@projected_cost.without("unit length of the directions", at_least=0.1)
def long_direction(problem: Problem) -> float:
    """A direction of length 100 stretches distances on the line, but not in space."""
    direction = 100 * problem.directions(1)
    plan = lift.sliced_plans(problem.x, problem.y, direction, problem.a, problem.b)[0]
    projected = lift.transport_cost(plan, problem.x @ direction.T, problem.y @ direction.T)
    cost = lift.slice_costs(problem.x, problem.y, direction, problem.a, problem.b)[0]
    return float((projected - cost) / cost)


@claim(
    "lift.translation-and-scaling",
    kind="theorem",
    on="pair",
    tolerance=0,
    source="",
    statement=r"Translating one cloud, or scaling it by a positive factor, leaves every lifted plan $G_\theta$ "
    r"unchanged.",
    measured=r"largest change of an entry under $x \mapsto 4 x + 8$, along axes and along integer directions, on "
    r"coordinates free of rounding and on coordinates so coarse that many points are tied",
)
def translation_and_scaling(problem: Problem) -> float:
    """The projections change by an increasing map, and the plan on the line depends on their order and on ties alone.
    Rounded points, integer directions and powers of two keep the projections free of rounding."""
    whole = np.round(3 * problem.directions(3))
    directions = np.vstack([np.eye(problem.dim)[:3], whole[np.any(whole != 0, axis=1)]])
    worst, unit = 0.0, float(np.ldexp(1.0, np.frexp(max(abs(problem.x).max(), abs(problem.y).max()))[1]))
    for parts in (64, 4):
        x, y = (np.round(cloud / unit * parts) / parts for cloud in (problem.x, problem.y))
        moved = lift.sliced_plans(4 * x + 8, y, directions, problem.a, problem.b)
        plans = lift.sliced_plans(x, y, directions, problem.a, problem.b)
        worst = max([worst] + [float(abs(plan - other).max()) for plan, other in zip(plans, moved, strict=True)])
    return worst


@translation_and_scaling.without("a positive factor: the source reversed", at_least=0.49, on="fixed")
def reversed_source() -> float:
    """A negative factor reverses the order of the projections."""
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])
    plans = (lift.sliced_plans(sign * x, y, [[1.0]])[0] for sign in (1, -1))
    return float(abs(next(plans) - next(plans)).max())


@claim(
    "lift.opposite-directions",
    kind="theorem",
    on="pair",
    tolerance=1e-15,
    source="",
    statement=r"With ties split, opposite directions have the same lifted plan, $G_{-\theta} = G_\theta$. So half a "
    r"sphere of directions is enough.",
    measured=r"largest difference of an entry",
    corrected="0.2.0: an earlier version did not name the rule for ties, and is false for ties kept in input order.",
)
def opposite_directions(problem: Problem) -> float:
    """Matching from right to left gives the same monotone plan between distinct values as matching from left to right,
    and ties are split without regard to order."""
    other = lift.sliced_plans(problem.x, problem.y, -problem.directions(6), problem.a, problem.b)
    return float(max(abs(plan - flipped).max() for plan, flipped in zip(_plans(problem), other, strict=True)))


@opposite_directions.without("split ties: ties kept in input order", at_least=0.5, on="fixed")
def opposite_in_order() -> float:
    """From (0,0), (0,1) to (1,0), (2,0) along the first axis the sources are tied. The first goes to the nearer
    target in one direction, and to the farther one in the opposite direction."""
    x, y, axis = [[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [2.0, 0.0]], np.array([[1.0, 0.0]])
    there, back = (lift.sliced_plans(x, y, sign * axis, ties="first")[0] for sign in (1, -1))
    return float(abs(there - back).max())


@claim(
    "lift.equal-points-stay-tied",
    kind="property",
    on="seed",
    tolerance=0,
    source="",
    statement=r"Equal points of a cloud have equal projections, to the last bit, whatever their place in it.",
    measured=r"largest difference between projections of equal points",
)
def equal_points(rng: np.random.Generator) -> float:
    """The coordinates of every point are added in the same order, which a blocked matrix product does not promise."""
    worst = 0.0
    for n, dim in ((7, 3), (33, 17), (257, 64)):
        cloud = np.vstack([rng.normal(size=(1, dim))] * n)
        cloud[::5] = rng.normal(size=(len(cloud[::5]), dim))
        rows = lift.project(cloud, rng.normal(size=(9, dim)))[:, np.arange(n) % 5 > 0]
        worst = max(worst, float(np.ptp(rows, axis=1).max()))
    return worst


@claim(
    "lift.target-on-a-line",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"If the target lies on a line in the direction $\theta$, the slice along $\theta$ is optimal for p = "
    r"2: $c_\theta = W_2^2$.",
    measured=r"relative difference from the best assignment, for 12 points in $R^3$",
)
def target_on_a_line(rng: np.random.Generator) -> float:
    r"""Let $y_j = o + t_j \theta$. Then $|x_i - y_j|^2 = |x_i - o|^2 - \langle x_i - o, \theta \rangle^2 + (\langle
    x_i - o, \theta \rangle - t_j)^2$. The first two terms cost the same for every plan, and the monotone plan is
    optimal for the last (`line.sorted-is-optimal`)."""
    x, theta = rng.normal(size=(12, 3)), sample_directions(1, 3, rng=rng)
    y = rng.normal(size=3) + rng.normal(size=(12, 1)) * theta
    ground = ((x[:, None] - y) ** 2).sum(axis=-1)
    best = ground[linear_sum_assignment(ground)].mean()
    return float(abs(lift.slice_costs(x, y, theta)[0] / best - 1))


@target_on_a_line.without("the power 2: p = 1", at_least=0.1, on="fixed")
def line_first_power() -> float:
    """A far source and a near one of nearly equal projection: sorted, the near one makes the longer move."""
    x, y = np.array([[0.1, 0.0], [0.0, 10.0]]), np.array([[0.0, 0.0], [3.0, 0.0]])
    ground = np.linalg.norm(x[:, None] - y, axis=-1)
    best = ground[linear_sum_assignment(ground)].mean()
    return float(lift.slice_costs(x, y, [[1.0, 0.0]], p=1)[0] / best - 1)


@claim(
    "lift.mirror-images",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"In any dimension and for all weights, let both clouds be centred and let $S = 2 \theta \theta^\top - "
    r"I$ be the half turn about the axis $\theta$. Then $c_\theta(x, y) + c_\theta(x, S y) = 2 \langle C, a b^\top "
    r"\rangle - 4 \sum_{ij} G_{\theta, ij} \langle x_i, \theta \rangle \langle y_j, \theta \rangle$ for p = 2, and "
    r"the last sum is not negative: a slice beats independence against $y$ or against its image.",
    measured="difference of the two sides, relative to the cost of independence, or most by which the last sum is "
    "negative",
)
def mirror_images(rng: np.random.Generator) -> float:
    r"""$S$ keeps projections on $\theta$, and with them $G_\theta$; it reverses everything orthogonal to $\theta$.
    So the inner products $\langle x_i, y_j \rangle + \langle x_i, S y_j \rangle$ are $2 \langle x_i, \theta \rangle
    \langle y_j, \theta \rangle$. The sum is the covariance of the projections under the monotone plan, the largest
    that a plan can have, and independence has 0."""
    x, y, theta = rng.normal(size=(9, 4)), rng.gamma(1.0, size=(13, 4)), sample_directions(1, 4, rng=rng)
    a, b = rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(13))
    x, y = x - a @ x, y - b @ y
    image = 2 * (y @ theta.T) * theta - y
    costs = [float(lift.slice_costs(x, cloud, theta, a, b)[0]) for cloud in (y, image)]
    plan = lift.sliced_plans(x, y, theta, a, b)[0]
    covariance = float((x @ theta[0]) @ (plan @ (y @ theta[0])))
    independent = float(a @ (x**2).sum(axis=1) + b @ (y**2).sum(axis=1))
    return max(abs(sum(costs) - 2 * independent + 4 * covariance), -covariance) / independent


@mirror_images.without("the image: $y$ twice", at_least=0.05, on="fixed")
def no_mirror() -> float:
    """Two clouds that lie across each other, with partners at obtuse angles: the slice alone loses."""
    x, y = np.array([[-0.1, -1.0], [0.1, 1.0]]), np.array([[-0.1, 1.0], [0.1, -1.0]])
    return float(2 * lift.slice_costs(x, y, [[1.0, 0.0]])[0] / (2 * 2.02) - 1)


@claim(
    "lift.gaussian-slice-cost",
    kind="measurement",
    on="seed",
    tolerance=0.05,
    source="",
    statement=r"Between samples of centred Gaussian laws with covariances $\Sigma_1$ and $\Sigma_2$, the cost of a "
    r"slice for p = 2 tends to $c_\theta = \mathrm{tr}\, \Sigma_1 + \mathrm{tr}\, \Sigma_2 - 2\, \frac{\theta^\top "
    r"\Sigma_1 \Sigma_2 \theta}{\sigma_1 \sigma_2}$ with $\sigma_i^2 = \theta^\top \Sigma_i \theta$, as the samples "
    r"grow. For $\Sigma_1 = \Sigma_2 = I$ it is $2 d - 2$ in every direction, where independence costs $2 d$.",
    measured="largest deviation over eight directions of $R^3$, for 20,000 points on each side, relative to the cost "
    "of independence",
)
def gaussian_slice_cost(rng: np.random.Generator) -> float:
    r"""On the line the monotone map between the projections is $u \mapsto \frac{\sigma_2}{\sigma_1} u$. Given its
    projection $u$, a point of $x$ has the mean $\Sigma_1 \theta\, u / \sigma_1^2$, and given $v$ a point of $y$ has
    the mean $\Sigma_2 \theta\, v / \sigma_2^2$; they are independent given $u$ and $v = \frac{\sigma_2}{\sigma_1}
    u$. So $\mathrm{E} \langle x, y \rangle = \theta^\top \Sigma_1 \Sigma_2 \theta\, \mathrm{E}\, u v / (\sigma_1^2
    \sigma_2^2)$, and $\mathrm{E}\, u v = \sigma_1 \sigma_2$."""
    roots = rng.normal(size=(2, 3, 3))
    one, two = (root.T @ root for root in roots)
    x, y = (rng.normal(size=(20000, 3)) @ root for root in roots)
    directions = sample_directions(8, 3, rng=rng)
    variances = [np.einsum("li,ij,lj->l", directions, sigma, directions) for sigma in (one, two)]
    cross = np.einsum("li,ij,lj->l", directions, one @ two, directions)
    limit = np.trace(one) + np.trace(two) - 2 * cross / np.sqrt(variances[0] * variances[1])
    return float(abs(lift.slice_costs(x, y, directions) - limit).max() / (np.trace(one) + np.trace(two)))
