"""POT behind the conventions of the package, checked against assignments, closed forms and loops."""

from __future__ import annotations

import math
import sys

import numpy as np
import oracles
import ot
import pytest
from hypothesis import given
from scipy.optimize import linear_sum_assignment
from strategies import Problem, problems

from espref import expected_sliced_plan, line_plan, solvers


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@given(problem=problems(scales=(1e-90, 1.0, 1e90)))
def test_ground_cost(p: float, problem: Problem) -> None:
    """C_ij = |x_i - y_j|^p, one pair at a time."""
    expected = oracles.all_pairs(problem.x, problem.y, p)
    np.testing.assert_allclose(solvers.ground_cost(*problem[:2], p=p), expected, rtol=1e-13)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_exact_is_an_assignment(p: float) -> None:
    """n = m, uniform: exact transport costs what the best assignment costs."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 12, 3))
    ground = oracles.all_pairs(x, y, p)
    result = solvers.exact_plan(x, y, p=p)
    assert result.cost == pytest.approx(ground[linear_sum_assignment(ground)].mean(), rel=1e-12)
    assert result.cost == pytest.approx((result.plan * ground).sum(), rel=1e-12)


def test_exact_on_the_line() -> None:
    """d = 1, weighted, p > 1: the optimal plan is the monotone one."""
    rng = np.random.default_rng(1)
    x, y, a, b = rng.standard_normal((9, 1)), rng.standard_normal((7, 1)), *map(rng.dirichlet, (np.ones(9), np.ones(7)))
    expected = line_plan(x[:, 0], y[:, 0], a, b).toarray()
    np.testing.assert_allclose(solvers.exact_plan(x, y, a, b).plan, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-80, 1e-8, 1e8, 1e80])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_exact_at_any_scale(p: float, scale: float) -> None:
    """The unit of length does not matter: W_p(c x, c y) = c W_p(x, y), with the same plan."""
    x, y = np.random.default_rng(2).standard_normal((2, 15, 3))
    plain, scaled = solvers.exact_plan(x, y, p=p), solvers.exact_plan(scale * x, scale * y, p=p)
    assert np.array_equal(plain.plan, scaled.plan)
    assert scaled.cost ** (1 / p) == pytest.approx(scale * plain.cost ** (1 / p), rel=1e-12)


@given(problem=problems(scales=(1.0,)))
def test_exact_marginals_and_bound(problem: Problem) -> None:
    """The exact plan has marginals a and b, and costs at most any sliced plan."""
    x, y, a, b, directions = problem
    result = solvers.exact_plan(x, y, a, b)
    n, m = len(x), len(y)
    np.testing.assert_allclose(result.plan.sum(axis=1), np.full(n, 1 / n) if a is None else a, rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.plan.sum(axis=0), np.full(m, 1 / m) if b is None else b, rtol=0, atol=1e-14)
    assert result.cost <= expected_sliced_plan(x, y, directions, a, b).cost + 1e-12


@pytest.mark.parametrize("reg", [0.2, 1.0, 1e6])
def test_sinkhorn_fixed_point(reg: float) -> None:
    """The plan is diag(f) exp(-C / reg) diag(g) with marginals a and b, a b^T as reg grows; zero weights stay empty."""
    rng = np.random.default_rng(0)
    x, y, a = rng.standard_normal((6, 2)), rng.standard_normal((5, 2)), np.array([0.3, 0.2, 0.1, 0.2, 0.2, 0.0])
    result = solvers.sinkhorn_plan(x, y, reg, a)
    np.testing.assert_allclose(result.plan.sum(axis=1), a, rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.plan.sum(axis=0), np.full(5, 0.2), rtol=0, atol=1e-9)
    scaling = np.log(result.plan[:5]) + oracles.all_pairs(x, y, 2)[:5] / reg  # of rank one, up to constants
    centred = scaling - scaling.mean(axis=0) - scaling.mean(axis=1, keepdims=True) + scaling.mean()
    np.testing.assert_allclose(centred, 0, rtol=0, atol=1e-8)
    assert result.cost == pytest.approx(oracles.cost(result.plan, x, y, 2), rel=1e-12)
    if reg == 1e6:
        np.testing.assert_allclose(result.plan, np.outer(a, np.full(5, 0.2)), rtol=0, atol=1e-5)


def test_sinkhorn_tends_to_exact() -> None:
    """Its cost falls towards the exact cost as reg falls, and never below."""
    x, y = np.random.default_rng(0).standard_normal((2, 8, 2))
    exact = solvers.exact_plan(x, y).cost
    costs = [solvers.sinkhorn_plan(x, y, reg).cost for reg in (10, 1, 0.1, 0.03)]
    assert (np.diff(costs) < 0).all()
    assert exact - 1e-9 <= costs[-1] < 1.05 * exact


@pytest.mark.parametrize(("reg", "n_iter"), [(0.01, 1), (1e-300, 10), (1e-3, 20)])
def test_sinkhorn_refuses_what_is_no_plan(reg: float, n_iter: int) -> None:
    """Too few iterations, or a reg the floats cannot carry: an error with mass and remedy, not a wrong plan."""
    x, y = np.random.default_rng(0).standard_normal((2, 20, 2))
    a = np.random.default_rng(1).dirichlet(np.ones(20))
    with pytest.raises(RuntimeError, match=r"^sinkhorn_plan: mass .* after \d+ iterations; raise reg or n_iter$"):
        solvers.sinkhorn_plan(x, y, reg, a, n_iter=n_iter)


@pytest.mark.parametrize("n", [7, 13, 14, 20])
@pytest.mark.parametrize("m", [7, 11])
def test_pot_slices_with_right_costs(n: int, m: int) -> None:
    """POT's slices, averaged with recomputed costs, are ours: uniform (where its own costs are wrong) and weighted."""
    rng = np.random.default_rng(n + m)
    directions = rng.standard_normal((6, 3))
    for weighted in (False, True):
        x, y = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
        a, b = (rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))) if weighted else (None, None)
        for beta in (0.0, 1.0, math.inf):
            theirs = solvers.pot_expected_sliced_plan(x, y, directions, a, b, beta=beta)
            ours = expected_sliced_plan(x, y, directions, a, b, beta=beta)
            np.testing.assert_allclose(theirs.costs, ours.costs, rtol=1e-12)
            np.testing.assert_allclose(theirs.plan, ours.plan.toarray(), rtol=0, atol=1e-12)
            assert theirs.cost == pytest.approx(ours.cost, rel=1e-12)


def test_pot_slices_with_ties() -> None:
    """With ties POT keeps some optimal plan of the line: the projections cost the same, the points need not."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (12, 2)), rng.integers(0, 3, (9, 2))
    plan = solvers.pot_expected_sliced_plan(x, y, [[1.0, 0.0]]).plan
    line = line_plan(x[:, 0], y[:, 0]).toarray()
    ground = oracles.all_pairs(x[:, :1], y[:, :1], 2)
    assert (plan * ground).sum() == pytest.approx((line * ground).sum(), rel=1e-12)
    assert np.count_nonzero(plan) <= 20 < np.count_nonzero(line)


def test_overflowing_costs_are_refused() -> None:
    """A ground cost beyond the floats is an error that names the points, with no warning on the way."""
    x, y = [[1e200], [0.0]], [[-1e200], [1.0]]
    for call in (
        lambda: solvers.ground_cost(x, y),
        lambda: solvers.exact_plan(x, y),
        lambda: solvers.sinkhorn_plan(x, y, 1.0),
    ):
        with pytest.raises(ValueError, match=r"^x, y: .*overflow; rescale"):
            call()
    assert solvers.exact_plan(x, y, p=1).cost == pytest.approx(1e200)


def test_unfinished_simplex_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where POT warns that it stopped early, exact_plan raises."""
    solve = ot.emd
    monkeypatch.setattr(ot, "emd", lambda *args, **options: (solve(*args, **options)[0], {"warning": "stopped early"}))
    with pytest.raises(RuntimeError, match=r"^exact_plan: stopped early$"):
        solvers.exact_plan([[0.0]], [[1.0]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: solvers.exact_plan([[0.0]], [[1.0]]),
        lambda: solvers.sinkhorn_plan([[0.0]], [[1.0]], 1.0),
        lambda: solvers.pot_expected_sliced_plan([[0.0]], [[1.0]], [[1.0]]),
    ],
)
def test_without_pot(call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing POT is an ImportError with the pip line that mends it."""
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install 'espref\[verify\]'"):
        call()


def test_inputs_are_left_alone() -> None:
    """Read-only lists of points and weights go in, and nothing is written to."""
    x, y, a = np.arange(6).reshape(3, 2), np.arange(4, dtype=np.float32).reshape(2, 2), np.array([0.5, 0.25, 0.25])
    kept = x.copy(), y.copy(), a.copy()
    for array in (x, y, a):
        array.flags.writeable = False
    solvers.exact_plan(x, y, a)
    solvers.sinkhorn_plan(x, y.tolist(), 10, a)
    solvers.pot_expected_sliced_plan(x, y, [[1, 0]], a)
    for array, copy in zip((x, y, a), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("p", [1, 2])
def test_sinkhorn_of_any_exponent(p: float) -> None:
    """Kernel and cost are those of |x - y|^p; weights of zero on either side stay empty."""
    rng = np.random.default_rng(2)
    x, y, a, b = rng.normal(size=(6, 2)), rng.normal(size=(5, 2)), np.full(6, 0.2), np.full(5, 0.25)
    a[1], b[3] = 0, 0
    plan, cost = solvers.sinkhorn_plan(x, y, 0.5, a, b, p=p)
    assert cost == pytest.approx(oracles.cost(plan, x, y, p), rel=1e-12)
    assert not plan[1].any() and not plan[:, 3].any()
    heavy = np.ix_(a > 0, b > 0)
    scaling = np.log(plan[heavy]) + oracles.all_pairs(x, y, p)[heavy] / 0.5
    centred = scaling - scaling.mean(axis=0) - scaling.mean(axis=1, keepdims=True) + scaling.mean()
    np.testing.assert_allclose(centred, 0, rtol=0, atol=1e-8)


def test_sinkhorn_where_the_standard_domain_underflows() -> None:
    """exp(-C / reg) is zero in floats for every pair, and the plan is right: in closed form, by its cross ratio e^4."""
    x, y = np.array([[0.0], [1.0]]), np.array([[50.0], [51.0]])
    assert np.exp(-((x - y.T) ** 2) / 0.5).max() == 0
    near = 0.5 / (1 + math.exp(-2))
    expected = [[near, 0.5 - near], [0.5 - near, near]]
    np.testing.assert_allclose(solvers.sinkhorn_plan(x, y, 0.5).plan, expected, rtol=0, atol=1e-9)


def test_sinkhorn_is_iterated_to_the_end() -> None:
    """Marginals are right to 1e-10 in Euclidean norm, not only to what is asked at least."""
    x, y = np.random.default_rng(0).standard_normal((2, 8, 2))
    for reg in (0.1, 0.05):
        plan = solvers.sinkhorn_plan(x, y, reg).plan
        assert max(np.linalg.norm(plan.sum(axis=i) - 1 / 8) for i in (0, 1)) < 1.01e-10


def test_pot_slices_have_all_parts() -> None:
    """The mean is the default; the Gibbs weights are returned."""
    rng = np.random.default_rng(0)
    x, y, directions = rng.normal(size=(5, 2)), rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
    assert solvers.pot_expected_sliced_plan(x, y, directions).weights.tolist() == [1 / 3] * 3
    theirs = solvers.pot_expected_sliced_plan(x, y, directions, beta=2.0)
    ours = expected_sliced_plan(x, y, directions, beta=2.0)
    np.testing.assert_allclose(theirs.weights, ours.weights, rtol=1e-12)


def test_the_ground_cost_is_squared_by_default() -> None:
    """|x - y|^2, as everywhere."""
    assert solvers.ground_cost([[0.0]], [[3.0]]) == [[9.0]]
