"""Records that the documentation draws its tables from, written by tests and by the programs beside them."""

from __future__ import annotations

from typing import Any

from espref._environment import commit_at_start, environment
from espref.benchmarks import records

commit_at_start()  # the code that is measured is the code that is there when this is imported


def row(suite: str, name: str, measured: float, unit: str, target: str, ok: bool | None, detail: str) -> dict[str, Any]:
    """One row of a table, as ``espref bench`` writes them, stamped with the environment of now."""
    about = {"suite": suite, "name": name, "measured": float(measured), "unit": unit, "target": target}
    return about | {"ok": ok, "detail": detail, "environment": environment()}


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """``docs/records/name.json``. Rows of other names in it stay, with their environments."""
    records.merge(records.FOLDER / f"{name}.json", rows)
