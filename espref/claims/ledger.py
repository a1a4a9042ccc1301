"""The ledger: what a claim is, how it is registered, and how it is run.

A claim is a statement and a function, its *check*, that measures the statement on the code of this package and returns
one number. There are four kinds:

* a *theorem* is mathematics; the number is a residual and must be at most the tolerance;
* a *property* is a promise of this software, such as the same bits for the same seed; its number is bounded likewise;
* a *refutation* quotes a statement that is false; the number is the size of the violation and must be at least the
  tolerance;
* a *measurement* is a number that experiments give and no proof does; it may be bounded from either side.

On the user's clouds, whose points may differ by less than rounding can tell, or whose costs no float may hold, a claim
can also be *not measurable*: its check raises :class:`NotMeasurable` with the reason, or meets a documented limit of
the package. On the package's own problems that is an error, since every claim must be measured there.

The statement is mathematics and nothing else; ``measured`` says what the number is. The docstring of the check is the
proof, or says where it can be found.

    @claim("line.sorted-is-optimal", kind="theorem", on="pair", tolerance=1e-12, source="peyre2019computational",
           statement=r"...", measured=r"...")
    def sorted_is_optimal(problem): ...

A *companion* drops a hypothesis of the claim. The statement must then fail, by at least the companion's own margin:

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
    "torch": "torch",
    "lightning_fabric": "train",
    "torchmetrics": "train",
}


@dataclass(frozen=True)
class Companion:
    """The same statement with one hypothesis dropped: ``check`` must return ``at_least`` or more."""

    dropped: str
    check: Callable[..., float]
    at_least: float
    on: Scope


@dataclass
class Claim:
    """One entry of the ledger; see the module's docstring."""

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
        """Where the claim comes from: a paper, or this project, where nobody has reviewed it."""
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
        extras = sorted({EXTRAS[name] for name in self.needs if importlib.util.find_spec(name) is None})
        return f"pip install 'espref[{','.join(extras)}]'" if extras else None


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

    id : permanent, and listed in ``identifiers.txt``; never given to another statement.
    statement : hypotheses and assertion, as they would be printed in a paper.
    measured : what the check returns, as a noun phrase that completes "measured as".
    on : what the check is run on. "fixed": ``check()``, once; "seed": ``check(rng)``, once per seed; "pair":
        ``check(problem)`` for every problem; "square": those with n = m and uniform weights; "plane": those with d = 2.
    sense : "at least" (default for refutations) or "at most" (default for all other kinds).
    needs : modules beyond NumPy and SciPy, keys of ``EXTRAS``; without them the claim is skipped with the pip line.
    corrected : the version in which the statement was corrected, and how: "0.3.0: holds for p >= 1 only".
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
    """The result of one claim: the worst residual over all it was run on."""

    claim: Claim
    verdict: Verdict
    residual: float
    companions: tuple[float, ...]
    runs: int
    worst: str
    seconds: float
    note: str

    @property
    def good(self) -> bool:
        """True unless the claim failed."""
        return self.verdict in ("holds", "refuted", "skipped", "not measurable")


def _residuals(
    check: Callable[..., float], on: Scope, problems: Sequence[Problem], seeds: int, obstacles: list[str]
) -> Iterator[tuple[str, float]]:
    """(name, residual) of each seed or problem the check is run on; why others could not be measured: ``obstacles``."""
    if on == "fixed":
        yield "fixed", float(check())
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


def run_claim(entry: Claim, problems: Sequence[Problem], seeds: int = SEEDS) -> Outcome:
    """Run one claim and its companions on everything they apply to; the worst residual counts."""
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
    """Run claims one after the other; ``progress`` is called with each claim before it is run."""
    for entry in entries:
        progress(entry)
        yield run_claim(entry, problems, seeds)
