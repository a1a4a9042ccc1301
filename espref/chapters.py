"""The chapters in the order of the mathematics: the one place where that order is written down.

A chapter is a module of ``espref``, and with the same name a module of ``espref.claims``, a test file and an API page.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Chapter -> title of its pages.
CHAPTERS = {
    "line": "The line",
    "directions": "Directions",
    "lift": "Lifting a slice",
    "expected": "Many slices",
    "circle": "The exact circle",
    "softsort": "Soft sorting",
    "softplan": "Soft plans",
    "attention": "Attention",
    "planfree": "Attention without plans",
    "solvers": "Exact and entropic solvers",
    "nn": "PyTorch",
    "train": "Training",
}

#: The chapters written in NumPy, which everything else is checked against.
NUMPY_CHAPTERS = tuple(name for name in CHAPTERS if name not in ("nn", "train"))


def in_order(names: Iterable[str]) -> list[str]:
    """Names of chapters in mathematical order, other names after them in alphabetical order."""
    known = list(CHAPTERS)
    return sorted(set(names), key=lambda name: (known.index(name) if name in CHAPTERS else len(known), name))


def title(chapter: str) -> str:
    """The title of a chapter's pages."""
    return CHAPTERS.get(chapter, chapter.capitalize())
