"""Claims about training, on scikit-learn's digits: measurements of small models, which say nothing about large ones."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..claims.ledger import claim

NEEDS: tuple[str, ...] = ("torch", "lightning_fabric", "torchmetrics", "sklearn")


@cache
def _accuracy(attention: str, **settings: Any) -> float:
    """Test accuracy in percent of a model with one layer, seed 0."""
    from .config import Config
    from .loop import train
    from .processes import make_fabric
    from .runs import load

    config = Config("digits", attention, depth=1, **settings)
    with tempfile.TemporaryDirectory() as folder:
        return float(train(load("digits"), config, Path(folder), make_fabric())["final"]["accuracy"])


@claim(
    "train.esp-learns-digits",
    kind="measurement",
    on="fixed",
    tolerance=70.0,
    sense="at least",
    needs=NEEDS,
    source="shahbazi2025espformer",
    statement=r"A vision transformer of one layer with ESP attention learns scikit-learn's digits, ten classes.",
    measured="test accuracy in percent after 10 epochs, seed 0",
)
def learns() -> float:
    """Trained when the claim is checked."""
    return _accuracy("esp", epochs=10)


@claim(
    "train.hard-evaluation-needs-annealing",
    kind="measurement",
    on="fixed",
    tolerance=2.0,
    sense="at least",
    needs=NEEDS,
    source="shahbazi2025espformer",
    statement=r"Trained soft at $\tau = 0.1$ and evaluated hard, the model loses accuracy against one whose $\tau$ "
    r"falls to a hundredth during training.",
    measured="difference in percentage points after 15 epochs, seed 0",
)
def annealing() -> float:
    """The hard sort is the limit of small tau; at tau = 0.1 it is another function than the one trained."""
    return _accuracy("esp-hard-eval", epochs=15, anneal=0.01) - _accuracy("esp-hard-eval", epochs=15)


@claim(
    "train.resumed-run-is-the-run",
    kind="property",
    on="fixed",
    tolerance=0.0,
    needs=NEEDS,
    source="",
    statement=r"A run that is stopped after its first epoch and resumed ends with the losses of the uninterrupted "
    r"run, bit for bit.",
    measured="largest difference of a loss or metric",
)
def resumed() -> float:
    """Data order and dropout depend on seed and epoch alone; weights, optimiser and scheduler are in the checkpoint."""
    from .config import Config
    from .loop import train
    from .processes import make_fabric
    from .runs import load

    class Stopped(Exception):
        pass

    def stop(epoch: int, line: dict[str, float]) -> None:
        raise Stopped

    data, fabric = load("digits"), make_fabric()
    config = Config("digits", "esp", dim=8, depth=1, epochs=3, fraction=0.2, dropout=0.1)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        whole = train(data, config, Path(first), fabric)["history"]
        with suppress(Stopped):
            train(data, config, Path(second), fabric, stop)
        again = train(data, config, Path(second), fabric)["history"]
    return float(max(abs(a[name] - b[name]) for a, b in zip(whole, again, strict=True) for name in a))
