"""Mutation testing: ``make mutants`` runs mutmut, reads what survives beside ``tests/mutants.toml``, writes the record.

A survivor is equivalent when no input can tell it from the original, or none that the function is for; the file says so
one by one, with the reason. Whatever else survives is a hole in the tests and is printed. Bodies of claims are mutated
too: their decorators are moved below them first, because mutmut passes over what is decorated.

    python tests/mutants.py chapters    # the NumPy chapters, every mutant
    python tests/mutants.py claims 600  # the ledger, a random sample
    python tests/mutants.py nn          # espref/nn/functional.py
"""

from __future__ import annotations

import ast
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
from pathlib import Path
from typing import Any, NamedTuple

import records

ROOT = Path(__file__).parent.parent
EXACT = "line directions lift expected circle softsort softplan attention planfree solvers".split()  # noqa: SIM905
MUTMUT = [str(Path(sys.executable).parent / "mutmut")]


class Suite(NamedTuple):
    """What is mutated, and the tests that must notice."""

    modules: list[str]
    tests: list[str]


SUITES = {
    "chapters": Suite(
        [f"espref/{name}.py" for name in EXACT],
        [*(f"tests/test_{name}.py" for name in EXACT), "tests/test_bad_input.py", "tests/test_oracle_errors.py"],
    ),
    "claims": Suite(
        [f"espref/claims/{name}.py" for name in EXACT if name != "planfree"],
        ["tests/test_every_claim.py", "tests/test_claims.py::test_claim_stands"],
    ),
    "nn": Suite(["espref/nn/functional.py"], ["tests/nn/test_functional.py", "tests/nn/test_nn_attention.py"]),
}
#: Identity of a function does not survive mutmut's wrappers.
DESELECTED = ["tests/test_bad_input.py::test_every_public_function_is_covered"]
#: Exit codes of pytest in a mutant's process, as mutmut keeps them.
SURVIVED, UNTESTED, TIMEOUT = {0}, {5, 33}, {36, 24, 152, -24, 255}


def undecorate(path: Path) -> None:
    """``@claim(...)`` above a function becomes ``f = claim(...)(f)`` below it."""
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
        if "/claims/" in module:
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


def change(folder: Path, mutant: str) -> tuple[str, str]:
    """The lines that a mutant replaces, and those it has for them."""
    diff = subprocess.run([*MUTMUT, "show", mutant], cwd=folder, capture_output=True, text=True, check=True).stdout
    sides = {sign: [] for sign in "-+"}
    for line in diff.splitlines():
        if line[:1] in sides and line[:3] not in ("---", "+++"):
            sides[line[0]].append(line[1:].strip())
    return "\n".join(sides["-"]), "\n".join(sides["+"])


def reason(known: list[dict], mutant: str, was: str, now: str) -> str | None:
    """Why a survivor is equivalent; None when nobody has said so."""
    function = re.sub(r"__mutmut_\d+$", "", mutant).replace(".x_", ".")
    for entry in known:
        if entry["function"] == function and entry["was"] == was and now in entry["now"]:
            return entry["reason"]
    return None


def run(name: str, sample: int | None) -> dict[str, Any]:
    """Mutate, test, and count. ESPREF_MUTANTS names a folder to go on in, where an earlier run was stopped."""
    suite = SUITES[name]
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
    for mutant, code in sorted(codes.items()):
        if code not in SURVIVED | UNTESTED:
            counts["killed"] += 1
            continue
        was, now = change(folder, mutant)
        if reason(known, mutant, was, now):
            counts["equivalent"] += 1
        else:
            counts["survived"] += 1
            print(f"{mutant}{' (no test runs it)' if code in UNTESTED else ''}\n- {was}\n+ {now}\n")
    rate = counts["killed"] / (counts["killed"] + counts["survived"])
    detail = ", ".join(f"{counts[word]} {word}" for word in ("killed", "equivalent", "survived"))
    mutated = f"{len(codes)} mutants" if len(codes) == every else f"{len(codes)} of {every} mutants"
    print(f"{name}: {mutated}: {detail}: {rate:.1%} of those that are not equivalent die")
    title = {"chapters": "NumPy chapters", "claims": "bodies of the claims", "nn": "espref.nn.functional"}[name]
    return records.row("mutants", title, 100 * rate, "% die", ">= 95", rate >= 0.95, f"{mutated}: {detail}")


if __name__ == "__main__":
    records.write("mutants", [run(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)])
