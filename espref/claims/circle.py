"""Chapter 5 of the ledger: the exact expectation in the plane, and how well directions sample it."""

from __future__ import annotations

import itertools

import numpy as np
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
