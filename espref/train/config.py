"""All settings of one training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

#: Where the directions of ESP attention come from.
SLICERS = ("axes", "random", "learned")


def _setting(default: Any, text: str) -> Any:
    """A field with a default, and the help text of its option."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """One run; the defaults train in minutes on a CPU."""

    task: str
    attention: str = "esp"
    seed: int = 0
    epochs: int = _setting(30, "passes over the training items")
    batch: int = _setting(64, "items per step, over all processes")
    rate: float = _setting(3e-3, "peak learning rate")
    weight_decay: float = _setting(0.01, "of AdamW")
    dim: int = _setting(32, "width of the model")
    depth: int = _setting(2, "number of blocks")
    heads: int = _setting(4, "attention heads of a block")
    dropout: float = _setting(0.0, "dropout probability")
    fraction: float = _setting(1.0, "of the training items, the same of each class")
    tau: float = _setting(0.1, "ESP: temperature of the soft sort")
    beta: float = _setting(1.0, "ESP: inverse temperature over slices")
    anneal: float = _setting(1.0, "ESP: tau decays geometrically over the epochs to this multiple of itself")
    slicers: str = _setting("axes", f"ESP: directions, one of {', '.join(SLICERS)}")
    slices: int = _setting(0, "ESP: random or learned directions per head, 0 for as many as a head has coordinates")
    start: str = _setting("", "folder of a finished run whose weights to start from")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "dim", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive whole number, got {getattr(self, name)!r}")
        for name in ("rate", "tau", "beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a positive finite number, got {getattr(self, name)!r}")
        for name in ("fraction", "anneal"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in (0, 1], got {getattr(self, name)!r}")
        if self.slicers not in SLICERS:
            raise ValueError(f"slicers: expected one of {', '.join(SLICERS)}, got {self.slicers!r}")
        if self.seed < 0 or self.slices < 0:
            raise ValueError(f"seed, slices: expected whole numbers >= 0, got {self.seed!r}, {self.slices!r}")

    def name(self) -> str:
        """A name for the folder: task, attention, the settings that differ from the defaults, seed."""
        defaults = {setting.name: setting.default for setting in fields(self)}
        changed = [
            f"{key}={value}"
            for key, value in asdict(self).items()
            if key not in ("task", "attention", "seed", "start") and value != defaults[key]
        ]
        started = ["started"] if self.start else []
        return "-".join([self.task, self.attention, *changed, *started, f"seed={self.seed}"])
