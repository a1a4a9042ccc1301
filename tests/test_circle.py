"""Chapter 5: the exact mean over the circle against enumeration of its arcs and very many directions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Problem, problems

from espref import circle_plan, expected_sliced_plan, sample_directions


@pytest.mark.parametrize("beta", [0.0, 1.0, math.inf])
@given(problem=problems(most=6, dims=(2,), scales=(1.0, 3.7)), p=st.sampled_from([1, 1.5, 2, 3]))
def test_enumeration(beta: float, problem: Problem, p: float) -> None:
    """Weighted clouds, n != m, ties, duplicates, collinear points: the Gibbs mean of all arcs, one at a time."""
    x, y, a, b, _ = problem
    result = circle_plan(x, y, a, b, beta=beta, p=p)
    lengths, plans, costs = map(np.array, zip(*oracles.arcs(x, y, a, b, p), strict=True))
    if math.isinf(beta):  # arcs of equal cost are told apart by rounding: only the cost is a function of the clouds
        assert result.cost == pytest.approx(costs.min(), rel=1e-12, abs=1e-14)
        return
    weights = lengths * np.exp(-beta * (costs - costs.min()))
    weights /= weights.sum()
    np.testing.assert_allclose(result.plan.toarray(), np.tensordot(weights, plans, 1), rtol=0, atol=1e-12)
    assert result.cost == pytest.approx(weights @ costs, rel=1e-11, abs=1e-13)


def test_cheapest_arc() -> None:
    """beta = inf: the plan of the one cheapest arc, no direction in 2000 is cheaper."""
    rng = np.random.default_rng(3)
    x, y, a = rng.standard_normal((6, 2)), rng.standard_normal((5, 2)), rng.dirichlet(np.ones(6))
    arcs = oracles.arcs(x, y, a, None, 2)
    result = circle_plan(x, y, a, beta=math.inf)
    np.testing.assert_allclose(result.plan.toarray(), min(arcs, key=lambda arc: arc[2])[1], rtol=0, atol=1e-15)
    directions = sample_directions(2000, 2, method="equispaced")
    assert result.cost <= expected_sliced_plan(x, y, directions, a).costs.min() + 1e-12


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_very_many_directions(beta: float) -> None:
    """Equispaced directions converge to it: L directions leave at most one of L arcs wrong at each breakpoint."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 2)), rng.integers(0, 3, (5, 2)).astype(float)
    a, b = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(5))
    directions = sample_directions(8000, 2, method="equispaced")
    sampled = expected_sliced_plan(x, y, directions, a, b, beta=beta)
    exact = circle_plan(x, y, a, b, beta=beta)
    np.testing.assert_allclose(exact.plan.toarray(), sampled.plan.toarray(), rtol=0, atol=1e-3)
    assert exact.cost == pytest.approx(sampled.cost, rel=1e-3)


def test_two_against_two() -> None:
    """x = 0, e1 and y = 0, (cos t, sin t): the identity on all angles but those between the two, t / pi of them."""
    for t in (0.3, 1.0, 2.5):
        plan = circle_plan([[0, 0], [1, 0]], [[0, 0], [math.cos(t), math.sin(t)]]).plan.toarray()
        swapped = t / math.pi / 2
        np.testing.assert_allclose(plan, [[0.5 - swapped, swapped], [swapped, 0.5 - swapped]], rtol=0, atol=1e-15)


def test_pie_of_permutations() -> None:
    """Three queries and three keys: arcs of whole permutations, lengths that sum to 1, a doubly stochastic mean."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 2))
    result = circle_plan(x, y)
    arcs = oracles.arcs(x, y, None, None, 2)
    for _, plan, _ in arcs:
        assert sorted((plan * 3).argmax(axis=1)) == [0, 1, 2] and np.count_nonzero(plan) == 3
    assert len(result.weights) == len(result.costs) == 6
    assert result.weights.sum() == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(3 * result.plan.toarray().sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(3 * result.plan.toarray().sum(axis=0), 1, rtol=1e-14)


@pytest.mark.parametrize("beta", [0.0, 1.0, math.inf])
def test_trivial_clouds(beta: float) -> None:
    """One point a side, equal points, weights of zero: the product plan, exactly."""
    one = circle_plan([[1, 2]], [[4, 6]], beta=beta)
    assert one.plan.toarray() == [[1]] and one.cost == 25 and one.weights == [1]
    same = circle_plan(np.ones((3, 2)), np.ones((4, 2)), [0.5, 0.25, 0.25], beta=beta)
    np.testing.assert_allclose(same.plan.toarray(), np.outer([0.5, 0.25, 0.25], np.full(4, 0.25)), rtol=1e-15)
    assert same.cost == 0
    lone = circle_plan([[0, 0], [5, 5]], [[1, 0], [0, 1], [0, 3]], [1, 0], beta=beta)
    np.testing.assert_allclose(lone.plan.toarray(), [[1 / 3] * 3, [0] * 3], rtol=1e-15)
    assert lone.plan.nnz == 3
    signed = circle_plan([[0.0, 0.0], [-0.0, -0.0]], [[1, 1], [2, 3]], beta=beta)
    np.testing.assert_array_equal(signed.plan.toarray(), [[0.25] * 2] * 2)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_collinear_clouds(beta: float) -> None:
    """Both clouds on lines: two arcs of orders a line, forwards and backwards."""
    t, s = np.arange(6.0) ** 2, np.arange(4.0) ** 3
    direction, other = np.array([1.0, 3.0]) / 7, np.array([-2.0, 5.0]) / 3
    same = circle_plan(t[:, None] * direction, s[:, None] * direction, beta=beta)
    assert len(same.weights) == 1  # both turn round together
    np.testing.assert_allclose(same.plan.toarray(), oracles.line_plan(t, s, None, None), rtol=0, atol=1e-15)
    result = circle_plan(t[:, None] * direction, s[:, None] * other, beta=beta)
    assert len(result.weights) == 2
    forwards, backwards = oracles.line_plan(t, s, None, None), oracles.line_plan(t, -s, None, None)
    mean = result.plan.toarray()
    angle = abs(math.atan2(3, 1) - math.atan2(5, -2)) / math.pi
    if beta == 0:
        np.testing.assert_allclose(mean, (1 - angle) * forwards + angle * backwards, rtol=0, atol=1e-14)


@pytest.mark.parametrize("offset", [0.0, 12345.0])
def test_arcs_of_a_grid(offset: float) -> None:
    """Pixels of a photograph: as many arcs as primitive difference vectors up to sign, none invented by rounding."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, [427, 640], (30, 2)), rng.integers(0, [427, 640], (25, 2))
    x[:8] = [[20 * k, 30 * k + 1] for k in range(8)]  # and collinear ones, one after the other at odd spacings
    x[8:12] = [[20 * k, 30 * k + 1] for k in (9, 13, 16, 21)]
    slopes = set()
    for cloud in (x.tolist(), y.tolist()):
        for (i, j), (k, r) in itertools.combinations(cloud, 2):
            g = math.gcd(i - k, j - r)
            if g:
                di, dj = (i - k) // g, (j - r) // g
                slopes.add(max((di, dj), (-di, -dj)))
    result = circle_plan(x / 7 * 7 + offset, y + offset)
    assert len(result.weights) == len(slopes)
    assert result.weights.min() > 1e-10


@given(problem=problems(most=6, dims=(2,), scales=(1.0,)), angle=st.floats(0, 6), beta=st.sampled_from([0.0, 0.5]))
def test_symmetries(problem: Problem, angle: float, beta: float) -> None:
    """Exchange transposes; rotating both, translating one (p = 2), scaling one (beta = 0) changes nothing."""
    x, y, a, b, _ = problem
    plan = circle_plan(x, y, a, b, beta=beta).plan.toarray()
    np.testing.assert_allclose(circle_plan(y, x, b, a, beta=beta).plan.toarray(), plan.T, rtol=0, atol=1e-12)
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(
        circle_plan(x @ quarter, y @ quarter, a, b, beta=beta).plan.toarray(), plan, rtol=0, atol=1e-12
    )
    moved = circle_plan(x + 64.0, y, a, b, beta=beta)  # the costs change, the Gibbs weights do not
    if np.array_equal(x + 64.0 - 64.0, x):
        np.testing.assert_allclose(moved.plan.toarray(), plan, rtol=0, atol=1e-9)
    if beta == 0:
        np.testing.assert_array_equal(circle_plan(x * 2.0**300, y, a, b).plan.toarray(), plan)
        general = np.random.default_rng(int(angle * 1000)).standard_normal((9, 2))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        before, after = circle_plan(general[:5], general[5:]), circle_plan(general[:5] @ turn, general[5:] @ turn)
        np.testing.assert_allclose(after.plan.toarray(), before.plan.toarray(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-308, 1e-150, 1e150, 1e307])
def test_extreme_scales(scale: float) -> None:
    """At beta = 0 the plan of scaled clouds is the plan, and for p = 1 the cost scales, from denormals on."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(-9, 9, (7, 2)).astype(float), rng.integers(-9, 9, (6, 2)).astype(float)
    one, other = circle_plan(x, y, p=1), circle_plan(x * scale / 16, y * scale / 16, p=1)
    np.testing.assert_allclose(other.plan.toarray(), one.plan.toarray(), rtol=0, atol=1e-12)
    assert other.cost * 16 / scale == pytest.approx(one.cost, rel=1e-12)


def test_far_from_the_origin() -> None:
    """A cloud of spread 1 around 2^40: the plan is that of the cloud moved back, which loses no digit here."""
    rng = np.random.default_rng(0)
    x, y = np.round(rng.standard_normal((2, 12, 2)) * 2**10) / 2**10
    near, far = circle_plan(x, y, beta=0.3), circle_plan(x + 2.0**40, y + 2.0**40, beta=0.3)
    np.testing.assert_allclose(far.plan.toarray(), near.plan.toarray(), rtol=0, atol=1e-12)
    assert far.cost == pytest.approx(near.cost, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_two_hundred_points(weighted: bool) -> None:
    """n = m = 200, some 40,000 arcs: marginals to 1e-14 of the total mass, every entry once, none zero."""
    n = 200 if not weighted else 100
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, n, 2))
    a = rng.dirichlet(np.ones(n)) if weighted else np.full(n, 1 / n)
    result = circle_plan(x, y, a, a, beta=1.0)
    assert len(result.weights) == n * (n - 1)
    dense = result.plan.toarray()
    np.testing.assert_allclose(dense.sum(axis=1), a, rtol=0, atol=1e-15)
    np.testing.assert_allclose(dense.sum(axis=0), a, rtol=0, atol=1e-15)
    assert result.plan.data.min() > 0
    ground = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    assert result.cost == pytest.approx((dense * ground).sum(), rel=1e-12)


def test_forms_of_input() -> None:
    """Lists, ints, float32, read-only and strided arrays are accepted, and nothing is written to."""
    x, y = np.array([[0, 0], [2, 1], [2, 1], [5, 3]]), np.array([[1, 1], [0, 4]], dtype=np.float32)
    a = np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32)
    kept = x.copy(), y.copy(), a.copy()
    for array in (x, y, a):
        array.flags.writeable = False
    expected = circle_plan(x, y, a, beta=1).plan.toarray()
    for left in (x.tolist(), x.astype(np.uint8), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        np.testing.assert_array_equal(circle_plan(left, y.tolist(), a.tolist(), beta=1).plan.toarray(), expected)
    for array, copy in zip((x, y, a), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_each_axis_from_its_own_mean() -> None:
    """Each cloud is seen from its own mean, axis by axis: where it lies costs no digits."""
    rng = np.random.default_rng(5)
    x, y = rng.integers(-80, 80, (2, 30, 2)) / 8
    near, far = circle_plan(x, y), circle_plan(x + [2.0**45, -(2.0**45)], y + [2.0**45, 3 * 2.0**45])
    assert abs(near.plan - far.plan).max() < 1e-12
