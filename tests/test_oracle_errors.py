"""Every chapter against its oracle, on the first of the problems of ``docs/records/oracles.json``."""

from __future__ import annotations

import importlib.util

import numpy as np
import oracle_errors
import pytest


@pytest.mark.parametrize("chapter", oracle_errors.CHAPTERS)
def test_chapter_agrees_with_its_oracle(chapter: str) -> None:
    """The largest error relative to the largest entry stays below what the record allows."""
    if chapter.startswith("nn") and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is missing: pip install 'espref[torch]'")
    assert oracle_errors.worst(chapter, 3) <= oracle_errors.CHAPTERS[chapter][2]


def test_difference_quotients() -> None:
    """Known derivative: with one query and one key the output is the value, whatever the scores are."""
    rng = np.random.default_rng(0)
    v, c = rng.normal(size=(1, 2)), rng.normal(size=(1, 2))
    assert abs(oracle_errors.difference_quotients(rng.normal(size=(2, 2)), 1, v, c, 0.3, False)).max() < 1e-30
