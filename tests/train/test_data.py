"""Embedded tasks, batches, vocabularies and subsets."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from espref.train.data import END, PADDING, UNKNOWN, Codec, Data, collate, labels_of, subset  # noqa: E402
from espref.train.embedded import EMBEDDED, LANGUAGES  # noqa: E402


@pytest.mark.parametrize("task", EMBEDDED)
def test_embedded_task(task: str) -> None:
    """The same items each time, training and test disjoint, every label in both parts, shapes as the model expects."""
    data, again = EMBEDDED[task](), EMBEDDED[task]()
    assert len(data.train) > 500 and len(data.test) > 100 and len(again.train) == len(data.train)
    for (x, y), (x2, y2) in zip(data.train[:50], again.train[:50], strict=True):
        assert torch.equal(x, x2) and torch.equal(torch.as_tensor(y), torch.as_tensor(y2))
    if data.task != "translation":
        assert {y for _, y in data.train} == {y for _, y in data.test} == set(range(len(data.classes)))
        assert labels_of(data) == [y for _, y in data.train]
    train, test = ({(x.numpy().tobytes(), str(y)) for x, y in part} for part in (data.train, data.test))
    assert len(train & test) <= (0 if task == "names" else 3)  # some of the small digits are identical
    batch = collate(data.task, [data.train[i] for i in range(8)])
    assert len(batch.inputs) == 8 and (batch.padding is None) == (task == "digits")


def test_languages_cannot_be_remembered() -> None:
    """At least twenty languages; no name has two of them; test names do not occur in training."""
    data = EMBEDDED["languages"]()
    assert len(LANGUAGES) >= 20 and len(data.classes) == len(LANGUAGES)
    names = [tuple(x.tolist()) for x, _ in data.train]
    assert len(set(names)) == len(names)
    known = [tuple(x.tolist()) for x, _ in data.test if UNKNOWN not in x.tolist()]
    assert not set(known) & set(names)


def test_names_are_english_and_german() -> None:
    """Decoded targets are German names of the CLDR."""
    data = EMBEDDED["names"]()
    assert data.codec is not None
    german = {data.codec.decode(y.tolist()) for _, y in data.train}
    assert {"Deutschland", "Frankreich"} & german


def test_codec() -> None:
    """Round trip; END stops; unknown characters are UNKNOWN; a limited vocabulary holds the most frequent words."""
    codec = Codec(["abba", "cab"])
    assert codec.decode(codec.encode("cabba").tolist()) == "cabba" and len(codec) == 3 + 4
    assert codec.encode("axb").tolist()[1] == UNKNOWN and codec.encode("abc", 2).shape == (2,)
    assert codec.decode([*codec.encode("ab").tolist(), END, *codec.encode("c").tolist()]) == "ab"
    words = Codec(["Ja, ja nein", "ja"], words=True, size=2)
    assert (
        words.tokens[0] == "ja" and len(words.tokens) == 2 and words.decode(words.encode("JA ja").tolist()) == "ja ja"
    )


def test_padding_is_marked() -> None:
    """Sets of one and three points: zeros and True where filled."""
    items = [(torch.ones(1, 2), 0), (torch.ones(3, 2), 1)]
    batch = collate("points", items)
    assert batch.inputs.shape == (2, 3, 2) and batch.padding.tolist() == [[False, True, True], [False] * 3]
    assert not batch.inputs[0, 1:].any() and batch.labels.tolist() == [0, 1]
    pair = collate(
        "translation", [(torch.tensor([5]), torch.tensor([6, 7])), (torch.tensor([5, 4]), torch.tensor([9]))]
    )
    assert pair.labels.tolist() == [[6, 7], [9, PADDING]]


def test_subsets_keep_the_classes() -> None:
    """The same fraction of each class, at least one item; seeded; the fraction 1 is everything."""
    labels = [0] * 100 + [1] * 50 + [2] * 4
    indices = subset(labels, 154, 0.1, seed=3)
    assert np.bincount([labels[i] for i in indices]).tolist() == [10, 5, 1]
    assert indices == subset(labels, 154, 0.1, seed=3) != subset(labels, 154, 0.1, seed=4)
    assert subset(labels, 154, 1.0, seed=0) == list(range(154)) and len(subset(None, 10, 0.25, seed=0)) == 2


def test_labels_need_no_files() -> None:
    """Items that list their labels are not opened."""

    class Closed(list):
        labels = (1, 0)

        def __getitem__(self, place):
            raise AssertionError("opened")

    assert labels_of(Data("image", Closed(), [], ("a", "b"), {})) == [1, 0]
