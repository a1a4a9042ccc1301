"""Settings of the paper's experiments, as far as they are known; the others are our defaults."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .data import Data
from .paper import LOADERS, mnist


class Preset(NamedTuple):
    """A task, the loader of its data, settings of :class:`espref.train.config.Config`, and their source."""

    task: str
    load: Callable[[Path], Data]
    settings: dict[str, Any]
    source: str


_VIT = {"dim": 128, "depth": 1, "heads": 4, "rate": 1e-3}
_MNIST = "one-layer ViT with the paper's dimension and patch size; heads, rate and epochs are ours"
_OWN = "the paper's data and fractions; model size, rate and epochs are ours"
_SIZE = {"dim": 128, "depth": 2, "heads": 4, "rate": 5e-4}

PRESETS: dict[str, Preset] = {
    "mnist-patch-14": Preset("mnist", partial(mnist, patch_size=14), {**_VIT, "epochs": 20}, _MNIST),
    "mnist-patch-28": Preset("mnist", partial(mnist, patch_size=28), {**_VIT, "epochs": 20}, _MNIST),
    **{
        f"cats-and-dogs-{share}": Preset(
            "cats-and-dogs", LOADERS["cats-and-dogs"], {**_SIZE, "epochs": 50, "fraction": share / 100}, _OWN
        )
        for share in (1, 10, 25, 100)
    },
    "modelnet40": Preset("modelnet40", LOADERS["modelnet40"], {**_SIZE, "epochs": 50, "batch": 32}, _OWN),
    "imdb": Preset("imdb", LOADERS["imdb"], {**_SIZE, "epochs": 10, "batch": 32}, _OWN),
    "tweeteval": Preset("tweeteval", LOADERS["tweeteval"], {**_SIZE, "epochs": 10}, _OWN),
    "iwslt14": Preset("iwslt14", LOADERS["iwslt14"], {**_SIZE, "depth": 4, "epochs": 20}, _OWN),
}
