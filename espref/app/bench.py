"""``espref bench``: run suites of benchmarks, print their tables, write their rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import benchmarks
from .._environment import commit_at_start, environment
from .._output import check_writable
from ..benchmarks import records
from ..train import benchmark as _transformers  # noqa: F401  registers the suite "transformers"
from . import report
from .terminal import Line, new_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``espref bench``."""
    suites = "plans, planfree, attention, or all three (default); transformers, numerics, large"
    parser.add_argument("suite", nargs="?", default="all", help=suites)
    parser.add_argument("--json", type=Path, default=Path("espref-bench.json"), metavar="FILE", help="the results")


def run_command(options: argparse.Namespace) -> int:
    """Run one suite or several; the exit status is 1 if any target is missed."""
    check_writable(options.json, (".json",))
    names = benchmarks.suites(options.suite)
    rows: list[records.Row] = []
    commit_at_start()  # before anything is measured
    console = new_console()
    for name in names:
        measured = benchmarks.run(name)
        console.print(report.benchmark_table(name, measured))
        made_with = environment()
        rows += [{"suite": name, **row, "environment": made_with} for row in measured]
    records.write(options.json, {"rows": rows})
    console.print(Line(f"written to {options.json}"))
    return 1 if any(row["ok"] is False for row in rows) else 0
