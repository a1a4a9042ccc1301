"""The results of the ledger and the tables of the benchmarks, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby

from ..benchmarks import Row
from ..claims import Outcome, Problem
from ..claims.ledger import remedy
from .terminal import Line, Table

COLOURS = {
    "holds": "green",
    "refuted": "cyan",
    "fails": "bold red",
    "error": "bold red",
    "not measurable": "yellow",
    "skipped": "yellow",
}
SIGNS = {"at most": "≤", "at least": "≥"}


def two_digits(value: float) -> str:
    """A number to two significant digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.2g}"


def comparison(outcome: Outcome) -> str:
    """Residual against tolerance, as "3.1e-16 ≤ 1e-12"; no sign where the claim fails."""
    sign = SIGNS[outcome.claim.sense] if outcome.good else "against"
    return f"{two_digits(outcome.residual)} {sign} {two_digits(outcome.claim.tolerance)}"


def by_chapter(outcomes: Iterable[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """Outcomes grouped by chapter, in their own order."""
    return [(chapter, list(group)) for chapter, group in groupby(outcomes, lambda outcome: outcome.claim.chapter)]


def chapter_table(chapter: str, outcomes: Sequence[Outcome]) -> Table:
    """One table: claim, residual, tolerance, verdict, seconds; under a claim, one row for each dropped hypothesis."""
    table = Table(chapter, ("claim", "residual", "tolerance", "verdict", "seconds"), right=("residual", "seconds"))
    for outcome in outcomes:
        entry = outcome.claim
        name = [Line(entry.id.split(".", 1)[1])]
        if outcome.note:
            name.append(Line(f"  {outcome.note}", "yellow" if outcome.good else "red"))
        verdict = Line(outcome.verdict, COLOURS[outcome.verdict])
        tolerance = f"{SIGNS[entry.sense]} {two_digits(entry.tolerance)}"
        table.add(tuple(name), two_digits(outcome.residual), tolerance, verdict, f"{outcome.seconds:.2f}")
        for companion, value in zip(entry.companions, outcome.companions, strict=False):
            verdict = Line("fails" if value >= companion.at_least else "holds", "dim")  # it should fail
            dropped = Line(f"  without {first_phrase(companion.dropped)}", "dim")
            table.add(dropped, two_digits(value), f"≥ {two_digits(companion.at_least)}", verdict, "")
    return table


def first_phrase(text: str) -> str:
    """What stands before the first colon, its formulas without LaTeX's dollar signs and backslashes."""
    return text.split(":")[0].replace("$", "").replace("\\", "")


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """One line: how many claims hold, are refuted, failed, could not be measured, were skipped."""
    count = {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in COLOURS}
    failed = count["fails"] + count["error"]
    parts = [f"{count['holds']} hold", f"{count['refuted']} are refuted as stated", f"{failed} failed"]
    if count["not measurable"]:
        parts.append(f"{count['not measurable']} not measurable here")
    if count["skipped"]:
        parts.append(f"{count['skipped']} skipped")
    return f"{len(outcomes)} claim{'s' * (len(outcomes) != 1)}: {', '.join(parts)}, in {seconds:.0f} s"


def describe(problems: Sequence[Problem]) -> str:
    """The problems by origin, as "24 synthetic, 9 real problems"."""
    origins = [problem.origin for problem in problems]
    return (
        ", ".join(f"{origins.count(origin)} {origin}" for origin in dict.fromkeys(origins))
        + f" problem{'s' * (len(origins) != 1)}"
    )


def closing(outcomes: Sequence[Outcome], problems: Sequence[Problem], seconds: float, note: str) -> Iterator[Line]:
    """The lines under the tables: each claim that failed, the note, the summary."""
    for outcome in outcomes:
        if not outcome.good:
            yield Line(f"failed: {outcome.claim.id}: {comparison(outcome)}, {outcome.note}", "bold red")
    if note:
        yield Line(note, "yellow")
    missing = {name for outcome in outcomes if outcome.verdict == "skipped" for name in outcome.claim.needs}
    if missing := {name for name in missing if find_spec(name) is None}:
        yield Line(f"skipped claims need {', '.join(sorted(missing))}: {remedy(missing)}", "yellow")
    good = all(outcome.good for outcome in outcomes)
    yield Line(f"{summary(outcomes, seconds)}, on {describe(problems)}", "bold green" if good else "bold red")


def benchmark_table(suite: str, rows: Sequence[Row]) -> Table:
    """One table per suite: each benchmark, what was measured, and its target."""
    table = Table(suite, ("benchmark", "measured", "target", ""))
    met = {True: Line("met", "green"), False: Line("missed", "bold red"), None: Line("")}
    for row in rows:
        name = (Line(row["name"]), Line(f"  {row['detail']}", "dim"))
        table.add(name, f"{row['measured']:.3g} {row['unit']}", row["target"], met[row["ok"]])
    return table
