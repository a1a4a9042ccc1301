"""Clouds and weights from files: tables of text, NumPy's arrays and archives, Parquet. Errors are one line."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .._checks import Array
from .._output import FileError
from .tables import Table, read_table
from .text import Format

#: Suffixes of tables of text.
TEXT = (".csv", ".tsv", ".txt")
SUFFIXES = ".npy, .npz, .csv, .tsv, .txt or .parquet"


class Clouds(NamedTuple):
    """Both clouds and their weights, and what was read, in words."""

    x: Array  # (n, d)
    y: Array  # (m, d)
    a: Array | None  # (n,)
    b: Array | None  # (m,)
    names: tuple[str, ...] | None  # of the coordinates
    said: list[str]  # one line per file
    inputs: dict[str, Path]  # option -> file


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """The options for weights, and for how tables are read."""
    for side in ("source", "target"):
        text = f"weights of the {side}: a file with one number per point, scaled to sum 1"
        parser.add_argument(f"--{side}-weights", type=Path, metavar="FILE", help=text)
    group = parser.add_argument_group("reading tables", "What a table does not tell by itself, for both clouds.")
    columns = "the columns that are coordinates, by name or by number from 1, such as x,y or 2,3"
    group.add_argument("--columns", metavar="LIST", help=columns)
    for name, text in (
        ("header", "the first row names the columns"),
        ("index", "the first column names the rows and is left out; --no-index: no column does"),
    ):
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=text)
    delimiters = "comma, semicolon, tab, blank, or a character"
    group.add_argument("--delimiter", metavar="D", help=f"what separates the columns: {delimiters}")
    group.add_argument("--decimal", choices=("point", "comma"), help="the decimal separator")
    group.add_argument("--encoding", metavar="NAME", help="such as cp1252; UTF-8 by default")


def inputs_of(options: argparse.Namespace) -> dict[str, Path]:
    """The files that are read, by the names of their options."""
    paths = {name: getattr(options, name, None) for name in ("source", "target", "source_weights", "target_weights")}
    return {f"--{name.replace('_', '-')}": path_of(path)[0] for name, path in paths.items() if path is not None}


def read_clouds(options: argparse.Namespace) -> Clouds:
    """Both clouds and their weights from the files that the command line names.

    Raises
    ------
    FileError
        Naming the file; also when the clouds differ in dimension, or in the names of their columns.
    """
    form = _format(options)
    x, y = _read(options.source, form), _read(options.target, form)
    if x.values.shape[1] != y.values.shape[1]:
        d, e = x.values.shape[1], y.values.shape[1]
        raise FileError(f"{options.target}: expected {d} column{'s' * (d > 1)} like {options.source}, got {e}")
    if form.columns is None:  # else they were chosen by name, or knowingly by place
        _compare_names(options.source, x, options.target, y)
    said = [_said(options.source, x), _said(options.target, y)]

    def weights(path: Path | None, points: Table) -> Array | None:
        if path is None:
            return None
        said.append(f"{path}: {len(points.values)} weights")
        return read_weights(path, len(points.values), form, points.row_names)

    a, b = weights(options.source_weights, x), weights(options.target_weights, y)
    return Clouds(x.values, y.values, a, b, x.names or y.names, said, inputs_of(options))


def read_points(path: str | Path, form: Format | None = None) -> Array:
    """A cloud from a file: shape (n, d), one row per point; a single column is a cloud on the line.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row (counted from 1, header included).
    """
    return _read(path, form or Format()).values


def read_weights(path: str | Path, n: int, form: Format | None = None, index: tuple[str, ...] | None = None) -> Array:
    """Weights from a file with one column or one row, shape (n,), scaled to sum 1.

    ``index`` has the names of the points' rows; where the weights' file names its rows too, they must be the same.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row.
    """
    form = (form or Format())._replace(columns=None, of_weights=True)
    table = _read(path, form)
    if index is not None and table.row_names is not None and index != table.row_names:
        row = next((k for k, pair in enumerate(zip(index, table.row_names, strict=False)) if pair[0] != pair[1]), 0)
        raise FileError(f"{path}: expected the rows of the points, which begin otherwise at number {row + 1}")
    weights, rows = table.values, np.array(table.rows, dtype=np.intp)
    if 1 in weights.shape:
        weights, rows = weights.ravel(), rows if len(rows) == weights.size else np.repeat(rows, weights.size)
    if weights.shape != (n,):
        raise FileError(f"{path}: expected {n} weights, one for each point, got shape {weights.shape}")
    if weights.min() < 0:
        worst = weights.argmin()
        raise FileError(f"{path}: row {rows[worst]}: expected nonnegative weights, got {weights[worst]}")
    if weights.max() == 0:
        raise FileError(f"{path}: expected weights with a positive sum, all are zero")
    scaled: Array = weights / weights.max()  # the sum of huge weights could overflow
    scaled /= scaled.sum()
    return scaled


def path_of(path: str | Path) -> tuple[Path, str]:
    """``clouds.npz:x`` is the array x in an archive: the path of the file, and the name or ""."""
    whole, colon, name = str(path).rpartition(":")
    if colon and whole.lower().endswith(".npz") and not Path(path).exists():
        return Path(whole), name
    return Path(path), ""


def _format(options: argparse.Namespace) -> Format:
    columns = options.columns
    chosen = tuple(name.strip() for name in columns.split(",")) if columns is not None else None
    if chosen is not None and ("" in chosen or len(set(chosen)) < len(chosen)):
        raise ValueError(f"--columns: expected different names or numbers, separated by commas, got {columns!r}")
    delimiter = options.delimiter
    if delimiter is not None and delimiter not in ("comma", "semicolon", "tab", "blank") and len(delimiter) != 1:
        raise ValueError(f"--delimiter: expected comma, semicolon, tab, blank or one character, got {delimiter!r}")
    decimal = {"point": ".", "comma": ","}.get(options.decimal or "")
    return Format(chosen, options.header, options.index, delimiter, decimal, options.encoding)


def _read(path: str | Path, form: Format) -> Table:
    """The numbers of a file as float64, (n, d)."""
    file, member = path_of(path)
    readers: dict[str, Callable[[], Table]] = {
        ".npy": lambda: _array(path, _load(file), form),
        ".npz": lambda: _array(path, _member(file, _load(file), member), form),
        ".parquet": lambda: _parquet(file, form),
        **dict.fromkeys(TEXT, lambda: read_table(file, form)),
    }
    if file.suffix.lower() not in readers:
        raise FileError(f"{path}: expected a file that ends in {SUFFIXES}")
    try:
        return readers[file.suffix.lower()]()
    except OSError as error:
        raise FileError(f"{file}: {error.strerror or error}") from error
    except MemoryError:
        raise FileError(f"{file}: too large for the memory of this machine") from None


def _load(path: Path) -> Any:
    """What NumPy reads from a file, whatever is wrong with it in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers in an old format
            with path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
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


def _member(path: Path, archive: Any, name: str) -> Any:
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


def _array(path: str | Path, array: Any, form: Format) -> Table:
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


def _parquet(path: Path, form: Format) -> Table:
    """A table of Parquet; the index of pandas is left out."""
    if find_spec("pyarrow") is None:
        raise ImportError(f"{path}: Parquet needs pyarrow: pip install 'espref[tables]'")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise FileError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    index = [name for name in table.column_names if name.startswith("__index_level_")]
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
    return checked._replace(left_out=f"column {index[0]} names the rows") if index else checked


def _compare_names(source: Path, x: Table, target: Path, y: Table) -> None:
    """Columns of different names are never compared."""
    if x.names is None or y.names is None or x.names == y.names:
        return
    hint = ",".join(x.names) if set(x.names) == set(y.names) else ""
    numbers = ",".join(str(k + 1) for k in range(len(x.names)))
    raise FileError(
        f"{target}: expected the columns {', '.join(x.names)} like {source}, got {', '.join(y.names)}; write "
        + (f"--columns {hint}" if hint else f"--columns {numbers} to take columns by their place, once you are sure")
    )


def _said(path: Path, table: Table) -> str:
    """What was read, in one line."""
    n, d = table.values.shape
    names = f": {', '.join(table.names)}" if table.names else ""
    left_out = f"; {table.left_out}" if table.left_out else ""
    return f"{path}: {n} point{'s' * (n > 1)}, {d} column{'s' * (d > 1)}{names}{left_out}"
