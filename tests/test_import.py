"""Importing espref is quick and loads none of the optional packages."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import espref
from espref import solvers

SCRIPT = """
import json, sys, time
import numpy, scipy.integrate, scipy.sparse, scipy.stats
start = time.perf_counter()
import espref
print(json.dumps([time.perf_counter() - start, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def test_import() -> None:
    """`import espref` takes under 0.3 s beyond NumPy and SciPy, and loads neither torch, POT nor matplotlib."""
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=True)
        taken, loaded = json.loads(done.stdout)
        assert "espref" in loaded
        assert not {"torch", "ot", "matplotlib", "sklearn", "rich"} & set(loaded)
        seconds.append(taken)
        if taken < 0.3:
            break
    assert min(seconds) < 0.3


def test_public_names() -> None:
    """Everything in __all__ exists, once."""
    import espref

    assert len(set(espref.__all__)) == len(espref.__all__)
    assert all(hasattr(espref, name) for name in espref.__all__)


def test_defaults_are_those_of_the_papers() -> None:
    """The same argument has the same default wherever it has one: squared cost, the plain mean, ties shared, ..."""
    expected = {"p": 2, "beta": 0.0, "ties": "split", "method": "random", "power": 1, "sort": "soft", "n_iter": 5}
    functions = [getattr(espref, name) for name in espref.__all__] + [solvers.ground_cost, solvers.exact_plan]
    functions += [solvers.sinkhorn_plan, solvers.pot_expected_sliced_plan]
    seen = set()
    for function in functions:
        if inspect.isfunction(function):
            for name, parameter in inspect.signature(function).parameters.items():
                if (
                    name in expected
                    and function is not solvers.sinkhorn_plan
                    and parameter.default is not inspect.Parameter.empty
                ):
                    assert parameter.default == expected[name], (function.__name__, name)
                    seen.add(name)
    assert seen == set(expected)
