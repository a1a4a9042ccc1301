"""The results of the ledger in the terminal and as JSON, and the tables of the benchmarks. Needs rich."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

try:
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Table
    from rich.text import Text
except ImportError as missing:
    raise ImportError("the tables need rich: pip install 'espref[verify]'") from missing

from .._environment import environment
from ..benchmarks import Row
from ..claims import Claim, Outcome, Problem

COLOURS = {
    "holds": "green",
    "refuted": "cyan",
    "fails": "bold red",
    "error": "bold red",
    "not measurable": "yellow",
    "skipped": "yellow",
}
SIGNS = {"at most": "≤", "at least": "≥"}


def new_console() -> Console:
    """Standard output, 100 columns wide where neither a terminal nor COLUMNS says how wide it is."""
    unknown_width = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=100 if unknown_width else None, highlight=False)


@contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Callable[[Claim], None]]:
    """A progress bar, on a terminal only; call the function it yields with each claim before it is measured."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=-1)
        yield lambda entry: progress.update(task, advance=1, description=entry.id)


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
    table = Table(title=chapter, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("claim", overflow="fold")
    table.add_column("residual", justify="right", no_wrap=True)
    table.add_column("tolerance", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for outcome in outcomes:
        entry = outcome.claim
        name = Text(entry.id.split(".", 1)[1])
        if outcome.note:
            name.append(f"\n  {outcome.note}", style="yellow" if outcome.good else "red")
        verdict = Text(outcome.verdict, style=COLOURS[outcome.verdict])
        tolerance = f"{SIGNS[entry.sense]} {two_digits(entry.tolerance)}"
        table.add_row(name, two_digits(outcome.residual), tolerance, verdict, f"{outcome.seconds:.2f}")
        for companion, value in zip(entry.companions, outcome.companions, strict=False):
            verdict = Text("fails" if value >= companion.at_least else "holds", style="dim")  # it should fail
            name = Text(f"  without {first_phrase(companion.dropped)}", style="dim")
            table.add_row(name, two_digits(value), f"≥ {two_digits(companion.at_least)}", verdict, "")
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


def closing(outcomes: Sequence[Outcome], problems: Sequence[Problem], seconds: float, note: str) -> Iterator[Text]:
    """The lines under the tables: each claim that failed, the note, the summary."""
    for outcome in outcomes:
        if not outcome.good:
            yield Text(f"failed: {outcome.claim.id}: {comparison(outcome)}, {outcome.note}", style="bold red")
    if note:
        yield Text(note, style="yellow")
    good = all(outcome.good for outcome in outcomes)
    yield Text(f"{summary(outcomes, seconds)}, on {describe(problems)}", style="bold green" if good else "bold red")


def to_json(outcomes: Sequence[Outcome], problems: Sequence[Problem], seeds: int, note: str) -> dict[str, Any]:
    """All measurements, the problems they were made on and the environment; infinities and NaN become null."""

    def finite(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    def record(outcome: Outcome) -> dict[str, Any]:
        entry = outcome.claim
        return {
            "id": entry.id,
            "kind": entry.kind,
            "statement": entry.statement,
            "measured": entry.measured,
            "source": entry.source,
            "verdict": outcome.verdict,
            "residual": finite(outcome.residual),
            "sense": entry.sense,
            "tolerance": entry.tolerance,
            "companions": [
                {"dropped": companion.dropped, "residual": finite(value), "at_least": companion.at_least}
                for companion, value in zip(entry.companions, outcome.companions, strict=False)
            ],
            "runs": outcome.runs,
            "worst": outcome.worst,
            "seconds": round(outcome.seconds, 3),
            "note": outcome.note,
        }

    return {
        "environment": environment(),
        "seeds": seeds,
        "note": note,
        "problems": [
            {"name": p.name, "origin": p.origin, "n": len(p.x), "m": len(p.y), "dim": p.dim} for p in problems
        ],
        "claims": [record(outcome) for outcome in outcomes],
    }


def benchmark_table(suite: str, rows: Sequence[Row]) -> Table:
    """One table per suite: each benchmark, what was measured, and its target."""
    table = Table(title=suite, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for heading in ("benchmark", "measured", "target", ""):
        table.add_column(heading, overflow="fold")
    met = {True: Text("met", style="green"), False: Text("missed", style="bold red"), None: Text("")}
    for row in rows:
        name = Text(row["name"])
        name.append(f"\n  {row['detail']}", style="dim")
        measured = Text(f"{row['measured']:.3g} {row['unit']}")
        table.add_row(name, measured, Text(row["target"]), met[row["ok"]])
    return table
