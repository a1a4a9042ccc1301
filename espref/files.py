"""Reading clouds from files and writing results: one-line errors that name the file and row, no half-written file."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ._checks import Array


class FileError(ValueError):
    """A file that cannot be used, in one line."""


def read_points(path: str | Path) -> Array:
    """A cloud from a .npy or .csv file: (n, d), one point a row; a column of numbers is a cloud on the line.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row (counted from 1, header included).
    """
    points = _read(Path(path))
    return points[:, None] if points.ndim == 1 else points


def read_weights(path: str | Path, n: int) -> Array:
    """Weights from a .npy or .csv file, shape (n,), scaled to sum 1.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row.
    """
    weights = _read(Path(path))
    if weights.ndim == 2 and 1 in weights.shape:
        weights = weights.ravel()
    if weights.shape != (n,):
        raise FileError(f"{path}: expected {n} weights, one for each point, got shape {weights.shape}")
    if weights.min() < 0:
        raise FileError(f"{path}: expected nonnegative weights, got {weights.min()} in row {weights.argmin() + 1}")
    if weights.sum() == 0:
        raise FileError(f"{path}: expected weights with a positive sum, all are zero")
    return weights / weights.sum()


def _read(path: Path) -> Array:
    try:
        if path.suffix == ".npy":
            return _checked(_load_npy(path), path, 1)
        if path.suffix == ".csv":
            rows, first = _load_csv(path)
            return _checked(rows, path, first)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    raise FileError(f"{path}: expected a .npy or .csv file")


def _load_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FileError(f"{path}: not a plain .npy array ({str(error).splitlines()[0]})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise FileError(f"{path}: expected an array of real numbers, got {getattr(array, 'dtype', type(array))}")
    return array


def _load_csv(path: Path) -> tuple[np.ndarray, int]:
    """The numbers, and the row of the file at which they start: 2 below a header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: not a text file of comma-separated numbers") from error
    if lines and not any(map(_is_number, lines[0][1])):
        lines = lines[1:]
    if not lines:
        raise FileError(f"{path}: no numbers in it")
    width = len(lines[0][1])
    for number, row in lines:
        if len(row) != width:
            raise FileError(f"{path}: row {number}: expected {width} columns, got {len(row)}")
    try:
        return np.array([row for _, row in lines], dtype=np.float64), lines[0][0]
    except ValueError:
        number, word = next((number, word) for number, row in lines for word in row if not _is_number(word))
        raise FileError(f"{path}: row {number}: expected a number, got {word!r}") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _checked(array: np.ndarray, path: Path, first_row: int) -> Array:
    if array.ndim not in (1, 2) or array.size == 0:
        raise FileError(f"{path}: expected points as rows, shape (n, d) with n, d >= 1, got shape {array.shape}")
    points = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(points))
    if len(bad):
        raise FileError(f"{path}: row {bad[0][0] + first_row}: expected finite numbers, got {points[tuple(bad[0])]}")
    return points


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it when the block ends well, and is deleted when it does not.

    Raises
    ------
    FileError
        When the file cannot be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent or Path("."))
        os.close(handle)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    draft = Path(name)
    try:
        yield draft
        os.chmod(draft, 0o666 & ~_umask())
        os.replace(draft, path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
