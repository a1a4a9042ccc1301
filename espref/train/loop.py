"""One model trained with Lightning Fabric: checkpoints, exact resume, metrics in CSV, JSON and TensorBoard."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from .._environment import environment
from .._output import atomic
from ..nn import EspAttention
from .config import Config
from .data import Batch, Data, collate, labels_of, subset
from .model import build, evaluate, loss
from .processes import is_sharded

Report = Callable[[int, dict[str, float]], None]
#: Checkpoints hold the whole model by names, however many processes train it.
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def train(data: Data, config: Config, folder: Path, fabric: Fabric, report: Report | None = None) -> dict[str, Any]:
    """Train one model, or go on where its checkpoint stands; returns what metrics.json holds.

    The folder receives config.json, metrics.csv and TensorBoard events (both as it goes), checkpoint.pt, and at the
    end metrics.json. A run that was killed is resumed from its last epoch with the same numbers.

    Raises
    ------
    ValueError
        When the folder holds a run of another configuration, or its checkpoint cannot be read; when the batch does not
        divide among the processes; when the folder's name cannot be written in this locale.
    """
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError:
        found = os.fsencode(folder)
        raise ValueError(f"out: expected a name this locale can write, got {found!r}; set LC_ALL=C.UTF-8") from None
    if config.batch % fabric.world_size:
        raise ValueError(f"batch: expected a multiple of {fabric.world_size} processes, got {config.batch}")
    about = {"config": asdict(config), "environment": versions(), "precision": fabric.strategy.precision.precision}
    finished = _claim_folder(folder, about, fabric)
    if finished:
        return finished
    torch.manual_seed(config.seed)
    model = build(data, config)
    if config.start:
        _begin_with(model, Path(config.start))
    wrapped = fabric.setup_module(model)
    adam = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    optimizer = fabric.setup_optimizers(adam)
    history = _resume(folder, model, adam)
    kept = subset(labels_of(data), len(data.train), config.fraction, config.seed)
    tensorboard = _Tensorboard(folder, history) if fabric.is_global_zero else None
    sharded = is_sharded(fabric)
    dtype = next(model.parameters()).dtype  # of the unwrapped model, which is evaluated
    tests = [b.to(fabric.device, dtype) for b in _batches(data, data.test, list(range(len(data.test))), 256)]
    for epoch in range(len(history), config.epochs):
        _set_tau(model, config, epoch)
        line: dict[str, float] = {
            "epoch": epoch + 1,
            "loss": _epoch(data, config, fabric, wrapped, optimizer, kept, epoch),
        }
        if fabric.is_global_zero or sharded:  # else the unwrapped model is whole, and no other process takes part
            line |= evaluate(model, data, tests)
        history.append(fabric.broadcast(line))
        _save(folder, fabric, model, adam, history)
        if tensorboard is not None:
            tensorboard.add(history[-1])
        if report is not None and fabric.is_global_zero:
            report(epoch, history[-1])
    result: dict[str, Any] = {**about, "history": history, "final": history[-1]}
    result |= {"processes": fabric.world_size, "sharded": sharded}
    result["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if tensorboard is not None:
        tensorboard.writer.close()
        _write_json(folder / "metrics.json", result)
    return result


def _epoch(
    data: Data, config: Config, fabric: Fabric, model: Any, optimizer: Any, kept: list[int], epoch: int
) -> float:
    """One pass over the items in an order that depends on seed and epoch alone; the mean loss."""
    order = np.random.default_rng([config.seed, epoch, 1]).permutation(kept).tolist()
    torch.manual_seed(hash((config.seed, epoch, fabric.global_rank)) % 2**31)  # dropout
    model.train()
    losses = []
    total = max(1, len(order) // config.batch)
    for step in range(total):
        batch = order[step * config.batch : (step + 1) * config.batch]
        share = batch[fabric.global_rank :: fabric.world_size]
        part = len(share) * fabric.world_size / len(batch)  # processes' means are averaged; 1 unless shares differ
        items = [data.train[i] for i in share or batch[:1]]  # a process without a share still takes part, with weight 0
        value = part * loss(model, data.task, collate(data.task, items).to(fabric.device))
        optimizer.zero_grad()
        fabric.backward(value)
        fabric.clip_gradients(model, optimizer, max_norm=1.0, error_if_nonfinite=False)
        _set_rate(optimizer, config.rate, epoch * total + step, config.epochs * total)
        optimizer.step()
        losses.append(value.detach())
    mean: Any = fabric.all_reduce(torch.stack(losses).mean(), reduce_op="mean")
    if not torch.isfinite(mean):
        raise ValueError(
            f"rate: the loss is not finite in epoch {epoch + 1}; expected a smaller rate than {config.rate}"
        )
    return float(mean)


def _set_rate(optimizer: Any, rate: float, step: int, total: int) -> None:
    """Linear rise over the first twentieth, cosine fall to zero."""
    rise = max(1, total // 20)
    factor = min((step + 1) / rise, 0.5 * (1 + math.cos(math.pi * step / total)))
    for group in optimizer.param_groups:
        group["lr"] = rate * factor


def _set_tau(model: torch.nn.Module, config: Config, epoch: int) -> None:
    if config.anneal < 1:
        tau = config.tau * config.anneal ** (epoch / max(1, config.epochs - 1))
        for module in model.modules():
            if isinstance(module, EspAttention):
                torch.nn.init.constant_(module.log_tau, math.log(tau))


def _batches(data: Data, items: Any, order: list[int], size: int) -> Iterator[Batch]:
    for start in range(0, len(order), size):
        yield collate(data.task, [items[i] for i in order[start : start + size]])


def versions() -> dict[str, Any]:
    """The environment of the package, and versions of what training adds."""
    found: dict[str, Any] = dict(environment())
    for package in ("lightning-fabric", "torchmetrics", "sacrebleu", "babel"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def read_run(path: Path) -> dict[str, Any]:
    """What config.json or metrics.json of a run holds.

    Raises
    ------
    ValueError
        When it is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        missing = {"config", "environment", *(("history", "final") if path.name == "metrics.json" else ())} - set(found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected what a run writes, {type(error).__name__}; delete it") from error
    if missing:
        raise ValueError(f"{path}: expected what a run writes, {' and '.join(sorted(missing))} missing; delete it")
    return found


def _claim_folder(folder: Path, about: dict[str, Any], fabric: Fabric) -> dict[str, Any] | None:
    """The finished run of this configuration, if the folder holds it; another one or another precision is refused."""
    path = folder / "config.json"
    if path.exists():
        found = read_run(path)
        if found["config"] != about["config"]:
            raise ValueError(f"{folder}: expected a new folder, found a run of another configuration")
        if found.get("precision", "32-true") != about["precision"]:
            raise ValueError(f"{folder}: expected a run of precision {about['precision']}, got {found['precision']}")
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


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found = {part: saved[part] for part in ("model", "optimizer", "history")}
        if not all(found.values()):
            raise ValueError("a part is empty")
        return found
    except Exception as error:
        raise ValueError(f"{path}: expected a checkpoint, {type(error).__name__}; delete it to start anew") from error


def _begin_with(model: torch.nn.Module, folder: Path) -> None:
    """Weights of a finished run, of another kind of attention too: what both have is carried over."""
    if not (folder / "checkpoint.pt").exists():
        raise ValueError(f"start: expected the folder of a run, there is no checkpoint.pt in {folder}")
    theirs = _read(folder / "checkpoint.pt")["model"]
    own = model.state_dict()
    shared = {k: v for k, v in theirs.items() if k in own and v.shape == own[k].shape}
    if not any(k.startswith("encoder.blocks") and v.ndim > 1 for k, v in shared.items()):
        raise ValueError(f"start: expected a model of the sizes of this one, no block of {folder} fits")
    model.load_state_dict(shared, strict=False)


def _resume(folder: Path, model: Any, optimizer: Any) -> list[dict[str, float]]:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return []
    saved = _read(path)
    try:
        set_state_dict(
            model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"], options=FULL
        )
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ValueError(f"{path}: expected a checkpoint of this model ({reason}); delete it to start anew") from error
    return saved["history"]


def _save(folder: Path, fabric: Fabric, model: Any, optimizer: Any, history: list[dict[str, float]]) -> None:
    """Checkpoint and metrics.csv, each whole or not at all."""
    weights, moments = get_state_dict(model, optimizer, options=FULL)  # all processes give their shards
    if fabric.is_global_zero:
        state = {"model": weights, "optimizer": moments, "history": history}
        with atomic(folder / "checkpoint.pt") as draft:
            torch.save(state, draft)
        with atomic(folder / "metrics.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(history[-1]))
            table.writeheader()
            table.writerows(history)
    fabric.barrier()


class _Tensorboard:
    """Metrics as scalars; a resumed run writes its history anew, and what it wrote before is hidden."""

    def __init__(self, folder: Path, history: list[dict[str, float]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder / "tensorboard", purge_step=1 if history else None)
        for line in history:
            self.add(line)

    def add(self, line: dict[str, float]) -> None:
        """One epoch."""
        for name, value in line.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, int(line["epoch"]))
        self.writer.flush()
