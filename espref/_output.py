"""Writing files: paths are checked before the work begins, and a file is written completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileError(ValueError):
    """A file that cannot be used, in one line."""


def check_writable(path: Path | None) -> None:
    """Refuse a path to which no file could be written; None is accepted and means no file.

    Raises
    ------
    FileError
        When the path is a folder, or its folder is missing or not writable.
    """
    if path is None:
        return
    folder = path.parent
    if path.is_dir():
        raise FileError(f"{path}: expected a file to write, this is a folder")
    if not folder.is_dir():
        raise FileError(f"{path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise FileError(f"{path}: the folder {folder} is not writable")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path that is renamed to ``path`` at the end of the block, and deleted if the block raises.

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
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
