"""The supported Pythons other than the one of ``.venv``: a new environment for each that is installed here.

PyTorch is left out: these environments test the NumPy part. Each gets the extra ``test`` with the versions of
constraints.txt, runs the ledger with one seed, then the tests and the doctests of the NumPy chapters.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from espref.chapters import NUMPY_CHAPTERS

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def interpreter(version: str) -> str | None:
    """One that works, on PATH or among pyenv's; a shim of pyenv's may stand for none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
    for path in (shutil.which(f"python{version}"), *installed):
        if path and subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
            return str(path)
    return None


def check(python: str) -> None:
    """Install, measure the ledger, run the tests."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "120"}

    def run(*words: object, **settings: Any) -> subprocess.CompletedProcess:
        return subprocess.run([*map(str, words)], cwd=ROOT, env=variables, check=True, **settings)

    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "bin" / "python"
        run(python, "-m", "venv", folder)
        install = ("install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt")
        run(own, "-m", "pip", *install, "--editable", ".[test]")
        ledger = run(own, "-m", "espref", "verify", "--seeds", "1", stdout=subprocess.PIPE, text=True).stdout
        print(ledger.splitlines()[-1], flush=True)
        files = [f"{name}.py" for chapter in NUMPY_CHAPTERS for name in (f"tests/test_{chapter}", f"espref/{chapter}")]
        run(own, "-m", "pytest", "-p", "no:cacheprovider", *files)


def main() -> int:
    """Every Python but this one; the exit code."""
    code = 0
    for version in PYTHONS:
        if version == "{}.{}".format(*sys.version_info):
            print(f"Python {version}: that of .venv, see make test", flush=True)
        elif (python := interpreter(version)) is None:
            print(f"Python {version}: skipped, not installed here", flush=True)
        else:
            print(f"Python {version}: {python}", flush=True)
            start = time.perf_counter()
            try:
                check(python)
            except subprocess.CalledProcessError as error:
                print(error.stdout or "", end="")  # the ledger, with the claims that failed
                print(f"Python {version}: FAILED: {error}", flush=True)
                code = 1
            else:
                print(f"Python {version}: passed in {time.perf_counter() - start:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
