"""Clouds and weights from files: tables of text, NumPy's arrays and archives, Parquet. Errors are one line."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._checks import Array
from .._output import FileError
from .arrays import as_table, load, member, read_parquet
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
    inputs: tuple[tuple[Path, str], ...]  # the files, and the SHA-256 of what was read


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
    inputs: list[tuple[Path, str]] = []
    x, y = _read(options.source, form), _read(options.target, form)
    if x.values.shape[1] != y.values.shape[1]:
        d, e = x.values.shape[1], y.values.shape[1]
        raise FileError(f"{options.target}: expected {d} column{'s' * (d > 1)} like {options.source}, got {e}")
    if form.columns is None:  # else they were chosen by name, or knowingly by place
        _compare_names(options.source, x, options.target, y)
    said = [_said(options.source, x), _said(options.target, y)]
    inputs = [(path_of(options.source)[0], x.sha256), (path_of(options.target)[0], y.sha256)]

    def weights(path: Path | None, points: Table) -> Array | None:
        if path is None:
            return None
        table = _read(path, form._replace(columns=None, of_weights=True))
        said.append(f"{path}: {len(points.values)} weights")
        inputs.append((path_of(path)[0], table.sha256))
        return _weights(path, table, len(points.values), points.row_names)

    a, b = weights(options.source_weights, x), weights(options.target_weights, y)
    return Clouds(x.values, y.values, a, b, x.names or y.names, said, tuple(inputs))


def read_points(path: str | Path, form: Format | None = None) -> Array:
    """A cloud from a file: shape (n, d), one row per point; a single column is a cloud on the line.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row (counted from 1, header included).
    """
    return _read(path, form or Format()).values


def read_weights(path: str | Path, n: int, form: Format | None = None) -> Array:
    """Weights from a file with one column or one row, shape (n,), scaled to sum 1.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row.
    """
    return _weights(path, _read(path, (form or Format())._replace(columns=None, of_weights=True)), n, None)


def _weights(path: str | Path, table: Table, n: int, index: tuple[str, ...] | None) -> Array:
    """The weights in a table; where it names its rows and those of the points have names too, they are the same."""
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
    file, name = path_of(path)
    readers: dict[str, Callable[[bytes], Table]] = {
        ".npy": lambda content: as_table(path, load(file, content), form),
        ".npz": lambda content: as_table(path, member(file, load(file, content), name), form),
        ".parquet": lambda content: read_parquet(file, content, form),
        **dict.fromkeys(TEXT, lambda content: read_table(file, content, form)),
    }
    if file.suffix.lower() not in readers:
        raise FileError(f"{path}: expected a file that ends in {SUFFIXES}")
    try:
        content = file.read_bytes()  # once, since it may be a pipe
        return readers[file.suffix.lower()](content)._replace(sha256=hashlib.sha256(content).hexdigest())
    except OSError as error:
        raise FileError(f"{file}: {error.strerror or error}") from error
    except MemoryError:
        raise FileError(f"{file}: too large for the memory of this machine") from None


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
