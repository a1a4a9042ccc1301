"""The ledger: what a claim is, how it is registered, and how it is run.

A claim is a statement and a function, its *check*, that measures the statement on the code of this package and returns
one number. There are four kinds:

* a *theorem* is mathematics; the number is a residual and must be at most the tolerance;
* a *property* is a promise of this software, such as the same bits for the same seed; its number is bounded likewise;
* a *refutation* quotes a statement that is false; the number is the size of the violation and must be at least the
  tolerance;
* a *measurement* is a number that experiments give and no proof does; it may be bounded from either side.

On the user's clouds, whose points may differ by less than rounding can tell, or whose costs no float may hold, a claim
can also be *not measurable*: its check raises ``NotMeasurable`` with the reason, or meets a documented limit of
the package. On the package's own problems that is an error, since every claim must be measured there; but a claim about
one version of another package is not measurable where another version is installed.

The statement is mathematics and nothing else; ``measured`` says what the number is. The docstring of the check is the
proof, or says where it can be found. ::

    @claim("line.sorted-is-optimal", kind="theorem", on="pair", tolerance=1e-12, source="peyre2019computational",
           statement=r"...", measured=r"...")
    def sorted_is_optimal(problem): ...

A *companion* drops a hypothesis of the claim. The statement must then fail, by at least the companion's own margin::

    @sorted_is_optimal.without("convexity of the cost", at_least=1e-3)
    def concave_cost(problem): ...
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from .._checks import Limit
from .._floats import underflow_is_zero
from .problems import SEEDS, NotMeasurable, Problem, fits

Kind = Literal["theorem", "property", "refutation", "measurement"]
Scope = Literal["fixed", "seed", "pair", "square", "plane"]
Sense = Literal["at most", "at least"]
Verdict = Literal["holds", "refuted", "fails", "error", "skipped", "not measurable"]

#: Modules that a claim may need beyond NumPy and SciPy, and the extra that installs each.
EXTRAS = {
    "ot": "verify",
    "sklearn": "verify",
    "matplotlib": "verify",
    "latex2mathml": "verify",
    "torch": "torch",
    "lightning_fabric": "train",
    "torchmetrics": "train",
}


def remedy(modules: Iterable[str]) -> str:
    """The pip line that installs these modules of ``EXTRAS``."""
    return f"pip install 'espref[{','.join(sorted({EXTRAS[name] for name in modules}))}]'"


@dataclass(frozen=True)
class Companion:
    """The same statement with one hypothesis dropped: ``check`` must return ``at_least`` or more.

    Parameters
    ----------
    dropped : str
        The hypothesis, as a noun phrase that completes "without".
    check : callable
        Measures the violation; it is called like the check of the claim.
    at_least : float
        Margin by which the statement must fail.
    on : str
        What the check is run on; see :func:`espref.claims.claim`.

    See Also
    --------
    Claim : Its method ``without`` registers a companion.

    Examples
    --------
    >>> from espref.claims import LEDGER
    >>> LEDGER["line.sorted-is-optimal"].companions[0].at_least
    0.001
    """

    dropped: str
    check: Callable[..., float]
    at_least: float
    on: Scope


@dataclass
class Claim:
    """One entry of the ledger.

    Parameters
    ----------
    id : str
        Chapter, dot, and the claim in a few words.
    kind : "theorem", "property", "refutation" or "measurement"
        What the number means.
    statement : str
        Hypotheses and assertion.
    source : str
        Keys of the bibliography, separated by commas; empty for what is derived here.
    check : callable
        Measures the claim; its docstring is the proof.
    tolerance : float
        Bound of the measured number.
    sense : "at most" or "at least"
        Side of the bound on which the claim holds.
    on : str
        What the check is run on; see :func:`espref.claims.claim`.
    needs : tuple of str
        Modules beyond NumPy and SciPy.
    companions : list of Companion
        The same statement with hypotheses dropped.
    measured : str
        What the check returns, as a noun phrase.
    corrected : str
        The version in which the statement was corrected, and how; usually empty.

    See Also
    --------
    claim : Make a claim and enter it into the ledger.

    Examples
    --------
    >>> from espref.claims import LEDGER
    >>> LEDGER["line.marginals"].kind
    'theorem'
    """

    id: str
    kind: Kind
    statement: str
    source: str
    check: Callable[..., float]
    tolerance: float
    sense: Sense
    on: Scope
    needs: tuple[str, ...] = ()
    companions: list[Companion] = field(default_factory=list)
    measured: str = ""
    corrected: str = ""

    @property
    def chapter(self) -> str:
        """The module that the claim is about, the first part of its identifier."""
        return self.id.split(".")[0]

    @property
    def sources(self) -> list[str]:
        """The keys of the papers that the claim is about."""
        return [key.strip() for key in self.source.split(",") if key.strip()]

    @property
    def origin(self) -> str:
        """Where the claim comes from, a paper or this project, where nobody has reviewed it."""
        papers = ", ".join(self.sources)
        if self.kind == "theorem":
            return papers or "derived here, not peer-reviewed"
        if self.kind == "property":
            return "a property of this software" + (f", compared with {papers}" if papers else "")
        done = "derived here" if self.kind == "refutation" else "measured here"
        return f"{done}, not peer-reviewed" + (f"; about a statement of {papers}" if papers else "")

    @property
    def proof(self) -> str:
        """The docstring of the check."""
        return (self.check.__doc__ or "").strip()

    def without(
        self, dropped: str, *, at_least: float, on: Scope | None = None
    ) -> Callable[[Callable[..., float]], Callable[..., float]]:
        """Register the decorated function as a companion that drops the hypothesis ``dropped``."""

        def register(check: Callable[..., float]) -> Callable[..., float]:
            self.companions.append(Companion(dropped, check, at_least, on or self.on))
            return check

        return register

    def missing(self) -> str | None:
        """The pip line that installs what the claim needs and is missing, or None."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return remedy(missing) if missing else None


LEDGER: dict[str, Claim] = {}


def claim(
    id: str,
    *,
    kind: Kind,
    statement: str,
    source: str,
    on: Scope,
    tolerance: float,
    measured: str = "",
    sense: Sense | None = None,
    needs: tuple[str, ...] = (),
    corrected: str = "",
) -> Callable[[Callable[..., float]], Claim]:
    """Enter the decorated check into the ledger.

    Parameters
    ----------
    id : str
        Permanent, listed in ``identifiers.txt``, never given to another statement: chapter, dot, the claim in a few
        words.
    kind : "theorem", "property", "refutation" or "measurement"
        What the number means.
    statement : str
        Hypotheses and assertion, as they would be printed in a paper.
    source : str
        Keys of the bibliography, separated by commas; empty for what is derived here.
    on : "fixed", "seed", "pair", "square" or "plane"
        What the check is run on: ``check()``, once; ``check(rng)``, once per seed; ``check(problem)``, for every
        problem, for those with n = m and uniform weights, for those with d = 2.
    tolerance : float
        Bound of the measured number.
    measured : str
        What the check returns, as a noun phrase that completes "measured as".
    sense : "at most" or "at least", optional
        Side of the bound; "at least" for refutations and "at most" for all other kinds by default.
    needs : tuple of str
        Modules beyond NumPy and SciPy, keys of ``EXTRAS``. Where one is missing, the claim is skipped with the pip
        line.
    corrected : str
        The version in which the statement was corrected, and how: "0.3.0: holds for p >= 1 only".

    Returns
    -------
    callable
        The decorator, which returns the :class:`Claim`.

    Raises
    ------
    ValueError
        When the identifier is in the ledger.

    See Also
    --------
    run : Measure claims.

    Examples
    --------
    >>> from espref import line_plan
    >>> from espref.claims import LEDGER, claim, run_claim
    >>> @claim("line.example", kind="theorem", on="seed", tolerance=1e-15, source="", statement="The mass is 1.")
    ... def mass(rng):
    ...     return abs(line_plan(rng.normal(size=5), rng.normal(size=7)).sum() - 1)
    >>> run_claim(mass, problems=[]).verdict
    'holds'
    >>> del LEDGER["line.example"]
    """
    if id in LEDGER:
        raise ValueError(f"id: expected a new identifier, got {id!r}, which is in the ledger")

    def register(check: Callable[..., float]) -> Claim:
        default: Sense = "at least" if kind == "refutation" else "at most"
        entry = Claim(id, kind, statement, source, check, tolerance, sense or default, on, needs)
        entry.measured, entry.corrected = measured, corrected
        LEDGER[id] = entry
        return entry

    return register


class Outcome(NamedTuple):
    """The result of one claim: the worst residual over all it was run on.

    See Also
    --------
    run_claim : Makes it.

    Examples
    --------
    >>> from espref.claims import LEDGER, run_claim, synthetic_problems
    >>> outcome = run_claim(LEDGER["line.marginals"], synthetic_problems())
    >>> outcome.good, outcome.runs
    (True, 8)
    """

    claim: Claim  # what was measured
    verdict: Verdict  # "holds", "refuted", "fails", "error", "skipped" or "not measurable"
    residual: float  # the worst
    companions: tuple[float, ...]  # the smallest violation of each companion
    runs: int  # number of problems or seeds
    worst: str  # the problem or seed with the worst residual
    seconds: float  # time taken
    note: str  # why a claim fails or was not measured

    @property
    def good(self) -> bool:
        """True unless the claim failed."""
        return self.verdict in ("holds", "refuted", "skipped", "not measurable")


def _residuals(
    check: Callable[..., float], on: Scope, problems: Sequence[Problem], seeds: int, obstacles: list[str]
) -> Iterator[tuple[str, float]]:
    """(name, residual) of each seed or problem the check is run on; why others could not be measured: ``obstacles``."""
    if on == "fixed":
        try:
            residual = float(check())
        except NotMeasurable as obstacle:
            obstacles.append(str(obstacle))
        else:
            yield "fixed", residual
    elif on == "seed":
        for seed in range(seeds):
            yield f"seed {seed}", float(check(np.random.default_rng([seed, 271828])))
    else:
        for problem in problems:
            if fits(problem, on):
                try:
                    residual = float(check(problem))
                except (NotMeasurable, Limit) as obstacle:
                    if problem.origin != "user":
                        raise
                    obstacles.append(str(obstacle))
                else:
                    yield problem.name, residual


@contextmanager
def _one_torch_thread(uses_torch: bool) -> Iterator[None]:
    """On problems this small more threads save no time, and cost much where cores are shared."""
    if not uses_torch:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@underflow_is_zero
def run_claim(entry: Claim, problems: Sequence[Problem], seeds: int = SEEDS) -> Outcome:
    """Run one claim and its companions on everything they apply to; the worst residual counts.

    Parameters
    ----------
    entry : Claim
        What to measure.
    problems : sequence of Problem
        What claims about pairs of clouds are run on.
    seeds : int
        Number of seeds for claims that draw their own input.

    Returns
    -------
    Outcome
        An error in a check is a verdict too, and not raised.

    See Also
    --------
    run : The same for several claims.

    Examples
    --------
    >>> from espref.claims import LEDGER, real_problems, run_claim
    >>> run_claim(LEDGER["lift.marginals"], real_problems()).verdict
    'holds'
    """
    with _one_torch_thread("torch" in entry.needs and entry.missing() is None):
        return _run_claim(entry, problems, seeds)


def _run_claim(entry: Claim, problems: Sequence[Problem], seeds: int) -> Outcome:
    start = time.perf_counter()

    def outcome(
        verdict: Verdict, residual: float, companions: tuple[float, ...], runs: int, worst: str, note: str
    ) -> Outcome:
        return Outcome(entry, verdict, residual, companions, runs, worst, time.perf_counter() - start, note)

    if (remedy := entry.missing()) is not None:
        return outcome("skipped", math.nan, (), 0, "", remedy)
    at_most, obstacles = entry.sense == "at most", list[str]()
    try:
        residuals = list(_residuals(entry.check, entry.on, problems, seeds, obstacles))
        if not residuals and obstacles:
            return outcome("not measurable", math.nan, (), 0, "", obstacles[0])
        if not residuals:
            return outcome("skipped", math.nan, (), 0, "", "the claim applies to none of the given problems")
        # a NaN is the worst of all, whatever the sense
        worst, residual = max(residuals, key=lambda r: math.inf if math.isnan(r[1]) else r[1] if at_most else -r[1])
        violations = tuple(_smallest_violation(companion, problems, seeds) for companion in entry.companions)
    except Exception as error:  # a claim that cannot be computed counts as failed, and the run goes on
        return outcome("error", math.nan, (), 0, "", f"{type(error).__name__}: {error}")
    within = residual <= entry.tolerance if at_most else residual >= entry.tolerance
    unneeded = [c.dropped for c, value in zip(entry.companions, violations, strict=True) if not value >= c.at_least]
    verdict: Verdict = "refuted" if entry.kind == "refutation" else "holds"
    note = f"not measurable on {len(obstacles)} more: {obstacles[0]}" if obstacles else ""
    if not within:
        verdict, note = "fails", f"worst on {worst}"
    elif unneeded:
        verdict, note = "fails", f"holds even without {'; '.join(unneeded)}"
    return outcome(verdict, residual, violations, len(residuals), worst, note)


def _smallest_violation(companion: Companion, problems: Sequence[Problem], seeds: int) -> float:
    """The least that a companion's check returns; infinite where it applies to nothing."""
    violations = _residuals(companion.check, companion.on, problems, seeds, [])
    return min((violation for _, violation in violations), default=math.inf)


def run(
    entries: Iterable[Claim],
    problems: Sequence[Problem],
    seeds: int = SEEDS,
    progress: Callable[[Claim], Any] = lambda entry: None,
) -> Iterator[Outcome]:
    """Run claims one after the other.

    Parameters
    ----------
    entries : iterable of Claim
        What to measure.
    problems : sequence of Problem
        What claims about pairs of clouds are run on.
    seeds : int
        Number of seeds for claims that draw their own input.
    progress : callable
        Called with each claim before it is run.

    Yields
    ------
    Outcome
        One for each claim, in order.

    See Also
    --------
    run_claim : The same for one claim.

    Examples
    --------
    >>> from espref.claims import LEDGER, run, synthetic_problems
    >>> line = [entry for entry in LEDGER.values() if entry.chapter == "line"]
    >>> all(outcome.good for outcome in run(line[:3], synthetic_problems(), seeds=1))
    True
    """
    for entry in entries:
        progress(entry)
        yield run_claim(entry, problems, seeds)
