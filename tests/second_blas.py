"""The numerical tests on other kernels of BLAS and NumPy than those this machine would choose: ``make test-blas``.

Sums in another order round differently. What passes on both kinds of kernel does not depend on the machine. OpenBLAS,
in NumPy and in SciPy, takes its oldest kernel of this processor's family, and NumPy none of the instructions that it
would use beyond its baseline.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from espref.chapters import NUMPY_CHAPTERS

ROOT = Path(__file__).parent.parent
#: The oldest kernel that OpenBLAS has for a family of processors.
OLDEST = {"x86_64": "Prescott", "AMD64": "Prescott", "aarch64": "ARMV8", "arm64": "ARMV8"}
NUMERICAL = [*NUMPY_CHAPTERS, "deviations", "oracle_errors", "claims", "every_claim"]

#: Prints the features that NumPy uses and can do without, and the kernels of the OpenBLAS libraries that are loaded.
PROBE = """
import json
import numpy, scipy.linalg
from threadpoolctl import threadpool_info
try:
    from numpy._core import _multiarray_umath as core
except ImportError:
    from numpy.core import _multiarray_umath as core
used = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
kernels = [pool.get("architecture") for pool in threadpool_info() if pool["internal_api"] == "openblas"]
print(json.dumps([used, kernels]))
"""


def probe(variables: dict[str, str]) -> tuple[list[str], list[str]]:
    """NumPy's optional features and OpenBLAS's kernels, in a process with these environment variables."""
    done = subprocess.run([sys.executable, "-c", PROBE], env=variables, capture_output=True, text=True, check=True)
    features, kernels = json.loads(done.stdout)
    return features, kernels


def other_kernels() -> dict[str, str]:
    """Environment variables under which NumPy and OpenBLAS use other kernels than here, checked in a new process."""
    oldest = OLDEST.get(platform.machine())
    if oldest is None:
        raise SystemExit(f"no second kernel is known for {platform.machine()}")
    features, kernels = probe(dict(os.environ))
    variables = {**os.environ, "OPENBLAS_CORETYPE": oldest, "NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    left, others = probe(variables)
    if left or not others or set(others) & set(kernels):
        raise SystemExit(f"expected other kernels than {kernels} and no optional features, got {others} and {left}")
    print(
        f"OpenBLAS: {', '.join(others)} instead of {', '.join(kernels)}; NumPy without {', '.join(features) or 'none'}"
    )
    return variables


if __name__ == "__main__":
    files = [f"tests/test_{name}.py" for name in NUMERICAL]
    command = [sys.executable, "-m", "pytest", *files, *sys.argv[1:]]
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=other_kernels()).returncode)
