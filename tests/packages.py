"""Wheel and sdist, built and installed into new environments outside of the checkout, then put to work.

``python tests/packages.py pinned`` uses the versions of constraints.txt, ``range`` the oldest and the newest ones that
pyproject.toml allows; ``torch`` the oldest and the newest PyTorch, with the tests of ``espref.nn`` beside the ledger
(some gigabytes to fetch). The last two write ``docs/records/packages.json``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import records

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


def build(folder: str) -> tuple[Path, Path]:
    """Wheel and sdist."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    return wheel, sdist


def main(which: str) -> None:
    """Build both, try each, say what stands; write the record but for ``pinned``."""
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(folder)
        pinned = ("--constraint", str(ROOT / "constraints.txt"))
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
