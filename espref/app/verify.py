"""``espref verify``: select claims and problems, run the claims, write what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import claims
from .._checks import as_count
from .._output import atomic, check_distinct, check_writable
from ..claims import measurements
from ..claims.problems import fits
from ..plot import house_style
from ..train import claims as _training  # noqa: F401  enters the claims about training into the ledger
from . import report
from .files import add_file_options, inputs_of, read_clouds
from .numbers import option_whole
from .terminal import Line, new_console, progress_bar


class Selection(NamedTuple):
    """The claims to be measured, and on what: the arguments of :func:`espref.claims.run_ledger`."""

    entries: list[claims.Claim]
    problems: list[claims.Problem] | None = None  # those of the package
    seeds: int = claims.SEEDS
    note: str = ""
    inputs: tuple[tuple[Path, str], ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``espref verify``."""
    parser.add_argument("--only", metavar="PATTERN", help="claims whose identifier contains or matches PATTERN")
    seeds = f"run on the random problems of N seeds (default {claims.SEEDS}; 1 on your clouds)"
    parser.add_argument("--seeds", type=option_whole, metavar="N", help=seeds)
    parser.add_argument("--list", action="store_true", help="list the claims and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements as one document")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    source = "your source cloud, one row per point: .csv, .tsv, .txt, .npy, .npz or .parquet"
    parser.add_argument("--source", type=Path, metavar="FILE", help=source)
    parser.add_argument("--target", type=Path, metavar="FILE", help="your target cloud")
    add_file_options(parser)
    most = "draw N points at random from a cloud that has more (default 300)"
    parser.add_argument("--max-points", type=option_whole, default=300, metavar="N", help=most)


def run_command(options: argparse.Namespace) -> int:
    """Measure the claims; the exit status is 1 if any claim fails."""
    on_files = bool(options.source and options.target)
    default = 1 if on_files else claims.SEEDS
    seeds = as_count(default if options.seeds is None else options.seeds, "--seeds")
    as_count(options.max_points, "--max-points")
    if not on_files and any((options.source, options.target, options.source_weights, options.target_weights)):
        raise ValueError("--source, --target: expected both files, or neither")
    entries = _matching(options.only)
    if options.list:
        for entry in entries:
            print(f"{entry.id:<56}{entry.kind}")
        return 0
    check_writable(options.json, (".json",))
    check_writable(options.html, (".html", ".htm"))
    check_distinct({"--json": options.json, "--html": options.html}, inputs_of(options))
    if options.html:
        from . import page

        page.check_modules()  # before anything is measured
    selection = _select_for_files(entries, seeds, options) if on_files else Selection(entries, seeds=seeds)
    measured = measure(selection)
    write(measured, json_path=options.json, html_path=options.html)
    return 0 if all(outcome.good for outcome in measured.outcomes) else 1


def _matching(pattern: str | None) -> list[claims.Claim]:
    """The claims whose identifier contains or matches a pattern; without one, all."""
    entries = [
        entry
        for entry in claims.LEDGER.values()
        if pattern is None or pattern in entry.id or fnmatchcase(entry.id, pattern)
    ]
    if not entries:
        raise ValueError(f"--only: expected part of an identifier (espref verify --list), got {pattern!r}")
    return entries


def _select_for_files(entries: Iterable[claims.Claim], seeds: int, options: argparse.Namespace) -> Selection:
    """Claims about any pair of clouds, on the user's clouds; without companions, which need clouds of their own."""
    clouds = read_clouds(options)
    x, y, a, b = clouds[:4]
    for line in clouds.said:
        print(line)
    problems = [
        standardised(claims.user_problem(x, y, a, b, max_points=options.max_points, seed=seed)) for seed in range(seeds)
    ]
    scopes = [scope for scope in ("pair", "square", "plane") if fits(problems[0], scope)]
    applicable = [replace(entry, companions=[]) for entry in entries if entry.on in scopes]
    if not applicable:
        raise ValueError(f"--only: no claim that matches {options.only!r} applies to these clouds")
    note = "your clouds were moved and scaled together to extent 1"
    return Selection(applicable, problems, seeds, note, clouds.inputs)


def standardised(problem: claims.Problem) -> claims.Problem:
    """Both clouds moved and scaled together to an extent between 1/2 and 1, so that nothing depends on their units.

    Without rounding, which could tie points that differ: a coordinate is moved only where the result is exact, which it
    is when the least and the greatest value have one sign and differ by a factor of at most 2 (Sterbenz). All others
    are at most twice their range already. The scale is a power of two.
    """
    both = np.vstack([problem.x, problem.y])
    scale = -int(np.frexp(np.abs(both).max())[1])  # first of all, since the extent of huge clouds could overflow
    low, high = np.ldexp(both.min(axis=0), scale), np.ldexp(both.max(axis=0), scale)
    exact = (low > 0) & (high <= 2 * low) | (high < 0) & (low >= 2 * high)
    shift = np.where(exact, (low + high) / 2, 0.0)
    size = -int(np.frexp((high - low).max())[1])
    x, y = (np.ldexp(np.ldexp(points, scale) - shift, size) for points in (problem.x, problem.y))
    return replace(problem, x=x, y=y)


def measure(selection: Selection) -> claims.Run:
    """Measure the claims, and print a table for each chapter as soon as it is complete."""
    console = new_console()
    chapter: list[claims.Outcome] = []

    def print_chapter() -> None:
        if chapter:
            console.print(report.chapter_table(chapter[0].claim.chapter, chapter))
            chapter.clear()

    def after(outcome: claims.Outcome) -> None:
        if chapter and chapter[0].claim.chapter != outcome.claim.chapter:
            print_chapter()
        chapter.append(outcome)

    with progress_bar(console, len(selection.entries)) as advance:
        measured = claims.run_ledger(**selection._asdict(), before=lambda entry: advance(entry.id), after=after)
        print_chapter()
    return measured


def write(measured: claims.Run, *, json_path: Path | None = None, html_path: Path | None = None) -> None:
    """Write the files that were asked for, and print the summary."""
    console = new_console()
    checksum = measurements.write(json_path, measured) if json_path else ""
    failure = _write_page(html_path, measured) if html_path else None
    for line in report.closing(measured.outcomes, measured.problems, measured.seconds, measured.note):
        console.print(line)
    if json_path:
        console.print(Line(f"{json_path}: SHA-256 {checksum}"))
    if failure is not None:
        raise failure


def _write_page(path: Path, measured: claims.Run) -> ValueError | None:
    """Write the page; what prevents it is returned, so that the summary is printed first."""
    from .page import to_html

    try:
        with house_style():
            page = to_html(measured)
    except Exception as error:  # matplotlib, and what it calls, may raise anything
        return ValueError(f"{path}: its figures cannot be drawn: {error}")
    try:
        with atomic(path) as draft:
            draft.write_text(page, encoding="utf-8")
    except ValueError as error:
        return error
    return None
