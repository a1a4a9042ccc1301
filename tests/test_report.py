"""Reports and figures: what a reader sees is what was measured, and nothing is loaded from elsewhere."""

import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from espref import circle_plan
from espref.claims import LEDGER, Run, real_problems, run, synthetic_problems
from espref.claims.ledger import Outcome

pytest.importorskip("rich")
from rich.console import Console

from espref import plot
from espref._environment import environment
from espref.app import page, report, terminal

PROBLEMS = [*synthetic_problems(0)[:3], *real_problems(0)]
NAMES = ("line.few-entries", "expected.ties-break-the-identity", "expected.marginals", "circle.rotation")


@pytest.fixture(scope="module")
def outcomes():
    return list(run([LEDGER[name] for name in NAMES], PROBLEMS, 1))


def run_of(outcomes, problems=PROBLEMS, note=""):
    return Run(outcomes, problems, 1, 1.0, note, environment())


def text_of(*renderables):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for renderable in renderables:
        console.print(renderable)
    console.file.close()
    return console.export_text()


def test_table_shows_residual_and_tolerance(outcomes):
    """A row for each claim with its numbers, and one for each dropped hypothesis."""
    text = text_of(report.chapter_table("line", outcomes[:1]))
    row, companion = (line for line in text.splitlines() if "few-entries" in line or "without" in line)
    assert re.split(r"\s{2,}", row.strip())[:4] == ["few-entries", "0", "≤ 0", "holds"]
    assert re.split(r"\s{2,}", companion.strip())[:4] == ["without distinct values", "2", "≥ 1", "fails"]


def test_markup_in_notes_is_text(outcomes):
    """An error message is shown as it is, brackets included."""
    strange = "ValueError: [bold]x[/bold] [/]"
    failed = outcomes[0]._replace(verdict="error", residual=math.nan, note=strange)
    assert strange in text_of(report.chapter_table("line", [failed]))
    assert strange in text_of(*report.closing([failed], PROBLEMS, 1.0, ""))


def test_closing_counts_verdicts(outcomes):
    """Claims that hold, are refuted, failed and were skipped are counted apart, and those that failed are named."""
    failed = outcomes[2]._replace(verdict="fails", residual=1.0, note="worst on somewhere")
    skipped = outcomes[3]._replace(verdict="skipped", residual=math.nan, companions=(), note="pip install ...")
    text = text_of(*report.closing([*outcomes[:2], failed, skipped], PROBLEMS, 2.0, "a remark"))
    assert "4 claims: 1 hold, 1 are refuted as stated, 1 failed, 1 skipped, in 2 s, on 3 synthetic, 3 real" in text
    assert "failed: expected.marginals: 1 against 1e-14, worst on somewhere" in text and "a remark" in text


@pytest.mark.parametrize("table", ["chapter", "benchmark"])
def test_tables_without_rich(outcomes, table):
    """Plain text has the same rows, the headings, and every note; columns are aligned."""
    if table == "chapter":
        noted = [outcomes[0]._replace(note="a note"), *outcomes[1:]]
        lines = str(report.chapter_table("line", noted)).splitlines()
        assert lines[0] == "line" and lines[1].split() == ["claim", "residual", "tolerance", "verdict", "seconds"]
        assert lines[3].split()[:5] == ["few-entries", "0", "≤", "0", "holds"] and lines[4] == "    a note"
        assert lines[5].split("  ")[1:3] == ["", "without distinct values"]
    else:
        row = {"name": "fast", "measured": 7.0, "unit": "times", "target": ">= 5", "ok": True, "detail": "median of 3"}
        lines = str(report.benchmark_table("plans", [row])).splitlines()
        assert re.split(r"\s{2,}", lines[3].strip()) == ["fast", "7 times", ">= 5", "met"]
        assert lines[4].strip() == "median of 3"
    assert all(line == line.rstrip() for line in lines)


def test_console_without_rich(monkeypatch, capsys):
    """Without rich lines and tables are printed plain, and there is no progress bar."""
    monkeypatch.setattr(terminal, "find_spec", lambda name: None)
    console = terminal.new_console()
    with terminal.progress_bar(console, 3) as advance:
        advance("line.marginals")
    console.print(terminal.Line("[bold]text[/bold]", "red"))
    assert capsys.readouterr().out == "[bold]text[/bold]\n"


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained(outcomes):
    """Tags nest, every claim has a row, figures are inside with a description, and no address is loaded."""
    found = Page(page.to_html(run_of(outcomes)))
    rows = [attrs["id"] for tag, attrs in found.tags if tag == "tr" and "id" in attrs]
    images = [attrs for tag, attrs in found.tags if tag == "img"]
    assert rows == list(NAMES) and len(images) == 4
    assert "".join(found.text).count("Measured as: ") == len(NAMES)
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in found.tags)
    assert not any({"src", "href", "srcset"} & set(attrs) for tag, attrs in found.tags if tag != "img")
    assert any(tag == "math" for tag, _ in found.tags)
    assert "$" not in "".join(found.text) and "Liu" in "".join(found.text)


def test_page_escapes_what_comes_from_outside(outcomes):
    """Names, notes and messages are text, never markup."""
    evil = '<script>alert("x")</script>&'
    problems = [replace(PROBLEMS[1], name=evil, origin="user")]
    bad = [outcomes[0]._replace(note=evil, worst=evil, verdict="error"), *outcomes[1:]]
    text = page.to_html(run_of(bad, problems, evil))
    assert "<script" not in text
    assert "".join(Page(text).text).count(evil) >= 5


@pytest.mark.parametrize("name", LEDGER)
def test_formulas_become_mathml(name):
    """Every formula of the ledger is translated whole: well-formed MathML without a trace of LaTeX."""
    entry = LEDGER[name]
    for text in (entry.statement, entry.measured, entry.proof, *(companion.dropped for companion in entry.companions)):
        for formula in re.findall(r"<math.*?</math>", page.prose(text), flags=re.S):
            symbols = "".join(ElementTree.fromstring(formula).itertext())
            assert "\\" not in symbols and "merror" not in formula


def test_prose_escapes_text():
    """Text around formulas is escaped, `code` is marked."""
    assert page.prose("a < b & `c`") == "a &lt; b &amp; <code>c</code>"


def test_skipped_everywhere():
    """A run in which nothing was measured still has a table and a page."""
    entry = LEDGER["line.few-entries"]
    skipped = Outcome(entry, "skipped", math.nan, (), 0, "", 0.0, "pip install something")
    assert "pip install something" in text_of(report.chapter_table("line", [skipped]))
    assert "pip install something" in page.to_html(run_of([skipped], PROBLEMS[:1]))


def test_missing_matplotlib_says_how_to_mend(monkeypatch):
    """Without matplotlib there are no figures; the error names the pip line."""
    for missing in ("matplotlib", "matplotlib.style"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'espref[verify]'")):
        plot.new_figure()


@pytest.mark.parametrize("dim", [1, 2, 3, 7])
def test_planar_keeps_distances_where_it_can(dim):
    """In the plane clouds stay as they are; else on principal axes: distances shrink, most variance stays."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, dim)), rng.normal(size=(6, dim))
    u, v = plot.planar(x, y)
    assert u.shape == (9, 2) and v.shape == (6, 2)
    if dim > 1:
        before = np.linalg.norm(x[:, None] - y, axis=2)
        after = np.linalg.norm(u[:, None] - v, axis=2)
        assert (after <= before + 1e-12).all()
        if dim == 2:
            assert np.allclose(after, before)
        else:
            kept = np.var(np.vstack([u, v]), axis=0).sum()
            spectrum = np.linalg.eigvalsh(np.cov(np.vstack([x, y]).T, bias=True))
            assert kept == pytest.approx(spectrum[-2:].sum())


def test_plan_is_drawn_as_its_entries():
    """One line an entry of the plan, from its source to its target point, opacity by mass."""
    x, y = np.random.default_rng(0).normal(size=(2, 4, 2))
    plan = circle_plan(x, y).plan
    _, (ax,) = plot.new_figure()
    plot.draw_plan(ax, plan, x, y)
    (lines,) = ax.collections[:1]
    assert len(lines.get_segments()) == plan.nnz
    heaviest = plan.data.argmax()
    assert np.allclose(lines.get_segments()[-1], [x[plan.row[heaviest]], y[plan.col[heaviest]]])
    assert lines.get_alpha().argmax() == plan.nnz - 1
    with pytest.raises(ValueError, match="plan: expected shape"):
        plot.draw_plan(ax, plan, x[:2], y)


def test_matrix_image_keeps_the_mass(monkeypatch):
    """A small matrix is drawn entry by entry, a large one as sums of blocks: the mass is the same."""
    plan = np.random.default_rng(0).random((7, 5))
    plan /= plan.sum()
    for pixels, shape in ((600, (7, 5)), (3, (3, 3))):
        monkeypatch.setattr(plot, "MOST_PIXELS", pixels)
        _, (ax,) = plot.new_figure()
        plot.draw_matrix(ax, plan)
        image = ax.images[0].get_array()
        assert image.shape == shape and image.sum() == pytest.approx(1)
    assert image[0, 0] == pytest.approx(plan[:3, :2].sum())
