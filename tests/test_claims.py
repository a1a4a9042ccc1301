"""The ledger itself: every claim stands on synthetic and real data, and falls when the code it speaks about is
broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import espref
from espref import circle, directions, expected, lift, line, solvers
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
        assert len(entry.proof) > 20, name
        assert set(filter(None, entry.source.split(", "))) <= keys, name
        assert all(companion.check.__doc__ for companion in entry.companions), name


def break_library(monkeypatch: pytest.MonkeyPatch, original: object, replacement: object) -> None:
    """Replace a function wherever a module of the package refers to it."""
    found = 0
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == "espref":
            for attribute, value in list(vars(module).items()):
                if value is original:
                    monkeypatch.setattr(module, attribute, replacement)
                    found += 1
    assert found


def _reversed_target(u, v, a, b, ties, match=line.match):
    return match(u, -v, a, b, ties)


def _drop_variances(matching, x, y, a, b):
    moments = (lift._class_moments(x, a, matching.source_order, matching.source_starts)[0],
               lift._class_moments(y, b, matching.target_order, matching.target_starts)[0])  # fmt: skip
    return lift._paired_cost(*moments, *matching.pieces, 2)


def _all_arcs_equal(x, y, arcs=circle.arcs):
    lengths, middles = arcs(x, y)
    return circle.Arcs(np.full_like(lengths, np.pi / len(lengths)), middles)


def _orthogonal_without_signs(n, dim, rng):
    q = np.linalg.qr(rng.standard_normal((-(-n // dim), dim, dim)))[0]
    return np.swapaxes(q, 1, 2).reshape(-1, dim)[:n]


#: What is broken -> (the function, its broken form).
BREAKS: dict[str, tuple[Callable, Callable]] = {
    "the target sorted downwards": (line.match, _reversed_target),
    "all weights taken for uniform": (
        line.quantise,
        lambda a, b, quantise=line.quantise: quantise(np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))),
    ),
    "ties never seen": (line._sort, lambda values, ties: (values.argsort(kind="stable"), np.arange(len(values)))),
    "ties shared equally, not by weight": (
        line.class_shares,
        lambda weights, order, starts: 1 / np.repeat(s := line.class_sizes(starts, len(order)), s),
    ),
    "a rounding error of 1e-9 in every mass": (
        line.to_plan,
        lambda pieces, n, m, to_plan=line.to_plan: to_plan(pieces._replace(mass=pieces.mass * (1 + 1e-9)), n, m),
    ),
    "Lebedev weights forgotten": (
        directions.direction_weights,
        lambda n, dim, method="random": np.full(n, 1 / n),
    ),
    "directions not uniform on the sphere": (
        directions._random,
        lambda n, dim, rng: directions._normalised(rng.uniform(-1, 1, (n, dim)) * np.arange(1, dim + 1)),
    ),
    "QR without signs": (directions._orthogonal, _orthogonal_without_signs),
    "directions not normalised": (directions._normalised, lambda rows: rows),
    "a matrix product that rounds by place": (
        lift.project,
        lambda points, dirs, project=lift.project: project(points, dirs) * (1 + 1e-16 * np.arange(len(points)) % 3e-16),
    ),
    "projections on absolute coordinates": (
        lift.project,
        lambda points, dirs, project=lift.project: project(np.abs(points), dirs),
    ),
    "the exponent p ignored": (lift._powers, lambda d, p: np.einsum("kd,kd->k", d, d)),
    "the spread of tied classes forgotten": (lift._tied_squared_cost, _drop_variances),
    "the wrong sign of beta": (
        expected.gibbs_weights,
        lambda costs, beta, prior=None, gibbs=expected.gibbs_weights: gibbs(np.negative(costs), beta, prior),
    ),
    "the prior ignored": (
        expected.gibbs_weights,
        lambda costs, beta, prior=None, gibbs=expected.gibbs_weights: gibbs(costs, beta),
    ),
    "the plan averaged without weights": (
        expected._average,
        lambda kept, w, a, b, average=expected._average: average(kept, np.full(len(w), 1 / len(w)), a, b),
    ),
    "the dearest slice for the cheapest": (
        expected.min_sliced_plan,
        lambda x, y, d, a=None, b=None, p=2: expected.expected_sliced_plan(
            x, y, d[np.argmax(lift.slice_costs(x, y, d, a, b, p=p))][None], a, b, p=p
        ),
    ),
    "the p-th root forgotten": (
        expected.est_distance,
        lambda x, y, d, a=None, b=None, beta=0.0, p=2: (
            expected.expected_sliced_plan(x, y, d, a, b, beta=beta, p=p).cost
        ),
    ),
    "arcs of equal length": (circle.arcs, _all_arcs_equal),
    "breakpoints of the source only": (circle.arcs, lambda x, y, arcs=circle.arcs: arcs(x, x[:1])),
    "the independent coupling called optimal": (
        solvers.exact_plan,
        lambda x, y, a=None, b=None, p=2: solvers.SolverPlan(g := np.outer(a, b), lift.transport_cost(g, x, y, p=p)),
    ),
    "the first power of a distance for its square": (
        lift.transport_cost,
        lambda plan, x, y, p=2, cost=lift.transport_cost: cost(plan, x, y, p=max(p - 1, 1)),
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_claim_falls_when_the_library_is_broken(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger notices: with one function broken, at least one claim no longer stands."""
    break_library(monkeypatch, *BREAKS[broken])
    small = [problem for problem in PROBLEMS if problem.origin == "synthetic"]
    quick = [entry for entry in LEDGER.values() if entry.chapter in EXACT and not entry.id.endswith("-rate")]
    assert any(
        run_claim(entry, small, seeds=1).verdict == "fails" for entry in quick
    )  # by its residual, not by an error


def _claim(check: Callable[..., float], *companions: Companion, **fields: object) -> Claim:
    settings = {"tolerance": 1e-3, "sense": "at most", "on": "fixed", "kind": "theorem"} | fields
    return Claim(id="line.test", statement="A test.", source="", check=check, companions=list(companions), **settings)


def test_verdicts() -> None:
    """Residual against tolerance in both senses; NaN and exceptions are falls; a companion that holds is a fall."""
    assert run_claim(_claim(lambda: 1e-4), []).verdict == "holds"
    assert run_claim(_claim(lambda: 1e-2), []).verdict == "fails"
    assert run_claim(_claim(lambda: np.nan), []).verdict == "fails"
    assert run_claim(_claim(lambda: 1e-2, sense="at least", kind="refutation"), []).verdict == "refuted"
    assert run_claim(_claim(lambda: np.nan, sense="at least", kind="refutation"), []).verdict == "fails"
    broken = run_claim(_claim(lambda: 1 / 0), [])
    assert broken.verdict == "error" and "ZeroDivisionError" in broken.note and not broken.good
    mute = Companion("what matters", lambda: 0.0, 0.5, "fixed")
    assert "holds even without what matters" in run_claim(_claim(lambda: 0.0, mute), []).note


def test_worst_problem_is_named() -> None:
    """The outcome keeps the worst residual and says where it was found; a claim without a fitting problem is
    skipped."""
    entry = _claim(lambda problem: float(problem.dim), on="pair", tolerance=100)
    outcome = run_claim(entry, synthetic_problems(0))
    assert outcome.residual == 64 and outcome.worst == "high dimension #0" and outcome.runs == 8
    nothing = run_claim(_claim(lambda problem: 0.0, on="plane"), [p for p in synthetic_problems(0) if p.dim != 2])
    assert nothing.verdict == "skipped"


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that needs a missing module is skipped with the pip line that mends it."""
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
