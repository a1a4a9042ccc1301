"""Writing files: paths are checked before the work begins, and a file is written completely or not at all.

What stands at a path keeps what it is. A link stays a link and its target is written; a file keeps its mode, its owner
and its other names (hard links); a device or a named pipe is written to and never replaced. Ordinary files are written
beside the old one and renamed, so that a reader sees the old content or the new. Where that would break something, that
is with several names or in a folder where nothing can be made, the finished content is copied into the file instead.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


class FileError(ValueError):
    """A file that cannot be used, in one line."""


def check_writable(path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a path to which no file could be written; None is accepted and means no file.

    Parameters
    ----------
    path : Path or None
        Where a file is to be written.
    suffixes : tuple of str
        What an ordinary file's name must end in, since it says the format; anything goes by default.

    Raises
    ------
    FileError
        When the path is a folder, a socket or a block device; when its folder is missing, or it cannot be written to;
        when its suffix is another one.
    """
    if path is None:
        return
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise FileError(f"{path}: expected a file to write, this is a folder")
        if not (stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise FileError(f"{path}: expected a file to write, this is a socket or a block device")
        if not os.access(path, os.W_OK):
            raise FileError(f"{path}: Permission denied")
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise FileError(f"{path}: expected a name that ends in {' or '.join(suffixes)}, which says the format")
    place = _resolved(path)
    if not place.parent.is_dir():
        raise FileError(f"{path}: the folder {place.parent} does not exist")
    if status is not None and not os.access(place, os.W_OK):
        raise FileError(f"{path}: Permission denied")
    if status is None and not os.access(place.parent, os.W_OK):
        raise FileError(f"{path}: the folder {place.parent} is not writable")


def check_distinct(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Refuse outputs that are the same file as one another or as an input, however their paths are spelled.

    Parameters
    ----------
    outputs, inputs : mapping of str to Path or None
        The name of an option, and its path.

    Raises
    ------
    FileError
        Naming both options.
    """
    seen = {_identity(path): (name, path) for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        status = _status(path)
        if status is not None and stat.S_ISCHR(status.st_mode):  # /dev/null takes any number
            continue
        identity = _identity(path)
        if identity in seen:
            other, same = seen[identity]
            spelled = "" if str(same) == str(path) else f" ({same})"
            raise FileError(f"{path}: expected different files for {other} and {name}, this is one file{spelled}")
        seen[identity] = name, path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path whose content becomes that of ``path`` at the end of the block; lost if the block raises.

    Raises
    ------
    FileError
        When the file cannot be written.
    """
    path = Path(path)
    try:
        check_writable(path)
        draft = _draft_for(path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    try:
        yield draft
        _deliver(draft, path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    """The status of what stands at a path, links followed; None where nothing stands."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # a loop of links, a name that is too long
        raise FileError(f"{path}: {error.strerror or error}") from error


def _resolved(path: Path) -> Path:
    """The path behind all links, which need not exist."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> tuple[object, ...]:
    """Equal for two paths of one file: its device and number, or its folder's and a name if there is none yet."""
    status = _status(path)
    if status is not None:
        return status.st_dev, status.st_ino
    place = _resolved(path)
    folder = _status(place.parent)
    name = os.path.normcase(place.name)
    return (str(place.parent), name) if folder is None else (folder.st_dev, folder.st_ino, name)


def _replaceable(path: Path) -> bool:
    """Whether the file may be replaced by another under its name."""
    status = _status(path)
    if status is not None and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or _is_standard_output(status)):
        return False
    return os.access(_resolved(path).parent, os.W_OK)


def _is_standard_output(status: os.stat_result) -> bool:
    """/dev/stdout of a process whose output goes to a file is that file, which the shell has open."""
    with suppress(AttributeError, OSError, ValueError):
        return os.path.samestat(status, os.fstat(sys.stdout.fileno()))
    return False


def _draft_for(path: Path) -> Path:
    """An empty private file, in the same folder where it will be renamed; its suffix is that of the path."""
    folder = _resolved(path).parent if _replaceable(path) else None
    handle, name = tempfile.mkstemp(prefix=".espref-", suffix=path.suffix, dir=folder)
    os.close(handle)
    return Path(name)


def _deliver(draft: Path, path: Path) -> None:
    """Rename the draft, or copy what it holds into what stands at the path."""
    if not _replaceable(path):
        _pour(draft, path)
        return
    place, status = _resolved(path), _status(path)
    if status is None:
        os.chmod(draft, 0o666 & ~_umask())
    else:
        with suppress(OSError):  # only root may give files away
            os.chown(draft, status.st_uid, status.st_gid)
        os.chmod(draft, stat.S_IMODE(status.st_mode))
    os.replace(draft, place)


def _pour(draft: Path, path: Path) -> None:
    status = _status(path)
    with draft.open("rb") as source:
        if status is not None and _is_standard_output(status):
            sys.stdout.flush()
            with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as target:
                shutil.copyfileobj(source, target)
        else:
            with path.open("wb") as target:
                shutil.copyfileobj(source, target)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
