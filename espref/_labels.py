"""What arrays carry besides numbers: masks, units, names of rows and columns.

One policy everywhere. A mask that hides an entry, a unit, and a sparse matrix where points are expected are refused.
Names are compared where both sides have them, and refused where they differ: columns of source and target frames, rows
of points and of their weights, dimensions, coordinates and units of xarray. Nothing is reordered, and nothing dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import sparray, spmatrix


def refuse_hidden(value: Any, name: str) -> None:
    """Raise ValueError for masked entries, units and sparse matrices: NumPy would drop the first two in silence."""
    listed = isinstance(value, (list, tuple))
    parts = [part for part in value if not isinstance(part, (int, float))] if listed else [value]
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts):
        raise ValueError(f"{name}: expected no masked entries, got a masked array; choose the rows to keep first")
    if isinstance(value, (sparray, spmatrix)):
        raise ValueError(f"{name}: expected a dense array, got a sparse one; {name}.toarray() is dense")
    for part in parts:
        unit = _unit(part)
        if unit:
            raise ValueError(
                f"{name}: expected numbers without a unit, got {unit!r}; "
                "convert everything to one unit and pass the numbers"
            )


def _unit(value: Any) -> str:
    """The unit of a quantity (pint, astropy, unyt), "" without one."""
    for holder, number in (("units", "magnitude"), ("unit", "to_value"), ("units", "to_value")):
        if hasattr(value, holder) and hasattr(value, number):
            unit = str(getattr(value, holder))
            return "" if unit in ("", "dimensionless", "1") else unit
    return ""


def refuse_other_columns(x: Any, y: Any, names: tuple[str, str]) -> None:
    """Raise ValueError when the coordinates of two clouds have names, or units, that differ."""
    for what, one, other in (
        ("columns", _columns(x), _columns(y)),
        ("dimensions", _dims(x), _dims(y)),
        ("units", _attribute_unit(x), _attribute_unit(y)),
    ):
        if one is not None and other is not None and one != other:
            raise ValueError(f"{names[1]}: expected the {what} of {names[0]}, {one}, got {other}")


def refuse_other_rows(points: Any, value: Any, names: tuple[str, str]) -> None:
    """Raise ValueError when weights, or values, name other rows than the points do; unnamed rows are 0, 1, 2, ..."""
    rows = _rows(value)
    if rows is None:
        return
    expected = _rows(points)
    if expected is None:
        expected = list(range(len(rows)))
    if len(expected) == len(rows) and expected != rows:
        first = next(k for k, (one, other) in enumerate(zip(expected, rows, strict=True)) if one != other)
        raise ValueError(
            f"{names[1]}: expected rows in the order of {names[0]}, {expected[first]!r} at position {first}, "
            f"got {rows[first]!r}; reindex one of them, or pass the numbers alone"
        )


def _family(value: Any) -> str:
    return type(value).__module__.split(".")[0]


def _columns(value: Any) -> Sequence[Any] | None:
    """Names of the columns of a frame, or coordinates along the last dimension of an xarray array."""
    if _family(value) in ("pandas", "polars") and hasattr(value, "columns"):
        return list(value.columns)
    if _family(value) == "xarray" and getattr(value, "ndim", 0) == 2 and value.dims[1] in value.coords:
        return list(np.asarray(value.coords[value.dims[1]]).tolist())
    return None


def _dims(value: Any) -> tuple[Any, ...] | None:
    return tuple(value.dims) if _family(value) == "xarray" and hasattr(value, "dims") else None


def _attribute_unit(value: Any) -> str | None:
    return value.attrs.get("units") if _family(value) == "xarray" else None


def _rows(value: Any) -> list[Any] | None:
    """Names of the rows of a pandas frame or series, or coordinates along the first dimension of an xarray array."""
    if _family(value) == "pandas" and hasattr(value, "index"):
        return list(value.index)
    if _family(value) == "xarray" and getattr(value, "ndim", 0) > 0 and value.dims[0] in value.coords:
        return list(np.asarray(value.coords[value.dims[0]]).tolist())
    return None
