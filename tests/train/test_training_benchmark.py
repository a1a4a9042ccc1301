"""The suite ``transformers``: every kind trains, and the row is the ratio of medians."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
pytest.importorskip("lightning_fabric", reason="Lightning Fabric is missing: pip install 'espref[train]'")
from espref.train import benchmark  # noqa: E402
from espref.train.presets import PRESETS  # noqa: E402

SMALL = [
    benchmark.SHAPES[0]._replace(
        settings={"image_size": 8, "patch_size": 4, "channels": 3, "classes": 2}, size=(3, 8, 8)
    ),
    benchmark.SHAPES[1]._replace(settings={"source_vocabulary": 9, "target_vocabulary": 9, "length": 8}, size=(6,)),
]


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.task)
def test_rows_are_ratios_of_medians(shape: benchmark.Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two items and a set clock: softmax takes 1 s and each further kind one second more."""
    clock = itertools.count()

    def take(run) -> float:
        run()
        place = next(clock)
        return 1 + place % len(benchmark.KINDS) + 100 * (place < len(benchmark.KINDS))  # warming up is slow

    monkeypatch.setattr(benchmark, "batch_size", lambda: 2)
    monkeypatch.setattr(benchmark, "seconds", take)
    monkeypatch.setattr(benchmark, "_memory", lambda *_: 3.0)
    row = benchmark._compare(shape, narrow=True, compiled=False)
    place = benchmark.KINDS.index("esp") + 1
    assert row["measured"] == pytest.approx(1 / place)
    assert f"items per second: softmax 2.0, sinkhorn 1.0, differential 0.7, esp {2 / place:.1f}" in row["detail"]
    assert "MB: softmax 3" in row["detail"] and "bfloat16: " in row["name"]


def test_a_step_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trained weights move, in float32 and under bfloat16."""
    monkeypatch.setattr(benchmark, "batch_size", lambda: 2)
    adam = torch.optim.AdamW
    for shape, narrow in itertools.product(SMALL, (False, True)):
        parameters: list[torch.nn.Parameter] = []

        def remember(given, parameters=parameters, **options):
            parameters.extend(given)
            return adam(parameters, **options)

        monkeypatch.setattr(torch.optim, "AdamW", remember)
        run = benchmark.step(shape, "esp", narrow=narrow)
        before = [p.detach().clone() for p in parameters if p.requires_grad and p.ndim > 1]
        run()
        after = [p for p in parameters if p.requires_grad and p.ndim > 1]
        assert len(before) > 8 and not any(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_shapes_are_those_of_the_presets() -> None:
    """The image and the sentence have the sizes of the presets' models."""
    for shape in benchmark.SHAPES:
        assert shape.preset in PRESETS
    image, sentence = benchmark.SHAPES
    assert image.size == (3, image.settings["image_size"], image.settings["image_size"])
    assert sentence.size[0] + 2 == sentence.settings["length"]
