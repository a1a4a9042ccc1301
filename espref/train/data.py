"""What a task hands to a model: items, batches, padding."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Ids of every vocabulary.
PADDING, BEGIN, END, UNKNOWN = range(4)


class Codec:
    """Texts to ids and back, by characters or by words; what the vocabulary does not hold is UNKNOWN."""

    def __init__(self, texts: Iterable[str], *, words: bool = False, most: int | None = None) -> None:
        self.words = words
        counts = Counter(token for text in texts for token in self._split(text))
        self.tokens = sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:most]
        self.ids = {token: number for number, token in enumerate(self.tokens, UNKNOWN + 1)}

    def _split(self, text: str) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", text.lower()) if self.words else list(text)

    def __len__(self) -> int:
        return len(self.tokens) + UNKNOWN + 1

    def encode(self, text: str, longest: int | None = None) -> Tensor:
        """(n,) whole numbers, cut after ``longest``."""
        return torch.tensor([self.ids.get(token, UNKNOWN) for token in self._split(text)][:longest], dtype=torch.long)

    def decode(self, ids: Iterable[int], unknown: str = "\N{REPLACEMENT CHARACTER}") -> str:
        """The text up to the first END, ``unknown`` for each UNKNOWN; padding and BEGIN are left out."""
        found = []
        for number in ids:
            if number == END:
                break
            if number >= UNKNOWN:
                found.append(unknown if number == UNKNOWN else self.tokens[number - UNKNOWN - 1])
        return (" " if self.words else "").join(found)


class Data(NamedTuple):
    """A task: training and test items, and what a model for them must know.

    Items are (input, label); a translation's are (source, target), both without BEGIN and END.
    """

    task: str  # "image" (C, H, W) | "points" (n, F) | "text" (n,) | "translation" (n,), (m,)
    train: Any  # indexable, with a length: a list or a torch Dataset
    test: Any
    classes: tuple[str, ...]  # names of the labels; () for a translation
    settings: dict[str, int]  # arguments of the model
    codec: Codec | None = None  # of a translation's target


class Batch(NamedTuple):
    """A batch: padded inputs, their masks (True = padding), labels or padded targets."""

    inputs: Tensor  # (B, ...)
    padding: Tensor | None  # (B, N)
    labels: Tensor  # (B,) or (B, M)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """The batch on another device; inputs that are no whole numbers as ``dtype``."""
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


def _pad(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Parts (n, ...) filled up to the longest, and True where filled."""
    longest = max(max(len(part) for part in parts), 1)
    filled = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    filled = filled if filled.shape[1] else parts[0].new_zeros(len(parts), 1, *parts[0].shape[1:])
    lengths = torch.tensor([len(part) for part in parts])
    return filled, torch.arange(longest)[None] >= lengths[:, None]


def labels_of(data: Data) -> list[int] | None:
    """Labels of the training items, without opening their files; None for a translation."""
    if data.task == "translation":
        return None
    known = getattr(data.train, "labels", None)
    return list(known) if known is not None else [int(data.train[i][1]) for i in range(len(data.train))]


def subset(labels: Sequence[int] | None, size: int, fraction: float, seed: int) -> list[int]:
    """Indices of a share of the items, drawn with a seed; with labels, the same share of each class, at least one.

    Raises
    ------
    ValueError
        When the share is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: expected a number in (0, 1], got {fraction!r}")
    rng = np.random.default_rng([seed, 314159])
    if labels is None:
        return sorted(rng.permutation(size)[: max(1, round(fraction * size))].tolist())
    kept: list[int] = []
    classes = np.asarray(labels)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        kept += rng.permutation(members)[: max(1, round(fraction * len(members)))].tolist()
    return sorted(kept)
