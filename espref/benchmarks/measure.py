"""What all suites use: wall time, peak memory, and the rows of a table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypedDict


class Row(TypedDict):
    """One row of a benchmark's table."""

    name: str
    measured: float
    unit: str
    target: str
    ok: bool | None  # whether the target is met; None where there is no target
    detail: str


def row(name: str, measured: float, unit: str, target: str, ok: bool | None, detail: str) -> Row:
    """One row of a benchmark's table."""
    return {"name": name, "measured": float(measured), "unit": unit, "target": target, "ok": ok, "detail": detail}


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


#: Python that reads the memory of its own process. Linux resets the peak on request; getrusage includes the parent's.
MEMORY = """
import json, pathlib, time
def memory(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
def forget_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")
"""


def peak_memory(code: str, then: str = "0.0") -> dict[str, float]:
    """Run ``code`` in a process of its own, and measure its second part. Linux only.

    Parameters
    ----------
    code : str
        Setup and measured part, separated by a line "# measured".
    then : str
        An expression that is evaluated at the end.

    Returns
    -------
    dict
        "seconds" of the measured part, "peak_mb" by which it raised the peak memory, "total_mb", the peak itself, and
        "then", the value of the expression.
    """
    setup, measured = code.split("# measured\n")
    script = (
        f"{MEMORY}\n{setup}\nforget_peak(); before = memory('VmRSS'); start = time.perf_counter()\n"
        f"{measured}\n"
        "seconds, peak = time.perf_counter() - start, memory('VmHWM')\n"
        f"print(json.dumps({{'seconds': seconds, 'peak_mb': peak - before, 'total_mb': peak, 'then': {then}}}))\n"
    )
    figures: dict[str, float] = json.loads(last_line(script))
    return figures


def last_line(script: str, environment: dict[str, str] | None = None) -> str:
    """The last line that a script prints, run in a process of its own."""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()[-1]
