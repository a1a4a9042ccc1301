"""Docstrings of all public names, by numpydoc; pyproject.toml says which checks apply, and why the others do not."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

import espref

ROOT = Path(__file__).parent.parent
CHECKS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["numpydoc_validation"]["checks"]
MODULES = ("espref.solvers", "espref.plot", "espref.claims", "espref.nn")


def public_names() -> list[str]:
    """Functions and classes of espref and of its public modules, and of theirs: dotted names."""
    names = [f"espref.{name}" for name in espref.__all__ if callable(getattr(espref, name))]
    for path in MODULES:
        try:
            module = importlib.import_module(path)
        except ImportError:  # the extra is missing
            continue
        names += names_in(module)
    return names


def names_in(module: object) -> list[str]:
    """The names of one module, in ``__all__`` or defined in it, and of the modules that it makes public."""
    path = module.__name__
    defined = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == path]
    found = []
    for name in getattr(module, "__all__", [name for name in defined if not name.startswith("_")]):
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            found += [inner for inner in names_in(thing) if getattr(_import(inner), "__module__", "") == thing.__name__]
        elif inspect.isfunction(thing) or inspect.isclass(thing):
            found.append(f"{path}.{name}")
    return found


def _import(dotted: str) -> object:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", public_names())
def test_docstring(name: str) -> None:
    """Parameters, Returns, See Also and Examples are there, complete, and of the right form."""
    validate = pytest.importorskip("numpydoc.validate")
    applied = set(validate.ERROR_MSGS) - set(CHECKS) if "all" in CHECKS else set(CHECKS)
    if hasattr(_import(name), "_fields"):
        applied -= {"PR01"}  # the comment beside a field of a NamedTuple documents it
    errors = validate.validate(name)["errors"]
    assert not [f"{code}: {message}" for code, message in errors if code in applied]
