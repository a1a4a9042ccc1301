"""Figures of runs: learning curves, and attention matrices of the trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .._output import atomic
from ..plot import house_style, new_figure
from .config import Config
from .data import Batch, Data, collate
from .model import METRIC, build, predict

#: What :func:`espref.train.loop.train` returned, by kind of attention and seed.
Results = dict[str, dict[int, dict[str, Any]]]


@house_style()
def curves(path: Path, task: str, results: Results) -> None:
    """Loss and metric by epoch: one line per run, one colour per kind of attention."""
    figure, (left, right) = new_figure(9, 3.5, columns=2)
    for color, (kind, by_seed) in enumerate(results.items()):
        for place, result in enumerate(by_seed.values()):
            epochs = [line["epoch"] for line in result["history"]]
            for ax, name in ((left, "loss"), (right, METRIC[task])):
                values = [line[name] for line in result["history"]]
                ax.plot(epochs, values, color=f"C{color}", label=kind if place == 0 else None)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel=f"{METRIC[task]}, test, %")
    for ax in (left, right):
        ax.locator_params(axis="x", integer=True)
    left.legend()
    _save(figure, path)


@torch.no_grad()
@house_style()
def attention_maps(path: Path, data: Data, configs: dict[str, Config], out: Path) -> None:
    """Attention of the last encoder block on the first test item, averaged over heads, for each kind of attention."""
    batch = collate(data.task, [data.test[0]])
    figure, axes = new_figure(3 * len(configs), 3.6, columns=len(configs))
    for ax, (kind, config) in zip(axes, configs.items(), strict=True):
        model = build(data, config)
        checkpoint = out / config.name() / "checkpoint.pt"
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"])
        matrix = last_attention(model.eval(), data, batch).numpy()
        low, high = matrix.min(), matrix.max()
        ax.imshow(matrix, cmap="cividis")
        ax.set(title=f"{kind}\n{low:.2g} to {high:.2g}", xlabel="keys", ylabel="queries", xticks=[], yticks=[])
    _save(figure, path)


def last_attention(model: Any, data: Data, batch: Batch) -> torch.Tensor:
    """The attention matrix (N, N) of the last encoder block on the first item, averaged over heads."""
    calls: list[tuple[Any, Any]] = []
    attention = model.encoder.blocks[-1].attention

    def remember(module: Any, arguments: Any, keywords: Any) -> None:
        calls.append((arguments, keywords))

    with attention.register_forward_pre_hook(remember, with_kwargs=True):
        predict(model, data.task, batch)
    arguments, keywords = calls[0]
    matrices: torch.Tensor = attention(*arguments, **{**keywords, "need_weights": True})[1]
    return matrices[0]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as draft:
        figure.savefig(draft, format="png", dpi=120, facecolor="white")
