"""Chapter 5 of the ledger: the exact expectation in the plane, and how well directions sample it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from .. import circle, expected, lift, line
from .. import directions as dirs
from .._checks import Array
from .ledger import claim
from .problems import Problem, inverse_temperature, on_grid


def _scale(problem: Problem) -> float:
    return inverse_temperature(lift.slice_costs(problem.x, problem.y, problem.directions(), problem.a, problem.b))


def _turn(angle: float) -> Array:
    """Rotation of the plane."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@claim(
    "circle.marginals",
    kind="theorem",
    on="plane",
    tolerance=1e-14,
    source="",
    statement=r"The circle plan has marginals $a$ and $b$, for every $\beta$.",
    measured=r"largest deviation of a row or column sum, at $\beta = 0$ and at one $\beta > 0$",
)
def marginals(problem: Problem) -> float:
    """A convex combination of plans, one for each arc, is a plan."""
    worst = 0.0
    for beta in (0.0, _scale(problem)):
        plan = circle.circle_plan(problem.x, problem.y, problem.a, problem.b, beta=beta).plan
        worst = max(
            worst, float(abs(plan.sum(axis=1) - problem.a).max()), float(abs(plan.sum(axis=0) - problem.b).max())
        )
    return worst


@claim(
    "circle.sum-over-arcs",
    kind="theorem",
    on="plane",
    tolerance=1e-11,
    source="",
    statement=r"For $d = 2$ the lifted plan $G_\theta$ is constant between the angles orthogonal to "
    r"differences of two points of one cloud. So the mean over the circle is the sum over these arcs of their "
    r"share of the circle times the plan of any direction inside, and likewise with Gibbs weights.",
    measured=r"$L^1$ distance of the circle plan from the sum over random directions inside the arcs, or "
    r"relative difference of the costs; projections are summed in doubled precision, and arcs shorter than "
    r"$10^{-14}$ count for nothing",
)
def sum_over_arcs(problem: Problem) -> float:
    """Between two such angles no two points of one cloud change their order."""
    ends = []
    for cloud in (problem.x[problem.a > 0], problem.y[problem.b > 0]):
        for point in cloud:
            across = (cloud - point)[np.any(cloud != point, axis=1)]
            ends.append(np.arctan2(across[:, 0], -across[:, 1]) % np.pi)
    angles = np.sort(np.concatenate([[0.0], *ends]))
    angles = np.append(angles, angles[0] + np.pi)
    lengths = np.diff(angles)
    proper = lengths > 1e-14
    inside = (angles[:-1] + problem.rng(8).uniform(0.2, 0.8, len(lengths)) * lengths)[proper]
    directions, lengths = np.column_stack([np.cos(inside), np.sin(inside)]), lengths[proper]
    plans = [_plan_inside_an_arc(problem, direction) for direction in directions]
    x, y = problem.x - problem.a @ problem.x, problem.y - problem.b @ problem.y  # a common shift changes no weight
    costs = np.array([lift.transport_cost(plan, x, y) for plan in plans])
    beta = _scale(problem)
    weights = expected.gibbs_weights(costs, beta, lengths / lengths.sum())
    mean = sum(weight * plan for weight, plan in zip(weights, plans, strict=True))
    cost = lift.transport_cost(mean, problem.x, problem.y)
    exact = circle.circle_plan(problem.x, problem.y, problem.a, problem.b, beta=beta)
    return float(max(abs(mean - exact.plan).sum(), abs(cost / exact.cost - 1)))


@sum_over_arcs.without("the share of the circle: all arcs count the same", at_least=0.01, on="fixed")
def arcs_unweighted() -> float:
    """The arcs have different lengths and different plans."""
    exact = circle.circle_plan(WORSE_X, WORSE_Y)
    return float(abs(exact.costs.mean() / exact.cost - 1))


def _plan_inside_an_arc(problem: Problem, direction: Array) -> csr_array:
    """The lifted plan of a direction that is orthogonal to no difference of distinct points."""
    ranks = []
    for points, weights in ((problem.x, problem.a), (problem.y, problem.b)):
        heavy = weights > 0
        rank = np.zeros(len(points))
        rank[heavy] = _ranks(points[heavy], direction)
        ranks.append(rank)
    return line.line_plan(ranks[0], ranks[1], problem.a, problem.b).tocsr()


def _ranks(points: Array, direction: Array) -> Array:
    """Ranks 0, 1, 2, ... of the projections of points of the plane, equal ones sharing theirs; (n,).

    Products and sums are kept with their rounding errors (Dekker), so that gaps of 1e-30 of a projection are seen.
    """
    high, low = _product(points, direction)
    total = high.sum(axis=1)
    second = total - high[:, 0]
    low = (high[:, 0] - (total - second)) + (high[:, 1] - second) + low.sum(axis=1)
    rounded = total + low
    low -= rounded - total
    order = np.lexsort([low, rounded])
    steps = (np.diff(rounded[order]) > 0) | (np.diff(low[order]) != 0)
    ranks = np.empty(len(points))
    ranks[order] = np.concatenate([[0], np.cumsum(steps)])
    return ranks


def _product(one: Array, other: Array) -> tuple[Array, Array]:
    """The rounded product and its rounding error, entry by entry."""
    product = one * other
    (a, b), (c, d) = _halves(one), _halves(other)
    return product, ((a * c - product) + a * d + b * c) + b * d


def _halves(numbers: Array) -> tuple[Array, Array]:
    """Two parts of 26 bits each whose sum is exact."""
    scaled = numbers * (2.0**27 + 1)
    upper = scaled - (scaled - numbers)
    return upper, numbers - upper


@claim(
    "circle.rotation",
    kind="theorem",
    on="plane",
    tolerance=1e-11,
    source="",
    statement=r"Rotating both clouds leaves the circle plan unchanged, for every $\beta$.",
    measured=r"$L^1$ distance of the plans, at $\beta = 0$ and at one $\beta > 0$, under the rotation by "
    r"$\arctan(4/3)$ scaled by 5, on coordinates rounded so that it is exact",
)
def rotation(problem: Problem) -> float:
    r"""Rotations leave the uniform measure on the circle and all distances unchanged. Scaling by 5 leaves the order of
    projections unchanged, and divides $\beta$ by 25."""
    x, y = on_grid(problem, 48)
    turn, worst = np.array([[3.0, -4.0], [4.0, 3.0]]), 0.0
    costs = lift.slice_costs(x, y, problem.directions(), problem.a, problem.b)
    for beta in (0.0, inverse_temperature(costs)):
        unturned = circle.circle_plan(x, y, problem.a, problem.b, beta=beta).plan
        turned = circle.circle_plan(x @ turn, y @ turn, problem.a, problem.b, beta=beta / 25).plan
        worst = max(worst, float(abs(unturned - turned).sum()))
    return worst


@rotation.without("the whole circle: sixteen fixed directions", at_least=1e-3)
def rotation_sampled(problem: Problem) -> float:
    """The plan of sampled directions has the same law after a rotation, but is another plan."""
    turn, directions = _turn(1.234), problem.directions()
    unturned = expected.expected_sliced_plan(problem.x, problem.y, directions, problem.a, problem.b).plan
    turned = expected.expected_sliced_plan(problem.x @ turn, problem.y @ turn, directions, problem.a, problem.b).plan
    return float(abs(unturned - turned).sum())


@claim(
    "circle.three-against-three",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="shahbazi2025espformer",
    statement=r"For three queries and three keys in general position the circle of directions splits into sectors, "
    r"each with one permutation, and $3 \bar G$ is the mean of their matrices weighted by angle. Some but never all "
    r"of the $3!$ permutations occur: four or five.",
    measured="largest difference of an entry from the mean over the sectors found by `argsort`, or 1 where another "
    "number of permutations occurs",
    corrected="0.2.0: an earlier version could be read as if all six occurred.",
)
def pie(rng: np.random.Generator) -> float:
    """The order of three projections changes at three angles for each cloud. Between them it is one permutation.
    That all permutations of one parity occur, and never all six, is shown by enumeration in
    `circle.three-points-gain`."""
    x, y = rng.normal(size=(2, 3, 2))
    ends = [
        np.arctan2((c[i] - c[j])[0], -(c[i] - c[j])[1]) % np.pi for c in (x, y) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    angles = np.sort(ends)
    angles = np.append(angles, angles[0] + np.pi)
    mean, permutations = np.zeros((3, 3)), set()
    for start, stop in itertools.pairwise(angles):
        direction = np.array([np.cos((start + stop) / 2), np.sin((start + stop) / 2)])
        rows, columns = np.argsort(x @ direction), np.argsort(y @ direction)
        mean[rows, columns] += (stop - start) / np.pi
        permutations.add(tuple(columns[np.argsort(rows)].tolist()))
    difference = float(abs(3 * circle.circle_plan(x, y).plan.toarray() - mean).max())
    return max(difference, float(len(permutations) not in (4, 5)))


@pie.without("general position: three points on a line, against themselves", at_least=1, on="fixed")
def one_sector() -> float:
    """All directions keep one order or reverse it: only the identity occurs."""
    x = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 6.0]])
    return float(np.array_equal(circle.circle_plan(x, x).plan.toarray() > 0, np.eye(3) > 0))


#: Two clouds of three points for which the mean over all directions costs more than the independent coupling.
WORSE_X = np.array([[0.75397544, -0.19962441], [0.90637277, -0.18335367], [-7.74564652, 1.38127945]])
WORSE_Y = np.array([[-0.26478137, 5.48499534], [-0.30031836, -12.67155322], [-0.74417852, 2.22838648]])


@claim(
    "circle.can-cost-more-than-independence",
    kind="refutation",
    on="fixed",
    tolerance=0.02,
    source="",
    statement=r"“The expected sliced plan never costs more than the independent coupling $a b^\top$.” For two "
    r"clouds of three points in the plane, $p = 2$ and the whole circle of directions, it does: $\sum_{ij} "
    r"\bar G_{ij} \langle x_i - \bar x, y_j - \bar y \rangle$ is negative.",
    measured=r"size of this sum, relative to the product of the standard deviations",
)
def worse_than_independent() -> float:
    """Each slice correlates the projections on its own direction, but may anticorrelate those on all others. If the two
    clouds are elongated across each other, the others can prevail."""
    x, y = WORSE_X - WORSE_X.mean(axis=0), WORSE_Y - WORSE_Y.mean(axis=0)
    plan = circle.circle_plan(x, y).plan
    return float(-np.sum(x * (plan @ y)) / np.sqrt((x**2).sum(axis=1).mean() * (y**2).sum(axis=1).mean()))


@worse_than_independent.without(
    "the mean over directions: the cheapest slice is better than independence", at_least=0.02
)
def best_slice_is_better() -> float:
    """Some direction has a plan that costs less."""
    angles = dirs.sample_directions(500, 2, method="equispaced")
    smallest = expected.min_sliced_plan(WORSE_X, WORSE_Y, angles).cost
    independent = lift.transport_cost(np.full((3, 3), 1 / 9), WORSE_X, WORSE_Y)
    return (independent - smallest) / independent


COUNTS = np.array([16, 32, 64, 128, 256, 512])


def _slope(method: str, rng: np.random.Generator, repeats: int) -> float:
    """Log-log slope in L of the error of the expected plan (Frobenius norm, root mean square over repeats)."""
    x, y = rng.normal(size=(2, 12, 2))
    exact = circle.circle_plan(x, y).plan.toarray()
    errors = np.zeros(len(COUNTS))
    for _ in range(repeats):
        turn = _turn(rng.uniform(0, np.pi))  # equispaced directions are not random
        for k, count in enumerate(COUNTS):
            directions = dirs.sample_directions(count, 2, method=method, rng=rng) @ turn
            errors[k] += np.sum((expected.expected_sliced_plan(x, y, directions).plan.toarray() - exact) ** 2)
    return float(np.polyfit(np.log(COUNTS), np.log(errors) / 2, 1)[0])


@claim(
    "circle.monte-carlo-rate",
    kind="measurement",
    on="seed",
    tolerance=0.1,
    source="",
    statement=r"The expected plan of $L$ random directions tends to the circle plan like $L^{-1/2}$.",
    measured=r"deviation of the log-log slope of the root mean square error from $-1/2$, for $L = 16 \dots "
    r"512$",
)
def monte_carlo_rate(rng: np.random.Generator) -> float:
    """The expected plan is the mean of independent plans of finite variance."""
    return abs(_slope("random", rng, 12) + 0.5)


@claim(
    "circle.equispaced-rate",
    kind="measurement",
    on="seed",
    tolerance=-0.9,
    source="",
    statement=r"The expected plan of $L$ equispaced directions, turned at random, tends to the circle plan "
    r"like $L^{-1}$.",
    measured=r"log-log slope of the root mean square error, for $L = 16 \dots 512$",
)
def equispaced_rate(rng: np.random.Generator) -> float:
    r"""The plan is a piecewise constant function of the angle: each jump causes an error in one cell of width $\pi /
    L$."""
    return _slope("equispaced", rng, 12)


@claim(
    "circle.sobol-rate",
    kind="measurement",
    on="seed",
    tolerance=-0.55,
    source="",
    statement=r"The expected plan of $L$ scrambled Sobol directions tends to the circle plan faster than "
    r"$L^{-1/2}$, the rate of independent directions.",
    measured=r"log-log slope of the root mean square error, for $L = 16 \dots 512$",
)
def sobol_rate(rng: np.random.Generator) -> float:
    """Measured, not proven: the integrand is a piecewise constant function of two Gaussian coordinates."""
    return _slope("sobol", rng, 12)


class _Arcs(NamedTuple):
    """The arcs of the half circle on which the slices of two clouds of n points are constant."""

    ends: Array  # (K + 1,) angles
    shares: Array  # (K,) lengths / pi
    plans: Array  # (K, n, n)


def _arcs(x: Array, y: Array) -> _Arcs:
    """Found with `arctan2` and a direction inside each arc, for points in general position."""
    differences = [cloud[i] - cloud[j] for cloud in (x, y) for i, j in itertools.combinations(range(len(cloud)), 2)]
    angles = np.sort([np.arctan2(d[0], -d[1]) % np.pi for d in differences])
    ends = np.append(angles, angles[0] + np.pi)
    middles = (ends[1:] + ends[:-1]) / 2
    directions = np.column_stack([np.cos(middles), np.sin(middles)])
    plans = np.array([plan.toarray() for plan in lift.sliced_plans(x, y, directions)])
    return _Arcs(ends, np.diff(ends) / np.pi, plans)


def _angle(u: Array, v: Array) -> float:
    """The angle between two vectors of the plane, in [0, pi], accurate for small ones too."""
    return float(np.arctan2(abs(u[0] * v[1] - u[1] * v[0]), u @ v))


@claim(
    "circle.two-points-angle",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"For two points against two, uniform weights and $\alpha$ the angle between $x_2 - x_1$ and $y_2 - "
    r"y_1$, the mean over all directions is $2 \bar G = (1 - \frac\alpha\pi) I + \frac\alpha\pi \Pi$ with the "
    r"transposition $\Pi$. With $\alpha' = \min(\alpha, \pi - \alpha)$ it costs $\mathrm{EST}_0^2 = W_2^2 + "
    r"\frac{\alpha'}{\pi} |x_2 - x_1| |y_2 - y_1| \cos \alpha'$.",
    measured=r"largest difference of an entry, or of the costs relative to $\mathrm{EST}_0^2$",
)
def two_points_angle(rng: np.random.Generator) -> float:
    r"""A direction exchanges the partners if and only if $\langle\theta, x_2 - x_1\rangle$ and $\langle\theta, y_2 -
    y_1\rangle$ have opposite signs: if the hyperplane orthogonal to $\theta$ separates the two vectors, which has
    probability $\alpha / \pi$ in every dimension. The costs of the two matchings differ by
    $|\langle x_2 - x_1, y_2 - y_1 \rangle| = |x_2 - x_1| |y_2 - y_1| \cos \alpha'$, and the more expensive one has the
    share $\alpha' / \pi$."""
    worst = 0.0
    for _ in range(5):
        x, y = rng.normal(size=(2, 2, 2))
        result, share = circle.circle_plan(x, y), _angle(x[1] - x[0], y[1] - y[0]) / np.pi
        plan = np.array([[1 - share, share], [share, 1 - share]]) / 2
        lengths = np.linalg.norm(x[1] - x[0]) * np.linalg.norm(y[1] - y[0])
        best = min(((x - other) ** 2).sum() / 2 for other in (y, y[::-1]))
        angle = np.pi * min(share, 1 - share)
        cost = best + angle / np.pi * lengths * np.cos(angle)
        worst = max(worst, float(abs(result.plan.toarray() - plan).max()), float(abs(result.cost / cost - 1)))
    return worst


@two_points_angle.without("all directions: the two axes", at_least=0.1, on="fixed")
def two_points_axes() -> float:
    """At an angle of 0.3 the axes see no exchange, where a share of 0.3 / pi of all directions does."""
    x, y = np.array([[0.0, 0.0], [0.6, 0.8]]), np.array([[0.0, 0.0], [np.cos(1.2), np.sin(1.2)]])
    sampled = 2 * expected.expected_sliced_plan(x, y, np.eye(2)).plan.toarray()
    share = _angle(x[1], y[1]) / np.pi
    return float(abs(sampled[0, 1] - share) / share)


def _half_turns() -> Iterator[list[tuple[int, ...]]]:
    """For each of the 4 x 3! x 20 ways in which the orders of two sets of three points can change over half a
    circle, the matchings met on the way, each as the partners of the points 0, 1, 2 of the source."""
    words = ((0, 1, 0), (1, 0, 1))
    for source, target in itertools.product(words, words):
        for start in itertools.permutations(range(3)):
            for turns in itertools.combinations(range(6), 3):
                orders, steps, met = [[0, 1, 2], list(start)], [iter(source), iter(target)], []
                for time in range(7):
                    met.append(tuple(orders[1][orders[0].index(i)] for i in range(3)))
                    if time < 6:
                        side = 0 if time in turns else 1
                        place = next(steps[side])
                        order = orders[side]
                        order[place], order[place + 1] = order[place + 1], order[place]
                yield met


def _even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0


@claim(
    "circle.three-points-gain",
    kind="theorem",
    on="seed",
    tolerance=1e-13,
    source="",
    statement=r"For $n = m \le 3$, uniform weights and points of the plane in general position, the cheapest of all "
    r"slices costs at most as much as the independent coupling (p = 2). For $n = 3$ the slices contain all three "
    r"permutations of one parity, and four or five permutations in all.",
    measured="largest excess of the cheapest slice, relative to the independent coupling, over random pairs; or "
    "number of the 480 combinatorial types that miss both parity classes or have another number of permutations",
)
def three_points_gain(rng: np.random.Generator) -> float:
    r"""Let $T(\theta) = \sum_{ij} \langle x_i - \bar x, y_j - \bar y \rangle G_{\theta, ij}$, so that a slice costs $2
    T$ less than independence. For $n = 2$ the two matchings have $\pm T$, and both occur unless the differences of the
    points are parallel; if these are, the one that occurs has $T > 0$.

    For $n = 3$ the three permutation matrices of one parity add up to the matrix of ones, for which $T = 0$. So if
    all three occur, one of them has $T \ge 0$. That they occur is proved by enumeration. Over half a circle of
    directions the order of three points is reversed by three exchanges of neighbours: first the lower two, then the
    upper two, then the lower two, or the other way round. There are 2 x 2 such sequences for both clouds, 3! orders
    of the target at the start (the source is numbered in its order) and $\binom63$ ways in which the exchanges
    interleave: 480 types, all of which the check goes through."""
    wrong, even = 0, {p for p in itertools.permutations(range(3)) if _even(p)}
    for met in _half_turns():
        kinds = set(met)
        wrong += not (even <= kinds or not ({*itertools.permutations(range(3))} - even) - kinds)
        wrong += len(kinds) not in (4, 5)
    worst = float(wrong)
    for n in (2, 3):
        for _ in range(5):
            x, y = rng.normal(size=(2, n, 2))
            independent = lift.transport_cost(np.full((n, n), 1 / n**2), x, y)
            worst = max(worst, float(circle.circle_plan(x, y).costs.min() / independent - 1))
    return worst


@three_points_gain.without(
    "at most three points: the twelve of `circle.cheapest-slice-can-lose`", at_least=8, on="fixed"
)
def twelve_points_lose() -> float:
    """There every slice costs more than independence."""
    return cheapest_can_lose.check()


#: Twelve points against twelve, a heavy centre and outliers, for which every slice costs more than independence.
LOSING_X = np.array([(19, -34), (19, -54), (-11, 2), *[(0, 0)] * 9], dtype=float)
LOSING_Y = np.array([(29, 19), (-12, 2), (36, 34), (1, 1), *[(0, 0)] * 8], dtype=float)


def _all_slice_costs(x: Array, y: Array) -> Array:
    """Costs of the slices on all arcs, and of the directions between them, in which points of whole coordinates tie."""
    differences = [cloud[i] - cloud[j] for cloud in (x, y) for i, j in itertools.combinations(range(len(cloud)), 2)]
    critical = np.unique([(-d[1], d[0]) for d in differences if np.any(d)], axis=0)
    return np.concatenate([circle.circle_plan(x, y).costs, lift.slice_costs(x, y, critical)])


@claim(
    "circle.cheapest-slice-can-lose",
    kind="refutation",
    on="fixed",
    tolerance=8,
    source="",
    statement=r"“The cheapest of all slices never costs more than the independent coupling.” For $x = (19, -34), (19, "
    r"-54), (-11, 2)$, nine times $(0, 0)$ and $y = (29, 19), (-12, 2), (36, 34), (1, 1)$, eight times $(0, 0)$, with "
    r"uniform weights and p = 2, every direction of the plane, with ties or without, has a slice that costs at least "
    r"$\frac{289}{36} = 8.03$ more than independence, $781.58$ against $773.56$. So min-SWGG, and EST at every "
    r"$\beta$ and for every set of directions, can be worse than no matching at all.",
    measured=r"least excess of a slice over the independent coupling, over all arcs and all critical directions",
)
def cheapest_can_lose() -> float:
    """Counterexample by computation with whole numbers, whose projections are exact. There is a heavy centre and
    there are outliers, each of which meets only partners of its rank at an obtuse angle. For three points and fewer
    it cannot happen: `circle.three-points-gain`."""
    independent = lift.transport_cost(np.full((12, 12), 1 / 144), LOSING_X, LOSING_Y)
    return float(_all_slice_costs(LOSING_X, LOSING_Y).min() - independent)


@cheapest_can_lose.without("the power 2: for p = 1 the same pair gains", at_least=0.1)
def first_power_gains() -> float:
    """No counterexample for p = 1 is known."""
    ground = np.linalg.norm(LOSING_X[:, None] - LOSING_Y, axis=-1)
    return float(1 - circle.circle_plan(LOSING_X, LOSING_Y, p=1).costs.min() / ground.mean())


#: Three clouds of five points that violate the triangle inequality on the whole circle.
DETOUR = np.array(
    [
        [(-0.2, 2.3), (3.1, -0.4), (0.9, -0.1), (0.9, 5.5), (-0.9, 1.2)],
        [(1, 2.3), (3.4, 0.7), (-0.7, -1.3), (1.4, 3.6), (-2.7, 0.4)],
        [(1.4, 3.1), (1.6, 2.2), (-0.9, -2.5), (3.7, 1.6), (-3.3, 0)],
    ]
)


def _detour_gap(beta: float) -> float:
    """Direct distance less the detour, over all directions: positive where the triangle inequality fails."""
    costs = [circle.circle_plan(DETOUR[i], DETOUR[j], beta=beta).cost for i, j in ((0, 2), (0, 1), (1, 2))]
    direct, first, second = np.sqrt(costs)
    return float(direct - first - second)


@claim(
    "circle.no-metric-for-positive-beta",
    kind="refutation",
    on="fixed",
    tolerance=0.39,
    source="",
    statement=r"“Over the whole circle of directions, the EST distance satisfies the triangle inequality for every "
    r"$\beta$, and so does min-SWGG.” For $x = (-.2, 2.3), (3.1, -.4), (.9, -.1), (.9, 5.5), (-.9, 1.2)$, $y = (1, "
    r"2.3), (3.4, .7), (-.7, -1.3), (1.4, 3.6), (-2.7, .4)$ and $z = (1.4, 3.1), (1.6, 2.2), (-.9, -2.5), (3.7, 1.6), "
    r"(-3.3, 0)$ the direct distance from $x$ to $z$ is longer than the detour by $y$: by 0.39 at $\beta = 1$ and by "
    r"0.52 at $\beta = \infty$.",
    measured=r"smaller of these two gaps",
)
def no_metric_on_the_circle() -> float:
    r"""Counterexample by computation. By scaling (`expected.scaling`) there is one for every $\beta > 0$: multiply
    all points by $\beta^{-1/2}$. The weights of the directions depend on the pair, and no common triple can be
    drawn."""
    return min(_detour_gap(1.0), _detour_gap(np.inf))


@no_metric_on_the_circle.without("$\\beta > 0$: at $\\beta = 0$ the detour is longer, by this much", at_least=0.1)
def metric_on_the_circle() -> float:
    """See `expected.triangle-inequality`."""
    return -_detour_gap(0.0)


def _polygon(corners: int) -> Array:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.column_stack([np.cos(angles), np.sin(angles)])


@claim(
    "circle.odd-polygon",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"Let $x$ be the corners of a regular polygon of radius 1 with an odd number $k$ of corners, and $y = "
    r"-x$, with uniform weights and p = 2. Almost every slice costs exactly 2, which is the cost of independence, so "
    r"that $\mathrm{EST}_\beta^2 = 2$ for all $\beta$ and min-SWGG$^2 = 2$, while $W_2^2 = 2 - 2 \cos \frac\pi k$: "
    r"with all directions at hand the quotient of the costs still grows like $2 k^2 / \pi^2$.",
    measured=r"largest deviation of a slice cost from 2 along 20 random directions, or of the optimal cost, for $k = "
    r"3, 5, \dots, 15$",
)
def odd_polygon(rng: np.random.Generator) -> float:
    r"""The points of $y$ lie half-way between those of $x$. In order of their projections the corner of rank $r$ of
    $x$ and that of rank $k + 1 - r$ of $y$ are opposite, hence the partners of rank $r$ of both lie at angles that
    differ by $2 \pi (r - \frac{k + 1}{2}) / k$, up to sign. Their distance squared is 2 minus twice the cosine, and
    over $r = 1, \dots, k$ the cosines add to 0. The optimal matching goes to a neighbour, at the angle $\pi / k$:
    every distance between the two sets is at least that."""
    worst = 0.0
    for corners in range(3, 16, 2):
        x = _polygon(corners)
        costs = lift.slice_costs(x, -x, dirs.sample_directions(20, 2, rng=rng))
        ground = ((x[:, None] + x) ** 2).sum(axis=-1)
        best = ground[linear_sum_assignment(ground)].mean()
        worst = max(worst, float(abs(costs - 2).max()), float(abs(best - 2 + 2 * np.cos(np.pi / corners))))
    return worst


@odd_polygon.without("an odd number of corners", at_least=1.99)
def even_polygon(rng: np.random.Generator) -> float:
    """A square is its own reflection: every slice without ties costs 0."""
    x = _polygon(4)
    return float(abs(lift.slice_costs(x, -x, dirs.sample_directions(20, 2, rng=rng)) - 2).max())


@claim(
    "circle.gap-to-sliced-wasserstein",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"In the plane, for $n = m$, uniform weights and general position, $\mathrm{EST}_0^2 - 2\, SW_2^2 = "
    r"\frac{1}{\pi n} \sum |x_i - x_k|\, |\langle \theta, y_j - y_l \rangle|$, over all breakpoints of either cloud: "
    r"$\theta$ is the direction of the half circle in which $x_i$ and $x_k$ exchange their places, $y_j$ and $y_l$ "
    r"are their partners there, and for the other breakpoints the roles of the clouds are exchanged. In particular "
    r"$2\, SW_2^2 \le \mathrm{EST}_0^2$.",
    measured=r"difference of the two sides, relative to $\mathrm{EST}_0^2$",
)
def gap_to_sliced_wasserstein(rng: np.random.Generator) -> float:
    r"""Let the clouds be centred, $h(\theta) = \sum G_{ij} \langle x_i, \theta \rangle \langle y_j, \theta \rangle$
    and $T(\theta) = \sum G_{ij} \langle x_i, y_j \rangle$ with the plan $G = G_\theta$. On an arc $G$ is constant
    and $h$ is a quadratic form in $\theta$, hence $h'' + 4 h = 2 T$ in the angle. $h$ is the largest value of $\sum
    G_{ij} \langle x_i, \theta \rangle \langle y_j, \theta \rangle$ over all plans, so it is continuous. Where $x_i$
    and $x_k$ exchange their places, $h'$ jumps upwards by $\frac1n |x_i - x_k| |\langle \theta, y_j - y_l \rangle|$:
    the derivative of $\langle x_i - x_k, \theta \rangle$ is $\pm |x_i - x_k|$ there. Integrate over half a circle:
    the integral of $h''$ on the arcs is minus the sum of the jumps, as $h'$ has period $\pi$. So $4 \int h = 2 \int
    T + \sum \text{jumps}$, and $\mathrm{EST}_0^2 - 2 SW_2^2 = \frac1\pi \int (4 h - 2 T)$, since the terms without
    $G$ cancel: $\int \langle x_i, \theta \rangle^2$ is half of $\pi |x_i|^2$."""
    x, y = rng.normal(size=(2, 6, 2))
    arcs = _arcs(x, y)
    sliced = 0.0
    for start, stop, plan in zip(arcs.ends[:-1], arcs.ends[1:], arcs.plans, strict=True):
        difference = x[:, None] - y
        form = np.einsum("ij,ija,ijb->ab", plan, difference, difference)
        sliced += (form[0, 0] + form[1, 1]) / 2 * (stop - start) + form[0, 1] / 2 * (
            np.cos(2 * start) - np.cos(2 * stop)
        )
        sliced += (form[0, 0] - form[1, 1]) / 4 * (np.sin(2 * stop) - np.sin(2 * start))
    jumps = 0.0
    for one, other in ((x, y), (y, x)):
        for i, k in itertools.combinations(range(6), 2):
            across = np.array([-(one[i] - one[k])[1], (one[i] - one[k])[0]]) / np.linalg.norm(one[i] - one[k])
            below = int(np.sum(np.delete(one, [i, k], axis=0) @ across < one[i] @ across))
            partners = np.sort(other @ across)[below : below + 2]
            jumps += float(np.linalg.norm(one[i] - one[k]) * np.ptp(partners)) / 6
    cost = circle.circle_plan(x, y).cost
    return float(abs(cost - 2 * sliced / np.pi - jumps / np.pi) / cost)


@claim(
    "circle.monte-carlo-error",
    kind="theorem",
    on="seed",
    tolerance=6,
    source="",
    statement=r"Let $\theta_1, \dots, \theta_L$ be independent and uniform, and $G_L$ the mean of their plans. Then "
    r"$\mathrm{E}\, |G_L - \bar G|_F^2 = \frac1L (\mathrm{E}\, |G_\theta|_F^2 - |\bar G|_F^2)$, and $\mathrm{E}\, "
    r"|G_\theta|_F^2 = \frac1n$ for $n = m$, uniform weights and no ties.",
    measured=r"difference of the mean of $L\, |G_L - \bar G|_F^2$ over 200 sets of 8 directions from the right-hand "
    r"side, in standard errors",
)
def monte_carlo_error(rng: np.random.Generator) -> float:
    r"""The plans are independent with mean $\bar G$: the variance of their mean is that of one of them over $L$.
    Each is $1 / n$ times a permutation matrix, which has $n$ entries."""
    x, y = rng.normal(size=(2, 7, 2))
    exact = circle.circle_plan(x, y).plan.toarray()
    plans = [plan.toarray() for plan in lift.sliced_plans(x, y, dirs.sample_directions(1600, 2, rng=rng))]
    errors = 8 * ((np.reshape(plans, (200, 8, 7, 7)).mean(axis=1) - exact) ** 2).sum(axis=(1, 2))
    return float(abs(errors.mean() - (1 / 7 - np.sum(exact**2))) / (errors.std() / np.sqrt(200)))


@monte_carlo_error.without("independence: equispaced directions", at_least=6)
def equispaced_error(rng: np.random.Generator) -> float:
    """Their error is far smaller; see `circle.equispaced-variation`."""
    x, y = rng.normal(size=(2, 7, 2))
    exact, turns = circle.circle_plan(x, y).plan.toarray(), rng.uniform(0, np.pi, 50)
    rows = dirs.sample_directions(8, 2, method="equispaced")
    plans = [expected.expected_sliced_plan(x, y, rows @ _turn(t)).plan.toarray() for t in turns]
    errors = 8 * ((np.array(plans) - exact) ** 2).sum(axis=(1, 2))
    return float(abs(errors.mean() - (1 / 7 - np.sum(exact**2))) / (errors.std() / np.sqrt(50)))


@claim(
    "circle.gibbs-bias",
    kind="measurement",
    on="seed",
    tolerance=0.2,
    source="",
    statement=r"Let the cost of $L$ independent uniform directions with Gibbs weights, $\hat c = \sum_l w_l c_l$, "
    r"estimate $\mathrm{EST}_\beta^p$ over the whole circle, with arcs of shares $\pi_k$, costs $c_k$ and Gibbs "
    r"weights $w_k$. Its bias vanishes like $1 / L$: $L\, (\mathrm{E}\, \hat c - \mathrm{EST}_\beta^p) \to -\sum_k "
    r"\frac{w_k^2}{\pi_k} (c_k - \mathrm{EST}_\beta^p)$ as $L \to \infty$.",
    measured=r"difference of the two sides at $L = 400$, relative to $\sum_k \frac{w_k^2}{\pi_k} |c_k - "
    r"\mathrm{EST}_\beta^p|$, by 20,000 samples of the numbers of directions in the arcs",
)
def gibbs_bias(rng: np.random.Generator) -> float:
    r"""$\hat c$ is the quotient of the means of $e^{-\beta c} c$ and of $e^{-\beta c}$. Expand it to second order
    about their expectations (the delta method): with $Z = \mathrm{E}\, e^{-\beta c}$ the bias is $-\frac{1}{L Z^2}
    \mathrm{E}\, e^{-2 \beta c} (c - \mathrm{EST}_\beta^p)$ and a remainder of order $L^{-2}$, and $w_k = \pi_k
    e^{-\beta c_k} / Z$. The first-order term, whose mean is 0, is subtracted from every sample."""
    x, y = rng.normal(size=(2, 6, 2))
    arcs = circle.circle_plan(x, y)
    beta, shares, costs, count = float(1 / arcs.costs.std()), arcs.weights, arcs.costs, 400
    result = circle.circle_plan(x, y, beta=beta)
    tilt = np.exp(-beta * (costs - costs.min()))
    tilt /= shares @ tilt  # e^(-beta c) / Z
    w = shares * tilt
    parts = rng.multinomial(count, shares / shares.sum(), 20000) / count
    mean = parts @ tilt
    noise = (parts * tilt) @ (costs - result.cost)
    bias = float(np.mean(noise / mean - noise)) * count
    limit, scale = -(w * tilt) @ (costs - result.cost), (w * tilt) @ abs(costs - result.cost)
    return float(abs(bias - limit) / scale)


def _variation(plans: Array) -> Array:
    """Total variation of each entry over the half circle, which closes."""
    return np.asarray(abs(plans - np.roll(plans, 1, axis=0)).sum(axis=0))


@claim(
    "circle.equispaced-variation",
    kind="theorem",
    on="seed",
    tolerance=1e-13,
    source="",
    statement=r"Let $G_L$ be the mean plan of $L$ equispaced directions of the plane, turned by any angle, and "
    r"$V_{ij}$ the total variation of $G_{\theta, ij}$ over the half circle. Then $|G_{L, ij} - \bar G_{ij}| \le "
    r"\frac{V_{ij}}{2 L}$. For $n = m$, uniform weights and general position, $\sum_{ij} V_{ij} \le 4 (n - 1)$, and "
    r"$|G_L - \bar G|_1 \le \frac{2 (n - 1)}{L}$ for every pair of clouds.",
    measured=r"largest violation of the three inequalities, for $L = 3, 10, 50$",
)
def equispaced_variation(rng: np.random.Generator) -> float:
    r"""Let $f$ be a function of period $\pi$. In a cell of width $\pi / L$ about a direction the mean of $f$ differs
    from its value in the middle by at most half the variation in the cell: on each half of it by the variation
    there, and each half has half the weight. Sum over the cells and divide by $L$: $V / (2 L)$. There are $n (n -
    1)$ exchanges over the half circle, $\binom n2$ for each cloud. Each changes at most four entries by $1 / n$:
    $\sum_{ij} V_{ij} \le 4 (n - 1)$."""
    x, y = rng.normal(size=(2, 8, 2))
    variation, exact = _variation(_arcs(x, y).plans), circle.circle_plan(x, y).plan.toarray()
    worst = float(variation.sum() - 4 * 7)
    for count in (3, 10, 50):
        rows = dirs.sample_directions(count, 2, method="equispaced") @ _turn(rng.uniform(0, np.pi))
        error = abs(expected.expected_sliced_plan(x, y, rows).plan.toarray() - exact)
        worst = max(worst, float((error - variation / (2 * count)).max()), float(error.sum() - 14 / count))
    return worst


@equispaced_variation.without("equal distances: all directions equal", at_least=0.05)
def repeated_direction(rng: np.random.Generator) -> float:
    """Fifty times the same direction is one slice."""
    x, y = rng.normal(size=(2, 8, 2))
    error = abs(lift.sliced_plans(x, y, [[1.0, 0.0]])[0].toarray() - circle.circle_plan(x, y).plan.toarray())
    return float(error.sum() - 14 / 50)


@claim(
    "circle.stability",
    kind="theorem",
    on="seed",
    tolerance=1e-13,
    source="",
    statement=r"In the plane, for $n = m$, uniform weights and distinct points, let every point of $x$ move by at "
    r"most $\varepsilon$. Then the mean plan over the whole circle changes by at most $|\bar G' - \bar G|_1 \le "
    r"\frac{4}{\pi n} \sum_{i < k} \varphi_{ik}$, with $\varphi_{ik} = \arcsin \frac{2 \varepsilon}{|x_i - x_k|}$ "
    r"where $2 \varepsilon < |x_i - x_k|$ and $\varphi_{ik} = \pi$ for all other pairs: it depends continuously on "
    r"distinct points.",
    measured=r"largest violation for $\varepsilon = 10^{-3}, 10^{-2}, 10^{-1}$",
)
def stability(rng: np.random.Generator) -> float:
    r"""The difference of two points moves by at most $2 \varepsilon$, and turns by an angle of at most
    $\varphi_{ik}$. Their order changes in the directions whose orthogonal line separates the two differences, a
    share of at most $\varphi_{ik} / \pi$ of all. In one direction the old order becomes the new one by exchanges of
    neighbours, one for each pair whose order has changed, and each changes four entries of the plan by $\frac1n$.
    (The bound $\arcsin \min(1, \frac{2 \varepsilon}{|x_i - x_k|})$ for all pairs would be too small: a pair that $2
    \varepsilon$ can carry past each other may be reversed altogether.)"""
    x, y, worst = rng.normal(size=(7, 2)), rng.normal(size=(7, 2)), -np.inf
    before = circle.circle_plan(x, y).plan
    gaps = np.array([np.linalg.norm(x[i] - x[k]) for i, k in itertools.combinations(range(7), 2)])
    for size in (1e-3, 1e-2, 1e-1):
        angles = rng.uniform(0, 2 * np.pi, 7)
        moved = x + size * np.column_stack([np.cos(angles), np.sin(angles)])
        turns = np.where(2 * size < gaps, np.arcsin(np.minimum(1, 2 * size / gaps)), np.pi)
        bound = 4 / (7 * np.pi) * turns.sum()
        worst = max(worst, float(abs(circle.circle_plan(moved, y).plan - before).sum() - bound))
    return max(worst, 0.0)


@stability.without(
    "the angle $\\pi$ for points closer than $2 \\varepsilon$: arcsin 1 instead", at_least=0.99, on="fixed"
)
def reversed_pair() -> float:
    """Two points carried past each other exchange their partners in all directions: the change is 2, the bound 1."""
    x = np.array([[0.0, 0.0], [1.0, 0.0]])
    before, after = (circle.circle_plan(cloud, x).plan for cloud in (x, x + [[0.6, 0.0], [-0.6, 0.0]]))
    return float(abs(before - after).sum() - 4 / (2 * np.pi) * np.pi / 2)


@stability.without("the whole circle: one direction, which two points nearly tie", at_least=1.9, on="fixed")
def jump() -> float:
    """A shift by 1e-9 exchanges two partners: the plan of a finite set of directions jumps."""
    x, y, axis = np.array([[0.0, 0.0], [1e-9, 1.0]]), np.array([[0.0, 0.0], [1.0, 0.0]]), [[1.0, 0.0]]
    moved = x - [[0.0, 0.0], [2e-9, 0.0]]
    before, after = (lift.sliced_plans(cloud, y, axis)[0] for cloud in (x, moved))
    return float(abs(before - after).sum() - 4 / (2 * np.pi) * np.arcsin(4e-9))


@claim(
    "circle.figure-of-the-paper",
    kind="measurement",
    on="fixed",
    tolerance=0.005,
    source="shahbazi2025espformer",
    statement="The figure of three queries and three keys, with coordinates read off by eye: $q = (.93, .58), (.094, "
    ".005), (.573, .715)$ and $k = (1.175, .90), (1.30, 1.455), (.96, .315)$. The shares of the permutations are "
    "2.0, 32.7, 0, 45.8, 11.8 and 7.7 %; five of the six occur.",
    measured=r"largest deviation of a share of the exact plan from one of these, both sorted",
)
def figure_of_the_paper() -> float:
    """The exact shares are the lengths of the arcs, added up by permutation. The coordinates are read to about a
    hundredth."""
    q = np.array([(0.93, 0.58), (0.094, 0.005), (0.573, 0.715)])
    k = np.array([(1.175, 0.90), (1.30, 1.455), (0.96, 0.315)])
    exact = 3 * circle.circle_plan(q, k).plan.toarray()
    arcs = _arcs(q, k)
    shares = dict.fromkeys(itertools.permutations(range(3)), 0.0)
    for share, plan in zip(arcs.shares, arcs.plans, strict=True):
        shares[tuple(plan.argmax(axis=1).tolist())] += share
    mean = sum(share * np.eye(3)[list(order)] for order, share in shares.items())
    printed = np.sort([0.020, 0.327, 0.0, 0.458, 0.118, 0.077])
    return float(max(abs(np.sort(list(shares.values())) - printed).max(), abs(mean - exact).max()))
