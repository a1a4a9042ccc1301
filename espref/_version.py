"""The version of espref, and the commit that its code is of.

``BASE`` is the one place that states the version: between releases that of the next one with ``.dev0``. To such a
version wheels and sdists add the commit that they were built from, which they keep in ``_commit.txt``. The build reads
this file alone, so it imports nothing but the standard library.
"""

from __future__ import annotations

from pathlib import Path

BASE = "0.2.0.dev0"
#: The day of the release, or the day on which the development version began.
DATE = "2026-12-01"

#: What decides a measurement. Changes of other files, such as the records themselves, leave the commit clean.
CODE = ("espref", "tests", "pyproject.toml", "constraints.txt")
#: Hash and date of the commit that a wheel or an sdist was built from. A checkout does not have this file.
SHIPPED = Path(__file__).with_name("_commit.txt")


def shipped() -> str | None:
    """The commit in ``_commit.txt``, with a "+" if the code was changed since; None without that file."""
    return SHIPPED.read_text(encoding="utf-8").split()[0] if SHIPPED.exists() else None


def commit() -> str | None:
    """The commit of the code, with a "+" if it was changed since, or None if that is not known.

    In a checkout Git is asked, and ``CODE`` is what counts as changed, new files included.
    """
    import subprocess

    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return shipped()
    try:
        name, changes = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", *CODE])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return name.strip() + ("+" if changes.strip() else "")


def with_commit(base: str, name: str | None) -> str:
    """The version of a build: a release as it is, a development version with the commit, "0.2.0.dev0+g8e690e1"."""
    if name is None or ".dev" not in base:
        return base
    return f"{base}+g{name.rstrip('+')}{'.dirty' if name.endswith('+') else ''}"


__version__ = with_commit(BASE, shipped())
