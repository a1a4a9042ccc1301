"""What a measurement is made with: commit, versions, processor, threads, GPU, input files."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ._version import __version__, commit

Environment = dict[str, Any]
#: A file, or the path of one that has been read and the SHA-256 of what was read.
Input = str | Path | tuple[str | Path, str]

PACKAGES = ("numpy", "scipy", "POT", "scikit-learn", "torch")
#: How these are written in a sentence.
NAMES = {"python": "Python", "numpy": "NumPy", "scipy": "SciPy", "torch": "PyTorch", "blas": "BLAS", "simd": "SIMD"}
#: What may differ between two processes that run the same code on the same machine.
VARYING = ("date", "command", "inputs", "threads", "blas", "simd")


def environment(inputs: Iterable[Input] = ()) -> Environment:
    """What a measurement made now, by this process, is made with; everything fits in JSON.

    Parameters
    ----------
    inputs : files that the measurement reads, or, for those that have been read, pairs of path and SHA-256

    Returns
    -------
    dict
        "espref", its version; "commit", None if unknown, and "dirty", whether code was changed since (see
        :func:`commit`); "date", the day in UTC; "command"; "python" and the versions of the numerical packages, None
        where one is not installed; "blas", the libraries of linear algebra with their kernels; "simd", the vector
        instructions in use; "threads" of BLAS and of PyTorch, where it is loaded; "cpu", "cores" that the process
        may use, "system"; "gpu", what :func:`gpu` returns; "inputs", name and SHA-256 of each.

    Raises
    ------
    OSError
        When an input cannot be read.
    """
    name, dirty = _commit_of_process()
    return {
        "espref": __version__,
        "commit": name,
        "dirty": dirty,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "blas": ", ".join(_describe_blas()),
        "simd": simd(),
        "threads": threads(),
        "cpu": processor(),
        "cores": cores(),
        "system": platform.system(),
        "gpu": gpu(),
        "inputs": [_input(given) for given in inputs],
    }


def _input(given: Input) -> dict[str, str]:
    path, checksum = (
        given if isinstance(given, tuple) else (given, hashlib.sha256(Path(given).read_bytes()).hexdigest())
    )
    return {"name": _cut(path), "sha256": checksum}


def in_words(made_with: Environment) -> str:
    """An environment as one line of text. What it does not name was not recorded, and is left out."""
    state = {True: " with uncommitted changes", False: "", None: ""}[made_with["dirty"]]
    parts = [f"{made_with['cpu']}, {made_with['cores']} cores, {made_with['system']}"]
    if made_with.get("gpu"):
        about = {name: value for name, value in made_with["gpu"].items() if name != "name" and value is not None}
        parts += [", ".join([made_with["gpu"]["name"], *(f"{name} {value}" for name, value in about.items())])]
    known = f"commit {made_with['commit']}{state}" if made_with["commit"] else "commit unknown"
    note = f" ({made_with['note']})" if "note" in made_with else ""
    parts += [f"{made_with['date']}, espref {made_with['espref']}, {known}{note}"]
    versions = {NAMES.get(key, key): made_with[key] for key in ("python", *PACKAGES) if made_with[key] is not None}
    parts += [", ".join(f"{name} {version}" for name, version in versions.items())]
    if made_with.get("threads"):
        parts += ["threads: " + ", ".join(f"{NAMES[key]} {count}" for key, count in made_with["threads"].items())]
    parts += [f"{NAMES[key]}: {made_with[key]}" for key in ("blas", "simd") if made_with.get(key)]
    parts += [f"{file['name']}: SHA-256 {file['sha256']}" for file in made_with.get("inputs", [])]
    return "; ".join(parts)


def command() -> str:
    """The command line of this process, or of the one that started it as a worker. Absolute paths are cut to names."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        words = ["python", "-m", program.parent.name]
    elif program.suffix == ".py" or sys.argv[0] == "-c":
        words = ["python", _cut(program)]
    else:
        words = [program.name]
    return shlex.join([*words, *map(_cut, sys.argv[1:])])


def _cut(path: str | Path) -> str:
    """An absolute path says where a machine keeps its files, which nobody else needs to know."""
    return Path(path).name if os.path.isabs(path) else str(path)


@functools.cache
def commit_at_start() -> str | None:
    """:func:`commit` as it was when this was first called. Who measures calls it before anything else."""
    return commit()


def _commit_of_process() -> tuple[str | None, bool | None]:
    """Commit, and whether it was changed.

    What this process imported is the code of its start, what it starts may be that of now: if the commit has changed
    in between, none is named.
    """
    begun, now = commit_at_start() or "", commit() or ""
    name = begun.rstrip("+")
    if not name or name != now.rstrip("+"):
        return None, None
    return name, "+" in begun + now


def processor() -> str:
    """Name of the processor where Linux tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.machine()


def cores() -> int | None:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def simd() -> str:
    """The vector instructions that NumPy uses on this processor, and PyTorch's choice if it is loaded."""
    import numpy as np

    extensions = np.show_config(mode="dicts").get("SIMD Extensions", {})
    text = "numpy " + " ".join([*extensions.get("baseline", []), *extensions.get("found", [])])
    torch = sys.modules.get("torch")
    return text if torch is None else f"{text}, torch {torch.backends.cpu.get_cpu_capability()}"


def threads() -> dict[str, int]:
    """How many threads BLAS and PyTorch use, where that can be told."""
    counts = {"blas": max((library["num_threads"] for library in _blas()), default=0)}
    torch = sys.modules.get("torch")
    counts["torch"] = 0 if torch is None else torch.get_num_threads()
    return {name: count for name, count in counts.items() if count}


def gpu() -> Environment | None:
    """The current GPU of PyTorch, its driver, CUDA and cuDNN, and whether TF32 is allowed; None without one.

    PyTorch is not imported for it: what runs on a GPU has done so.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return {
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "capability": f"{major}.{minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32 in matmul": _allows_tf32(torch.backends.cuda.matmul),
        "tf32 in cudnn": _allows_tf32(torch.backends.cudnn),
    }


def _allows_tf32(backend: Any) -> bool:
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:  # PyTorch from 2.9: set by the newer attribute, after which the older one cannot be read
        return bool(backend.fp32_precision == "tf32")


def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> list[dict[str, Any]]:
    """The loaded libraries of linear algebra, as threadpoolctl (which comes with scikit-learn) describes them."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two OpenMP libraries in one process
        return [library for library in threadpool_info() if library["user_api"] == "blas"]


def _describe_blas() -> list[str]:
    """Name, version and kernel of each library; without threadpoolctl what NumPy was built with."""
    keys = ("internal_api", "version", "architecture")
    found = [" ".join(str(library[key]) for key in keys if library.get(key)) for library in _blas()]
    if not found:
        import numpy as np

        built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found = [f"{built['name']} {built['version']}, kernel unknown"]
    return sorted(set(found))
