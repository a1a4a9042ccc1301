"""Every row of the deviation table, both sides computed from formulas written here."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from espref import (
    esp_attention,
    expected_sliced_plan,
    expected_soft_plan,
    line_plan,
    marginal_defect,
    planfree_attention,
    slice_costs,
    soft_permutation,
    transport_cost,
)
from espref.deviations import DEVIATIONS, deviation_table, released_settings

N, D = 24, 6


def tokens(n: int = N, m: int = N, dim: int = D) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian queries and keys."""
    rng = np.random.default_rng(5)
    return rng.normal(size=(n, dim)), rng.normal(size=(m, dim))


def gauss_sort(s: np.ndarray, t: float) -> np.ndarray:
    """SoftSort with the Gauss kernel, ascending, row by row."""
    rows = [np.exp(-((value - s) ** 2) / t) for value in np.sort(s)]
    return np.array([row / row.sum() for row in rows])


def released_attention(q: np.ndarray, k: np.ndarray, tau: float = 10.0, t: float = 1e-3) -> np.ndarray:
    """The released algorithm, from its description: scaled q and k, plans of mass N, sums of unsquared distances."""
    q, k = q / np.sqrt(q.shape[1]), k / np.sqrt(k.shape[1])
    plans = [gauss_sort(q[:, axis], t).T @ gauss_sort(k[:, axis], t) for axis in range(q.shape[1])]
    distances = np.sqrt(((q[:, None] - k) ** 2).sum(axis=-1))
    logits = np.array([-tau * (distances * plan).sum() for plan in plans])
    weights = np.exp(logits - logits.max())
    return np.tensordot(weights / weights.sum(), plans, axes=1)


def test_released_settings_reproduce_the_released_algorithm() -> None:
    """expected_soft_plan at the converted settings, times N, is the released attention matrix."""
    q, k = tokens()
    tau, beta, p, power = released_settings(N, D)
    plan = expected_soft_plan(q, k, np.eye(D), tau, beta=beta, p=p, power=power).plan
    np.testing.assert_allclose(N * plan, released_attention(q, k), rtol=0, atol=1e-13)


def test_mass() -> None:
    """The released plan has mass N, the paper's and ours mass 1; our attention matrix has total n."""
    q, k = tokens()
    assert released_attention(q, k).sum() == pytest.approx(N)
    assert expected_soft_plan(q, k, np.eye(D), 0.1).plan.sum() == pytest.approx(1)
    assert esp_attention(q, k, k, tau=0.1, beta=1.0).matrix.sum() == pytest.approx(N)


def test_cost_in_weights() -> None:
    """Sum of unsquared distances against mean of squared ones: different weights from the same plans."""
    q, k = tokens()
    unsquared = expected_soft_plan(q, k, np.eye(D), 0.1, beta=float(N), p=1, power=2).weights
    squared = expected_soft_plan(q, k, np.eye(D), 0.1, beta=1.0, p=2, power=2).weights
    assert np.abs(unsquared - squared).max() > 0.05


def test_inverse_temperature() -> None:
    """At the same inverse temperature the summed cost uses few slices, the mean cost nearly all of them."""
    q, k = tokens(128, 128, 16)
    q, k = q / 4, k / 4
    summed = expected_soft_plan(q, k, np.eye(16), 1e-3, beta=10.0 * 128, p=1, power=2).weights
    mean = expected_soft_plan(q, k, np.eye(16), 1e-3, beta=10.0, p=2, power=2).weights
    assert 1 / (summed**2).sum() < 4 < 12 < 1 / (mean**2).sum()


def test_kernel_and_scaling() -> None:
    """Scaling by d^(-1/2) before a Gauss kernel at t is the Gauss kernel at d t; the Laplace kernel is another."""
    q, _ = tokens()
    scaled = gauss_sort(q[:, 0] / np.sqrt(D), 1e-3)
    np.testing.assert_allclose(soft_permutation(q[:, 0], D * 1e-3, power=2), scaled, rtol=0, atol=1e-14)
    assert np.abs(soft_permutation(q[:, 0], D * 1e-3, power=1) - scaled).max() > 0.01


def test_doubly_stochastic() -> None:
    """The released plan misses its marginals by more than a tenth; balanced and hard ones do not."""
    q, k = tokens(128, 128, 16)
    assert marginal_defect(released_attention(q, k) / 128) > 0.1
    for sort in ("balanced", "hard"):
        assert marginal_defect(esp_attention(q, k, k, tau=0.016, beta=1.0, sort=sort).matrix / 128) < 1e-11


def test_unequal_lengths() -> None:
    """A matrix of linear interpolation between ranks is no coupling; the rank coupling is."""
    n, m = 24, 17
    position = np.linspace(0, m - 1, n)
    interpolation = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(m)))
    assert np.allclose(interpolation.sum(axis=1), 1) and np.abs(interpolation.sum(axis=0) * m / n - 1).max() > 0.05
    q, k = tokens(n, m)
    assert marginal_defect(esp_attention(q, k, k, tau=0.1, beta=1.0, sort="balanced").matrix / n) < 1e-11


def test_slicers() -> None:
    """Without directions our attention slices along the axes, as the released algorithm does; POT draws directions at
    random unless they are given, and then makes the plan of ours."""
    q, k = tokens()
    axes = esp_attention(q, k, k, tau=0.1, beta=1.0, power=2)
    np.testing.assert_array_equal(
        axes.matrix, esp_attention(q, k, k, tau=0.1, beta=1.0, power=2, directions=np.eye(D)).matrix
    )
    plans = [gauss_sort(q[:, axis], 0.1).T @ gauss_sort(k[:, axis], 0.1) for axis in range(D)]
    flat = esp_attention(q, k, k, tau=0.1, beta=0.0, power=2).matrix
    np.testing.assert_allclose(flat, np.mean(plans, axis=0), rtol=0, atol=1e-13)
    sliced = pytest.importorskip("ot").sliced
    first, second = (sliced.expected_sliced_plan(q, k, n_projections=D, seed=seed)[0] for seed in (0, 1))
    given = sliced.expected_sliced_plan(q, k, projections=np.eye(D))[0]
    assert np.abs(first - second).max() > 0.1 / N
    np.testing.assert_allclose(given, expected_sliced_plan(q, k, np.eye(D)).plan.toarray(), rtol=0, atol=1e-15)


def test_pot_slice_costs() -> None:
    """POT's slice costs differ from the costs of POT's own plans for n != m; ours do not."""
    sliced = pytest.importorskip("ot").sliced
    x, y = tokens(9, 14)
    direction = np.eye(D)[:1]
    plan, cost = sliced.expected_sliced_plan(x, y, projections=direction.T, beta=1.0, dense=True)
    true = transport_cost(plan, x, y)
    assert abs(cost / true - 1) > 0.01
    assert slice_costs(x, y, direction)[0] == pytest.approx(true, rel=1e-13)


def test_ties() -> None:
    """Hard argmax rows of tied scores repeat; the tie-splitting plan is a plan, and so is POT's one permutation."""
    s = np.array([1.0, 1.0, 2.0])
    closest = np.abs(np.sort(s)[:, None] - s).argmin(axis=1)
    assert len(set(closest)) < len(s)
    assert marginal_defect(line_plan(s, [0.0, 1.0, 2.0])) < 1e-15
    sliced = pytest.importorskip("ot").sliced
    plan = sliced.expected_sliced_plan(s[:, None], np.arange(3.0)[:, None], projections=np.ones((1, 1)), dense=True)[0]
    assert np.isin(plan, [0, 1 / 3]).all() and marginal_defect(plan) < 1e-15
    assert not np.allclose(plan, line_plan(s, [0.0, 1.0, 2.0]).toarray())


def test_padding_sentinel() -> None:
    """A sentinel of 1e18 is infinite in float16, and as a token it takes part in the plan; real tokens alone do not."""
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(1e18))
    q, k = tokens()
    v = np.random.default_rng(0).normal(size=(N, 2))
    padded_q, padded_k = (np.vstack([part, np.full((4, D), 1e18)]) for part in (q, k))
    padded = esp_attention(padded_q[:-2], padded_k, np.vstack([v, np.zeros((4, 2))]), tau=0.1, beta=0.0).output[:N]
    real = esp_attention(q, k, v, tau=0.1, beta=0.0).output
    assert np.abs(padded - real).max() > 0.01  # 2 padded queries against 4 padded keys shift the real ranks


def test_causal() -> None:
    """Masking a doubly stochastic matrix to its lower triangle leaves it doubly stochastic only for the identity."""
    q, k = tokens()
    masked = np.tril(esp_attention(q, k, k, tau=0.1, beta=1.0, sort="balanced").matrix)
    assert marginal_defect(masked / masked.sum()) > 0.1
    assert marginal_defect(np.eye(N) / N) == 0


def test_complexity() -> None:
    """The plan-free form holds no N x N array where the released one holds L of them."""
    import tracemalloc

    q, k = tokens(900, 900, 4)
    planfree_attention(q[:10], k[:10], k[:10], tau=0.1, beta=1.0)
    peaks = []
    for call in (lambda: planfree_attention(q, k, k, tau=0.1, beta=1.0), lambda: released_attention(q, k)):
        tracemalloc.start()
        call()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 900**2 < 4 * 900**2 * 8 < peaks[1]


def test_sparse_slices_of_the_hard_sort_agree() -> None:
    """Hard ESP attention over the axes is n times the expected sliced plan with beta in squared units."""
    q, k = tokens(20, 31)
    plan = expected_sliced_plan(q, k, np.eye(D), beta=0.7).plan.toarray()
    np.testing.assert_allclose(esp_attention(q, k, k, tau=0.0, beta=0.7, sort="hard").matrix, 20 * plan, atol=1e-14)


def test_table_is_backed_by_tests() -> None:
    """Every row names a test of this file, and the Markdown table has one line a row."""
    names = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(encoding="utf-8"), re.MULTILINE))
    assert {deviation.test for deviation in DEVIATIONS} <= names
    lines = deviation_table().splitlines()
    assert len(lines) == len(DEVIATIONS) + 2 and all(line.count(" | ") == 4 for line in lines)


@pytest.mark.parametrize("bad", [{"n_tokens": 0}, {"head_dim": 1.5}, {"inverse_temperature": -1}])
def test_bad_settings_are_named(bad: dict) -> None:
    """A ValueError that names the argument."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        released_settings(**({"n_tokens": 8, "head_dim": 4} | bad))
