"""Importing espref loads none of the optional packages."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import espref
from espref import solvers

SCRIPT = """
import json, sys
import numpy, scipy.integrate, scipy.sparse, scipy.stats
before = set(sys.modules)
import espref
after = set(sys.modules)
parts = ("claims", "solvers", "benchmarks", "app", "nn")
lazy = [f"espref.{name}" in sys.modules for name in parts]
claims, solvers = espref.claims, espref.solvers
same = claims is sys.modules["espref.claims"] and solvers is sys.modules["espref.solvers"]
print(json.dumps([sorted(after - before), lazy, same, len(claims.LEDGER) > 0, solvers.exact_plan.__name__]))
"""


def test_import() -> None:
    """`import espref` loads nothing beyond NumPy, SciPy and the standard library; claims and solvers on first use."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=True)
    loaded, lazy, same, filled, name = json.loads(done.stdout)
    assert {module.split(".")[0] for module in loaded} <= {"espref", "numpy", "scipy", *sys.stdlib_module_names}
    assert "espref" in loaded and not any(lazy)
    assert same and filled and name == "exact_plan"


def test_lazy_attributes() -> None:
    """They are listed by dir, and a name that does not exist is an AttributeError that says so."""
    assert {"claims", "solvers"} <= set(dir(espref))
    with pytest.raises(AttributeError, match="module 'espref' has no attribute 'no_such_name'"):
        espref.no_such_name  # noqa: B018


def test_public_names() -> None:
    """Everything in __all__ exists, once."""
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
