"""Benchmarks: ratios measured within one run, medians of repeats, memory in processes of their own.

A suite is a function that returns rows, each a dictionary with the keys name, measured, unit, target, ok (None where
there is no target) and detail. The suites here are modules with such a function ``run``; others are added by
:func:`register`, as :mod:`espref.train.benchmark` does for whole training steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .._checks import as_choice

Rows = list[dict[str, Any]]

#: Speed and memory: what "all" stands for.
SPEED = ("plans", "planfree", "attention")
#: How far results can be trusted; ``large`` takes many minutes.
TRUST = ("numerics", "large")
#: Suites that live elsewhere, by name.
REGISTERED: dict[str, Callable[[], Rows]] = {}


def register(name: str, suite: Callable[[], Rows]) -> None:
    """Add a suite under a name of its own, in place of an earlier one of that name."""
    REGISTERED[name] = suite


def suites(name: str) -> tuple[str, ...]:
    """The suites a name stands for.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    as_choice(name, "suite", ("all", *SPEED, *TRUST, *REGISTERED))
    return SPEED if name == "all" else (name,)


def run(suite: str) -> Rows:
    """The rows of one suite."""
    if suite in REGISTERED:
        return REGISTERED[suite]()
    rows: Rows = importlib.import_module(f".{suite}", __name__).run()
    return rows
