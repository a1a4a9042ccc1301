"""The ledger as pages: every build runs all claims of espref.claims and shows the residuals it measured.

* The pages ``ledger/<chapter>.md`` are written before Sphinx reads its sources, one per chapter that has claims.
* ``{ledger-chapter} line`` shows the claims of a chapter, each with the anchor ``claim-<id>``.
* ``{ledger-summary}`` shows how many claims hold in this build, and contains the table of contents of those pages.
* ``{claim}`line.marginals``` links to a claim; tutorials use it to name the claims they rely on.

A claim that fails, an unknown identifier, and (with ``ledger_require_tutorial``) a claim that no tutorial names are
warnings, and warnings fail the build.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import generated
import pictures
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

import espref.claims
import espref.train.claims  # the claims about training
from espref.chapters import CHAPTERS, in_order, title
from espref.claims import measurements
from espref.claims.ledger import LEDGER, Claim, Outcome

logger = logging.getLogger(__name__)
ROOT = Path(espref.__file__).parent.parent
#: sphinx-proof environment and name of each kind of claim.
KINDS = {"theorem": "theorem", "property": "property", "refutation": "proposition", "measurement": "observation"}
#: Chapters of several test files, and the one that is linked.
TESTS = {"nn": "tests/nn/test_nn_claims.py", "train": "tests/train/test_loop.py"}
#: Chapters whose code has no API page, and the file that is linked.
CODE = {"train": "espref/train/loop.py"}
#: Chapters without claims, and where they are measured.
ELSEWHERE = {
    "planfree": "The claims of [attention](/ledger/attention.md) compare it with the attention that it computes: see "
    "{claim}`attention.planfree-equals-plain`."
}
NAMED = re.compile(r"\{claim\}`([^`]+)`")
OUTCOMES: dict[str, Outcome] = {}


def anchor(identifier: str) -> str:
    return "claim-" + identifier.replace(".", "-")


def sentence(identifier: str) -> str:
    """The readable part of an identifier: "line.marginals-are-met" -> "marginals are met"."""
    return identifier.split(".", 1)[1].replace("-", " ")


def chapters() -> list[str]:
    """All chapters, in mathematical order; one without claims has a page too, so that all have the same numbers."""
    return in_order({*CHAPTERS, *(entry.chapter for entry in LEDGER.values())})


def statement(entry: Claim) -> str:
    """What a claim says, and how it is measured."""
    return f"{entry.statement}\n\n*Measured as:* {entry.measured}." if entry.measured else entry.statement


def naming_pages() -> dict[str, list[str]]:
    """Claim -> the tutorials and other pages that name it, as paths from the root of the site."""
    pages = defaultdict(list)
    for folder, pattern in ((ROOT, "tutorials/[0-9]*.md"), (ROOT / "docs", "how-to/*.md"), (ROOT / "docs", "*.md")):
        for page in sorted(folder.glob(pattern)):
            for identifier in dict.fromkeys(NAMED.findall(page.read_text())):
                pages[identifier].append(f"/{page.relative_to(folder)}")
    return pages


def run_ledger(app: Sphinx) -> None:
    """Run the ledger as `espref verify` does, publish the document of the run, and warn of claims that fail."""
    measured = measurements.run_ledger()
    Path(app.outdir).mkdir(parents=True, exist_ok=True)
    measurements.publish(Path(app.outdir), measured)
    for outcome in measured.outcomes:
        OUTCOMES[outcome.claim.id] = outcome
        if not outcome.good:
            logger.warning("claim %s fails: %s, %s", outcome.claim.id, outcome.residual, outcome.note)
    named = naming_pages()
    unnamed = [identifier for identifier in LEDGER if identifier not in named]
    if unnamed and app.config.ledger_require_tutorial:
        logger.warning("no page names %s", ", ".join(unnamed))


def write_pages(app: Sphinx) -> None:
    """Write docs/ledger/<chapter>.md for each chapter, and the pictures of the refutations."""
    folder = Path(app.srcdir) / "ledger"
    wanted = {}
    for chapter in chapters():
        what = f"{title(chapter)}: theorems, refutations and measurements with proof or source, check and residual."
        wanted[folder / f"{chapter}.md"] = generated.page(f"{title(chapter)} (claims)", what, "ledger-chapter", chapter)
    for old in set(folder.glob("*.md")) - set(wanted) - {folder / "index.md"}:
        old.unlink()
    for page, text in wanted.items():
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
    pictures.write(folder / "pictures")
    for entry in LEDGER.values():
        if entry.kind == "refutation" and entry.id not in pictures.PICTURES:
            logger.warning("no picture of the refutation %s (docs/_ext/pictures.py)", entry.id)


def number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


def measured(outcome: Outcome) -> str:
    """What this build measured, one line, and one more for each companion."""
    entry = outcome.claim
    if outcome.verdict == "skipped":
        return f"**Not run in this build:** {outcome.note}"
    sign = "≤" if entry.sense == "at most" else "≥"
    where = "one fixed example" if entry.on == "fixed" else f"worst of {outcome.runs}: {outcome.worst}"
    text = f"**This build:** {number(outcome.residual)} {sign} {number(entry.tolerance)} ({where})"
    if outcome.verdict not in ("holds", "refuted"):
        text = f"**Fails in this build:** {number(outcome.residual)} against {number(entry.tolerance)}; {outcome.note}"
    for companion, value in zip(entry.companions, outcome.companions, strict=False):
        text += f"\n\n**Without {companion.dropped}:** {number(value)} ≥ {number(companion.at_least)}"
    return text


def body(check: Callable[..., float]) -> str:
    """The source of a check without its decorator and its docstring, which the box shows as text."""
    lines = textwrap.dedent(inspect.getsource(check)).splitlines()
    function = next(node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.FunctionDef))
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    start = first.end_lineno if documented else first.lineno - 1
    return "\n".join([*lines[function.lineno - 1 : first.lineno - 1], *lines[start:]])


def proof(entry: Claim) -> str:
    """The docstring of the check, its source and its code."""
    code = "\n\n".join(body(check) for check in (entry.check, *(companion.check for companion in entry.companions)))
    origin = entry.origin
    for key in entry.sources:
        origin = origin.replace(key, f"{{cite:t}}`{key}`")
    parts = [textwrap.dedent(inspect.getdoc(entry.check) or ""), f"Source: {origin}."]
    if entry.corrected:
        parts.append(f"Corrected in {entry.corrected}")
    parts.append(f"```python\n{code}\n```")
    return "\n\n".join(parts)


def links(entry: Claim, pages: list[str]) -> str:
    """Links to the code, the checks, the tests and the pages about a claim; a missing file fails the build."""
    code = CODE.get(entry.chapter)
    parts = [f"{{download}}`code </../{code}>`" if code else f"[code](/api/{entry.chapter}.md)"]
    checks = Path(inspect.getfile(entry.check)).relative_to(ROOT)
    tests = TESTS.get(entry.chapter, f"tests/test_{entry.chapter}.py")
    parts += [f"{{download}}`{name} </../{path}>`" for name, path in (("checks", checks), ("tests", tests))]
    parts += [f"[]({page})" for page in pages]
    return " · ".join(parts)


def drawn(entry: Claim) -> str:
    """The picture of a claim, or nothing for a claim without one."""
    if entry.id not in pictures.PICTURES:
        return ""
    return (
        f"```{{image}} /ledger/pictures/{entry.id.replace('.', '-')}.svg\n:alt: {pictures.PICTURES[entry.id][0]}\n```"
    )


def box(entry: Claim, outcome: Outcome, pages: list[str]) -> str:
    """The box of one claim, in MyST markup."""
    return f"""
({anchor(entry.id)})=

`````{{prf:{KINDS[entry.kind]}}} {"refuted: " * (entry.kind == "refutation")}{sentence(entry.id)}
:label: box-{anchor(entry.id)}

{statement(entry)}

{drawn(entry)}

````{{dropdown}} Proof and check
{proof(entry)}
````

````{{div}} ledger-measured
{measured(outcome)}

`{entry.id}` · {links(entry, pages)}
````
`````
"""


def keep_numbers(app: Sphinx, env: BuildEnvironment) -> None:
    """Number the boxes of a chapter by the list of identifiers, to which claims are only ever added.

    So a new claim, wherever it stands on its page, leaves the numbers of the others as they are.
    """
    listed = list(measurements.identifiers())
    for chapter in chapters():
        names = [name for name in listed if name.startswith(f"{chapter}.")]
        permanent = {f"box-{anchor(name)}": number for number, name in enumerate(names, 1)}
        for numbers in env.toc_fignumbers.get(f"ledger/{chapter}", {}).values():
            for box_id in numbers.keys() & permanent:
                numbers[box_id] = (*numbers[box_id][:-1], permanent[box_id])


class Generated(SphinxDirective):
    """A directive that writes MyST markup and lets Sphinx read it."""

    def parsed(self, text: str) -> list[nodes.Node]:
        holder = nodes.container()
        lines = StringList(text.splitlines(), source=self.get_source_info()[0])
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return holder.children


class LedgerChapter(Generated):
    """``{ledger-chapter} CHAPTER``: the boxes of all claims of a chapter."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        named = naming_pages()
        entries = [entry for entry in LEDGER.values() if entry.chapter == self.arguments[0]]
        if not entries:
            return self.parsed(f"No claim is about this chapter alone. {ELSEWHERE[self.arguments[0]]}")
        contents = [f"- {{prf:ref}}`box-{anchor(entry.id)}` {sentence(entry.id)}" for entry in entries]
        boxes = [box(entry, OUTCOMES[entry.id], named[entry.id]) for entry in entries]
        return self.parsed("\n".join(["```{div} contents-list", *contents, "```", *boxes]))


class LedgerSummary(Generated):
    """``{ledger-summary}``: how many claims of each kind there are, how many hold in this build, and the time."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        rows = []
        for chapter in chapters():
            outcomes = [o for o in OUTCOMES.values() if o.claim.chapter == chapter]
            if not outcomes:
                continue
            kinds = [sum(o.claim.kind == kind for o in outcomes) for kind in KINDS]
            good = sum(o.good and o.verdict != "skipped" for o in outcomes)
            seconds = f"{sum(o.seconds for o in outcomes):.1f}\N{NO-BREAK SPACE}s"
            link = f"[{title(chapter)}](/ledger/{chapter}.md)"
            cells = [link, *map(str, kinds), f"{good} of {len(outcomes)}", seconds]
            rows.append(f"| {' | '.join(cells)} |")
        head = "| chapter | theorems | properties | refutations | measurements | hold in this build | time |\n"
        head += "|---" * 7 + "|"
        pages = [f"{title(chapter)} <{chapter}>" for chapter in chapters()]
        toctree = ["", "```{toctree}", ":hidden:", ":numbered: 1", "", *pages, "```"]
        return self.parsed("\n".join([head, *rows, *toctree]))


class ClaimRole(SphinxRole):
    """``{claim}`ID```: a link to a claim; an unknown identifier is a warning."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if self.text not in LEDGER:
            logger.warning("no claim %r in the ledger", self.text, location=self.get_location())
            return [nodes.literal(self.text, self.text)], []
        reference = addnodes.pending_xref(
            "",
            nodes.literal(self.text, self.text, classes=["xref"]),
            refdomain="std",
            reftype="ref",
            reftarget=anchor(self.text),
            refexplicit=True,
            refwarn=True,
            refdoc=self.env.docname,
        )
        return [reference], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("ledger_require_tutorial", False, "env")
    app.add_role("claim", ClaimRole())
    app.add_directive("ledger-chapter", LedgerChapter)
    app.add_directive("ledger-summary", LedgerSummary)
    app.connect("builder-inited", write_pages, priority=1)
    app.connect("builder-inited", run_ledger)
    app.connect("env-updated", keep_numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
