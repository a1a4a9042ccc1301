"""A hostile machine: interrupted, full, read-only, with odd names and encodings. One line says what is wrong, and no
file is half there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")
TRAIN = pytest.mark.skipif(
    any(__import__("importlib.util").util.find_spec(name) is None for name in ("torch", "lightning_fabric")),
    reason="the extra train is missing: pip install 'espref[train]'",
)

#: Commands that write, with {} for where.
WRITERS = {
    "verify --json": ("verify", "--only", "line.marginals", "--seeds", "1", "--json", "{}/v.json"),
    "verify --html": ("verify", "--only", "line.marginals", "--seeds", "1", "--html", "{}/v.html"),
    "plan": ("plan", "x.npy", "x.npy", "-o", "{}/plan.npz"),
    "plan --png": ("plan", "x.npy", "x.npy", "-o", "plan.npz", "--png", "{}/plan.png"),
    "train": ("train", "digits", "--attention", "softmax", "--epochs", "1", "--fraction", "0.05", "--out", "{}/runs"),
}
writers = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=TRAIN) if name == "train" else name for name in WRITERS]
)


def espref(*words: str, folder: Path, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, run in ``folder``; ``before`` is done by the shell ahead of it."""
    command = [sys.executable, "-m", "espref", *words]
    if before:
        command = ["unshare", "-rm", "bash", "-c", f'{before}; "$@"; code=$?; ls -A disk; exit $code', "bash", *command]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder where a small disk can be mounted, and a cloud beside it."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "mount"], capture_output=True).returncode:
        pytest.skip("mounting a disk for a test needs user namespaces (unshare -rm)")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 2)))
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and one line of the command's own that has these words."""
    own = [line for line in done.stderr.splitlines() if line.startswith("espref: ")]
    assert done.returncode == 2 and len(own) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in own[0] for word in words), own


@writers
def test_full_disk(name: str, disk: Path) -> None:
    """A disk without room: the file is named, and nothing of it is left."""
    fill = "mount -t tmpfs -o size=16k tmpfs disk; cat /dev/zero > disk/filler 2>/dev/null"
    done = espref(*(word.format(disk) for word in WRITERS[name]), folder=disk.parent, before=fill)
    one_line(done, str(disk), "No space left")
    assert name == "train" or done.stdout.splitlines()[-1] == "filler", done.stdout


@writers
def test_read_only_folder(name: str, disk: Path) -> None:
    """A folder that cannot be written to, not even by root."""
    mount = "mount -t tmpfs -o size=16k,ro tmpfs disk"
    done = espref(*(word.format(disk) for word in WRITERS[name]), folder=disk.parent, before=mount)
    one_line(done, str(disk))


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@writers
def test_names_with_spaces_and_accents(name: str, tmp_path: Path) -> None:
    """Such a folder is a folder, in a locale of ASCII too; TensorBoard's files need UTF-8, and train says so."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 2)))
    folder = tmp_path / "été à la mer"
    folder.mkdir()
    words = [word.format(folder) for word in WRITERS[name]]
    if name == "train":
        one_line(espref(*words, folder=tmp_path, **ASCII), "out: ", "LC_ALL")
        assert not list(folder.iterdir())
    done = espref(*words, folder=tmp_path, **(ASCII if name != "train" else {"LC_ALL": "C.UTF-8"}))
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir())
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("words", [("deviations",), ("cite",), ("verify", "--list"), ("verify", "--help")])
def test_ascii_terminal(words: tuple[str, ...], tmp_path: Path) -> None:
    """What a terminal of ASCII cannot show is replaced."""
    done = espref(*words, folder=tmp_path, **ASCII)
    assert done.returncode == 0 and not done.stderr and done.stdout.isascii()


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "plans", "--json", "out/b.json"),
        pytest.param(("train", "digits", "--epochs", "500", "--out", "out"), marks=TRAIN),
    ],
    ids=["bench", "train"],
)
def test_interrupt(words: tuple[str, ...], tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, one line, and every file that is there is whole."""
    (tmp_path / "out").mkdir()
    code = (
        "import os, signal, sys, threading, time\nfrom pathlib import Path\nfrom espref.app.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it\n"
        "def later():\n"
        f"    while {words[0] == 'train'} and not list(Path('out').rglob('checkpoint.pt')): time.sleep(0.1)\n"
        f"    time.sleep(1)\n    os.kill(os.getpid(), {int(signal.SIGINT)})\n"
        "threading.Thread(target=later, daemon=True).start()\n"
        f"sys.exit(main({list(words)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 130 and done.stderr.splitlines()[-1] == "espref: interrupted", done.stderr
    files = {path.name: path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not [name for name in files if name.startswith(".")]
    if words[0] == "bench":
        assert not files
    else:
        import torch

        json.loads(files["config.json"].read_text(encoding="utf-8"))
        saved = torch.load(files["checkpoint.pt"], weights_only=True)
        assert len(files["metrics.csv"].read_text(encoding="utf-8").splitlines()) in (
            len(saved["history"]),
            len(saved["history"]) + 1,
        )
        assert "metrics.json" not in files
