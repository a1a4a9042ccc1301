"""Arrays from files of NumPy and Parquet, as tables."""

from __future__ import annotations

import io
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .._output import FileError
from .tables import Table, refuse_numbering
from .text import Format


def load(path: Path, content: bytes) -> Any:
    """What NumPy reads from a file, whatever is wrong with it in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers in an old format
            loaded = np.load(io.BytesIO(content), allow_pickle=False)
            return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (OSError, MemoryError) as error:
        if isinstance(error, BadZipFile) or (getattr(error, "errno", None) is None and isinstance(error, OSError)):
            raise FileError(f"{path}: not a NumPy file ({str(error).splitlines()[0]})") from error
        raise
    except Exception as error:  # a damaged header can raise anything that Python's parser does
        pickled = "pickle" in str(error)  # also if it is no array at all; NumPy's message advises to allow pickles
        reason = (
            "it holds objects, or is another kind of file" if pickled else (str(error) or "damaged").splitlines()[0]
        )
        raise FileError(f"{path}: not a plain array of NumPy ({reason})") from error


def member(path: Path, archive: Any, name: str) -> Any:
    """One array of an archive."""
    if not isinstance(archive, dict):
        raise FileError(f"{path}: expected an archive of arrays, got one array; rename it to .npy")
    if not name and len(archive) == 1:
        return next(iter(archive.values()))
    if name not in archive:
        known = ", ".join(archive) or "nothing"
        example = f", such as {path}:{next(iter(archive))}" if archive else ""
        raise FileError(f"{path}: expected the name of an array{example}; it holds {known}")
    return archive[name]


def as_table(path: str | Path, array: Any, form: Format) -> Table:
    """An array as a table; what no float64 can hold is refused."""
    if isinstance(array, dict):
        raise FileError(f"{path}: expected one array, got an archive; rename it to .npz")
    if array.dtype.kind not in "buif":
        unknown = array.dtype.kind == "V" and array.dtype.names is None
        hint = " (bfloat16 or float8? save it as float32)" if unknown else ""
        raise FileError(f"{path}: expected an array of real numbers, got {array.dtype}{hint}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise FileError(f"{path}: expected one row per point, shape (n, d) with n, d >= 1, got shape {array.shape}")
    array = array[:, None] if array.ndim == 1 else array
    return _checked(path, array, np.arange(1, len(array) + 1, dtype=np.intp), None, form)


def _checked(
    path: str | Path, array: NDArray[Any], rows: NDArray[np.intp], names: tuple[str, ...] | None, form: Format
) -> Table:
    """Finite numbers that float64 holds exactly, and the columns that were asked for."""
    if form.columns is not None:
        array, names = _chosen(path, array, names, form.columns)
    with np.errstate(over="ignore"):  # infinite entries are refused below
        values = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise FileError(f"{path}: row {rows[bad[0][0]]}: expected finite numbers, got {array[tuple(bad[0])]}")
    if array.dtype.kind in "iu" or array.dtype.itemsize > 8:
        lossy = np.argwhere(values.astype(array.dtype) != array)
        if len(lossy):
            raise FileError(
                f"{path}: row {rows[lossy[0][0]]}: {array[tuple(lossy[0])]} has more digits than float64; shift and "
                "scale the coordinates first"
            )
    return Table(values, [int(row) for row in rows], names, None)


def _chosen(
    path: str | Path, array: NDArray[Any], names: tuple[str, ...] | None, columns: tuple[str, ...]
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    known = list(names or ())
    numbers = [str(k + 1) for k in range(array.shape[1])]
    places = []
    for column in columns:
        if column not in known and column not in numbers:
            raise FileError(f"{path}: no column {column!r}, columns are {', '.join(known) or f'1 to {len(numbers)}'}")
        places.append(known.index(column) if column in known else numbers.index(column))
    return array[:, places], tuple(known[place] for place in places) if known else None


def read_parquet(path: Path, content: bytes, form: Format) -> Table:
    """A table of Parquet; the index of pandas is left out."""
    if find_spec("pyarrow") is None:
        raise ImportError(f"{path}: Parquet needs pyarrow: pip install 'espref[tables]'")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    except pyarrow.ArrowException as error:
        raise FileError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    told = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    index = [name for name in table.column_names if name.startswith("__index_level_") or name in told]
    table = table.drop_columns(index)
    names, columns = tuple(table.column_names), []
    if not names or not table.num_rows:
        raise FileError(f"{path}: no numbers in it")
    for name in names if form.columns is None else [n for n in form.columns if n in names] or names:
        column = table.column(name)
        if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)):
            raise FileError(f"{path}: column {name}: expected numbers, got {column.type}; choose others by --columns")
        if column.null_count:
            raise FileError(f"{path}: column {name}: {column.null_count} missing values")
        columns.append(column.to_numpy())
    used = names if len(columns) == len(names) else tuple(n for n in form.columns or () if n in names)
    array = np.column_stack(columns)
    checked = _checked(path, array, np.arange(1, len(array) + 1, dtype=np.intp), used, form)
    refuse_numbering(path, used, checked.values, form)
    return checked._replace(left_out=f"column {index[0]} names the rows") if index else checked
