"""API pages: every public name of a chapter, from its docstring.

The pages ``api/<chapter>.md`` are written before Sphinx reads its sources: one for each module that defines a name of
``espref.__all__``, and one for each module that needs an extra. ``{api-chapter}`` documents a module and all its public
names; a name without a docstring is a warning, and warnings fail the build. ``{api-index}`` lists all names.

Docstrings write mathematics as $...$ and $$...$$ and cite keys of the bibliography by their bare name; both are
translated here into reStructuredText.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import generated
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import espref
from espref.chapters import CHAPTERS, in_order, title

logger = logging.getLogger(__name__)
ROOT = Path(espref.__file__).parent.parent
#: Modules whose names are not in ``espref.__all__``, because they need an extra or are loaded on first use.
EXTRA = ("espref.solvers", "espref.nn", "espref.plot", "espref.claims")
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
    """A docstring with mathematics and citations translated to reStructuredText, and code literals left alone."""
    text = DISPLAY.sub(_display, text)
    parts = re.split(r"(``.+?``|^\s*>>>.*$|^\s*\.\.\. .*$)", text, flags=re.MULTILINE)
    for place in range(0, len(parts), 2):
        prose = re.split(INLINE, parts[place])  # prose, formula, prose, ...
        prose[::2] = [BIB_KEY.sub(r":cite:t:`\1`", piece.replace("|", r"\|")) for piece in prose[::2]]
        prose[1::2] = [f":math:`{' '.join(formula.split())}`" for formula in prose[1::2]]
        parts[place] = "".join(prose)
    return "".join(parts)


def field_comment(name: str) -> str:
    """The comment beside a field of a NamedTuple in the source; Python's own docstring only gives its number."""
    path, field = name.rsplit(".", 1)
    module, cls = path.rsplit(".", 1)
    source = inspect.getsource(getattr(importlib.import_module(module), cls))
    comment = re.search(rf"^\s+{field}:[^#\n]*#:?\s*(.+)$", source, re.M)
    return comment[1] if comment else ""


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Translate a docstring in place, and warn if there is none."""
    if what in ("attribute", "property") and lines and lines[0].startswith("Alias for field number"):
        lines[:] = [field_comment(name)]
    if not any(line.strip() for line in lines):
        if what == "method":  # an override of a documented method, for example
            return
        logger.warning("no docstring: %s", name)
    lines[:] = to_rst("\n".join(lines)).splitlines() + [""]


def _own(module: Any) -> list[str]:
    """The functions and classes defined in a module whose names do not begin with an underscore."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and callable(thing) and getattr(thing, "__module__", "") == module.__name__
    ]


def names_of(module: str) -> dict[str, Any]:
    """The public names on the page of ``module``, in order: full name -> object."""
    if module in EXTRA:
        namespace = importlib.import_module(module)
        names: dict[str, Any] = {}
        for name in getattr(namespace, "__all__", _own(namespace)):
            thing = getattr(namespace, name)
            if inspect.ismodule(thing):  # a public submodule: its own names
                inner = {other: getattr(thing, other) for other in getattr(thing, "__all__", _own(thing))}
                names |= {f"{module}.{name}.{other}": found for other, found in inner.items() if callable(found)}
            elif callable(thing):
                names[f"{module}.{name}"] = thing
        return names
    return {
        f"espref.{name}": getattr(espref, name)
        for name in espref.__all__
        if getattr(getattr(espref, name), "__module__", "") == module
    }


def modules() -> list[str]:
    """The modules that have a page, in the order of the mathematics."""
    pages = {getattr(getattr(espref, name), "__module__", "") for name in espref.__all__ if name != "__version__"}
    pages |= {module for module in EXTRA if getattr(importlib.util.find_spec(module), "origin", None)}
    return [f"espref.{chapter}" for chapter in in_order({module.removeprefix("espref.") for module in pages})]


def write_pages(app: Sphinx) -> None:
    """Write docs/api/<chapter>.md for each module."""
    folder = Path(app.srcdir) / "api"
    wanted = {}
    for module in modules():
        chapter = module.removeprefix("espref.")
        names = ", ".join(name.rpartition(".")[2] for name in names_of(module))
        description = f"{title(chapter)}: arguments, results, formulas and examples of {names} in {module}."
        wanted[folder / f"{chapter}.md"] = generated.page(f"{title(chapter)} (API)", description, "api-chapter", module)
    for old in set(folder.glob("*.md")) - set(wanted) - {folder / "index.md"}:
        old.unlink()
    for page, text in wanted.items():
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def tutorials_that_use(names: list[str]) -> dict[str, list[str]]:
    """Name -> the tutorials whose text contains it as a word."""
    pages = {page.stem: page.read_text() for page in sorted((ROOT / "tutorials").glob("[0-9]*.md"))}
    return {
        name: [stem for stem, text in pages.items() if re.search(rf"\b{name.rsplit('.', 1)[1]}\b", text)]
        for name in names
    }


class ApiChapter(SphinxDirective):
    """``{api-chapter} MODULE``: the docstring of a module, then its public names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        module = self.arguments[0]
        names = names_of(module)
        used = tutorials_that_use(list(names))
        lines = [f".. automodule:: {module}", ""]
        introduced, first = [module], [thing.__module__ for thing in names.values()]
        for name, thing in sorted(names.items(), key=lambda item: first.index(item[1].__module__)):
            if thing.__module__ not in introduced:
                introduced.append(thing.__module__)
                lines += [f".. automodule:: {thing.__module__}", ""]
            if inspect.isclass(thing):
                fields = ["   :undoc-members:"] if hasattr(thing, "_fields") else []
                if any(base.__name__ == "Module" for base in thing.__mro__):  # forward, from a class of espref.nn
                    fields.append("   :inherited-members: Module")
                lines += [f".. autoclass:: {name}", "   :members:", *fields, "   :member-order: bysource", ""]
            else:
                lines += [f".. autofunction:: {name}", ""]
            if used[name]:
                lines += ["   *Tutorials:* " + ", ".join(f":doc:`/tutorials/{stem}`" for stem in used[name]), ""]
        return self._rst(lines)

    def _rst(self, lines: list[str]) -> list[nodes.Node]:
        holder = nodes.container()
        text = StringList(["```{eval-rst}", *lines, "```"], source=self.get_source_info()[0])
        self.state.nested_parse(text, self.content_offset, holder)
        return holder.children


class ApiIndex(SphinxDirective):
    """``{api-index}``: a table of all public names, and the table of contents of the API pages."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        rows = ["| chapter | names |", "|---|---|"]
        pages: dict[bool, list[str]] = {True: [], False: []}
        for module in modules():
            chapter = module.removeprefix("espref.")
            names = ", ".join(f"{{py:obj}}`~{name}`" for name in names_of(module))
            rows.append(f"| [{title(chapter)}](/api/{chapter}.md) | {names} |")
            pages[chapter in CHAPTERS].append(f"{title(chapter)} <{chapter}>")
        lines = [*rows, "", "```{toctree}", ":hidden:", ":numbered: 1", "", *pages[True], "```"]
        lines += ["", "```{toctree}", ":hidden:", "", *pages[False], "```"]
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), self.content_offset, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    app.connect("builder-inited", write_pages, priority=1)
    app.add_directive("api-chapter", ApiChapter)
    app.add_directive("api-index", ApiIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
