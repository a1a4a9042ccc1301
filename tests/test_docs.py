"""The sources of the site, checked without building it: what they refer to must exist."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
import re
import sys
from pathlib import Path

import pytest

import espref
import espref.claims
import espref.train.claims  # the claims about training
from espref.benchmarks.records import committed
from espref.citation import bibliography
from espref.claims.ledger import LEDGER

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.md"))
HOW_TO = sorted(set((ROOT / "docs" / "how-to").glob("*.md")) - {ROOT / "docs" / "how-to" / "index.md"})
PAGES = [
    *TUTORIALS,
    *HOW_TO,
    *ROOT.glob("tutorials/index.md"),
    *ROOT.glob("docs/how-to/index.md"),
    *ROOT.glob("docs/*.md"),
]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
tutorials = pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
how_to = pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
notebooks = pytest.mark.parametrize("page", [*TUTORIALS, *HOW_TO], ids=lambda page: page.stem)


def cells(page: Path) -> list[str]:
    """The code cells of a tutorial, with their metadata."""
    return re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def code(cell: str) -> str:
    """A cell without its metadata."""
    return re.sub(r"\A(---\n.*?^---\n|(:[^\n]*\n)+)", "", cell, flags=re.DOTALL | re.MULTILINE)


@pages
def test_claims_exist(page: Path) -> None:
    """Every claim a page names is in the ledger."""
    assert set(re.findall(r"\{claim\}`([^`]+)`", page.read_text())) <= set(LEDGER)


@pages
def test_citations_exist(page: Path) -> None:
    """Every citation names a key of the bibliography."""
    cited = re.findall(r"\{(?:foot)?cite[:a-z]*\}`([^`]+)`", page.read_text())
    named = {key.strip() for keys in cited for key in keys.split(",")}
    assert named <= set(bibliography())


@pages
def test_documents_exist(page: Path) -> None:
    """Every page that is linked exists."""
    for target in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", page.read_text()):
        base = page.parent.name if page.parent.name in ("tutorials", "how-to") else ""
        path = os.path.normpath(target.removeprefix("/") if target.startswith("/") else f"{base}/{target}").lstrip("/")
        folder = ROOT if path.startswith("tutorials/") else ROOT / "docs"
        assert (folder / f"{path}.md").exists(), target


@tutorials
def test_tutorial_has_its_parts(page: Path) -> None:
    """Header, title, figure style, a check, an exercise with its solution, a figure with its description, a summary."""
    text = page.read_text()
    assert text.startswith("---\njupytext:\n") and "kernelspec:" in text
    assert re.search(r"^# \d+\. ", text, re.MULTILINE), "title with the number of the tutorial"
    assert 'plt.style.use("espref.figures")' in text
    for part in ("assert ", "{exercise}", "{solution-start}", ":class: dropdown", "## Where we stand"):
        assert part in text, part
    for word in ("**Proven", "**Measured", "**Open"):
        assert word in text.split("## Where we stand")[1], word
    assert text.count("{exercise}") + text.count("{exercise-start}") == text.count("{solution-start}")
    assert text.count("  figure:") == text.count("    alt:") > 0, "every figure has an alternative text"


@tutorials
def test_tutorial_names_a_claim(page: Path) -> None:
    """Every tutorial refers to the ledger."""
    assert "{claim}`" in page.read_text()


@notebooks
def test_markdown_output_is_parsed(page: Path) -> None:
    """Markdown that a cell outputs is read as MyST, because the default reader of the site cannot read tables."""
    for cell in cells(page):
        assert "\nMarkdown(" not in cell or "markdown_format: myst" in cell


@notebooks
def test_code_is_narrow(page: Path) -> None:
    """Code fits the column of text on the site: at most 76 characters."""
    assert [line for cell in cells(page) for line in code(cell).splitlines() if len(line) > 76] == []


@notebooks
def test_records_are_committed(page: Path) -> None:
    """Every record that a tutorial reads is in docs/records; without it the cell would be empty on the site."""
    for pattern in re.findall(r"committed\(\"([^\"]+)\"\)", page.read_text()):
        assert committed(pattern), pattern


@notebooks
def test_notebooks_are_plain_markdown(page: Path) -> None:
    """The notebook offered for download contains no markup that only Sphinx can read."""
    for package in ("sphinx", "jupytext", "nbformat"):
        pytest.importorskip(package)
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        extension = importlib.import_module("notebooks")
    finally:
        sys.path.pop(0)
    labels = dict.fromkeys(extension.LABELLED.findall(page.read_text()), 1)
    for cell in extension.jupytext.read(page).cells:
        if cell.cell_type == "markdown":
            markdown = extension.resolve(cell.source, labels)
            assert not re.search(r"\{[a-z:]+\}`|^(:::|```)\{", markdown, re.MULTILINE), markdown


@how_to
def test_how_to_page_has_its_parts(page: Path) -> None:
    """Header, a title, code; every figure is described; the index names the page in its table and its contents."""
    text = page.read_text()
    assert text.startswith("---\njupytext:\n") and "kernelspec:" in text
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)) == 1
    assert cells(page) and len(text.splitlines()) < 110, "short"
    assert text.count("  figure:") == text.count("    alt:") == len(re.findall(r"plt\.(?:subplots|figure)\(", text))
    index = (page.parent / "index.md").read_text()
    assert f"[]({page.name})" in index and f"\n{page.stem}\n" in index


def test_photographs_are_credited() -> None:
    """A page that shows a photograph of scikit-learn names who made it, and the licence."""
    shown = [page for page in PAGES if "load_sample_image" in page.read_text()]
    assert shown
    for page in shown:
        assert all(word in page.read_text() for word in ("danielbuechele", "vultilion", "CC BY 2.0")), page


def test_extras_are_described() -> None:
    """The install page says of each extra what it is for."""
    for package in ("sphinx", "torch"):
        pytest.importorskip(package)
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        tables = importlib.import_module("tables")
    finally:
        sys.path.pop(0)
    assert set(tables.EXTRAS) == set(tables.project()["optional-dependencies"])


def broken_formulas(text: str) -> list[str]:
    """Lines that begin within a formula and that Markdown takes for a list, a quotation or a heading."""
    lines = re.sub(r"^```\{code-cell\}.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    marker = re.compile(r"\s*([-+*>#=]|\d+\.)\s")
    pairs = itertools.pairwise(lines)
    return [line for above, line in pairs if above.replace("$$", "").count("$") % 2 and marker.match(line)]


def test_formulas_are_not_broken() -> None:
    """No formula, on a page or in the ledger, continues on a line that Markdown reads as something else."""
    assert broken_formulas("at $(1\n- t) x$") == ["- t) x$"]
    texts = [page.read_text() for page in PAGES]
    for entry in LEDGER.values():
        texts += [entry.statement, entry.proof, *((companion.check.__doc__ or "") for companion in entry.companions)]
    assert [line for text in texts for line in broken_formulas(text)] == []


def test_labels_are_unique() -> None:
    """Labels of equations, figures and exercises are unique on the whole site."""
    text = "\n".join(page.read_text() for page in PAGES)
    labels = re.findall(r"\$\$ \(([\w-]+)\)$|^:label: ([\w-]+)$|^    name: ([\w-]+)$", text, re.MULTILINE)
    flat = ["".join(label) for label in labels]
    assert sorted(set(flat)) == sorted(flat)


def test_public_names_are_documented() -> None:
    """Every public name has a docstring, from which the API pages are made."""
    for name in espref.__all__:
        thing = getattr(espref, name)
        assert name == "__version__" or inspect.getdoc(thing), name


def test_docstrings_cite_known_keys() -> None:
    """Docstrings cite keys of the bibliography under "References"."""
    known = set(bibliography())
    for name in espref.__all__:
        references = re.split(r"References\s*\n\s*-+\n", inspect.getdoc(getattr(espref, name)) or "")[1:]
        for key in re.findall(r"\b[a-z]+(?:19|20)\d\d[a-z]+\b", " ".join(references)):
            assert key in known, (name, key)


def test_sources_of_claims_are_known() -> None:
    """Every source of a claim is a key of the bibliography."""
    for entry in LEDGER.values():
        assert {key.strip() for key in entry.source.split(",") if key.strip()} <= set(bibliography()), entry.id


def test_anchors_of_claims_are_unique() -> None:
    """Every claim has its own anchor on the ledger's pages, and a chapter with a page."""
    anchors = [re.sub(r"[^a-z0-9]+", "-", identifier.lower()) for identifier in LEDGER]
    assert len(set(anchors)) == len(LEDGER)
    assert all(re.fullmatch(r"[a-z]+\.[a-z0-9-]+", identifier) for identifier in LEDGER)


@pages
def test_measured_numbers_are_recorded(page: Path) -> None:
    """A number that a page takes from a record is in that record."""
    for text in re.findall(r"\{measured\}`([^`]+)`", page.read_text()):
        record, name, unit = (part.strip() for part in text.split("|"))
        rows = committed(record)[record]["rows"]
        assert any(row["name"] == name and unit in (row["unit"], "number", "detail") for row in rows), text
