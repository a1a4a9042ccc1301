"""Chapter 7: soft plans against 50-digit arithmetic, their marginals, and the tie-splitting plan as their limit."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import TAUS, Problem, line_problems, problems, scores, weights

from espref import (
    expected_sliced_plan,
    expected_soft_plan,
    gibbs_weights,
    line_plan,
    rank_plan,
    sliced_plans,
    soft_line_plan,
    soft_permutation,
)

KINDS = pytest.mark.parametrize(("power", "sort"), [(1, "soft"), (2, "soft"), (1, "balanced"), (2, "balanced")])


def filled(a: np.ndarray | None, n: int) -> np.ndarray:
    return np.full(n, 1 / n) if a is None else a


@given(problem=line_problems())
def test_rank_plan(problem: Problem) -> None:
    """A_ij is the length of an intersection of intervals: the plan between 1, ..., n and 1, ..., m, rationally."""
    a, b = filled(problem.a, len(problem.x)), filled(problem.b, len(problem.y))
    expected = oracles.line_plan(range(len(a)), range(len(b)), a, b)
    plan = rank_plan(a, b)
    np.testing.assert_allclose(plan.toarray(), expected, rtol=0, atol=2e-15)
    assert plan.nnz <= len(a) + len(b) - 1 and plan.data.min() > 0


@KINDS
@given(u=scores(5), v=scores(5), tau=st.sampled_from(TAUS), data=st.data())
def test_definition(power: int, sort: str, u, v, tau: float, data: st.DataObject) -> None:
    """G = P^T A Q, every factor by its definition in 50 digits; zero weights, ties and n != m included."""
    a, b = data.draw(weights(len(u))), data.draw(weights(len(v)))
    expected = oracles.floats(oracles.soft_line_plan(u, v, tau, a, b, power, sort))
    got = soft_line_plan(u, v, tau, a, b, power=power, sort=sort)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@KINDS
@given(u=scores(30), v=scores(30), tau=st.sampled_from(TAUS), data=st.data())
def test_marginals(power: int, sort: str, u, v, tau: float, data: st.DataObject) -> None:
    """G >= 0 of mass 1; balanced, G 1 = a and G^T 1 = b at every tau. No NaN, no warning."""
    a, b = data.draw(weights(len(u))), data.draw(weights(len(v)))
    plan = soft_line_plan(u, v, tau, a, b, power=power, sort=sort)
    assert plan.min() >= 0 and plan.sum() == pytest.approx(1, abs=1e-12)
    if sort == "balanced":
        np.testing.assert_allclose(plan.sum(axis=1), filled(a, len(u)), rtol=1e-12, atol=1e-18)
        np.testing.assert_allclose(plan.sum(axis=0), filled(b, len(v)), rtol=1e-12, atol=1e-18)


@KINDS
@given(u=scores(12), v=scores(12), data=st.data())
def test_hard_limit(power: int, sort: str, u, v, data: st.DataObject) -> None:
    """At tau = 0, and on whole numbers at any small tau, G is the tie-splitting plan of the line."""
    a, b = data.draw(weights(len(u))), data.draw(weights(len(v)))
    exact = line_plan(u, v, a, b).toarray()
    whole = [np.unique(side, return_inverse=True)[1] for side in (u, v)]
    np.testing.assert_allclose(soft_line_plan(u, v, 0, a, b, power=power, sort=sort), exact, rtol=0, atol=1e-12)
    for tau in (5e-324, 1e-100, 1e-3):
        soft = soft_line_plan(*whole, tau, a, b, power=power, sort=sort)
        np.testing.assert_allclose(soft, exact, rtol=0, atol=1e-12)


@KINDS
@pytest.mark.parametrize("weighted", [False, True])
def test_approach_on_gridded_data(power: int, sort: str, weighted: bool) -> None:
    """On a grid of step 1 the plans of axis slices come near the tie-splitting ones at the rate exp(-1 / tau)."""
    rng = np.random.default_rng(7)
    x, y = rng.integers(0, 4, (12, 2)), rng.integers(0, 4, (15, 2))
    a, b = (rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(15))) if weighted else (None, None)
    for axis, exact in enumerate(sliced_plans(x, y, np.eye(2), a, b, ties="split")):
        for tau in (0.2, 0.1, 0.05, 0.03):
            soft = soft_line_plan(x[:, axis], y[:, axis], tau, a, b, power=power, sort=sort)
            assert 0 < abs(soft - exact.toarray()).max() < 20 * np.exp(-1 / tau)


@KINDS
@given(problem=line_problems())
def test_flat_limit(power: int, sort: str, problem: Problem) -> None:
    """tau -> infinity forgets the scores: G = a b^T."""
    u, v = (np.sign(part[:, 0]) for part in problem[:2])
    plan = soft_line_plan(u, v, 1e300, problem.a, problem.b, power=power, sort=sort)
    expected = np.outer(filled(problem.a, len(u)), filled(problem.b, len(v)))
    np.testing.assert_allclose(plan, expected, rtol=0, atol=1e-13)


@KINDS
@given(problem=line_problems(), tau=st.sampled_from(TAUS), seed=st.integers(0, 999))
def test_symmetries(power: int, sort: str, problem: Problem, tau: float, seed: int) -> None:
    """Swapping the clouds transposes G, turning both round leaves it, renumbering points renumbers it."""
    u, v = problem.x[:, 0], problem.y[:, 0]
    a, b = filled(problem.a, len(u)), filled(problem.b, len(v))

    def plan(*arguments) -> np.ndarray:
        return soft_line_plan(*arguments, power=power, sort=sort)

    plain, rng = plan(u, v, tau, a, b), np.random.default_rng(seed)
    i, j = rng.permutation(len(u)), rng.permutation(len(v))
    np.testing.assert_allclose(plan(v, u, tau, b, a), plain.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan(-u, -v, tau, a, b), plain, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan(u[i], v[j], tau, a[i], b[j]), plain[np.ix_(i, j)], rtol=0, atol=1e-12)


@KINDS
@given(problem=line_problems(), tau=st.sampled_from(TAUS))
def test_points_without_weight(power: int, sort: str, problem: Problem, tau: float) -> None:
    """A point of weight 0, or below a quantum, takes no part: the others couple as if it were not there."""
    u, v = problem.x[:, 0], problem.y[:, 0]
    plain = soft_line_plan(u, v, tau, problem.a, problem.b, power=power, sort=sort)
    for light in (0.0, 5e-324, 1e-310, 1e-25):
        a = np.append(filled(problem.a, len(u)), light)
        for far in (u[0], 1e150):
            more = soft_line_plan(np.append(u, far), v, tau, a, problem.b, power=power, sort=sort)
            np.testing.assert_allclose(more[:-1], plain, rtol=0, atol=1e-12)
            assert more[-1].max() < 1e-24


@KINDS
@pytest.mark.parametrize("tau", [0.0, 0.05, 0.7, 30.0])
def test_splitting_a_point_splits_its_mass(power: int, sort: str, tau: float) -> None:
    """A point of weight w, written as two of weights w/4 and 3w/4, couples in these parts: G sees measures."""
    u, v, a, b = [0.3, 2.0, 1.0], [5.0, 4.0], [0.25, 0.25, 0.5], [0.375, 0.625]
    whole = soft_line_plan(u, v, tau, a, b, power=power, sort=sort)
    parts = soft_line_plan([*u, 1.0], v, tau, [0.25, 0.25, 0.125, 0.375], b, power=power, sort=sort)
    np.testing.assert_allclose(parts, whole[[0, 1, 2, 2]] * np.array([1, 1, 0.25, 0.75])[:, None], rtol=0, atol=1e-14)


@KINDS
def test_square_uniform(power: int, sort: str) -> None:
    """n = m, uniform: n G = P^T Q, and its marginals are the column sums of P and of Q."""
    u, v = np.random.default_rng(1).standard_normal((2, 30))
    p, q = (soft_permutation(s, 0.2, power=power, sort=sort) for s in (u, v))
    plan = soft_line_plan(u, v, 0.2, power=power, sort=sort)
    np.testing.assert_allclose(30 * plan, p.T @ q, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        30 * plan.sum(axis=1), p.sum(axis=0), rtol=0, atol=1e-12
    )  # balanced rows sum to 1 +- 1e-13
    np.testing.assert_allclose(30 * plan.sum(axis=0), q.sum(axis=0), rtol=0, atol=1e-12)


def test_known_plan() -> None:
    """Two points a side, e = exp(-gap / tau): G = [[1 + e f, e + f], [e + f, 1 + e f]] / (2 (1 + e) (1 + f))."""
    for sort in ("soft", "balanced"):
        plan = soft_line_plan([0, 1], [10, 13], 2.0, sort=sort)
        e, f = np.exp(-0.5), np.exp(-1.5)
        expected = np.array([[1 + e * f, e + f], [e + f, 1 + e * f]]) / (2 * (1 + e) * (1 + f))
        np.testing.assert_allclose(plan, expected, rtol=1e-13)


@KINDS
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@given(problem=problems(scales=(1.0, 3.7)), tau=st.sampled_from([0.0, 0.03, 0.5, 20.0]), beta=st.floats(0, 3))
def test_expected_plan(power: int, sort: str, p: float, problem: Problem, tau: float, beta: float) -> None:
    """G = sum_l w_l G_l, w = softmax(-beta c), c_l = sum_ij |x_i - y_j|^p G_l,ij, loop by loop; cost = <C, G>."""
    x, y, a, b, directions = problem
    got = expected_soft_plan(x, y, directions, tau, a, b, beta=beta, p=p, power=power, sort=sort)
    scored = [[[sum(c * t for c, t in zip(z, theta, strict=True)) for z in cloud] for cloud in (x, y)]
              for theta in directions]  # fmt: skip
    plans = [soft_line_plan(u, v, tau, a, b, power=power, sort=sort) for u, v in scored]
    costs = [oracles.cost(plan, x, y, p) for plan in plans]
    if tau > 0 or len(directions) <= x.shape[1]:  # at tau = 0 in general directions a rounding decides what ties
        np.testing.assert_allclose(got.costs, costs, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got.weights, gibbs_weights(costs, beta), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(got.weights, gibbs_weights(got.costs, beta), rtol=1e-12)
    assert got.cost == pytest.approx(oracles.cost(got.plan, x, y, p), rel=1e-11, abs=1e-12)
    if tau > 0 or len(directions) <= x.shape[1]:
        mixed = sum(w * plan for w, plan in zip(got.weights, plans, strict=True))
        np.testing.assert_allclose(got.plan, mixed, rtol=0, atol=1e-9)


@given(problem=problems(scales=(1e-30, 1.0, 1e30)), beta=st.floats(0, 3), seed=st.integers(0, 999))
def test_expected_hard_limit(problem: Problem, beta: float, seed: int) -> None:
    """tau = 0 is the expected sliced plan with split ties, duplicates in general directions included."""
    rng = np.random.default_rng(seed)
    x = problem.x[rng.integers(0, len(problem.x), 2 * len(problem.x))]  # duplicates, wherever they stand
    beta /= max(np.abs(x).max(), np.abs(problem.y).max(), 1e-100) ** 2
    for sort in ("soft", "balanced"):
        soft = expected_soft_plan(x, problem.y, problem.directions, 0, None, problem.b, beta=beta, power=2, sort=sort)
        exact = expected_sliced_plan(x, problem.y, problem.directions, None, problem.b, beta=beta)
        np.testing.assert_allclose(soft.plan, exact.plan.toarray(), rtol=0, atol=1e-11)
        np.testing.assert_allclose(soft.costs, exact.costs, rtol=1e-11)


def test_duplicates_tie_in_every_direction() -> None:
    """Equal points have the very same score wherever they stand, whatever the dimension: the plan treats them alike."""
    rng = np.random.default_rng(0)
    for n, dim in ((5, 3), (17, 20), (33, 64), (40, 7)):
        which = rng.integers(0, n // 2, n)
        x, y = rng.standard_normal((n, dim))[which], rng.standard_normal((n, dim))
        for tau in (0.0, 1e-300, 1e-14):
            plan = expected_soft_plan(x, y, rng.standard_normal((3, dim)), tau).plan
            np.testing.assert_allclose(plan, plan[[int(np.flatnonzero(which == w)[0]) for w in which]], atol=1e-15)


@pytest.mark.parametrize("power", [1, 2])
def test_length_of_a_direction(power: int) -> None:
    """Directions c theta at c^q tau are directions theta at tau; translating both clouds changes nothing."""
    rng = np.random.default_rng(3)
    x, y, directions = rng.standard_normal((9, 3)), rng.standard_normal((11, 3)), rng.standard_normal((4, 3))
    plain = expected_soft_plan(x, y, directions, 0.3, beta=0.5, power=power)
    longer = expected_soft_plan(x, y, 4 * directions, 0.3 * 4**power, beta=0.5, power=power)
    moved = expected_soft_plan(x + 2, y + 2, directions, 0.3, beta=0.5, power=power)
    np.testing.assert_allclose(longer.plan, plain.plan, rtol=0, atol=1e-15)
    np.testing.assert_allclose(moved.plan, plain.plan, rtol=0, atol=1e-13)


def test_defaults() -> None:
    """The soft sort and the mean over slices, unless something else is asked for."""
    rng = np.random.default_rng(4)
    x, y, directions = rng.standard_normal((6, 2)), rng.standard_normal((5, 2)), rng.standard_normal((3, 2))
    soft = soft_line_plan(x[:, 0], y[:, 0], 0.3, sort="soft")
    np.testing.assert_array_equal(soft_line_plan(x[:, 0], y[:, 0], 0.3), soft)
    mean = expected_soft_plan(x, y, directions, 0.3, beta=0, sort="soft")
    np.testing.assert_array_equal(expected_soft_plan(x, y, directions, 0.3).plan, mean.plan)


def test_forms_of_input() -> None:
    """Lists, ints, float32, read-only and strided arrays are accepted, and nothing is written to."""
    rng = np.random.default_rng(0)
    x, y, directions = rng.integers(0, 4, (6, 2)), rng.integers(0, 4, (5, 2)), np.array([[1, 0], [1, 2]])
    a, b = np.array([0.25, 0.25, 0.125, 0.125, 0.125, 0.125]), np.full(5, 0.2)
    kept = [array.copy() for array in (x, y, directions, a, b)]
    for array in (x, y, directions, a, b):
        array.flags.writeable = False
    for sort in ("soft", "balanced"):
        expected = expected_soft_plan(x, y, directions, 1, a, b, beta=1, sort=sort)
        line = soft_line_plan(x[:, 0], y[:, 0], 1, a, b, sort=sort)
        for left in (x.tolist(), x.astype(np.float32), np.asfortranarray(x, float), np.repeat(x, 2, 0)[::2]):
            got = expected_soft_plan(left, y.tolist(), directions.tolist(), 1, tuple(a), b, beta=1, sort=sort)
            np.testing.assert_array_equal(got.plan, expected.plan)
            column = np.asarray(left)[:, 0]
            np.testing.assert_array_equal(soft_line_plan(column, y[:, 0], 1, a, b, sort=sort), line)
    for array, copy in zip((x, y, directions, a, b), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@KINDS
def test_prior_counts_directions(power: int, sort: str) -> None:
    """A prior in proportion to k_l is the direction l given k_l times: plan, cost and weights."""
    rng = np.random.default_rng(0)
    x, y, directions = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    times = np.array([1, 3, 2])
    for beta in (0.0, 0.5):
        settings = {"beta": beta, "power": power, "sort": sort}
        weighted = expected_soft_plan(x, y, directions, 0.3, prior=times / 6, **settings)
        repeated = expected_soft_plan(x, y, np.repeat(directions, times, axis=0), 0.3, **settings)
        np.testing.assert_allclose(weighted.plan, repeated.plan, rtol=0, atol=1e-14)
        assert weighted.cost == pytest.approx(repeated.cost, rel=1e-13)
        sums = np.add.reduceat(repeated.weights, [0, 1, 4])
        np.testing.assert_allclose(weighted.weights, sums, rtol=1e-12)
    assert abs(weighted.plan - expected_soft_plan(x, y, directions, 0.3, **settings).plan).max() > 1e-4
