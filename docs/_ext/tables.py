"""Tables from data.

* ``{records}``: the committed benchmark records, ``docs/records/*.json`` as ``espref bench`` writes them.
* ``{studies}``: the committed records of ``espref train study``, ``docs/records/train-*.json``.
* ``{deviations}``: ``espref.deviations``, with the name of the test behind each row.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from espref.deviations import DEVIATIONS
from espref.train.studies import STUDIES


def cell(value: Any) -> str:
    """A value for a table of MyST markup."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "**no**", None: ""}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", r"\|")


def table(record: dict[str, Any]) -> list[str]:
    """The rows of a record, and what they were measured with."""
    columns = [key for key in record["rows"][0] if any(row.get(key) is not None for row in record["rows"])]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell(row.get(column)) for column in columns)} |" for row in record["rows"]]
    made_with = ", ".join(f"{key} {value}" for key, value in record["environment"].items() if value is not None)
    return [*lines, "", f"Measured with {made_with}.", ""]


class Table(SphinxDirective):
    """A directive whose content is MyST text written here."""

    def parsed(self, lines: list[str]) -> list[nodes.Node]:
        self.env.note_reread()
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), self.content_offset, holder)
        return holder.children


class Records(Table):
    def run(self) -> list[nodes.Node]:
        lines = []
        for path in sorted((Path(self.env.srcdir) / "records").glob("*.json")):
            record = json.loads(path.read_text())
            if record.get("rows") and "environment" in record:
                lines += [f"**{path.stem}**", "", *table(record)]
        return self.parsed(lines or ["No record has been committed yet."])


class Studies(Table):
    """``{studies}``: the committed records of ``espref train study``, a table for each group of variants."""

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for path in sorted((Path(self.env.srcdir) / "records").glob("train-*.json")):
            record = json.loads(path.read_text())
            lines += [f"**{record['study']}**: {STUDIES[record['study']].__doc__}", ""]
            for title, group in groupby(record["runs"], lambda run: run["group"]):
                lines += [*study_table(title, list(group)), ""]
            made_with = ", ".join(f"{key} {value}" for key, value in record["environment"].items() if value is not None)
            lines += [f"`espref train study {record['study']}`, measured with {made_with}.", ""]
        return self.parsed(lines or ["No record has been committed yet."])


def study_table(title: str, runs: list[dict[str, Any]]) -> list[str]:
    """Mean and spread over seeds, and the paired difference to the first variant."""
    first, metric = runs[0]["variant"], runs[0]["metric"]
    lines = [
        f"| {title} | {metric}, mean ± sd | seeds | minus {first}, ± standard error | better in | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        spread = "" if run["sd"] is None else f" ± {run['sd']:.2f}"
        error = "" if run["error"] is None else f" ± {run['error']:.2f}"
        gap = "" if run is runs[0] else f"{run['difference']:+.2f}{error}"
        wins = "" if run is runs[0] else f"{run['wins']} of {run['seeds']}"
        mean = f"{run['mean']:.2f}{spread}"
        lines.append(f"| {run['variant']} | {mean} | {run['seeds']} | {gap} | {wins} | {run['parameters']} |")
    return lines


class Deviations(Table):
    def run(self) -> list[nodes.Node]:
        head = ("point, and its test", "paper", "released code", "POT 0.9.7", "espref")
        rows = [(f"{row.point} (`{row.test}`)", *row[1:-1]) for row in DEVIATIONS]
        lines = [
            "| " + " | ".join(text.replace("|", r"\|") for text in row) + " |"
            for row in (head, ("---",) * len(head), *rows)
        ]
        return self.parsed(["```{div} small-table", *lines, "```"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("records", Records)
    app.add_directive("studies", Studies)
    app.add_directive("deviations", Deviations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
