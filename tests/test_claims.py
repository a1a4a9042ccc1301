"""The ledger itself: every claim stands on synthetic and real data, and falls when the code it speaks about is
broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array

import espref
from espref import _costs as costs
from espref import _ties as tied
from espref import attention, circle, directions, expected, lift, line, planfree, softplan, softsort, solvers
from espref.claims import LEDGER, Problem, real_problems, run_claim, synthetic_problems
from espref.claims.ledger import Claim, Companion

PROBLEMS = synthetic_problems(0) + real_problems(0)
EXACT = ("line", "directions", "lift", "expected", "circle", "solvers")
SOFT = ("softsort", "softplan", "attention")


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
    offsets = [costs._class_moments(x, a, matching.source)[0], costs._class_moments(y, b, matching.target)[0]]
    first = [side.order[side.starts] for side in (matching.source, matching.target)]
    return costs.paired_cost(x[first[0]] + offsets[0], y[first[1]] + offsets[1], *matching.pieces, 2)


def _all_arcs_equal(x, y, arcs=circle.arcs):
    lengths, middles = arcs(x, y)
    return circle.Arcs(np.full_like(lengths, np.pi / len(lengths)), middles)


def _orthogonal_without_signs(n, dim, rng):
    q = np.linalg.qr(rng.standard_normal((-(-n // dim), dim, dim)))[0]
    return np.swapaxes(q, 1, 2).reshape(-1, dim)[:n]


def _wrong_exponent(ordered, tau, power=1, kernel=softsort.sort_kernel):
    return kernel(ordered, tau, 3 - power)


def _half_tau(ordered, tau, power=1, kernel=softsort.sort_kernel):
    return kernel(ordered, tau / 2, power)


def _stopped_early(apply, d):
    for _ in range(20):
        d = np.sqrt(d / apply(d))
    return d


def _not_renormalised(s, weights, tau, power, sort, permutation=softsort.weighted_soft_permutation):
    if sort == "balanced":
        return permutation(s, weights, tau, power, sort)
    order = s.argsort(kind="stable")
    matrix = np.empty((len(s), len(s)))
    matrix[:, order] = softsort.sort_kernel(s[order], tau, power) / len(s)
    return matrix


def _columns_left_in_order(s, weights, tau, power, sort, permutation=softsort.weighted_soft_permutation):
    return permutation(s, weights, tau, power, sort)[:, s.argsort(kind="stable")]


def _softmax_of_columns(q, k, v, *, softmax=attention.softmax_attention):
    other = softmax(k, q, q).matrix.T
    return attention.Attention(other @ np.asarray(v), other)


def _sinkhorn_of_scaled(factor):
    def broken(q, k, v, *, n_iter, sinkhorn=attention.sinkhorn_attention):
        return sinkhorn(factor(np.shape(q)[1]) * np.asarray(q), k, v, n_iter=n_iter)

    return broken


def _columns_to_one(q, k, v, *, n_iter, sinkhorn=attention.sinkhorn_attention):
    matrix = sinkhorn(q, k, v, n_iter=n_iter).matrix * len(k) / len(q)
    return attention.Attention(matrix @ np.asarray(v), matrix)


def _interpolated_ranks(a, b):
    """The released code's: linear interpolation from m ranks to n, of mass 1, not a coupling."""
    places = np.linspace(0, len(b) - 1, len(a))
    return coo_array(np.maximum(0, 1 - abs(places[:, None] - np.arange(len(b)))) / len(a))


def _summed_costs(x, y, directions, tau, a=None, b=None, *, beta=0.0, plan=softplan.expected_soft_plan, **settings):
    slices = plan(x, y, directions, tau, a, b, beta=len(x) * beta, **settings)
    return slices._replace(cost=len(x) * slices.cost, costs=len(x) * slices.costs)


def _esp(change):
    """ESP attention with some of its settings changed."""

    def broken(q, k, v, *, esp=attention.esp_attention, **settings):
        return esp(q, k, v, **{**settings, **change(len(q), settings)})

    return broken


def _esp_of_m(q, k, v, *, esp=attention.esp_attention, **settings):
    output, matrix = esp(q, k, v, **settings)
    return attention.Attention(output * len(k) / len(q), matrix * len(k) / len(q))


def _without_column_sums(source, target, ranks, q, k, cost=planfree._squared_cost):
    sums = (source.transpose(np.full((1, q.shape[1]), 1 / q.shape[1]))[0],
            target.transpose(np.full((1, k.shape[1]), 1 / k.shape[1]))[0])  # fmt: skip
    wrong = sum(np.einsum("n,dn,dn->", c - 1 / len(c), x, x) for c, x in zip(sums, (q, k), strict=True))
    return cost(source, target, ranks, q, k) - wrong


#: What is broken -> (the function, its broken form).
BREAKS: dict[str, tuple[Callable, Callable]] = {
    "the target sorted downwards": (line.match, _reversed_target),
    "all weights taken for uniform": (
        line.quantise,
        lambda a, b, quantise=line.quantise: quantise(np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))),
    ),
    "ties never seen": (tied.classes, lambda values, ties, classes=tied.classes: classes(values, "first")),
    "ties shared equally, not by weight": (
        tied.split_ties,
        lambda matching, a, b, split=tied.split_ties: split(matching, np.full_like(a, 1.0), np.full_like(b, 1.0)),
    ),
    "a rounding error of 1e-9 in every mass": (
        tied.split_ties,
        lambda *arguments, split=tied.split_ties: (p := split(*arguments))._replace(mass=p.mass * (1 + 1e-9)),
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
    "the exponent p ignored": (costs.powers, lambda d, p: np.einsum("kd,kd->k", d, d)),
    "the spread of tied classes forgotten": (costs._tied_squared_cost, _drop_variances),
    "the wrong sign of beta": (
        expected.gibbs_weights,
        lambda costs, beta, prior=None, gibbs=expected.gibbs_weights: gibbs(np.negative(costs), beta, prior),
    ),
    "the prior ignored": (
        expected.gibbs_weights,
        lambda costs, beta, prior=None, gibbs=expected.gibbs_weights: gibbs(costs, beta),
    ),
    "the plan averaged without weights": (
        expected.average,
        lambda matchings, w, a, b, average=expected.average: average(matchings, np.full(len(w), 1 / len(w)), a, b),
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


#: The same for the soft chapters.
SOFT_BREAKS: dict[str, tuple[Callable, Callable]] = {
    "the other kernel": (softsort.sort_kernel, _wrong_exponent),
    "tau twice too small": (softsort.sort_kernel, _half_tau),
    "P transposed": (
        softsort.weighted_soft_permutation,
        lambda *arguments, sort=softsort.weighted_soft_permutation: sort(*arguments).T,
    ),
    "rows not renormalised": (softsort.weighted_soft_permutation, _not_renormalised),
    "columns left in sorted order": (softsort.weighted_soft_permutation, _columns_left_in_order),
    "sorted downwards": (
        softsort.weighted_soft_permutation,
        lambda *arguments, sort=softsort.weighted_soft_permutation: sort(*arguments)[::-1],
    ),
    "the weights forgotten by the sort": (
        softsort.weighted_soft_permutation,
        lambda s, a, *rest, sort=softsort.weighted_soft_permutation: sort(s, np.ones(len(s)), *rest),
    ),
    "balanced scaling stopped early": (softsort.fixed_point, _stopped_early),
    "balanced scaling stopped at 1e-8": (
        softsort.fixed_point,
        lambda apply, d, solve=softsort.fixed_point: solve(apply, d) * (1 + 1e-8 * np.arange(len(d)) / len(d)),
    ),
    "one target sort for both sides": (
        softplan.soft_plan,
        lambda u, v, a, b, *rest, plan=softplan.soft_plan: (
            plan(u, u, a, a, *rest) if len(u) == len(v) else plan(u, v, a, b, *rest)
        ),
    ),
    "ranks coupled downwards": (
        line.rank_plan,
        lambda a, b, ranks=line.rank_plan: coo_array(ranks(a, b[::-1]).toarray()[:, ::-1]),
    ),
    "ranks coupled by interpolation": (line.rank_plan, _interpolated_ranks),
    "the plan transposed": (
        softplan.soft_plan,
        lambda u, v, a, b, *rest, plan=softplan.soft_plan: (
            plan(v, u, b, a, *rest).T if len(u) != len(v) else plan(u, v, a, b, *rest).T
        ),
    ),
    "costs summed over a plan of mass n": (softplan.expected_soft_plan, _summed_costs),
    "softmax over queries": (attention.softmax_attention, _softmax_of_columns),
    "logits not divided by sqrt d": (attention.sinkhorn_attention, _sinkhorn_of_scaled(np.sqrt)),
    "logits divided by d": (attention.sinkhorn_attention, _sinkhorn_of_scaled(lambda d: d**-0.5)),
    "columns normalised to 1, not n / m": (attention.sinkhorn_attention, _columns_to_one),
    "costs of a plan of mass n": (attention.esp_attention, _esp(lambda n, s: {"beta": n * s["beta"]})),
    "the Gibbs weights forgotten": (attention.esp_attention, _esp(lambda n, s: {"beta": 0.0})),
    "tau scaled by the number of tokens": (attention.esp_attention, _esp(lambda n, s: {"tau": s["tau"] / n})),
    "m times the plan, not n": (attention.esp_attention, _esp_of_m),
    "recurrences one link late": (
        planfree.link_factors,
        lambda ordered, tau, links=planfree.link_factors: np.roll(links(ordered, tau), 1),
    ),
    "the diagonal counted twice": (
        planfree.apply_kernel,
        lambda factors, x, apply=planfree.apply_kernel: apply(factors, x) + x,
    ),
    "only the forward recurrence": (
        planfree.apply_kernel,
        lambda factors, x, apply=planfree.apply_kernel: np.tril(apply(factors, np.eye(x.shape[1]))).dot(x.T).T,
    ),
    "column sums taken for 1 in the cost": (planfree._squared_cost, _without_column_sums),
    "rank to rank, the nearest, when n != m": (
        line.rank_plan,
        lambda a, b: coo_array((a, (np.arange(n := len(a)), np.arange(n) * len(b) // n)), shape=(n, len(b))),
    ),
}


@pytest.mark.parametrize("broken", [*BREAKS, *SOFT_BREAKS])
def test_a_claim_falls_when_the_library_is_broken(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger notices: with one function broken, at least one claim of the same chapters no longer stands."""
    chapters, breaks = (EXACT, BREAKS) if broken in BREAKS else (SOFT, SOFT_BREAKS)
    break_library(monkeypatch, *breaks[broken])
    small = [problem for problem in PROBLEMS if problem.origin == "synthetic"]
    quick = [entry for entry in LEDGER.values() if entry.chapter in chapters and not entry.id.endswith("-rate")]
    outcomes = (run_claim(entry, small, seeds=1) for entry in quick)
    # by its own residual, not by an error, nor by a companion alone
    assert any(outcome.verdict == "fails" and outcome.note.startswith("worst on") for outcome in outcomes)


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
