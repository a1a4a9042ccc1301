"""Two clouds in standard units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from strategies import Problem, problems

from espref import standardise


@given(problems(scales=(1e-280, 1e-150, 1.0, 1e150, 1e300)))
def test_moments(problem: Problem) -> None:
    """Mean 0 and standard deviation 1 of each cloud, or of the mixture of both; given back by shift and scale."""
    x, y, a, b, _ = problem
    weights = [np.full(len(c), 1 / len(c)) if w is None else w for c, w in ((x, a), (y, b))]
    u, v, shift, scale = standardise(x, y, "each", a, b)
    for cloud, w in ((u, weights[0]), (v, weights[1])):
        cloud, w = cloud[w > 0], w[w > 0]
        spread = np.ptp(cloud, axis=0) > 0
        assert np.allclose(w @ cloud, 0, rtol=0, atol=1e-7)  # spreads down to 1e-10 of the coordinates
        assert np.allclose((w @ cloud**2)[spread], 1, rtol=1e-7)
    assert np.allclose(u * scale[0] + shift[0], x, rtol=0, atol=1e-12 * abs(x).max())
    u, v, shift, scale = standardise(x, y, "joint", a, b)
    both, mixed = np.vstack([u, v]), np.concatenate([weights[0], weights[1]]) / 2
    both, mixed = both[mixed > 0], mixed[mixed > 0]
    spread = np.ptp(both, axis=0) > 0
    assert np.allclose(mixed @ both, 0, rtol=0, atol=1e-9)
    assert np.allclose((mixed @ both**2)[spread], 1, rtol=1e-9)
    assert np.array_equal(shift[0], shift[1]) and np.array_equal(scale[0], scale[1])


def test_columns_of_a_table() -> None:
    """For clouds of one size "joint" is what StandardScaler does to the stacked table."""
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x, y = np.random.default_rng(0).normal([0, 5, -3], [1, 100, 1e-3], size=(2, 20, 3))
    scaler = preprocessing.StandardScaler().fit(np.vstack([x, y]))
    assert np.allclose(standardise(x, y).x, scaler.transform(x), rtol=0, atol=1e-12)
    assert np.allclose(standardise(x, y, "each").y, preprocessing.StandardScaler().fit_transform(y), rtol=0, atol=1e-12)


def test_units_do_not_matter() -> None:
    """In standard units a table in metres and one in millimetres are the same."""
    x, y = np.random.default_rng(1).normal(size=(2, 9, 2))
    units = np.array([1.0, 1024.0])
    assert np.allclose(standardise(x, y).x, standardise(x * units, y * units).x, rtol=0, atol=1e-14)


def test_constant_column_is_shifted_only() -> None:
    """No division by zero: a constant of any size becomes 0, with scale 1."""
    result = standardise([[0.1, 1e300]] * 3, [[0.1, 1e300]] * 7)
    assert not result.x.any() and not result.y.any() and (result.scale == 1).all()
