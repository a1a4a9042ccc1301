"""Hypothesis strategies for weighted clouds that look for trouble: ties, duplicates, zero weights, extreme scales."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

SCALES = (1e-150, 1e-30, 1.0, 3.7, 1e30, 1e150)


class Problem(NamedTuple):
    """Two weighted clouds and directions."""

    x: np.ndarray  # (n, d)
    y: np.ndarray  # (m, d)
    a: np.ndarray | None  # (n,)
    b: np.ndarray | None  # (m,)
    directions: np.ndarray  # (L, d)


@st.composite
def weights(draw: st.DrawFn, n: int) -> np.ndarray | None:
    """None, or n weights of sum 1: zeros, equal values and twenty orders of magnitude among them."""
    kind = draw(st.sampled_from(["none", "small", "wide"]))
    if kind == "none":
        return None
    if kind == "small":
        raw = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=float)
    else:
        exponents = draw(st.lists(st.integers(-300, 0), min_size=n, max_size=n))
        raw = 10.0 ** (np.array(exponents) / 15.0)
    raw[draw(st.integers(0, n - 1))] += 1.0
    return raw / raw.sum()


@st.composite
def points(draw: st.DrawFn, n: int, dim: int, scales: tuple[float, ...] = SCALES) -> np.ndarray:
    """n points: on a coarse grid (ties and duplicates), in general position, or both; at one of several scales."""
    grid = np.array(draw(st.lists(st.integers(-2, 2), min_size=n * dim, max_size=n * dim)), dtype=float)
    kind = draw(st.sampled_from(["grid", "general", "mixed"]))
    general = np.random.default_rng(draw(st.integers(0, 10**6))).standard_normal(n * dim)
    mixed = np.where(np.arange(n * dim) % 3 == 0, general, grid)
    chosen = {"grid": grid, "general": general, "mixed": mixed}[kind]
    return chosen.reshape(n, dim) * draw(st.sampled_from(scales))


@st.composite
def line_problems(draw: st.DrawFn, most: int = 8) -> Problem:
    """Two weighted clouds on the line (d = 1, one direction)."""
    n, m = draw(st.integers(1, most)), draw(st.integers(1, most))
    x, y = draw(points(n, 1)), draw(points(m, 1))
    return Problem(x, y, draw(weights(n)), draw(weights(m)), np.ones((1, 1)))


@st.composite
def problems(draw: st.DrawFn, most: int = 8, dims: tuple[int, ...] = (1, 2, 3), scales=SCALES) -> Problem:
    """Two weighted clouds of one scale, on axes or in general directions."""
    n, m, dim = draw(st.integers(1, most)), draw(st.integers(1, most)), draw(st.sampled_from(dims))
    scale = (draw(st.sampled_from(scales)),)
    x, y = draw(points(n, dim, scale)), draw(points(m, dim, scale))
    general = np.random.default_rng(draw(st.integers(0, 10**6))).standard_normal((3, dim))
    directions = np.concatenate([np.eye(dim), general])[: draw(st.integers(1, dim + 3))]
    return Problem(x, y, draw(weights(n)), draw(weights(m)), directions)


#: Temperatures of the soft sort, from end to end of the floats.
TAUS = (0.0, 5e-324, 1e-300, 1e-30, 1e-3, 0.1, 1.0, 7.0, 1e30, 1e300)


@st.composite
def scores(draw: st.DrawFn, most: int = 8, least: int = 1) -> np.ndarray:
    """Scores (n,): ties, denormals, spreads of 600 orders of magnitude, one outlier, all equal, at many scales."""
    n = draw(st.integers(least, most))
    kind = draw(st.sampled_from(["points", "denormal", "wide", "outlier", "equal"]))
    if kind == "points":
        return draw(points(n, 1))[:, 0]
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    if kind == "denormal":
        return rng.integers(-3, 4, n) * 5e-324
    if kind == "wide":
        return rng.choice([-1.0, 1.0], n) * 10.0 ** rng.integers(-320, 309, n)
    if kind == "equal":
        return np.full(n, rng.standard_normal())
    return np.append(rng.standard_normal(n - 1), 10.0 ** rng.integers(1, 300))


@st.composite
def tokens(draw: st.DrawFn, most: int = 8, scales: tuple[float, ...] = SCALES) -> tuple[np.ndarray, ...]:
    """Queries (n, d), keys (m, d), values (m, 3) and directions (L, d); queries and keys of one scale."""
    cloud = draw(problems(most, scales=scales))
    values = np.random.default_rng(draw(st.integers(0, 10**6))).standard_normal((len(cloud.y), 3))
    return cloud.x, cloud.y, values, cloud.directions
