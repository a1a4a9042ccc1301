"""Writing files: paths are checked before the work begins, and a file is written completely or not at all.

What stands at a path keeps what it is. A link stays a link and its target is written; a file keeps its mode, its owner
and its other names (hard links); a device or a named pipe is written to and never replaced. Ordinary files are written
beside the old one and renamed, so that a reader sees the old content or the new. Where that would break something, that
is with several names, another owner, extended attributes or a mount on the file, or in a folder where nothing can be
made, the finished content is copied into the file instead; if that fails, the error says where it is.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

#: Seconds that a pipe waits for a reader.
PATIENCE = 5.0


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
        if status is not None and _is_standard_output(status):
            raise FileError(f"{path}: expected another file for {name} than what is printed goes to")
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
    draft: Path | None = None
    try:
        check_writable(path)
        draft = _draft_for(path)
        yield draft
        if _replaceable(path) and _replace(draft, path):
            return
        try:
            _pour(draft, path)
        except OSError as error:
            if not _resolved(path).is_file():
                raise
            kept, draft = draft, None  # the old content may be gone: the new one stays
            raise FileError(f"{path}: {error.strerror or error}; its finished content is in {kept}") from error
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    finally:
        if draft is not None:
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
    """Whether a new file under this name would be the same as the old one in all but its content."""
    status, place = _status(path), _resolved(path)
    if status is None:
        return True
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_nlink == 1
        and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())
        and not (hasattr(os, "listxattr") and os.listxattr(place))
        and os.access(place.parent, os.W_OK)
    )


def _is_standard_output(status: os.stat_result) -> bool:
    """Whether standard output, or standard error, is redirected to this file or pipe."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            if os.path.samestat(status, os.fstat(stream.fileno())):
                return True
    return False


def _draft_for(path: Path) -> Path:
    """An empty private file, in the same folder where it will be renamed; its suffix is that of the path."""
    folder = _resolved(path).parent if _replaceable(path) else None
    handle, name = tempfile.mkstemp(prefix=".espref-", suffix=path.suffix, dir=folder)
    os.close(handle)
    return Path(name)


def _replace(draft: Path, path: Path) -> bool:
    """Rename the draft, with the mode and group of the old file; False where the old file cannot be replaced."""
    place, status = _resolved(path), _status(path)
    if status is None:
        os.chmod(draft, 0o666 & ~_umask())
    else:
        if draft.stat().st_gid != status.st_gid:
            try:
                os.chown(draft, -1, status.st_gid)
            except PermissionError:
                return False
        os.chmod(draft, stat.S_IMODE(status.st_mode))
    try:
        os.replace(draft, place)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):  # something is mounted on the file
            return False
        raise
    return True


def _pour(draft: Path, path: Path) -> None:
    """Copy the draft into what stands at the path."""
    ordinary = _resolved(path).is_file()
    number = os.open(path, os.O_WRONLY) if ordinary else _open_stream(path)
    with draft.open("rb") as source, os.fdopen(number, "wb") as target:
        if ordinary:
            os.truncate(number, 0)
        shutil.copyfileobj(source, target)


def _open_stream(path: Path) -> int:
    """A pipe or device, opened for writing; a pipe has some seconds for its reader to come."""
    last = time.monotonic() + PATIENCE
    while True:
        try:
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > last:
                raise OSError(error.errno, "expected a pipe that is being read, nobody does") from error
            time.sleep(0.02)
        else:
            os.set_blocking(number, True)
            return number


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
