"""Claims notice when the library is broken: every claim of the NumPy chapters fails for some break, and every break
makes some claim fail. A claim that passes whatever the code does would be worth nothing."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sensitivity
from breaks import ALL, MORE, break_library
from scipy.sparse import coo_array

from espref import attention, directions, expected, line, softsort
from espref.chapters import NUMPY_CHAPTERS
from espref.claims import LEDGER, Problem, run_claim, synthetic_problems
from espref.claims.ledger import Claim, Outcome
from espref.claims.problems import fits, uniform

#: Mathematics that calls nothing of the package, and facts about another one.
ABOUT_NO_CODE = {
    "attention.no-causal-form",
    "solvers.pot-slice-costs-are-wrong",
    "solvers.pot-simplex-has-no-scale",
}
#: Claim -> the breaks that it is tested with.
NOTICED: dict[str, list[str]] = json.loads((Path(__file__).parent / "noticed.json").read_text(encoding="utf-8"))
for name, (*_, claims) in MORE.items():
    for claim in claims:
        NOTICED.setdefault(claim, []).append(name)


@cache
def problems(scope: str) -> list[Problem]:
    """The synthetic problems that claims of a scope apply to, the smallest first."""
    if scope in ("fixed", "seed"):
        return []
    found = [problem for problem in synthetic_problems(0) if fits(problem, scope)]
    return sorted(found, key=lambda problem: len(problem.x) * len(problem.y) * problem.dim)


def first_failure(entry: Claim) -> Outcome:
    """The outcome on the first problem on which the claim fails by its own residual; on the last one if there is none.

    A claim that raises an error, or that fails because a companion holds, has not noticed anything.
    """
    for problem in problems(entry.on) or [None]:
        outcome = run_claim(entry, [problem] if problem else [], seeds=1)
        if outcome.verdict == "skipped" or (outcome.verdict == "fails" and outcome.note.startswith("worst on")):
            break
    return outcome


@pytest.mark.parametrize(("claim", "broken"), [(claim, broken) for claim in NOTICED for broken in NOTICED[claim]])
def test_it_fails(claim: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one function broken, the claim fails by its own residual."""
    break_library(monkeypatch, *ALL[broken][:2])
    outcome = first_failure(LEDGER[claim])
    if outcome.verdict == "skipped":
        pytest.skip(outcome.note)
    assert outcome.verdict == "fails" and outcome.note.startswith("worst on"), (outcome.residual, outcome.note)


def test_every_claim_is_here() -> None:
    """No claim of these chapters is left out except those that are about no code of the package."""
    named = {entry.id for entry in LEDGER.values() if entry.chapter in NUMPY_CHAPTERS}
    assert set(NOTICED) | ABOUT_NO_CODE == named and not set(NOTICED) & ABOUT_NO_CODE


def test_every_break_is_here() -> None:
    """Each break of the library is one that some claim is tested with."""
    assert {broken for breaks in NOTICED.values() for broken in breaks} == set(ALL)


@pytest.mark.parametrize("name", [name for name, entry in LEDGER.items() if entry.on in sensitivity.PROBLEMS])
@pytest.mark.parametrize("scale", [sensitivity.SMALL, 1 / sensitivity.SMALL])
def test_scale_of_the_clouds(name: str, scale: float) -> None:
    """Tiny clouds and huge ones: a claim about any two clouds stands on every scale."""
    if (remedy := LEDGER[name].missing()) is not None:
        pytest.skip(remedy)
    assert sensitivity.stands(LEDGER[name], scale=scale)


@pytest.mark.parametrize("method", ["random", "orthogonal", "sobol"])
def test_one_scheme_ignores_its_seed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions that are the same for every seed are noticed, whichever scheme it is."""

    def stubborn(n, dim, *, method="random", rng=None, named=method, sample=directions.sample_directions):
        return sample(n, dim, method=method, rng=0 if method == named else rng)

    break_library(monkeypatch, directions.sample_directions, stubborn)
    assert run_claim(LEDGER["directions.same-seed-same-bits"], [], seeds=1).residual == 1


def test_half_a_sphere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions on one half of the sphere, whose second moments are right, have the wrong mean."""

    def half(n_directions, dim, *, method="random", rng=None, sample=directions.sample_directions):
        rows = sample(n_directions, dim, method=method, rng=rng)
        return np.where(rows[:, -1:] < 0, -rows, rows)

    break_library(monkeypatch, directions.sample_directions, half)
    assert run_claim(LEDGER["directions.random-is-uniform"], [], seeds=1).residual > 100


@pytest.mark.parametrize(("mass", "residual"), [(0.0, 2), (1e-9, 1)])
def test_one_entry_more(mass: float, residual: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five points against seven have n + m - 1 entries; with one more the residual is 1, and 2 if it holds nothing."""

    def more(*arguments, plan=line.line_plan, **settings):
        whole = plan(*arguments, **settings)
        parts = (np.append(whole.data, mass), (np.append(whole.row, 0), np.append(whole.col, 0)))
        return coo_array(parts, shape=whole.shape)

    rng = np.random.default_rng(0)
    problem = Problem("five and seven", rng.normal(size=(5, 2)), rng.normal(size=(7, 2)), uniform(5), uniform(7))
    assert run_claim(LEDGER["line.few-entries"], [problem]).residual == 0
    break_library(monkeypatch, line.line_plan, more)
    assert run_claim(LEDGER["line.few-entries"], [problem]).residual == residual


def test_one_entry_more_than_slices_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four slices have at most 4 (n + m - 1) entries; the residual says by how much a plan has more."""
    pytest.importorskip("ot")
    problem = problems("square")[0]
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
    outcome = run_claim(LEDGER["line.depends-on-order-only"], problems("pair"))
    assert outcome.residual == 0 and outcome.note.startswith("holds even without the direction of the map")


def _wrong_moment(rows: np.ndarray, degree: int) -> np.ndarray:
    """Directions with one moment of this degree wrong; those of lower degree are those of the sphere, or nearly so."""
    rows = rows.copy()
    if degree == 1:
        rows[:, 0] += 0.4
    elif degree == 2:
        rows[:, 0] *= 1.3
    elif degree == 3:  # E u v w > 0, while E u, E v, E w and second moments stay; in the plane E u (u^2 - 3 v^2) > 0
        u, v, w = rows[:, 0], rows[:, 1], rows[:, -1]
        cubic = u * (u**2 - 3 * v**2) if rows.shape[1] == 2 else u * v * w
        rows[cubic < 0] *= -1
    else:
        rows = np.sign(rows) * abs(rows) ** 0.6
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def failing(chapter: str) -> list[str]:
    """The claims of a chapter that fail by their own residual, on one seed."""
    entries = [entry for entry in LEDGER.values() if entry.chapter == chapter]
    return [entry.id for entry in entries if first_failure(entry).verdict == "fails"]


DIMENSIONS = {"random": ((2,), (3,), (7,), (12,), range(13, 99)), "equispaced": ((2,),), "lebedev": ((3,),)}
DIMENSIONS |= {"orthogonal": DIMENSIONS["random"], "sobol": DIMENSIONS["random"]}


@pytest.mark.trust
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize(("method", "dimensions"), [(m, dims) for m in DIMENSIONS for dims in DIMENSIONS[m]])
def test_wrong_moments_everywhere(
    method: str, dimensions: list[int], degree: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheme with one wrong moment of degree 1 to 4, in some dimensions only, makes a claim about directions fail."""

    def wrong(n, dim, *, method=method, rng=None, broken=method, sample=directions.sample_directions):
        rows = sample(n, dim, method=method, rng=rng)
        return _wrong_moment(rows, degree) if method == broken and dim in dimensions else rows

    break_library(monkeypatch, directions.sample_directions, wrong)
    assert failing("directions")


@pytest.mark.parametrize("method", ["random", "orthogonal", "sobol"])
def test_normalised_cube(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of a cube, normalised, have the moments of the sphere up to degree 3; those of degree 4 are noticed."""

    def cube(n, dim, *, method=method, rng=None, broken=method, sample=directions.sample_directions):
        rows = sample(n, dim, method=method, rng=rng)
        return _wrong_moment(rows, 4) if method == broken and dim == 5 else rows

    break_library(monkeypatch, directions.sample_directions, cube)
    claim = {"orthogonal": "directions.orthogonal-is-haar"}.get(method, "directions.random-is-uniform")
    assert first_failure(LEDGER[claim]).verdict == "fails"


def test_other_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another orthonormal basis instead of the axes has the same second moments, but not the same fourth ones."""

    def turned(n, dim, *, method="random", rng=None, sample=directions.sample_directions):
        rows = sample(n, dim, method=method, rng=rng)
        return rows @ sample(n, dim, method="orthogonal", rng=0) if method == "axes" else rows

    break_library(monkeypatch, directions.sample_directions, turned)
    assert first_failure(LEDGER["directions.bases-miss-degree-four"]).verdict == "fails"


def _mixture(s, weights, tau, power, sort, permutation=softsort.weighted_soft_permutation):
    """The mean of two temperatures: still invariant under translation, scaling and renumbering."""
    return (permutation(s, weights, tau, power, sort) + permutation(s, weights, 2 * tau, power, sort)) / 2


def _split_ties_when_moved(u, v, quanta, ties, match=line.match):
    """Ties are seen only near the origin."""
    return match(u, v, quanta, ties if abs(u).max() < 1 else "first")


#: Claim -> (function, its broken form) that an earlier check of it let pass.
SLIPPED_THROUGH = {
    "softsort.invariances": (softsort.weighted_soft_permutation, _mixture),
    "softsort.balanced-scaling-is-unique": (
        softsort.fixed_point,
        lambda apply, d, solve=softsort.fixed_point: np.sqrt(2) * solve(apply, d),
    ),
    "expected.beta-infinity-is-the-minimum": (
        expected.gibbs_weights,
        lambda costs, beta, prior=None, gibbs=expected.gibbs_weights: gibbs(costs, 0.8 * beta, prior),
    ),
    "lift.translation-and-scaling": (line.match, _split_ties_when_moved),
    "attention.softmax-is-a-gibbs-measure": (
        attention.softmax_attention,
        lambda q, k, v, *, softmax=attention.softmax_attention: softmax(0.9 * np.asarray(q), k, v),
    ),
}


@pytest.mark.parametrize("claim", SLIPPED_THROUGH)
def test_it_no_longer_slips_through(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong libraries that earlier checks of these claims did not notice."""
    break_library(monkeypatch, *SLIPPED_THROUGH[claim])
    outcome = first_failure(LEDGER[claim])
    assert outcome.verdict == "fails" and outcome.note.startswith("worst on"), outcome
