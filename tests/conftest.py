"""The same for all tests: examples of Hypothesis (none timed), one thread, the width of the terminal."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

from espref.chapters import NUMPY_CHAPTERS

# Problems this small gain nothing from threads in BLAS and PyTorch, and lose much where cores are shared. Set before
# NumPy is loaded; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")  # POT would load torch, which takes seconds
os.environ["COLUMNS"] = "120"  # what is printed does not depend on the terminal that the tests were started from

settings.register_profile("espref", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("espref")


#: Tests whose own oracles and examples underflow; elsewhere an underflow outside the package is an error too.
UNDERFLOWING = {
    f"test_{name}"
    for name in (*NUMPY_CHAPTERS, "deviations", "fuzz", "scales")
    if name not in ("directions", "attention")
}


@pytest.fixture(autouse=True)
def _floating_point_errors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of the NumPy chapters, of claims and of the program runs as under ``np.seterr(all="raise")``."""
    if request.path.parent.name != "tests":  # PyTorch and training set nothing of the kind
        yield
        return
    with np.errstate(all="raise", under="ignore" if request.path.stem in UNDERFLOWING else "raise"):
        yield
