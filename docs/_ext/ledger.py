"""The ledger as pages: every claim of espref.claims is run at each build and shown with the residual of that build.

* Pages ``ledger/<chapter>.md`` are written before Sphinx reads, one a chapter that has claims.
* ``{ledger-chapter} line`` shows the claims of a chapter, each with the anchor ``claim-<id>``.
* ``{ledger-summary}`` shows the counts of this build, and holds the table of contents of those pages.
* ``{claim}`line.marginals``` links to a claim; a tutorial names with it the claims it rests on.

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

import pictures
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

import espref.claims
import espref.train.claims  # the claims about training
from espref.chapters import in_order, title
from espref.claims.ledger import LEDGER, Claim, Outcome, run
from espref.claims.problems import real_problems, synthetic_problems

logger = logging.getLogger(__name__)
ROOT = Path(espref.__file__).parent.parent
#: sphinx-proof environment and name of each kind of claim.
KINDS = {"theorem": "theorem", "property": "property", "refutation": "proposition", "measurement": "observation"}
#: Chapters of several test files, and the one that is linked.
TESTS = {"nn": "tests/nn/test_nn_claims.py", "train": "tests/train/test_loop.py"}
#: Chapters whose code has no API page, and the file that is linked.
CODE = {"train": "espref/train/loop.py"}
NAMED = re.compile(r"\{claim\}`([^`]+)`")
OUTCOMES: dict[str, Outcome] = {}


def anchor(identifier: str) -> str:
    return "claim-" + identifier.replace(".", "-")


def sentence(identifier: str) -> str:
    """The readable part of an identifier."""
    return identifier.split(".", 1)[1].replace("-", " ")


def chapters() -> list[str]:
    """Chapters that have claims, in mathematical order."""
    return in_order({entry.chapter for entry in LEDGER.values()})


def statement(entry: Claim) -> str:
    """What a claim says, and how it is measured."""
    return f"{entry.statement}\n\n*Measured as:* {entry.measured}." if entry.measured else entry.statement


def naming_tutorials() -> dict[str, list[str]]:
    """Claim -> the tutorials that name it."""
    found = defaultdict(list)
    for page in sorted((ROOT / "tutorials").glob("[0-9]*.md")):
        for identifier in dict.fromkeys(NAMED.findall(page.read_text())):
            found[identifier].append(page.stem)
    return found


def run_ledger(app: Sphinx) -> None:
    """Run all claims on the synthetic and the real problems, and warn of those that fail."""
    problems = [*synthetic_problems(), *real_problems()]
    for outcome in run(LEDGER.values(), problems, app.config.ledger_seeds):
        OUTCOMES[outcome.claim.id] = outcome
        if not outcome.good:
            logger.warning("claim %s fails: %s, %s", outcome.claim.id, outcome.residual, outcome.note)
    named = naming_tutorials()
    unnamed = [identifier for identifier in LEDGER if identifier not in named]
    if unnamed and app.config.ledger_require_tutorial:
        logger.warning("no tutorial names %s", ", ".join(unnamed))


def write_pages(app: Sphinx) -> None:
    """One page a chapter, below docs/ledger/."""
    folder = Path(app.srcdir) / "ledger"
    wanted = {
        folder / f"{chapter}.md": f"# {title(chapter)}\n\n```{{ledger-chapter}} {chapter}\n```\n"
        for chapter in chapters()
    }
    for old in set(folder.glob("*.md")) - set(wanted) - {folder / "index.md"}:
        old.unlink()
    for page, text in wanted.items():
        page.write_text(text)
    pictures.write(folder / "pictures")
    for entry in LEDGER.values():
        if entry.kind == "refutation" and entry.id not in pictures.PICTURES:
            logger.warning("no picture of the refutation %s (docs/_ext/pictures.py)", entry.id)


def number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


def measured(outcome: Outcome) -> str:
    """One line: what this build measured."""
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
    """A check without its decorator and docstring, which the box shows in words."""
    lines = textwrap.dedent(inspect.getsource(check)).splitlines()
    function = next(node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.FunctionDef))
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    start = first.end_lineno if documented else first.lineno - 1
    return "\n".join([*lines[function.lineno - 1 : first.lineno - 1], *lines[start:]])


def proof(entry: Claim) -> str:
    """The docstring of the check, its source and its code."""
    code = "\n\n".join(body(check) for check in (entry.check, *(companion.check for companion in entry.companions)))
    cited = ", ".join(f"{{cite:t}}`{key.strip()}`" for key in entry.source.split(",") if key.strip())
    parts = [textwrap.dedent(inspect.getdoc(entry.check) or "")]
    if cited:
        parts.append(f"Source: {cited}.")
    parts.append(f"```python\n{code}\n```")
    return "\n\n".join(parts)


def links(entry: Claim, tutorials: list[str]) -> str:
    """To the code, the check, the tests and the tutorials of a claim; a file that is missing fails the build."""
    code = CODE.get(entry.chapter)
    parts = [f"{{download}}`code </../{code}>`" if code else f"[code](/api/{entry.chapter}.md)"]
    checks = Path(inspect.getfile(entry.check)).relative_to(ROOT)
    files = {"checks": checks, "tests": TESTS.get(entry.chapter, f"tests/test_{entry.chapter}.py")}
    parts += [f"{{download}}`{name} </../{path}>`" for name, path in files.items()]
    parts += [f"[](/tutorials/{stem}.md)" for stem in tutorials]
    return " · ".join(parts)


def drawn(entry: Claim) -> str:
    """The picture of a claim that has one."""
    if entry.id not in pictures.PICTURES:
        return ""
    return (
        f"```{{image}} /ledger/pictures/{entry.id.replace('.', '-')}.svg\n:alt: {pictures.PICTURES[entry.id][0]}\n```"
    )


def box(entry: Claim, outcome: Outcome, tutorials: list[str]) -> str:
    """One claim in MyST markup."""
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

`{entry.id}` · {links(entry, tutorials)}
````
`````
"""


class Generated(SphinxDirective):
    """A directive whose content is MyST text written here."""

    def parsed(self, text: str) -> list[nodes.Node]:
        holder = nodes.container()
        lines = StringList(text.splitlines(), source=self.get_source_info()[0])
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return holder.children


class LedgerChapter(Generated):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        named = naming_tutorials()
        entries = [entry for entry in LEDGER.values() if entry.chapter == self.arguments[0]]
        return self.parsed("\n".join(box(entry, OUTCOMES[entry.id], named[entry.id]) for entry in entries))


class LedgerSummary(Generated):
    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        rows = []
        for chapter in chapters():
            outcomes = [o for o in OUTCOMES.values() if o.claim.chapter == chapter]
            kinds = [sum(o.claim.kind == kind for o in outcomes) for kind in KINDS]
            stand = sum(o.good and o.verdict != "skipped" for o in outcomes)
            seconds = f"{sum(o.seconds for o in outcomes):.1f}\N{NO-BREAK SPACE}s"
            cells = [f"[](/ledger/{chapter}.md)", *map(str, kinds), f"{stand} of {len(outcomes)}", seconds]
            rows.append(f"| {' | '.join(cells)} |")
        head = "| chapter | theorems | properties | refutations | measurements | hold in this build | time |\n"
        head += "|---" * 7 + "|"
        toctree = ["", "```{toctree}", ":hidden:", ":numbered: 1", "", *chapters(), "```"]
        return self.parsed("\n".join([head, *rows, *toctree]))


class ClaimRole(SphinxRole):
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
    app.add_config_value("ledger_seeds", 1, "env")
    app.add_config_value("ledger_require_tutorial", False, "env")
    app.add_role("claim", ClaimRole())
    app.add_directive("ledger-chapter", LedgerChapter)
    app.add_directive("ledger-summary", LedgerSummary)
    app.connect("builder-inited", write_pages, priority=1)
    app.connect("builder-inited", run_ledger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
