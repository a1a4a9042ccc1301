"""Chapter 4: Gibbs weights, expected and min-sliced plans against sums over slices and exact solvers."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import oracles
import ot
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Problem, problems

from espref import (
    est_distance,
    expected_sliced_plan,
    gibbs_weights,
    max_sliced_wasserstein,
    min_sliced_plan,
    sample_directions,
    slice_costs,
    sliced_plans,
    sliced_wasserstein,
    transport_cost,
)

SCALES = (1e-90, 1.0, 3.7, 1e90)


def dense_mean(weights: np.ndarray, plans: list) -> np.ndarray:
    return sum(w * plan.toarray() for w, plan in zip(weights, plans, strict=True))


@given(
    costs=st.lists(st.floats(0, 50), min_size=1, max_size=6),
    beta=st.floats(0, 20),
    seed=st.none() | st.integers(0, 99),
)
def test_gibbs_definition(costs: list[float], beta: float, seed: int | None) -> None:
    """w_l = pi_l exp(-beta c_l) / sum, term by term."""
    n = len(costs)
    prior = np.full(n, 1 / n) if seed is None else np.random.default_rng(seed).dirichlet(np.ones(n))
    terms = [q * math.exp(-beta * (c - min(costs))) for c, q in zip(costs, prior, strict=True)]
    expected = np.array(terms) / math.fsum(terms)
    weights = gibbs_weights(costs, beta, None if seed is None else prior)
    np.testing.assert_allclose(weights, expected, rtol=1e-12, atol=1e-300)


@given(
    costs=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6),
    beta=st.floats(min_value=0, allow_nan=False),
    zeros=st.integers(0, 2**6 - 1),
)
def test_gibbs_is_always_a_probability(costs: list[float], beta: float, zeros: int) -> None:
    """For all costs and beta in [0, inf]: no NaN, sum 1, zero where the prior is; cheaper slices weigh no less."""
    n = len(costs)
    open_slices = np.array([(zeros >> k) & 1 == 0 for k in range(n)])
    assume(open_slices.any())
    prior = open_slices / open_slices.sum()
    weights = gibbs_weights(costs, beta, prior)
    assert (weights >= 0).all() and not weights[~open_slices].any()
    assert weights.sum() == pytest.approx(1, abs=4e-15)  # 16 roundings
    order = np.argsort(costs)
    assert (np.diff(weights[order][open_slices[order]]) <= 0).all()


@pytest.mark.parametrize(
    ("costs", "beta", "prior", "expected"),
    [
        ([3.0, 1.0, 1.0], math.inf, None, [0, 0.5, 0.5]),
        ([3.0, 1.0, 1.0], math.inf, [0.5, 0.2, 0.3], [0, 0.4, 0.6]),
        ([0.0, 1.0, 1.0], math.inf, [0, 0.25, 0.75], [0, 0.25, 0.75]),  # the cheapest slice has no prior
        ([-5.0, 0.0], math.inf, [0, 1], [0, 1]),
        ([0.0, 5e-324], math.inf, None, [1, 0]),
        ([0.0, 1.0], 1e308, None, [1, 0]),
        ([0.0, 1e-308], 1e308, None, [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]),
        ([0.0, 1e308], 1e-308, None, [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]),
        ([1e300, 1e300], 1e308, None, [0.5, 0.5]),
        ([1.7e308, -1.7e308], 0, None, [0.5, 0.5]),
        ([1.7e308, -1.7e308], 1.0, None, [0, 1]),
        ([0.0, 0.0], 7, [1e-300, 1], [1e-300, 1]),
        ([0.0, 1000.0], 1, [0, 1], [0, 1]),
        ([7.0], math.inf, [1], [1]),
    ],
)
def test_gibbs_extremes(costs: list, beta: float, prior: list | None, expected: list) -> None:
    """Limits and extreme magnitudes, by hand."""
    np.testing.assert_allclose(gibbs_weights(costs, beta, prior), expected, rtol=1e-14, atol=0)


def test_prior_itself_is_not_handed_out() -> None:
    """At beta = 0 the weights equal the prior but are a new array."""
    prior = np.array([0.25, 0.75])
    weights = gibbs_weights([1, 2], 0, prior)
    weights[0] = 9
    assert prior[0] == 0.25


@pytest.mark.parametrize("ties", ["split", "first"])
@pytest.mark.parametrize("p", [1, 2, 3])
@given(problem=problems(scales=(1.0, 3.7)), beta=st.sampled_from([0.0, 0.3, 5.0, 1e308]))
def test_expected_plan(p: float, ties: str, problem: Problem, beta: float) -> None:
    """G_bar = sum_l w_l G_l with w Gibbs of the slice costs; cost = sum_l w_l c_l = <C, G_bar>; no stored zeros."""
    x, y, a, b, directions = problem
    result = expected_sliced_plan(x, y, directions, a, b, beta=beta, p=p, ties=ties)
    plans = sliced_plans(x, y, directions, a, b, ties=ties)
    costs = np.array([oracles.cost(plan, x, y, p) for plan in plans])
    np.testing.assert_allclose(result.costs, costs, rtol=1e-12)
    rounding = 1e-14 + 1e-15 * beta * costs.max()  # of the costs, magnified by beta
    if rounding < 1e-3:
        np.testing.assert_allclose(result.weights, gibbs_weights(result.costs, beta), rtol=rounding)
    else:
        assert costs[result.weights > 0].max() <= costs.min() * (1 + 1e-13) + 750 / beta
    np.testing.assert_allclose(result.plan.toarray(), dense_mean(result.weights, plans), rtol=1e-14, atol=1e-16)
    assert result.cost == pytest.approx(oracles.cost(result.plan, x, y, p), rel=1e-12)
    assert result.plan.data.min() > 0
    assert len(set(zip(result.plan.row.tolist(), result.plan.col.tolist(), strict=True))) == result.plan.nnz
    n, m = len(x), len(y)
    np.testing.assert_allclose(result.plan.sum(axis=1), np.full(n, 1 / n) if a is None else a, rtol=0, atol=4e-15)
    np.testing.assert_allclose(result.plan.sum(axis=0), np.full(m, 1 / m) if b is None else b, rtol=0, atol=4e-15)


@pytest.mark.parametrize("light", [0.0, 1e-300, 0.4 * 2.0**-62])
@pytest.mark.parametrize("flip", [False, True])
def test_points_without_weight(light: float, flip: bool) -> None:
    """As many entries as points, but not one a point: rows of points without weight stay empty."""
    x, y, a = [[0.0], [1.0]], [[3.0], [5.0]], [light, 1.0]
    args = (y, x, [[1.0]], None, a) if flip else (x, y, [[1.0]], a, None)
    result = expected_sliced_plan(*args)
    plan = result.plan.toarray().T if flip else result.plan.toarray()
    np.testing.assert_allclose(plan, [[0, 0], [0.5, 0.5]], rtol=0, atol=1e-18)
    assert result.cost == 10


@pytest.mark.parametrize("weighted", [False, True])
def test_large_marginals(weighted: bool) -> None:
    """Marginals of the mean of slices to 1e-14 of the total mass at n = 10^5, m = 7 * 10^4."""
    n, m = 100_000, 70_000
    rng = np.random.default_rng(0)
    a, b = (
        (rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))) if weighted else (np.full(n, 1 / n), np.full(m, 1 / m))
    )
    x, y = rng.standard_normal((n, 2)), rng.standard_normal((m, 2))
    plan = expected_sliced_plan(x, y, np.eye(2), a, b, beta=0.1).plan
    np.testing.assert_allclose(np.bincount(plan.row, plan.data, minlength=n), a, rtol=1e-13)
    np.testing.assert_allclose(np.bincount(plan.col, plan.data, minlength=m), b, rtol=1e-13)
    assert abs(math.fsum(plan.data) - 1) < 1e-14


def test_uniform_marginals_bit_for_bit() -> None:
    """n = m, uniform, one slice: every marginal of the expected and min-sliced plans is the very float 1/n."""
    n = 99_991
    x, y = np.random.default_rng(0).standard_normal((2, n, 2))
    for plan in (expected_sliced_plan(x, y, [[1, 2]]).plan, min_sliced_plan(x, y, [[1, 2], [0, 1]]).plan):
        assert (np.bincount(plan.row, plan.data) == 1 / n).all() and (np.bincount(plan.col, plan.data) == 1 / n).all()


@pytest.mark.parametrize("ties", ["split", "first"])
@given(problem=problems(scales=SCALES))
def test_min_sliced_plan(ties: str, problem: Problem) -> None:
    """The lifted plan of a direction of least cost, the first within rounding, with its cost and weight 1."""
    x, y, a, b, directions = problem
    result = min_sliced_plan(x, y, directions, a, b, ties=ties)
    costs = slice_costs(x, y, directions, a, b, ties=ties)
    best = int(result.weights.argmax())
    assert costs[best] <= costs.min() * (1 + 1e-13)
    assert (costs[:best] > costs.min()).all()
    np.testing.assert_array_equal(result.costs, costs)
    np.testing.assert_array_equal(result.weights, np.eye(len(directions))[best])
    assert result.cost == costs[best]
    expected = sliced_plans(x, y, directions, a, b, ties=ties)[best]
    np.testing.assert_array_equal(result.plan.toarray(), expected.toarray())
    frozen = expected_sliced_plan(x, y, directions, a, b, beta=math.inf, ties=ties)
    assert frozen.cost == pytest.approx(result.cost, rel=1e-14)


@given(problem=problems(scales=(1.0, 3.7)), p=st.sampled_from([1, 1.5, 2, 3]))
def test_order_of_costs(problem: Problem, p: float) -> None:
    """W_p^p <= min-sliced <= EST(5) <= EST(0.1) <= EST(0), by POT's network simplex."""
    x, y, a, b, directions = problem
    n, m = len(x), len(y)
    exact = ot.emd2(
        np.full(n, 1 / n) if a is None else a, np.full(m, 1 / m) if b is None else b, oracles.all_pairs(x, y, p)
    )
    chain = [exact, min_sliced_plan(x, y, directions, a, b, p=p).cost]
    chain += [expected_sliced_plan(x, y, directions, a, b, p=p, beta=beta).cost for beta in (5, 0.1, 0)]
    assert (np.diff(chain) >= -1e-12 * max(chain[-1], 1e-3)).all()


def test_derivative_in_beta() -> None:
    """d cost / d beta = -Var_w(c), by central differences."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((15, 3)) + 0.5
    directions = rng.standard_normal((10, 3))
    for beta in (0.5, 2.0):
        w, c = expected_sliced_plan(x, y, directions, beta=beta)[2:]
        variance = w @ c**2 - (w @ c) ** 2
        up, down = (expected_sliced_plan(x, y, directions, beta=beta + h).cost for h in (1e-5, -1e-5))
        assert (up - down) / 2e-5 == pytest.approx(-variance, rel=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_one_dimension(p: float) -> None:
    """d = 1: EST = W_p for every beta and direction."""
    rng = np.random.default_rng(1)
    x, y, a, b = rng.standard_normal((9, 1)), rng.standard_normal((6, 1)), *map(rng.dirichlet, (np.ones(9), np.ones(6)))
    wasserstein = ot.emd2(a, b, oracles.all_pairs(x, y, p)) ** (1 / p)
    for beta in (0, 1, math.inf):
        assert est_distance(x, y, [[1], [-3]], a, b, beta=beta, p=p) == pytest.approx(wasserstein, rel=1e-12)


@given(problem=problems(scales=SCALES), beta=st.sampled_from([0.0, 1e-3, math.inf]), p=st.sampled_from([1, 2, 3]))
def test_est_distance(problem: Problem, beta: float, p: float) -> None:
    """EST = (expected cost)^(1/p), the same as by the plan; symmetric at beta = 0."""
    x, y, a, b, directions = problem
    distance = est_distance(x, y, directions, a, b, beta=beta, p=p)
    cost = expected_sliced_plan(x, y, directions, a, b, beta=beta, p=p).cost
    assert distance == pytest.approx(cost ** (1 / p), rel=1e-13)
    assert est_distance(y, x, directions, b, a, beta=0, p=p) == pytest.approx(
        est_distance(x, y, directions, a, b, beta=0, p=p), rel=1e-12
    )


@given(seed=st.integers(0, 999), p=st.sampled_from([1, 1.5, 2]))
def test_triangle_inequality(seed: int, p: float) -> None:
    """EST(mu, rho) <= EST(mu, nu) + EST(nu, rho) at beta = 0, for weighted clouds of different sizes."""
    rng = np.random.default_rng(seed)
    clouds = [(rng.standard_normal((n, 2)), rng.dirichlet(np.ones(n))) for n in rng.integers(1, 6, 3)]
    directions = rng.standard_normal((4, 2))

    def est(i: int, j: int) -> float:
        (x, a), (y, b) = clouds[i], clouds[j]
        return est_distance(x, y, directions, a, b, p=p)

    assert est(0, 2) <= est(0, 1) + est(1, 2) + 1e-12
    assert est(0, 0) < 1e-12


@pytest.mark.parametrize("function", [expected_sliced_plan, min_sliced_plan])
def test_too_many_ties_are_refused(function) -> None:
    """10^5 tied points: no plan, at once, with count and remedy; ties = "first" and the distance go through."""
    x = np.zeros((100_000, 2))
    x[:, 1] = np.arange(100_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^ties: .*10,000,000,000.*ties='first'.*slice_costs"):
        function(x, x, [[1.0, 0.0]])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    assert function(x, x, [[1.0, 0.0]], ties="first").cost == 0
    assert est_distance(x, x, [[1.0, 0.0]]) == pytest.approx(math.sqrt(2) * x[:, 1].std(), rel=1e-12)


def test_ties_of_all_slices_count() -> None:
    """Slices that are each small enough, but too many together, are refused before one is built."""
    x = np.zeros((5000, 2))
    x[:, 1] = np.arange(5000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^ties: .*75,000,000"):
        expected_sliced_plan(x, x, [[1, 0], [2, 0], [3, 0]])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    cheap = expected_sliced_plan(x, x, [[1, 0], [2, 0], [3, 0], [0, 1]], beta=math.inf)  # only one slice has weight
    assert cheap.plan.nnz == 5000 and cheap.cost == 0


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_extreme_scales(scale: float) -> None:
    """Scaling both clouds by s scales EST by s, and beta / s^p leaves the plan."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((6, 3))
    directions = sample_directions(5, 3, rng=0)
    for p in (1, 2):
        far = est_distance(x * scale, y * scale, directions, beta=0.7 / scale**p, p=p)
        assert far == pytest.approx(scale * est_distance(x, y, directions, beta=0.7, p=p), rel=1e-12)
        one = expected_sliced_plan(x * scale, y * scale, directions, beta=0.7 / scale**p, p=p).plan
        other = expected_sliced_plan(x, y, directions, beta=0.7, p=p).plan
        np.testing.assert_allclose(one.toarray(), other.toarray(), rtol=1e-10)


def test_forms_of_input() -> None:
    """Lists, ints, float32, read-only and strided arrays are accepted, and nothing is written to."""
    rng = np.random.default_rng(0)
    x, y, directions = rng.integers(0, 4, (6, 2)), rng.integers(0, 4, (5, 2)), np.array([[1, 0], [1, 2]])
    a, b, prior = np.array([0.25, 0.25, 0.125, 0.125, 0.125, 0.125]), np.full(5, 0.2), np.array([0.5, 0.5])
    given_arrays = (x, y, directions, a, b, prior)
    kept = [array.copy() for array in given_arrays]
    for array in given_arrays:
        array.flags.writeable = False
    strided = np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2]
    expected = expected_sliced_plan(x, y, directions, a, b, prior=prior, beta=np.int8(1))
    for left in (x.tolist(), x.astype(np.float32), np.asfortranarray(x), strided):
        got = expected_sliced_plan(left, y.tolist(), directions.tolist(), list(a), tuple(b), prior=[0.5, 0.5], beta=1)
        np.testing.assert_array_equal(got.plan.toarray(), expected.plan.toarray())
        np.testing.assert_array_equal(got.costs, expected.costs)
        assert min_sliced_plan(left, y, directions, a, b).cost == expected.costs.min()
        distance = est_distance(left, y, directions, a, b, beta=np.array(1.0), p=np.float32(2))
        assert distance**2 == pytest.approx(expected.cost)
    for array, copy in zip(given_arrays, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert isinstance(expected.cost, float)
    assert transport_cost(expected.plan, x, y) == pytest.approx(expected.cost)


def test_the_mean_is_the_default() -> None:
    """Without beta every slice counts the same, in the distance too."""
    x, y, directions = np.random.default_rng(0).normal(size=(3, 6, 2))
    plain = est_distance(x, y, directions)
    assert plain == est_distance(x, y, directions, beta=0.0) > est_distance(x, y, directions, beta=1.0)


@given(problem=problems(scales=(1.0,)), p=st.sampled_from([1, 2, 3]))
def test_sliced_wasserstein(problem: Problem, p: float) -> None:
    """POT's sliced and max-sliced distances on the same unit directions; at most the EST distance on these slices."""
    x, y, a, b, directions = problem
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    weights = {name: value for name, value in (("a", a), ("b", b)) if value is not None}
    shared = {"projections": units.T, "p": p, **weights}
    got = sliced_wasserstein(x, y, directions, a, b, p=p)
    assert got == pytest.approx(ot.sliced_wasserstein_distance(x, y, **shared), rel=1e-9, abs=1e-9)
    most = max_sliced_wasserstein(x, y, directions, a, b, p=p)
    assert most == pytest.approx(ot.max_sliced_wasserstein_distance(x, y, **shared), rel=1e-9, abs=1e-9)
    assert got <= est_distance(x, y, directions, a, b, p=p) * (1 + 1e-12) and got <= most * (1 + 1e-12)


def test_a_common_shift_changes_no_choice() -> None:
    """p = 2: moving one cloud far away leaves every Gibbs weight and the cheapest slice as they were."""
    x, y = np.array([[0.0, 0.0], [1.0, 3.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    near = expected_sliced_plan(x, y, np.eye(2), beta=1)
    for shift in (1e4, 1e9, 1.7e12):
        far = expected_sliced_plan(x, y + [shift, 0], np.eye(2), beta=1)
        np.testing.assert_allclose(far.weights, near.weights, rtol=1e-3 if shift > 1e9 else 1e-6)
        assert min_sliced_plan(x, y + [shift, 0], np.eye(2)).weights.tolist() == [0, 1]


def test_equally_cheap_slices_share() -> None:
    """Costs that differ by rounding only are equal: three cyclic shifts on the axes weigh 1/3 each at beta = inf."""
    for values in ((0.4, 0.7, 0.5), (0.7, 0.9, 0.4)):
        x = np.array([np.roll(values, k) for k in range(3)])
        y = np.array([np.roll(values[::-1], k) for k in range(3)])
        weights = expected_sliced_plan(x, y, np.eye(3), beta=np.inf).weights
        np.testing.assert_allclose(weights, 1 / 3, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.7, np.inf])
def test_distances_beyond_the_floats(beta: float) -> None:
    """EST scales with the clouds although the costs |x - y|^p do not fit a float."""
    rng = np.random.default_rng(3)
    x, y, directions = rng.normal(size=(7, 2)), rng.normal(size=(7, 2)), rng.normal(size=(5, 2))
    for p, scale in ((150, 2.0**-10), (150, 2.0**10), (2, 2.0**-600), (3, 2.0**400)):
        if 0 < beta < np.inf:
            continue  # beta is in units of 1 / length^p, which does not fit either
        plain = est_distance(x, y, directions, p=p, beta=beta)
        assert est_distance(scale * x, scale * y, directions, p=p, beta=beta) == pytest.approx(scale * plain, rel=1e-10)
