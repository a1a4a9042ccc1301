"""A run of the ledger, and the document that keeps it.

The command line and the site measure by :func:`espref.claims.run_ledger`, on the same problems and with the same seeds,
and write the same document. Its layout, version 1 (``"schema": 1``), is stated as a JSON Schema in
``ledger.schema.json``:

* ``"document"``: "espref ledger"; ``"environment"``: what ``espref._environment.environment`` returned, with the
  version, the commit and the date; ``"seeds"``, ``"seconds"``, and ``"note"``, which says what was left out;
* ``"problems"``: name, origin, seed, sizes n and m, and dimension of each pair of clouds;
* ``"claims"``: of each claim the identifier, the kind, the statement, what is measured, the keys of its sources, where
  it comes from, what was corrected in it, the verdict, the residual, the tolerance and its sense, the worst problem,
  companions, number of runs, seconds, and a note. A residual that is infinite or no number is null.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from .._environment import Environment, Input, commit_at_start, environment
from .._output import atomic
from .ledger import LEDGER, Claim, Outcome, run
from .problems import SEEDS, Problem, real_problems, synthetic_problems

SCHEMA = 1
DOCUMENT = "espref ledger"

Document = dict[str, Any]


class Run(NamedTuple):
    """The outcomes of some claims, what they were measured on, and with what.

    See Also
    --------
    run_ledger

    Examples
    --------
    >>> from espref.claims import LEDGER, run_ledger
    >>> run_ledger([LEDGER["attention.no-causal-form"]], problems=[]).problems
    []
    """

    outcomes: list[Outcome]  # one for each claim
    problems: list[Problem]  # what they were measured on
    seeds: int  # of the claims about random data
    seconds: float  # time taken
    note: str  # what was done to the problems, or is missing from them
    environment: Environment  # versions, commit, machine


def default_problems(seeds: int = SEEDS) -> tuple[list[Problem], str]:
    """The synthetic problems of all seeds and, where scikit-learn is installed, the real ones; what is left out.

    Parameters
    ----------
    seeds : int
        Number of seeds.

    Returns
    -------
    problems : list of Problem
        For each seed those of :func:`synthetic_problems` and of :func:`real_problems`.
    note : str
        What is left out, or nothing.

    See Also
    --------
    run_ledger, synthetic_problems, real_problems

    Examples
    --------
    >>> from espref.claims import default_problems
    >>> len(default_problems(seeds=1)[0]) >= 8
    True
    """
    problems = [problem for seed in range(seeds) for problem in synthetic_problems(seed)]
    if find_spec("sklearn") is None:
        return problems, "real data skipped: pip install 'espref[verify]'"
    return problems + [problem for seed in range(seeds) for problem in real_problems(seed)], ""


def run_ledger(
    entries: Iterable[Claim] | None = None,
    problems: Sequence[Problem] | None = None,
    seeds: int = SEEDS,
    *,
    note: str = "",
    inputs: Iterable[Input] = (),
    before: Callable[[Claim], Any] = lambda entry: None,
    after: Callable[[Outcome], Any] = lambda outcome: None,
) -> Run:
    """Measure claims, by default all that are entered, on problems, by default those of :func:`default_problems`.

    Parameters
    ----------
    entries : iterable of Claim, optional
        What to measure; all that are entered by default.
    problems : sequence of Problem, optional
        What they are measured on; by default those of :func:`default_problems`.
    seeds : int
        Number of seeds of the claims about random data, and of the default problems.
    note : str
        Remark on the given problems.
    inputs : iterable of path, or of pairs of path and SHA-256
        Files that the given problems were read from.
    before, after : callable
        Called with each claim before it is measured, with each outcome as soon as it is there.

    Returns
    -------
    Run
        The outcomes, and what they were measured on and with.

    See Also
    --------
    run : The same without a record of what it was measured with.

    Examples
    --------
    >>> from espref.claims import LEDGER, run_ledger, synthetic_problems
    >>> measured = run_ledger([LEDGER["line.marginals"]], synthetic_problems(), seeds=1)
    >>> [outcome.verdict for outcome in measured.outcomes]
    ['holds']
    """
    commit_at_start()
    start = time.perf_counter()
    if problems is None:
        problems, note = default_problems(seeds)
    outcomes = []
    for outcome in run(LEDGER.values() if entries is None else entries, problems, seeds, before):
        outcomes.append(outcome)
        after(outcome)
    return Run(outcomes, list(problems), seeds, time.perf_counter() - start, note, environment(inputs))


def to_document(measured: Run) -> Document:
    """The document of a run; everything in it fits in JSON."""
    return {
        "document": DOCUMENT,
        "schema": SCHEMA,
        "environment": measured.environment,
        "seeds": measured.seeds,
        "seconds": round(measured.seconds, 3),
        "note": measured.note,
        "problems": [
            {"name": p.name, "origin": p.origin, "seed": p.seed, "n": len(p.x), "m": len(p.y), "dim": p.dim}
            for p in measured.problems
        ],
        "claims": [_entry(outcome) for outcome in measured.outcomes],
    }


def _entry(outcome: Outcome) -> dict[str, Any]:
    """One claim of the document."""
    entry = outcome.claim
    return {
        "id": entry.id,
        "kind": entry.kind,
        "statement": entry.statement,
        "measured": entry.measured,
        "source": entry.sources,
        "origin": entry.origin,
        "corrected": entry.corrected,
        "verdict": outcome.verdict,
        "residual": _finite(outcome.residual),
        "sense": entry.sense,
        "tolerance": entry.tolerance,
        "worst": outcome.worst,
        "companions": [
            {"dropped": companion.dropped, "residual": _finite(value), "at_least": companion.at_least}
            for companion, value in zip(entry.companions, outcome.companions, strict=False)
        ],
        "runs": outcome.runs,
        "seconds": round(outcome.seconds, 3),
        "note": outcome.note,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def write(path: Path, measured: Run) -> str:
    """Write the document of a run, whole or not at all; returns the SHA-256 of the file."""
    content = json.dumps(to_document(measured), indent=1, allow_nan=False).encode()
    with atomic(path) as draft:
        draft.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def publish(folder: Path, measured: Run) -> str:
    """Write ``ledger.json`` into a folder and, as ``sha256sum`` does, ``ledger.json.sha256``; returns the SHA-256."""
    checksum = write(folder / "ledger.json", measured)
    with atomic(folder / "ledger.json.sha256") as draft:
        draft.write_text(f"{checksum}  ledger.json\n", encoding="utf-8")
    return checksum


def read(path: Path) -> tuple[Document, str]:
    """The document in a file, and the SHA-256 of the file.

    Raises
    ------
    ValueError
        When the file is no document of this layout.
    OSError
        When it cannot be read.
    """
    content = path.read_bytes()
    expected = f"{path}: expected a document of espref verify --json"
    try:
        found = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{expected}, which is JSON ({error})") from error
    if fault := _fault(found, schema(), "document"):
        raise ValueError(f"{expected}, {fault}")
    return found, hashlib.sha256(content).hexdigest()


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


#: Types of JSON in Python. A bool is no number, although Python counts it as one.
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def _fault(value: Any, rule: dict[str, Any], place: str) -> str | None:
    """The first thing in a value that the schema does not allow, or None; jsonschema is not installed everywhere."""
    if "const" in rule and (value != rule["const"] or isinstance(value, bool)):
        return f"{place}: expected {rule['const']!r}, got {value!r}"
    if "enum" in rule and value not in rule["enum"]:
        return f"{place}: expected one of {rule['enum']}, got {value!r}"
    if names := rule.get("type"):
        names = [names] if isinstance(names, str) else names
        allowed = {kind for name in names for kind in _TYPES[name]}
        if type(value) not in allowed:
            return f"{place}: expected {' or '.join(names)}, got {type(value).__name__}"
    faults: list[str | None] = []
    if isinstance(value, dict):
        faults += [f"{place}: expected {name!r} in it" for name in rule.get("required", []) if name not in value]
        known = rule.get("properties", {})
        faults += [_fault(item, known[name], f"{place}.{name}") for name, item in value.items() if name in known]
    elif isinstance(value, list):
        faults += [_fault(item, rule.get("items", {}), f"{place}[{place_in}]") for place_in, item in enumerate(value)]
    elif isinstance(value, str) and "pattern" in rule and not re.search(rule["pattern"], value):
        return f"{place}: expected {rule['pattern']}, got {value!r}"
    return next(filter(None, faults), None)


def schema() -> dict[str, Any]:
    """The JSON Schema of the document."""
    text = files(__package__).joinpath("ledger.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def identifiers() -> dict[str, str]:
    """Every identifier that a claim has or ever had -> "retired VERSION: reason", or nothing; in order of entry."""
    text = files(__package__).joinpath("identifiers.txt").read_text(encoding="utf-8")
    lines = (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: rest for name, _, rest in lines}
