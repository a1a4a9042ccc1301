"""The model of a task, its loss and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import EspAttention, transformer
from .config import Config
from .data import BEGIN, END, PADDING, Batch, Data

MODELS = {
    "image": transformer.VisionTransformer,
    "points": transformer.SetTransformer,
    "text": transformer.TextTransformer,
    "translation": transformer.TranslationTransformer,
}


def build(data: Data, config: Config) -> nn.Module:
    """The transformer of a task with the attention of the configuration."""
    return MODELS[data.task](
        **data.settings,
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
        dropout=config.dropout,
        attention=attention(config),
    )


def attention(config: Config) -> Any:
    """A constructor (dim, heads): by name, ESP attention with the tau, beta and slicers of the configuration."""
    if config.attention not in transformer.ATTENTION:
        raise ValueError(f"attention: expected one of {', '.join(transformer.ATTENTION)}, got {config.attention!r}")
    if not config.attention.startswith("esp"):
        return config.attention
    sort = "balanced" if config.attention == "esp-balanced" else "soft"

    def make(dim: int, heads: int) -> nn.Module:
        directions, head = None, dim // heads
        if config.slicers != "axes":
            directions = F.normalize(torch.randn(config.slices or head, head), dim=-1)
        module = EspAttention(
            dim,
            heads,
            tau=config.tau,
            beta=config.beta,
            sort=sort,
            sort_in_eval="hard" if config.attention == "esp-hard-eval" else sort,
            directions=directions,
        )
        if config.slicers == "random" and module.directions is not None:
            module.directions.requires_grad_(False)
        return module

    return make


def predict(model: nn.Module, task: str, batch: Batch) -> Tensor:
    """Logits (B, classes), or of each next target token (B, M + 1, vocabulary), teacher-forced."""
    if task == "image":
        return model(batch.inputs)
    if task != "translation":
        return model(batch.inputs, batch.padding)
    begin = batch.labels.new_full((len(batch.labels), 1), BEGIN)
    return model(batch.inputs, torch.cat([begin, batch.labels], dim=1), batch.padding)


def loss(model: nn.Module, task: str, batch: Batch) -> Tensor:
    """Mean over items of the cross-entropy; of a translation, the mean over its tokens and END first.

    A mean of means, so that processes with equal shares of a batch average to what one process computes.
    """
    logits = predict(model, task, batch)
    if task != "translation":
        return F.cross_entropy(logits, batch.labels)
    lengths = (batch.labels != PADDING).sum(1, keepdim=True)  # (B, 1)
    goal = torch.cat([batch.labels, torch.zeros_like(lengths)], dim=1).scatter(1, lengths, END)  # (B, M + 1)
    places = torch.arange(goal.shape[1], device=goal.device)
    each = F.cross_entropy(logits.transpose(1, 2), goal, reduction="none") * (places <= lengths)
    return (each.sum(1) / (lengths[:, 0] + 1)).mean()


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, batches: Sequence[Batch]) -> dict[str, float]:
    """Metrics on all batches, in percent: accuracy; of a translation chrF and exact matches. And the mean loss."""
    model.eval()
    if data.task == "translation":
        found = _translations(model, data, batches)
    else:
        from torchmetrics.classification import MulticlassAccuracy

        accuracy = MulticlassAccuracy(len(data.classes), average="micro", sync_on_compute=False)
        for batch in batches:
            accuracy.update(predict(model, data.task, batch).argmax(-1).cpu(), batch.labels.cpu())
        found = {"accuracy": 100 * float(accuracy.compute())}
    count = sum(len(batch.labels) for batch in batches)
    found["test loss"] = sum(float(loss(model, data.task, b)) * len(b.labels) for b in batches) / count
    model.train()
    return found


def _translations(model: Any, data: Data, batches: Sequence[Batch]) -> dict[str, float]:
    import sacrebleu

    assert data.codec is not None
    words = data.codec.words
    guesses, truths = [], []
    for batch in batches:
        limit = data.settings["length"] - 1
        ids = model.translate(batch.inputs, batch.padding, begin=BEGIN, end=END, limit=limit)
        unknown = ("<unknown>",) if words else ()  # a word that is not in the vocabulary is never a right guess
        guesses += [data.codec.decode(row, *unknown) for row in ids.tolist()]
        truths += [data.codec.decode(row) for row in batch.labels.tolist()]
    exact = sum(guess == truth for guess, truth in zip(guesses, truths, strict=True))
    return {
        "chrF": sacrebleu.corpus_chrf(guesses, [truths]).score,
        "BLEU" if words else "BLEU of characters": sacrebleu.corpus_bleu(
            guesses, [truths], tokenize="none" if words else "char"
        ).score,
        "exact": 100 * exact / len(truths),
    }


#: The metric by which runs of a task are compared: larger is better.
METRIC = {"image": "accuracy", "points": "accuracy", "text": "accuracy", "translation": "chrF"}
