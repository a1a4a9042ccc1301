"""The ledger's results for people and programs: tables in the terminal, JSON, one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from ._environment import environment
from .claims import LEDGER, Claim, Outcome

COLOURS = {"holds": "green", "refuted": "cyan", "fails": "bold red", "error": "bold red", "skipped": "yellow"}
SIGNS = {"at most": "≤", "at least": "≥"}


def comparison(outcome: Outcome) -> str:
    """Residual against tolerance, as "3.1e-16 ≤ 1e-12"."""
    if math.isnan(outcome.residual):
        return "–"
    return f"{outcome.residual:.2g} {SIGNS[outcome.claim.sense]} {outcome.claim.tolerance:.2g}"


def by_chapter(outcomes: Iterable[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """Outcomes grouped by chapter, in their own order."""
    return [(chapter, list(group)) for chapter, group in groupby(outcomes, lambda outcome: outcome.claim.chapter)]


def chapter_table(chapter: str, outcomes: Sequence[Outcome]) -> Table:
    """One table: claim, residual against tolerance, verdict, seconds."""
    table = Table(title=chapter, title_justify="left", title_style="bold", expand=False)
    table.add_column("claim", overflow="fold")
    table.add_column("residual vs tolerance", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for outcome in outcomes:
        name = Text(outcome.claim.id.split(".", 1)[1])
        if outcome.note:
            name.append(f"\n  {outcome.note}", style="dim")
        verdict = Text(outcome.verdict, style=COLOURS[outcome.verdict])
        table.add_row(name, comparison(outcome), verdict, f"{outcome.seconds:.1f}")
    return table


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """One line: how many claims hold, are refuted, fell, were skipped."""
    count = {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in COLOURS}
    fallen = count["fails"] + count["error"]
    parts = [f"{count['holds']} hold", f"{count['refuted']} refuted as stated", f"{fallen} fell"]
    if count["skipped"]:
        parts.append(f"{count['skipped']} skipped")
    return f"{len(outcomes)} claims: {', '.join(parts)}, in {seconds:.0f} s"


def listing() -> Table:
    """Every claim of the ledger: identifier, kind, what it runs on."""
    table = Table("claim", "kind", "runs on", "source")
    for entry in LEDGER.values():
        table.add_row(entry.id, entry.kind, entry.on, entry.source or "proof in the code")
    return table


def to_json(outcomes: Sequence[Outcome], problems: Sequence[str]) -> dict[str, Any]:
    """Everything measured, with what it was measured on; numbers that are none are null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "environment": environment(),
        "problems": list(problems),
        "claims": [
            {
                "id": outcome.claim.id,
                "kind": outcome.claim.kind,
                "statement": outcome.claim.statement,
                "source": outcome.claim.source,
                "verdict": outcome.verdict,
                "residual": number(outcome.residual),
                "sense": outcome.claim.sense,
                "tolerance": outcome.claim.tolerance,
                "companions": [
                    {"dropped": companion.dropped, "residual": number(value), "at_least": companion.at_least}
                    for companion, value in zip(outcome.claim.companions, outcome.companions, strict=False)
                ],
                "runs": outcome.runs,
                "worst": outcome.worst,
                "seconds": round(outcome.seconds, 3),
                "note": outcome.note,
            }
            for outcome in outcomes
        ],
    }


def formula_html(text: str) -> str:
    """Text with $...$ formulas as HTML with MathML; everything else is escaped."""
    from latex2mathml.converter import convert

    parts = re.split(r"\$\$?([^$]+)\$\$?", text)
    return "".join(convert(part) if k % 2 else html.escape(part) for k, part in enumerate(parts))


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def headroom_figure(outcomes: Sequence[Outcome]) -> Any:
    """Residual and tolerance of every theorem, on a logarithmic axis; exact zeros stand at the left edge."""
    from .plot import SOURCE, TARGET, new_figure

    shown = [o for o in outcomes if o.claim.kind == "theorem" and math.isfinite(o.residual)]
    figure, (ax,) = new_figure(7.5, 1.2 + 0.16 * len(shown))
    floor, rows = 1e-18, np.arange(len(shown))
    residuals = [max(o.residual, floor) for o in shown]
    tolerances = [max(o.claim.tolerance, floor) for o in shown]
    ax.hlines(rows, residuals, tolerances, color="#999999", lw=1)
    ax.plot(residuals, rows, "o", ms=4, color=SOURCE, label="residual")
    ax.plot(tolerances, rows, "|", ms=9, mew=2, color=TARGET, label="tolerance")
    ax.set(xscale="log", yticks=rows, ylim=(len(shown) - 0.5, -0.5), xlabel="residual (0 is drawn at 1e-18)")
    ax.set_yticklabels([o.claim.id for o in shown], fontsize=6.5)
    ax.legend(loc="upper right", fontsize=8)
    return figure


def example_figure() -> Any:
    """The counterexample of the ledger: exact plan and expected sliced plan of two clouds of three points."""
    from .circle import circle_plan
    from .claims.circle import WORSE_X, WORSE_Y
    from .directions import sample_directions
    from .expected import min_sliced_plan
    from .plot import draw_plan, new_figure

    figure, (left, right) = new_figure(7.5, 3.2, columns=2)
    cheapest = min_sliced_plan(WORSE_X, WORSE_Y, sample_directions(500, 2, method="equispaced"))
    mean = circle_plan(WORSE_X, WORSE_Y)
    draw_plan(left, cheapest.plan, WORSE_X, WORSE_Y, f"cheapest slice: cost {cheapest.cost:.1f}")
    draw_plan(right, mean.plan, WORSE_X, WORSE_Y, f"mean over the circle: cost {mean.cost:.1f}")
    return figure


STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #00845a; --bad: #c22; --soft: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
.holds, .refuted { color: var(--good); } .fails, .error { color: var(--bad); font-weight: bold; }
.skipped, small { color: var(--soft); } code { font-size: .95em; } figure { margin: 1rem 0 2rem; }
img { max-width: 100%; background: white; border-radius: 4px; } .wide { overflow-x: auto; }
"""


def _row(outcome: Outcome) -> str:
    entry: Claim = outcome.claim
    companions = "".join(
        f"<br><small>Without {formula_html(companion.dropped)}: {value:.2g} ≥ {companion.at_least:.2g}.</small>"
        for companion, value in zip(entry.companions, outcome.companions, strict=False)
    )
    note = f"<br><small>{html.escape(outcome.note)}</small>" if outcome.note else ""
    return (
        f'<tr id="{html.escape(entry.id)}"><td><code>{html.escape(entry.id)}</code> <small>{entry.kind}</small><br>'
        f"{formula_html(entry.statement)}{companions}{note}</td>"
        f'<td class="n">{comparison(outcome)}<br><small>{html.escape(outcome.worst)}</small></td>'
        f'<td class="{outcome.verdict}">{outcome.verdict}</td></tr>'
    )


def to_html(outcomes: Sequence[Outcome], problems: Sequence[str], seconds: float) -> str:
    """One page with formulas (MathML) and figures inside it: no network, no other file."""
    versions = ", ".join(f"{name} {value}" for name, value in environment().items() if value is not None)
    chapters = "".join(
        f'<h2>{html.escape(chapter)}</h2><div class="wide"><table><tr><th>claim</th><th>residual</th>'
        f"<th>verdict</th></tr>{''.join(map(_row, group))}</table></div>"
        for chapter, group in by_chapter(outcomes)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>espref: the ledger</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>The ledger, measured</h1>"
        f"<p><strong>{html.escape(summary(outcomes, seconds))}.</strong></p>"
        f"<p><small>Measured on {len(problems)} problems: {html.escape('; '.join(problems))}.<br>"
        f"{html.escape(versions)}.</small></p>"
        f'<figure><img src="{_png(headroom_figure(outcomes))}" alt="For every theorem a dot, its residual, to the left '
        'of a bar, its tolerance."><figcaption>Residuals of the theorems (dots) and their tolerances (bars). A dot to '
        "the right of its bar would be a theorem that fell.</figcaption></figure>"
        f'<figure><img src="{_png(example_figure())}" alt="Two clouds of three points, joined by the plan of the '
        'cheapest slice on the left and by the mean over all directions on the right."><figcaption>A refutation in a '
        "picture: for these clouds the mean over all directions costs more than coupling them at random, while the "
        f"cheapest slice does not.</figcaption></figure>{chapters}</body></html>"
    )
