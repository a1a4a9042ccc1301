"""Training one model: it learns, resumes exactly, uses every item, and refuses what it cannot resume."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from espref.nn.transformer import ATTENTION  # noqa: E402
from espref.train import loop  # noqa: E402
from espref.train.config import Config  # noqa: E402
from espref.train.data import Data  # noqa: E402
from espref.train.embedded import EMBEDDED  # noqa: E402
from espref.train.model import build  # noqa: E402
from espref.train.processes import make_fabric  # noqa: E402
from espref.train.runs import load  # noqa: E402

SMALL: dict[str, Any] = {"dim": 8, "depth": 1, "heads": 2, "epochs": 2, "batch": 32, "rate": 1e-2}
#: Steps so small that float32 weights do not move.
STILL = {"rate": 1e-30, "weight_decay": 0.0}


@cache
def few(task: str) -> Data:
    """About 80 training and 20 test items: two full batches of 32 and a partial one."""
    data = load(task)
    train, test = (part[:: len(part) // size] for part, size in ((data.train, 80), (data.test, 20)))
    return data._replace(train=train, test=test)


@pytest.fixture(scope="module")
def fabric():
    return make_fabric()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fabric) -> tuple[Config, Path, dict[str, Any]]:
    """A finished run: configuration, folder, result. Tests that change the folder work on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    config = Config("digits", "softmax", 3, **SMALL)
    return config, folder, loop.train(few("digits"), config, folder, fabric)


@pytest.fixture
def copied(finished, tmp_path: Path) -> tuple[Config, Path]:
    """The configuration of the finished run, and a copy of its folder without the end result."""
    folder = shutil.copytree(finished[1], tmp_path / "copy")
    (folder / "metrics.json").unlink()
    return finished[0], folder


@pytest.mark.parametrize("task", EMBEDDED)
def test_every_task_learns(task: str, tmp_path: Path, fabric) -> None:
    """The training loss falls, and every metric is a finite number."""
    result = loop.train(few(task), Config(task, "esp", **{**SMALL, "epochs": 3}), tmp_path, fabric)
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    assert all(math.isfinite(value) for value in result["final"].values())


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_attention_trains(attention: str, tmp_path: Path, fabric) -> None:
    """One epoch with each kind; equal sizes up to a few scalars and vectors."""
    result = loop.train(few("digits"), Config("digits", attention, **{**SMALL, "epochs": 1}), tmp_path, fabric)
    plain = sum(p.numel() for p in build(few("digits"), Config("digits", "softmax", **SMALL)).parameters())
    assert 0 <= result["parameters"] - plain <= 20


@pytest.mark.parametrize("attention", [kind for kind in ATTENTION if kind.startswith("esp")])
def test_settings_of_esp_attention(attention: str) -> None:
    """tau, beta and directions are those of the configuration, the sorts those of the kind in ``espref.nn``."""
    config = Config("digits", attention, **SMALL, tau=0.3, beta=2.0, slicers="random", slices=5)
    module, default = build(few("digits"), config).encoder.blocks[0].attention, ATTENTION[attention](8, 2)
    assert (module.sort, module.sort_in_eval) == (default.sort, default.sort_in_eval)
    assert module.log_tau.exp().tolist() == pytest.approx([0.3] * 2)
    assert module.log_beta.exp().tolist() == pytest.approx([2.0] * 2)
    assert module.directions.shape[-2:] == (5, 4) and not module.directions.requires_grad
    learned = build(few("digits"), replace(config, slicers="learned")).encoder.blocks[0].attention
    assert learned.directions.requires_grad


def test_a_run_says_how_it_was_made(finished) -> None:
    """Configuration, seed, versions, commit and precision; the result and the metrics per epoch read back."""
    config, folder, result = finished
    about = json.loads((folder / "config.json").read_text())
    assert about["config"] == asdict(config) and about["config"]["seed"] == 3 and about["precision"] == "32-true"
    assert {"commit", "espref", "python", "torch", "babel", "lightning-fabric"} <= set(about["environment"])
    assert {name: result[name] for name in about} == about
    assert json.loads((folder / "metrics.json").read_text()) == result


def test_a_finished_run_is_read(finished, fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call returns the result without a step."""
    config, folder, result = finished
    monkeypatch.setattr(loop, "loss", None)
    assert loop.train(few("digits"), config, folder, fabric) == result


@pytest.mark.parametrize("task", ["digits", "names"])
def test_the_loss_is_the_mean_over_all_items(task: str, tmp_path: Path, fabric) -> None:
    """With weights that do not move, the training loss is the test loss on the same items: the last batch counts."""
    data = few(task)
    config = Config(task, "softmax", **{**SMALL, **STILL, "epochs": 1})
    final = loop.train(data._replace(test=data.train), config, tmp_path, fabric)["final"]
    assert len(data.train) % config.batch and final["loss"] == pytest.approx(final["test loss"], rel=1e-5)


def test_dropout_differs_between_epochs(tmp_path: Path, fabric) -> None:
    """With one item and weights that do not move, only the dropout mask can change the loss."""
    data = few("digits")
    config = Config("digits", "softmax", **{**SMALL, **STILL, "dropout": 0.5})
    first, second = loop.train(data._replace(train=data.train[:1]), config, tmp_path, fabric)["history"]
    assert abs(first["loss"] - second["loss"]) > 1e-4


def test_the_rate_rises_and_falls() -> None:
    """Linear rise over the first twentieth of the steps, cosine decay to zero; one step is taken at full rate."""
    factors = [loop._rate_factor(step, 100) for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, (1 + math.cos(0.04 * math.pi)) / 2])
    assert factors[50] == pytest.approx(0.5) and factors[100] == pytest.approx(0) and loop._rate_factor(0, 1) == 1


def test_resumed_run_is_the_run(tmp_path: Path, fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of an epoch and resumed: the same losses, metrics, weights and moments, bit for bit."""
    data, config = few("digits"), Config("digits", "esp", **{**SMALL, "epochs": 3, "dropout": 0.1, "anneal": 0.5})
    whole = loop.train(data, config, tmp_path / "whole", fabric)
    steps, true_loss = [], loop.loss

    def stopped(*arguments):
        steps.append(1)
        if len(steps) == 5:  # three steps per epoch: in the second epoch
            raise KeyboardInterrupt
        return true_loss(*arguments)

    monkeypatch.setattr(loop, "loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        loop.train(data, config, tmp_path / "cut", fabric)
    monkeypatch.setattr(loop, "loss", true_loss)
    assert not (tmp_path / "cut" / "metrics.json").exists()
    assert loop.train(data, config, tmp_path / "cut", fabric)["history"] == whole["history"]
    first, second = (torch.load(tmp_path / p / "checkpoint.pt", weights_only=True) for p in ("whole", "cut"))
    torch.testing.assert_close(second["model"], first["model"], rtol=0, atol=0)
    torch.testing.assert_close(second["optimizer"]["state"], first["optimizer"]["state"], rtol=0, atol=0)
    assert second["scheduler"] == first["scheduler"]


def test_each_epoch_is_logged_once(tmp_path: Path, fabric) -> None:
    """metrics.csv and TensorBoard hold the history after two stops, one of them before anything was logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(epoch: int, line: dict[str, float]) -> None:
        raise KeyboardInterrupt

    config = Config("digits", "softmax", **{**SMALL, "epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        loop.train(few("digits"), config, tmp_path, fabric, stop)
    shutil.rmtree(tmp_path / "logs")
    with pytest.raises(KeyboardInterrupt):
        loop.train(few("digits"), config, tmp_path, fabric, stop)
    history = loop.train(few("digits"), config, tmp_path, fabric)["history"]
    with (tmp_path / "logs" / "metrics.csv").open(newline="") as file:
        lines = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]
    assert [{"epoch": line.pop("step"), **line} for line in lines] == history
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    for name in ("loss", "accuracy", "test loss"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in history]


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"epochs": 0}, "epochs"), ({"rate": -1.0}, "rate"), ({"tau": math.nan}, "tau"), ({"beta": math.inf}, "beta")]
    + [({"fraction": 1.5}, "fraction"), ({"slicers": "none"}, "slicers"), ({"seed": -1}, "seed")],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], name: str) -> None:
    """Before any work."""
    with pytest.raises(ValueError, match=f"{name}.*: expected"):
        Config("digits", **settings)


def test_unknown_names_are_refused(tmp_path: Path, fabric) -> None:
    """Of a task, an attention, an accelerator; no folder is made."""
    with pytest.raises(ValueError, match="task: expected one of"):
        load("nothing")
    with pytest.raises(ValueError, match="attention: expected one of"):
        loop.train(few("digits"), Config("digits", "esp-linear", **SMALL), tmp_path / "run", fabric)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="accelerator: expected one that this machine has"):
            make_fabric("cuda")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_is_refused(tmp_path: Path, fabric) -> None:
    """A loss that is not finite names the rate; the checkpoint is not written."""
    with pytest.raises(ValueError, match="rate: the loss of epoch 1 is not finite"):
        loop.train(few("digits"), Config("digits", "softmax", **{**SMALL, "rate": 1e30}), tmp_path, fabric)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_another_run_is_refused(finished, fabric) -> None:
    """A folder with another configuration or precision."""
    config, folder, _ = finished
    with pytest.raises(ValueError, match="another configuration"):
        loop.train(few("digits"), replace(config, rate=1e-4), folder, fabric)
    with pytest.raises(ValueError, match="expected a run of precision bf16-true, got 32-true"):
        loop.train(few("digits"), config, folder, make_fabric(precision="bf16-true"))


@pytest.mark.parametrize(
    ("name", "content"), [("metrics.json", '{"config": 1}'), ("config.json", '{"con'), ("config.json", "7")]
)
def test_a_corrupt_run_is_named(name: str, content: str, copied, fabric) -> None:
    """The file is in the message."""
    config, folder = copied
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}: expected a file written by a run"):
        loop.train(few("digits"), config, folder, fabric)


def test_a_corrupt_checkpoint_is_named(copied, fabric) -> None:
    """Another file, missing or empty parts, parts of a wrong type, another model: one error, and nothing is trained."""
    config, folder = copied
    path = folder / "checkpoint.pt"
    whole = torch.load(path, weights_only=True)
    wrong_size = {**whole, "model": {**whole["model"], "head.bias": torch.ones(3)}}
    parts = [{name: whole[name] for name in whole if name != missing} for missing in whole]
    empty = [{**whole, name: type(whole[name])()} for name in whole]
    for content in (*parts, *empty, dict.fromkeys(whole, 7), {**whole, "scheduler": 7}, wrong_size, None):
        torch.save(content, path) if content else path.write_bytes(b"nonsense")
        with pytest.raises(ValueError, match=r"checkpoint\.pt: expected a checkpoint.*; delete it to start anew"):
            loop.train(few("digits"), config, folder, fabric)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_every_precision_trains(precision: str, tmp_path: Path) -> None:
    """Training and evaluation in the precisions of Lightning Fabric."""
    config = Config("digits", "esp", **{**SMALL, "epochs": 1})
    result = loop.train(few("digits"), config, tmp_path, make_fabric(precision=precision))
    assert result["precision"] == precision and all(math.isfinite(value) for value in result["final"].values())


def test_a_swapped_model_starts_where_softmax_stopped(finished, tmp_path: Path, fabric) -> None:
    """Plug-and-play: the weights of the first run, with another attention; a run of other sizes is refused."""
    config, folder, _ = finished
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    swapped = replace(config, attention="esp", start=str(folder), **STILL)
    loop.train(few("digits"), swapped, tmp_path / "esp", fabric)
    own = torch.load(tmp_path / "esp" / "checkpoint.pt", weights_only=True)["model"]
    assert len(own) > len(weights) and all(torch.equal(value, own[name]) for name, value in weights.items())
    for bad, message in (({"start": str(tmp_path)}, "folder of a run, there is no"), ({"dim": 16}, "same sizes")):
        with pytest.raises(ValueError, match=f"start: expected .*{message}"):
            loop.train(few("digits"), replace(swapped, **bad), tmp_path / "bad" / message, fabric)
