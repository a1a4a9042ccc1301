"""A hostile machine: interrupted, full, read-only, with odd names and encodings. One line says what is wrong, and no
file is half there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("rich")
HAS_TRAIN = all(find_spec(name) is not None for name in ("torch", "lightning_fabric"))
TRAIN = pytest.mark.skipif(not HAS_TRAIN, reason="the extra train is missing: pip install 'espref[train]'")

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


#: Runs commands given as JSON in one process, and prints for each what it returned and wrote, as JSON.
DRIVER = """
import contextlib, io, json, os, sys
from espref.app.cli import main
for words in json.loads(sys.argv[1]):
    words = [os.fsdecode(word.encode("utf-8")) for word in words]  # as a shell would pass them
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as leave:
            code = leave.code
    folder = sys.argv[2]
    print(json.dumps([code, out.getvalue(), err.getvalue(), os.listdir(folder)]))
"""


class Done(NamedTuple):
    """What a command returned and wrote, and the files that were in the watched folder afterwards."""

    returncode: int
    stdout: str
    stderr: str
    files: list[str]


def run_all(folder: Path, watched: Path, before: str = "", **variables: str) -> dict[str, Done]:
    """All writing commands one after the other, in one process (starting one takes longer than the work).

    ``before`` is run by the shell first, in a user namespace of its own, where it can mount a disk.
    """
    names = [name for name in WRITERS if name != "train" or HAS_TRAIN]
    words = [[word.format(watched) for word in WRITERS[name]] for name in names]
    command = [sys.executable, "-c", DRIVER, json.dumps(words), str(watched)]
    if before:
        command = ["unshare", "-rm", "bash", "-c", f'{before}; exec "$@"', "bash", *command]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name: Done(*json.loads(line)) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


def espref(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, run in ``folder``."""
    command = [sys.executable, "-m", "espref", *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a small disk can be mounted, and a cloud beside it."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "mount"], capture_output=True).returncode:
        pytest.skip("mounting a disk for a test needs user namespaces (unshare -rm)")
    folder = tmp_path_factory.mktemp("machine")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(30, 2)))
    (folder / "disk").mkdir()
    return folder / "disk"


@pytest.fixture(scope="module")
def on_a_full_disk(disk: Path) -> dict[str, Done]:
    """The commands where no room is left."""
    fill = "mount -t tmpfs -o size=16k tmpfs disk; cat /dev/zero > disk/filler 2>/dev/null"
    return run_all(disk.parent, disk, fill)


@pytest.fixture(scope="module")
def on_a_read_only_disk(disk: Path) -> dict[str, Done]:
    """The commands where not even root may write."""
    return run_all(disk.parent, disk, "mount -t tmpfs -o size=16k,ro tmpfs disk")


def one_line(done: Done | subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and one line of the command's own that has these words."""
    own = [line for line in done.stderr.splitlines() if line.startswith("espref: ")]
    assert done.returncode == 2 and len(own) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in own[0] for word in words), own


@writers
def test_full_disk(name: str, disk: Path, on_a_full_disk: dict[str, Done]) -> None:
    """A disk without room: the file is named, and nothing of it is left."""
    done = on_a_full_disk[name]
    one_line(done, str(disk), "No space left")
    assert name == "train" or done.files == ["filler"]


@writers
@pytest.mark.trust
def test_read_only_folder(name: str, disk: Path, on_a_read_only_disk: dict[str, Done]) -> None:
    """A folder that cannot be written to, not even by root."""
    one_line(on_a_read_only_disk[name], str(disk))


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.trust
def test_names_with_spaces_and_accents(tmp_path: Path) -> None:
    """Such a folder is a folder, in a locale of ASCII too; TensorBoard's files need UTF-8, and train says so."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 2)))
    folder = tmp_path / "été à la mer"
    folder.mkdir()
    done = run_all(tmp_path, folder, **ASCII)
    if HAS_TRAIN:
        one_line(done.pop("train"), "out: ", "LC_ALL")
    assert {name: result.returncode for name, result in done.items()} == dict.fromkeys(done, 0), done
    assert sorted(path.name for path in folder.iterdir()) == ["plan.npz", "plan.png", "v.html", "v.json"]
    json.loads((folder / "v.json").read_text(encoding="utf-8"))


@TRAIN
@pytest.mark.trust
def test_training_in_a_folder_with_accents(tmp_path: Path) -> None:
    """With a locale of UTF-8 training writes its files there."""
    folder = tmp_path / "été à la mer"
    folder.mkdir()
    done = espref(*(word.format(folder) for word in WRITERS["train"]), folder=tmp_path, LC_ALL="C.UTF-8")
    assert done.returncode == 0, done.stderr
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    assert list(folder.rglob("metrics.json"))


@pytest.mark.parametrize("words", [("deviations",), ("cite",), ("verify", "--list"), ("verify", "--help")])
def test_ascii_terminal(words: tuple[str, ...], tmp_path: Path) -> None:
    """What a terminal of ASCII cannot show is replaced."""
    done = espref(*words, folder=tmp_path, **ASCII)
    assert done.returncode == 0 and not done.stderr and done.stdout.isascii()


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "plans", "--json", "out/b.json"),
        pytest.param(("train", "digits", "--epochs", "500", "--out", "out"), marks=[TRAIN, pytest.mark.trust]),
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
