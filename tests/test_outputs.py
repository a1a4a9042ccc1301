"""Outputs: nothing that stands at a path is destroyed, nothing that was computed is lost, statuses mean one thing.

Nodes (links, pipes, devices) are made in a scratch folder only.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import espref
from espref import _output, expected_sliced_plan, sample_directions
from espref._checks import NumericalLimit
from espref._output import FileError, atomic, check_distinct, check_writable
from espref.app import cli, plan, verify
from espref.app.streams import Guarded

pytest.importorskip("matplotlib")
PLAN = ("plan", "x.csv", "y.npy", "--slices", "8")
VERIFY = ("verify", "--only", "line.marginals", "--seeds", "1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A scratch folder with two clouds, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savetxt("x.csv", rng.normal(size=(12, 2)), delimiter=",", header="east,north", comments="", fmt="%.17g")
    np.save("y.npy", rng.normal(size=(9, 2)))
    return tmp_path


def run(capsys, *words):
    """Exit status, standard output, standard error."""
    code = cli.main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def put(path, text):
    with atomic(path) as draft:
        draft.write_text(text)


def test_links_stay_links(tmp_path):
    """A symbolic link, a chain of them and a dangling one: the target is written, the link stays."""
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "t"
    target.write_text("old")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("there/t")
    (tmp_path / "dangling").symlink_to("there/new")
    put(tmp_path / "a", "new")
    put(tmp_path / "dangling", "made")
    assert target.read_text() == "new" and (tmp_path / "there" / "new").read_text() == "made"
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink() and (tmp_path / "dangling").is_symlink()
    assert sorted(os.listdir(tmp_path / "there")) == ["new", "t"]


def test_hard_links_stay_one_file(tmp_path):
    """A file with two names keeps both."""
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    put(tmp_path / "a", "new")
    assert (tmp_path / "b").read_text() == "new" and os.path.samefile(tmp_path / "a", tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_modes_stay(tmp_path, mode):
    """A private file stays private."""
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(mode)
    put(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_text() == "new"


def test_pipes_are_written_to(tmp_path):
    """A named pipe stays one, and its reader gets the whole file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    check_writable(pipe, (".json",))
    put(pipe, "whole")
    reader.join(timeout=10)
    assert read == ["whole"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads(tmp_path, monkeypatch):
    """It is waited for, some seconds and not for ever; it stays a pipe."""
    monkeypatch.setattr(_output, "PATIENCE", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="pipe: expected a pipe that is being read, nobody does"):
        put(tmp_path / "pipe", "lost")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_owners_and_attributes_stay(tmp_path):
    """A file of another owner, and one with extended attributes, are rewritten in place."""
    path = tmp_path / "f"
    path.write_text("old, and longer")
    number = path.stat().st_ino
    try:
        os.setxattr(path, "user.note", b"kept")
    except (AttributeError, OSError):
        pytest.skip("this file system has no attributes")
    put(path, "new")
    assert (path.stat().st_ino, path.read_text(), os.getxattr(path, "user.note")) == (number, "new", b"kept")
    os.removexattr(path, "user.note")
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        put(path, "newer")
        found = path.stat()
        assert (found.st_ino, found.st_uid, found.st_gid, path.read_text()) == (number, 12345, 12345, "newer")


def test_a_copy_that_fails_loses_nothing(tmp_path, monkeypatch):
    """When a file that is rewritten in place cannot be, the error says where the finished content is."""
    (tmp_path / "f").write_text("old")
    os.link(tmp_path / "f", tmp_path / "g")

    def fail(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    with pytest.raises(FileError, match="f: No space left on device; its finished content is in") as error:
        put(tmp_path / "f", "new")
    kept = Path(str(error.value).rpartition(" ")[2])
    assert kept.read_text() == "new"
    kept.unlink()


def test_a_file_under_a_mount_is_rewritten(tmp_path, monkeypatch):
    """What cannot be renamed over, since something is mounted there, is rewritten."""
    (tmp_path / "f").write_text("old, and longer")

    def fail(*paths):
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr("os.replace", fail)
    put(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new" and os.listdir(tmp_path) == ["f"]


def test_what_is_printed_goes_elsewhere(folder):
    """``-o q.npz > q.npz`` is one file twice, too."""
    words = [sys.executable, "-m", "espref", *PLAN, "-o", "q.npz"]
    with (folder / "q.npz").open("w") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.PIPE, text=True, env=_environment())
    assert done.returncode == 2 and "q.npz: expected another file for --output than what is printed" in done.stderr


def _environment():
    return {**os.environ, "PYTHONPATH": str(Path(espref.__file__).parents[1])}


def test_inputs_may_be_pipes(folder, capsys):
    """A pipe is read once: the checksum is that of what was read."""
    content = (folder / "x.csv").read_bytes()
    os.mkfifo(folder / "pipe.csv")
    writer = threading.Thread(target=lambda: (folder / "pipe.csv").write_bytes(content), daemon=True)
    writer.start()
    assert run(capsys, "plan", "pipe.csv", "y.npy", "-o", "q.npz", "--slices", "2")[0] == 0
    writer.join(timeout=10)
    with np.load("q.npz") as saved:
        assert saved["input_sha256"][0] == hashlib.sha256(content).hexdigest()


def test_style_is_found_in_a_zip(tmp_path):
    """espref imported from an archive draws in its style."""
    package = Path(espref.__file__).parent
    with zipfile.ZipFile(tmp_path / "espref.zip", "w") as archive:
        for path in package.rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and "nn" not in path.parts:
                archive.write(path, path.relative_to(package.parent))
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "espref.zip")}
    code = (
        "import espref, matplotlib; from espref.plot import house_style\n"
        "with house_style(): print(matplotlib.rcParams['image.cmap'], espref.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.stdout.startswith("cividis") and "espref.zip" in done.stdout, done.stderr


def test_devices_are_written_to(tmp_path):
    """A device node, here one like /dev/null made in a scratch folder, stays one."""
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_text("")
    except OSError:
        pytest.skip("making a device node needs privileges")
    put(device, "gone")
    assert stat.S_ISCHR(device.stat().st_mode) and device.read_text() == ""
    assert os.listdir(tmp_path) == ["null"]


def test_a_full_device_is_named(tmp_path):
    """Writing to a device without room, like /dev/full, names the path."""
    device = tmp_path / "full"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        device.open("wb").close()
    except OSError:
        pytest.skip("making a device node needs privileges")
    with pytest.raises(FileError, match="full: No space left"):
        put(device, "x")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_sockets_and_loops_are_refused(tmp_path):
    """A socket, and a link to itself."""
    import socket

    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)
        listening.bind("s")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (("s", "a socket"), ("loop", "loop: ")):
        with pytest.raises(FileError, match=message):
            check_writable(tmp_path / name)
        with pytest.raises(FileError, match=message):
            put(tmp_path / name, "x")
    assert stat.S_ISSOCK((tmp_path / "s").stat().st_mode) and (tmp_path / "loop").is_symlink()


def test_names_as_long_as_they_may_be(tmp_path):
    """The draft's name is not longer than the file's may be."""
    path = tmp_path / ("a" * 250 + ".json")
    put(path, "x")
    assert path.read_text() == "x" and len(os.listdir(tmp_path)) == 1


SAME = [
    ("o.npz", "./o.npz"),
    ("o.npz", "sub/../o.npz"),
    ("o.npz", "link.npz"),
    ("old.npz", "hard.npz"),
    ("new.npz", "dangling.npz"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_paths_of_one_file(folder, one, other):
    """Refused by the identity of the file, however it is spelled and whether or not it exists."""
    Path("sub").mkdir()
    Path("link.npz").symlink_to("o.npz")
    Path("old.npz").write_text("")
    os.link("old.npz", "hard.npz")
    Path("dangling.npz").symlink_to("sub/../new.npz")
    for outputs, inputs in (({"-o": one, "--png": other}, {}), ({"-o": one}, {"source": other})):
        with pytest.raises(FileError, match="this is one file"):
            check_distinct(*({name: Path(p) for name, p in paths.items()} for paths in (outputs, inputs)))
    check_distinct({"-o": Path(one), "--png": Path("else.png")}, {"source": Path("x.csv")})


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "x.npz", "x.npz", "-o", "x.npz"),
        ("plan", "x.npz", "y.npy", "-o", "q.npz", "--source-weights", "w.npz", "--png", "x.npz"),
        ("plan", "x.npz:arr_0", "y.npy", "-o", "./x.npz"),
        ("plan", "x.csv", "y.npy", "--target-weights", "w.npz", "-o", "w.npz"),
        ("verify", "--json", "x.json", "--html", "x.json"),
        ("verify", "--source", "x.csv", "--target", "y.npy", "--json", "x.csv"),
        ("verify", "--source", "x.json", "--target", "y.npy", "--json", "x.json"),
    ],
)
def test_inputs_are_never_overwritten(folder, capsys, words):
    """Status 2 before anything is computed, and every file is as it was."""
    np.savez("x.npz", np.ones((3, 2)))
    np.savez("w.npz", np.ones(9))
    Path("x.json").write_text("[]")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code, out, err = run(capsys, *words)
    assert code == 2 and err.startswith("espref: ") and err.count("\n") == 1 and not out
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [
        (*PLAN, "-o", "q"),
        (*PLAN, "-o", "q.csv"),
        (*PLAN, "-o", "q.npz", "--png", "q.svg"),
        (*PLAN, "-o", "q.npz", "--png", "q.jpg"),
        (*VERIFY, "--json", "v.html"),
        (*VERIFY, "--html", "v"),
        ("bench", "plans", "--json", "b.txt"),
    ],
)
def test_the_suffix_says_the_format(folder, capsys, words):
    """Another suffix than the format's is refused before anything is computed."""
    before = sorted(os.listdir())
    code, _, err = run(capsys, *words)
    assert code == 2 and "expected a name that ends in" in err and sorted(os.listdir()) == before


def test_plan_holds_what_belongs_to_it(folder, capsys):
    """Directions, weights, costs, options, column names, version, checksums; all of it without pickles."""
    np.savetxt("w.csv", np.arange(1.5, 13))
    words = (*PLAN, "-o", "q.npz", "--beta", "0.5", "--p", "1.5", "--seed", "3", "--source-weights", "w.csv")
    assert run(capsys, *words)[0] == 0
    x, y = np.loadtxt("x.csv", delimiter=",", skiprows=1), np.load("y.npy")
    a = np.arange(1.5, 13) / np.arange(1.5, 13).sum()
    directions = sample_directions(8, 2, rng=3)
    result = expected_sliced_plan(x, y, directions, a, beta=0.5, p=1.5)
    with np.load("q.npz", allow_pickle=False) as saved:
        for name, value in (
            ("directions", directions), ("slice_costs", result.costs), ("slice_weights", result.weights),
            ("cost", result.cost), ("beta", 0.5), ("p", 1.5), ("seed", 3), ("a", a), ("b", np.full(9, 1 / 9)),
        ):  # fmt: skip
            assert np.allclose(saved[name], value, rtol=1e-12, atol=0), name
        assert saved["columns"].tolist() == ["east", "north"] and saved["method"] == "random"
        made_with = json.loads(str(saved["environment"]))
        digests, names = saved["input_sha256"].tolist(), saved["input_names"].tolist()
        assert saved["version"] == made_with["espref"] == espref.__version__ and saved["commit"].dtype.kind == "U"
    assert names == ["x.csv", "y.npy", "w.csv"] == [file["name"] for file in made_with["inputs"]]
    assert digests == [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names]
    assert abs(sparse.load_npz("q.npz") - result.plan).max() < 1e-16


#: Commands that write, and how standard output is then: each way once, and the other half in make trust.
WRITING = {"plan": (*PLAN, "-o", "q.npz"), "verify": (*VERIFY, "--json", "v.json")}
QUICK = [("verify", "head"), ("plan", "closed"), ("plan", "none"), ("plan", "full")]


@pytest.mark.parametrize(
    ("command_name", "stdout"),
    [
        pytest.param(name, way, marks=[] if (name, way) in QUICK else pytest.mark.trust)
        for name in WRITING
        for way in ("head", "closed", "none", "full")
    ],
)
def test_nothing_is_lost_with_standard_output(folder, command_name, stdout):
    """A closed pipe, a closed or absent standard output, a full one: the file is there, and the status is right."""
    words = WRITING[command_name]
    full = folder / "full"
    if stdout == "full":
        try:
            os.mknod(full, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
            full.open("wb").close()
        except OSError:
            pytest.skip("making a device node needs privileges")
    shell = {
        "head": '"$@" | head -n 0; exit ${PIPESTATUS[0]}',
        "closed": '"$@" >&-',
        "none": '"$@"',
        "full": f'"$@" > {full}',
    }[stdout]
    before = "import sys; sys.stdout = None; " if stdout == "none" else ""
    code = f"{before}import sys; from espref.app.cli import main; sys.exit(main({list(words)!r}))"
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert Path(words[words.index("-o") + 1] if "-o" in words else "v.json").exists()
    if stdout == "full":
        assert (done.returncode, done.stderr) == (2, "espref: standard output: No space left on device\n")
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_a_claim_that_fails_is_status_1_for_a_closed_pipe(monkeypatch):
    """A guarded stream that broke neither raises nor changes the status."""

    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(verify, "run_command", lambda options: print("x") or 1)
    assert cli.main(["verify"]) == 1


def test_guarded_stream():
    """Full: reported once, in one line; closed: nothing to report."""

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    full = Guarded(Full(), "standard output")
    assert full.write("x") == full.write("y") == 1 and full.error.errno == 28
    closed = io.StringIO()
    closed.close()
    gone = Guarded(closed, "standard output")
    gone.write("x")
    assert not gone.report() and not Guarded(None, "standard output").isatty()


def test_a_documented_limit_is_status_2(capsys, monkeypatch):
    """A limit that the documentation states is one line, not an error of espref's own."""

    def limited(options):
        raise NumericalLimit("no convergence")

    monkeypatch.setattr(verify, "run_command", limited)
    assert run(capsys, "verify")[::2] == (2, "espref: no convergence\n")


def test_an_error_of_our_own_is_status_3(capsys, monkeypatch):
    """Not 1, which says that a claim fails."""

    def broken(options):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(verify, "run_command", broken)
    code, _, err = run(capsys, "verify")
    assert code == 3 and "RuntimeError: unexpected" in err


def test_a_picture_that_cannot_be_drawn(folder, capsys, monkeypatch):
    """The plan is saved, the costs are printed, then one line and status 2; the same for a page."""

    def broken(*arguments):
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr(plan, "_picture", broken)
    code, out, err = run(capsys, *PLAN, "-o", "q.npz", "--png", "q.png")
    assert code == 2 and err == "espref: q.png: the picture cannot be drawn: latex could not be found\n"
    assert "expected sliced plan" in out and sorted(os.listdir()) == ["q.npz", "x.csv", "y.npy"]
    monkeypatch.setattr("espref.app.page.to_html", broken)
    code, out, err = run(capsys, *VERIFY, "--json", "v.json", "--html", "v.html")
    assert code == 2 and "its figures cannot be drawn" in err and "1 claim" in out
    assert Path("v.json").exists() and not Path("v.html").exists()


def test_a_plan_without_memory_for_the_others(folder, capsys, monkeypatch):
    """The plan is saved, and what does not fit is left out with a word."""

    def none_left(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr("espref.solvers.exact_plan", none_left)
    code, out, _ = run(capsys, *PLAN, "-o", "q.npz")
    assert code == 0 and "not enough memory for their matrices" in out and Path("q.npz").exists()


def test_figures_do_not_depend_on_settings_of_the_user(folder):
    """A backend that does not exist and a matplotlibrc that asks for LaTeX: the same picture, bit for bit."""
    (folder / "mpl").mkdir()
    (folder / "mpl" / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 17\nsavefig.dpi: 31\nfont.size: 30\n")
    code = "import sys; from espref.app.cli import main; sys.exit(main(sys.argv[1:]))"
    pictures = []
    for variables in ({}, {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(folder / "mpl")}):
        command = [sys.executable, "-c", code, *PLAN, "-o", "q.npz", "--png", "q.png"]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        pictures.append((folder / "q.png").read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("columns", ["0", "40", "80", "200"])
def test_names_of_claims_stay(capsys, monkeypatch, columns):
    """On a terminal of any width every claim is named in one piece, with its verdict."""
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = run(capsys, "verify", "--only", "expected.*metric*", "--seeds", "1")
    assert code == 0 and "no-metric-for-positive-beta" in out and "refuted" in out
