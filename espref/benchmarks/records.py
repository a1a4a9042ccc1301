"""Records: what was measured, row by row, each with what it was measured with.

A record is a JSON file, such as those in ``docs/records``. Layout, version 1 (``"schema": 1``):

* ``"environments"``: a list of what :func:`espref._environment.environment` returned when rows were measured. A name
  that is missing from one was not recorded then. ``"commit": null`` means that the commit is not known; ``"note"`` says
  why, or what else a reader should know.
* ``"rows"``: a list of benchmark rows (:class:`espref.benchmarks.measure.Row` with ``"suite"``). In the record of a
  training study it is ``"runs"`` instead, beside ``"study"``, the study's name. ``"environment"`` of each is an index
  into the list of environments.

In memory each row holds its environment itself (:func:`read`), so that rows can be merged and keep theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._environment import PACKAGES
from .._output import atomic

FOLDER = Path(__file__).parents[2] / "docs" / "records"
SCHEMA = 1

Record = dict[str, Any]
Row = dict[str, Any]

#: Fields of every environment, of a row and of a run, with their types. Environments may have more.
ENVIRONMENT = {
    "espref": str,
    "commit": (str, type(None)),
    "dirty": (bool, type(None)),
    "date": str,
    "python": str,
    **{package: (str, type(None)) for package in PACKAGES},
    "cpu": str,
    "cores": int,
    "system": str,
}
ROW = {
    "suite": str,
    "name": str,
    "measured": (int, float),
    "unit": str,
    "target": str,
    "ok": (bool, type(None)),
    "detail": str,
    "environment": int,
}
RUN = {
    "group": str,
    "variant": str,
    "metric": str,
    "mean": float,
    "sd": (float, type(None)),
    "seeds": int,
    "difference": float,
    "error": (float, type(None)),
    "wins": int,
    "parameters": int,
    "config": dict,
    "environment": int,
}


def committed(pattern: str) -> dict[str, Record]:
    """Records of ``docs/records`` whose name matches a shell pattern: name -> what :func:`read` returns, in order.

    Empty where espref is installed without its repository.
    """
    return {path.stem: read(path) for path in sorted(FOLDER.glob(f"{pattern}.json"))}


def read(path: Path) -> Record:
    """A record with ``"rows"`` or ``"runs"``, each of which holds its environment.

    Raises
    ------
    ValueError
        When the file is no record of this layout.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        check(record)
    except ValueError as error:
        raise ValueError(f"{path}: expected a record, {error}") from error
    made_with = record.pop("environments")
    for row in _rows(record):
        row["environment"] = made_with[row["environment"]]
    return {name: value for name, value in record.items() if name != "schema"}


def write(path: Path, record: Record) -> None:
    """A record as :func:`read` returns it, as a file, whole or not at all.

    Raises
    ------
    ValueError
        When it does not follow the layout.
    """
    environments: list[dict[str, Any]] = []
    key = "runs" if "study" in record else "rows"
    packed = []
    for row in record[key]:
        if row["environment"] not in environments:
            environments.append(row["environment"])
        packed.append({**row, "environment": environments.index(row["environment"])})
    about = {name: value for name, value in record.items() if name != key}
    content = {"schema": SCHEMA, **about, "environments": environments, key: packed}
    check(content)
    with atomic(path) as draft:
        draft.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")


def merge(path: Path, rows: Sequence[Row]) -> None:
    """Write rows; rows of other names that the record holds already stay, with their environments."""
    names = {row["name"] for row in rows}
    old = read(path)["rows"] if path.exists() else []
    write(path, {"rows": [row for row in old if row["name"] not in names] + list(rows)})


def check(record: Any) -> None:
    """Refuse what does not follow the layout, as read from the file.

    Raises
    ------
    ValueError
        Which names the first thing that is wrong.
    """
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f'expected "schema": {SCHEMA}')
    about = {"schema": int, "environments": list} | (
        {"study": str, "runs": list} if "study" in record else {"rows": list}
    )
    _check_fields(record, about, "record")
    environments, rows = record["environments"], _rows(record)
    for made_with in environments:
        _check_fields(made_with, ENVIRONMENT, "environment", more=True)
        if made_with["commit"] is not None and not re.fullmatch("[0-9a-f]{7,40}", made_with["commit"]):
            raise ValueError(f"commit: expected a hash, got {made_with['commit']!r}")
        if (made_with["commit"] is None) != (made_with["dirty"] is None):
            raise ValueError("dirty: expected null beside an unknown commit, and only there")
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", made_with["date"]):
            raise ValueError(f"date: expected year-month-day, got {made_with['date']!r}")
    for row in rows:
        _check_fields(row, RUN if "study" in record else ROW, "row")
    if sorted({row["environment"] for row in rows}) != list(range(len(environments))):
        raise ValueError("environments: expected each to be that of some row, and each row to have one")


def _rows(record: Record) -> list[Row]:
    rows: list[Row] = record["runs" if "study" in record else "rows"]
    return rows


def _check_fields(value: Any, types: dict[str, Any], what: str, *, more: bool = False) -> None:
    """An object with fields of these types; other fields only with ``more``."""
    if not isinstance(value, dict) or not (set(types) <= set(value) if more else set(types) == set(value)):
        names = sorted(value) if isinstance(value, dict) else value
        raise ValueError(f"{what}: expected {', '.join(sorted(types))}, got {names}")
    for name, kind in types.items():
        field = value[name]
        if not isinstance(field, kind) or (isinstance(field, bool) and kind not in (bool, (bool, type(None)))):
            raise ValueError(f"{what}: expected {name} of another type, got {field!r}")
