"""Benchmarks: ratios measured within one run, medians of repeats, memory in processes of their own.

Each suite is a module with ``run() -> list[dict]``; a row has the keys name, measured, unit, target, ok (None where
nothing is demanded) and detail.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from .._checks import as_choice

SUITES = ("plans", "planfree", "attention", "numerics")


def suites(name: str) -> tuple[str, ...]:
    """The suites a name stands for.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    as_choice(name, "suite", ("all", *SUITES))
    return tuple(s for s in SUITES if name in ("all", s) and importlib.util.find_spec(f".{s}", __name__))


def run(suite: str) -> list[dict[str, Any]]:
    """The rows of one suite."""
    return importlib.import_module(f".{suite}", __name__).run()
