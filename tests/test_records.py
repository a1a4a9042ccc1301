"""Records: each row keeps what it was measured with, and what that is."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import records as writer

from espref import _environment, _version
from espref._environment import PACKAGES, command, commit_at_start, environment, gpu, in_words
from espref._version import commit
from espref.benchmarks import records

ROOT = Path(__file__).parent.parent
COMMITTED = sorted((ROOT / "docs" / "records").glob("*.json"))


def made_with(**changes: Any) -> dict[str, Any]:
    """An environment, as records of before 0.2.0 have it, with some values changed."""
    versions = dict.fromkeys(PACKAGES, "1.0")
    about = {"espref": "0.1.0", "commit": "0123abc", "dirty": False, "date": "2026-01-01", "python": "3.11.0"}
    return {**about, **versions, "cpu": "x", "cores": 2, "system": "Linux", **changes}


def row(name: str, measured: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A row of the suite "plans"."""
    about = {"suite": "plans", "name": name, "measured": measured, "unit": "s", "target": "", "ok": None, "detail": ""}
    return {**about, "environment": made_with(**changes)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tests' records go instead of docs/records."""
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    return tmp_path


def test_merged_rows_keep_their_environments(folder: Path) -> None:
    """Rows that are measured later, at another commit, leave those of the others as they were."""
    old = [row("kept"), row("measured again")]
    writer.write("r", old)
    new = [row("measured again", 2.0, commit="4567def", dirty=True, numpy="2.0")]
    writer.write("r", new)
    assert records.committed("r") == {"r": {"rows": [old[0], *new]}}
    assert json.loads((folder / "r.json").read_text())["rows"][0]["environment"] == 0


def test_a_record_written_twice(folder: Path) -> None:
    """The same rows again: the same file, each row and each environment once."""
    rows = [row("one"), row("two", commit="4567def"), row("three")]
    writer.write("r", rows)
    first = (folder / "r.json").read_bytes()
    writer.write("r", rows)
    assert (folder / "r.json").read_bytes() == first
    content = json.loads(first)
    assert [entry["environment"] for entry in content["rows"]] == [0, 1, 0] and len(content["environments"]) == 2
    records.write(folder / "r.json", records.read(folder / "r.json"))
    assert (folder / "r.json").read_bytes() == first


def test_a_row_is_stamped_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row says of its environment is what was true then, not when the record is written."""
    stamps = iter([made_with(date="2026-01-01"), made_with(date="2026-01-02")])
    monkeypatch.setattr(writer, "environment", lambda: next(stamps))
    rows = [writer.row("plans", name, 1, "s", "", True, "") for name in "ab"]
    assert [entry["environment"]["date"] for entry in rows] == ["2026-01-01", "2026-01-02"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_records_follow_the_layout(path: Path) -> None:
    """Every record is read, says nothing that is not in the layout, and is written again as it stands."""
    content = json.loads(path.read_text())
    records.check(content)
    assert path.read_text() == json.dumps(content, indent=1)
    rows = records.read(path)["runs" if "study" in content else "rows"]
    assert rows and all(in_words(entry["environment"]) for entry in rows)


def test_committed_records_name_commits_of_the_history() -> None:
    """A commit that a row was measured at, or that a note names, is one of this repository, before the record."""
    if not (ROOT / ".git").exists() or run("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("no history here")
    history = run("log", "--format=%H").split()
    for path in COMMITTED:
        for entry in json.loads(path.read_text())["environments"]:
            named = [entry["commit"] or "", *re.findall(r"\b(?=[a-z]*\d)[0-9a-f]{7}\b", entry.get("note", ""))]
            for name in filter(None, named):
                assert sum(commit.startswith(name) for commit in history) == 1, (path.name, name)


def run(*words: str, folder: Path = ROOT) -> str:
    """What Git answers."""
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", *words]
    return subprocess.run(git, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


BROKEN: dict[str, tuple[Any, str]] = {
    "no object": ([], "schema"),
    "another version": ({"schema": 2}, "schema"),
    "a field more": ({"extra": 1}, "record: expected"),
    "no rows": ({"rows": None}, "rows"),
    "a row without a unit": ({"rows": [{k: v for k, v in row("a").items() if k != "unit"}]}, "row: expected"),
    "an index that is none": ({"rows": [row("a") | {"environment": 1}]}, "environments: expected"),
    "an index that is true": ({"rows": [row("a") | {"environment": True}]}, "environment of another type"),
    "an environment too many": ({"environments": [made_with(), made_with(cores=3)]}, "environments: expected"),
    "an environment without its date": ({"environments": [{"espref": "0"}]}, "environment: expected"),
    "a commit with a plus": ({"environments": [made_with(commit="0123abc+")]}, "commit: expected a hash"),
    "changes of nothing": ({"environments": [made_with(commit=None)]}, "dirty: expected null"),
    "a date in words": ({"environments": [made_with(date="yesterday")]}, "date: expected"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_record_is_refused(name: str, tmp_path: Path) -> None:
    """One line that names the file and what is wrong."""
    change, message = BROKEN[name]
    good = {"schema": 1, "environments": [made_with()], "rows": [row("a") | {"environment": 0}]}
    records.check(good)
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**good, **change} if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match=f"r.json: expected a record, .*{message}"):
        records.read(path)


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field has what it says, as JSON can hold it; a record takes it as it is."""
    path = tmp_path / "x.npy"
    path.write_bytes(b"12")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/espref", "bench"])
    found = environment([path])
    assert json.loads(json.dumps(found)) == found
    about = {key: found[key] for key in ("espref", "python", "numpy", "cores", "command")}
    numpy, cores = importlib.import_module("numpy").__version__, len(os.sched_getaffinity(0))
    version = ".".join(map(str, sys.version_info[:3]))
    expected = {"espref": _environment.__version__, "python": version, "numpy": numpy, "cores": cores}
    assert about == {**expected, "command": "espref bench"}
    today = datetime.now(UTC).date()
    assert 0 <= (today - datetime.fromisoformat(found["date"]).date()).days <= 1
    assert found["inputs"] == [{"name": "x.npy", "sha256": hashlib.sha256(b"12").hexdigest()}]
    assert found["blas"] and found["simd"].startswith("numpy ") and found["cpu"] and found["system"]
    stamped = [{**row("a"), "environment": found}]
    records.write(tmp_path / "r.json", {"rows": stamped})
    assert records.read(tmp_path / "r.json") == {"rows": stamped}
    with pytest.raises(OSError, match=r"missing\.npy"):
        environment([tmp_path / "missing.npy"])


def test_kernels_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of all BLAS libraries, from threadpoolctl; without it what NumPy was built with."""
    library = {"user_api": "blas", "internal_api": "openblas", "version": "1.2", "architecture": "Zen"}
    openmp = {"user_api": "openmp", "internal_api": "openmp", "version": None, "num_threads": 7}
    loaded = [{**library, "num_threads": 3}, openmp, {**library, "internal_api": "mkl", "num_threads": 2}]
    torch = SimpleNamespace(
        get_num_threads=lambda: 5,
        backends=SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX9")),
        cuda=SimpleNamespace(is_available=lambda: False),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "threadpoolctl", SimpleNamespace(threadpool_info=lambda: loaded))
    found = environment()
    assert found["blas"] == "mkl 1.2 Zen, openblas 1.2 Zen" and found["threads"] == {"blas": 3, "torch": 5}
    assert found["simd"].endswith(", torch AVX9") and found["gpu"] is None
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    found = environment()
    assert found["blas"].endswith(", kernel unknown") and found["threads"] == {"torch": 5}


class Newer:
    """Settings of PyTorch that were set by the newer attribute: the older one cannot be read."""

    fp32_precision = "tf32"

    @property
    def allow_tf32(self) -> bool:
        raise RuntimeError("mix of the legacy and new APIs")


def test_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, capability, driver, CUDA, cuDNN and the flags of TF32, from PyTorch and nvidia-smi."""
    cudnn = SimpleNamespace(version=lambda: 90100, allow_tf32=False)
    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=Newer()), cudnn=cudnn)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_name=lambda: "NVIDIA X",
        get_device_capability=lambda: (9, 0),
        device_count=lambda: 2,
    )
    torch = SimpleNamespace(cuda=cuda, backends=backends, version=SimpleNamespace(cuda="12.8"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.1\necho 570.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = gpu()
    assert found == {
        "name": "NVIDIA X",
        "count": 2,
        "capability": "9.0",
        "driver": "570.1",
        "cuda": "12.8",
        "cudnn": 90100,
        "tf32 in matmul": True,
        "tf32 in cudnn": False,
    }
    assert "; NVIDIA X, count 2, capability 9.0, driver 570.1, cuda 12.8" in in_words(made_with(gpu=found))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert gpu() == {**found, "driver": None}
    cuda.is_available = lambda: False
    assert gpu() is None
    monkeypatch.delitem(sys.modules, "torch")
    assert gpu() is None


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/opt/env/bin/espref", "bench", "plans"], "espref bench plans"),
        (
            ["/opt/espref/__main__.py", "plan", "/home/me/x.npy", "my file.npy"],
            "python -m espref plan x.npy 'my file.npy'",
        ),
        (["tests/packages.py", "range"], "python tests/packages.py range"),
        (["-c", "1"], "python -c 1"),
    ],
)
def test_command(argv: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to type to measure again; nothing of where the machine keeps its files."""
    monkeypatch.setattr(sys, "argv", argv)
    assert command() == expected


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package, a test and a record, from which espref seems to run."""
    for name in ("espref/_environment.py", "tests/test_x.py", "docs/records/r.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    run("init", "--quiet", folder=tmp_path)
    run("add", ".", folder=tmp_path)
    run("commit", "--quiet", "--message", "m", folder=tmp_path)
    monkeypatch.setattr(_version, "__file__", str(tmp_path / "espref" / "_version.py"))
    monkeypatch.setattr(_version, "SHIPPED", tmp_path / "espref" / "_commit.txt")
    commit_at_start.cache_clear()
    yield tmp_path
    commit_at_start.cache_clear()


def test_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed or new code is a "+", a changed record is not; without a checkout the wheel's file tells."""
    name = run("rev-parse", "--short", "HEAD", folder=checkout)
    (checkout / "docs" / "records" / "r.json").write_text("2")
    assert commit() == name
    for path in (checkout / "espref" / "_environment.py", checkout / "tests" / "new.py"):
        before = path.read_text() if path.exists() else None
        path.write_text("2")
        assert commit() == f"{name}+"
        path.unlink() if before is None else path.write_text(before)
    assert commit() == name
    with monkeypatch.context() as without_git:
        without_git.setenv("PATH", str(checkout))
        assert commit() is None
    (checkout / ".git").rename(checkout / "git")
    assert commit() is None
    (checkout / "espref" / "_commit.txt").write_text("89abcde 2026-01-01\n")
    assert commit() == "89abcde"


def test_a_commit_that_changes_meanwhile_is_unknown(checkout: Path) -> None:
    """What a process measured is neither the commit of its start nor that of its end for certain."""
    name = run("rev-parse", "--short", "HEAD", folder=checkout)
    stamps = [environment()]
    (checkout / "espref" / "_environment.py").write_text("2")
    stamps.append(environment())
    run("commit", "--all", "--quiet", "--message", "m", folder=checkout)
    stamps.append(environment())
    assert [(stamp["commit"], stamp["dirty"]) for stamp in stamps] == [(name, False), (name, True), (None, None)]


def test_a_wheel_that_was_built_with_changes(checkout: Path) -> None:
    """The "+" of the wheel's file reaches the environment."""
    (checkout / ".git").rename(checkout / "git")
    (checkout / "espref" / "_commit.txt").write_text("89abcde+ 2026-01-01\n")
    found = environment()
    assert (found["commit"], found["dirty"]) == ("89abcde", True)


def test_in_words() -> None:
    """Commit and changes in words, never a bare "+"; what was not recorded is left out."""
    text = in_words(made_with(dirty=True, POT=None))
    assert text == (
        "x, 2 cores, Linux; 2026-01-01, espref 0.1.0, commit 0123abc with uncommitted changes; "
        "Python 3.11.0, NumPy 1.0, SciPy 1.0, scikit-learn 1.0, PyTorch 1.0"
    )
    unknown = in_words(made_with(commit=None, dirty=None, note="lost"))
    assert ", commit unknown (lost);" in unknown
    more = {"threads": {"blas": 2}, "blas": "b", "simd": "s", "inputs": [{"name": "x.npy", "sha256": "0f"}]}
    assert in_words(made_with(**more)).endswith("; threads: BLAS 2; BLAS: b; SIMD: s; x.npy: SHA-256 0f")


@pytest.fixture
def tables() -> ModuleType:
    """The site's extension that writes the tables."""
    for package in ("sphinx", "lightning_fabric"):
        pytest.importorskip(package)
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        return importlib.import_module("tables")
    finally:
        sys.path.pop(0)


def test_tables_tell_rows_apart(tables: ModuleType) -> None:
    """One environment is a sentence below the table; several are a list that a last column refers to."""
    alone = tables.record_table([row("a"), row("b")])
    assert alone[-2].startswith("Measured on x, 2 cores") and not any("| with |" in line for line in alone)
    mixed = tables.record_table([row("a"), row("b", commit="4567def", command="espref bench"), row("c")])
    cells = [line.split(" | ")[-1] for line in mixed if re.match(r"\| [abc] ", line)]
    assert cells == ["1 |", "2 |", "1 |"]
    assert [line[:4] for line in mixed if re.match(r"\d\.", line)] == ["1. o", "2. b"]
    assert any(line.startswith("2. by `espref bench` on x, 2 cores") and "4567def" in line for line in mixed)


def test_tables_name_the_other_result_of_a_run(tables: ModuleType) -> None:
    """The same settings and seeds with another mean in another table: each names the other; equal means are silent."""
    about = {"group": "g", "metric": "accuracy", "seeds": 5, "config": {"tau": 1}}
    one, other = ({**about, "variant": name, "mean": mean} for name, mean in (("a", 94.71), ("b", 94.82)))
    (line, _) = tables.other_results([one], {"first": [one], "second": [other, {**one}]})
    assert line == (
        "a: the same settings and seeds gave 94.71 here and 94.82 in the study second (g, b). These are different runs."
    )
    assert tables.other_results([one], {"first": [one, {**other, "seeds": 4}, {**other, "config": {}}]}) == []


def test_no_bare_plus_on_the_pages(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tables of all committed records: each row has its cells, and no commit has a "+"."""
    text = []
    for path in COMMITTED:
        content = records.read(path)
        if "rows" in content:
            text += tables.record_table(content["rows"])
        else:
            text += tables.measured_with(tables.distinct(entry["environment"] for entry in content["runs"]))
    assert any("with uncommitted changes" in line for line in text)
    assert not re.search(r"[0-9a-f]{7}\+", "\n".join(text))
