"""What a claim reads: which answers of the library, made wrong one at a time, it notices.

A check of several parts that lost one would still pass, and still fail for whatever breaks the others. So every answer
of the library that a check receives is made wrong by itself: the first and the last call with each setting, each field
of the answer, four times as large, as small, or wrong in ways that keep as much as possible of the rest: half of the
heaviest row moved to another (column sums stay), the same for columns (row sums stay), a twist that keeps both, a skew
part that changes no quadratic form.

``sensitivity.json`` holds for each claim: how many calls it makes, what it asks (settings without data), how often it
reads each part of the problem, which wrong answers it noticed (1) or not (0), and the values of counterexamples and
measurements, except those that are rounding errors.

    python tests/sensitivity.py [claim ...]    # write the file anew; fewer wrong answers noticed is a weaker claim
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array

from espref.chapters import NUMPY_CHAPTERS
from espref.claims import LEDGER, Problem, synthetic_problems
from espref.claims.ledger import Claim

FILE = Path(__file__).parent / "sensitivity.json"
CHAPTERS = [name for name in NUMPY_CHAPTERS if name != "planfree"]  # whose claims are those of attention
#: One problem for each scope: different numbers of points, weights with zeros among them.
PROBLEMS = {"pair": "space, weighted #0", "plane": "plane, weighted #0", "square": "space #0"}
#: Wrong answers are tried on this scale; claims stand on its inverse too: residuals are relative, or no lengths.
SMALL = 2.0**-100
#: At most so many wrong answers for a claim, spread evenly, and about so many calls of the library.
TRIED, CALLS = 64, 1000
#: Residuals below are rounding, and have no value to remember.
ROUNDING = 1e-7
#: Values agree to this relative error on every machine: they are smooth functions of the problem, summed over at most
#: some thousand terms with condition numbers below 1000.
AGREEMENT = 1e-9
#: Claim -> the relative error to which its value is determined, where that is larger.
CONDITIONING = {
    # The ratio of two errors e >= 1e-8, measured from a fixed point of 60 entries that is known to 1e-13 in each:
    # (1 + 1/2) sqrt(60) 1e-13 / 1e-8, relative to 1/2.
    "softsort.balanced-rate": 3 * 60**0.5 * 1e-5,
}


class Place(NamedTuple):
    """One way of making one answer wrong."""

    call: int
    field: int | None
    way: str


class Call(NamedTuple):
    """What was asked, with its numbers and without, and in which ways the answer may be wrong."""

    setting: str
    asked: str
    ways: list[tuple[int | None, str]]


def relative_tolerance(name: str) -> float:
    """The relative error within which a claim returns the same value on every machine."""
    return CONDITIONING.get(name, AGREEMENT)


def _word(value: Any, numbers: bool) -> str:
    """An argument in a word: what could be data, arrays and numbers with a fraction, by its kind alone."""
    if isinstance(value, float):
        chosen = numbers or value in (0, 1, 2, 3, math.inf)
        return f"{value:.6g}" if chosen else "float"
    if isinstance(value, int | str | bool | None):
        return str(value)
    return "array" if isinstance(value, np.ndarray | list) else type(value).__name__


def _ways(answer: Any) -> list[tuple[int | None, str]]:
    """(field, way) for every array or number in an answer."""
    if isinstance(answer, tuple | list):
        return [(place, way) for place, value in enumerate(answer) for _, way in _ways(value)]
    if isinstance(answer, float):
        return [(None, "more"), (None, "less")]
    if not isinstance(answer, np.ndarray | coo_array) or answer.dtype.kind not in "fi" or not answer.size:
        return []
    ways = [str(axis) for axis, n in enumerate(answer.shape) if n > 1]
    if answer.dtype.kind == "f":
        ways += ["more", "less"] + ["twist"] * (answer.ndim == 2 and min(answer.shape) > 1)
        ways += ["skew"] * (answer.ndim == 2 and 1 < answer.shape[0] == answer.shape[1])
    return [(None, way) for way in ways]


def _spoil(answer: Any, field: int | None, way: str) -> Any:
    if field is not None:
        values = [_spoil(value, None, way) if place == field else value for place, value in enumerate(answer)]
        return answer._make(values) if hasattr(answer, "_make") else values
    if way in ("more", "less"):
        return answer * {"more": 4.0, "less": 0.25}[way]
    wrong = np.array(answer.toarray() if isinstance(answer, coo_array) else answer)
    if way == "twist":
        wrong[:2, :2] -= 4 * abs(wrong).max() * np.array([[1, -1], [-1, 1]])
    elif way == "skew":
        wrong[:2, :2] += abs(wrong).max() * np.array([[0, 1], [-1, 0]])
    elif wrong.dtype.kind == "i":
        wrong = np.roll(wrong, 1, axis=int(way))
    else:
        rows = np.moveaxis(wrong, int(way), 0)  # a view
        heaviest = abs(rows).reshape(len(rows), -1).sum(axis=1).argmax()
        half = rows[heaviest] / 2
        rows[heaviest] = half
        rows[heaviest - 1] += half
    return coo_array(wrong) if isinstance(answer, coo_array) else wrong


class _Counted:
    """A problem that counts how often its clouds and weights are read, moved to another scale by a power of 2."""

    def __init__(self, problem: Problem, scale: float) -> None:
        self._problem = dataclasses.replace(problem, x=scale * problem.x, y=scale * problem.y)
        self.reads: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name in ("x", "y", "a", "b"):
            self.reads[name] += 1
        return getattr(self._problem, name)


class _Watched:
    """A module of the library, as a module of claims sees it."""

    def __init__(self, module: ModuleType, hear: Callable) -> None:
        self._module, self._hear = module, hear

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if not isinstance(value, FunctionType):
            return value
        return lambda *arguments, **settings: self._hear(value, arguments, settings)


@contextmanager
def _watching(hear: Callable) -> Iterator[None]:
    """Every call of the library by a claim goes through ``hear(function, arguments, settings)``."""
    originals = []
    for name in CHAPTERS:
        module = sys.modules[f"espref.claims.{name}"]
        for key, value in list(vars(module).items()):
            if isinstance(value, ModuleType) and value.__name__.split(".")[0] == "espref":
                originals.append((module, key, value))
                setattr(module, key, _Watched(value, hear))
    try:
        yield
    finally:
        for module, key, value in originals:
            setattr(module, key, value)


class Ran(NamedTuple):
    """The residual of a check, the calls it made, and how often it read x, y, a and b of its problem."""

    residual: float
    calls: list[Call]
    reads: list[int]


def _run(check: Callable[..., float], on: str, place: Place | None = None, scale: float = 1.0) -> Ran:
    """Run a check, with one answer made wrong if asked."""
    calls: list[Call] = []

    def hear(function: Callable, arguments: tuple, settings: dict) -> Any:
        answer = function(*arguments, **settings)
        sizes = [len(value) for value in arguments[:2] if isinstance(value, np.ndarray) and value.ndim]
        square = len(sizes) == 2 and sizes[0] == sizes[1]
        questions = []
        for numbers in (True, False):
            words = [_word(value, numbers) for value in arguments]
            words += [f"{key}={_word(value, numbers)}" for key, value in settings.items()]
            questions.append(f"{function.__name__}({', '.join(words)}){' square' * square}")
        calls.append(Call(*questions, _ways(answer)))
        if place is not None and place.call == len(calls) - 1:
            return _spoil(answer, place.field, place.way)
        return answer

    with _watching(hear), np.errstate(all="ignore"):
        if on == "fixed":
            return Ran(float(check()), calls, [])
        if on == "seed":
            return Ran(float(check(np.random.default_rng([0, 271828]))), calls, [])
        problem = _Counted(next(p for p in synthetic_problems(0) if p.name == PROBLEMS[on]), scale)
        residual = float(check(problem))
        return Ran(residual, calls, [problem.reads[part] for part in "xyab"])


def _places(calls: list[Call], most: int) -> list[Place]:
    """The first and the last call with each setting, in every way; at most so many, evenly spread."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for k, call in enumerate(calls):
        first.setdefault(call.setting, k)
        last[call.setting] = k
    every = [Place(k, *way) for k in sorted({*first.values(), *last.values()}) for way in calls[k].ways]
    return [every[k] for k in np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).astype(int))]


def stands(entry: Claim, place: Place | None = None, scale: float = 1.0) -> bool:
    """Whether the claim stands, with one answer made wrong if asked; where that is refused elsewhere, it does."""
    try:
        residual = _run(entry.check, entry.on, place, scale).residual
    except (ValueError, ArithmeticError, RuntimeError, np.linalg.LinAlgError, IndexError):
        if place is None:
            raise
        return True
    return residual <= entry.tolerance if entry.sense == "at most" else residual >= entry.tolerance


class Reading(NamedTuple):
    """Calls, what they ask, parts of the problem read and residuals, of the check and of each companion; for each
    wrong answer that was tried, 1 if it was noticed and 0 if not."""

    calls: list[int]
    asked: list[list[str]]
    reads: list[list[int]]
    residuals: list[float]
    noticed: str


def residuals(entry: Claim) -> list[float]:
    """What the check and each companion return."""
    return [_run(part.check, part.on).residual for part in (entry, *entry.companions)]


def read(entry: Claim, most: int | None = None) -> Reading:
    """What the claim reads; ``most`` wrong answers are tried, or as many as ``TRIED`` and ``CALLS`` allow."""
    every = [_run(part.check, part.on) for part in (entry, *entry.companions)]
    calls = every[0].calls
    if most is None:
        most = min(TRIED, CALLS // max(len(calls), 1))
    places = _places(calls, most) if calls and most else []
    return Reading(
        calls=[len(ran.calls) for ran in every],
        asked=[sorted({call.asked for call in ran.calls}) for ran in every],
        reads=[ran.reads for ran in every],
        residuals=[ran.residual for ran in every],
        noticed="".join("01"[not stands(entry, place, SMALL)] for place in places),
    )


def values(residuals: list[float]) -> list[float | None]:
    """Those that are not rounding errors, None for the others."""
    return [residual if abs(residual) > ROUNDING and math.isfinite(residual) else None for residual in residuals]


if __name__ == "__main__":
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name in sys.argv[1:] or [name for name, entry in LEDGER.items() if entry.chapter in CHAPTERS]:
        reading = read(LEDGER[name])._asdict()
        known[name] = {key: reading[key] for key in ("calls", "asked", "reads", "noticed")}
        known[name]["values"] = values(reading["residuals"])
        print(name, known[name], flush=True)
    blocks = []
    for name in (name for name in LEDGER if name in known):
        lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in known[name].items())
        blocks.append(f' "{name}": {{\n{lines}\n }}')
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")
