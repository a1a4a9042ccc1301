"""``espref verify`` on clouds as people have them: no claim fails because of rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from breaks import BREAKS, break_library

from espref.app.verify import standardised
from espref.claims import LEDGER, run_claim
from espref.claims.ledger import Outcome
from espref.claims.problems import fits, user_problem


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
        case "counts":
            return rng.poisson(2, (n, dim)).astype(float), rng.poisson(3, (m, dim)).astype(float)
        case "huge and tiny":
            scale = 10.0 ** rng.choice([-250, -100, 100, 250])
            return scale * x, scale * rng.standard_cauchy((m, dim))
        case "one unit apart":
            y = x.copy()
            y[::2] = np.nextafter(y[::2], np.inf)
            return x, y
        case "a spike and a tail":
            return np.where(rng.random((n, dim)) < 0.8, 0.0, rng.pareto(0.5, (n, dim))), rng.pareto(0.5, (m, dim))
    return _rows_of(kind, dim, rng, n, m)


def _rows_of(table: str, dim: int, rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random parts of a real table, in some of its columns with the units they have."""
    datasets = pytest.importorskip("sklearn.datasets")
    values = getattr(datasets, f"load_{table}")().data
    columns = rng.choice(values.shape[1], min(dim, values.shape[1]), replace=False)
    rows = rng.permutation(len(values))
    return values[rows[:n]][:, columns], values[rows[n : n + m]][:, columns]


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
    "counts",
    "huge and tiny",
    "one unit apart",
    "a spike and a tail",
    "iris",
    "wine",
    "diabetes",
    "breast_cancer",
)


#: Kinds whose target has a point for every point of the source.
SAME_SIZE = ("nearly equal", "equal but one", "one unit apart")


def clouds(number: int) -> Clouds:
    """Pair number ``number`` of the campaign: kinds in turn, dimensions 1, 2, 3, 10 in turn, half of them n = m."""
    rng = np.random.default_rng([number, 57721])
    kind, dim = KINDS[number % len(KINDS)], (2, 1, 3, 10)[number // len(KINDS) % 4]
    most = 90 if number % 10 == 0 else 30
    n = int(rng.integers(8, most))
    m = n if number % 2 or kind in SAME_SIZE else int(rng.integers(8, most))
    x, y, *weights = _clouds(kind, dim, rng, n, m)
    a, b = (side / side.sum() for side in weights) if weights else (None, None)
    return Clouds(f"{number}: {kind}, d = {x.shape[1]}, n = {len(x)}, m = {len(y)}", x, y, a, b)


#: Breaks that leave valid directions and weights: no claim about the user's clouds is about their choice.
ELSEWHERE = ("Lebedev weights forgotten", "directions not uniform on the sphere", "QR without signs")

#: Claims about any two clouds, as ``espref verify --source --target`` runs them: without companions.
ENTRIES = [replace(entry, companions=[]) for entry in LEDGER.values() if entry.on in ("pair", "square", "plane")]


def outcomes(number: int) -> Iterator[Outcome]:
    """What becomes of the claims on a pair of clouds."""
    pair = clouds(number)
    problem = standardised(user_problem(pair.x, pair.y, pair.a, pair.b, max_points=300))
    yield from (run_claim(entry, [problem], seeds=1) for entry in ENTRIES if fits(problem, entry.on))


def fallen(number: int) -> list[str]:
    """The claims that fail on a pair of clouds, with their residuals."""
    found = list(outcomes(number))
    assert found
    return [f"{outcome.claim.id} {outcome.residual:.1e} {outcome.note}" for outcome in found if not outcome.good]


@pytest.mark.parametrize("number", [0, 2, 40, 76])
def test_no_claim_falls(number: int) -> None:
    """Cauchy, outliers, gaps of 1e-12 of the extent, a real table: no theorem is refuted by rounding."""
    assert fallen(number) == []


@pytest.mark.trust
@pytest.mark.parametrize("number", range(200))
def test_no_claim_falls_on_any(number: int) -> None:
    """The same on all 200 pairs of clouds."""
    assert fallen(number) == []


@pytest.mark.trust
@pytest.mark.parametrize("broken", [name for name in BREAKS if name not in ELSEWHERE])
def test_breaks_are_noticed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tolerances that follow the conditioning still notice a broken library: some claim fails."""
    break_library(monkeypatch, *BREAKS[broken])
    assert any(outcome.verdict == "fails" for number in (10, 13, 2, 44) for outcome in outcomes(number))


def test_obstacles_are_named() -> None:
    """Points that rounding may tie in every direction, costs of zero, and too many ties: not measurable, and why."""
    point = np.zeros((3, 2))
    on_a_point = standardised(user_problem(point, point, None, None, max_points=300))
    outcome = run_claim(replace(LEDGER["expected.zero-on-the-diagonal"], companions=[]), [on_a_point], seeds=1)
    assert outcome.verdict == "not measurable" and outcome.note == "the extent of the source is 0" and outcome.good
