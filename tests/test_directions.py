"""Chapter 2: six ways to choose directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from espref import circle_plan, direction_weights, expected_sliced_plan, sample_directions

SIZES = {
    "random": (7, 3),
    "orthogonal": (7, 3),
    "sobol": (7, 3),
    "equispaced": (7, 2),
    "lebedev": (14, 3),
    "axes": (3, 3),
}
SEEDED = ("random", "orthogonal", "sobol")


@pytest.mark.parametrize("method", SIZES)
def test_unit_rows(method: str) -> None:
    """Every method returns (L, d) unit rows, and weights of sum 1."""
    n, dim = SIZES[method]
    rows = sample_directions(n, dim, method=method, rng=1)
    assert rows.shape == (n, dim) and rows.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=4e-15)  # 16 roundings
    weights = direction_weights(n, dim, method=method)
    assert weights.shape == (n,) and weights.min() > 0
    assert weights.sum() == pytest.approx(1, abs=4e-15)


@pytest.mark.parametrize("method", SEEDED)
@given(n=st.integers(1, 70), dim=st.integers(1, 9), seed=st.integers(0, 2**62) | st.integers(2**120, 2**121))
def test_seeds(method: str, n: int, dim: int, seed: int) -> None:
    """Same seed, same bits, in every form SPEC 7 names; a Generator moves on; no row is repeated or undefined."""
    first = sample_directions(n, dim, method=method, rng=seed)
    rng, sequence = np.random.default_rng(seed), np.random.SeedSequence(seed)
    np.testing.assert_array_equal(first, sample_directions(n, dim, method=method, rng=sequence))
    np.testing.assert_array_equal(first, sample_directions(n, dim, method=method, rng=np.random.PCG64(seed)))
    np.testing.assert_array_equal(
        first, sample_directions(n, dim, method=method, rng=np.int64(seed) if seed < 2**63 else seed)
    )
    np.testing.assert_array_equal(first, sample_directions(n, dim, method=method, rng=rng))
    assert np.isfinite(first).all()
    if dim > 1:
        assert not np.array_equal(first, sample_directions(n, dim, method=method, rng=rng))
        assert not np.array_equal(first, sample_directions(n, dim, method=method, rng=seed + 1))
        assert len(np.unique(first, axis=0)) == n


@pytest.mark.parametrize("method", SEEDED)
def test_no_seed_is_fresh(method: str) -> None:
    """Without a seed two calls differ, and NumPy's global state is left alone."""
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert not np.array_equal(sample_directions(4, 3, method=method), sample_directions(4, 3, method=method))
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("method", SEEDED)
def test_uniform_on_the_sphere(method: str) -> None:
    """Archimedes: on the sphere of R^3 every coordinate is uniform on [-1, 1]; in the plane every angle is."""
    rows = sample_directions(4096, 3, method=method, rng=0)
    for k in range(3):
        assert stats.kstest(rows[:, k], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(rows.T @ rows / 4096, np.eye(3) / 3, rtol=0, atol=0.02)
    rows = sample_directions(4096, 2, method=method, rng=0)
    assert stats.kstest(np.arctan2(rows[:, 1], rows[:, 0]), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_orthogonal_blocks(dim: int) -> None:
    """Each block of d rows is an orthogonal matrix, the last one cut short."""
    rows = sample_directions(3 * dim + 1, dim, method="orthogonal", rng=0)
    for block in np.split(rows[: 3 * dim], 3):
        np.testing.assert_allclose(block @ block.T, np.eye(dim), rtol=0, atol=1e-14)


def test_orthogonal_is_haar() -> None:
    """Haar: both determinants, and both signs on the diagonal, come up equally often (bare QR fixes signs)."""
    blocks = sample_directions(3 * 2000, 3, method="orthogonal", rng=0).reshape(2000, 3, 3)
    assert abs(np.linalg.det(blocks).mean()) < 0.1
    assert np.abs(np.sign(np.diagonal(blocks, axis1=1, axis2=2)).mean(axis=0)).max() < 0.1


def test_sobol_is_more_even() -> None:
    """256 Sobol directions meet second moments far closer than 256 random ones."""

    def error(method: str) -> float:
        moments = [
            np.abs(rows.T @ rows / len(rows) - np.eye(3) / 3).max()
            for rows in (sample_directions(256, 3, method=method, rng=seed) for seed in range(10))
        ]
        return float(np.mean(moments))

    assert error("sobol") < error("random") / 4


def test_equispaced() -> None:
    """Midpoints of n equal arcs of the half circle: consecutive angles differ by pi / n, none on an axis of n = 2k."""
    angles = np.arctan2(*sample_directions(8, 2, method="equispaced").T[::-1])
    np.testing.assert_allclose(angles, np.pi * (2 * np.arange(8) + 1) / 16, rtol=1e-15)


def test_axes() -> None:
    """Theta = I."""
    np.testing.assert_array_equal(sample_directions(5, 5, method="axes"), np.eye(5))


@pytest.mark.parametrize("n", [6, 14, 26, 38, 50, 86, 110, 302])
def test_lebedev_integrates_polynomials(n: int) -> None:
    """With its weights the rule gives the exact mean of z^2, z^4, x^2 y^2 (from 14 nodes on) and odd powers."""
    rows, weights = sample_directions(n, 3, method="lebedev"), direction_weights(n, 3, method="lebedev")
    x, y, z = rows.T
    assert weights @ z**2 == pytest.approx(1 / 3, abs=1e-13)
    assert weights @ (x * y) == pytest.approx(0, abs=1e-13)
    if n >= 14:
        assert weights @ z**4 == pytest.approx(1 / 5, abs=1e-13)
        assert weights @ (x**2 * y**2) == pytest.approx(1 / 15, abs=1e-13)


@pytest.mark.parametrize("n", [74, 230, 266])
def test_lebedev_rules_with_negative_weights_are_refused(n: int) -> None:
    """Three Lebedev rules have negative weights: a mean over them is no mean of plans."""
    for function in (sample_directions, direction_weights):
        with pytest.raises(ValueError, match=rf"^n_directions: expected the size of a Lebedev rule \(6, 14.*got {n}$"):
            function(n, 3, method="lebedev")


def test_lebedev_weights_flow_through_prior() -> None:
    """At beta = 0 the prior is the weight of each slice, and the plan is that mean of the slices."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    directions, prior = sample_directions(14, 3, method="lebedev"), direction_weights(14, 3, method="lebedev")
    result = expected_sliced_plan(x, y, directions, prior=prior)
    np.testing.assert_allclose(result.weights, prior, rtol=1e-15)
    by_hand = sum(w * expected_sliced_plan(x, y, [t]).plan.toarray() for w, t in zip(prior, directions, strict=True))
    np.testing.assert_allclose(result.plan.toarray(), by_hand, rtol=0, atol=1e-15)
    assert np.abs(result.plan.toarray() - expected_sliced_plan(x, y, directions).plan.toarray()).max() > 1e-3


def test_equispaced_directions_approach_the_circle() -> None:
    """In the plane the mean over equispaced directions tends to the exact one, faster than over random ones."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((6, 2))
    exact = circle_plan(x, y).plan.toarray()

    def error(method: str) -> float:
        directions = sample_directions(2000, 2, method=method, rng=0)
        return float(np.abs(expected_sliced_plan(x, y, directions).plan.toarray() - exact).max())

    assert error("equispaced") < 2000**-1 < error("random")


def test_sobol_cells_at_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point of the cube at 0, or next to 1, is moved to the middle of its cell, where the Gaussian is finite."""
    for value in (0.0, 1 - 2.0**-30):
        monkeypatch.setattr(
            stats.qmc.Sobol, "random_base2", lambda self, bits, value=value: np.full((4, self.d), value)
        )
        rows = sample_directions(4, 3, method="sobol", rng=0)
        np.testing.assert_allclose(rows, np.sign(value - 0.5) / np.sqrt(3), rtol=1e-12)


def test_weights_are_equal_by_default() -> None:
    """All schemes but Lebedev's give every direction the same weight."""
    assert direction_weights(4, 3).tolist() == [0.25] * 4
