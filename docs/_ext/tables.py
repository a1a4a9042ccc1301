"""Tables made from data.

* ``{records}``: committed records by name, the files ``docs/records/*.json`` that ``espref bench`` and the tests write.
* ``{studies}``: the committed records of ``espref train study``, ``docs/records/train-*.json``.
* ``{models}``: the committed records of models of timm and transformers with another attention in them.
* ``{deviations}``: ``espref.deviations``, with the name of the test of each row.
* ``{measured}`RECORD | ROW | UNIT```: one number of a committed record, with its unit; "number" gives the number alone,
  and "detail" the details.
* ``{supported}`` and ``{extras}``: supported versions and optional dependencies, from ``pyproject.toml``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

import espref.train.benchmark  # noqa: F401  registers the suite "transformers"
from espref import benchmarks
from espref._environment import in_words
from espref.benchmarks.records import FOLDER, read
from espref.deviations import DEVIATIONS
from espref.train.studies import STUDIES

logger = logging.getLogger(__name__)
#: The suites of ``espref bench``; the records of tests have other names.
SUITES = (*benchmarks.SPEED, *benchmarks.TRUST, *benchmarks.REGISTERED)
HEAD = ("measured", "result", "demanded", "met", "details")


def escape(text: str) -> str:
    """Plain text for a cell of a MyST table, with special characters escaped."""
    return re.sub(r"([\\|<*_^$`])", r"\\\1", text)


def number(value: float) -> str:
    """Three significant digits; whole numbers from a thousand on."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def record_table(rows: list[dict[str, Any]]) -> list[str]:
    """What was measured, the result, what was demanded, whether the result meets it; then what it was measured with.

    Where rows were measured with different versions, machines or commits, a last column holds the number of each in
    the list below the table.
    """
    environments = distinct(row["environment"] for row in rows)
    head = HEAD if len(environments) == 1 else (*HEAD, "with")
    lines = ["```{div} small-table", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        demanded = row["target"].replace(">=", "≥").replace("<=", "≤") if row["ok"] is not None else ""
        met = {True: "yes", False: "**no**", None: ""}[row["ok"]]
        texts = (row["name"].replace(">=", "≥"), f"{number(row['measured'])} {row['unit']}", demanded)
        cells = [*map(escape, texts), met, escape(row["detail"])]
        cells += [str(environments.index(row["environment"]) + 1)] * (len(environments) > 1)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "```", "", *measured_with(environments)]


def distinct(environments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of several environments once, in order."""
    found: list[dict[str, Any]] = []
    for environment in environments:
        if environment not in found:
            found.append(environment)
    return found


def measured_with(environments: list[dict[str, Any]]) -> list[str]:
    """Machine, date, commit and versions: a sentence, or a numbered list of several."""
    texts = [sentence(environment) for environment in environments]
    if len(texts) == 1:
        return [f"Measured {texts[0]}", ""]
    return ["Measured", "", *(f"{k}. {text}" for k, text in enumerate(texts, start=1)), ""]


def sentence(environment: dict[str, Any]) -> str:
    """By which command, if that was recorded, and with what."""
    by = f"by `{environment['command']}` " if environment.get("command") else ""
    return f"{by}on {escape(in_words(environment))}."


class Table(SphinxDirective):
    """A directive that writes MyST markup and lets Sphinx read it."""

    def parsed(self, lines: list[str]) -> list[nodes.Node]:
        self.env.note_reread()
        holder = nodes.container()
        text = StringList(lines, source=self.get_source_info()[0])
        self.state.nested_parse(text, self.content_offset, holder, match_titles=True)
        return holder.children


class Records(Table):
    """``{records}``: its content names records, one per line; ``*`` matches anything."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        folder = Path(self.env.srcdir) / "records"
        for path in sorted(path for name in self.content for path in folder.glob(f"{name}.json")):
            for suite, rows in groupby(read(path)["rows"], lambda row: row["suite"]):
                if suite in SUITES:
                    about = benchmarks.about(suite).split("\n\n")
                    lines += [f"**{suite}** (record {path.stem}): {' '.join(map(escape, about))}", ""]
                lines += record_table(list(rows))
        return self.parsed(lines or ["No record has been committed yet."])


class Studies(Table):
    """``{studies}``: the committed records of ``espref train study``, one table per group of variants."""

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        paths = sorted((Path(self.env.srcdir) / "records").glob("train-*.json"))
        records = {record["study"]: record["runs"] for record in map(read, paths)}
        for study, runs in records.items():
            lines += [f"### {study}", "", f"{STUDIES[study].__doc__}", ""]
            for title, group in groupby(runs, lambda run: run["group"]):
                variants = list(group)
                lines += [*study_table(title, variants), "", *other_results(variants, records)]
            lines += [f"`espref train study {study}`.", *measured_with(distinct(run["environment"] for run in runs))]
        return self.parsed(lines or ["No record has been committed yet."])


def other_results(runs: list[dict[str, Any]], records: dict[str, list[dict[str, Any]]]) -> list[str]:
    """For runs whose settings and number of seeds stand in another table with another result, that result."""
    lines: list[str] = []
    for run in runs:
        for study, others in records.items():
            for other in others:
                same = all(run[name] == other[name] for name in ("config", "metric", "seeds"))
                if same and run["mean"] != other["mean"]:
                    place = f"in the study {study} ({other['group']}, {other['variant']})"
                    values = f"{run['mean']:.2f} here and {other['mean']:.2f} {place}"
                    text = f"{run['variant']}: the same settings and seeds gave {values}. These are different runs."
                    lines += [escape(text), ""]
    return lines


def study_table(title: str, runs: list[dict[str, Any]]) -> list[str]:
    """Mean and spread over seeds, and the paired difference to the first variant."""
    first, metric = runs[0]["variant"], runs[0]["metric"]
    gaps = f"difference to {first}, ± standard error"
    lines = [f"| {title} | {metric} in %, mean ± sd | seeds | {gaps} | better on | parameters |", "|---" * 6 + "|"]
    for run in runs:
        spread = "" if run["sd"] is None else f" ± {run['sd']:.2f}"
        error = "" if run["error"] is None else f" ± {run['error']:.2f}"
        gap = "" if run is runs[0] else f"{run['difference']:+.2f}{error}"
        wins = "" if run is runs[0] else f"{run['wins']} of {run['seeds']} seeds"
        mean = f"{run['mean']:.2f}{spread}"
        lines.append(f"| {run['variant']} | {mean} | {run['seeds']} | {gap} | {wins} | {run['parameters']} |")
    return lines


class Models(Table):
    """``{models}``: the record that its content names, ``models-timm`` or ``models-transformers``, as a table.

    Rows whose reason is that of many others, because the model is causal or has no attention, share one.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        rows = read(Path(self.env.srcdir) / "records" / f"{self.content[0]}.json")["rows"]
        shared: dict[str, list[str]] = {}
        made_with = rows[0]["environment"]
        versions = [f"{name} {made_with[name]}" for name in ("timm", "transformers") if name in made_with]
        lines = [
            f"With {versions[0]}:",
            "",
            "```{div} small-table",
            "| model | result | reason, or largest difference |",
            "|---|---|---|",
        ]
        for row in rows:
            result, _, detail = row["detail"].partition(". ")
            if row["ok"]:
                count = f"{row['measured']:.0f} modules exchanged, " if row["unit"] == "modules exchanged" else ""
                lines.append(
                    f"| {escape(row['name'])} | **exact** | {count}{escape(row['detail'].removeprefix('exact. '))} |"
                )
            elif detail.startswith("causal") or not detail:
                shared.setdefault(f"{result}. {detail}".rstrip(". "), []).append(row["name"])
            else:
                lines.append(f"| {escape(row['name'])} | {escape(result)} | {escape(detail)} |")
        for text, names in shared.items():
            result, _, detail = text.partition(". ")
            lines.append(f"| {escape(', '.join(names))} | {escape(result)} | {escape(detail)} |")
        return self.parsed([*lines, "```", "", *measured_with(distinct(row["environment"] for row in rows))])


class Deviations(Table):
    """``{deviations}``: where paper, released code, POT and espref differ."""

    def run(self) -> list[nodes.Node]:
        head = ("point, and its test", "paper", "released code", "POT 0.9.7", "espref")
        rows = [(f"{row.point} (`{row.test}`)", *row[1:-1]) for row in DEVIATIONS]
        lines = [
            "| " + " | ".join(text.replace("|", r"\|") for text in row) + " |"
            for row in (head, ("---",) * len(head), *rows)
        ]
        return self.parsed(["```{div} small-table", *lines, "```"])


#: What each extra of pyproject.toml is for.
EXTRAS = {
    "verify": "`espref verify` and `espref plan`: POT, figures, colour and progress, real data",
    "torch": "`espref.nn`, attention in PyTorch",
    "train": "`espref train`, the four applications",
    "tables": "Parquet files",
    "hub": "data sets from Hugging Face",
    "test": "the tests",
    "models": "tests with models of transformers and peft; `make models` adds timm",
    "mutants": "mutation testing",
    "docs": "this site",
    "dev": "the lock file and the hooks before each commit",
}


def project() -> dict[str, Any]:
    """The table ``[project]`` of pyproject.toml."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


class Supported(Table):
    """``{supported}``: the supported versions, in a sentence."""

    def run(self) -> list[nodes.Node]:
        found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in project()["classifiers"]]
        pythons = [match[1] for match in found if match]
        extras = project()["optional-dependencies"]
        names = {"numpy": "NumPy", "scipy": "SciPy", "torch": "PyTorch"}
        parts = [name.split(">=") for name in (*project()["dependencies"], *extras["torch"])]
        needed = [f"{names[name]} {oldest} or newer" for name, oldest in parts]
        required, optional = ", ".join(needed[:-1]), needed[-1]
        return self.parsed([f"espref supports Python {pythons[0]} to {pythons[-1]}, {required}, and {optional}."])


class Extras(Table):
    """``{extras}``: the extras, what each is for and what it installs; an extra without a purpose is an error."""

    def run(self) -> list[nodes.Node]:
        lines = ["| extra | for | installs |", "|---|---|---|"]
        for extra, packages in project()["optional-dependencies"].items():
            names = [re.sub(r"^espref\[(.*)\]$", r"the extras `\1`", name) for name in packages]
            names = [name if name.startswith("the") else f"`{name}`" for name in names]
            lines.append(f"| `{extra}` | {EXTRAS[extra]} | {', '.join(names)} |")
        return self.parsed(["```{div} small-table", *lines, "```"])


def measured(record: str, name: str, unit: str) -> str:
    """A number of a committed record in words, or the details of its row."""
    for row in read(FOLDER / f"{record}.json")["rows"]:
        if row["name"] == name and unit in (row["unit"], "number", "detail"):
            value = number(row["measured"])
            return {"number": value, "detail": str(row["detail"])}.get(unit, f"{value} {unit}")
    raise ValueError(f"no row {name!r} in {unit!r} in the record {record!r}")


class Measured(SphinxRole):
    """``{measured}`RECORD | ROW | UNIT```; a number that no record holds is a warning, and warnings fail the build."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return [nodes.Text(measured(*(part.strip() for part in self.text.split("|"))))], []
        except (ValueError, TypeError, OSError) as error:
            logger.warning("%s", error, location=self.get_location())
            return [nodes.literal(self.text, self.text)], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("measured", Measured())
    app.add_directive("records", Records)
    app.add_directive("studies", Studies)
    app.add_directive("models", Models)
    app.add_directive("deviations", Deviations)
    app.add_directive("supported", Supported)
    app.add_directive("extras", Extras)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
