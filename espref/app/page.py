"""The results of the ledger as one self-contained HTML page: formulas in MathML, figures embedded, nothing loaded."""

from __future__ import annotations

import base64
import html
import inspect
import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._environment import in_words
from ..circle import circle_plan
from ..citation import bibliography
from ..claims import Outcome, Problem, Run
from ..claims.circle import WORSE_X, WORSE_Y
from ..directions import sample_directions
from ..expected import expected_sliced_plan, min_sliced_plan
from ..plot import SOURCE, TARGET, draw_matrix, draw_plan, new_figure
from .report import by_chapter, comparison, describe, summary, two_digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: light-dark(#595959, #a6a6a6);
  --good: light-dark(#006b4f, #4ec9a0); --bad: light-dark(#b00020, #ff8a80); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; }
th, td { text-align: left; padding: .5rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
.holds, .refuted { color: var(--good); } .fails, .error { color: var(--bad); font-weight: bold; }
.skipped, .measurable, small, details { color: var(--soft); } details { font-size: .9em; } code { font-size: .95em; }
figure { margin: 1rem 0 2rem; } img { max-width: 100%; } .wide { overflow-x: auto; } pre { white-space: pre-wrap; }
"""

#: Forbids the browser to load anything.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def check_modules() -> None:
    """Raise ImportError, with the pip line, where formulas or figures cannot be made."""
    prose("$x$")
    new_figure()


def prose(text: str) -> str:
    """Text with $...$ formulas and `code` as HTML with MathML; everything else is escaped."""
    try:
        from latex2mathml.converter import convert
    except ImportError as error:
        raise ImportError("formulas need latex2mathml: pip install 'espref[verify]'") from error
    parts = []
    for k, part in enumerate(re.split(r"\$([^$]+)\$", text)):
        parts.append(convert(part) if k % 2 else re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(part)))
    return "".join(parts)


def to_html(measured: Run) -> str:
    """The whole page."""
    outcomes, problems, _, seconds, note, made_with = measured
    result = f"{summary(outcomes, seconds)}, on {describe(problems)}"
    names = "; ".join(f"{p.name} (n = {len(p.x)}, m = {len(p.y)}, d = {p.dim})" for p in problems)
    remark = f"<p>{html.escape(note)}</p>" if note else ""
    chapters = "".join(
        f'<h2>{html.escape(chapter)}</h2><div class="wide"><table><tr><th>claim</th><th>residual</th>'
        f"<th>verdict</th></tr>{''.join(map(_row, group))}</table></div>"
        for chapter, group in by_chapter(outcomes)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>espref: the ledger, measured</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>The ledger, measured</h1>"
        f"<p><strong>{html.escape(result)}.</strong></p>{remark}{_figures(outcomes, problems)}{chapters}"
        f"{_sources(outcomes)}<h2>Measured with</h2><p><small>{html.escape(in_words(made_with))}.</small></p>"
        f"<h2>Problems</h2><p><small>{html.escape(names)}.</small></p></body></html>\n"
    )


def _row(outcome: Outcome) -> str:
    """One claim: statement, how it is measured, companions, note, proof; residual; verdict."""
    entry = outcome.claim
    companions = "".join(
        f"<br><small>Without {prose(companion.dropped)}: "
        f"{two_digits(value)} ≥ {two_digits(companion.at_least)}.</small>"
        for companion, value in zip(entry.companions, outcome.companions, strict=False)
    )
    measured = f"<br><small>Measured as: {prose(entry.measured)}.</small>" if entry.measured else ""
    note = f"<br><small>{html.escape(outcome.note)}</small>" if outcome.note else ""
    origin = f" Source: {html.escape(entry.origin)}."
    corrected = f"<br><small>Corrected in {prose(entry.corrected)}</small>" if entry.corrected else ""
    proof = f"<details><summary>proof</summary>{prose(inspect.cleandoc(entry.proof))}{origin}</details>"
    return (
        f'<tr id="{html.escape(entry.id)}"><td><code>{html.escape(entry.id)}</code> <small>{entry.kind}</small><br>'
        f"{prose(entry.statement)}{corrected}{measured}{companions}{note}{proof}</td>"
        f'<td class="n">{html.escape(comparison(outcome))}<br><small>{html.escape(outcome.worst)}</small></td>'
        f'<td class="{outcome.verdict}">{outcome.verdict}</td></tr>\n'
    )


def _sources(outcomes: Sequence[Outcome]) -> str:
    """BibTeX entries of all sources of the claims."""
    cited = {key for outcome in outcomes for key in outcome.claim.sources}
    entries = [entry for key, entry in bibliography().items() if key in cited]
    return f"<h2>Sources</h2><pre><small>{html.escape(chr(10).join(entries))}</small></pre>" if entries else ""


def _figures(outcomes: Sequence[Outcome], problems: Sequence[Problem]) -> str:
    """Plans of the user's clouds or of some problems, the counterexample in the plane, residuals and tolerances."""
    shown = [problem for problem in problems if problem.origin == "user"][:1]
    parts = []
    if not shown:
        shown = [p for p in problems if p.seed == 0 and p.name.startswith(("photographs", "digits"))] or list(
            problems[1:2]
        )
        parts.append(
            _figure(
                counterexample_figure(),
                "A refutation in a picture: for these three source and three target points the mean over all "
                "directions costs more than the independent coupling; the cheapest slice does not.",
            )
        )
    for problem in shown:
        caption = f"{problem.name}: n = {len(problem.x)}, m = {len(problem.y)}, d = {problem.dim}, 64 directions."
        parts.insert(0, _figure(plan_figure(problem), caption))
    if any(map(_has_headroom, outcomes)):
        caption = "Residuals (dots) and tolerances (bars) of theorems and properties. A dot right of its bar fails."
        parts.append(_figure(headroom_figure(outcomes), caption))
    return "".join(parts)


def _figure(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>\n'


def plan_figure(problem: Problem) -> Figure:
    """The mean over directions, the cheapest of them, and the mean as a matrix."""
    x, y, a, b, directions = problem.x, problem.y, problem.a, problem.b, problem.directions(64)
    figure, (left, middle, right) = new_figure(10, 3.4, columns=3)
    mean, best = expected_sliced_plan(x, y, directions, a, b), min_sliced_plan(x, y, directions, a, b)
    draw_plan(left, mean.plan, x, y, f"mean of slices, cost {mean.cost:.3g}")
    draw_plan(middle, best.plan, x, y, f"cheapest slice, cost {best.cost:.3g}")
    draw_matrix(right, mean.plan, "the mean as a matrix")
    return figure


def counterexample_figure() -> Figure:
    """The clouds of ``circle.can-cost-more-than-independence``."""
    figure, (left, right) = new_figure(7.5, 3.2, columns=2)
    cheapest = min_sliced_plan(WORSE_X, WORSE_Y, sample_directions(500, 2, method="equispaced"))
    mean = circle_plan(WORSE_X, WORSE_Y)
    draw_plan(left, mean.plan, WORSE_X, WORSE_Y, f"mean over the circle, cost {mean.cost:.1f}")
    draw_plan(right, cheapest.plan, WORSE_X, WORSE_Y, f"cheapest slice, cost {cheapest.cost:.1f}")
    return figure


def _has_headroom(outcome: Outcome) -> bool:
    """Whether the outcome is a residual that rounding alone should explain."""
    return outcome.claim.kind in ("theorem", "property") and math.isfinite(outcome.residual)


def headroom_figure(outcomes: Sequence[Outcome]) -> Figure:
    """Residual and tolerance of every theorem and property, on a logarithmic axis; zeros are at the left edge."""
    shown = [outcome for outcome in outcomes if _has_headroom(outcome)]
    figure, (ax,) = new_figure(7.5, 1.2 + 0.16 * len(shown))
    floor, rows = 1e-18, np.arange(len(shown))
    residuals = [max(o.residual, floor) for o in shown]
    tolerances = [max(o.claim.tolerance, floor) for o in shown]
    ax.hlines(rows, residuals, tolerances, color="#999999", lw=1)
    ax.plot(residuals, rows, "o", ms=4, color=SOURCE, label="residual")
    ax.plot(tolerances, rows, "|", ms=9, mew=2, color=TARGET, label="tolerance")
    ax.set(xscale="log", yticks=rows, ylim=(len(shown) - 0.5, -0.5), xlabel="residual (0 is drawn at 1e-18)")
    ax.set_yticklabels([o.claim.id for o in shown], fontsize=6.5)
    ax.legend(loc="upper right", fontsize=8, framealpha=0, labelcolor="#808080")
    return figure
