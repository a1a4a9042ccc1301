"""The ledger: what a claim is, how it is registered, and how it is run.

A claim is a function that measures one statement of the theory on the code of this package and returns one number.
For a *theorem* the number is a residual: it must be at most the tolerance. For a *refutation* it is the size of the
violation: it must be at least the tolerance. A *measurement* may be either. The docstring of the function is the proof,
or says where it stands.

    @claim("line.sorted-is-optimal", kind="theorem", on="pair", tolerance=1e-12,
           statement=r"...", source="peyre2019computational")
    def sorted_is_optimal(problem): ...

A *companion* drops a hypothesis of the claim and must see the statement fail, by at least its own margin:

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

from .problems import Problem, fits

Kind = Literal["theorem", "refutation", "measurement"]
Scope = Literal["fixed", "seed", "pair", "square", "plane"]
Sense = Literal["at most", "at least"]
Verdict = Literal["holds", "refuted", "fails", "error", "skipped"]

#: What a claim may need beyond numpy and scipy: module to import -> extra that installs it.
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
    """The same statement with one hypothesis dropped: ``check`` must come out at ``at_least`` or more."""

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

    @property
    def chapter(self) -> str:
        """The module the claim speaks about, the first part of its identifier."""
        return self.id.split(".")[0]

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
        """The pip line that mends a missing extra, or None when nothing is missing."""
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
    sense: Sense | None = None,
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[..., float]], Claim]:
    """Enter the decorated check into the ledger.

    on : what the check is run on. "fixed": ``check()``, once; "seed": ``check(rng)``, once a seed; "pair":
        ``check(problem)`` for every problem; "square": those with n = m and uniform weights; "plane": those with d = 2.
    sense : "at most" (default for theorems and measurements) or "at least" (default for refutations).
    needs : modules beyond numpy and scipy, keys of ``EXTRAS``; without them the claim is skipped, and says so.
    """
    if id in LEDGER:
        raise ValueError(f"id: expected a new identifier, got {id!r}, which is in the ledger")

    def register(check: Callable[..., float]) -> Claim:
        default: Sense = "at least" if kind == "refutation" else "at most"
        entry = Claim(id, kind, statement, source, check, tolerance, sense or default, on, needs)
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
        """True unless the claim fell."""
        return self.verdict in ("holds", "refuted", "skipped")


def _residuals(
    check: Callable[..., float], on: Scope, problems: Sequence[Problem], seeds: int
) -> Iterator[tuple[str, float]]:
    """(where, residual) for each thing the check is run on."""
    if on == "fixed":
        yield "fixed", float(check())
    elif on == "seed":
        for seed in range(seeds):
            yield f"seed {seed}", float(check(np.random.default_rng([seed, 271828])))
    else:
        for problem in problems:
            if fits(problem, on):
                yield problem.name, float(check(problem))


@contextmanager
def _one_torch_thread(used: bool) -> Iterator[None]:
    """Problems this small gain nothing from more threads, and lose much to their waiting where cores are shared."""
    if not used:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_claim(entry: Claim, problems: Sequence[Problem], seeds: int = 3) -> Outcome:
    """Run one claim and its companions on all it applies to; keep the worst residual."""
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
    at_most = entry.sense == "at most"
    try:
        found = list(_residuals(entry.check, entry.on, problems, seeds))
        if not found:
            return outcome("skipped", math.nan, (), 0, "", "none of the given problems has what the claim asks for")
        # a NaN is the worst of all, whatever the sense
        worst, residual = max(found, key=lambda f: math.inf if math.isnan(f[1]) else f[1] if at_most else -f[1])
        dropped = []
        for companion in entry.companions:
            values = [value for _, value in _residuals(companion.check, companion.on, problems, seeds)]
            dropped.append(min(values, default=math.inf))
    except Exception as error:  # a claim that cannot be computed has fallen, and the run goes on
        return outcome("error", math.nan, (), 0, "", f"{type(error).__name__}: {error}")
    stands = residual <= entry.tolerance if at_most else residual >= entry.tolerance
    mute = [c.dropped for c, value in zip(entry.companions, dropped, strict=True) if not value >= c.at_least]
    if not stands:
        return outcome("fails", residual, tuple(dropped), len(found), worst, f"worst on {worst}")
    if mute:
        return outcome("fails", residual, tuple(dropped), len(found), worst, f"holds even without {'; '.join(mute)}")
    verdict: Verdict = "refuted" if entry.kind == "refutation" else "holds"
    return outcome(verdict, residual, tuple(dropped), len(found), worst, "")


def run(
    entries: Iterable[Claim],
    problems: Sequence[Problem],
    seeds: int = 3,
    progress: Callable[[Claim], Any] = lambda entry: None,
) -> Iterator[Outcome]:
    """Run claims one after the other; ``progress`` is called with each before it starts."""
    for entry in entries:
        progress(entry)
        yield run_claim(entry, problems, seeds)
