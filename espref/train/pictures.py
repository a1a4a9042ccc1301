"""Pictures of runs: learning curves, and attention matrices of the trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .._output import atomic
from ..plot import new_figure
from .config import Config
from .data import Data, collate
from .model import METRIC, build

Results = dict[str, dict[int, dict[str, Any]]]


def curves(path: Path, data: Data, results: Results, configs: dict[str, Config], out: Path) -> None:
    """Loss and metric against the epoch, a line a run, a colour a kind of attention."""
    figure, (left, right) = new_figure(9, 3.5, columns=2)
    metric = METRIC[data.task]
    for number, (kind, found) in enumerate(results.items()):
        for place, result in enumerate(found.values()):
            epochs = [line["epoch"] for line in result["history"]]
            label = kind if place == 0 else None
            left.plot(epochs, [line["loss"] for line in result["history"]], color=f"C{number}", label=label)
            right.plot(epochs, [line[metric] for line in result["history"]], color=f"C{number}")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel=f"{metric}, test, %")
    for ax in (left, right):
        ax.locator_params(axis="x", integer=True)
    left.legend()
    _save(figure, path)


@torch.no_grad()
def attention_maps(path: Path, data: Data, results: Results, configs: dict[str, Config], out: Path) -> None:
    """The last encoder layer's attention of each kind on the first test item, heads averaged."""
    batch = collate(data.task, [data.test[0]])
    figure, axes = new_figure(3 * len(configs), 3.6, columns=len(configs))
    for ax, (kind, config) in zip(axes, configs.items(), strict=True):
        model = build(data, config)
        checkpoint = out / config.name() / "checkpoint.pt"
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"])
        seen = last_attention(model.eval(), data, batch).numpy()
        ax.imshow(seen, cmap="cividis")
        ax.set(
            title=f"{kind}\n{seen.min():.2g} to {seen.max():.2g}", xlabel="keys", ylabel="queries", xticks=[], yticks=[]
        )
    _save(figure, path)


def last_attention(model: Any, data: Data, batch: Any) -> torch.Tensor:
    """(N, N), of the last encoder block."""
    seen: list[torch.Tensor] = []

    def look(module: Any, arguments: Any, keywords: Any) -> None:
        seen.append(module(*arguments, **{**keywords, "need_weights": True})[1][0])

    module = model.encoder.blocks[-1].attention
    handle = module.register_forward_pre_hook(_once(look), with_kwargs=True)
    try:
        from .model import predict

        predict(model, data.task, batch)
    finally:
        handle.remove()
    return seen[0]


def _once(look: Any) -> Any:
    """A hook that does not call itself."""
    busy: list[bool] = []

    def hook(*arguments: Any) -> None:
        if not busy:
            busy.append(True)
            look(*arguments)

    return hook


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as draft:
        figure.savefig(draft, format="png", dpi=120, facecolor="white")
