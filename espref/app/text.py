"""Delimited text: its encoding, its lines, what separates the columns, and the cells. The parser is Python's csv."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from .._output import FileError

#: What may be one number with a decimal comma.
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?", re.ASCII)

#: As many lines as tell the delimiter.
SAMPLE = 1000

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "blank": " "}

#: The number of a row in the file, and its cells.
Cells = list[tuple[int, list[str]]]


class Format(NamedTuple):
    """How a table is to be read; None is for the file to tell."""

    columns: tuple[str, ...] | None = None
    header: bool | None = None
    index_column: bool | None = None
    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    of_weights: bool = False  # a single column holds numbers, whatever index_column says


def decoded(path: Path, content: bytes, encoding: str | None) -> str:
    """The text of a file: UTF-8, or what a byte order mark or the option says."""
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    told = encoding or next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(told)
    except LookupError:
        raise FileError(f"--encoding: expected the name of an encoding, such as cp1252, got {encoding!r}") from None
    except UnicodeError as error:
        row = content[: getattr(error, "start", 0)].count(b"\n") + 1
        raise FileError(f"{path}: row {row}: not {told}; name the encoding, such as --encoding cp1252") from None
    if "\0" in text:
        raise FileError(f"{path}: not a text file of numbers; if it is one, name its encoding (--encoding)")
    return text.removeprefix("\ufeff")


def lines_of(path: Path, text: str) -> list[tuple[int, str]]:
    """The lines with their numbers, without comments above the table and blank lines below it."""
    lines = list(enumerate(re.split("\r\n|\r|\n", text), 1))
    while lines and not lines[-1][1].strip():
        lines.pop()
    while lines and lines[0][1].lstrip().startswith("#"):
        lines.pop(0)
    if not lines:
        raise FileError(f"{path}: no numbers in it")
    return lines


def names_in_comment(text: str, delimiter: str) -> list[str] | None:
    """The fields of the comment above the table, as np.savetxt writes a header."""
    above = [line for line in re.split("\r\n|\r|\n", text) if line.strip()]
    comments = []
    for line in above:
        if not line.lstrip().startswith("#"):
            break
        comments.append(line.lstrip("# \t"))
    return _split(comments[-1], delimiter) if comments else None


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return next(csv.reader([re.sub(r"[ \t]+", " ", line.strip())], delimiter=" ", strict=True), [""])
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [""])]


def delimiter_of(path: Path, lines: list[tuple[int, str]], form: Format) -> str:
    """The delimiter that splits all lines alike; a comma that may be a decimal comma is refused."""
    sample = [line for _, line in lines if line.strip()][:SAMPLE]
    widths = {}
    for delimiter in DELIMITERS.values():
        try:
            counts = [len(_split(line, delimiter)) for line in sample]
        except csv.Error:
            continue
        if max(counts) > 1:
            widths[delimiter] = counts
    for delimiter in ("\t", ";"):
        if delimiter in widths and len(set(widths[delimiter][1:] or widths[delimiter])) == 1:
            return delimiter
    if form.decimal == ",":
        return next((d for d in ("\t", ";", " ") if d in widths), "\t")
    if "," in widths:
        body = sample[1:] if len(sample) > 1 and widths[","][0] == 1 else sample
        pairs = all(_DECIMAL_COMMA.fullmatch(line.strip()) for line in body)
        if pairs or all(any("," in cell for cell in _blank_split(line)) for line in body):
            _refuse_decimal_comma(path, lines, body, pairs)
        return ","
    return " " if " " in widths else ","


def _blank_split(line: str) -> list[str]:
    """The cells between blanks, if all those with a comma look like numbers with a decimal comma; else none."""
    cells = [cell.strip('"') for cell in line.split()]
    return cells if len(cells) > 1 and all("," not in cell or _DECIMAL_COMMA.fullmatch(cell) for cell in cells) else []


def _refuse_decimal_comma(path: Path, lines: list[tuple[int, str]], body: list[str], pairs: bool) -> None:
    row = next(row for row, line in lines if line == body[0])
    what = (
        "one number with a decimal comma, or two numbers" if pairs else "numbers with decimal commas, or more of them"
    )
    raise FileError(f"{path}: row {row}: {body[0].strip()!r} may be {what}; write --decimal comma or --delimiter comma")


def cells_of(path: Path, lines: list[tuple[int, str]], delimiter: str) -> Cells:
    """Every row of the table; none may be blank."""
    cells: Cells = []
    try:
        if delimiter == " ":
            cells = [(row, _split(line, " ")) for row, line in lines]
        else:
            reader = csv.reader(io.StringIO("\n".join(line for _, line in lines)), delimiter=delimiter, strict=True)
            start = lines[0][0] - 1
            last = 0
            for record in reader:  # a quoted field may span several lines
                cells.append((start + last + 1, [cell.strip() for cell in record] or [""]))
                last = reader.line_num
    except csv.Error as error:
        raise FileError(f"{path}: not a table of delimited text ({error})") from error
    for row, record in cells:
        if not any(record):
            raise FileError(
                f"{path}: row {row}: blank; rows are not left out, since weights belong to them by position"
            )
    return cells
