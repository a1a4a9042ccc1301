"""Training: it learns, resumes exactly, refuses what it cannot continue; processes agree."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from espref.cli import main  # noqa: E402
from espref.nn.transformer import ATTENTION  # noqa: E402
from espref.train import loop, studies  # noqa: E402
from espref.train.config import Config  # noqa: E402
from espref.train.embedded import EMBEDDED  # noqa: E402
from espref.train.model import build  # noqa: E402
from espref.train.runs import compare, load, run_all  # noqa: E402

SMALL = {"dim": 8, "depth": 1, "heads": 2, "epochs": 2, "fraction": 0.2}


@pytest.fixture(scope="module")
def fabric():
    return loop.make_fabric()


@pytest.mark.parametrize("task", EMBEDDED)
def test_every_task_learns(task: str, tmp_path: Path, fabric) -> None:
    """Training loss falls; every metric is a number; the files are there and read back."""
    config = Config(task, "esp", **{**SMALL, "epochs": 3})
    result = loop.train(load(task), config, tmp_path, fabric)
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    assert all(math.isfinite(value) for value in result["final"].values())
    assert json.loads((tmp_path / "metrics.json").read_text())["final"] == result["final"]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
    assert result["config"]["task"] == task and result["environment"]["torch"]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_attention_trains(attention: str, tmp_path: Path, fabric) -> None:
    """One epoch with each; equal sizes up to a few scalars and vectors."""
    result = loop.train(load("digits"), Config("digits", attention, **{**SMALL, "epochs": 1}), tmp_path, fabric)
    plain = sum(p.numel() for p in build(load("digits"), Config("digits", "softmax", **SMALL)).parameters())
    assert 0 <= result["parameters"] - plain <= 20


def test_resumed_run_is_the_run(tmp_path: Path, fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of an epoch and resumed: same losses, same metrics, same weights, bit for bit."""
    data, config = load("digits"), Config("digits", "esp", **{**SMALL, "epochs": 3, "dropout": 0.1, "anneal": 0.5})
    whole = loop.train(data, config, tmp_path / "whole", fabric)
    calls, true_loss = [], loop.loss

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 7:  # four steps an epoch: in the second
            raise KeyboardInterrupt
        return true_loss(*arguments)

    monkeypatch.setattr(loop, "loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        loop.train(data, config, tmp_path / "cut", fabric)
    monkeypatch.setattr(loop, "loss", true_loss)
    assert not (tmp_path / "cut" / "metrics.json").exists()
    again = loop.train(data, config, tmp_path / "cut", fabric)
    assert again["history"] == whole["history"]
    first, second = (torch.load(tmp_path / p / "checkpoint.pt", weights_only=True)["model"] for p in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert loop.train(data, config, tmp_path / "cut", fabric) == json.loads(
        (tmp_path / "cut" / "metrics.json").read_text()
    )


def test_what_cannot_be_continued_is_refused(tmp_path: Path, fabric) -> None:
    """Another configuration, a spoilt checkpoint, a batch that does not divide: one line, the folder named."""
    data, config = load("digits"), Config("digits", "softmax", **{**SMALL, "epochs": 1})
    loop.train(data, config, tmp_path, fabric)
    with pytest.raises(ValueError, match="another configuration"):
        loop.train(data, replace(config, rate=1e-4), tmp_path, fabric)
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: expected a checkpoint"):
        loop.train(data, config, tmp_path, fabric)
    for bad, name in (({"epochs": 0}, "epochs"), ({"rate": -1.0}, "rate"), ({"slicers": "none"}, "slicers")):
        with pytest.raises(ValueError, match=name):
            Config("digits", **bad)
    with pytest.raises(ValueError, match="attention: expected one of"):
        loop.train(data, replace(config, attention="linear"), tmp_path / "other", fabric)
    with pytest.raises(ValueError, match="task: expected one of"):
        load("nothing")
    torch.save({"model": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: expected a checkpoint"):
        loop.train(data, config, tmp_path, fabric)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="accelerator: expected one that this machine has"):
            loop.make_fabric("cuda")


def test_a_swapped_model_starts_where_softmax_stopped(tmp_path: Path, fabric) -> None:
    """Plug-and-play: the weights of the first run, other attention."""
    data, config = load("digits"), Config("digits", "softmax", **{**SMALL, "epochs": 1})
    loop.train(data, config, tmp_path / "first", fabric)
    weights = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["model"]
    model = build(data, replace(config, attention="esp"))
    loop._begin_with(model, tmp_path / "first")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())


def test_several_runs_and_their_comparison(tmp_path: Path) -> None:
    """Two processes, two kinds, two seeds: the same numbers as one process, paired by seed."""
    configs = [Config("digits", kind, seed, **{**SMALL, "epochs": 1}) for kind in ("softmax", "esp") for seed in (0, 1)]
    found = {(c.attention, c.seed): r for c, r in run_all(configs, tmp_path / "two", jobs=2)}
    alone = {(c.attention, c.seed): r for c, r in run_all(configs[:1], tmp_path / "one", jobs=1)}
    assert alone["softmax", 0]["history"] == found["softmax", 0]["history"]
    results = {kind: {seed: found[kind, seed] for seed in (0, 1)} for kind in ("softmax", "esp")}
    first, second = compare("image", results)
    gaps = [found["esp", s]["final"]["accuracy"] - found["softmax", s]["final"]["accuracy"] for s in (0, 1)]
    assert first.difference == 0 and second.difference == pytest.approx(sum(gaps) / 2)
    assert second.error == pytest.approx(abs(gaps[0] - gaps[1]) / 2) and second.wins == sum(g > 0 for g in gaps)


def test_a_study_writes_its_record_group_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A second group that fails leaves the record of the first; started again, finished runs are read, not repeated."""
    small = Config("digits", "softmax", **{**SMALL, "epochs": 1})
    bad = {"softmax": replace(small, batch=32), "missing": replace(small, start="nowhere")}
    groups = {"first": {"softmax": small, "more": replace(small, rate=1e-3)}, "second": bad}
    monkeypatch.setitem(studies.STUDIES, "slices", lambda: groups)
    words = ["train", "study", "slices", "--seeds", "2", "--out", str(tmp_path), "--record", str(tmp_path / "r.json")]
    assert main(words) == 2 and "nowhere-seed=" in capsys.readouterr().err
    record = json.loads((tmp_path / "r.json").read_text())
    assert [(run["group"], run["variant"], run["seeds"]) for run in record["runs"]] == [
        ("first", "softmax", 2),
        ("first", "more", 2),
    ]
    assert record["runs"][0]["difference"] == 0 and record["environment"]["torch"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("digits-softmax*/metrics.json")}
    assert len(before) >= 4 and main([*words, "--only", "first"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert json.loads((tmp_path / "r.json").read_text())["runs"] == record["runs"]
    assert main(["train", "study", "nothing"]) == 2 and "study: expected one of" in capsys.readouterr().err


def command(out: Path, *words: str, processes: int = 0) -> list[str]:
    """espref train digits, alone or under torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=0"]
    start = [*start, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"] if processes else [sys.executable]
    options = ["--dim", "8", "--depth", "1", "--heads", "2", "--out", str(out), *words]
    return [*start, "-m", "espref", "train", "digits", *options]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def result(out: Path) -> dict:
    (path,) = out.glob("*/metrics.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("fraction", ["0.3", "0.025"])  # full batches; one of odd length, so that shares differ
def test_two_processes_are_one(fraction: str, tmp_path: Path) -> None:
    """gloo, two processes, equal global batch: the same losses to rounding."""
    for name, processes in (("one", 0), ("two", 2)):
        words = command(tmp_path / name, "--epochs", "2", "--fraction", fraction, processes=processes)
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert result(tmp_path / name)["processes"] == max(1, processes)
        pictures = {path.name: path.read_bytes()[:4] for path in (tmp_path / name).glob("*.png")}
        assert pictures == {"digits-curves.png": b"\x89PNG", "digits-attention.png": b"\x89PNG"}
    found = [result(tmp_path / name)["history"] for name in ("one", "two")]
    for one, two in zip(*found, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_a_killed_worker_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    """The others end with an error, and the run can be resumed to its end by one process."""
    words = command(tmp_path, "--epochs", "20", "--fraction", "0.3", processes=2)
    parent = subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = parent.communicate(timeout=120)
    assert parent.returncode != 0 and ("SIGKILL" in errors or "Signal 9" in errors)
    saved = len(torch.load(next(tmp_path.glob("*/checkpoint.pt")), weights_only=True)["history"])
    assert 1 <= saved < 20
    done = subprocess.run(
        command(tmp_path, "--epochs", "20", "--fraction", "0.3"), env=ENVIRONMENT, capture_output=True, timeout=100
    )
    assert done.returncode == 0 and len(result(tmp_path)["history"]) == 20
