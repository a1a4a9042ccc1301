"""Citation: BibTeX from the package's one bibliography, and CITATION.cff in step with it."""

import re
from pathlib import Path

import pytest

import espref
from espref.citation import bibliography, cite

ROOT = Path(__file__).parent.parent


def test_default_is_the_package_and_its_two_papers():
    """Without keys: espref with its year and version, the plan's paper, the attention's paper."""
    keys = re.findall(r"^@\w+\{(.+),$", cite(), flags=re.M)
    assert keys == ["espref", "liu2025est", "shahbazi2025espformer"]
    assert f"version = {{{espref.__version__}}}" in cite() and re.search(r"year = \{\d{4}\}", cite("espref"))


def test_given_keys_in_given_order():
    """The entries asked for, word for word as in references.bib, in the order asked."""
    text = (ROOT / "espref" / "references.bib").read_text(encoding="utf-8")
    first, second = cite("vaswani2017attention", "sinkhorn1967diagonal").split("\n\n")
    assert first.startswith("@") and "vaswani2017attention" in first and first in text and second in text


def test_bibliography_is_whole():
    """Every entry of the file is found, with balanced braces and the fields that a reader needs."""
    text = (ROOT / "espref" / "references.bib").read_text(encoding="utf-8")
    entries = bibliography()
    assert list(entries)[1:] == re.findall(r"^@\w+\{([^,]+),", text, flags=re.M)
    for key, entry in entries.items():
        assert entry.count("{") == entry.count("}") and entry.endswith("}"), key
        assert {"title", "author"} <= set(re.findall(r"^\s*(\w+) *=", entry, flags=re.M)), key


def test_unknown_key_lists_the_known():
    """A key that is none is refused with the keys that are."""
    with pytest.raises(ValueError, match=r"keys: expected keys among espref, liu2025est, .*, got 'nobody'"):
        cite("liu2025est", "nobody")


def test_keys_named_in_docstrings_exist():
    """Each docstring's References section names keys of the bibliography only."""
    known, named = set(bibliography()), set()
    for path in (ROOT / "espref").rglob("*.py"):
        for section in re.findall(r"References\n\s*-+\n\s*(.+)", path.read_text(encoding="utf-8")):
            named |= set(re.findall(r"\b[a-z]+\d{4}[a-z]+\b", section))
    assert {"liu2025est", "mahey2023swgg"} <= named <= known


def field(text, name, start=0):
    return re.search(rf"^\s*{name}: \"?(.+?)\"?$", text[start:], flags=re.M).group(1)


def test_cff_is_in_step():
    """CITATION.cff: format 1.2.0, the package's version, and the ESPFormer paper as the preferred citation."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    preferred = text.index("preferred-citation:")
    paper = bibliography()["shahbazi2025espformer"]
    assert field(text, "cff-version") == "1.2.0" and field(text, "version") == espref.__version__
    assert field(text, "title", preferred) in paper.replace("{ESPFormer}", "ESPFormer")
    assert field(text, "url", preferred) in paper and field(text, "start", preferred) in paper
    names = re.findall(r"family-names: \"?([^\"\n]+)\"?", text[preferred : text.index("references:")])
    assert names == re.findall(r"(?:= \{|and )([\w]+),", paper[paper.index("author") : paper.index("booktitle")])
