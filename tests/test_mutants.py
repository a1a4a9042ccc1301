"""How mutants are recognised: by function and by what changed in the syntax tree."""

from __future__ import annotations

import ast
import tomllib

import mutants
import pytest

KNOWN = tomllib.loads((mutants.ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["equivalent"]


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("step = max(1, n // 2)  # some", "step = max(2, n // 2)", "max(1, ...) -> max(2, ...)"),
        ("x = a[0] + b * c", "x = a[0] - b * c", "... + ... -> ... - ..."),
        ("fixed = len(set(a)) == 1", "fixed = None", "fixed = ... -> fixed = None"),
        ("return np.sum(x, axis=1)", "return np.sum(x)", "sum(x, axis=1) -> sum(x)"),
        ("with f(a):\n    y = g(1)", "with f(None):\n    y = g(1)", "f(a) -> f(None)"),
        ("y = [g(x) for x in s if x > 1]", "y = [g(x) for x in s if x >= 1]", "x > 1 -> x >= 1"),
        ("f(a)\nx = 1", "f(a)\nx = 2", "x = 1 -> x = 2"),
    ],
)
def test_change(was: str, now: str, expected: str) -> None:
    """The smallest expression or statement that holds the difference, with compound parts as dots, comments ignored."""
    assert mutants.change(ast.parse(was), ast.parse(now)) == expected


def test_reason() -> None:
    """An entry explains the changes that it lists, in the functions that it names; an asterisk stands for anything."""
    known = [{"function": "espref.line.*", "changes": ["x[0] -> x[1]", "f(*) -> f(None)"], "reason": "Same."}]
    assert mutants.reason(known, "espref.line.x_match__mutmut_12", "x[0] -> x[1]") == "Same."
    assert mutants.reason(known, "espref.line.x_match__mutmut_12", "f(y, ...) -> f(None)") == "Same."
    assert mutants.reason(known, "espref.line.x_match__mutmut_12", "x[0] -> x[2]") is None
    assert mutants.reason(known, "espref.lift.x_match__mutmut_12", "x[0] -> x[1]") is None
    assert mutants.function_of("espref._ties.xǁClassesǁsums__mutmut_3") == "espref._ties.Classes.sums"


@pytest.mark.trust
def test_no_entry_is_stale() -> None:
    """Every function named in the file exists, and no entry is there twice."""
    names = set()
    for path in (mutants.ROOT / "espref").rglob("*.py"):
        module = ".".join(path.relative_to(mutants.ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                names.add(f"{module}.{node.name}")
    assert {entry["function"] for entry in KNOWN} <= names
    entries = [(entry["function"], change) for entry in KNOWN for change in entry["changes"]]
    assert len(entries) == len(set(entries)) and all(entry["reason"] for entry in KNOWN)
