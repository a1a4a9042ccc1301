"""Benchmarks: ratios measured within one run, medians of repeats, memory in processes of their own.

Each suite is a module with ``run() -> list[dict]``; a row has the keys name, measured, unit, target, ok (None where
nothing is demanded) and detail.
"""

from __future__ import annotations

import importlib
from typing import Any

from .._checks import as_choice

#: Speed and memory: what "all" stands for.
SPEED = ("plans", "planfree", "attention")
#: Whole training steps; needs the extra ``train``.
TRAINING = ("transformers",)
#: How far results can be trusted; ``large`` takes many minutes.
TRUST = ("numerics", "large")


def suites(name: str) -> tuple[str, ...]:
    """The suites a name stands for.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    as_choice(name, "suite", ("all", *SPEED, *TRAINING, *TRUST))
    return SPEED if name == "all" else (name,)


def run(suite: str) -> list[dict[str, Any]]:
    """The rows of one suite."""
    return importlib.import_module(f".{suite}", __name__).run()
