"""Chapter 6: soft sorts against 50-digit arithmetic, closed forms, their limits and their symmetries."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from strategies import TAUS, scores, weights

from espref import soft_permutation, soft_quantile, soft_rank, soft_sort, soft_top_k, softsort
from espref.softsort import balance, fixed_point, sort_kernel, weighted_soft_permutation

KINDS = pytest.mark.parametrize(("power", "sort"), [(1, "soft"), (2, "soft"), (1, "balanced"), (2, "balanced")])


def positive(a: np.ndarray | None, n: int) -> np.ndarray:
    """Weights without zeros, sum 1."""
    a = np.ones(n) if a is None else a + 1e-12
    return a / a.sum()


def hard(s: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The sorting permutation averaged over ties, in proportion to the weights: a loop over ranks."""
    rows = []
    for value in sorted(s):
        share = np.where(s == value, a, 0.0)
        rows.append(share / share.sum())
    return np.array(rows)


@KINDS
@given(s=scores(6), tau=st.sampled_from(TAUS), data=st.data())
def test_definition(power: int, sort: str, s: np.ndarray, tau: float, data: st.DataObject) -> None:
    """P_ij = K_ij a_j / sum_k K_ik a_k, or d_i K_ij a_j d_j with d_i sum_j K_ij a_j d_j = 1, to 50 digits."""
    a = positive(data.draw(weights(len(s))), len(s))
    expected = oracles.floats(oracles.soft_permutation(s, tau, power, sort, a))
    np.testing.assert_allclose(weighted_soft_permutation(s, a, tau, power, sort), expected, rtol=0, atol=1e-12)
    expected = oracles.floats(oracles.soft_permutation(s, tau, power, sort))
    np.testing.assert_allclose(soft_permutation(s, tau, power=power, sort=sort), expected, rtol=0, atol=5e-13)


@KINDS
@given(s=scores(5), exponent=st.floats(-3, 3))
def test_small_entries_are_right_too(power: int, sort: str, s: np.ndarray, exponent: float) -> None:
    """Far from the diagonal P is small, and relatively right: its exponent is, to a rounding or two."""
    spread = np.ptp(np.asarray(s / 2, dtype=float)) * 2
    tau = spread**power * 10.0**exponent if 1e-100 < spread < 1e100 else 1.0
    expected = oracles.floats(oracles.soft_permutation(s, tau, power, sort))
    seen = expected > 1e-250
    got = soft_permutation(s, tau, power=power, sort=sort)
    np.testing.assert_allclose(got[seen], expected[seen], rtol=1e-11)
    assert (got[~seen] < 1e-249).all()


@KINDS
@given(s=scores(40), tau=st.sampled_from(TAUS), data=st.data())
def test_marginals(power: int, sort: str, s: np.ndarray, tau: float, data: st.DataObject) -> None:
    """P >= 0, P 1 = 1; balanced, P^T a_() = a, a_() being the weights in rank order. No NaN, no warning."""
    a = positive(data.draw(weights(len(s))), len(s))
    for p, mass in (
        (soft_permutation(s, tau, power=power, sort=sort), np.ones(len(s))),
        (weighted_soft_permutation(s, a, tau, power, sort), a),
    ):
        assert p.min() >= 0
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=1e-12)
        if sort == "balanced":
            np.testing.assert_allclose(mass[s.argsort(kind="stable")] @ p, mass, rtol=1e-12)


@KINDS
@given(s=scores(20), data=st.data())
def test_hard_limit(power: int, sort: str, s: np.ndarray, data: st.DataObject) -> None:
    """tau = 0 averages the permutation over ties by weight; the smallest tau comes to the same on whole numbers."""
    a = positive(data.draw(weights(len(s))), len(s))
    np.testing.assert_allclose(weighted_soft_permutation(s, a, 0.0, power, sort), hard(s, a), rtol=0, atol=1e-12)
    whole = np.unique(s, return_inverse=True)[1].astype(float)
    for tau in (5e-324, 1e-300, 1e-3):
        np.testing.assert_allclose(
            weighted_soft_permutation(whole, a, tau, power, sort), hard(s, a), rtol=0, atol=1e-12
        )


@KINDS
def test_approach_to_the_hard_limit(power: int, sort: str) -> None:
    """|P - hard| <= c exp(-gap^q / tau): ties included, the logarithm of the error falls in proportion to 1 / tau."""
    s = np.array([3.0, 1.0, 1.0, 2.0, 5.0, 3.0])  # gap 1
    for tau in (0.5, 0.2, 0.1, 0.05, 0.03):
        error = abs(soft_permutation(s, tau, power=power, sort=sort) - hard(s, np.ones(6))).max()
        assert 0.1 * np.exp(-1 / tau) < error < 5 * np.exp(-1 / tau)


@KINDS
@given(s=scores(20))
def test_flat_limit(power: int, sort: str, s: np.ndarray) -> None:
    """P -> 1/n as tau -> infinity: exact where gap^q / tau is below rounding."""
    s = s / max(1.0, np.abs(s).max())
    p = soft_permutation(s, 1e300, power=power, sort=sort)
    np.testing.assert_allclose(p, 1 / len(s), rtol=1e-13)


@KINDS
def test_two_scores(power: int, sort: str) -> None:
    """n = 2: P = [[1, e], [e, 1]] / (1 + e) in order, e = exp(-|s_1 - s_2|^q / tau), balanced or not."""
    for gap, tau in ((1.0, 0.5), (3.0, 2.0), (1e-3, 1e-3), (0.0, 1.0)):
        e = np.exp(-(gap**power) / tau)
        expected = np.array([[e, 1.0], [1.0, e]]) / (1 + e)
        np.testing.assert_allclose(soft_permutation([gap, 0.0], tau, power=power, sort=sort), expected, rtol=1e-13)


def test_three_equidistant_scores() -> None:
    """n = 3, scores 0, 1, 2, Laplace, e = exp(-1 / tau): K d = 1 / d has d_1 = d_3 and a root by hand, and SoftSort's
    middle column sums to 1 / (1 + 2 e) + 2 e / (1 + e + e^2)."""
    tau = 1.3
    e = np.exp(-1 / tau)
    p = soft_permutation([0, 1, 2], tau)
    assert p[:, 1].sum() == pytest.approx(1 / (1 + 2 * e) + 2 * e / (1 + e + e * e), rel=1e-14)
    # x = d_1^2 and y = d_2^2 with x (1 + e^2) + e d_1 d_2 = 1 and y + 2 e d_1 d_2 = 1
    s = soft_permutation([0, 1, 2], tau, sort="balanced")
    x, y, cross = s[0, 0], s[1, 1], s[0, 1] / e
    assert cross**2 == pytest.approx(x * y, rel=1e-12)
    assert x * (1 + e * e) + e * cross == pytest.approx(1, rel=1e-12)
    assert y + 2 * e * cross == pytest.approx(1, rel=1e-12)


@KINDS
@given(s=scores(12), tau=st.sampled_from(TAUS[1:]), shift=st.integers(-60, 60), seed=st.integers(0, 999))
def test_invariances(power: int, sort: str, s: np.ndarray, tau: float, shift: int, seed: int) -> None:
    """P_tau(c s) at c^q tau is P_tau(s), bit for bit for powers of two; P(-s) turns P upside down; columns follow
    their scores under a permutation."""
    plain = soft_permutation(s, tau, power=power, sort=sort)
    order = np.random.default_rng(seed).permutation(len(s))
    permuted = soft_permutation(s[order], tau, power=power, sort=sort)
    np.testing.assert_allclose(permuted, plain[:, order], rtol=0, atol=1e-12)
    reverse = soft_permutation(-s, tau, power=power, sort=sort)
    np.testing.assert_allclose(reverse, plain[::-1], rtol=0, atol=1e-12)
    if 1e-200 < tau < 1e200 and (s == 0).sum() + (np.abs(s) > 1e-200).sum() == len(s) and np.abs(s).max() < 1e200:
        scaled = soft_permutation(np.ldexp(s, shift), np.ldexp(tau, power * shift), power=power, sort=sort)
        np.testing.assert_allclose(scaled, plain, rtol=0, atol=1e-14)


@KINDS
@given(s=scores(12), tau=st.sampled_from(TAUS))
def test_soft_scores_ascend(power: int, sort: str, s: np.ndarray, tau: float) -> None:
    """P s is ascending, within [min s, max s]; balanced, it keeps the mean."""
    s = s / max(1.0, np.abs(s).max())
    p = soft_permutation(s, tau, power=power, sort=sort)
    assert np.diff(p @ s).min(initial=0) >= -1e-12
    assert (p @ s).min() >= s.min() - 1e-12 and (p @ s).max() <= s.max() + 1e-12
    if sort == "balanced":
        assert (p @ s).mean() == pytest.approx(s.mean(), abs=1e-12)


@KINDS
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5, 40.0])
def test_splitting_a_point_splits_its_column(power: int, sort: str, tau: float) -> None:
    """A score of weight w written as two of weights w/4 and 3w/4: columns split so, and the row stands twice."""
    s, a = np.array([0.3, 2.0, 1.0]), np.array([0.25, 0.25, 0.5])
    whole = weighted_soft_permutation(s, a, tau, power, sort)
    parts = weighted_soft_permutation(s[[0, 1, 2, 2]], np.array([0.25, 0.25, 0.125, 0.375]), tau, power, sort)
    expected = whole[[0, 1, 1, 2]][:, [0, 1, 2, 2]] * [1, 1, 0.25, 0.75]  # rank 1 is the score 1.0
    np.testing.assert_allclose(parts, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 30, 400])
@pytest.mark.parametrize("law", ["normal", "cauchy", "clusters", "outlier"])
def test_rounds_of_the_balanced_scaling(n: int, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 60 of the 100 rounds are used, whatever n, the law of the scores, tau and the kernel."""
    monkeypatch.setattr(softsort, "MAX_ROUNDS", 60)
    rng = np.random.default_rng(n)
    s = {
        "normal": rng.standard_normal(n),
        "cauchy": rng.standard_cauchy(n),
        "clusters": rng.integers(0, 3, n) + 1e-3 * rng.standard_normal(n),
        "outlier": np.append(rng.standard_normal(n - 1), 1e12),
    }[law]
    for power in (1, 2):
        for tau in TAUS:
            columns = soft_permutation(s, tau, power=power, sort="balanced").sum(axis=0)
            np.testing.assert_allclose(columns, 1, rtol=0, atol=1e-12)


def test_no_convergence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few rounds: RuntimeError with the error reached, never an unbalanced matrix."""
    monkeypatch.setattr(softsort, "MAX_ROUNDS", 3)
    with pytest.raises(
        RuntimeError, match=r"^balanced soft sort: marginal error .*e-0\d after 3 rounds, expected 1e-13$"
    ):
        soft_permutation([0.0, 1.0, 3.0], 1.0, sort="balanced")


def test_scaling_of_a_known_kernel() -> None:
    """K = D^-1 S D^-1 with S doubly stochastic and D > 0 diagonal: balance finds D, any start does."""
    shift = np.roll(np.eye(5), 1, axis=0)
    doubly = 0.6 * np.eye(5) + 0.2 * shift + 0.2 * shift.T  # positive definite
    d = np.array([1e-3, 0.4, 1.0, 7.0, 1e4])
    kernel = doubly / d[:, None] / d
    np.testing.assert_allclose(balance(kernel, np.ones(5)), d, rtol=1e-12)
    np.testing.assert_allclose(fixed_point(lambda z: kernel @ z, d[::-1].copy()), d, rtol=1e-12)
    w = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    np.testing.assert_allclose(balance(doubly / d[:, None] / d / w, w), d, rtol=1e-12)  # columns take the weights


@given(s=scores(10), tau=st.sampled_from(TAUS), power=st.sampled_from([1, 2]))
def test_kernel(s: np.ndarray, tau: float, power: int) -> None:
    """K is symmetric, in [0, 1], 1 exactly where scores are equal, and falls away from the diagonal."""
    kernel = sort_kernel(np.sort(s), tau, power)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert (np.diag(kernel) == 1).all() and kernel.min() >= 0 and kernel.max() <= 1
    for i in range(len(s)):
        assert (np.diff(kernel[i, i:]) <= 0).all()


def test_the_smallest_floats_are_told_apart() -> None:
    """0 and the smallest positive float are two scores, 0.0 and -0.0 are one, huge ones do not overflow."""
    np.testing.assert_array_equal(soft_permutation([5e-324, 0.0], 0), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(soft_permutation([0.0, -0.0], 0), np.full((2, 2), 0.5))
    e = np.exp(-1.0)
    for s, tau in (([0, 5e-324], 5e-324), ([-1e308, 1e308], 1.7e308), ([-1.7e308, 0.3e308], 1.7e308)):
        ratio = e if tau < 1 else np.exp(-2 / 1.7)
        np.testing.assert_allclose(
            soft_permutation(s, tau), np.array([[1, ratio], [ratio, 1]]) / (1 + ratio), rtol=1e-14
        )


def test_forms_of_input() -> None:
    """Lists, ints, float32, booleans, read-only and strided arrays are accepted, and nothing is written to."""
    wide = np.array([3, 9, 1, 9, 2, 9])
    kept = wide.copy()
    wide.flags.writeable = False
    for power, sort in ((1, "soft"), (2, "balanced")):
        expected = soft_permutation([3.0, 1.0, 2.0], 0.5, power=power, sort=sort)
        for s in (wide[::2], [3, 1, 2], (3, 1, 2), np.float32([3, 1, 2])):
            np.testing.assert_array_equal(soft_permutation(s, 0.5, power=power, sort=sort), expected)
            np.testing.assert_array_equal(
                soft_permutation(s, np.float32(0.5), power=np.int8(power), sort=sort), expected
            )
    np.testing.assert_array_equal(wide, kept)


SPREAD = st.lists(st.integers(-4, 4).map(lambda k: k / 2), min_size=1, max_size=12).map(np.array)


@KINDS
@given(s=SPREAD)
def test_values_and_ranks_in_the_hard_limit(power: int, sort: str, s: np.ndarray) -> None:
    """At tau = 0 the sorted values and SciPy's ranks, equal scores sharing their mean rank; the same at a small tau."""
    for tau in (0.0, 1e-3):
        np.testing.assert_allclose(soft_sort(s, tau, power=power, sort=sort), np.sort(s), rtol=0, atol=1e-12)
        ranks = soft_rank(s, tau, power=power, sort=sort)
        np.testing.assert_allclose(ranks, rankdata(s, method="average"), rtol=0, atol=1e-11)


@KINDS
@given(s=SPREAD, tau=st.sampled_from([0.0, 0.05, 0.5, 3.0, 100.0]))
def test_values_and_ranks_by_definition(power: int, sort: str, s: np.ndarray, tau: float) -> None:
    """P s, ascending and within the scores; r_j = sum_i i P_ij / sum_i P_ij, within [1, n] and in the order of s.

    Balanced, the mean of the values is that of the scores, and the mean of the ranks is (n + 1) / 2.
    """
    n, matrix = len(s), soft_permutation(s, tau, power=power, sort=sort)
    values, ranks = soft_sort(s, tau, power=power, sort=sort), soft_rank(s, tau, power=power, sort=sort)
    assert values.shape == ranks.shape == (n,)
    for i in range(n):
        assert values[i] == pytest.approx(sum(matrix[i, j] * s[j] for j in range(n)), rel=0, abs=1e-13)
        rank = sum((k + 1) * matrix[k, i] for k in range(n)) / matrix[:, i].sum()
        assert ranks[i] == pytest.approx(rank, rel=1e-13)
    assert s.min() - 1e-12 <= values.min() and values.max() <= s.max() + 1e-12
    assert ranks.min() >= 1 - 1e-12 and ranks.max() <= n + 1e-11
    assert (np.diff(values) >= -1e-12).all() and (np.diff(ranks[np.argsort(s)]) >= -1e-11).all()
    if sort == "balanced":
        assert values.mean() == pytest.approx(s.mean(), abs=1e-11)
        assert ranks.mean() == pytest.approx((n + 1) / 2, rel=1e-11)


def test_ranks_of_spread_scores() -> None:
    """SoftSort does not keep the mean of skewed scores, nor of their ranks: the balanced sort does."""
    s = np.array([0.0, 0.1, 0.2, 5.0])
    assert abs(soft_sort(s, 1.0).mean() - s.mean()) > 0.01
    assert soft_sort(s, 1.0, sort="balanced").mean() == pytest.approx(s.mean(), abs=1e-12)


@given(s=scores(12), tau=st.sampled_from([0.0, 0.1, 3.0, np.inf]))
@KINDS
def test_values_ranks_quantiles_members(power: int, sort: str, s: np.ndarray, tau: float) -> None:
    """All are read off P: values P s, mean ranks by column, quantiles of the values, column sums of the last rows."""
    settings = {"power": power, "sort": sort}
    p, n = soft_permutation(s, tau, **settings), len(s)
    np.testing.assert_allclose(soft_sort(s, tau, **settings), p @ s, rtol=0, atol=1e-12)
    np.testing.assert_allclose(soft_rank(s, tau, **settings), np.arange(1, n + 1) @ p / p.sum(axis=0), rtol=1e-12)
    down = soft_permutation(s, tau, **settings, descending=True)
    np.testing.assert_array_equal(down, p[::-1])
    ranks = soft_rank(s, tau, **settings) + soft_rank(s, tau, **settings, descending=True)
    np.testing.assert_allclose(ranks, n + 1, rtol=1e-12)
    np.testing.assert_allclose(soft_quantile(s, [0, 1], tau, **settings), (p @ s)[[0, -1]], rtol=0, atol=1e-12)
    for k in (1, n):
        np.testing.assert_allclose(soft_top_k(s, k, tau, **settings), p[n - k :].sum(axis=0), rtol=1e-12)
    if tau == np.inf:
        np.testing.assert_allclose(p, 1 / n, rtol=1e-13)


@pytest.mark.parametrize("sort", softsort.SORTS)
@pytest.mark.parametrize("tau", [0.0, 0.3, np.inf])
def test_weighted_ranks_are_those_of_copies(tau, sort):
    """A score with weight k / N has, on the scale of the mass, the rank of each of its k copies among N."""
    rng = np.random.default_rng(0)
    s, counts = rng.normal(size=7), rng.integers(1, 5, 7)
    s[3] = s[1]  # a tie
    n, copies = len(s), counts.sum()
    weighted = soft_rank(s, tau, counts / copies, sort=sort)
    repeated = soft_rank(np.repeat(s, counts), tau, sort=sort)[counts.cumsum() - 1]
    np.testing.assert_allclose((weighted - 0.5) / n, (repeated - 0.5) / copies, rtol=1e-11)
    np.testing.assert_allclose(weighted + soft_rank(s, tau, counts / copies, sort=sort, descending=True), n + 1)


def test_weighted_ranks_at_the_limits():
    """Uniform weights change nothing; at tau = 0 the ranks are the mid-distribution function; no weight may be zero."""
    s = [0.3, -1.0, 2.0, 0.5]
    np.testing.assert_allclose(soft_rank(s, 0.2, [0.25] * 4), soft_rank(s, 0.2), rtol=1e-13)
    a = np.array([0.1, 0.4, 0.2, 0.3])
    below = np.array([a[np.array(s) < x].sum() + a[np.array(s) == x].sum() / 2 for x in s])
    np.testing.assert_allclose(soft_rank(s, 0, a), 0.5 + 4 * below, rtol=1e-13)
    with pytest.raises(ValueError, match="a: expected positive weights, got 0 in row 1"):
        soft_rank([1.0, 2.0], 0.1, [1.0, 0.0])


def test_hard_quantiles_are_numpys() -> None:
    """tau = 0: numpy.quantile; the members of the top k are 1, all others 0."""
    s, levels = np.random.default_rng(1).normal(size=31), [0.0, 0.1, 0.5, 0.77, 1.0]
    np.testing.assert_allclose(soft_quantile(s, levels, 0), np.quantile(s, levels), rtol=1e-13)
    np.testing.assert_array_equal(np.flatnonzero(soft_top_k(s, 5, 0)), np.sort(s.argsort()[-5:]))
