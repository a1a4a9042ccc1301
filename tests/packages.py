"""Wheel and sdist, built and installed into new environments outside of the checkout, then put to work.

``python tests/packages.py pinned`` uses the versions of constraints.txt, ``range`` the oldest and the newest ones that
pyproject.toml allows and writes ``docs/records/packages.json``.
"""

from __future__ import annotations

import json
import os
import re
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
versions = {name: metadata.version(name) for name in ("numpy", "scipy", "POT", "scikit-learn", "matplotlib")}
found = {"claims": len(claims), "stand": verdicts.count("holds") + verdicts.count("refuted")}
print(json.dumps(found | {"skipped": verdicts.count("skipped"), "versions": versions}))
"""


def lowest() -> list[str]:
    """The oldest versions that pyproject.toml allows, to the last number that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["verify"]
    return [
        re.sub(r">=([\w.]+)", lambda found: f"~={found[1]}.0" + ".0" * ("." not in found[1]), line) for line in wanted
    ]


def check(artifact: Path, *options: str) -> dict:
    """Install into a new environment with the extra verify, and smoke-test there."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "env" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", Path(folder) / "env"], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
        subprocess.run([*install, f"{artifact}[verify]"], check=True)
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, "-c", SMOKE, ROOT / "README.md"], cwd=folder, env=variables, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{artifact.name}: the smoke test failed\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])


def build(folder: str) -> tuple[Path, Path]:
    """Wheel and sdist."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    return wheel, sdist


def main(which: str) -> None:
    """Build both, try each, say what stands; with ``range`` write the record."""
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(folder)
        pinned = ("--constraint", str(ROOT / "constraints.txt"))
        cases = [("wheel, pinned versions", wheel, pinned), ("sdist, pinned versions", sdist, pinned)]
        if which == "range":
            cases += [("wheel, oldest versions", wheel, tuple(lowest())), ("wheel, newest versions", wheel, ())]
        rows = []
        for name, artifact, options in cases:
            found = check(artifact, *options)
            versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
            fell = found["claims"] - found["stand"] - found["skipped"]
            detail = f"{versions}; {found['skipped']} claims skipped for want of PyTorch"
            rows.append(records.row("packages", name, found["stand"], "claims stand", "none falls", fell == 0, detail))
            print(f"{name}: {found['stand']} claims stand, {fell} fell; {detail}")
    if which == "range":
        records.write("packages", rows)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pinned")
