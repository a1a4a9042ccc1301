"""Each tutorial and how-to page as a Jupyter notebook with its outputs, for download, without Sphinx's markup."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
from sphinx.application import Sphinx

#: Sphinx markup, and the Markdown that replaces it in Jupyter.
REPLACEMENTS = [
    (r"\{claim\}`([^`]+)`", r"`\1`"),
    (r"\{(?:py:)?(?:func|class|meth|obj|mod|attr)\}`~?([^`]+)`", r"`\1`"),
    (r"\{(?:doc|ref|numref|prf:ref|term)\}`([^`<]+?)(?:\s*<[^`]*)?`", r"*\1*"),
    (r"\{cite(?::[a-z]+)?\}`([^`]+)`", r"[\1]"),
    (r"(?ms)^(`{3,}|:{3,})\{exercise(?:-start)?\}[^\n]*\n(?::[a-z]+:[^\n]*\n)*(.*?)\n\1[ ]*$", r"**Exercise.**\n\2"),
    (r"(?ms)^(`{3,}|:{3,})\{solution-start\}[^\n]*\n(?::[a-z]+:[^\n]*\n)*\1[ ]*$", r"**Solution.**"),
    (r"(?ms)^(`{3,}|:{3,})\{(?:solution|exercise)-end\}[^\n]*\n\1[ ]*$", ""),
    (r"(?ms)^(`{3,}|:{3,})\{panel\}[^\n]*\n(.*?)\n\1[ ]*$", r"*On the site this is an interactive figure.* \2"),
    (r"(?m)^\(([\w-]+)\)=$", ""),
]


#: The folders whose pages are offered as notebooks, and what the link calls them.
FOLDERS = {"tutorials": "tutorial", "how-to": "page"}
LABELLED = re.compile(r"(?m)[ ]*\$\$[ ]*\(([\w-]+)\)$")


def resolve(markdown: str, equations: dict[str, int]) -> str:
    """A Markdown cell without Sphinx markup; ``equations`` gives the number of each labelled formula."""
    markdown = LABELLED.sub(lambda m: rf" \tag{{{equations[m[1]]}}}$$", markdown)
    markdown = re.sub(r"\{eq\}`([^`]+)`", lambda m: f"({equations.get(m[1], m[1])})", markdown)
    for pattern, replacement in REPLACEMENTS:
        markdown = re.sub(pattern, replacement, markdown)
    return markdown


def notebook_pages(folder: Path) -> list[Path]:
    """The sources of all notebooks."""
    return sorted(page for name in FOLDERS for page in (folder / name).glob("*.md") if page.stem != "index")


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    """Write a notebook beside each page: text from the tutorial, outputs from the notebook executed for the page."""
    if error or app.builder.format != "html":
        return
    for source in notebook_pages(Path(app.srcdir)):
        notebook = jupytext.read(source)
        equations = {label: k for k, label in enumerate(LABELLED.findall(source.read_text()), start=1)}
        executed = Path(app.outdir).parent / "jupyter_execute" / source.parent.name / f"{source.stem}.ipynb"
        cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
        code_cells = iter([cell for cell in cells if cell.cell_type == "code"])
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = resolve(cell.source, equations)
            elif (source_cell := next(code_cells, None)) is not None:
                cell.outputs, cell.execution_count = source_cell.outputs, source_cell.execution_count
            cell.metadata.pop("mystnb", None)
            if "hide-input" in cell.metadata.get("tags", []):
                cell.metadata["jupyter"] = {"source_hidden": True}  # folded in JupyterLab too
        nbformat.write(notebook, Path(app.outdir) / source.parent.name / f"{source.stem}.ipynb")


def offer(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add a link to the notebook at the end of each page that has one."""
    folder, _, name = docname.rpartition("/")
    if folder in FOLDERS and name != "index":
        source[0] += f'\n\n<p><a href="{name}.ipynb" download>This {FOLDERS[folder]} as a Jupyter notebook</a></p>\n'


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", offer)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
