"""The architecture: what imports what, how long modules are, and that every chapter has its parts.

The mathematics imports no evidence and no program, the evidence no program. Imports are read from the source, also
those within functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import espref
from espref.chapters import CHAPTERS, NUMPY_CHAPTERS

PACKAGE = Path(espref.__file__).parent
ROOT = PACKAGE.parent
EVIDENCE = ("claims", "benchmarks", "deviations", "conformance", "lab")
PROGRAM = ("app", "train", "__main__")
MOST_LINES = 300
#: Longer modules -> why.
LONG = {
    "expected": "five public functions of many arguments, each documented in full",
    "line": "five public functions, each documented in full",
    "solvers": "four public functions, each documented in full",
    "softsort": "five public functions, each documented in full",
    "claims.ledger": "what a claim is and how it is run, every public name documented in full",
    "nn.functional": "four public functions, each documented in full",
    "nn.dense": "the specification of the layer in one piece, each step documented in full",
    "nn.transformer": "four models of many arguments, each documented in full",
    "nn.losses": "three public functions of many arguments, each documented in full",
    "train.paper": "readers of the four data sets of the paper",
}
#: Chapters of the ledger that are longer: a list of independent claims, each with statement and proof.
LONG_CHAPTERS = ("attention", "circle", "directions", "expected", "lift", "line", "nn", "softsort")
LONG |= {f"claims.{chapter}": "one function per claim of the chapter" for chapter in LONG_CHAPTERS}
#: Imports by a name that is computed -> what they load. The root package loads its lazy attributes, so that
#: ``import espref`` stays quick: the one place where the mathematics reaches the evidence.
DYNAMIC = {
    "": "espref.solvers and espref.claims, on first use",
    "claims": "the claims of each chapter",
    "benchmarks": "one suite",
    "solvers": "POT",
}


class Import(NamedTuple):
    """``module`` (without "espref.", the root being "") imports ``name`` from ``target``, or all of it."""

    module: str
    target: str
    name: str | None
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}


def resolved(module: str, name: str | None, line: int, target: str) -> Import:
    """``from target import name``, where ``name`` may be a module itself."""
    submodule = f"{target}.{name}".lstrip(".")
    return Import(module, submodule, None, line) if submodule in SOURCES else Import(module, target, name, line)


def imports_of(module: str, tree: ast.AST) -> Iterator[Import]:
    """All imports of parts of espref."""
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root, _, target = alias.name.partition(".")
                if root == "espref":
                    yield Import(module, target, None, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".") if package else []
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *filter(None, [base])])
            elif base.split(".")[0] == "espref":
                base = base.partition(".")[2]
            else:
                continue
            for alias in node.names:
                yield resolved(module, alias.name, node.lineno, base)


IMPORTS = [found for module, tree in TREES.items() for found in imports_of(module, tree)]


def top(module: str) -> str:
    """The part of the package that a module belongs to: "nn", "claims", a chapter, ..."""
    return module.split(".")[0]


def wing(module: str) -> int:
    """0 the mathematics, 1 the evidence, 2 the program."""
    return 2 if top(module) in PROGRAM else 1 if top(module) in EVIDENCE else 0


def group(module: str) -> str:
    """A package, or the modules of the mathematics in the root as one."""
    return top(module) if "." in module or SOURCES[module].name == "__init__.py" or wing(module) else ""


def order(edges: set[tuple[str, str]]) -> None:
    """Raise CycleError if the edges have a cycle."""
    graph: dict[str, set[str]] = {}
    for source, target in edges:
        graph.setdefault(source, set()).add(target)
    TopologicalSorter(graph).prepare()


def test_every_module_that_is_imported_exists() -> None:
    """What the other tests go by: there are imports, and each is of a module here."""
    assert len(IMPORTS) > 100 and {found.target for found in IMPORTS} <= set(SOURCES)


def test_arrows_run_downwards() -> None:
    """The mathematics never imports evidence or program, the evidence never the program."""
    assert not [found for found in IMPORTS if wing(found.target) > wing(found.module)]


def test_nn_and_numpy_are_apart() -> None:
    """PyTorch's form never uses the chapters that it is checked against, nor they it."""
    chapters = set(NUMPY_CHAPTERS)
    pairs = [(top(found.module), top(found.target)) for found in IMPORTS]
    assert not [pair for pair in pairs if pair[0] == "nn" and pair[1] in chapters]
    assert not [pair for pair in pairs if pair[1] == "nn" and (pair[0] in chapters or pair[0].startswith("_"))]


def test_training_does_not_import_the_app() -> None:
    """The command line uses the training, not the other way round."""
    assert not [found for found in IMPORTS if top(found.module) == "train" and top(found.target) == "app"]


def test_no_cycle_among_modules() -> None:
    """No module imports itself by way of others. The root package, which collects the public names, imports chapters;
    that a chapter imports nothing from it but the version is part of this."""
    order({(found.module, found.target) for found in IMPORTS})


def test_no_cycle_among_packages() -> None:
    """Nor does any package, the chapters of the root counted as one."""
    edges = {(group(found.module), group(found.target)) for found in IMPORTS}
    order({(source, target) for source, target in edges if source != target})


def test_private_names_stay_at_home() -> None:
    """No module imports ``_name`` from another, or reads it there; modules called ``_name`` are machinery for all."""
    assert not [found for found in IMPORTS if (found.name or "").startswith("_") and found.name != "__version__"]
    for module, tree in TREES.items():
        modules = {found.target.rpartition(".")[2] for found in imports_of(module, tree) if found.name is None}
        aliases = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.name in modules
        }
        reads = [
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases
            if node.attr.startswith("_") and not node.attr.startswith("__")
        ]
        assert not reads, (module, reads)


def test_imports_by_computed_names() -> None:
    """Only where they are listed, with what they load."""
    using = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
    }
    assert using == set(DYNAMIC)


def test_length() -> None:
    """At most 300 lines, except the modules that are listed with the reason."""
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in SOURCES.items()}
    assert all(lengths.get(module, 0) > MOST_LINES for module in LONG)  # the list is trimmed as modules shrink
    assert not {module: length for module, length in lengths.items() if length > MOST_LINES and module not in LONG}


def test_chapters_are_numbered() -> None:
    """The docstring of each chapter written in NumPy begins with its number, in the order of espref.chapters."""
    for number, chapter in enumerate(NUMPY_CHAPTERS, 1):
        assert (ast.get_docstring(TREES[chapter]) or "").startswith(f"Chapter {number}. "), chapter


@pytest.mark.parametrize("chapter", NUMPY_CHAPTERS)
def test_chapters_are_whole(chapter: str) -> None:
    """Each has a module, a test file, and claims (the plan-free form is measured by those of attention)."""
    assert chapter in SOURCES and (ROOT / "tests" / f"test_{chapter}.py").is_file()
    assert (f"claims.{chapter}" in SOURCES) == (chapter != "planfree")


def test_every_chapter_is_taught() -> None:
    """Some tutorial uses the names of each chapter's module, or the module itself."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tutorials").glob("[0-9]*.md"))
    for chapter in CHAPTERS:
        if chapter in NUMPY_CHAPTERS:
            public = {node.name for node in TREES[chapter].body if isinstance(node, ast.FunctionDef)} - {"main"}
            assert any(name in text for name in public if not name.startswith("_")), chapter


def programs() -> list[Path]:
    """The programs of the repository outside the package and its tests."""
    beside = [path for path in (ROOT / "tests").glob("*.py") if not path.name.startswith(("test_", "conftest"))]
    return [*beside, *(ROOT / "docs" / "figures").glob("*.py"), *ROOT.glob("*.py")]


@pytest.mark.parametrize("path", programs(), ids=lambda path: path.name)
def test_programs_do_nothing_when_imported(path: Path) -> None:
    """They only define, so that pytest, which imports whatever it collects, writes no file: what they do is guarded."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        bare = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        harmless = bare and ast.unparse(node) == "commit_at_start()"
        assert guarded or harmless or not (bare or isinstance(node, ast.For | ast.While | ast.With | ast.If)), (
            path,
            node.lineno,
        )
