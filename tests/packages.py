"""Wheel and sdist, built and installed into new environments outside of the checkout, then put to work.

``python tests/packages.py pinned`` uses the versions of constraints.txt; it also tries the wheel without any extra,
runs the tests of the unpacked sdist, and type-checks a user's code against an editable installation. ``range`` takes
the oldest and the newest versions that pyproject.toml allows; ``torch`` the oldest and the newest PyTorch, with the
tests of ``espref.nn`` beside the ledger (some gigabytes to fetch). The last two write ``docs/records/packages.json``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import records

from espref._version import BASE, commit, with_commit

ROOT = Path(__file__).parent.parent
#: What a user would do first. The package must come from the environment, not from the checkout.
SMOKE = """
import json, re, subprocess, sys
from importlib import metadata
from pathlib import Path
import espref
from espref._environment import environment
assert "site-packages" in espref.__file__, espref.__file__
readme = Path(sys.argv[1]).read_text(encoding="utf-8")
for block in re.findall(r"```python\\n(.*?)```", readme, flags=re.S)[:2]:
    exec(block, globals())
def run(*words):
    subprocess.run([sys.executable, "-m", "espref", *words], check=True, capture_output=True)

import numpy as np
np.save("x.npy", np.random.default_rng(0).normal(size=(40, 2)))
run("verify", "--seeds", "1", "--json", "ledger.json", "--html", "ledger.html")
run("plan", "x.npy", "x.npy", "-o", "plan.npz", "--png", "plan.png")
run("cite"), run("deviations")
claims = json.loads(Path("ledger.json").read_text())["claims"]
verdicts = [claim["verdict"] for claim in claims]
wanted = ("numpy", "scipy", "POT", "scikit-learn", "matplotlib", "torch")
installed = {found.name for found in metadata.distributions()}
versions = {name: metadata.version(name) for name in wanted if name in installed}
found = {"claims": len(claims), "stand": verdicts.count("holds") + verdicts.count("refuted")}
about = {"versions": versions, "environment": environment([sys.argv[2]])}
print(json.dumps(found | about | {"skipped": verdicts.count("skipped")}))
"""


#: What a user does who has installed espref alone.
CORE = """
import json, subprocess, sys
from importlib import metadata
from pathlib import Path
import espref
assert "site-packages" in espref.__file__ and metadata.version("espref") == espref.__version__ == sys.argv[1]
def run(*words, status=0):
    done = subprocess.run([sys.executable, "-m", "espref", *words], capture_output=True, text=True)
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done.stderr if status else done.stdout
assert run("--version") == f"espref {espref.__version__}\\n"
out = run("verify", "--seeds", "1", "--json", "ledger.json")
assert "pip install 'espref[torch,train,verify]'" in out and " 0 failed" in out
document = json.loads(Path("ledger.json").read_text())
assert document["environment"]["commit"] == sys.argv[2] and document["environment"]["espref"] == espref.__version__
assert sys.argv[2] in run("cite", "line.marginals", "--run", "ledger.json")
for words in (("verify", "--html", "x.html"), ("bench", "plans"), ("train", "digits")):
    err = run(*words, status=2)
    assert err.count("\\n") == 1 and "pip install 'espref[" in err, err
print(len(document["claims"]))
"""
#: A user's code, and what mypy says about it.
SNIPPET = """
import espref
plan = espref.expected_sliced_plan([[0.0, 1.0]], [[1.0, 0.0]], [[1.0, 0.0]])
reveal_type(plan.plan)
reveal_type(plan.plan.toarray())
reveal_type(plan.cost)
reveal_type(espref.line_plan)
espref.est_distance([[0.0]], [[1.0]], [[1.0]], beta="cold")
"""
REVEALED = (
    "coo_array[",
    "float64",
    'type is "float"',
    "def (",
    'Argument "beta" to "est_distance" has incompatible type',
)


def lowest(extra: str) -> list[str]:
    """The oldest versions that pyproject.toml allows, to the last number that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"][extra]
    return [
        re.sub(r">=([\w.]+)", lambda found: f"~={found[1]}.0" + ".0" * ("." not in found[1]), line) for line in wanted
    ]


def check(artifact: Path, *options: str, extras: str = "verify", tests: str | None = None) -> dict:
    """Install into a new environment, smoke-test there, and run a folder of tests if asked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "env" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
        subprocess.run([*install, f"{artifact}[{extras}]"], check=True)
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

        def run(*words: object) -> str:
            done = subprocess.run([python, *words], cwd=folder, env=variables, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{artifact.name}: failed\n{done.stdout}{done.stderr}")
            return done.stdout.splitlines()[-1]

        found = json.loads(run("-c", SMOKE, ROOT / "README.md", artifact))
        if tests is not None:
            shutil.copytree(ROOT / "tests", folder / "tests")
            shutil.copy(ROOT / "pyproject.toml", folder)
            found["tests"] = re.sub(r" in .*", "", run("-m", "pytest", "-p", "no:cacheprovider", tests))
        return found


def environment_with(folder: Path, *wanted: object) -> Path:
    """A new environment with packages in pinned versions; its interpreter."""
    python = folder / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", ROOT / "constraints.txt", *map(str, wanted)], check=True)
    return python


def output(folder: Path, *words: object) -> str:
    """What a program prints that must succeed, run in a folder, without this checkout on its path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, words)], cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words}: failed\n{done.stdout}{done.stderr}")
    return done.stdout


def check_core(wheel: Path, version: str, name: str) -> None:
    """The wheel alone: the ledger in plain text and as a document, citations, and what is missing in one line."""
    with tempfile.TemporaryDirectory() as folder:
        python = environment_with(Path(folder), wheel)
        print(f"wheel without extras: {output(Path(folder), python, '-c', CORE, version, name).strip()} claims")


def check_tests_of_sdist(sdist: Path) -> None:
    """The sdist holds what its tests need: unpacked, without a repository, all of them pass."""
    with tempfile.TemporaryDirectory() as folder:
        python = environment_with(Path(folder), f"{sdist}[test]")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = Path(folder).glob("espref-*")
        out = output(unpacked, python, "-m", "pytest", "-p", "no:cacheprovider", "-n", "auto")
        print(f"tests of the unpacked sdist, without PyTorch: {out.splitlines()[-1]}")


def check_types() -> None:
    """mypy finds the package of an editable installation, and its types."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment_with(folder, "--editable", ROOT, "mypy", "scipy-stubs")
        (folder / "user.py").write_text(SNIPPET, encoding="utf-8")
        words = (python, "-m", "mypy", "--strict", "--cache-dir", folder / "cache", "user.py")
        done = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("user.py")]
        told = [f"{line}\n" for line, part in zip(lines, REVEALED, strict=False) if part in line]
        if len(lines) != len(REVEALED) or len(told) != len(REVEALED):
            raise SystemExit(f"types of an editable installation: failed\n{done.stdout}{done.stderr}")
        print("types of an editable installation: found")


def check_metadata(wheel: Path, version: str) -> None:
    """Version, commit, and a README whose links and pictures also lead somewhere on a package index."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    wanted = ("references.bib", "_commit.txt", "py.typed", "figures.mplstyle", "claims/ledger.schema.json")
    missing = [name for name in wanted if f"espref/{name}" not in names]
    message = message_from_string(about)
    readme = message.get_payload()
    relative = re.findall(r"\]\((?!https://)(.*?)\)", readme)
    if missing or relative or message["Version"] != version or message["Description-Content-Type"] != "text/markdown":
        raise SystemExit(f"{wheel.name}: {missing=} {relative=} version {message['Version']}")


def build(folder: str) -> tuple[Path, Path]:
    """Wheel and sdist."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    return wheel, sdist


def main(which: str) -> None:
    """Build both, try each, say what stands; write the record but for ``pinned``."""
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(folder)
        name = commit()
        version = with_commit(BASE, name)
        check_metadata(wheel, version)
        pinned = ("--constraint", str(ROOT / "constraints.txt"))
        if which == "pinned":
            check_types()
            check_core(wheel, version, (name or "").rstrip("+"))
            check_tests_of_sdist(sdist)
        cases: list[tuple[str, Path, tuple[str, ...], dict]] = [
            ("wheel, pinned versions", wheel, pinned, {}),
            ("sdist, pinned versions", sdist, pinned, {}),
        ]
        if which == "range":
            cases += [("wheel, oldest versions", wheel, tuple(lowest("verify")), {})]
            cases += [("wheel, newest versions", wheel, (), {})]
        if which == "torch":
            with_tests = {"extras": "test,train", "tests": "tests/nn"}
            cases = [("wheel, oldest PyTorch", wheel, (lowest("torch")[-1],), with_tests)]
            cases += [("wheel, newest PyTorch", wheel, ("torch",), with_tests)]
        rows = []
        for name, artifact, options, settings in cases:
            found = check(artifact, *options, **settings)
            versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
            fell = found["claims"] - found["stand"] - found["skipped"]
            without = f"{found['skipped']} claims skipped for want of PyTorch"
            rest = f"tests of espref.nn: {found['tests']}" if "tests" in found else without
            detail = f"{versions}; {rest}"
            row = records.row("packages", name, found["stand"], "claims stand", "none falls", fell == 0, detail)
            here = {key: row["environment"][key] for key in ("commit", "dirty", "command")}
            rows.append(row | {"environment": found["environment"] | here})  # versions are those of the new environment
            print(f"{name}: {found['stand']} claims stand, {fell} fell; {detail}")
    if which != "pinned":
        records.write("packages", rows)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pinned")
