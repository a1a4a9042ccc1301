"""The data of a task: items, vocabularies, padded batches, subsets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: The ids that every vocabulary reserves.
PADDING, BEGIN, END, UNKNOWN = range(4)


class Codec:
    """Texts to ids and back, by characters or by words; tokens outside the vocabulary are UNKNOWN.

    The vocabulary holds the tokens of ``texts``, the most frequent first, at most ``size`` of them.
    """

    def __init__(self, texts: Iterable[str], *, words: bool = False, size: int | None = None) -> None:
        self.words = words
        counts = Counter(token for text in texts for token in self._split(text))
        self.tokens = sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:size]
        self.ids = {token: place for place, token in enumerate(self.tokens, UNKNOWN + 1)}

    def _split(self, text: str) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", text.lower()) if self.words else list(text)

    def __len__(self) -> int:
        return len(self.tokens) + UNKNOWN + 1

    def encode(self, text: str, length: int | None = None) -> Tensor:
        """The ids (n,) of the first ``length`` tokens, by default of all."""
        return torch.tensor([self.ids.get(token, UNKNOWN) for token in self._split(text)][:length], dtype=torch.long)

    def decode(self, ids: Iterable[int], unknown: str = "\N{REPLACEMENT CHARACTER}") -> str:
        """The text up to the first END, with ``unknown`` for each UNKNOWN; padding and BEGIN are left out."""
        vocabulary = [unknown, *self.tokens]
        text = [vocabulary[i - UNKNOWN] for i in takewhile(lambda i: i != END, ids) if i >= UNKNOWN]
        return (" " if self.words else "").join(text)


class Data(NamedTuple):
    """Training and test items of a task, and the arguments of a model for them.

    Items are (input, label); of a translation (source, target), both without BEGIN and END.
    """

    task: str  # "image" (C, H, W) | "points" (n, F) | "text" (n,) | "translation" (n,), (m,)
    train: Any  # indexable, with a length: a list or a torch Dataset
    test: Any
    classes: tuple[str, ...]  # names of the labels; () for a translation
    settings: dict[str, int]  # arguments of the model
    codec: Codec | None = None  # of the target, for a translation


class Batch(NamedTuple):
    """A batch: padded inputs, their masks (True = padding), labels or padded targets."""

    inputs: Tensor  # (B, ...)
    padding: Tensor | None  # (B, N)
    labels: Tensor  # (B,) or (B, M)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """The batch on another device; floating-point inputs as ``dtype``."""
        padding = None if self.padding is None else self.padding.to(device)
        inputs = self.inputs.to(device, dtype if self.inputs.is_floating_point() else None)
        return Batch(inputs, padding, self.labels.to(device))


def collate(task: str, items: Sequence[tuple[Any, Any]]) -> Batch:
    """Items of one task as a batch."""
    inputs, labels = zip(*items, strict=True)
    if task == "image":
        return Batch(torch.stack(inputs), None, torch.tensor(labels))
    if task == "translation":
        return Batch(*_pad(inputs), _pad(labels)[0])
    return Batch(*_pad(inputs), torch.tensor(labels))


def _pad(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors (n, ...) filled up with zeros to the longest, at least 1, and True where filled."""
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    filled = torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True)
    if not filled.shape[1]:
        filled = filled.new_zeros(len(tensors), 1, *filled.shape[2:])
    return filled, torch.arange(filled.shape[1]) >= lengths[:, None]


def labels_of(data: Data) -> list[int] | None:
    """Labels of the training items, without opening files where the items list them; None for a translation."""
    if data.task == "translation":
        return None
    labels = getattr(data.train, "labels", None)
    return list(labels) if labels is not None else [int(label) for _, label in data.train]


def subset(labels: Sequence[int] | None, size: int, fraction: float, seed: int) -> list[int]:
    """Indices of a random fraction of the items; with labels, the same fraction of each class, at least one item."""
    rng = np.random.default_rng([seed, 314159])
    classes = np.zeros(size, dtype=np.int64) if labels is None else np.asarray(labels)
    indices: list[int] = []
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        indices += rng.permutation(members)[: max(1, round(fraction * len(members)))].tolist()
    return sorted(indices)
