"""The suite ``transformers``: every kind takes its steps, and the row is the ratio of medians."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from espref.train import benchmark as transformers  # noqa: E402
from espref.train.presets import PRESETS  # noqa: E402

SMALL = [
    transformers.SHAPES[0]._replace(
        settings={"image_size": 8, "patch_size": 4, "channels": 3, "classes": 2}, size=(3, 8, 8)
    ),
    transformers.SHAPES[1]._replace(settings={"source_vocabulary": 9, "target_vocabulary": 9, "length": 8}, size=(6,)),
]


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.task)
def test_rows_are_ratios_of_medians(shape: transformers.Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two items a batch, with the clock set: softmax takes 1 s, each further kind a second more, rounds add up."""
    clock = itertools.count()

    def take(run) -> float:
        run()
        place = next(clock)
        return 1 + place % len(transformers.KINDS) + 100 * (place < len(transformers.KINDS))  # warming up is slow

    monkeypatch.setattr(transformers, "batch_size", lambda: 2)
    monkeypatch.setattr(transformers, "seconds", take)
    monkeypatch.setattr(transformers, "_memory", lambda *_: 3.0)
    found = transformers._compare(shape, narrow=True, compiled=False)
    place = transformers.KINDS.index("esp") + 1
    assert found["measured"] == pytest.approx(1 / place)
    assert f"softmax 2.0, sinkhorn 1.0, differential 0.7, esp {2 / place:.1f}" in found["detail"]
    assert "MB: softmax 3" in found["detail"] and "bfloat16: " in found["name"]


def test_a_step_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trained weights move, in float32 and under bfloat16."""
    monkeypatch.setattr(transformers, "batch_size", lambda: 2)
    adam = torch.optim.AdamW
    for shape, narrow in itertools.product(SMALL, (False, True)):
        kept: list[torch.nn.Parameter] = []
        monkeypatch.setattr(torch.optim, "AdamW", lambda p, kept=kept, **o: adam(kept.extend(p) or kept, **o))
        run = transformers.step(shape, "esp", narrow=narrow)
        before = [p.detach().clone() for p in kept if p.requires_grad and p.ndim > 1]
        run()
        after = [p for p in kept if p.requires_grad and p.ndim > 1]
        assert len(before) > 8 and not any(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_shapes_are_those_of_the_presets() -> None:
    """The image and the sentence that a preset's loader hands over fit its model."""
    for shape in transformers.SHAPES:
        assert shape.preset in PRESETS
    image, sentence = transformers.SHAPES
    assert image.size == (3, image.settings["image_size"], image.settings["image_size"])
    assert sentence.size[0] + 2 == sentence.settings["length"]
