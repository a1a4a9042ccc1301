"""Chapter 8: attention against 50-digit arithmetic, entropic transport, permutations, and its invariances."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import TAUS, tokens

from espref import (
    esp_attention,
    expected_sliced_plan,
    expected_soft_plan,
    sinkhorn_attention,
    sliced_plans,
    softmax_attention,
    solvers,
)
from espref.attention import SORTS

COMBINATIONS = pytest.mark.parametrize(
    ("sort", "power"), [("soft", 1), ("soft", 2), ("balanced", 1), ("balanced", 2), ("hard", 1)]
)
EVERY_SORT = pytest.mark.parametrize("sort", SORTS)


@given(parts=tokens(5, scales=(1e-30, 1e-3, 1.0, 3.7)), n_iter=st.integers(1, 7))
def test_sinkhorn_definition(parts, n_iter: int) -> None:
    """Rows to sum 1, then columns to n / m, n_iter times, on exp(<q_i, k_j> / sqrt d) in 50 digits."""
    q, k, v, _ = parts
    expected = oracles.floats(oracles.sinkhorn_matrix(q, k, n_iter))
    got = sinkhorn_attention(q, k, v, n_iter=n_iter)
    np.testing.assert_allclose(got.matrix, expected, rtol=1e-11)
    np.testing.assert_array_equal(got.output, got.matrix @ v)


def test_known_softmax() -> None:
    """One coordinate, logits 0 and log 3: weights 1/4 and 3/4; in four coordinates the logits are halved."""
    got = softmax_attention([[1.0]], [[0.0], [np.log(3)]], [[0.0], [8.0]])
    np.testing.assert_allclose(got.matrix, [[0.25, 0.75]], rtol=1e-15)
    np.testing.assert_allclose(got.output, [[6.0]], rtol=1e-15)
    got = softmax_attention([[2.0, 0, 0, 0]], [[0.0] * 4, [np.log(3), 0, 0, 0]], np.eye(2))
    np.testing.assert_allclose(got.matrix, [[0.25, 0.75]], rtol=1e-15)


@given(parts=tokens(12), n_iter=st.integers(1, 6))
def test_sinkhorn_normalises_in_turn(parts, n_iter: int) -> None:
    """After each iteration columns sum to n / m, and softmax's rows to 1; logits up to 1e300."""
    q, k, v, _ = parts
    matrix = sinkhorn_attention(q, k, v, n_iter=n_iter).matrix
    assert np.isfinite(matrix).all() and matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=0), len(q) / len(k), rtol=1e-12)
    np.testing.assert_allclose(softmax_attention(q, k, v).matrix.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (9, 14)])
def test_sinkhorn_limit_is_entropic_transport(n: int, m: int) -> None:
    """At convergence: n times the entropic plan for the cost -<q, k> at regularisation sqrt d. The terms |q|^2 and
    |k|^2 are absorbed by the scalings, so |q - k|^2 at 2 sqrt d is the same problem."""
    rng = np.random.default_rng(n)
    q, k = rng.standard_normal((n, 4)), rng.standard_normal((m, 4))
    matrix = sinkhorn_attention(q, k, k, n_iter=1000).matrix
    plan = solvers.sinkhorn_plan(q, k, 2 * np.sqrt(4), n_iter=5000).plan
    np.testing.assert_allclose(matrix, n * plan, rtol=0, atol=1e-9)


@COMBINATIONS
@given(parts=tokens(4, scales=(1e-3, 1.0, 3.7)), tau=st.sampled_from([1e-300, 0.05, 0.8, 30.0]), beta=st.floats(0, 3))
def test_esp_definition(sort: str, power: int, parts, tau: float, beta: float) -> None:
    """n sum_l w_l P_l^T A Q_l, w = softmax(-beta <C, U_l>), every step in 50 digits, on the axes."""
    q, k, v, _ = parts
    axes = np.eye(q.shape[1])
    hard = sort == "hard"
    expected = oracles.floats(oracles.esp_matrix(q, k, axes, 0 if hard else tau, beta, power, sort))
    got = esp_attention(q, k, v, tau=tau, beta=beta, sort=sort, power=power)
    np.testing.assert_allclose(got.matrix, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(got.output, expected @ v, rtol=0, atol=1e-10)


@COMBINATIONS
@given(parts=tokens(12), tau=st.sampled_from(TAUS), beta=st.sampled_from([0.0, 1e-3, 1.0, 1e3, np.inf]))
def test_extremes(sort: str, power: int, parts, tau: float, beta: float) -> None:
    """Scales from 1e-150 to 1e150, any tau and beta: matrix >= 0 of total n; balanced and hard, rows sum to 1 and
    columns to n / m. No NaN, no warning."""
    q, k, v, directions = parts
    matrix = esp_attention(q, k, v, tau=tau, beta=beta, directions=directions, sort=sort, power=power).matrix
    assert matrix.min() >= 0 and matrix.sum() == pytest.approx(len(q), rel=1e-12)
    if sort != "soft":
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(matrix.sum(axis=0), len(q) / len(k), rtol=1e-12)


@given(parts=tokens(8), tau=st.sampled_from(TAUS), beta=st.floats(0, 3))
def test_hard_is_the_expected_sliced_plan(parts, tau: float, beta: float) -> None:
    """sort = "hard": n times the expected sliced plan with split ties, whatever tau and power."""
    q, k, v, directions = parts
    beta /= max(np.abs(q).max(), np.abs(k).max(), 1e-150) ** 2
    got = esp_attention(q, k, v, tau=tau, beta=beta, directions=directions, sort="hard").matrix
    exact = expected_sliced_plan(q, k, directions, beta=beta).plan.toarray()
    np.testing.assert_allclose(got, len(q) * exact, rtol=0, atol=1e-11)
    again = esp_attention(q, k, v, tau=1.0, beta=beta, directions=directions, sort="hard", power=2).matrix
    np.testing.assert_allclose(again, got, rtol=0, atol=1e-14)


def test_known_hard_attention() -> None:
    """One direction, n = m, no ties: the matrix is the permutation that matches ranks; two directions, their mean."""
    q, k, v = [[3.0, 0.0], [1.0, 5.0], [2.0, 9.0]], [[10.0, 1.0], [30.0, 3.0], [20.0, 2.0]], [[1.0], [2.0], [3.0]]
    got = esp_attention(q, k, v, tau=1.0, beta=0.0, directions=[[1.0, 0.0]], sort="hard")
    np.testing.assert_array_equal(got.matrix, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(got.output, [[2], [1], [3]])
    got = esp_attention(q, k, v, tau=1.0, beta=0.0, sort="hard")
    np.testing.assert_allclose(got.matrix, [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], rtol=1e-15)


def test_inverse_temperature_counts_mean_squared_distances() -> None:
    """Two slices that cost c_1 and c_2 on average: weights in the ratio exp(-beta (c_1 - c_2)), here by hand."""
    q, k = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 3.0], [1.0, 0.0]])
    # first axis: identity, (9 + 1) / 2 = 5; second axis: crossed, (1 + (1 + 4)) / 2 = 3
    ratio = np.exp(-0.25 * (5 - 3))
    matrix = esp_attention(q, k, k, tau=1.0, beta=0.25, sort="hard").matrix
    np.testing.assert_allclose(matrix, np.array([[ratio, 1], [1, ratio]]) / (1 + ratio), rtol=1e-14)


@COMBINATIONS
@pytest.mark.parametrize(("n", "m"), [(11, 11), (7, 12)])
def test_is_n_times_the_soft_plan(sort: str, power: int, n: int, m: int) -> None:
    """matrix = n G, output = matrix v, the axes being the directions by default."""
    rng = np.random.default_rng(n)
    q, k, v = rng.standard_normal((n, 3)), rng.standard_normal((m, 3)), rng.standard_normal((m, 2))
    got = esp_attention(q, k, v, tau=0.2, beta=0.5, sort=sort, power=power)
    soft = {"tau": 0.0, "sort": "soft"} if sort == "hard" else {"tau": 0.2, "sort": sort}
    plan = expected_soft_plan(q, k, np.eye(3), beta=0.5, power=power, **soft).plan
    np.testing.assert_array_equal(got.matrix, n * plan)
    np.testing.assert_array_equal(got.output, got.matrix @ v)
    given_axes = esp_attention(q, k, v, tau=0.2, beta=0.5, sort=sort, power=power, directions=np.eye(3))
    np.testing.assert_array_equal(given_axes.matrix, got.matrix)


@COMBINATIONS
@given(parts=tokens(8, scales=(1.0,)), tau=st.sampled_from(TAUS[1:]), seed=st.integers(0, 999))
def test_token_order(sort: str, power: int, parts, tau: float, seed: int) -> None:
    """Keys permuted with values change nothing; queries permuted permute the output."""
    q, k, v, directions = parts
    rng = np.random.default_rng(seed)
    i, j = rng.permutation(len(q)), rng.permutation(len(k))
    settings = {"tau": tau, "beta": 0.5, "directions": directions, "sort": sort, "power": power}
    plain = esp_attention(q, k, v, **settings).output
    np.testing.assert_allclose(esp_attention(q[i], k[j], v[j], **settings).output, plain[i], rtol=0, atol=1e-11)


@COMBINATIONS
@pytest.mark.parametrize("scale", [2.0**-400, 2.0**-3, 2.0**400])
def test_scaling(sort: str, power: int, scale: float) -> None:
    """Tokens times c, tau times c^q, beta over c^2: the same matrix."""
    q, k, v = np.random.default_rng(4).standard_normal((3, 9, 3))
    plain = esp_attention(q, k, v, tau=0.3, beta=0.8, sort=sort, power=power).matrix
    settings = {"tau": 0.3 * scale**power, "beta": 0.8 / scale**2, "sort": sort, "power": power}
    np.testing.assert_allclose(esp_attention(scale * q, scale * k, v, **settings).matrix, plain, rtol=0, atol=1e-13)


@COMBINATIONS
def test_queries_equal_keys(sort: str, power: int) -> None:
    """Q = K without ties: symmetric, positive semidefinite, and the identity when sorted hard."""
    q = np.random.default_rng(6).standard_normal((14, 3))
    matrix = esp_attention(q, q, q, tau=0.3, beta=1.0, sort=sort, power=power).matrix
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-14)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-13
    if sort == "hard":
        np.testing.assert_allclose(matrix, np.eye(14), rtol=0, atol=1e-15)


@pytest.mark.parametrize("sort", ["soft", "balanced"])
@pytest.mark.parametrize("power", [1, 2])
def test_anneals_to_hard_on_gridded_tokens(sort: str, power: int) -> None:
    """As tau -> 0 the soft matrix tends to the tie-splitting one: at tau = 1e-3 equal, on whole numbers."""
    rng = np.random.default_rng(8)
    q, k = rng.integers(0, 4, (16, 2)).astype(float), rng.integers(0, 4, (16, 2)).astype(float)
    hard = sum(plan.toarray() for plan in sliced_plans(q, k, np.eye(2), ties="split")) / 2 * 16
    errors = [
        abs(esp_attention(q, k, q, tau=tau, beta=0.0, sort=sort, power=power).matrix - hard).max()
        for tau in (0.5, 0.2, 0.1, 0.05, 1e-3, 1e-300)
    ]
    assert all(after < before / 4 for before, after in pairwise(errors[:4]))
    assert max(errors[4:]) < 1e-12


@EVERY_SORT
def test_forms_of_input(sort: str) -> None:
    """Lists, ints, float32, read-only and strided arrays are accepted, and nothing is written to."""
    q, k, v = np.random.default_rng(0).integers(0, 5, (3, 7, 2))
    kept = [part.copy() for part in (q, k, v)]
    for part in (q, k, v):
        part.flags.writeable = False

    def every(*parts) -> list[np.ndarray]:
        esp = esp_attention(*parts, tau=1, beta=1, sort=sort).output
        return [esp, softmax_attention(*parts).output, sinkhorn_attention(*parts, n_iter=np.int8(3)).output]

    expected = every(q, k, v)
    for left in (q.tolist(), q.astype(np.float32), np.asfortranarray(q, float), np.repeat(q, 2, 0)[::2]):
        for got, wanted in zip(every(left, k.tolist(), v.astype(np.int8)), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    float_parts = [part.astype(float) for part in (q, k, v)]
    for part in float_parts:
        part.flags.writeable = False  # arrays that need no conversion are not written to either
    every(*float_parts)
    for part, copy in zip((q, k, v), kept, strict=True):
        np.testing.assert_array_equal(part, copy)
