"""Device, precision and processes of a training run, and how the processes share the model."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.torch_version import TorchVersion

from ..nn.transformer import DecoderBlock, EncoderBlock, TranslationTransformer

#: How several processes share a model: each holds all of it (ddp), or a part of every block (fsdp).
STRATEGIES = ("ddp", "fsdp")
#: On the CPU, PyTorch 2.6 fails in the first FSDP step, and 2.7 and 2.8 save moments other than those of one process.
OLDEST_FSDP = "2.9"


def make_fabric(
    accelerator: str = "cpu", devices: int = 1, precision: Any = "32-true", strategy: str = "ddp"
) -> Fabric:
    """Fabric with this device, precision and number of processes; under ``torchrun``, the processes it started.

    Raises
    ------
    ValueError
        If this machine has no such accelerator, or the precision or strategy is unknown; for fsdp, in one process or
        before PyTorch 2.9.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    processes = int(os.environ.get("WORLD_SIZE", devices))
    if strategy == "fsdp" and processes == 1:
        raise ValueError("strategy: expected several processes for 'fsdp' (--devices, or torchrun), got one")
    if strategy == "fsdp" and TorchVersion(torch.__version__) < OLDEST_FSDP:
        raise ValueError(f"strategy: expected PyTorch {OLDEST_FSDP} or newer for 'fsdp', got {torch.__version__}")
    nodes = max(1, processes // devices)  # torchrun starts as many processes on each
    engine: Any = "auto"
    if processes > 1:
        engine = "ddp" if strategy == "ddp" else ModelParallelStrategy(shard, processes, tensor_parallel_size=1)
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision, strategy=engine)
    except RuntimeError as error:
        raise ValueError(f"accelerator: expected one that this machine has, got {accelerator!r}: {error}") from error
    fabric.launch()
    return fabric


def shard(model: torch.nn.Module, mesh: Any) -> torch.nn.Module:
    """Divide parameters, gradients and moments among the processes, block by block (FSDP)."""
    for module in model.modules():
        if isinstance(module, (EncoderBlock, DecoderBlock)):
            fully_shard(module, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    if isinstance(model, TranslationTransformer):
        register_fsdp_forward_method(model, "translate")
    return model


def is_sharded(fabric: Fabric) -> bool:
    """Whether each process holds only a part of the model."""
    return isinstance(fabric.strategy, ModelParallelStrategy)
