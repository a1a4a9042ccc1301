"""Lines and tables on standard output: with rich in colour and folded to the width of the terminal, else plain text."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions


class Line(NamedTuple):
    """Text, never markup, and a style of rich's."""

    text: str
    style: str = ""

    def __str__(self) -> str:
        return self.text

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(self.text, style=self.style)


#: Columns that a table needs; on a narrower terminal its lines are wrapped by the terminal.
NARROWEST = 72

#: What stands in one cell: lines, one under the other.
Cell = tuple[Line, ...]


@dataclass
class Table:
    """A title, headings, and rows of cells. Columns of ``right`` are flush right; only the first may be folded."""

    title: str
    headings: tuple[str, ...]
    right: tuple[str, ...] = ()
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: str | Line | Cell) -> None:
        """A row; a cell is a text, a line, or several lines."""
        row: list[Cell] = []
        for cell in cells:
            row.append((cell,) if isinstance(cell, Line) else (Line(cell),) if isinstance(cell, str) else cell)
        self.rows.append(tuple(row))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """A table where there is room for it, else the first column above the others."""
        if options.max_width >= sum(self._widths()) + 4 * len(self.headings):
            yield self._drawn()
        else:
            yield from self._stacked()

    def _stacked(self) -> Iterator[Any]:
        from rich.text import Text

        yield Text(self.title, style="bold")
        for first, *others in self.rows:
            yield Text("  ").append(first[0].__rich__())
            parts = [cell[0].__rich__() for cell in others if str(cell[0])]
            yield Text("      ").append(Text("   ").join(parts))
            for line in (line for cell in (first, *others) for line in cell[1:]):
                yield Text("    ").append(line.__rich__())
        yield Text("")

    def _widths(self) -> list[int]:
        first = [[str(cell[0]) for cell in row] for row in self.rows]
        return [max(map(len, column)) for column in zip(self.headings, *first, strict=True)]

    def _drawn(self) -> Any:
        from rich import box
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn(title=self.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for place, heading in enumerate(self.headings):
            justify: Literal["left", "right"] = "right" if heading in self.right else "left"
            drawn.add_column(heading, justify=justify, overflow="fold", no_wrap=place > 0)
        for row in self.rows:
            drawn.add_row(*(Text("\n").join(line.__rich__() for line in cell) for cell in row))
        return drawn

    def __str__(self) -> str:
        first, widths = [[str(cell[0]) for cell in row] for row in self.rows], self._widths()

        def joined(cells: Sequence[str]) -> str:
            padded = (
                cell.rjust(width) if heading in self.right else cell.ljust(width)
                for cell, width, heading in zip(cells, widths, self.headings, strict=True)
            )
            return ("  " + "  ".join(padded)).rstrip()

        lines = [self.title, joined(self.headings), "  " + "-" * (sum(widths) + 2 * len(widths) - 2)]
        for texts, row in zip(first, self.rows, strict=True):
            lines.append(joined(texts))
            lines += [f"  {line}" for cell in row for line in cell[1:]]
        return "\n".join([*lines, ""])


class PlainConsole:
    """Prints without rich."""

    def print(self, item: object) -> None:
        """A line, a table or any text."""
        print(item)


def coloured_console() -> Console:
    """rich's console on standard output: as wide as the terminal or COLUMNS say, and never too narrow for a table."""
    from rich.console import Console

    console = Console(highlight=False)
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "0") != "0"
    console.width = max(console.width, NARROWEST) if known else 100
    return console


def new_console() -> Console | PlainConsole:
    """A console that prints :class:`Line` and :class:`Table`."""
    return PlainConsole() if find_spec("rich") is None else coloured_console()


@contextmanager
def progress_bar(console: Console | PlainConsole, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar, on a terminal and with rich; call the function it yields with what is done next."""
    if isinstance(console, PlainConsole):
        yield lambda description: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        begun = iter(range(total + 1))
        yield lambda description: progress.update(task, completed=next(begun), description=description)
