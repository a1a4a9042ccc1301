"""The attention without plans: equal to the plain form in every combination, each of its parts to a dense matrix."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import TAUS, scores, tokens

from espref import esp_attention, expected_soft_plan, planfree, planfree_attention, rank_plan, soft_permutation
from espref.planfree import apply_kernel, factored_sort, link_factors
from espref.softsort import sort_kernel

SORTS = ("soft", "balanced", "hard")


def compare(q, k, v, **settings) -> None:
    """Both forms agree to 1e-12 of the largest value."""
    plain = esp_attention(q, k, v, power=1, **settings).output
    fast = planfree_attention(q, k, v, **settings)
    assert fast.shape == plain.shape and fast.flags.c_contiguous
    np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-12 * np.abs(v).max())


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (6, 1), (2, 2), (13, 13), (40, 40), (12, 18), (31, 17), (64, 50)])
@pytest.mark.parametrize("sort", SORTS)
def test_every_combination(n: int, m: int, sort: str) -> None:
    """All tau, beta, directions, gridded and general tokens: the output of esp_attention."""
    rng = np.random.default_rng(n + 100 * m)
    general = rng.standard_normal((n, 3)), 1.5 * rng.standard_normal((m, 3)) + 0.5
    grid = rng.integers(0, 4, (n, 3)).astype(float), rng.integers(0, 4, (m, 3)).astype(float)
    v = rng.standard_normal((m, 5))
    slicers = (None, rng.standard_normal((4, 3)), [[0.0, 0.0, -2.5]])
    for (q, k), tau, beta, directions in itertools.product(
        (general, grid), (0.0, 0.05, 2.0), (0.0, 0.7, 30.0), slicers
    ):
        compare(q, k, v, tau=tau, beta=beta, directions=directions, sort=sort)


@pytest.mark.parametrize("sort", SORTS)
@given(parts=tokens(10), tau=st.sampled_from(TAUS), beta=st.floats(0, 2), exponent=st.sampled_from([-8, 0, 8]))
def test_extremes(sort: str, parts, tau: float, beta: float, exponent: int) -> None:
    """Scales from 1e-150 to 1e150, ties, tau from end to end of the floats, beta in units of the scale."""
    q, k, v, directions = parts
    size = max(np.abs(q).max(), np.abs(k).max(), 1e-150)
    compare(q, k, v * 10.0**exponent, tau=tau, beta=beta / size / size, directions=directions, sort=sort)


def test_balanced_sort_of_very_many_equal_scores() -> None:
    """Where a running sum of n terms rounds by more than 1e-13 the scaling ends at what rounding allows."""
    for s in (np.zeros(50_000), np.arange(50_000) % 10.0):
        sort = factored_sort(s, 10.0, "balanced")
        np.testing.assert_allclose(sort.transpose(np.ones((1, len(s)))), 1, rtol=0, atol=len(s) * 2.3e-16)


def test_infinite_beta() -> None:
    """beta = inf leaves the cheapest slice."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 20, 4))
    for sort in SORTS:
        compare(q, k, v, tau=0.1, beta=np.inf, sort=sort)


def test_order_is_that_of_the_tokens_themselves() -> None:
    """Queries that differ by less than a rounding of the keys keep their order: nothing is sorted after centring."""
    q, k = np.array([[3e-17], [1e-17], [2e-17]]), np.array([[5.0], [6.0], [7.0]])
    np.testing.assert_array_equal(planfree_attention(q, k, np.eye(3), tau=0, beta=0, sort="hard"), np.eye(3)[[2, 0, 1]])
    compare(q, k, np.eye(3), tau=1e-17, beta=1.0)


def test_duplicates_tie_in_every_direction() -> None:
    """Equal tokens have the very same output, also at tau = 0 in general directions."""
    rng = np.random.default_rng(1)
    which = rng.integers(0, 9, 30)
    q, k, v = rng.standard_normal((3, 30, 20))
    for sort in SORTS:
        output = planfree_attention(q[which], k, v, tau=0, beta=0, directions=rng.standard_normal((5, 20)), sort=sort)
        first = [int(np.flatnonzero(which == w)[0]) for w in which]
        np.testing.assert_allclose(output, output[first], rtol=0, atol=1e-12)


@given(s=scores(30), tau=st.sampled_from(TAUS), seed=st.integers(0, 999))
def test_recurrences(s: np.ndarray, tau: float, seed: int) -> None:
    """f_i = x_i + r_i f_(i-1), g_i = x_i + r_(i+1) g_(i+1), K x = f + g - x, for several vectors at once."""
    ordered, rng = np.sort(s), np.random.default_rng(seed)
    x = rng.standard_normal((3, len(s)))
    kept = x.copy()
    factors = link_factors(ordered, tau)
    assert factors.shape == (len(s) - 1,) and (factors >= 0).all() and (factors <= 1).all()
    got = apply_kernel(factors, x)
    np.testing.assert_allclose(got, x @ sort_kernel(ordered, tau), rtol=0, atol=1e-13 * len(s))
    np.testing.assert_array_equal(x, kept)
    f, g = x.copy(), x.copy()
    for i in range(1, len(s)):
        f[:, i] += factors[i - 1] * f[:, i - 1]
        g[:, -1 - i] += factors[-i] * g[:, -i]
    np.testing.assert_allclose(got, f + g - x, rtol=0, atol=1e-13 * len(s))


@pytest.mark.parametrize("sort", ["soft", "balanced"])
@given(s=scores(30), tau=st.sampled_from(TAUS), seed=st.integers(0, 999))
def test_sorter(sort: str, s: np.ndarray, tau: float, seed: int) -> None:
    """apply is P, transpose is P^T, for the soft sort of chapter 6."""
    x = np.random.default_rng(seed).standard_normal((4, len(s)))
    p, held = soft_permutation(s, tau, sort=sort), factored_sort(s, tau, sort)
    np.testing.assert_allclose(held.apply(x), x @ p.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(held.transpose(x), x @ p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sort", ["soft", "balanced"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (20, 20), (9, 24)])
def test_squared_cost(n: int, m: int, sort: str) -> None:
    """<C, P^T A Q> from column sums and one inner product is the cost of the plan."""
    rng = np.random.default_rng(n)
    q, k = rng.standard_normal((n, 5)), rng.standard_normal((m, 5)) + 1
    ranks = rank_plan(np.full(n, 1 / n), np.full(m, 1 / m)).tocsr()
    for tau in (0.0, 0.1, 3.0):
        costs = expected_soft_plan(q, k, np.eye(5), tau, sort=sort).costs
        for axis, cost in enumerate(costs):
            pair = factored_sort(q[:, axis], tau, sort), factored_sort(k[:, axis], tau, sort)
            assert planfree._squared_cost(*pair, ranks, q.T, k.T, np.zeros(5)) == pytest.approx(cost, rel=1e-12)


def test_cost_far_from_the_origin() -> None:
    """Tokens that share a large mean lose no digits to it."""
    q, k, v = np.random.default_rng(5).integers(0, 1000, (3, 30, 3)) / 64.0
    near = planfree_attention(q, k, v, tau=0.5, beta=0.02)
    far = planfree_attention(q + 2.0**30, k + 2.0**30, v, tau=0.5, beta=0.02)
    np.testing.assert_allclose(far, near, rtol=0, atol=1e-9)


def test_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same output whatever is held at once."""
    q, k, v = np.random.default_rng(2).standard_normal((3, 16, 6))
    whole = planfree_attention(q, k, v, tau=0.3, beta=1.0)
    for chunk in (1, 40, 10**9):
        monkeypatch.setattr(planfree, "_CHUNK", chunk)
        np.testing.assert_allclose(planfree_attention(q, k, v, tau=0.3, beta=1.0), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tau", [1e-300, 1e-3, 1.0, 1e300])
def test_many_tokens_in_little_memory(tau: float) -> None:
    """n = 20 000, where a matrix would take 3.2 GB: below 30 MB, and balanced attention keeps the mean."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 20_000, 2))
    planfree_attention(q[:5], k[:5], v[:5], tau=tau, beta=1.0)
    tracemalloc.start()
    output = planfree_attention(q, k, v, tau=tau, beta=1.0, sort="balanced")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    np.testing.assert_allclose(output.mean(axis=0), v.mean(axis=0), rtol=0, atol=1e-12)


def test_forms_of_input() -> None:
    """Lists, ints, float32, read-only and strided arrays are accepted, and nothing is written to."""
    q, k, v = np.random.default_rng(0).integers(0, 5, (3, 7, 2))
    kept = [part.copy() for part in (q, k, v)]
    expected = planfree_attention(q, k, v, tau=1, beta=1)
    for part in (q, k, v):
        part.flags.writeable = False
    for left in (q.tolist(), q.astype(np.float32), np.asfortranarray(q, float), np.repeat(q, 2, 0)[::2]):
        got = planfree_attention(left, k.tolist(), v.astype(np.int8), tau=1, beta=1, directions=[[1, 0], [0, 1]])
        np.testing.assert_array_equal(got, expected)
    for part, copy in zip((q, k, v), kept, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_hard_sort_of_long_directions() -> None:
    """With the hard sort only the order counts: directions may be as long as floats go, on both sides."""
    rng = np.random.default_rng(0)
    q, k, v, directions = rng.normal(size=(6, 2)) * 40, rng.normal(size=(5, 2)) * 40, rng.normal(size=(5, 2)), np.eye(2)
    plain = planfree_attention(q, k, v, tau=1.0, beta=0.0, directions=directions, sort="hard")
    long = planfree_attention(q, k, v, tau=1.0, beta=0.0, directions=1e307 * directions, sort="hard")
    np.testing.assert_array_equal(plain, long)
    for small in (q / 1e6, k / 1e6):  # one side alone overflows
        sides = (small, k) if small.shape == q.shape else (q, small)
        planfree_attention(*sides, v, tau=1.0, beta=0.0, directions=1e307 * directions, sort="hard")


@pytest.mark.parametrize("sort", ["soft", "balanced"])
def test_scores_at_the_end_of_the_floats(sort: str) -> None:
    """Long directions make scores whose differences overflow; their links are those of the plain form."""
    rng = np.random.default_rng(0)
    q, k, v = rng.uniform(-1, 1, (6, 1)), rng.uniform(-1, 1, (5, 1)), rng.normal(size=(5, 2))
    settings = {"tau": 1e308, "beta": 1.0, "directions": [[1.7e308]], "sort": sort}
    assert q.max() - q.min() > np.finfo(float).max / 1.7e308
    plain = esp_attention(q, k, v, **settings).output
    np.testing.assert_allclose(planfree_attention(q, k, v, **settings), plain, rtol=0, atol=1e-12)


def test_tokens_far_from_the_origin() -> None:
    """The cost is taken from the mean key, axis by axis: Gibbs weights keep their digits wherever tokens lie."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(9, 2)), rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    far = np.array([1e6, -1e6])
    plain = esp_attention(q + far, k + far, v, tau=0.1, beta=3.0).output
    np.testing.assert_allclose(planfree_attention(q + far, k + far, v, tau=0.1, beta=3.0), plain, rtol=0, atol=1e-7)
