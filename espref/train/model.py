"""The model of a task, its loss and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import EspAttention, transformer
from .config import Config
from .data import BEGIN, END, PADDING, Batch, Data

MODELS: dict[str, Callable[..., nn.Module]] = {
    "image": transformer.VisionTransformer,
    "points": transformer.SetTransformer,
    "text": transformer.TextTransformer,
    "translation": transformer.TranslationTransformer,
}
#: The kinds of ESP attention: their sort in training and in evaluation.
ESP = {"esp": ("soft", "soft"), "esp-balanced": ("balanced", "balanced"), "esp-hard-eval": ("soft", "hard")}


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


def attention(config: Config) -> str | Callable[[int, int], nn.Module]:
    """The name of the attention, or a constructor (dim, heads) of ESP attention with its settings."""
    if config.attention not in ESP:
        return config.attention
    sort, sort_in_eval = ESP[config.attention]

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
            sort_in_eval=sort_in_eval,
            directions=directions,
        )
        if config.slicers == "random" and module.directions is not None:
            module.directions.requires_grad_(False)
        return module

    return make


def predict(model: nn.Module, task: str, batch: Batch) -> Tensor:
    """Logits (B, classes); of a translation, of each next target token (B, M + 1, vocabulary), teacher-forced."""
    inputs: list[Tensor | None] = [batch.inputs, batch.padding]
    if task == "image":
        inputs = [batch.inputs]
    elif task == "translation":
        begin = batch.labels.new_full((len(batch.labels), 1), BEGIN)
        inputs.insert(1, torch.cat([begin, batch.labels], dim=1))
    logits: Tensor = model(*inputs)
    return logits


def loss(model: nn.Module, task: str, batch: Batch) -> Tensor:
    """Mean cross-entropy over the items; for a translation, of the means over the tokens of each and its END.

    Because it is a mean over items, the mean of processes with equal shares of a batch is that of one process.
    """
    logits = predict(model, task, batch)
    if task != "translation":
        return F.cross_entropy(logits, batch.labels)
    lengths = (batch.labels != PADDING).sum(1, keepdim=True)  # (B, 1)
    target = torch.cat([batch.labels, torch.zeros_like(lengths)], dim=1).scatter(1, lengths, END)  # (B, M + 1)
    positions = torch.arange(target.shape[1], device=target.device)
    losses = F.cross_entropy(logits.transpose(1, 2), target, reduction="none") * (positions <= lengths)
    return (losses.sum(1) / (lengths[:, 0] + 1)).mean()


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, batches: Sequence[Batch]) -> dict[str, float]:
    """Accuracy, or chrF, BLEU and exact matches of a translation, all in percent; and the mean loss."""
    model.eval()
    if data.task == "translation":
        metrics = _translation_metrics(model, data, batches)
    else:
        from torchmetrics.classification import MulticlassAccuracy

        accuracy = MulticlassAccuracy(len(data.classes), average="micro", sync_on_compute=False)
        for batch in batches:
            accuracy.update(predict(model, data.task, batch).argmax(-1).cpu(), batch.labels.cpu())
        metrics = {"accuracy": 100 * float(accuracy.compute())}
    count = sum(len(batch.labels) for batch in batches)
    metrics["test loss"] = sum(float(loss(model, data.task, b)) * len(b.labels) for b in batches) / count
    model.train()
    return metrics


def _translation_metrics(model: Any, data: Data, batches: Sequence[Batch]) -> dict[str, float]:
    import sacrebleu

    assert data.codec is not None
    words = data.codec.words
    guesses, truths = [], []
    for batch in batches:
        limit = data.settings["length"] - 1
        ids = model.translate(batch.inputs, batch.padding, begin=BEGIN, end=END, limit=limit)
        unknown = ("<unknown>",) if words else ()  # an unknown word in the reference is never guessed right
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
