"""Chapter 1: the plan on the line against rational arithmetic, linear programs and assignments."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import oracles
import ot
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from strategies import Problem, line_problems

from espref import est_distance, line_cost, line_plan, line_potentials, line_quantile, transport_cost
from espref._quanta import balanced_total, quantise, reconcile
from espref._ties import MAX_ENTRIES
from espref.line import monotone_pieces


def marginals(plan):
    n, m = plan.shape
    return np.bincount(plan.row, plan.data, minlength=n), np.bincount(plan.col, plan.data, minlength=m)


@pytest.mark.parametrize("ties", ["split", "first"])
@given(problem=line_problems())
def test_definition(ties: str, problem: Problem) -> None:
    """G_ij = a_i b_j / (A(U_i) B(V_j)) Lambda(U_i, V_j), by intervals of mass in rational arithmetic."""
    u, v = problem.x[:, 0], problem.y[:, 0]
    plan = line_plan(u, v, problem.a, problem.b, ties=ties)
    np.testing.assert_allclose(plan.toarray(), oracles.line_plan(u, v, problem.a, problem.b, ties), rtol=0, atol=2e-15)


@given(problem=line_problems())
def test_no_stored_zeros_and_marginals(problem: Problem) -> None:
    """G > 0 where stored, each entry once, G 1 = a, G^T 1 = b."""
    n, m = len(problem.x), len(problem.y)
    plan = line_plan(problem.x[:, 0], problem.y[:, 0], problem.a, problem.b)
    assert plan.data.min() > 0
    assert len(set(zip(plan.row.tolist(), plan.col.tolist(), strict=True))) == plan.nnz
    rows, cols = marginals(plan)
    a = np.full(n, 1 / n) if problem.a is None else problem.a
    b = np.full(m, 1 / m) if problem.b is None else problem.b
    np.testing.assert_allclose(rows, a, rtol=0, atol=4e-15)  # 16 roundings
    np.testing.assert_allclose(cols, b, rtol=0, atol=4e-15)


@given(n=st.integers(1, 40), m=st.integers(1, 40), seed=st.integers(0, 1000))
def test_uniform_ranks(n: int, m: int, seed: int) -> None:
    """Uniform weights, no ties: entry of ranks (i, j) is the length of [i/n, (i+1)/n] meeting [j/m, (j+1)/m]."""
    rng = np.random.default_rng(seed)
    u, v = rng.permutation(n), rng.permutation(m)
    i, j = u[:, None], v[None, :]
    overlap = np.minimum((i + 1) * m, (j + 1) * n) - np.maximum(i * m, j * n)  # in units of 1 / (n m), whole numbers
    plan = line_plan(u, v)
    np.testing.assert_allclose(plan.toarray(), np.maximum(overlap, 0) / (n * m), rtol=4e-16, atol=0)
    assert plan.nnz == n + m - np.gcd(n, m)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("ties", ["split", "first"])
def test_optimal(p: float, ties: str) -> None:
    """The plan costs what a linear program, POT on the line, and (uniform n = m) an assignment find, ties included."""
    rng = np.random.default_rng(5)
    for n, m, tied, uniform in [(9, 9, False, True), (9, 9, True, True), (7, 12, True, False), (12, 5, False, False)]:
        u, v = rng.standard_normal(n), rng.standard_normal(m) + 0.3
        if tied:
            u, v = u.round(), v.round()
        a = np.full(n, 1 / n) if uniform else rng.dirichlet(np.ones(n))
        b = np.full(m, 1 / m) if uniform else rng.dirichlet(np.ones(m))
        ground = oracles.all_pairs(u[:, None], v[:, None], p)
        cost = float((line_plan(u, v, a, b, ties=ties).toarray() * ground).sum())
        assert cost == pytest.approx(ot.emd2(a, b, ground), rel=1e-12, abs=1e-14)
        metric = {"metric": "minkowski", "p": p}
        assert cost == pytest.approx(ot.emd2_1d(u, v, a, b, **metric), rel=1e-12, abs=1e-14)
        if uniform:
            assert cost == pytest.approx(ground[linear_sum_assignment(ground)].sum() / n, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("n", [1, 3, 10, 49, 1000, 99_991, 100_000])
def test_uniform_marginals_bit_for_bit(n: int) -> None:
    """n = m, uniform, no ties: G = (1/n) permutation, every marginal the very float 1/n."""
    rng = np.random.default_rng(n)
    u, v = rng.permutation(n), rng.standard_normal(n)
    for weights in (None, np.full(n, 1 / n)):
        plan = line_plan(u, v, weights, weights)
        assert plan.nnz == n
        assert all((sums == 1 / n).all() for sums in marginals(plan))


@pytest.mark.parametrize(
    ("n", "m", "uniform"), [(100_000, 99_991, True), (100_000, 100_000, False), (100_000, 63, False)]
)
@pytest.mark.parametrize("tied", [False, True])
def test_large_marginals(n: int, m: int, uniform: bool, tied: bool) -> None:
    """Marginals at n = 10^5 to rounding of each weight: 1e-12 of it, however light the point."""
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal(n), rng.standard_normal(m)
    if tied:
        u, v = u.round(4), v.round(4)
    a = None if uniform else rng.dirichlet(np.full(n, 0.3))
    b = None if uniform else rng.dirichlet(np.full(m, 0.3))
    plan = line_plan(u, v, a, b)
    rows, cols = marginals(plan)
    np.testing.assert_allclose(rows, 1 / n if a is None else a, rtol=1e-12)
    np.testing.assert_allclose(cols, 1 / m if b is None else b, rtol=1e-12)
    assert plan.data.min() > 0
    assert plan.nnz >= max(n if a is None else 1, m if b is None else 1)
    if not tied:
        assert plan.nnz <= n + m - 1


@given(problem=line_problems(), seed=st.integers(0, 100))
def test_function_of_the_measures(problem: Problem, seed: int) -> None:
    """The tie-splitting plan only depends on the measures: renumbering the points renumbers the plan."""
    u, v = problem.x[:, 0], problem.y[:, 0]
    rng = np.random.default_rng(seed)
    i, j = rng.permutation(len(u)), rng.permutation(len(v))
    plan = line_plan(u, v, problem.a, problem.b).toarray()
    a = None if problem.a is None else problem.a[i]
    b = None if problem.b is None else problem.b[j]
    np.testing.assert_allclose(line_plan(u[i], v[j], a, b).toarray(), plan[np.ix_(i, j)], rtol=0, atol=1e-15)


def test_splitting_a_point_splits_its_mass() -> None:
    """A point of weight w, written as two equal points of weights s w and (1 - s) w, couples in these parts."""
    u, v, a, b = [0.3, 2.0, 1.0], [5.0, 4.0], [0.25, 0.25, 0.5], [0.375, 0.625]
    whole = line_plan(u, v, a, b).toarray()
    parts = line_plan([0.3, 2.0, 1.0, 1.0], v, [0.25, 0.25, 0.125, 0.375], b).toarray()
    np.testing.assert_array_equal(parts, whole[[0, 1, 2, 2]] * np.array([1, 1, 0.25, 0.75])[:, None])


@given(problem=line_problems())
def test_increasing_maps_change_nothing(problem: Problem) -> None:
    """Only the order counts: u -> rank class of u gives the same plan, bit for bit."""
    u, v = problem.x[:, 0], problem.y[:, 0]
    ranks = [np.unique(values, return_inverse=True)[1] ** 3 - 5 for values in (u, v)]
    before, after = line_plan(u, v, problem.a, problem.b), line_plan(*ranks, problem.a, problem.b)
    np.testing.assert_array_equal(before.toarray(), after.toarray())


@pytest.mark.parametrize(("n", "m"), [(1, 40), (40, 1), (500, 300), (7, 700), (1000, 1000)])
def test_pieces_stay_within_both_clouds(n: int, m: int) -> None:
    """Many ends of source and target at one place: no piece lies behind the last point, and the masses are right."""
    source, target, mass = monotone_pieces(np.full((1, n), m), np.full((1, m), n))
    assert source.max() == n - 1 and target.max() == m - 1
    np.testing.assert_array_equal(np.bincount(source, mass), m)
    np.testing.assert_array_equal(np.bincount(target, mass), n)


def test_first_keeps_input_order() -> None:
    """ties = "first" matches equal values in their input order, with at most n + m - 1 entries."""
    plan = line_plan([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], ties="first")
    np.testing.assert_array_equal(plan.toarray(), np.eye(3) / 3)
    big = line_plan(np.zeros(100_000), np.zeros(70_000), ties="first")
    assert big.nnz <= 169_999


def test_signed_zero_and_denormals() -> None:
    """0.0 and -0.0 are one value; the two smallest positive floats are two."""
    np.testing.assert_array_equal(line_plan([0.0, -0.0], [1.0, 2.0]).toarray(), np.full((2, 2), 0.25))
    np.testing.assert_array_equal(line_plan([1e-323, 5e-324], [1.0, 2.0]).toarray(), [[0, 0.5], [0.5, 0]])


@pytest.mark.parametrize("light", [0.0, 1e-300, 1e-40, 6e-20, 3e-19, 1e-15])
def test_light_points_keep_their_mass(light: float) -> None:
    """Rows and columns sum to their points' weights, to rounding relative to each; zero weights take no part."""
    plan = line_plan([0.0, 1.0], [3.0, 5.0], [light, 1.0]).toarray()
    np.testing.assert_allclose(plan, [[light, 0], [0.5, 0.5]], rtol=1e-13, atol=0)
    rows, cols = marginals(line_plan([0.0, 0.0, 1.0], [3.0, 5.0, 5.0], [light, 0.5, 0.5], [0.25, light, 0.75]))
    np.testing.assert_allclose(rows, [light, 0.5, 0.5], rtol=1e-13, atol=0)
    np.testing.assert_allclose(cols, [0.25, light, 0.75], rtol=1e-13, atol=0)


def test_a_light_point_far_away_counts() -> None:
    """(0, 1e12) with weights (1, w) against 0: the cost is 1e24 w, however small w is."""
    for light in (1e-15, 1e-18, 1e-19, 1e-40):
        assert line_cost([0.0, 1e12], [0.0], [1.0, light]) == pytest.approx(1e24 * light, rel=1e-12)


@given(problem=line_problems(), seed=st.integers(0, 99), p=st.sampled_from([1, 2, 10, 150]))
def test_equal_measures_are_at_distance_zero(problem: Problem, seed: int, p: float) -> None:
    """A measure against itself costs exactly 0, its points renumbered, merged where equal, or split."""
    rng, u = np.random.default_rng(seed), problem.x[:, 0]
    weights = np.full(len(u), 1 / len(u)) if problem.a is None else problem.a
    order = rng.permutation(len(u))
    assert line_cost(u, u[order], weights, weights[order], p=p) == 0
    values, place = np.unique(u, return_inverse=True)
    merged = np.bincount(place.ravel(), weights)
    assert line_cost(u, values, weights, merged, p=p) == 0
    share = rng.uniform(0.2, 0.8, size=len(u))
    split = np.concatenate([share * weights, (1 - share) * weights])
    assert line_cost(np.concatenate([u, u]), u, split / split.sum(), weights, p=p) == 0


@pytest.mark.parametrize("n", [10, 1000, 20_000])
def test_a_cloud_against_its_counts(n: int) -> None:
    """n points on few values, each of weight 1/n, against the distinct values with counts / n: distance 0."""
    u = np.random.default_rng(n).integers(0, 7, size=n).astype(float)
    values, counts = np.unique(u, return_counts=True)
    plan = line_plan(u, values, b=counts / n)
    assert (u[plan.row] == values[plan.col]).all()
    np.testing.assert_allclose(marginals(plan)[1], counts / n, rtol=1e-12)


@pytest.mark.parametrize("n", [10, 1000])
def test_reconciling_moves_rounding_only(n: int) -> None:
    """Ends that agree within rounding become equal; every weight moves by rounding, and the total not at all."""
    rng = np.random.default_rng(n)
    a = rng.dirichlet(np.ones(n))
    b = a * (1 + 1e-16 * rng.choice([-1, 0, 1], size=n))
    quanta = quantise(a, b)
    source, target = (balanced_total(side, quanta.total) for side in (quanta.source, quanta.target))
    moved = reconcile(source, target, quanta.slack)
    assert (moved == source).all()
    other = rng.dirichlet(np.ones(n))  # nothing agrees: nothing is moved
    quanta = quantise(a, other)
    source, target = (balanced_total(side, quanta.total) for side in (quanta.source, quanta.target))
    assert (reconcile(source, target, quanta.slack) == target).all()


def test_too_many_ties_are_refused_at_once() -> None:
    """10^5 tied points a side would spread over 10^10 entries: refused with the count and the remedy, unbuilt."""
    u = np.zeros(100_000)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"^ties: .*10,000,000,000.*ties='first'.*slice_costs"):
        line_plan(u, u)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert seconds < 2
    assert MAX_ENTRIES < 10**10


@pytest.mark.parametrize("slack", [0.0, 9e-10, -9e-10])
def test_weights_are_renormalised(slack: float) -> None:
    """Weights that sum to 1 within 1e-9 are scaled to sum 1; a plan has mass 1."""
    plan = line_plan([0.0, 1.0], [0.0, 1.0, 2.0], [0.25, 0.75 + slack], [0.5, 0.25, 0.25])
    assert plan.sum() == pytest.approx(1, abs=1e-15)


def test_forms_of_input() -> None:
    """Lists, ints, float32, booleans, read-only and strided arrays are accepted, and nothing is written to."""
    expected = line_plan([3.0, 1.0, 2.0], [0.0, 5.0], [0.5, 0.25, 0.25], [0.25, 0.75]).toarray()
    u = np.array([3, 9, 1, 9, 2, 9])[::2]
    v = np.array([5, 0], dtype=np.float32)[::-1]
    a = np.array([0.5, 0.25, 0.25], dtype=np.float16)
    u.flags.writeable = a.flags.writeable = False
    for left, weights in ((u, a), (u.tolist(), a.tolist()), (tuple(u), tuple(a))):
        for right in (v, v.tolist(), v.astype(bool) * 5):
            np.testing.assert_array_equal(line_plan(left, right, weights, [0.25, 0.75]).toarray(), expected)
    assert u.tolist() == [3, 1, 2] and a.tolist() == [0.5, 0.25, 0.25] and v.tolist() == [0, 5]
    third = np.full(3, 1 / 3, dtype=np.float32)  # sums to 1 in its own precision only
    assert line_plan([1, 2, 3], [1, 2, 3], third, third).sum() == pytest.approx(1, abs=1e-15)


@given(problem=line_problems())
def test_cost_is_that_of_the_plan(problem: Problem) -> None:
    """W_p^p = sum_ij |u_i - v_j|^p G_ij for the monotone plan, ties split or not, and the p-th power of the distance
    on the line."""
    x, y, a, b, directions = problem
    u, v = x[:, 0], y[:, 0]
    for p in (1, 1.5, 2):
        cost = line_cost(u, v, a, b, p=p)
        for ties in ("split", "first"):
            plan = line_plan(u, v, a, b, ties=ties)
            assert cost == pytest.approx(transport_cost(plan, x, y, p=p), rel=1e-12, abs=1e-300)
        assert cost ** (1 / p) == pytest.approx(est_distance(x, y, directions, a, b, p=p), rel=1e-12, abs=1e-150)


@given(n=st.integers(1, 30), m=st.integers(1, 30), seed=st.integers(0, 1000), tied=st.booleans())
def test_cost_agrees_with_other_libraries(n: int, m: int, seed: int, tied: bool) -> None:
    """W_1 is SciPy's Wasserstein distance; W_p^p is POT's, by quantile functions and as a linear program."""
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=n), 1 + 2 * rng.normal(size=m)
    if tied:
        u, v = u.round(), v.round()
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    assert line_cost(u, v, a, b, p=1) == pytest.approx(wasserstein_distance(u, v, a, b), rel=1e-11, abs=1e-13)
    assert line_cost(u, v, p=1) == pytest.approx(wasserstein_distance(u, v), rel=1e-11, abs=1e-13)
    for p in (1, 2, 3):
        cost = line_cost(u, v, a, b, p=p)
        assert cost == pytest.approx(float(ot.wasserstein_1d(u, v, a, b, p=p)), rel=1e-10, abs=1e-12)
        assert cost == pytest.approx(ot.emd2_1d(u, v, a, b, metric="minkowski", p=p), rel=1e-10, abs=1e-12)


def test_known_cost() -> None:
    """0 goes to 3, and 1 to 5: the mean of 3^p and 4^p. The default is the squared cost; equal clouds cost nothing."""
    for p in (1, 2, 3):
        assert line_cost([1, 0], [3, 5], p=p) == pytest.approx((3**p + 4**p) / 2, rel=1e-15)
    assert line_cost([1, 0], [3, 5]) == 12.5
    assert line_cost([2.0, 1.0, 1.0], [1.0, 2.0, 1.0]) == 0


def test_cost_that_overflows() -> None:
    """An error that names the remedy, not infinity; the distance of the same points is finite for p = 1."""
    assert line_cost([-1e200], [1e200], p=1) == 2e200
    with pytest.raises(ValueError, match=r"^u, v: .* finite, got an overflow; rescale the points"):
        line_cost([-1e200], [1e200])


@given(problem=line_problems(), p=st.sampled_from([1, 1.5, 2, 3]))
def test_potentials_certify_the_plan(problem: Problem, p: float) -> None:
    """f_i + g_j <= |u_i - v_j|^p everywhere, and a f + b g is the cost: no plan is cheaper."""
    u, v = problem.x[:, 0], problem.y[:, 0]
    a = np.full(len(u), 1 / len(u)) if problem.a is None else problem.a
    b = np.full(len(v), 1 / len(v)) if problem.b is None else problem.b
    f, g = line_potentials(u, v, a, b, p=p)
    cost = np.abs(u[:, None] - v) ** p
    assert (f[:, None] + g - cost).max() <= 1e-13 * max(cost.max(), 1e-300) * len(f)
    assert a @ f + b @ g == pytest.approx(line_cost(u, v, a, b, p=p), rel=1e-9, abs=1e-12 * cost.max())


@given(problem=line_problems(), levels=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantile_function(problem: Problem, levels: list[float]) -> None:
    """F^{-1}(t) is the least point at which the cumulative weight reaches t; NumPy's inverted CDF if uniform."""
    u, a = problem.x[:, 0], problem.a
    found = line_quantile(u, levels, a)
    weights = np.full(len(u), 1 / len(u)) if a is None else a
    for t, value in zip(levels, found, strict=True):
        assert weights[u <= value].sum() >= t - 1e-12
        assert weights[u < value].sum() <= max(t, 0) + 1e-12
    if a is None:
        np.testing.assert_array_equal(line_quantile(u, [0.3, 0.77]), np.quantile(u, [0.3, 0.77], method="inverted_cdf"))


@given(problem=line_problems())
def test_bottleneck(problem: Problem) -> None:
    """p = inf is the largest distance of the plan, and the limit of the p-th roots."""
    u, v = problem.x[:, 0], problem.y[:, 0]
    plan = line_plan(u, v, problem.a, problem.b, ties="first")
    largest = np.abs(u[plan.row] - v[plan.col]).max()
    assert line_cost(u, v, problem.a, problem.b, p=np.inf) == largest
