"""Training: it learns, resumes exactly, refuses what it cannot continue; processes agree."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from torch.torch_version import TorchVersion  # noqa: E402

from espref.app.cli import main  # noqa: E402
from espref.nn.transformer import ATTENTION  # noqa: E402
from espref.train import loop, studies  # noqa: E402
from espref.train.config import Config  # noqa: E402
from espref.train.embedded import EMBEDDED  # noqa: E402
from espref.train.model import build  # noqa: E402
from espref.train.paper import LOADERS  # noqa: E402
from espref.train.presets import PRESETS  # noqa: E402
from espref.train.processes import OLDEST_FSDP, make_fabric  # noqa: E402
from espref.train.runs import compare, load, run, run_all  # noqa: E402

SMALL = {"dim": 8, "depth": 1, "heads": 2, "epochs": 2, "fraction": 0.2}


@pytest.fixture(scope="module")
def fabric():
    return make_fabric()


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
    whole = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
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
    for spoilt in ({"model": {}}, {"model": {}, "optimizer": {}, "history": []}, dict.fromkeys(whole, 7)):
        torch.save(spoilt, tmp_path / "checkpoint.pt")
        with pytest.raises(ValueError, match=r"checkpoint\.pt: expected a checkpoint"):
            loop.train(data, config, tmp_path, fabric)
    torch.save({**whole, "model": {**whole["model"], "head.bias": torch.ones(3)}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: expected a checkpoint of this model \(size mismatch"):
        loop.train(data, config, tmp_path, fabric)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="accelerator: expected one that this machine has"):
            make_fabric("cuda")


def test_a_run_says_how_it_was_made(tmp_path: Path, fabric) -> None:
    """Configuration, seed, versions, commit, precision from the start on; a spoilt file is named."""
    config = Config("digits", "softmax", 3, **{**SMALL, "epochs": 1})
    result = loop.train(load("digits"), config, tmp_path, fabric)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["config"]["seed"] == 3 and about["config"] == asdict(config) and about["precision"] == "32-true"
    assert {"commit", "espref", "python", "torch", "babel", "lightning-fabric"} <= set(about["environment"])
    assert {name: result[name] for name in about} == about
    with pytest.raises(ValueError, match="expected a run of precision bf16-true, got 32-true"):
        loop.train(load("digits"), config, tmp_path, make_fabric(precision="bf16-true"))
    for name, content in (("metrics.json", '{"config": 1}'), ("config.json", '{"con'), ("config.json", "7")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=rf"{name}: expected what a run writes"):
            loop.train(load("digits"), config, tmp_path, fabric)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_every_precision_trains(precision: str, tmp_path: Path) -> None:
    """Training and evaluation in the precision of Lightning Fabric."""
    config = Config("digits", "esp", **{**SMALL, "epochs": 1})
    result = loop.train(load("digits"), config, tmp_path, make_fabric(precision=precision))
    assert result["precision"] == precision and all(math.isfinite(value) for value in result["final"].values())


def test_tensorboard_shows_each_epoch_once(tmp_path: Path, fabric) -> None:
    """After two stops, one of them before TensorBoard was written; the values are those of the history."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Stopped(Exception):
        pass

    def stop(epoch: int, line: dict) -> None:
        raise Stopped

    config = Config("digits", "softmax", **{**SMALL, "epochs": 3})
    with pytest.raises(Stopped):
        loop.train(load("digits"), config, tmp_path, fabric, stop)
    for events in (tmp_path / "tensorboard").iterdir():
        events.unlink()
    with pytest.raises(Stopped):
        loop.train(load("digits"), config, tmp_path, fabric, stop)
    history = loop.train(load("digits"), config, tmp_path, fabric)["history"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {(event.step, event.value) for event in events.Scalars("loss")}
    assert sorted(step for step, _ in found) == [1, 2, 3] == sorted(event.step for event in events.Scalars("accuracy"))
    assert dict(found) == pytest.approx({line["epoch"]: line["loss"] for line in history}, rel=1e-6)


def test_a_swapped_model_starts_where_softmax_stopped(tmp_path: Path, fabric) -> None:
    """Plug-and-play: the weights of the first run, other attention."""
    data, config = load("digits"), Config("digits", "softmax", **{**SMALL, "epochs": 1})
    loop.train(data, config, tmp_path / "first", fabric)
    weights = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["model"]
    model = build(data, replace(config, attention="esp"))
    loop._begin_with(model, tmp_path / "first")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())
    with pytest.raises(ValueError, match=r"start: expected the folder of a run, there is no checkpoint\.pt"):
        loop._begin_with(model, tmp_path / "second")
    loop.train(data, replace(config, attention="esp"), tmp_path / "esp", fabric)
    with pytest.raises(ValueError, match="start: expected a model of the sizes of this one"):
        loop._begin_with(build(data, replace(config, attention="esp", dim=16)), tmp_path / "esp")


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


@pytest.fixture
def two_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of two groups of one variant, its runs in this process."""
    small = Config("digits", "softmax", **{**SMALL, "epochs": 1})
    groups = {"one": {"softmax": small}, "two": {"slow": replace(small, rate=1e-3)}}
    monkeypatch.setitem(studies.STUDIES, "slices", lambda: groups)
    monkeypatch.setattr(
        studies, "run_all", lambda configs, out, jobs: [(config, run(config, out)) for config in configs]
    )


def test_a_record_keeps_the_other_groups(two_groups: None, tmp_path: Path, capsys) -> None:
    """--only in the wrong order: both groups, in the order of the study; without --only a record begins anew."""
    path = tmp_path / "r.json"
    words = ["train", "study", "slices", "--out", str(tmp_path), "--record", str(path)]
    assert main([*words, "--only", "two"]) == 0
    two = json.loads(path.read_text())
    assert [run["group"] for run in two["runs"]] == ["two"]
    assert main([*words, "--only", "one"]) == 0
    both = json.loads(path.read_text())
    assert [run["group"] for run in both["runs"]] == ["one", "two"] and both["runs"][1:] == two["runs"]
    assert main([*words, "--only", "two"]) == 0 and json.loads(path.read_text()) == both
    path.write_text("no record")
    assert main(words) == 0 and json.loads(path.read_text()) == both
    capsys.readouterr()
    assert (
        main([*words, "--only", "three"]) == 2 and "only: expected part of one of one; two" in capsys.readouterr().err
    )


def test_records_of_different_makings_are_not_mixed(two_groups: None, tmp_path: Path, capsys) -> None:
    """Another commit, another study, other groups, no record: one line before any training, and the file stays."""
    path = tmp_path / "r.json"
    words = ["train", "study", "slices", "--record", str(path), "--only", "two", "--out"]
    made = {"study": "slices", "environment": loop.versions(), "runs": [{"group": "one"}]}
    bad = (
        ({**made, "environment": {**loop.versions(), "commit": "0000000"}}, "got commit 0000000"),
        ({**made, "environment": None}, "got None"),
        ({**made, "study": "kinds"}, "expected a record of the study 'slices' with its groups, got 'kinds'"),
        ({**made, "runs": [{"group": "three"}]}, "with its groups"),
        ({**made, "runs": [{}]}, "expected the record of a study, KeyError"),
        ([], "expected the record of a study, TypeError"),
        ("{", "expected the record of a study, JSONDecodeError"),
    )
    for content, message in bad:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        before = path.read_bytes()
        assert main([*words, str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err
        assert message in error and "r.json" in error and error.count("\n") == 1
        assert path.read_bytes() == before and not (tmp_path / "runs").exists()
    path.unlink()
    folder = tmp_path / "runs" / studies.STUDIES["slices"]()["two"]["slow"].name()
    assert main([*words, str(tmp_path / "runs")]) == 0
    old = json.loads((folder / "metrics.json").read_text())
    old["environment"]["torch"] = "1.0"
    (folder / "metrics.json").write_text(json.dumps(old))
    assert main([*words, str(tmp_path / "runs")]) == 2 and "got torch 1.0" in capsys.readouterr().err


def test_a_killed_training_process_is_one_line(tmp_path: Path) -> None:
    """Of a study: the pool's process dies, the message says how to go on, and one can."""
    config = Config("digits", "softmax", **{**SMALL, "epochs": 500})

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ChildProcessError, match="a training process was killed"):
        list(run_all([config], tmp_path))
    killer.join()
    (path,) = tmp_path.glob("*/checkpoint.pt")
    assert 1 <= len(torch.load(path, weights_only=True)["history"]) < 500


@pytest.mark.trust  # starts several processes
def test_an_interrupted_study_ends_at_once(tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to all its processes: one line, 130, no process left, checkpoints stay."""
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = ["train", "study", "slicers", "--out", str(tmp_path), "--jobs", "2", "--record", str(tmp_path / "r.json")]
    code = f"{start}; from espref.app.cli import main; sys.exit(main({words!r}))"
    study = subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*/checkpoint.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(study.pid, signal.SIGINT)
    _, errors = study.communicate(timeout=60)  # returns when no process holds its end of the pipe
    assert (study.returncode, errors) == (130, "espref: interrupted\n")
    assert len(list(tmp_path.glob("*/checkpoint.pt"))) == 2 and not list(tmp_path.glob("*/metrics.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits --only x", "--only: expected no such option with a task"),
        ("study slices --epochs 3", "--epochs: expected no such option with a study"),
        ("study slices --attention esp", "--attention: expected no such option with a study"),
        ("digits --attention softmax,linear", "--attention: expected some of softmax"),
        ("digits more", "study: expected none after a task, got 'more'"),
        ("digits --devices 0", "--devices: expected a positive whole number, got 0"),
        ("digits --precision half", "Precision 'half' is invalid"),
        ("digits --devices 2 --strategy zero", "strategy: expected one of ddp, fsdp, got 'zero'"),
        ("digits --strategy fsdp", "strategy: expected several processes for 'fsdp'"),
        ("study slices --strategy ddp", "--strategy: expected no such option with a study"),
        ("", "task: expected the name of a task"),
    ],
)
def test_options_without_effect_are_refused(words: str, message: str, tmp_path: Path, capsys) -> None:
    """One line, exit code 2, and nothing is written."""
    assert main(["train", *words.split(), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"espref: {message}") and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_an_old_pytorch_has_no_fsdp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """Said before any process starts, and nothing is written."""
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.0+cpu"))
    words = f"train digits --devices 2 --strategy fsdp --out {tmp_path / 'runs'}"
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("espref: strategy: expected PyTorch 2.9 or newer for 'fsdp', got 2.8.0")
    assert error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_the_command_on_a_path_with_spaces(tmp_path: Path, capsys) -> None:
    """Two kinds, two seeds: table, pictures, a folder a run; --list names every task, kind and study."""
    words = "train digits --attention softmax,esp --seeds 2 --epochs 1 --dim 8 --depth 1 --heads 2 --fraction 0.1"
    assert main([*words.split(), "--out", str(tmp_path / "my runs")]) == 0
    said = capsys.readouterr().out
    assert "minus softmax" in said and "digits-curves.png" in said.replace("\n", "")
    folders = sorted(path.parent.name for path in (tmp_path / "my runs").glob("*/metrics.json"))
    assert len(folders) == 4 and folders[0].startswith("digits-esp-epochs=1-") and folders[0].endswith("-seed=0")
    assert len(list((tmp_path / "my runs").glob("digits-*.png"))) == 2
    assert main(["train", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name}" in listed for name in (*EMBEDDED, *LOADERS, *ATTENTION, *studies.STUDIES, *PRESETS))


def command(out: Path, *words: str, processes: int = 0, task: str = "digits") -> list[str]:
    """espref train, alone or under torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=0"]
    start = [*start, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"] if processes else [sys.executable]
    options = ["--dim", "8", "--depth", "1", "--heads", "2", "--out", str(out), *words]
    return [*start, "-m", "espref", "train", task, *options]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def result(out: Path) -> dict:
    (path,) = out.glob("*/metrics.json")
    return json.loads(path.read_text())


# one batch of odd length, so that shares differ; full batches
@pytest.mark.parametrize("fraction", ["0.025", pytest.param("0.3", marks=pytest.mark.trust)])
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


NEEDS_FSDP = pytest.mark.skipif(TorchVersion(torch.__version__) < OLDEST_FSDP, reason="FSDP needs PyTorch 2.9")


@pytest.mark.trust  # starts several processes
@NEEDS_FSDP
@pytest.mark.parametrize(
    ("task", "options"),
    [("digits", "--slicers learned --anneal 0.5"), ("names", "--attention esp-balanced"), ("digit-points", "")],
)
def test_a_sharded_model_is_the_model(task: str, options: str, tmp_path: Path) -> None:
    """FSDP in two processes: the losses, metrics, weights and moments of one process to rounding, in whole tensors."""
    for name, processes in (("one", 0), ("two", 2)):
        words = ["--epochs", "2", "--fraction", "0.1", *options.split(), *(["--strategy", "fsdp"] if processes else [])]
        words = command(tmp_path / name, *words, processes=processes, task=task)
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert result(tmp_path / name)["sharded"] == bool(processes)
    one, two = (result(tmp_path / name) for name in ("one", "two"))
    assert two["parameters"] == one["parameters"]
    for first, second in zip(one["history"], two["history"], strict=True):
        assert second == pytest.approx(first, rel=1e-4)
    paths = [next((tmp_path / name).glob("*/checkpoint.pt")) for name in ("one", "two")]
    one, two = (torch.load(path, weights_only=True) for path in paths)
    torch.testing.assert_close(two["model"], one["model"], rtol=0, atol=1e-3)
    torch.testing.assert_close(two["optimizer"]["state"], one["optimizer"]["state"], rtol=0, atol=1e-3)


SHARDED = """
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from espref.nn.transformer import TranslationTransformer
from espref.train.processes import shard

distributed.init_process_group("gloo")
torch.manual_seed(0)
model = TranslationTransformer(source_vocabulary=9, target_vocabulary=9, length=7, dim=8, depth=2, heads=2)
whole = sum(p.numel() for p in model.parameters())
tokens = torch.arange(10).reshape(2, 5) % 9
before = model.translate(tokens, begin=1, end=2, limit=4)
shard(model, {"data_parallel": init_device_mesh("cpu", (2,))})
assert all(isinstance(block, FSDPModule) for block in [*model.encoder.blocks, *model.blocks])
here = torch.tensor([sum(p.to_local().numel() for p in model.parameters())])
assert 0.4 * whole < here < 0.6 * whole, (here, whole)
distributed.all_reduce(here)
assert here == whole
assert torch.equal(model.translate(tokens, begin=1, end=2, limit=4), before)
if distributed.get_rank() == 1:
    assert "tau=elsewhere" in repr(model)
else:
    assert "tau=0.1" in repr(model)
distributed.destroy_process_group()
"""


@NEEDS_FSDP
def test_every_process_holds_its_part(tmp_path: Path) -> None:
    """Half of the parameters of every block; the same translations; a model can be printed by one process."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    words = command(tmp_path, processes=2)
    words = [*words[: words.index("-m", 3)], str(tmp_path / "sharded.py")]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.trust  # starts several processes
def test_two_machines_are_two_processes(tmp_path: Path) -> None:
    """torchrun with two nodes of one process each, both here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in range(2):
        words = command(tmp_path, "--epochs", "1", "--fraction", "0.1", processes=1)
        place = words.index("--master-port=0")
        words[place : place + 3] = ["--nnodes=2", f"--node-rank={rank}", "--master-addr=127.0.0.1"]
        words.insert(place, f"--master-port={port}")
        nodes.append(subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL))
    errors = [node.communicate(timeout=100)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert result(tmp_path)["processes"] == 2


@pytest.mark.trust  # starts several processes
@pytest.mark.parametrize(
    ("strategy", "processes"), [("ddp", 0), *(pytest.param("fsdp", n, marks=NEEDS_FSDP) for n in (0, 2))]
)
def test_a_killed_worker_leaves_a_usable_checkpoint(strategy: str, processes: int, tmp_path: Path) -> None:
    """The others end with an error, and the run can be resumed to its end, by one process too."""
    sharing = ["--strategy", strategy]
    words = command(tmp_path, "--epochs", "20", "--fraction", "0.3", *sharing, processes=2)
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
    words = command(tmp_path, "--epochs", "20", "--fraction", "0.3", *sharing[:processes], processes=processes)
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, timeout=100)
    assert done.returncode == 0 and len(result(tmp_path)["history"]) == 20
