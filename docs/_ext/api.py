"""API pages: every public name of a chapter, from its docstring.

``{api-chapter} line`` documents the chapter's module and those of its names that ``espref.__all__`` lists, so no public
name can be forgotten; a public name without docstring, or of no chapter that has a page, is a warning, and fails the
build. Docstrings write mathematics as $...$ and $$...$$ and cite bib keys by their bare name; both are turned here into
what Sphinx reads.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import espref

logger = logging.getLogger(__name__)
ROOT = Path(espref.__file__).parent.parent
BIB_KEY = re.compile(
    r"(?<![\w`])("
    + "|".join(re.findall(r"@\w+\{(\w+),", (ROOT / "espref" / "references.bib").read_text()))
    + r")(?!\w)"
)
INLINE = re.compile(r"(?<![\\$\w])\$(?!\s)([^$]+?)(?<!\s)\$(?!\d)")
DISPLAY = re.compile(r"^([ ]*)(.*?)\$\$(.+?)\$\$[ ]*([.,;]?)", re.DOTALL | re.MULTILINE)


def _display(match: re.Match[str]) -> str:
    indent, before, formula, stop = match.groups()
    body = "\n".join(f"{indent}   {line.strip()}" for line in formula.strip().splitlines())
    return f"{indent}{before}\n\n{indent}.. math::\n\n{body}{stop}\n\n{indent}"


def to_rst(text: str) -> str:
    """Docstring to reStructuredText: mathematics and citations. Code literals are left alone."""
    text = DISPLAY.sub(_display, text)
    parts = re.split(r"(``.+?``|^\s*>>>.*$|^\s*\.\.\. .*$)", text, flags=re.MULTILINE)
    for place in range(0, len(parts), 2):
        prose = re.split(INLINE, parts[place])  # prose, formula, prose, ...
        prose[::2] = [BIB_KEY.sub(r":cite:t:`\1`", piece.replace("|", r"\|")) for piece in prose[::2]]
        prose[1::2] = [f":math:`{' '.join(formula.split())}`" for formula in prose[1::2]]
        parts[place] = "".join(prose)
    return "".join(parts)


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    if not any(line.strip() for line in lines):
        logger.warning("no docstring: %s", name)
    lines[:] = to_rst("\n".join(lines)).splitlines() + [""]


def public_names(package: str, module: str) -> list[str]:
    """Names of ``package.__all__`` that ``module`` defines, in the order of ``__all__``."""
    namespace = importlib.import_module(package)
    return [name for name in namespace.__all__ if getattr(getattr(namespace, name), "__module__", "") == module]


def tutorials_that_use(names: list[str]) -> dict[str, list[str]]:
    """Name -> the tutorials whose text contains it as a word."""
    pages = {page.stem: page.read_text() for page in sorted((ROOT / "tutorials").glob("[0-9]*.md"))}
    return {name: [stem for stem, text in pages.items() if re.search(rf"\b{name}\b", text)] for name in names}


class ApiChapter(SphinxDirective):
    """``{api-chapter} MODULE [PACKAGE]``: names of PACKAGE (espref unless given) that MODULE defines."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        package = self.arguments[1] if len(self.arguments) > 1 else "espref"
        names = public_names(package, module)
        lines = [f".. automodule:: {module}", ""]
        used = tutorials_that_use(names)
        for name in names:
            thing = getattr(importlib.import_module(package), name)
            if inspect.isclass(thing):
                lines += [f".. autoclass:: {package}.{name}", "   :members:", "   :undoc-members:", ""]
            else:
                lines += [f".. autofunction:: {package}.{name}", ""]
            if used[name]:
                lines += ["   *Tutorials:* " + ", ".join(f":doc:`/tutorials/{stem}`" for stem in used[name]), ""]
        self.env.note_reread()
        documented = self.env.metadata[self.env.docname].setdefault("api_names", "")
        self.env.metadata[self.env.docname]["api_names"] = " ".join([documented, *names]).strip()
        return self._rst(lines)

    def _rst(self, lines: list[str]) -> list[nodes.Node]:
        holder = nodes.container()
        text = StringList(["```{eval-rst}", *lines, "```"], source=self.get_source_info()[0])
        self.state.nested_parse(text, self.content_offset, holder)
        return holder.children


def complete(app: Sphinx, env: Any) -> None:
    """Every public name of espref stands on an API page."""
    documented = {name for page in env.metadata.values() for name in page.get("api_names", "").split()}
    missing = sorted(set(espref.__all__) - documented - {"__version__"})
    if missing:
        logger.warning("public names on no API page: %s", ", ".join(missing))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    app.connect("env-check-consistency", complete)
    app.add_directive("api-chapter", ApiChapter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
