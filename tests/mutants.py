"""Mutation testing: ``make mutants`` runs mutmut, reads what survives beside ``tests/mutants.toml``, writes the record.

A survivor is equivalent when no input can tell it from the original, or none that the function is for. The file lists
these with the reason, by function and by what changed in its syntax tree, as :func:`change` writes it: neither comments
nor line breaks nor the rest of the statement matter. Whatever else survives is a hole in the tests and is printed.
Functions with a decorator are mutated too: it is moved below them first, because mutmut passes over what is decorated.

    python tests/mutants.py chapters    # the NumPy chapters, every mutant
    python tests/mutants.py claims 600  # the ledger, a random sample
    python tests/mutants.py nn          # espref/nn/functional.py
    python tests/mutants.py espref/_ties.py  # one module, without a record
"""

from __future__ import annotations

import ast
import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import records

from espref.chapters import NUMPY_CHAPTERS

ROOT = Path(__file__).parent.parent
#: Modules behind the definitions, which the tests of the chapters exercise.
MACHINERY = sorted(path.stem for path in (ROOT / "espref").glob("_[a-z]*.py") if not path.stem.startswith("__"))
MACHINERY = [name for name in MACHINERY if name not in ("_environment", "_labels", "_output", "_version")]
MUTMUT = [str(Path(sys.executable).parent / "mutmut")]


class Suite(NamedTuple):
    """What is mutated, and the tests that must notice."""

    modules: list[str]
    tests: list[str]


SUITES = {
    "chapters": Suite(
        [f"espref/{name}.py" for name in (*NUMPY_CHAPTERS, *MACHINERY)],
        [
            *(f"tests/test_{name}.py" for name in NUMPY_CHAPTERS),
            "tests/test_bad_input.py",
            "tests/test_oracle_errors.py",
        ],
    ),
    "claims": Suite(
        [f"espref/claims/{name}.py" for name in NUMPY_CHAPTERS if name != "planfree"],
        ["tests/test_every_claim.py", "tests/test_sensitivity.py", "tests/test_claims.py::test_claim_stands"],
    ),
    "nn": Suite(["espref/nn/functional.py"], ["tests/nn/test_functional.py", "tests/nn/test_nn_attention.py"]),
}
#: Identity of a function does not survive mutmut's wrappers.
DESELECTED = ["tests/test_bad_input.py::test_every_public_function_is_covered"]
#: Exit codes of pytest in a mutant's process, as mutmut keeps them.
SURVIVED, UNTESTED, TIMEOUT = {0}, {5, 33}, {36, 24, 152, -24, 255}


def undecorate(path: Path) -> None:
    """A decorator ``@claim(...)`` above a function becomes ``f = claim(...)(f)`` below it."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1:
            decorator = node.decorator_list[0]
            call = "\n".join(lines[decorator.lineno - 1 : decorator.end_lineno]).lstrip("@")
            lines[node.end_lineno : node.end_lineno] = [f"{node.name} = {call}({node.name})"]
            del lines[decorator.lineno - 1 : decorator.end_lineno]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepare(folder: Path, suite: Suite) -> None:
    """A copy of the working tree, without what git ignores, set up for mutmut."""
    kept = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(kept, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for module in suite.modules:
        undecorate(folder / module)
    options = [
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        *(word for test in DESELECTED for word in ("--deselect", test)),
    ]
    settings = {
        "source_paths": ["espref"],
        "only_mutate": suite.modules,
        "also_copy": [
            "README.md",
            "CITATION.cff",
            "CHANGELOG.md",
            "Makefile",
            "constraints.txt",
            "docs",
            "tutorials",
            "espref",
        ],
        "do_not_mutate_patterns": [r"raise \w+", 'f"'],  # the wording of messages
        "pytest_add_cli_args_test_selection": suite.tests,
        "pytest_add_cli_args": options,
    }
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))


def exit_codes(folder: Path) -> dict[str, int | None]:
    """What the tests returned for each mutant; None where it was not run."""
    found: dict[str, int | None] = {}
    for path in (folder / "mutants").rglob("*.meta"):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def difference(was: ast.AST, now: ast.AST) -> tuple[ast.AST, ast.AST]:
    """The smallest expressions or statements of two trees that hold all their differences, and where they meet."""
    for field in was._fields:
        one, two = getattr(was, field, None), getattr(now, field, None)
        if type(was) is not type(now) or same(one, two):
            continue
        others = [name for name in was._fields if name != field]
        if not all(same(getattr(was, name, None), getattr(now, name, None)) for name in others):
            break
        if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
            unequal = [pair for pair in zip(one, two, strict=True) if not same(*pair)]
            one, two = unequal[0] if len(unequal) == 1 else (None, None)
        if isinstance(one, ast.AST) and type(one) is type(two) and not is_leaf(one):
            return difference(one, two)
    return was, now


def same(one: Any, two: Any) -> bool:
    """Whether two fields of trees are equal."""
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(same(*pair) for pair in zip(one, two, strict=True))
    if isinstance(one, ast.AST) and isinstance(two, ast.AST):
        return ast.dump(one) == ast.dump(two)
    return type(one) is type(two) and one == two


def is_leaf(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Name | ast.Constant) or (isinstance(node, ast.Attribute) and is_leaf(node.value))


class _Short(ast.NodeTransformer):
    """Expressions that are not names or constants become ``...``, but for the one on top."""

    def __init__(self, top: ast.AST) -> None:
        self.top = top

    def visit(self, node: ast.AST) -> Any:
        if node is self.top or not isinstance(node, ast.expr):
            return self.generic_visit(node)
        if isinstance(self.top, ast.Call) and node is self.top.func:
            return ast.Name(ast.unparse(node).rpartition(".")[2])
        return node if is_leaf(node) else ast.Constant(...)


def short(node: ast.AST) -> str:
    """A statement or an expression without what is inside its parts: ``max(1, ...)``."""
    node = copy.deepcopy(node)
    if isinstance(node, ast.FunctionDef | ast.For | ast.While | ast.If | ast.With):
        node.body = []
    return ast.unparse(ast.fix_missing_locations(_Short(node).visit(node))).strip()


def change(was: ast.AST, now: ast.AST) -> str:
    """What a mutant changed, as ``max(1, ...) -> max(2, ...)``; in full where that shows no difference."""
    pair = difference(was, now)
    shown = [short(node) for node in pair]
    return " -> ".join(shown if shown[0] != shown[1] else [ast.unparse(node) for node in pair])


def body(function: ast.FunctionDef) -> ast.Module:
    """The statements of a function and its defaults, without its name."""
    return ast.Module(
        [*function.body, ast.Expr(ast.Tuple([*function.args.defaults, *filter(None, function.args.kw_defaults)]))], []
    )


def function_of(mutant: str) -> str:
    """``espref.line.x_match__mutmut_3`` is ``espref.line.match``; methods are ``espref.line.Class.method``."""
    name = re.sub(r"__mutmut_\d+$", "", mutant).replace(".x_", ".")
    return re.sub(r"\.xǁ(\w+)ǁ", r".\1.", name)


def changes(folder: Path, mutants: list[str]) -> dict[str, str]:
    """Mutant -> what it changed, from the files that mutmut wrote."""
    result: dict[str, str] = {}
    for path in (folder / "mutants" / "espref").rglob("*.py"):
        prefix = ".".join(path.relative_to(folder / "mutants").with_suffix("").parts) + "."
        inside = [mutant for mutant in mutants if mutant.startswith(prefix) and "." not in mutant[len(prefix) :]]
        if inside:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            for mutant in inside:
                name = mutant[len(prefix) :]
                original = functions[re.sub(r"\d+$", "orig", name)]
                result[mutant] = change(body(original), body(functions[name]))
    return result


def reason(known: list[dict[str, Any]], mutant: str, changed: str) -> str | None:
    """Why a survivor is equivalent; None when nobody has said so. Functions and changes may hold wildcards."""
    for entry in known:
        if fnmatchcase(function_of(mutant), entry["function"]) and any(
            changed == pattern or ("*" in pattern and fnmatchcase(changed, pattern.replace("[", "[[]")))
            for pattern in entry["changes"]
        ):
            return entry["reason"]
    return None


def run(name: str, sample: int | None = None, module: str | None = None) -> dict[str, Any]:
    """Mutate, test, and count. ESPREF_MUTANTS names a folder to go on in, where an earlier run was stopped."""
    suite = SUITES[name]._replace(modules=[module]) if module else SUITES[name]
    folder = Path(os.environ.get("ESPREF_MUTANTS") or tempfile.mkdtemp(prefix="mutants-"))
    if not (folder / "mutants").exists():
        folder.mkdir(exist_ok=True)
        prepare(folder, suite)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    words: list[str] = []
    if sample:
        subprocess.run([*MUTMUT, "run", "no-such-mutant"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        names = sorted(exit_codes(folder))
        words = random.Random(0).sample(names, min(sample, len(names)))
    subprocess.run([*MUTMUT, "run", *words], cwd=folder, env=environment, check=True)
    return tally(name, folder)


def tally(name: str, folder: Path) -> dict[str, Any]:
    """The row of a record from what has been run; survivors that nobody has explained are printed."""
    known = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["equivalent"]
    every = len(exit_codes(folder))
    codes = {mutant: code for mutant, code in exit_codes(folder).items() if code is not None}
    counts: Counter[str] = Counter()
    alive = sorted(mutant for mutant, code in codes.items() if code in SURVIVED | UNTESTED)
    counts["killed"] = len(codes) - len(alive)
    for mutant, changed in changes(folder, alive).items():
        if reason(known, mutant, changed):
            counts["equivalent"] += 1
        else:
            counts["survived"] += 1
            print(f"{mutant}{' (no test runs it)' if codes[mutant] in UNTESTED else ''}\n  {changed}\n")
    rate = counts["killed"] / (counts["killed"] + counts["survived"])
    detail = ", ".join(f"{counts[word]} {word}" for word in ("killed", "equivalent", "survived"))
    mutated = f"{len(codes)} mutants" if len(codes) == every else f"{len(codes)} of {every} mutants"
    print(f"{name}: {mutated}: {detail}: {rate:.1%} of those that are not equivalent die")
    title = {"chapters": "NumPy chapters", "claims": "bodies of the claims", "nn": "espref.nn.functional"}[name]
    return records.row("mutants", title, 100 * rate, "% die", ">= 95", rate >= 0.95, f"{mutated}: {detail}")


if __name__ == "__main__":
    what = sys.argv[1]
    if what in SUITES:
        records.write("mutants", [run(what, int(sys.argv[2]) if len(sys.argv) > 2 else None)])
    else:
        (which,) = [name for name, suite in SUITES.items() if what in suite.modules]
        run(which, module=what)
