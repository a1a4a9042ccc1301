"""Chapter 3: lifted plans and slice costs against loops over points and rational arithmetic."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import oracles
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import sparse
from strategies import Problem, problems

from espref import _ties, est_distance, lift, line, marginal_defect, slice_costs, sliced_plans, transport_cost
from espref.lift import project

POWERS = (1, 1.5, 2, 3)


def moderate(problem: Problem, p: float) -> bool:
    """Whether |x - y|^p stays among the normal floats."""
    size = max(np.abs(problem.x).max(), np.abs(problem.y).max())
    return size == 0 or 1e-280 < size**p < 1e280


@pytest.mark.parametrize("ties", ["split", "first"])
@given(problem=problems())
def test_plans_of_slices(ties: str, problem: Problem) -> None:
    """On an axis, where projections are exact, the lifted plan is the rational plan of that coordinate."""
    dim = problem.x.shape[1]
    for k, plan in enumerate(sliced_plans(problem.x, problem.y, np.eye(dim), problem.a, problem.b, ties=ties)):
        expected = oracles.line_plan(problem.x[:, k], problem.y[:, k], problem.a, problem.b, ties)
        np.testing.assert_allclose(plan.toarray(), expected, rtol=0, atol=2e-15)
        assert plan.data.min() > 0


@pytest.mark.parametrize("ties", ["split", "first"])
@pytest.mark.parametrize("p", POWERS)
@given(problem=problems(scales=(1e-90, 1e-3, 1.0, 1e90)))
def test_costs_agree_with_plans(p: float, ties: str, problem: Problem) -> None:
    """c_theta = sum_ij |x_i - y_j|^p G_ij, entry by entry, for every n, m, weights, ties and scale."""
    assume(moderate(problem, p))
    costs = slice_costs(*problem[:2], problem.directions, problem.a, problem.b, p=p, ties=ties)
    plans = sliced_plans(*problem[:2], problem.directions, problem.a, problem.b, ties=ties)
    expected = [oracles.cost(plan, problem.x, problem.y, p) for plan in plans]
    np.testing.assert_allclose(costs, expected, rtol=1e-12, atol=0)
    np.testing.assert_allclose([transport_cost(g, *problem[:2], p=p) for g in plans], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ties", ["split", "first"])
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1), (3, 2), (64, 64), (65, 40), (700, 700), (700, 300)])
@pytest.mark.parametrize("weighted", [False, True])
def test_costs_in_all_sizes(n: int, m: int, p: float, ties: str, weighted: bool) -> None:
    """Costs agree with sum G * C over dense matrices, in sizes of one and of several pieces of work."""
    rng = np.random.default_rng(n + m)
    x, y = rng.integers(0, 9, (n, 130)).astype(float), rng.integers(0, 9, (m, 130)) + 0.25
    x[:, 0], y[:, 0] = np.sort(rng.standard_normal(n)), rng.standard_normal(m)  # one axis without ties
    a = rng.dirichlet(np.ones(n)) if weighted else None
    b = rng.dirichlet(np.ones(m)) if weighted else None
    directions = np.eye(130)[:3]
    ground = ((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2) ** (p / 2) if n * m < 10_000 else None
    costs = slice_costs(x, y, directions, a, b, p=p, ties=ties)
    for cost, plan in zip(costs, sliced_plans(x, y, directions, a, b, ties=ties), strict=True):
        if ground is None:
            distance = np.sqrt(((x[plan.row] - y[plan.col]) ** 2).sum(axis=1)) if plan.nnz < 20_000 else None
            expected = transport_cost(plan, x, y, p=p) if distance is None else plan.data @ distance**p
        else:
            expected = (plan.toarray() * ground).sum()
        assert cost == pytest.approx(expected, rel=1e-12)


def test_known_slice() -> None:
    """Three points by hand: ranks meet on the first axis, and the cost is measured in the plane."""
    x, y = [[0, 0], [2, 1], [1, 5]], [[10, 0], [30, 0], [20, 0]]
    (plan,) = sliced_plans(x, y, [[1, 0]])
    np.testing.assert_array_equal(plan.toarray() * 3, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(slice_costs(x, y, [[1, 0]]), [(100 + 28**2 + 1 + 19**2 + 25) / 3], rtol=4e-15)


@pytest.mark.parametrize(("a", "b"), [([0, 1], None), ([1, 0], [0.5, 0.5]), ([1e-300, 1], None), ([1e-19, 1], None)])
def test_costs_with_points_without_weight(a: list[float], b: list[float] | None) -> None:
    """All mass on one of two points: as many pieces as points, but not one a point. The cost is that of the one."""
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]])
    only = x[int(np.argmax(a))]
    expected = ((only - y) ** 2).sum() / 2
    np.testing.assert_allclose(slice_costs(x, y, [[1.0]], a, b), [expected], rtol=4e-15)
    np.testing.assert_allclose(slice_costs(y, x, [[1.0]], b, a), [expected], rtol=4e-15)


def test_no_plan_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """slice_costs works where nothing can turn a matching into a plan, and 10^5 tied points cost a moment."""

    def fail(*_: object) -> None:
        raise AssertionError("a plan was built")

    for module, name in ((lift, "coo_array"), (lift, "sparse_plan"), (line, "sparse_plan"), (_ties, "split_ties")):
        monkeypatch.setattr(module, name, fail)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (40, 2)), rng.integers(0, 3, (30, 2))
    for p in POWERS:
        assert np.isfinite(slice_costs(x, y, np.eye(2), p=p)).all()
    z = np.column_stack([np.zeros(100_000), rng.standard_normal(100_000)])  # all tied on the first axis
    w = np.column_stack([np.ones(70_000), rng.standard_normal(70_000) + 2])
    expected = 1 + (z[:, 1].mean() - w[:, 1].mean()) ** 2 + z[:, 1].var() + w[:, 1].var()
    assert slice_costs(z, w, [[1, 0]])[0] == pytest.approx(expected, rel=1e-12)


def test_memory_of_costs() -> None:
    """Memory beyond the input is O(L (n + m)), far below L plans, with and without ties."""
    n, n_slices = 50_000, 32
    rng = np.random.default_rng(0)
    for x in (rng.standard_normal((n, 3)), rng.integers(0, 50, (n, 3)).astype(float)):
        y, directions = x[::-1] + 0.5, rng.standard_normal((n_slices, 3))
        directions[:3] = np.eye(3)
        slice_costs(x[:10], y[:10], directions)
        tracemalloc.start()
        slice_costs(x, y, directions)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        scores = n_slices * 2 * n * 8
        assert peak < 3 * scores  # the scores themselves, and a slice at work on each thread


def test_memory_of_tied_pairs() -> None:
    """p = 1 meets tied classes pair by pair, some at a time: two million pairs in a few MB."""
    x = np.zeros((1500, 2))
    x[:, 1] = np.arange(1500)
    tracemalloc.start()
    cost = slice_costs(x, x, [[1.0, 0.0]], p=1)[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cost == pytest.approx((1500**2 - 1) / (3 * 1500), rel=1e-12)  # mean |i - j|
    assert peak < 10e6


def test_too_many_ties_are_refused_at_once() -> None:
    """Tied slices are refused by the entries of all slices together, before one is built."""
    x = np.zeros((5000, 2))
    x[:, 1] = np.arange(5000)
    assert sliced_plans(x[:50], x[:50], [[1, 0]])[0].nnz == 2500
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^ties: .*75,000,000.*ties='first'.*slice_costs"):
        sliced_plans(x, x, [[1, 0], [2, 0], [3, 0]])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


@given(n=st.integers(1, 300), dim=st.integers(1, 70), slices=st.integers(1, 9), seed=st.integers(0, 999))
def test_equal_points_stay_tied(n: int, dim: int, slices: int, seed: int) -> None:
    """Projections of equal points are equal bit for bit, wherever they stand among the others."""
    rng = np.random.default_rng(seed)
    distinct = rng.standard_normal((4, dim)) * 10.0 ** rng.integers(-8, 8)
    which = rng.integers(0, 4, n)
    scores = project(distinct[which], rng.standard_normal((slices, dim)))
    for k in range(4):
        assert (scores[:, which == k] == scores[:, which == k][:, :1]).all()


def test_equal_points_stay_tied_in_plans() -> None:
    """Two copies of every point, far apart in the numbering, share mass evenly on every direction."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((333, 7))
    x, y = np.concatenate([half, half]), rng.standard_normal((400, 7))
    for plan in sliced_plans(x, y, rng.standard_normal((20, 7))):
        dense = plan.toarray()
        np.testing.assert_array_equal(dense[:333], dense[333:])


@given(problem=problems(), length=st.integers(-900, 900))
def test_length_of_directions(problem: Problem, length: int) -> None:
    """Only where a direction points counts: any length, huge or tiny, gives the same plan."""
    before = sliced_plans(*problem[:2], problem.directions, problem.a, problem.b)
    after = sliced_plans(*problem[:2], problem.directions * 2.0**length, problem.a, problem.b)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.toarray(), other.toarray())


@pytest.mark.parametrize("scale", [2.0**-1074, 2.0**-900, 2.0**-300, 2.0**300, 2.0**1011])
def test_extreme_scales_of_clouds(scale: float) -> None:
    """Positive scaling of a cloud leaves every lifted plan unchanged, from denormals to the largest floats."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(-(2**12), 2**12, (20, 3)).astype(float), rng.standard_normal((15, 3))
    x[:2] = [[4096, 4096, 4096], [4095, 4095, 4095]]
    directions = np.concatenate([rng.standard_normal((10, 3)), np.ones((1, 3)) / 3])
    for one, other in zip(sliced_plans(x, y, directions), sliced_plans(x * scale, y, directions), strict=True):
        np.testing.assert_array_equal(one.toarray(), other.toarray())


def test_scores_beyond_the_floats() -> None:
    """Sums that would overflow still sort; so do directions of very different lengths in one call."""
    for sign in (1, -1):
        x = sign * np.array([[1.7e308] * 3, [1.0] * 3, [1.6e308] * 3])
        (plan,) = sliced_plans(x, [[0.0] * 3, [sign * 1.0] * 3, [sign * 2.0] * 3], np.ones((1, 3)))
        np.testing.assert_array_equal(plan.toarray() * 3, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    rng = np.random.default_rng(5)
    x, y, directions = rng.standard_normal((7, 2)), rng.standard_normal((7, 2)), rng.standard_normal((3, 2))
    lengths = np.array([[1e-300], [1.0], [1e300]])
    for one, other in zip(sliced_plans(x, y, directions), sliced_plans(x, y, lengths * directions), strict=True):
        np.testing.assert_array_equal(one.toarray(), other.toarray())


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_costs_beyond_the_square(scale: float) -> None:
    """|x - y|^p is found where its square over- or underflows but it does not itself."""
    x, y = np.array([[0.0, 0.0], [4.0, 3.0]]) * scale, np.array([[3.0, 4.0], [4.0, -2.0]]) * scale
    np.testing.assert_allclose(slice_costs(x[:1], y[:1], [[1, 0]], p=1), [5 * scale], rtol=1e-14)
    np.testing.assert_allclose(slice_costs(x, y, [[1, 0]], p=1), [(5 + 5) / 2 * scale], rtol=1e-14)
    for y in ([[scale, -1]], [[-1, scale]], [[1, -scale]], [[-scale, 1]]):  # one large coordinate, of either sign
        far = max(scale, 1)
        np.testing.assert_allclose(slice_costs([[0, 0]], y, [[1, 0]], p=1), [far], rtol=1e-14)


def test_overflowing_costs_are_refused() -> None:
    """A cost beyond the floats, or below them, is an error, never inf, nan or 0; the distance itself is right."""
    for x, y, p in (([[1e200]], [[-1e200]], 2), ([[1e308]], [[-1e308]], 1), ([[3.0]], [[0.0]], 1e308)):
        for args in ((x, y), (x * 2, y * 2)):  # alone, and tied
            with pytest.raises(ValueError, match=r"^x, y: .*overflow; rescale"):
                slice_costs(*args, [[1.0]], p=p)
            with pytest.raises(ValueError, match=r"^x, y: .*overflow; rescale"):
                transport_cost(np.full((len(args[0]), len(args[1])), 1.0), *args, p=p)
    for x, p in (([0.5], 1e308), ([0.6, 0.6], 1e5), ([1e-200], 2)):
        clouds = [x], [np.zeros(len(x))], np.eye(1, len(x))
        for args in (clouds, (clouds[0] * 2, clouds[1] * 2, clouds[2])):  # alone, and tied
            with pytest.raises(ValueError, match=r"^x, y: .*underflow; rescale"):
                slice_costs(*args, p=p)
            with pytest.raises(ValueError, match=r"^x, y: .*underflow; rescale"):
                transport_cost(np.full((len(args[0]), len(args[1])), 1.0), *args[:2], p=p)
            assert est_distance(*args, p=p) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert slice_costs([[2.0]], [[2.0]], [[1.0]], p=1e308) == [0]


@pytest.mark.parametrize("p", POWERS)
def test_costs_far_from_the_origin(p: float) -> None:
    """Moving both clouds by the same vector, exactly representable, keeps costs of tied slices to rounding."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (90, 2)).astype(float), rng.integers(0, 4, (70, 2)).astype(float)
    a = rng.dirichlet(np.ones(90))
    directions = [[1, 0], [0, 1], [1, 1]]
    near = slice_costs(x, y, directions, a, p=p)
    far = slice_costs(x + 2.0**40, y + 2.0**40, directions, a, p=p)
    np.testing.assert_allclose(far, near, rtol=1e-12)


def test_cost_of_equal_tied_clouds_is_zero() -> None:
    """Clouds of duplicates only: matched with themselves they cost exactly nothing, wherever they lie."""
    x = np.repeat(np.array([[1e8 + 1 / 3, 0.1], [1e8 + 2 / 3, 0.7]]), 7, axis=0)
    a = np.random.default_rng(0).dirichlet(np.ones(14))
    for p in POWERS:
        np.testing.assert_array_equal(slice_costs(x, x, [[1, 0], [0.3, 1]], a, a, p=p), [0, 0])


@given(problem=problems())
def test_marginals(problem: Problem) -> None:
    """Every lifted plan has marginals a and b, and at most n + m - 1 entries without ties."""
    n, m = len(problem.x), len(problem.y)
    a = np.full(n, 1 / n) if problem.a is None else problem.a
    b = np.full(m, 1 / m) if problem.b is None else problem.b
    for theta, plan in zip(problem.directions, sliced_plans(*problem[:2], problem.directions, a, b), strict=True):
        dense = plan.toarray()
        np.testing.assert_allclose(dense.sum(axis=1), a, rtol=0, atol=4e-15)  # 16 roundings
        np.testing.assert_allclose(dense.sum(axis=0), b, rtol=0, atol=4e-15)
        if len(set(project(problem.x, theta[None])[0])) == n and len(set(project(problem.y, theta[None])[0])) == m:
            assert plan.nnz <= n + m - 1


def test_transport_cost_of_any_plan() -> None:
    """<C, G> of dense and sparse plans, repeated entries added, of integers and without entries."""
    x, y = [[0.0, 0.0], [3.0, 4.0]], [[0.0, 1.0]]
    dense = np.array([[0.25], [0.75]])
    expected = 0.25 * 1 + 0.75 * 18
    for plan in (dense, dense.tolist(), sparse.csr_array(dense), sparse.coo_matrix(dense), sparse.csc_array(dense)):
        assert transport_cost(plan, x, y) == pytest.approx(expected, rel=1e-15)
    twice = sparse.coo_array(([0.5, 0.25, 0.25], ([1, 1, 0], [0, 0, 0])), shape=(2, 1))
    assert transport_cost(twice, x, y) == pytest.approx(expected, rel=1e-15)
    assert transport_cost(sparse.coo_array([[0], [2]]), x, y, p=1) == pytest.approx(2 * 18**0.5)
    assert transport_cost(sparse.coo_array((2, 1)), x, y) == 0


def test_marginal_defect() -> None:
    """The largest |sum - weight| / weight over all points; for weight 0, relative to the mean weight."""
    assert marginal_defect([[0.5, 0.0], [0.0, 0.5]]) == 0
    assert marginal_defect(np.eye(4) / 4) == 0
    assert marginal_defect([[0.3], [0.6]], [0.25, 0.75], [1.0]) == pytest.approx(0.2, rel=1e-12)
    assert marginal_defect([[0.25, 0.5]], [1.0], [0.5, 0.5]) == pytest.approx(0.5)
    assert marginal_defect([[0.1], [0.9]], [0.0, 1.0]) == pytest.approx(0.2)
    repeated = sparse.coo_array(([0.25, 0.25, 0.5], ([0, 0, 1], [0, 0, 1])), shape=(2, 2))
    assert marginal_defect(repeated) == 0
    assert marginal_defect([[0.5], [0.5]], [5e-324, 1.0]) == math.inf  # beyond the floats, and no warning


def test_forms_of_input() -> None:
    """Lists, ints, float32, read-only and strided arrays are accepted, and nothing is written to."""
    rng = np.random.default_rng(0)
    x, y, directions = rng.integers(0, 4, (6, 2)), rng.integers(0, 4, (5, 2)), np.array([[1, 0], [1, 2]])
    a, b = np.array([0.25, 0.25, 0.125, 0.125, 0.125, 0.125]), np.full(5, 0.2)
    kept = [array.copy() for array in (x, y, directions, a, b)]
    expected = slice_costs(x, y, directions, a, b)
    wide = np.zeros((12, 4))
    wide[::2, ::2] = x
    for array in (x, y, directions, a, b, wide):
        array.flags.writeable = False
    for left in (x, x.tolist(), x.astype(np.float32), np.asfortranarray(x, float), wide[::2, ::2], x.astype(np.uint8)):
        for p in (1, 2):
            for ties in ("split", "first"):
                got = slice_costs(left, y, directions, a, b, p=p, ties=ties)
                np.testing.assert_array_equal(got, slice_costs(x, y, directions, a, b, p=p, ties=ties))
        plans = sliced_plans(left, y.tolist(), directions.tolist(), a.tolist(), tuple(b))
        np.testing.assert_allclose([transport_cost(plan, left, y) for plan in plans], expected, rtol=1e-14)
    for array, copy in zip((x, y, directions, a, b), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_chunks_do_not_matter(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are summed some pieces at a time, tied or not: one at a time gives the same."""
    rng = np.random.default_rng(0)
    for x, y in (rng.normal(size=(2, 9, 2)), rng.integers(0, 2, (2, 9, 2)).astype(float)):
        a = rng.dirichlet(np.ones(9))
        whole = slice_costs(x, y, np.eye(2), a, p=p)
        with monkeypatch.context() as patch:
            patch.setattr("espref._costs.CHUNK", 1)
            np.testing.assert_allclose(slice_costs(x, y, np.eye(2), a, p=p), whole, rtol=1e-14)


def test_defect_sees_empty_rows_and_columns() -> None:
    """Points without weight have empty rows or columns, at the end too."""
    plan = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert marginal_defect(sparse.coo_array(plan), [1.0, 0.0], [0.5, 0.5, 0.0]) == 0
