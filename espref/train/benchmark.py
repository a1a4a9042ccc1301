"""Training the ViT and the translation preset with each kind of attention, on random data of the real shapes.

One step is loss, gradients and AdamW on one batch; the kinds are measured in turn within one process. A batch has 256
items on CUDA, where the compiled model is measured too, and 32 on a CPU. Memory is the peak of a step beyond model and
moments.
"""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from ..benchmarks import register
from ..benchmarks.attention import Step, device_name, peak_mb
from ..benchmarks.measure import Row, row, seconds

KINDS = ("softmax", "sinkhorn", "differential", "esp", "esp-balanced")
REPEATS = 3


class Shape(NamedTuple):
    """Data of one preset: the arguments of its model, and the shape of one input."""

    preset: str
    task: str
    settings: dict[str, int]
    size: tuple[int, ...]


SHAPES = (
    Shape(
        "cats-and-dogs-100",
        "image",
        {"image_size": 64, "patch_size": 8, "channels": 3, "classes": 2},
        (3, 64, 64),
    ),
    Shape(
        "iwslt14",
        "translation",
        {"source_vocabulary": 10_004, "target_vocabulary": 10_004, "length": 66},
        (64,),
    ),
)


def batch_size() -> int:
    """Items in a batch."""
    return 256 if device_name() == "cuda" else 32


def step(shape: Shape, kind: str, *, narrow: bool = False, compiled: bool = False) -> Step:
    """One training step as a function; ``narrow`` is bfloat16 by autocast."""
    import torch

    from .config import Config
    from .data import UNKNOWN, Batch, Data
    from .model import build, loss
    from .presets import PRESETS

    torch.manual_seed(0)
    device, size = torch.device(device_name()), (batch_size(), *shape.size)
    config = Config(PRESETS[shape.preset].task, kind, **{**PRESETS[shape.preset].settings, "fraction": 1.0})
    model = build(Data(shape.task, [], [], (), shape.settings), config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.rate)
    if shape.task == "image":
        batch = Batch(torch.rand(size), None, torch.randint(shape.settings["classes"], size[:1]))
    else:
        source, target = torch.randint(UNKNOWN, shape.settings["target_vocabulary"], (2, *size))
        lengths = torch.randint(size[1] // 4, size[1] + 1, (size[0], 1))  # real sentences differ in length
        lengths[0] = size[1]
        padding = torch.arange(size[1]) >= lengths
        batch = Batch(source.masked_fill(padding, 0), padding, target.masked_fill(padding, 0))
    batch = batch.to(device)
    forward: Any = torch.compile(model) if compiled else model

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            value = loss(forward, shape.task, batch)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _memory(shape: Shape, kind: str, narrow: bool) -> float:
    """Peak memory in MB of a step beyond model, batch and moments, which an earlier step has allocated."""
    module = "espref.train.benchmark"
    setup = f"from {module} import SHAPES, step\nrun = step(SHAPES[{SHAPES.index(shape)}], '{kind}', narrow={narrow})\n"
    return peak_mb(lambda: step(shape, kind, narrow=narrow), f"{setup}run()\n# measured\nrun()\n")


def _compare(shape: Shape, narrow: bool, compiled: bool) -> Row:
    """A row with the median items per second of each kind; what is measured is the ratio of ESP to softmax."""
    steps = {kind: step(shape, kind, narrow=narrow, compiled=compiled) for kind in KINDS}
    rounds = [{kind: seconds(run) for kind, run in steps.items()} for _ in range(REPEATS + 1)][1:]
    rates = {kind: batch_size() / statistics.median(times[kind] for times in rounds) for kind in KINDS}
    detail = "items per second: " + ", ".join(f"{kind} {rate:.1f}" for kind, rate in rates.items())
    if not compiled:
        memory = {kind: _memory(shape, kind, narrow) for kind in KINDS}
        detail += "; MB: " + ", ".join(f"{kind} {peak:.0f}" for kind, peak in memory.items())
    precision = "bfloat16" if narrow else "float32"
    name = f"{shape.preset}, {precision}{', compiled' if compiled else ''}: esp beside softmax"
    return row(name, rates["esp"] / rates["softmax"], "of its items per second", "", None, detail)


def run() -> list[Row]:
    """All rows of the suite; it needs the extra ``train``."""
    try:
        import lightning_fabric  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError("the suite transformers needs PyTorch: pip install 'espref[train]'") from error
    compiling = (False, True) if device_name() == "cuda" else (False,)  # on a CPU, compiling takes longer than all else
    modes = [(narrow, compiled) for narrow in (False, True) for compiled in compiling]
    return [_compare(shape, *mode) for shape in SHAPES for mode in modes]


register("transformers", run)
