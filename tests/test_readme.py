"""The README: its example runs as printed, its commands exist, its links lead somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_examples_run_as_printed():
    """The Python blocks, run one after the other, print what the README says; the first has about ten lines. The last
    needs PyTorch."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 3 and len(blocks[0].splitlines()) <= 11 and README.count("`True True`") == 3
    if importlib.util.find_spec("torch") is None:
        blocks = blocks[:2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "".join(blocks)], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("True True\n" * len(blocks), "")


def test_commands_exist():
    """Every make target named is one, every espref command and option named is understood."""
    cli = pytest.importorskip("espref.app.cli")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", README, flags=re.M)
    assert {"verify", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)
    commands = re.findall(r"^espref (.+?)(?:\s+#.*)?$", README, flags=re.M)
    assert len(commands) >= 4
    for words in commands:
        cli._parser().parse_args(words.split())


def test_pip_lines_are_those_of_make():
    """The lines for those without make install what the Makefile installs, with the same constraints."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = re.findall(r"pip install --constraint constraints\.txt --editable ('.+?')", README)
    assert extras == ["'.[verify]'", "'.[test,train]'"]
    assert all(f"--editable {extra}" in makefile for extra in extras)
    assert "--constraint constraints.txt" in makefile


def test_links_and_chapters_exist():
    """Linked files exist, and each chapter of the table is a module."""
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    chapters = re.findall(r"^\| `espref\.([\w.]+)`", README, flags=re.M)
    assert {"line", "directions", "lift", "expected", "circle", "solvers"} <= set(chapters)
    for chapter in chapters:
        path = ROOT / "espref" / chapter.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), chapter


def test_every_pin_is_exact():
    """constraints.txt pins one version of each package, for each marker where there are several; torch to the one that
    is tested. pip takes neither extras nor hashes as constraints."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([\w.-]+)==[\w.!+-]+(?: ; (.+))?", line) for line in lines]
    assert "torch==2.13.0" in lines and all(pins)
    names = [(re.sub(r"[-_.]+", "-", pin[1]).lower(), pin[2]) for pin in pins]
    assert len(names) == len(set(names))
    always = {name for name, marker in names if marker is None}
    assert not always & {name for name, marker in names if marker}
