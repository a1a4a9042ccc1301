"""``espref verify`` on clouds as people have them: no claim fails because of rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Clouds(NamedTuple):
    """A source and a target, weighted or not."""

    name: str
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray | None
    b: np.ndarray | None


def _clouds(kind: str, dim: int, rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, ...]:
    """Two clouds of one kind, and weights where the kind is about weights."""
    x, y = rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) + 0.5
    match kind:
        case "Cauchy":
            return rng.standard_cauchy((n, dim)), rng.standard_cauchy((m, dim))
        case "lognormal":
            return rng.lognormal(0, 6, (n, dim)), rng.lognormal(0, 6, (m, dim))
        case "outlier":
            y[rng.integers(m)] = 10.0 ** rng.integers(4, 13)
            return x, y
        case "two outliers":
            x[0], y[0] = -(10.0 ** rng.integers(4, 13)), 10.0 ** rng.integers(4, 13)
            return x, y
        case "common outlier":
            x[0] = y[0] = 10.0 ** rng.integers(4, 13)
            return x, y
        case "tiny gaps":
            return x[rng.integers(0, 4, n)] + 1e-12 * x, y[rng.integers(0, 4, m)] + 1e-12 * y
        case "missing values":
            x[rng.random(x.shape) < 0.1] = -9999
            y[rng.random(y.shape) < 0.1] = -9999
            return x, y
        case "time stamps":
            x, y = np.floor(1000 * x), np.floor(1000 * y)
            x[:, 0] += 1.7e12
            y[:, 0] += 1.7e12
            return x, y
        case "far apart":
            return x, y + 10.0 ** rng.integers(3, 10)
        case "duplicates":
            return x[rng.integers(0, 3, n)], y[rng.integers(0, m, m)]
        case "grid":
            return rng.integers(0, 3, (n, dim)).astype(float), rng.integers(0, 4, (m, dim)).astype(float)
        case "nearly equal":
            return x, x + 10.0 ** -rng.integers(3, 17) * rng.normal(size=x.shape)
        case "equal but one":
            y = x.copy()
            y[-1] += rng.normal(size=dim)
            return x, y
        case "light weights":
            return x, y, 10.0 ** rng.uniform(-15, 0, n), 10.0 ** rng.uniform(-15, 0, m)
        case "light outlier":
            x[0], a = 1e9, np.ones(n)
            a[0] = 1e-12
            return x, y, a, np.ones(m)
        case "one heavy":
            a, b = np.full(n, 1e-15), rng.integers(0, 2, m).astype(float)
            a[0] = b[0] = 1
            return x, y, a, b
        case "anisotropic":
            scales = 10.0 ** rng.integers(-9, 10, dim)
            return x * scales, y * scales
        case "on one line":
            return x[:, :1] * np.arange(1, dim + 1), y[:, :1] * np.arange(1, dim + 1)
        case "clusters":
            return x[rng.integers(0, 3, n)] + 1e-7 * x, 1e3 * y[rng.integers(0, 3, m)] + 1e-9 * y
        case "few points":
            return x[: rng.integers(1, 4)], y[: rng.integers(1, 4)]
        case "small beside large":
            return 10.0 ** -rng.integers(3, 13) * x, y
        case "one repeated point":
            return np.repeat(x[:1], n, axis=0), y
        case "powers":
            return 10.0 ** rng.uniform(-12, 12, (n, dim)), 10.0 ** rng.uniform(-12, 12, (m, dim))
    raise ValueError(kind)


KINDS = (
    "Cauchy",
    "lognormal",
    "outlier",
    "two outliers",
    "common outlier",
    "tiny gaps",
    "missing values",
    "time stamps",
    "far apart",
    "duplicates",
    "grid",
    "nearly equal",
    "equal but one",
    "light weights",
    "light outlier",
    "one heavy",
    "anisotropic",
    "on one line",
    "clusters",
    "few points",
    "small beside large",
    "one repeated point",
    "powers",
)


def clouds(number: int) -> Clouds:
    """Pair number ``number`` of the campaign: kinds in turn, dimensions 1, 2, 3, 10 in turn, half of them n = m."""
    rng = np.random.default_rng([number, 57721])
    kind, dim = KINDS[number % len(KINDS)], (2, 1, 3, 10)[number // len(KINDS) % 4]
    n = int(rng.integers(8, 30))
    m = n if number % 2 or kind in ("nearly equal", "equal but one") else int(rng.integers(8, 30))
    x, y, *weights = _clouds(kind, dim, rng, n, m)
    a, b = (side / side.sum() for side in weights) if weights else (None, None)
    return Clouds(f"{number}: {kind}, d = {dim}, n = {len(x)}, m = {len(y)}", x, y, a, b)
