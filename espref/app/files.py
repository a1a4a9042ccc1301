"""Clouds and weights from files. Errors are one line and name the file and, where there is one, the row."""

from __future__ import annotations

import csv
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .._checks import Array
from .._output import FileError

Rows = NDArray[np.intp]


def read_points(path: str | Path) -> Array:
    """A cloud from a .npy or .csv file: (n, d), one point a row; a column of numbers is a cloud on the line.

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
    weights = weights / weights.max()  # the sum of huge weights could overflow
    return weights / weights.sum()


def _read(path: Path) -> tuple[Array, Rows]:
    """The numbers of a file as float64, (n,) or (n, d), and for each row its number in the file."""
    readers = {".npy": _load_npy, ".csv": _load_csv}
    if path.suffix.lower() not in readers:
        raise FileError(f"{path}: expected a .npy or .csv file")
    try:
        array, rows = readers[path.suffix.lower()](path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    with np.errstate(over="ignore"):  # an overflow is refused in the next lines
        array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise FileError(f"{path}: row {rows[bad[0][0]]}: expected finite numbers, got {array[tuple(bad[0])]}")
    return array, rows


def _load_npy(path: Path) -> tuple[np.ndarray, Rows]:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        pickled = "pickle" in str(error)  # or no array at all: NumPy's advice is to load it unsafely
        reason = "it holds objects, or is another kind of file" if pickled else str(error).splitlines()[0]
        raise FileError(f"{path}: not a plain .npy array ({reason})") from error
    except MemoryError:
        raise FileError(f"{path}: too large for the memory of this machine") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise FileError(f"{path}: expected an array of real numbers, got {getattr(array, 'dtype', 'an archive')}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise FileError(f"{path}: expected one point a row, shape (n, d) with n, d >= 1, got shape {array.shape}")
    return array, np.arange(1, len(array) + 1, dtype=np.intp)


def _load_csv(path: Path) -> tuple[np.ndarray, Rows]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: not a text file of comma-separated numbers") from error
    if lines and not any(map(_is_number, lines[0][1])):
        lines = lines[1:]  # a header
    if not lines:
        raise FileError(f"{path}: no numbers in it")
    width = len(lines[0][1])
    for number, row in lines:
        if len(row) != width:
            raise FileError(f"{path}: row {number}: expected {width} columns, got {len(row)}")
    try:
        return np.array([row for _, row in lines], dtype=np.float64), np.array(
            [number for number, _ in lines], dtype=np.intp
        )
    except ValueError:
        number, word = next((number, word) for number, row in lines for word in row if not _is_number(word))
        raise FileError(f"{path}: row {number}: expected a number, got {word!r}") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
