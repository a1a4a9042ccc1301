"""One model trained with Lightning Fabric: checkpoints, exact resume, metrics in CSV, JSON and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from .._environment import environment
from .._output import atomic
from ..nn import EspAttention
from .config import Config
from .data import Batch, Data, collate, labels_of, subset
from .model import build, evaluate, loss
from .processes import is_sharded

History = list[dict[str, float]]
Report = Callable[[int, dict[str, float]], None]
#: Checkpoints hold the whole model by parameter names, however many processes train it.
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def train(data: Data, config: Config, folder: Path, fabric: Fabric, report: Report | None = None) -> dict[str, Any]:
    """Train one model, or resume it from its checkpoint; returns the content of metrics.json.

    The folder receives config.json at the start, checkpoint.pt and a line of logs/metrics.csv and of the TensorBoard
    events in logs after every epoch, and metrics.json at the end. A run that was killed resumes after its last
    complete epoch and gives the same numbers, bit for bit. ``report`` is called after each epoch with its index and
    its metrics.

    Raises
    ------
    ValueError
        If the folder holds a run of another configuration or precision, or its checkpoint cannot be read; if the batch
        size is not a multiple of the number of processes; if the folder's name cannot be encoded in this locale; if
        the loss is not finite.
    """
    _check_name(folder)
    if config.batch % fabric.world_size:
        raise ValueError(f"batch: expected a multiple of {fabric.world_size} processes, got {config.batch}")
    torch.manual_seed(config.seed)
    model = build(data, config)
    about = {"config": asdict(config), "environment": versions(), "precision": fabric.strategy.precision.precision}
    if finished := _open_folder(folder, about, fabric):
        return finished
    if config.start:
        load_weights(model, Path(config.start))
    items = subset(labels_of(data), len(data.train), config.fraction, config.seed)
    steps = config.epochs * math.ceil(len(items) / config.batch)
    wrapped = fabric.setup_module(model)
    adam = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    optimizer = fabric.setup_optimizers(adam)
    scheduler = LambdaLR(adam, partial(_rate_factor, steps=steps))
    history = _resume(folder, model, adam, scheduler)
    loggers = _loggers(folder / "logs", history) if fabric.is_global_zero else []
    dtype = next(model.parameters()).dtype  # of the unwrapped model, which is evaluated
    loader = DataLoader(data.test, 256, collate_fn=partial(collate, data.task))
    tests = [batch.to(fabric.device, dtype) for batch in loader]
    for epoch in range(len(history), config.epochs):
        _set_tau(model, config, epoch)
        batches = _batches(data, config, items, epoch, fabric)
        mean_loss = _train_epoch(batches, fabric, wrapped, optimizer, scheduler, data.task)
        if not math.isfinite(mean_loss):
            raise ValueError(f"rate: the loss of epoch {epoch + 1} is not finite, expected less than {config.rate}")
        line: dict[str, float] = {"epoch": epoch + 1, "loss": mean_loss}
        if fabric.is_global_zero or is_sharded(fabric):  # else rank 0 has the whole model and evaluates alone
            line |= evaluate(model, data, tests)
        history.append(fabric.broadcast(line))
        _save(folder, fabric, model, adam, scheduler, history)
        for logger in loggers:
            _log(logger, history[-1])
        if report is not None and fabric.is_global_zero:
            report(epoch, history[-1])
    result: dict[str, Any] = {**about, "history": history, "final": history[-1]}
    result |= {"processes": fabric.world_size, "sharded": is_sharded(fabric)}
    result["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for logger in loggers:
        logger.finalize("success")
    if fabric.is_global_zero:
        _write_json(folder / "metrics.json", result)
    return result


def _check_name(folder: Path) -> None:
    try:
        os.fspath(folder).encode()  # as TensorBoard does
    except UnicodeEncodeError:
        name = os.fsencode(folder)
        raise ValueError(f"out: expected a name this locale can encode, got {name!r}; set LC_ALL=C.UTF-8") from None


def _batches(
    data: Data, config: Config, items: list[int], epoch: int, fabric: Fabric
) -> Iterator[tuple[Batch, float, float]]:
    """For each batch: this process's share, the weight of the share's loss, and the batch's fraction of all items.

    Data order and dropout depend on seed, epoch and process alone.
    """
    order_seed, *dropout_seeds = np.random.SeedSequence([config.seed, epoch]).spawn(1 + fabric.world_size)
    torch.manual_seed(int(dropout_seeds[fabric.global_rank].generate_state(1)[0]))
    order = np.random.default_rng(order_seed).permutation(items).tolist()
    for start in range(0, len(order), config.batch):
        batch = order[start : start + config.batch]
        share = batch[fabric.global_rank :: fabric.world_size]
        weight = len(share) * fabric.world_size / len(batch)  # the mean over processes is the mean over the batch
        samples = [data.train[i] for i in share or batch[:1]]  # a process without a share takes part with weight 0
        yield collate(data.task, samples).to(fabric.device), weight, len(batch) / len(order)


def _train_epoch(
    batches: Iterator[tuple[Batch, float, float]],
    fabric: Fabric,
    model: Any,
    optimizer: Any,
    scheduler: LambdaLR,
    task: str,
) -> float:
    """One optimizer step per batch; the mean loss over all items."""
    model.train()
    losses = []
    for batch, weight, fraction in batches:
        value = weight * loss(model, task, batch)
        optimizer.zero_grad()
        fabric.backward(value)
        fabric.clip_gradients(model, optimizer, max_norm=1.0, error_if_nonfinite=False)
        optimizer.step()
        scheduler.step()
        losses.append(fraction * value.detach())
    mean: Any = fabric.all_reduce(torch.stack(losses).sum(), reduce_op="mean")
    return float(mean)


def _rate_factor(step: int, steps: int) -> float:
    """Linear rise over the first twentieth of the steps, cosine decay to zero."""
    return min((step + 1) / max(1, steps // 20), 0.5 * (1 + math.cos(math.pi * step / steps)))


def _set_tau(model: torch.nn.Module, config: Config, epoch: int) -> None:
    if config.anneal < 1:
        tau = config.tau * config.anneal ** (epoch / max(1, config.epochs - 1))
        for module in model.modules():
            if isinstance(module, EspAttention):
                torch.nn.init.constant_(module.log_tau, math.log(tau))


def _loggers(folder: Path, history: History) -> list[Logger]:
    """CSV and TensorBoard, rewritten from the history of the checkpoint so that each epoch appears once."""
    shutil.rmtree(folder, ignore_errors=True)
    loggers: list[Logger] = [CSVLogger(folder, "", ""), TensorBoardLogger(folder, "", "")]
    for logger in loggers:
        for line in history:
            _log(logger, line)
    return loggers


def _log(logger: Logger, line: dict[str, float]) -> None:
    logger.log_metrics({name: value for name, value in line.items() if name != "epoch"}, step=int(line["epoch"]))
    logger.save()


def versions() -> dict[str, Any]:
    """The environment of the package, and the versions of the packages that training adds."""
    packages = ("lightning-fabric", "torchmetrics", "sacrebleu", "babel")
    return {**environment(), **{package: metadata.version(package) for package in packages}}


def read_run(path: Path) -> dict[str, Any]:
    """The content of config.json or metrics.json of a run.

    Raises
    ------
    ValueError
        If the file is not one that a run writes.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("config", "environment", "precision", *(["history"] if path.name == "metrics.json" else [])):
            content[name]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: expected a file written by a run, {type(error).__name__}; delete it") from error
    return content


def _open_folder(folder: Path, about: dict[str, Any], fabric: Fabric) -> dict[str, Any] | None:
    """The finished run of this configuration, if the folder holds it; a run of another one is refused."""
    path = folder / "config.json"
    if path.exists():
        earlier = read_run(path)
        if earlier["config"] != about["config"]:
            raise ValueError(f"{folder}: expected a new folder, it holds a run of another configuration")
        if earlier["precision"] != about["precision"]:
            raise ValueError(f"{folder}: expected a run of precision {about['precision']}, got {earlier['precision']}")
    if (folder / "metrics.json").exists():
        return read_run(folder / "metrics.json")
    if fabric.is_global_zero and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(path, about)
    fabric.barrier()
    return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic(path) as draft:
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        parts = {name: saved[name] for name in ("model", "optimizer", "scheduler", "history")}
        if not all(parts.values()):
            raise ValueError("a part is empty")
        return parts
    except Exception as error:
        raise ValueError(f"{path}: expected a checkpoint, {type(error).__name__}; delete it to start anew") from error


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Copy the weights of a finished run, possibly of another kind of attention: those that both models have.

    Raises
    ------
    ValueError
        If the folder has no checkpoint, or no block of its model has the sizes of this one.
    """
    if not (folder / "checkpoint.pt").exists():
        raise ValueError(f"start: expected the folder of a run, there is no checkpoint.pt in {folder}")
    own = model.state_dict()
    saved = _read_checkpoint(folder / "checkpoint.pt")["model"]
    shared = {name: value for name, value in saved.items() if name in own and value.shape == own[name].shape}
    if not any(name.startswith("encoder.blocks") and value.ndim > 1 for name, value in shared.items()):
        raise ValueError(f"start: expected a model of the same sizes, no block of {folder} fits")
    model.load_state_dict(shared, strict=False)


def _resume(folder: Path, model: torch.nn.Module, optimizer: Any, scheduler: LambdaLR) -> History:
    """Load the checkpoint, if there is one, and return its history."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return []
    saved = _read_checkpoint(path)
    weights, moments = saved["model"], saved["optimizer"]
    try:
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=FULL)
        scheduler.load_state_dict(saved["scheduler"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ValueError(f"{path}: expected a checkpoint of this model ({reason}); delete it to start anew") from error
    return list(saved["history"])


def _save(
    folder: Path, fabric: Fabric, model: torch.nn.Module, optimizer: Any, scheduler: LambdaLR, history: History
) -> None:
    """Write the checkpoint, complete or not at all."""
    weights, moments = get_state_dict(model, optimizer, options=FULL)  # all processes give their shards
    if fabric.is_global_zero:
        parts = {"model": weights, "optimizer": moments, "scheduler": scheduler.state_dict(), "history": history}
        with atomic(folder / "checkpoint.pt") as draft:
            torch.save(parts, draft)
