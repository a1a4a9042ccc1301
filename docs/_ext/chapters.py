"""The chapters of the mathematics, in their order: module of espref -> title of its pages."""

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
    "solvers": "Solvers of POT",
    "nn": "PyTorch",
    "train": "Training",
}


def in_order(found: set[str]) -> list[str]:
    """Chapters in mathematical order, others after them."""
    return [*(chapter for chapter in CHAPTERS if chapter in found), *sorted(found - set(CHAPTERS))]


def title(chapter: str) -> str:
    return CHAPTERS.get(chapter, chapter.capitalize())
