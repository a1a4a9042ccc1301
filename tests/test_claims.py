"""The ledger itself: every claim stands on synthetic and real data, and failures are reported as such."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import espref
from espref.claims import LEDGER, Problem, real_problems, run_claim, synthetic_problems
from espref.claims.ledger import Claim, Companion

PROBLEMS = synthetic_problems(0) + real_problems(0)
EXACT = ("line", "directions", "lift", "expected", "circle", "solvers")


@pytest.mark.parametrize("name", sorted(LEDGER))
def test_claim_stands(name: str) -> None:
    """Each claim holds (or is refuted by its counterexample), and its companions fail, on all problems."""
    outcome = run_claim(LEDGER[name], PROBLEMS, seeds=2)
    if outcome.verdict == "skipped":
        pytest.skip(outcome.note)
    assert outcome.good, (outcome.residual, outcome.companions, outcome.note)


def test_ledger_is_well_kept() -> None:
    """Identifiers name their chapter, statements are sentences with balanced formulas, every claim has a proof and
    its sources exist; there are at least thirty claims on the exact chapters."""
    keys = set(re.findall(r"@\w+\{(\w+),", (Path(espref.__file__).parent / "references.bib").read_text()))
    assert sum(entry.chapter in EXACT for entry in LEDGER.values()) >= 30
    for name, entry in LEDGER.items():
        assert name == entry.id and re.fullmatch(r"[a-z]+(\.[a-z0-9-]+)", name), name
        assert entry.statement.rstrip().endswith((".", "”")) and entry.statement.count("$") % 2 == 0, name
        assert entry.measured.count("$") % 2 == 0 and not entry.measured.endswith("."), name
        assert entry.measured or entry.chapter in ("nn", "train"), name
        assert len(entry.proof) > 20, name
        assert set(filter(None, entry.source.split(", "))) <= keys, name
        assert all(companion.check.__doc__ for companion in entry.companions), name


def _claim(check: Callable[..., float], *companions: Companion, **fields: object) -> Claim:
    settings = {"tolerance": 1e-3, "sense": "at most", "on": "fixed", "kind": "theorem"} | fields
    return Claim(id="line.test", statement="A test.", source="", check=check, companions=list(companions), **settings)


def test_verdicts() -> None:
    """Residual against tolerance in both senses; a NaN, an exception, or a companion that holds is a failure."""
    assert run_claim(_claim(lambda: 1e-4), []).verdict == "holds"
    assert run_claim(_claim(lambda: 1e-2), []).verdict == "fails"
    assert run_claim(_claim(lambda: np.nan), []).verdict == "fails"
    assert run_claim(_claim(lambda: 1e-2, sense="at least", kind="refutation"), []).verdict == "refuted"
    assert run_claim(_claim(lambda: np.nan, sense="at least", kind="refutation"), []).verdict == "fails"
    broken = run_claim(_claim(lambda: 1 / 0), [])
    assert broken.verdict == "error" and "ZeroDivisionError" in broken.note and not broken.good
    needless = Companion("what matters", lambda: 0.0, 0.5, "fixed")
    assert "holds even without what matters" in run_claim(_claim(lambda: 0.0, needless), []).note


def test_worst_problem_is_named() -> None:
    """The outcome keeps the worst residual and says where it was found; a claim without a fitting problem is
    skipped."""
    entry = _claim(lambda problem: float(problem.dim), on="pair", tolerance=100)
    outcome = run_claim(entry, synthetic_problems(0))
    assert outcome.residual == 64 and outcome.worst == "high dimension #0" and outcome.runs == 8
    no_plane = run_claim(_claim(lambda problem: 0.0, on="plane"), [p for p in synthetic_problems(0) if p.dim != 2])
    assert no_plane.verdict == "skipped"


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that needs a missing module is skipped with the pip line that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run_claim(_claim(lambda: 0.0, needs=("ot", "torch")), [])
    assert outcome.verdict == "skipped" and outcome.note == "pip install 'espref[torch,verify]'"


def test_problems_are_reproducible_and_valid() -> None:
    """Same seed, same problems; weights are probabilities, with zeros among them; real data ties."""
    for first, again in zip(
        synthetic_problems(3) + real_problems(3), synthetic_problems(3) + real_problems(3), strict=True
    ):
        assert all(np.array_equal(getattr(first, part), getattr(again, part)) for part in "xyab")
        assert np.isclose(first.a.sum(), 1) and np.isclose(first.b.sum(), 1) and first.a.min() >= 0
    assert any((problem.a == 0).any() for problem in PROBLEMS)
    digits = next(problem for problem in PROBLEMS if problem.name.startswith("digits"))
    assert len(np.unique(digits.x[:, 0])) == 8 < len(digits.x)


def test_problem_knows_its_scope() -> None:
    """Square means n = m and uniform weights."""
    x = np.zeros((4, 2))
    assert Problem("p", x, x, np.full(4, 0.25), np.full(4, 0.25)).square
    assert not Problem("p", x, x, np.array([0.1, 0.4, 0.25, 0.25]), np.full(4, 0.25)).square


def _on_many_seeds(entry: Claim, seeds: range) -> list[str]:
    """The claim and its companions on random problems of these seeds: what does not stand."""
    failures = []
    for check, on, low, high in [
        (
            entry.check,
            entry.on,
            *((-np.inf, entry.tolerance) if entry.sense == "at most" else (entry.tolerance, np.inf)),
        ),
        *((companion.check, companion.on, companion.at_least, np.inf) for companion in entry.companions),
    ]:
        if on == "seed":
            with np.errstate(under="ignore"):  # as when the ledger is run
                residuals = [float(check(np.random.default_rng([seed, 271828]))) for seed in seeds]
            failures += [f"seed {seed}: {r}" for seed, r in zip(seeds, residuals, strict=True) if not low <= r <= high]
    return failures


#: Claims of the NumPy chapters that are measured on seeds, or have a companion that is.
SEEDED = [
    name
    for name, entry in LEDGER.items()
    if entry.chapter not in ("nn", "train") and "seed" in (entry.on, *(companion.on for companion in entry.companions))
]


@pytest.mark.parametrize("name", SEEDED)
def test_other_seeds(name: str) -> None:
    """A seed beyond those that are run by default; make trust runs five hundred."""
    if (remedy := LEDGER[name].missing()) is not None:
        pytest.skip(remedy)
    assert not _on_many_seeds(LEDGER[name], (100,))


@pytest.mark.trust
@pytest.mark.parametrize("name", SEEDED)
def test_five_hundred_seeds(name: str) -> None:
    """No claim depends on its seed."""
    if (remedy := LEDGER[name].missing()) is not None:
        pytest.skip(remedy)
    assert not _on_many_seeds(LEDGER[name], range(500))


def test_claims_about_pot_follow_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim about POT 0.9.7 is measured with it and its post-releases, and says so with any other."""
    pytest.importorskip("ot")
    for version, measured in (("0.9.7", True), ("0.9.7.post1", True), ("0.9.70", False), ("0.9.8", False)):
        monkeypatch.setattr("importlib.metadata.version", lambda name, version=version: version)
        for name in ("solvers.pot-slice-costs-are-wrong", "solvers.pot-simplex-has-no-scale"):
            outcome = run_claim(LEDGER[name], [])
            assert (outcome.verdict != "not measurable") is measured, (version, outcome.note)
            assert measured or version in outcome.note
