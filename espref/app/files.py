"""Clouds and weights from files. Errors are one line that names the file and, where there is one, the row."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .._checks import Array
from .._output import FileError

#: For each row of an array, its number in the file.
Rows = NDArray[np.intp]


def add_weight_options(parser: argparse.ArgumentParser) -> None:
    """The options for the weights of both clouds."""
    for side in ("source", "target"):
        text = f"weights of the {side}, .npy or .csv, scaled to sum 1"
        parser.add_argument(f"--{side}-weights", type=Path, metavar="FILE", help=text)


def read_clouds(options: argparse.Namespace) -> tuple[Array, Array, Array | None, Array | None]:
    """Both clouds and their weights, x, y, a, b, from the files that the command line names.

    Raises
    ------
    FileError
        Naming the file; also when the clouds differ in dimension.
    """
    x, y = read_points(options.source), read_points(options.target)
    if x.shape[1] != y.shape[1]:
        raise FileError(f"{options.target}: expected {x.shape[1]} columns like {options.source}, got {y.shape[1]}")
    a = read_weights(options.source_weights, len(x)) if options.source_weights else None
    b = read_weights(options.target_weights, len(y)) if options.target_weights else None
    return x, y, a, b


def read_points(path: str | Path) -> Array:
    """A cloud from a .npy or .csv file: shape (n, d), one row per point; a single column is a cloud on the line.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row (counted from 1, header included).
    """
    points, _ = _read(Path(path))
    return points[:, None] if points.ndim == 1 else points


def read_weights(path: str | Path, n: int) -> Array:
    """Weights from a .npy or .csv file, shape (n,), scaled to sum 1.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row.
    """
    weights, rows = _read(Path(path))
    if weights.ndim == 2 and 1 in weights.shape:
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


def _read(path: Path) -> tuple[Array, Rows]:
    """The numbers of a file as float64, shape (n,) or (n, d), and for each row its number in the file."""
    readers = {".npy": _load_npy, ".csv": _load_csv}
    if path.suffix.lower() not in readers:
        raise FileError(f"{path}: expected a .npy or .csv file")
    try:
        array, rows = readers[path.suffix.lower()](path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    with np.errstate(over="ignore"):  # infinite entries are refused below
        array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise FileError(f"{path}: row {rows[bad[0][0]]}: expected finite numbers, got {array[tuple(bad[0])]}")
    return array, rows


def _load_npy(path: Path) -> tuple[NDArray[Any], Rows]:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        pickled = "pickle" in str(error)  # also if it is no array at all; NumPy's message advises to allow pickles
        reason = "it holds objects, or is another kind of file" if pickled else str(error).splitlines()[0]
        raise FileError(f"{path}: not a plain .npy array ({reason})") from error
    except MemoryError:
        raise FileError(f"{path}: too large for the memory of this machine") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise FileError(f"{path}: expected an array of real numbers, got {getattr(array, 'dtype', 'an archive')}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise FileError(f"{path}: expected one row per point, shape (n, d) with n, d >= 1, got shape {array.shape}")
    return array, np.arange(1, len(array) + 1, dtype=np.intp)


def _load_csv(path: Path) -> tuple[NDArray[Any], Rows]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(line, row) for line, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: not a text file of comma-separated numbers") from error
    if lines and not any(map(_is_number, lines[0][1])):
        lines = lines[1:]  # a header
    if not lines:
        raise FileError(f"{path}: no numbers in it")
    width = len(lines[0][1])
    for line, row in lines:
        if len(row) != width:
            raise FileError(f"{path}: row {line}: expected {width} columns, got {len(row)}")
        for word in row:
            if not _is_number(word):
                raise FileError(f"{path}: row {line}: expected a number, got {word!r}")
    numbers = np.array([[float(word) for word in row] for _, row in lines])
    return numbers, np.array([line for line, _ in lines], dtype=np.intp)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
