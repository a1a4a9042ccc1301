"""Standard output and standard error that never end a command: closed, absent, or full.

A command goes on when nobody reads what it prints: its files are written, and its exit status means what it always
means. What cannot be printed is dropped, and a stream that fails for another reason than a reader that has gone is
reported in the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Guarded:
    """A text stream whose failures are kept in ``error`` instead of being raised; behaves like the stream otherwise."""

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self.stream, self.name = stream, name
        self.error: OSError | ValueError | None = None
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # characters that the terminal's encoding lacks

    def __getattr__(self, name: str) -> Any:
        if self.__dict__.get("stream") is None:
            raise AttributeError(name)
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """The text, or nothing once the stream has failed."""
        if self.stream is not None and self.error is None:
            try:
                self.stream.write(text)
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Push out what is buffered."""
        if self.stream is not None and self.error is None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Whether somebody looks on."""
        return self.stream is not None and self.error is None and self.stream.isatty()

    @property
    def encoding(self) -> str:
        """That of the stream."""
        return "utf-8" if self.stream is None else self.stream.encoding

    def report(self) -> bool:
        """Say on standard error what went wrong, if anything did; a reader that has gone, as head does, is fine."""
        self.flush()
        if self.error is None or isinstance(self.error, (BrokenPipeError, ValueError)):
            return False
        print(f"espref: {self.name}: {self.error.strerror or self.error}", file=sys.stderr)
        return True

    def _give_up(self, error: OSError | ValueError) -> None:
        self.error = error
        with suppress(OSError, ValueError, AttributeError):  # what is buffered must not fail again when Python exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # type: ignore[union-attr]


@contextmanager
def guarded() -> Iterator[Guarded]:
    """Guard both streams within the block; yields standard output."""
    before = sys.stdout, sys.stderr
    out, err = Guarded(sys.stdout, "standard output"), Guarded(sys.stderr, "standard error")
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
