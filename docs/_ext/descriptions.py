r"""Formulas in plain letters for the description of a page, which sphinxext-opengraph takes from its first lines.

``\beta`` becomes "beta". The page is written by then: only the description is made from what is changed here.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def plain(formula: str) -> str:
    r"""A formula without markup: ``O(n \log n)`` to "O(n log n)", ``\mathbf 1`` to "1"."""
    formula = re.sub(r"\\(?:mathrm|mathbf|mathcal|bar|hat|left|right|big|Big|bigl|bigr|lvert|rvert)\b", "", formula)
    formula = re.sub(r"\\[^A-Za-z]", " ", formula)
    return " ".join(re.sub(r"[{}]", "", formula.replace("\\", " ")).split())


def without_formulas(app: Sphinx, page: str, template: str, context: Any, doctree: nodes.document | None) -> None:
    """Replace the formulas of a page that has been written."""
    if doctree is None:
        return
    for formula in list(doctree.findall(nodes.math)):
        formula.parent.replace(formula, nodes.Text(plain(formula.astext())))
    for block in list(doctree.findall(nodes.math_block)):
        block.parent.remove(block)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", without_formulas, priority=100)  # before sphinxext-opengraph
    return {"parallel_read_safe": True, "parallel_write_safe": True}
