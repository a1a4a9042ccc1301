"""All settings of one training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

#: Where slices come from.
SLICERS = ("axes", "random", "learned")


@dataclass(frozen=True)
class Config:
    """One run. ``task`` and ``attention`` are names; all else has a default that trains in minutes on a CPU."""

    task: str
    attention: str = "esp"
    seed: int = 0
    epochs: int = 30
    batch: int = 64  # over all processes
    rate: float = 3e-3
    weight_decay: float = 0.01
    dim: int = 32
    depth: int = 2
    heads: int = 4
    dropout: float = 0.0
    fraction: float = 1.0  # of the training items, the same share of each class
    tau: float = 0.1  # of ESP attention
    beta: float = 1.0
    anneal: float = 1.0  # tau falls to this part of itself, geometrically over the epochs
    slicers: str = "axes"
    slices: int = 0  # random or learned ones a head; 0: as many as a head has coordinates
    start: str = ""  # a folder of a finished run whose weights to begin with

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "dim", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive whole number, got {getattr(self, name)!r}")
        for name, most in (("rate", math.inf), ("fraction", 1), ("tau", math.inf), ("beta", math.inf), ("anneal", 1)):
            value = getattr(self, name)
            if not 0 < value <= most or math.isinf(value):
                raise ValueError(f"{name}: expected a finite number in (0, {most:g}], got {value!r}")
        if self.slicers not in SLICERS:
            raise ValueError(f"slicers: expected one of {', '.join(SLICERS)}, got {self.slicers!r}")
        if self.seed < 0 or self.slices < 0:
            raise ValueError(f"seed, slices: expected whole numbers >= 0, got {self.seed!r}, {self.slices!r}")

    def name(self) -> str:
        """A short name for a folder: task, attention, what differs from the defaults, seed."""
        defaults = {field.name: field.default for field in fields(self)}
        changed = [
            f"{key}={value}"
            for key, value in asdict(self).items()
            if key not in ("task", "attention", "seed", "start") and value != defaults[key]
        ]
        swapped = ["started"] if self.start else []
        return "-".join([self.task, self.attention, *changed, *swapped, f"seed={self.seed}"])
