"""What a plan does to points: the barycentric map, its extension, displacement interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial.distance import cdist
from strategies import problems

from espref import (
    barycentric_map,
    displacement_interpolation,
    expected_sliced_plan,
    extend_map,
    line_plan,
    min_sliced_plan,
    sample_directions,
    transport_cost,
)

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10**6)
MODERATE = (1e-30, 1.0, 1e30)


@few
@given(seeds, st.integers(1, 9), st.integers(1, 4))
def test_a_permutation_is_its_own_map(seed: int, n: int, dim: int) -> None:
    """One entry per row: T(x_i) is the partner of x_i, bit for bit, whatever the weights."""
    rng = np.random.default_rng(seed)
    y, order = rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-300, 300), rng.permutation(n)
    plan = sparse.coo_array((rng.dirichlet(np.ones(n)) + 1e-9, (np.arange(n), order)))
    np.testing.assert_array_equal(barycentric_map(plan, y), y[order])
    np.testing.assert_array_equal(barycentric_map(plan.toarray(), y), y[order])


@few
@given(problems(scales=MODERATE))
def test_map_against_a_loop(problem) -> None:
    """The mean of the target under each row, by NumPy's average; it keeps the mean of the target."""
    plan = expected_sliced_plan(*problem[:2], problem.directions, problem.a, problem.b).plan.toarray()
    rows = plan.sum(axis=1) > 0
    images = barycentric_map(plan[rows], problem.y)
    scale = np.abs(problem.y).max()
    for row, image in zip(plan[rows], images, strict=True):
        np.testing.assert_allclose(image, np.average(problem.y, axis=0, weights=row), rtol=0, atol=1e-14 * scale)
    mean = plan.sum(axis=0) @ problem.y
    np.testing.assert_allclose(plan[rows].sum(axis=1) @ images, mean, rtol=0, atol=1e-13 * scale)


@few
@given(seeds, st.sampled_from([1e-320, 1e-300, 1.0, 1e300]))
def test_map_ignores_the_scale_of_the_plan(seed: int, scale: float) -> None:
    """Only the shares within a row count, also where their sum under- or overflows."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (4, 5))
    counts[:, 0] += 1
    y = rng.standard_normal((5, 2))
    np.testing.assert_allclose(barycentric_map(counts * scale, y), barycentric_map(counts, y), rtol=0, atol=1e-14)


def test_map_at_the_end_of_the_floats() -> None:
    """Targets at the largest float: the mean of equal points is that point, of opposite ones zero."""
    most = np.finfo(float).max
    plan = np.full((2, 6), 1 / 12)
    np.testing.assert_array_equal(barycentric_map(plan, np.full((6, 1), most)), np.full((2, 1), most))
    opposite = np.array([most, most, most, -most, -most, -most])[:, None]
    np.testing.assert_allclose(barycentric_map(plan, opposite) / most, np.zeros((2, 1)), rtol=0, atol=1e-15)


def test_map_of_an_optimal_plan_is_optimal() -> None:
    """On the line the plan is optimal, and its barycentric map is nondecreasing: an optimal map onto its image. A plan
    that crosses has a map that is not."""
    rng = np.random.default_rng(0)
    u, v = np.sort(rng.standard_normal(9)), rng.standard_normal(14)
    images = barycentric_map(line_plan(u, v), v[:, None])[:, 0]
    assert (np.diff(images) > 0).all()
    assert (np.diff(barycentric_map(line_plan(-u, v), v[:, None])[:, 0]) < 0).all()


def test_the_map_costs_less_than_the_plan() -> None:
    """Jensen: sum_i a_i |x_i - T(x_i)|^2 <= <C, G>, with equality for a map only."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 30, 3))
    directions = sample_directions(16, 3, rng=rng)
    for result, is_map in ((expected_sliced_plan(x, y, directions), False), (min_sliced_plan(x, y, directions), True)):
        cost = ((x - barycentric_map(result.plan, y)) ** 2).sum(axis=1).mean()
        assert cost == pytest.approx(result.cost, rel=1e-12) if is_map else cost < 0.9 * result.cost


def test_entries_listed_twice_are_added() -> None:
    """A sparse plan may list an entry in parts, of either sign: what counts is their sum."""
    plan = sparse.coo_array(([0.5, 0.75, -0.25, 0.0], ([0, 0, 0, 0], [0, 1, 1, 2])), shape=(1, 3))
    y = [[0.0], [4.0], [100.0]]
    np.testing.assert_array_equal(barycentric_map(plan, y), [[2.0]])
    cloud = displacement_interpolation(plan, [[0.0]], y, 1)
    np.testing.assert_array_equal(cloud.points, [[0.0], [4.0]])
    np.testing.assert_array_equal(cloud.weights, [0.5, 0.5])


def test_extension_against_brute_force() -> None:
    """New points move like their nearest neighbour; points of the cloud have their own images, bit for bit."""
    rng = np.random.default_rng(0)
    x, images, points = rng.standard_normal((50, 3)), rng.standard_normal((50, 3)), rng.standard_normal((200, 3))
    nearest = cdist(points, x).argmin(axis=1)
    for scale in (1e-200, 1.0, 1e200):
        got = extend_map(points * scale, x * scale, images * scale)
        expected = images[nearest] + points - x[nearest]
        np.testing.assert_allclose(got / scale, expected, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(extend_map(x * scale, x * scale, images * scale), images * scale)


@few
@given(seeds)
def test_extension_of_a_translation_is_a_translation(seed: int) -> None:
    """On a grid too, where many points are nearest; however the cloud is numbered or repeated."""
    rng = np.random.default_rng(seed)
    x, points = rng.integers(-2, 3, (12, 2)), rng.integers(-4, 5, (8, 2)) / 2
    shift = rng.integers(-9, 10, 2)
    np.testing.assert_allclose(extend_map(points, x, x + shift), points + shift, rtol=0, atol=1e-14)
    images = np.sin(x + shift)
    order = rng.integers(0, len(x), 40)
    order = np.concatenate([order, np.arange(len(x))])
    once = extend_map(points, x, images)
    np.testing.assert_allclose(extend_map(points, x[order], images[order]), once, rtol=0, atol=1e-14)


def test_nearest_up_to_rounding() -> None:
    """0.15 lies halfway between 0.1 and 0.2, though floats disagree; -0.0 is 0.0."""
    got = extend_map([[0.15], [-0.0]], [[0.1], [0.2], [0.0]], [[1.0], [3.0], [7.0]])
    np.testing.assert_allclose(got, [[2.0], [7.0]], rtol=1e-15)
    assert extend_map([[0.0]], [[0.0], [-0.0]], [[1.0], [3.0]]) == 2.0


def test_extension_refuses_overflow() -> None:
    """An image beyond the floats is an error, not an infinity."""
    with pytest.raises(ValueError, match=r"^points: expected images that fit a float, got an overflow$"):
        extend_map([[1e308]], [[0.0]], [[1e308]])


@few
@given(problems(scales=MODERATE), st.floats(0, 1))
def test_interpolation_is_the_plan_pushed_forward(problem, t: float) -> None:
    """One point per positive entry, on the segment between its ends; all the mass; the ends are x and y."""
    plan = expected_sliced_plan(*problem[:2], problem.directions, problem.a, problem.b).plan
    points, weights = displacement_interpolation(plan, problem.x, problem.y, t)
    rows, columns = np.nonzero(plan.toarray())
    np.testing.assert_array_equal(weights, plan.toarray()[rows, columns])
    ends = problem.x[rows], problem.y[columns]
    assert (np.minimum(*ends) <= points).all() and (points <= np.maximum(*ends)).all()
    scale = np.abs(ends).max()
    np.testing.assert_allclose(points, (1 - t) * ends[0] + t * ends[1], rtol=0, atol=1e-15 * scale)
    for time, expected in enumerate(ends):
        np.testing.assert_array_equal(displacement_interpolation(plan, problem.x, problem.y, time).points, expected)


@pytest.mark.parametrize(("s", "t"), [(0.0, 1.0), (0.25, 0.5), (0.9, 0.1)])
def test_optimal_plans_give_geodesics(s: float, t: float) -> None:
    """W_2(mu_s, mu_t) = |s - t| W_2(mu_0, mu_1) on the line, by SciPy's linear program; and between two points of the
    plane, where the only plan is the trivial one."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((5, 1)), rng.standard_normal((7, 1)) + 2
    plan = line_plan(u[:, 0], v[:, 0])
    one, other = (displacement_interpolation(plan, u, v, time) for time in (s, t))
    ground = cdist(one.points, other.points) ** 2
    n, m = ground.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    least = linprog(ground.ravel(), A_eq=sums, b_eq=np.concatenate([one.weights, other.weights])).fun
    assert least == pytest.approx((s - t) ** 2 * transport_cost(plan, u, v), rel=1e-9)
    dirac = [displacement_interpolation([[1.0]], [[0.0, 0.0]], [[3.0, 4.0]], time).points for time in (s, t)]
    assert np.linalg.norm(dirac[0] - dirac[1]) == pytest.approx(abs(s - t) * 5, rel=1e-14)


def test_points_that_do_not_move_stay() -> None:
    """At every time, bit for bit, also at the end of the floats, where rounding would overflow."""
    x = np.array([[0.1, 1e-320], [np.finfo(float).max, -np.finfo(float).max]])
    for t in np.linspace(0, 1, 37):
        np.testing.assert_array_equal(displacement_interpolation(np.eye(2) / 2, x, x, t).points, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: barycentric_map([[0.5, -0.5]], [[0.0], [1.0]]),
            r"plan: expected nonnegative .* -0.5 at index \(0, 1\)",
        ),
        (lambda: barycentric_map([[1.0], [0.0]], [[0.0]]), "plan: expected mass in every row, got none in row 1"),
        (lambda: barycentric_map([[1.0]], [[0.0], [1.0]]), "plan: expected one column for each of the 2 rows of y"),
        (lambda: extend_map([[0.0]], [[0.0]], [[0.0, 1.0]]), r"images: expected the shape of x, \(1, 1\)"),
        (lambda: extend_map([[0.0, 1.0]], [[0.0]], [[0.0]]), "x: expected the dimension of points, d = 2, got d = 1"),
        (lambda: displacement_interpolation([[0.0]], [[0.0]], [[1.0]], 0.5), "plan: expected some mass, all"),
        (lambda: displacement_interpolation([[1.0]], [[0.0]], [[1.0]], 1.5), "t: expected a number <= 1, got 1.5"),
        (lambda: displacement_interpolation([[1.0]], [[0.0]], [[1.0]], -1), "t: expected a number >= 0 and finite"),
        (lambda: displacement_interpolation([[1.0, 0.0]], [[0.0]], [[1.0]], 0), r"plan: expected shape \(1, 1\)"),
    ],
)
def test_errors(call, message: str) -> None:
    """Errors name the argument, what was expected and what came."""
    with pytest.raises(ValueError, match="^" + message):
        call()


def test_nearest_point_seen_from_the_origin() -> None:
    """The nearest point is found though the square of its distance is rounded: here 3 = sqrt(3)^2."""
    assert extend_map([[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]], [[1.0, 2.0, 3.0]]).tolist() == [[0.0, 1.0, 2.0]]
