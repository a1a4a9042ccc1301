"""Citation: BibTeX from the package's one bibliography; CITATION.cff and codemeta.json valid and in step with it."""

import json
import re
import subprocess
import sys
from email.message import Message
from pathlib import Path

import citation_files
import pytest

import espref
from espref import _version, citation
from espref.citation import bibliography, cite, project

ROOT = Path(__file__).parent.parent


def test_default_is_the_package_and_its_two_papers():
    """Without keys: espref with its year, version and address, twice; the plan's paper, the attention's paper."""
    keys = re.findall(r"^@(\w+)\{(.+),$", cite(), flags=re.M)
    assert keys[:2] == [("software", "espref"), ("misc", "espref-misc")]
    assert [key for _, key in keys[2:]] == ["liu2025est", "shahbazi2025espformer"]
    assert f"version = {{{espref.__version__}}}" in cite("espref")
    assert f"note = {{Version {espref.__version__}}}" in cite("espref-misc")
    for key in ("espref", "espref-misc"):
        assert f"year = {{{_version.DATE[:4]}}}" in cite(key) and f"url = {{{project().repository}}}" in cite(key)


def test_given_keys_in_given_order():
    """The entries asked for, word for word as in references.bib, in the order asked."""
    text = (ROOT / "espref" / "references.bib").read_text(encoding="utf-8")
    first, second = cite("vaswani2017attention", "sinkhorn1967diagonal").split("\n\n")
    assert first.startswith("@") and "vaswani2017attention" in first and first in text and second in text


def test_bibliography_is_whole():
    """Every entry of the file is found, with balanced braces and the fields that a reader needs."""
    text = (ROOT / "espref" / "references.bib").read_text(encoding="utf-8")
    entries = bibliography()
    assert list(entries)[2:] == re.findall(r"^@\w+\{([^,]+),", text, flags=re.M)
    for key, entry in entries.items():
        assert entry.count("{") == entry.count("}") and entry.endswith("}"), key
        assert {"title", "author"} <= set(re.findall(r"^\s*(\w+) *=", entry, flags=re.M)), key


def test_unknown_key_lists_the_known():
    """A key that is none is refused with the keys that are."""
    with pytest.raises(
        ValueError, match=r"keys: expected keys among espref, espref-misc, liu2025est, .*, got 'nobody'"
    ):
        cite("liu2025est", "nobody")
    with pytest.raises(ValueError, match=r"got 'line\.marginals'; espref\.claims\.cite_claim cites claims"):
        cite("line.marginals")


def test_keys_named_in_docstrings_exist():
    """Each docstring's References section names keys of the bibliography only."""
    known, named = set(bibliography()), set()
    for path in (ROOT / "espref").rglob("*.py"):
        for section in re.findall(r"References\n\s*-+\n\s*(.+)", path.read_text(encoding="utf-8")):
            named |= set(re.findall(r"\b[a-z]+\d{4}[a-z]+\b", section))
    assert {"liu2025est", "mahey2023swgg"} <= named <= known


def test_every_entry_is_cited():
    """The bibliography holds what docstrings, claims, tutorials and pages cite, and nothing else."""
    pages = [*(ROOT / "espref").rglob("*.py"), *(ROOT / "tutorials").glob("*.md"), *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert [key for key in bibliography() if not re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", text)] == []


def test_authors_and_address_of_an_installed_package(monkeypatch, tmp_path):
    """Without pyproject.toml the metadata of the wheel says the same; a placeholder is not an address."""
    about = Message()
    about["Author"] = "The espref authors"
    about["Project-URL"] = "Changelog, https://example.org/changes"
    about["Project-URL"] = "Repository, https://example.org/espref"
    monkeypatch.setattr(citation, "__file__", str(tmp_path / "espref" / "citation.py"))
    monkeypatch.setattr(citation.metadata, "metadata", lambda name: about)
    assert project() == (("The espref authors",), "https://example.org/espref") and project().published
    assert not project()._replace(repository="https://example.invalid/espref").published


def test_persons_and_groups(monkeypatch):
    """A group keeps its name in braces, persons are joined as BibTeX joins them, and named apart in CITATION.cff."""
    monkeypatch.setattr(
        citation, "project", lambda: citation.Project(("Ada M. Lovelace", "The others"), "https://a.b/c")
    )
    assert "author = {Ada M. Lovelace and {The others}}" in cite("espref")
    assert citation_files.author("Ada M. Lovelace") == {"family-names": "Lovelace", "given-names": "Ada M."}


def test_files_are_in_step():
    """Both citation files are what `make citation` writes: version, date, authors, address, papers."""
    for path, text in citation_files.files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make citation"


def test_cff_is_valid():
    """CITATION.cff follows the schema of the Citation File Format, and asks to cite this software."""
    words = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.citation-file-format",
        "CITATION.cff",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    content = citation_files.citation()
    assert content["preferred-citation"]["type"] == "software" and content["version"] == _version.BASE
    assert content["preferred-citation"]["title"] == content["title"]
    titles = [reference["title"] for reference in content["references"]]
    assert titles[0] == "Expected Sliced Transport Plans" and titles[1].startswith("ESPFormer: Doubly-Stochastic")
    names = [person["family-names"] for person in content["references"][0]["authors"]]
    assert names == ["Liu", "Díaz Martín", "Bai", "Shahbazi", "Thorpe", "Aldroubi", "Kolouri"]


def test_codemeta_is_valid():
    """Every name in codemeta.json is a term of the CodeMeta 2.0 context, which lies beside this file (Apache-2.0)."""
    terms = json.loads((ROOT / "tests" / "codemeta-2.0.jsonld").read_text(encoding="utf-8"))["@context"]
    content = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    assert content.pop("@context") == "https://doi.org/10.5063/schema/codemeta-2.0"

    def check(value):
        if isinstance(value, dict):
            assert value.pop("@type") in terms and set(value) <= set(terms)
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert isinstance(value, str) and value

    check(content)
    assert content["version"] == _version.BASE and content["codeRepository"] == project().repository


@pytest.mark.parametrize(
    ("base", "commit", "version"),
    [
        ("0.2.0.dev0", "8e690e1", "0.2.0.dev0+g8e690e1"),
        ("0.2.0.dev0", "8e690e1+", "0.2.0.dev0+g8e690e1.dirty"),
        ("0.2.0.dev0", None, "0.2.0.dev0"),
        ("0.2.0", "8e690e1", "0.2.0"),
    ],
)
def test_version_of_a_build(base, commit, version):
    """Between releases a build names its commit; a release is its version."""
    assert _version.with_commit(base, commit) == version


def test_version_is_that_of_the_changelog():
    """The first section of CHANGELOG.md is about the version in espref/_version.py, dated once it is released."""
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)[1]
    base, development, _ = _version.BASE.partition(".dev")
    assert heading == (f"{base} (unreleased)" if development else f"{base} ({_version.DATE})")
