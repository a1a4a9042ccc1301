"""constraints.txt has a solution for every extra on every supported Python: resolved with uv, nothing is installed.

One line per Python. Exit code 1 when a version of Python or a platform has no solution made of wheels alone, or when a
package is installed that constraints.txt does not pin.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: The oldest Python there is to support, Debian 12's, and the first release of each later series.
PYTHONS = ("3.11.0", "3.11.2", "3.12", "3.13", "3.14")
PLATFORMS = ("linux", "macos", "windows")
COMMAND = (
    *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--all-extras"),
    *("--constraint", "constraints.txt", "--only-binary", ":all:", "--quiet", "--no-header", "--no-annotate"),
    *("--python", sys.executable, "--no-python-downloads"),
)
#: PyTorch has no wheels for macOS before 14, nor for Intel Macs; uv takes "macos" for an ARM machine.
ENVIRONMENT = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}


def resolve(python: str, platform: str) -> set[str]:
    """The pins, ``name==version``, that all extras together need."""
    done = subprocess.run(
        [*COMMAND, "--python-version", python, "--python-platform", platform],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LookupError(done.stderr.strip())
    return set(done.stdout.split("\n")) - {""}


def main() -> int:
    """Resolve everywhere; the exit code."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition(";")[0].strip() for line in lines}
    code = 0
    for python in PYTHONS:
        counts: list[str] = []
        failures: dict[str, list[str]] = {}  # message -> platforms
        for platform in PLATFORMS:
            try:
                pins = resolve(python, platform)
            except LookupError as error:
                failures.setdefault(f"no solution\n{error}", []).append(platform)
                continue
            counts.append(f"{len(pins)} on {platform}")
            if missing := sorted(pins - pinned):
                failures.setdefault(f"not pinned, run make lock: {', '.join(missing)}", []).append(platform)
        print(f"Python {python}: {'FAILED' if failures else 'packages: ' + ', '.join(counts)}", flush=True)
        for message, platforms in failures.items():
            print(f"  {', '.join(platforms)}: {message}", flush=True)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
