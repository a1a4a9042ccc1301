"""Benchmarks: ratios measured within one run, medians of repeats, memory measured in separate processes.

A suite is a function that returns rows (:class:`espref.benchmarks.measure.Row`). Each module of this package has one,
``run``; others are added by :func:`register`, as :mod:`espref.train.benchmark` does for whole training steps.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

from .._checks import as_choice
from .measure import Row

Suite = Callable[[], list[Row]]

#: Speed and memory; "all" runs these.
SPEED = ("plans", "planfree", "attention")
#: How far results can be trusted; ``large`` takes many minutes.
TRUST = ("numerics", "large")
#: Suites that are defined elsewhere, by name.
REGISTERED: dict[str, Suite] = {}

__all__ = ["REGISTERED", "SPEED", "TRUST", "Row", "about", "register", "run", "suites"]


def register(name: str, suite: Suite) -> None:
    """Add a suite, in place of an earlier one of the same name."""
    REGISTERED[name] = suite


def suites(name: str) -> tuple[str, ...]:
    """The suites that a name selects: those of ``SPEED`` for "all", else the one of that name.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    as_choice(name, "suite", ("all", *SPEED, *TRUST, *REGISTERED))
    return SPEED if name == "all" else (name,)


def run(suite: str) -> list[Row]:
    """The rows of one suite."""
    return _function(suite)()


def about(suite: str) -> str:
    """What a suite measures and how: the docstring of the module that defines it."""
    return inspect.getdoc(inspect.getmodule(_function(suite))) or ""


def _function(suite: str) -> Suite:
    as_choice(suite, "suite", (*SPEED, *TRUST, *REGISTERED))
    if suite in REGISTERED:
        return REGISTERED[suite]
    function: Suite = importlib.import_module(f".{suite}", __name__).run
    return function
