"""``espref bench``: run suites of benchmarks, print their tables, write their rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .. import benchmarks
from .._environment import environment
from .._output import atomic, check_writable
from ..train import benchmark as _transformers  # noqa: F401  registers the suite "transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``espref bench``."""
    suites = "plans, planfree, attention, or all three (default); transformers, numerics, large"
    parser.add_argument("suite", nargs="?", default="all", help=suites)
    parser.add_argument("--json", type=Path, default=Path("espref-bench.json"), metavar="FILE", help="the results")


def run_command(options: argparse.Namespace) -> int:
    """Run one suite or several; the exit status is 1 if any target is missed."""
    from . import report

    check_writable(options.json)
    names = benchmarks.suites(options.suite)
    records = []
    console = report.new_console()
    for name in names:
        rows = benchmarks.run(name)
        console.print(report.benchmark_table(name, rows))
        records += [{"suite": name, **row} for row in rows]
    with atomic(options.json) as draft:
        draft.write_text(json.dumps({"environment": environment(), "rows": records}, indent=1, allow_nan=False))
    console.print(f"written to {options.json}", markup=False)
    return 1 if any(record["ok"] is False for record in records) else 0
