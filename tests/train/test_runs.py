"""Several runs: in processes of their own, compared by seed, recorded by studies; and the command ``espref train``."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from torch.torch_version import TorchVersion  # noqa: E402

from espref.app.cli import main  # noqa: E402
from espref.benchmarks.records import read  # noqa: E402
from espref.nn.transformer import ATTENTION  # noqa: E402
from espref.train import studies  # noqa: E402
from espref.train.config import Config  # noqa: E402
from espref.train.embedded import EMBEDDED  # noqa: E402
from espref.train.loop import versions  # noqa: E402
from espref.train.paper import LOADERS  # noqa: E402
from espref.train.presets import PRESETS  # noqa: E402
from espref.train.runs import common_environment, compare, run, run_all  # noqa: E402

SMALL: dict[str, Any] = {"dim": 8, "depth": 1, "heads": 2, "epochs": 1, "fraction": 0.1}


def accuracies(*values: float) -> dict[int, dict[str, Any]]:
    return {seed: {"final": {"accuracy": value}} for seed, value in enumerate(values)}


def test_comparison() -> None:
    """Mean and sd over seeds; mean, standard error and signs of the differences to the first variant, by seed."""
    first, second = compare("image", {"a": accuracies(10, 20, 60), "b": accuracies(13, 19, 64)})
    assert first[2:] == (30, pytest.approx(700**0.5), 3, 0, 0, 0)
    assert second[2:] == (32, pytest.approx(777**0.5), 3, 2, pytest.approx((7 / 3) ** 0.5), 2)
    alone = compare("image", {"a": accuracies(10)})[0]
    assert alone.sd != alone.sd and alone.error != alone.error  # nan


def test_runs_in_processes_are_the_runs(tmp_path: Path) -> None:
    """Two processes give, in the order of the configurations, the numbers of this process."""
    configs = [Config("digits", "softmax", seed, **SMALL) for seed in (0, 1)]
    results = run_all(configs, tmp_path / "two", jobs=2)
    assert [result["history"] for result in results] == [run(c, tmp_path / "one")["history"] for c in configs]


def test_a_killed_training_process_is_one_line(tmp_path: Path) -> None:
    """A worker of the pool is killed: the message says how to resume, and the checkpoint is usable."""
    config = Config("digits", "softmax", **{**SMALL, "epochs": 500})

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ChildProcessError, match=r"a training process was killed.*rerun to resume"):
        run_all([config], tmp_path)
    killer.join()
    (path,) = tmp_path.glob("*/checkpoint.pt")
    assert 1 <= len(torch.load(path, weights_only=True)["history"]) < 500


@pytest.mark.trust
def test_an_interrupted_study_ends_at_once(tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to all its processes: one line, 130, no process left, checkpoints stay."""
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = ["train", "study", "slicers", "--out", str(tmp_path), "--jobs", "2", "--record", str(tmp_path / "r.json")]
    code = f"{start}; from espref.app.cli import main; sys.exit(main({words!r}))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    study = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*/checkpoint.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(study.pid, signal.SIGINT)
    _, errors = study.communicate(timeout=60)  # returns when no process holds its end of the pipe
    assert (study.returncode, errors) == (130, "espref: interrupted\n")
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 2 and not list(tmp_path.glob("*/metrics.json"))


@pytest.fixture
def two_groups(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Config]]:
    """A study of two groups, its runs in this process."""
    small = Config("digits", "softmax", **SMALL)
    groups = {"one": {"softmax": small, "slow": replace(small, rate=1e-3)}, "two": {"heavy": replace(small, dim=12)}}
    monkeypatch.setitem(studies.STUDIES, "slices", lambda: groups)
    monkeypatch.setattr(studies, "run_all", lambda configs, out, jobs: [run(config, out) for config in configs])
    return groups


def recorded(path: Path) -> list[tuple[str, str, int]]:
    return [(row["group"], row["variant"], row["seeds"]) for row in json.loads(path.read_text())["runs"]]


def test_a_study_writes_its_record_group_by_group(two_groups: dict[str, Any], tmp_path: Path, capsys) -> None:
    """A second group that fails leaves the record of the first; started again, finished runs are not repeated."""
    path = tmp_path / "r.json"
    words = ["train", "study", "slices", "--seeds", "2", "--out", str(tmp_path), "--record", str(path)]
    heavy = two_groups["two"].pop("heavy")
    two_groups["two"]["broken"] = replace(heavy, rate=1e30)
    assert main(words) == 2 and "rate: the loss of epoch 1 is not finite" in capsys.readouterr().err
    one = [("one", "softmax", 2), ("one", "slow", 2)]
    assert recorded(path) == one
    record = json.loads(path.read_text())
    results = [
        json.loads((tmp_path / f"{c.name()[:-1]}1" / "metrics.json").read_text()) for c in two_groups["one"].values()
    ]
    assert record["runs"][0]["difference"] == 0 and record["environments"][record["runs"][0]["environment"]]["torch"]
    assert [row["parameters"] for row in record["runs"]] == [result["parameters"] for result in results]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")}
    two_groups["two"] = {"heavy": heavy}
    assert main(words) == 0 and recorded(path) == [*one, ("two", "heavy", 2)]
    assert len(before) == 4 and before == {path: path.stat().st_mtime_ns for path in before}
    assert json.loads(path.read_text())["runs"][:2] == record["runs"]


def test_a_group_alone(two_groups: dict[str, Any], tmp_path: Path, capsys) -> None:
    """--only in the wrong order: the record has the finished groups, in the order of the study."""
    path = tmp_path / "r.json"
    words = ["train", "study", "slices", "--out", str(tmp_path), "--record", str(path), "--only"]
    assert main([*words, "two"]) == 0 and recorded(path) == [("two", "heavy", 1)]
    assert main([*words, "one"]) == 0
    assert recorded(path) == [("one", "softmax", 1), ("one", "slow", 1), ("two", "heavy", 1)]
    capsys.readouterr()
    assert main([*words, "three"]) == 2 and "only: expected part of one of one; two" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["begun", "finished", "resumed"])
def test_runs_of_different_environments_are_not_mixed(
    state: str, two_groups: dict[str, Any], tmp_path: Path, capsys
) -> None:
    """The last run of a study was made by another version of torch: one line before any training."""
    old, folder = {**versions(), "torch": "1.0"}, tmp_path / two_groups["two"]["heavy"].name()
    files = {"config.json": old} | {"finished": {"metrics.json": old}, "resumed": {"metrics.json": versions()}}.get(
        state, {}
    )
    folder.mkdir()
    for name, environment in files.items():
        content = {"config": {}, "environment": environment, "precision": "", "history": []}
        (folder / name).write_text(json.dumps(content))
    if state == "finished":  # alone it is accepted
        assert common_environment(list(two_groups["two"].values()), tmp_path) == old
    else:
        two_groups.pop("one")  # what is expected is that all runs of the study agree
    assert main(["train", "study", "slices", "--record", str(tmp_path / "r.json"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{folder}: expected a run made by torch" in error and "torch 1.0" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_a_study_goes_on_another_day(two_groups: dict[str, Any], tmp_path: Path) -> None:
    """Date, command and threads may differ between runs; each row has those of its last run."""
    configs = [replace(config, seed=seed) for config in two_groups["one"].values() for seed in range(2)]
    for day, config in enumerate(configs, start=1):
        folder = tmp_path / config.name()
        run(config, tmp_path)
        content = json.loads((folder / "metrics.json").read_text())
        content["environment"] |= {"date": f"2026-01-0{day}", "command": f"day {day}", "threads": {"torch": day}}
        (folder / "metrics.json").write_text(json.dumps(content))
    path = tmp_path / "r.json"
    list(studies.run_study("slices", seeds=2, out=tmp_path, jobs=1, record=path, only="one"))
    rows = read(path)["runs"]
    assert [row["environment"]["command"] for row in rows] == ["day 2", "day 4"]


def test_plug_and_play_starts_from_softmax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fine-tuned run starts from the pretrained run of its own seed, which is made first."""
    calls: list[list[Config]] = []

    def pretend(configs: list[Config], out: Path, jobs: int) -> list[dict[str, Any]]:
        calls.append(configs)
        about = {"parameters": 1, "environment": versions()}
        return [{"final": {"accuracy": float(config.seed)}, **about} for config in configs]

    monkeypatch.setattr(studies, "run_all", pretend)
    list(studies.run_study("plug-and-play", seeds=2, out=tmp_path, jobs=1, record=tmp_path / "r.json"))
    pretrained, tuned = calls
    folders = {config.seed: str(tmp_path / config.name()) for config in pretrained}
    assert sorted(folders) == [0, 1] and len(tuned) == 2 * len(studies.KINDS)
    assert all(config.start == folders[config.seed] for config in tuned)


@pytest.mark.parametrize("name", studies.STUDIES)
def test_studies_compare_like_with_like(name: str) -> None:
    """The variants of a group have one task, and as many epochs on as many items."""
    for variants in studies.STUDIES[name]().values():
        assert len({(c.task, c.epochs, c.fraction, c.batch, bool(c.start)) for c in variants.values()}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits --only x", "unrecognized arguments: --only x"),
        ("study slices --epochs 3", "unrecognized arguments: --epochs 3"),
        ("digits --attention softmax,linear", "argument --attention: expected some of softmax"),
        ("digits --devices 0", "argument --devices: expected a positive whole number, got '0'"),
        ("digits --strategy zero", "argument --strategy: invalid choice: 'zero'"),
        ("study nothing", "argument STUDY: invalid choice: 'nothing'"),
        ("nothing", "argument TASK: invalid choice: 'nothing'"),
        ("", "the following arguments are required: TASK"),
    ],
)
def test_what_the_parser_does_not_know(words: str, message: str, capsys) -> None:
    """An option that would have no effect is an error too."""
    with pytest.raises(SystemExit, match="2"):
        main(["train", *words.split()])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits --precision half", "Precision 'half' is invalid"),
        ("digits --strategy fsdp", "strategy: expected several processes for 'fsdp'"),
        ("digits --rate -1", "rate: expected a positive finite number, got -1.0"),
    ],
)
def test_a_bad_setting_is_one_line(words: str, message: str, tmp_path: Path, capsys) -> None:
    """Exit status 2, and nothing is written."""
    assert main(["train", *words.split(), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"espref: {message}") and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_an_old_pytorch_has_no_fsdp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """Refused before any process starts, and nothing is written."""
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.0+cpu"))
    words = f"train digits --devices 2 --strategy fsdp --out {tmp_path / 'runs'}"
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("espref: strategy: expected PyTorch 2.9 or newer for 'fsdp', got 2.8.0")
    assert error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_the_command_on_a_path_with_spaces(tmp_path: Path, capsys) -> None:
    """Two kinds, two seeds: a table, pictures, a folder per run."""
    words = "train digits --attention softmax,esp --seeds 2 --epochs 1 --dim 8 --depth 1 --heads 2 --fraction 0.1"
    assert main([*words.split(), "--out", str(tmp_path / "my runs")]) == 0
    printed = capsys.readouterr().out
    assert "minus softmax" in printed and "digits-curves.png" in printed.replace("\n", "")
    folders = sorted(path.parent.name for path in (tmp_path / "my runs").glob("*/metrics.json"))
    assert len(folders) == 4 and folders[0].startswith("digits-esp-epochs=1-") and folders[0].endswith("-seed=0")
    pictures = {path.name: path.read_bytes()[:4] for path in (tmp_path / "my runs").glob("*.png")}
    assert pictures == {"digits-curves.png": b"\x89PNG", "digits-attention.png": b"\x89PNG"}


def test_help_lists_everything(capsys) -> None:
    """Every task and preset, every study, every kind of attention; a preset's settings are the defaults."""
    pages = []
    for words in ("", "study", "digits", "imdb"):
        with pytest.raises(SystemExit, match="0"):
            main(["train", *words.split(), "--help"])
        pages.append(" ".join(capsys.readouterr().out.split()))
    tasks, listed, digits, imdb = pages
    assert all(f" {name} " in tasks for name in (*EMBEDDED, *LOADERS, *PRESETS))
    assert all(f" {name} " in listed for name in studies.STUDIES)
    assert all(name in digits.replace("- ", "-") for name in ATTENTION)  # argparse breaks lines at hyphens
    assert "--dim int width of the model (default: 32)" in digits
    assert "--dim int width of the model (default: 128)" in imdb


@pytest.mark.parametrize("words", [("--rate", "1_0"), ("--epochs", "1_0"), ("--seeds", "\u0663"), ("--tau", "nan")])
def test_options_are_numbers_of_tables(capsys, tmp_path, words):
    """Neither underscores nor digits of other scripts: argparse refuses the option by name."""
    with pytest.raises(SystemExit) as leave:
        main(["train", "digits", "--out", str(tmp_path), *words])
    assert leave.value.code == 2 and f"argument {words[0]}: " in capsys.readouterr().err
