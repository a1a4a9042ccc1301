"""The other way round: every claim of the NumPy chapters falls for some way of breaking the library.

A claim that passes whatever the code does would be worth nothing.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sensitivity
from scipy.sparse import coo_array
from test_claims import BREAKS, EXACT, PROBLEMS, SOFT, SOFT_BREAKS, break_library

from espref import _ties as tied
from espref import attention, circle, directions, expected, line, softsort
from espref.claims import LEDGER, Problem, run_claim
from espref.claims import line as line_claims
from espref.claims.problems import uniform

#: Mathematics that calls nothing of the package, and facts about another one.
ABOUT_NO_CODE = {
    "attention.no-causal-form",
    "solvers.pot-slice-costs-are-wrong",
    "solvers.pot-simplex-has-no-scale",
}


def _full_plan(matching, a, b):
    rows, cols = np.indices((len(a), len(b)))
    return tied.Pieces(rows.ravel(), cols.ravel(), np.full(rows.size, 1 / rows.size))


def _random_whatever_is_asked(n_directions, dim, *, method="random", rng=None):
    return directions._random(n_directions, dim, np.random.default_rng())


def _tilted(x, y, arcs=circle.arcs):
    lengths, middles = arcs(x, y)
    lengths = lengths * (1 + 0.5 * np.cos(2 * middles))
    return circle.Arcs(lengths / lengths.sum() * np.pi, middles)


def _target_weighs_less(x, y, theta, a=None, b=None, *, plan=expected.expected_sliced_plan, **settings):
    result = plan(x, y, theta, a, b, **settings)
    return result._replace(cost=result.cost * (1 + 1e-9 * x.ravel()[0] - 1e-9 * y.ravel()[0]))


def _iterations(change):
    def broken(q, k, v, *, n_iter, sinkhorn=attention.sinkhorn_attention):
        return sinkhorn(q, k, v, n_iter=change(n_iter))

    return broken


def _louder(q, k, v, *, esp=attention.esp_attention, **settings):
    output, matrix = esp(q, k, v, **settings)
    return attention.Attention(3 * output, matrix)


#: What is broken -> (the function, its broken form, the claims that must fall).
MORE: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    "every point sends to all": (tied.split_ties, _full_plan, ("line.few-entries",)),
    "values rounded before they are sorted": (
        line.match,
        lambda u, v, a, b, ties, match=line.match: match(np.round(u, 1), v, a, b, ties),
        ("line.depends-on-order-only",),
    ),
    "random directions whatever is asked": (
        directions.sample_directions,
        _random_whatever_is_asked,
        ("directions.orthogonal-blocks", "directions.second-moment", "directions.same-seed-same-bits"),
    ),
    "some angles of the circle count more": (circle.arcs, _tilted, ("circle.rotation",)),
    "the cost depends on which cloud is the source": (
        expected.expected_sliced_plan,
        _target_weighs_less,
        ("expected.symmetry",),
    ),
    "a plan as dense as Sinkhorn's": (
        expected.expected_sliced_plan,
        lambda x, y, *rest, plan=expected.expected_sliced_plan, **settings: plan(x, y, *rest, **settings)._replace(
            plan=coo_array(np.full((len(x), len(y)), 1 / (len(x) * len(y))))
        ),
        ("solvers.sliced-plan-is-sparser-than-sinkhorn",),
    ),
    "a kernel that is not positive definite": (
        softsort.sort_kernel,
        lambda ordered, tau, power=1: np.exp(-((ordered[:, None] - ordered) ** 4)),
        ("softsort.kernel-is-positive-definite",),
    ),
    "balanced scaling not begun": (
        softsort.fixed_point,
        lambda apply, d: d,
        ("softsort.balanced-jacobian",),
    ),
    "balanced scaling off by a thousandth": (
        softsort.fixed_point,
        lambda apply, d, solve=softsort.fixed_point: solve(apply, d) * (1 + 1e-3 * np.arange(len(d)) / len(d)),
        ("softsort.balanced-rate",),
    ),
    "outputs three times as large": (attention.esp_attention, _louder, ("attention.contracts-the-variance",)),
    "Sinkhorn stops where it starts": (
        attention.sinkhorn_attention,
        _iterations(lambda n: 13 - n),
        ("attention.sinkhorn-needs-iterations",),
    ),
    "Sinkhorn goes on until it has converged": (
        attention.sinkhorn_attention,
        _iterations(lambda n: 250),
        ("attention.three-sinkhorn-iterations-suffice",),
    ),
    "one direction for all": (
        directions.sample_directions,
        lambda n, dim, *, method="random", rng=None: np.tile(np.eye(dim)[0], (n, 1)),
        ("circle.monte-carlo-rate", "circle.equispaced-rate", "circle.sobol-rate"),
    ),
}
ALL = BREAKS | SOFT_BREAKS | {name: (function, broken) for name, (function, broken, _) in MORE.items()}
#: Claim -> the break that it notices, the quickest found.
NOTICED: dict[str, str] = json.loads((Path(__file__).parent / "noticed.json").read_text())
NOTICED |= {claim: name for name, (*_, claims) in MORE.items() for claim in claims}
SMALL = [problem for problem in PROBLEMS if problem.origin == "synthetic"]


def test_every_claim_is_here() -> None:
    """No claim of these chapters is left out but those that speak about no code of the package."""
    named = {entry.id for entry in LEDGER.values() if entry.chapter in EXACT + SOFT}
    assert set(NOTICED) | ABOUT_NO_CODE == named and not set(NOTICED) & ABOUT_NO_CODE


@pytest.mark.parametrize("claim", NOTICED)
def test_it_falls(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one function broken, the claim falls by its own residual."""
    break_library(monkeypatch, *ALL[NOTICED[claim]])
    outcome = run_claim(LEDGER[claim], SMALL, seeds=1)
    if outcome.verdict == "skipped":
        pytest.skip(outcome.note)
    assert outcome.verdict == "fails" and outcome.note.startswith("worst on"), (outcome.residual, outcome.note)


#: Claim -> what it reads; see ``sensitivity.py``.
READS: dict[str, dict] = json.loads(sensitivity.FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", READS)
def test_what_a_claim_reads(name: str) -> None:
    """It asks the library the same questions as when it was read last, as often, notices every wrong answer that it
    noticed then, and comes out at the same number where that is no rounding, to the bit when it is run again."""
    if any(importlib.util.find_spec(module) is None for module in LEDGER[name].needs):
        pytest.skip(LEDGER[name].missing())
    known, found = READS[name], sensitivity.read(LEDGER[name], len(READS[name]["noticed"]))
    assert all(getattr(found, part) == known[part] for part in ("calls", "asked", "reads"))
    assert all(now >= before for now, before in zip(found.noticed, known["noticed"], strict=True)), found.noticed
    assert found.residuals == sensitivity.read(LEDGER[name], 0).residuals
    values = sensitivity.values(found.residuals)
    assert [value is None for value in values] == [value is None for value in known["values"]]
    numbers = [(value, before) for value, before in zip(values, known["values"], strict=True) if value is not None]
    assert all(np.isclose(value, before, rtol=1e-9, atol=0) for value, before in numbers), numbers


@pytest.mark.parametrize("name", [name for name, known in READS.items() if known["reads"][0]])
@pytest.mark.parametrize("scale", [sensitivity.SMALL, 1 / sensitivity.SMALL])
def test_scale_of_the_clouds(name: str, scale: float) -> None:
    """Tiny clouds and huge ones: a claim about any two clouds stands on every scale."""
    if any(importlib.util.find_spec(module) is None for module in LEDGER[name].needs):
        pytest.skip(LEDGER[name].missing())
    assert sensitivity.stands(LEDGER[name], scale=scale)


@pytest.mark.parametrize("method", ["random", "orthogonal", "sobol"])
def test_one_scheme_ignores_its_seed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions that are the same for every seed are noticed, whichever scheme it is."""

    def stubborn(n, dim, *, method="random", rng=None, named=method, sample=directions.sample_directions):
        return sample(n, dim, method=method, rng=0 if method == named else rng)

    break_library(monkeypatch, directions.sample_directions, stubborn)
    assert run_claim(LEDGER["directions.same-seed-same-bits"], [], seeds=1).residual == 1


def test_half_a_sphere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions on one half of the sphere, whose second moments are right: |z| has mean 1/2, variance 1/3, so the
    mean is off by sqrt(3 n) / 2 standard errors."""

    def half(n_directions, dim, *, method="random", rng=None, sample=directions.sample_directions):
        rows = sample(n_directions, dim, method=method, rng=rng)
        return np.where(rows[:, -1:] < 0, -rows, rows)

    break_library(monkeypatch, directions.sample_directions, half)
    outcome = run_claim(LEDGER["directions.random-is-uniform"], [], seeds=1)
    assert outcome.residual == pytest.approx(np.sqrt(3 * 4096) / 2, rel=0.05)


@pytest.mark.parametrize("mass, residual", [(0.0, 2), (1e-9, 1)])
def test_one_entry_more(mass: float, residual: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five points against seven have n + m - 1 entries; with one more the residual is 1, and 2 if it holds nothing."""

    def more(*arguments, plan=line.line_plan, **settings):
        found = plan(*arguments, **settings)
        parts = (np.append(found.data, mass), (np.append(found.row, 0), np.append(found.col, 0)))
        return coo_array(parts, shape=found.shape)

    rng = np.random.default_rng(0)
    problem = Problem("five and seven", rng.normal(size=(5, 2)), rng.normal(size=(7, 2)), uniform(5), uniform(7))
    assert run_claim(LEDGER["line.few-entries"], [problem]).residual == 0
    break_library(monkeypatch, line.line_plan, more)
    assert run_claim(LEDGER["line.few-entries"], [problem]).residual == residual


def test_optimal_for_one_cost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is optimal for |u - v| and crosses wherever it may costs too much for the other exponents."""
    emd = pytest.importorskip("ot").emd

    def crossing(u, v, a, b):
        return coo_array(emd(a, b, (ground := np.abs(u[:, None] - v)) + 1e-6 * np.sqrt(ground)))

    broken, problem = LEDGER["line.sorted-is-optimal"], next(p for p in SMALL if p.dim == 1)
    break_library(monkeypatch, line.line_plan, crossing)
    assert line_claims._excess(problem, np.abs) <= broken.tolerance
    for p in line_claims.EXPONENTS[1:]:
        assert line_claims._excess(problem, lambda t, p=p: np.abs(t) ** p) > 1e-3
    assert broken.check(problem) == max(
        line_claims._excess(problem, lambda t, p=p: np.abs(t) ** p) for p in (1.5, 2, 3)
    )


def test_one_entry_more_than_slices_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four slices have at most 4 (n + m - 1) entries; the residual says by how much a plan has more."""
    pytest.importorskip("ot")
    problem = next(p for p in SMALL if p.square)
    allowed = 4 * (2 * len(problem.x) - 1)

    def more(*arguments, plan=expected.expected_sliced_plan, **settings):
        return plan(*arguments, **settings)._replace(
            plan=coo_array((np.ones(allowed + 1), np.zeros((2, allowed + 1), int)))
        )

    break_library(monkeypatch, expected.expected_sliced_plan, more)
    assert LEDGER["solvers.sliced-plan-is-sparser-than-sinkhorn"].check(problem) == (allowed + 1) / allowed


def test_a_plan_that_ignores_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not change with the order of the source either, and the companion says so."""
    break_library(monkeypatch, line.line_plan, lambda u, v, *rest, plan=line.line_plan, **ties: plan(u * 0, v, *rest))
    outcome = run_claim(LEDGER["line.depends-on-order-only"], SMALL)
    assert outcome.residual == 0 and outcome.note.startswith("holds even without the direction of the map")


@pytest.mark.parametrize("above, falls", [(-1e-3, False), (1e-3, True)])
def test_the_bound_of_small_tau(above: float, falls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft sort just inside (n - 1) e^{-g^q / tau} of the permutation is right, one just outside is not."""

    def nearly(s, tau, *, power):
        matrix = np.eye(len(s))[np.argsort(s)]
        matrix[0, 0] += (1 + above) * (len(s) - 1) * np.exp(-(np.diff(np.sort(s)).min() ** power) / tau)
        return matrix

    monkeypatch.setattr(softsort, "soft_permutation", nearly)
    claim = LEDGER["softsort.small-tau"]
    assert (claim.check(np.random.default_rng(0)) > claim.tolerance) == falls


def test_almost_triangular(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one diagonal more allowed, all the mass of a doubly stochastic matrix can leave the diagonal."""
    monkeypatch.setattr(np, "tril", lambda matrix, k=0, tril=np.tril: tril(matrix, k + 1))
    assert LEDGER["attention.no-causal-form"].check() == pytest.approx(6)


def test_every_claim_is_read() -> None:
    """All claims of the NumPy chapters are in the file."""
    assert set(READS) == {name for name, entry in LEDGER.items() if entry.chapter in EXACT + SOFT}
