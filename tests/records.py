"""Records that the documentation draws its tables from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from espref._environment import environment
from espref._output import atomic

FOLDER = Path(__file__).parent.parent / "docs" / "records"


def row(suite: str, name: str, measured: float, unit: str, target: str, ok: bool | None, detail: str) -> dict[str, Any]:
    """One line of a table, as ``espref bench`` writes them."""
    found = {"suite": suite, "name": name, "measured": float(measured), "unit": unit, "target": target}
    return found | {"ok": ok, "detail": detail}


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """``docs/records/name.json``: what was measured, and with what. Rows of other names in it stay."""
    path = FOLDER / f"{name}.json"
    names = {row["name"] for row in rows}
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = [row for row in kept if row["name"] not in names] + rows
    with atomic(path) as draft:
        draft.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1, allow_nan=False))
