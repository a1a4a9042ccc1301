"""Versions, machine and commit, which are recorded with every measurement."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ._version import __version__


def environment() -> dict[str, str | int | None]:
    """Versions of Python and of the numerical packages, the machine, and the commit if there is one."""
    versions: dict[str, str | int | None] = {"espref": __version__, "commit": commit()}
    versions |= {"python": platform.python_version(), "system": platform.system(), "machine": processor()}
    versions["cores"] = os.cpu_count()
    for package in ("numpy", "scipy", "POT", "scikit-learn", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    torch = sys.modules.get("torch")  # what runs on a GPU has imported it
    if torch is not None and torch.cuda.is_available():
        versions["gpu"] = torch.cuda.get_device_name()
    return versions


def processor() -> str:
    """Name of the processor where Linux tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.machine()


def commit() -> str | None:
    """The commit of the checkout that the package runs from, with a "+" if tracked files were changed, or None."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answers = [
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0].strip() + ("+" if answers[1].strip() else "")
