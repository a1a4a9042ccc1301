"""Tables of numbers from delimited text, as people save them. What is in doubt is refused, with what to write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._checks import Array
from .._output import FileError
from .numbers import INFINITE, MISSING, NUMBER, WHOLE, is_like_number, number
from .text import DELIMITERS, Cells, Format, cells_of, decoded, delimiter_of, lines_of, names_in_comment

#: Names of columns that number the rows, or name them.
LIKE_AN_INDEX = re.compile(
    r"(?i:unnamed: ?\d+|row[ ._-]?(names?|id|num(ber)?|nr|no)?|index|idx|id|[ug]?uid|nr|no\.?|#|key|obs(ervation)?|case"
    r"|s\.? ?no\.?|serial([ ._-]?(no|number|nr))?|.*[ ._-]id)|.*[a-z]I[dD]"
)
#: Names of columns that are coordinates although they grow from row to row.
COORDINATE = re.compile(
    r"[xyzuvwt]_?\d*|time|year|age|east(ing)?|north(ing)?|lat(itude)?|lon(g|gitude)?|depth|height", re.I
)
#: So many whole numbers that grow from row to row beside fractions are taken for identifiers.
LONG = 5


class Table(NamedTuple):
    """The numbers of a file, and what they are called."""

    values: Array  # (n, d)
    rows: Sequence[int]  # the row of the file that each comes from, counted from 1, header included
    names: tuple[str, ...] | None
    row_names: tuple[str, ...] | None  # where the file has them
    left_out: str = ""
    sha256: str = ""  # of the file


def read_table(path: Path, content: bytes, form: Format) -> Table:
    """The table in the content of a text file.

    Raises
    ------
    FileError
        Naming the file and, where there is one, the row (counted from 1, header included) and the column.
    """
    text = decoded(path, content, form.encoding)
    lines = lines_of(path, text)
    delimiter = DELIMITERS.get(form.delimiter or "", form.delimiter) or delimiter_of(path, lines, form)
    head = _header(path, cells_of(path, lines, delimiter), form, names_in_comment(text, delimiter))
    body = _without_index(path, head, form)
    names, cells = _chosen(path, body.names, body.cells, form)
    _refuse_index_names(path, names, form)
    values = _numbers(path, names, cells, form, delimiter)
    _refuse_counting(path, names, values, form)
    return Table(values, [row for row, _ in cells], names, body.row_names, body.left_out)


Names = tuple[str, ...] | None


class Body(NamedTuple):
    """Rows below the header, and the names of columns and rows."""

    names: Names
    cells: Cells
    row_names: Names = None
    left_out: str = ""
    sha256: str = ""  # of the file


def _is_number(word: str) -> bool:
    return bool(NUMBER.fullmatch(word) or re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", word, re.ASCII))


def _header(path: Path, cells: Cells, form: Format, comment: list[str] | None) -> Body:
    """Names of the columns, the rows below them, and names of the rows if the header is one field shorter (R)."""
    first = cells[0][1]
    width = len(cells[1][1]) if len(cells) > 1 else len(first)
    has_header = _has_header(path, cells, width) if form.header is None else form.header
    if not has_header:
        named = comment is not None and len(comment) == width and not any(map(_is_number, comment))
        return Body(tuple(comment) if comment and named else None, cells)
    if len(cells) == 1:
        raise FileError(f"{path}: no numbers in it")
    if len(first) == width - 1:  # as R writes row names
        index = tuple(record[0] for _, record in cells[1:])
        return Body(tuple(first), [(row, record[1:]) for row, record in cells[1:]], index, "its row names are left out")
    return Body(tuple(first), cells[1:])


def _has_header(path: Path, cells: Cells, width: int) -> bool:
    """Whether the first row names the columns; refused where it may be both."""
    row, first = cells[0]
    words = [
        not is_like_number(word) and word.lower() not in MISSING and not INFINITE.fullmatch(word) for word in first
    ]
    unnamed = first[0] == "" and len(first) > 1  # as pandas writes its index
    if unnamed and len(cells) > 1 and first[1:] == [str(k) for k in range(len(first) - 1)]:
        return True
    if all(words[unnamed:]) or (any(words) and len(first) == width - 1):
        return True
    if any(words) or unnamed:
        which = next((word for word, is_word in zip(first, words, strict=True) if is_word), "")
        raise FileError(
            f"{path}: row {row}: expected a number, got {which!r}; if this row is the header, write --header"
        )
    if all(word.lower() in MISSING for word in first):
        raise FileError(f"{path}: row {row}: missing values, or a header; write --header or --no-header")
    _refuse_numeric_header(path, row, first, cells)
    return False


def _refuse_numeric_header(path: Path, row: int, first: list[str], cells: Cells) -> None:
    """Whole numbers above others that are not whole, or 0, 1, ..., as pandas numbers columns, may be a header."""
    whole = all(WHOLE.fullmatch(word) for word in first)
    counted = first in ([str(k) for k in range(len(first))], [str(k) for k in range(1, len(first) + 1)])
    below = [word for _, record in cells[1:] for word in record if word.lower() not in MISSING]
    others = bool(below) and not any(WHOLE.fullmatch(word) for word in below)
    if whole and len(cells) > 1 and (others or (counted and (len(first) > 1 or first == ["0"]))):
        shown = ", ".join(first[:6])
        raise FileError(f"{path}: row {row}: {shown} may be a point or a header; write --no-header or --header")


def _without_index(path: Path, body: Body, form: Format) -> Body:
    """Without the column that names the rows: one without a name, or the first if --index says so."""
    names, cells = body.names, body.cells
    width = len(names) if names else len(cells[0][1])
    for row, record in cells:
        if len(record) != width:
            raise FileError(f"{path}: row {row}: expected {width} columns, got {len(record)}")
    unnamed = names is not None and width > 1 and bool(re.fullmatch(r"(unnamed: ?0)?", names[0], re.IGNORECASE))
    if body.row_names is not None or form.index_column is False or not (form.index_column or unnamed):
        return body
    if width == 1 and form.of_weights:
        return body
    if width == 1:
        raise FileError(f"{path}: expected more than one column with --index")
    which = f"column {names[0]}" if names and names[0] else "its first column"
    rest = [(row, record[1:]) for row, record in cells]
    return Body(names[1:] if names else None, rest, tuple(record[0] for _, record in cells), f"{which} is left out")


def _chosen(path: Path, names: Names, cells: Cells, form: Format) -> tuple[Names, Cells]:
    """The columns that --columns names, by name or by number from 1."""
    if form.columns is None:
        return names, cells
    width = len(cells[0][1])
    places = []
    for column in form.columns:
        if names is not None and column in names:
            if names.count(column) > 1:
                raise FileError(f"{path}: expected one column {column!r}, there are {names.count(column)}")
            places.append(names.index(column))
        elif WHOLE.fullmatch(column) and 1 <= int(column) <= width:
            places.append(int(column) - 1)
        else:
            known = f", the columns are {', '.join(names)}" if names else f", columns are numbered 1 to {width}"
            raise FileError(f"{path}: no column {column!r}{known}")
    chosen = [(row, [record[place] for place in places]) for row, record in cells]
    return (tuple(names[place] for place in places) if names else None), chosen


def refuse_numbering(path: Path, names: Names, values: Array, form: Format) -> None:
    """Refuse a column that seems to number the rows, by its name or by its values."""
    _refuse_index_names(path, names, form)
    _refuse_counting(path, names, values, form)


def _refuse_index_names(path: Path, names: Names, form: Format) -> None:
    if not names or len(names) < 2 or form.index_column is False or form.columns is not None:
        return
    for place, name in enumerate(names):
        if LIKE_AN_INDEX.fullmatch(name):
            _refuse_index(path, name, place, names)


def _refuse_index(path: Path, name: str, place: int, names: Sequence[str] | None, why: str = "by its name") -> None:
    others = [n for k, n in enumerate(names) if k != place] if names else None
    keep = ",".join(others) if others else "the numbers of those to keep, such as 2,3"
    first = "--index to leave it out, " if place == 0 else ""
    raise FileError(
        f"{path}: column {name!r} seems to number the rows {why}; write {first}--columns {keep}, or --no-index if "
        "it is a coordinate"
    )


def _refuse_counting(path: Path, names: Names, values: Array, form: Format) -> None:
    """Refuse a column of consecutive whole numbers, or of increasing ones beside fractions, unless it was asked for."""
    n, d = values.shape
    if d < 2 or n < 3 or form.columns is not None or form.index_column is not None:
        return
    for place in range(d):
        column = values[:, place]
        name = names[place] if names else str(place + 1)
        counts = column[0] == round(column[0]) and np.array_equal(column, column[0] + np.arange(n))
        others = np.delete(values, place, axis=1)
        fractions = bool((others != np.round(others)).any(axis=0).all())
        grows = np.array_equal(column, np.round(column)) and bool((np.diff(column) > 0).all())
        if counts or (grows and fractions and n >= LONG and not COORDINATE.fullmatch(name)):
            _refuse_index(path, name, place, names, f"({column[0]:g}, {column[1]:g}, ...)")


def _numbers(path: Path, names: Names, cells: Cells, form: Format, delimiter: str) -> Array:
    """Every cell as a number."""
    comma = {"comma": True, ",": True, "point": False, ".": False}.get(form.decimal or "")
    if comma is None:
        comma = delimiter != "," and _has_decimal_commas(path, cells)
    values = np.empty((len(cells), len(cells[0][1])))
    for k, (row, record) in enumerate(cells):
        for place, word in enumerate(record):
            try:
                values[k, place] = _value(word.replace(",", ".") if comma else word)
            except ValueError as error:
                column = f", column {names[place] if names else place + 1}" if len(record) > 1 else ""
                raise FileError(f"{path}: row {row}{column}: {error}{_hint(word, names, place)}") from None
    return values


def _value(word: str) -> float:
    if word.lower() in MISSING:
        raise ValueError(f"missing value {word!r}")
    if INFINITE.fullmatch(word):
        raise ValueError(f"expected finite numbers, got {word}")
    return number(word)


def _hint(word: str, names: Names, place: int) -> str:
    """What to write when a column is no coordinate."""
    if word.lower() in MISSING or INFINITE.fullmatch(word) or any(map(str.isdigit, word)):
        return ""
    others = [name for k, name in enumerate(names or ()) if k != place]
    return f"; leave the column out by --columns {','.join(others)}" if others else ""


def _has_decimal_commas(path: Path, cells: Cells) -> bool:
    """Whether commas are decimal; refused where they may separate thousands."""
    words = [(row, word) for row, record in cells for word in record if "," in word]
    if not words or any("." in word for _, record in cells for word in record):
        return False
    if all(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", word, re.ASCII) for _, word in words):
        row, word = words[0]
        raise FileError(
            f"{path}: row {row}: {word} may have a decimal comma or thousands; write --decimal comma or remove it"
        )
    return True
