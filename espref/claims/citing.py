"""How a claim is cited: a BibTeX entry and a sentence, with what a run of the ledger measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .._environment import environment
from ..citation import authors_in_bibtex, cite, project
from .ledger import LEDGER
from .measurements import Document, read

VERDICTS = {"holds": "holds", "refuted": "is refuted as stated"}


def cite_claim(identifier: str, run: Path | None = None) -> str:
    """BibTeX of a claim and of its sources, then a sentence that cites it.

    Parameters
    ----------
    identifier : str
        A claim's identifier, such as "line.marginals".
    run : path, optional
        A document of ``espref verify --json``. The citation then has the version, commit and year of that run, the
        residual and the verdict, and the SHA-256 of the document. Without it, it has those of now, and no residual.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        For an unknown identifier, or a file that is no such document or does not hold the claim.

    See Also
    --------
    espref.cite

    Examples
    --------
    >>> from espref.claims import cite_claim
    >>> print(cite_claim("line.marginals").splitlines()[0])
    @misc{espref-line-marginals,
    """
    if identifier not in LEDGER:
        raise ValueError(f"identifier: expected one of a claim (espref verify --list), got {identifier!r}")
    entry = LEDGER[identifier]
    if run is None:
        version = _version(environment())
        result = f"{entry.sense} {entry.tolerance:g}, not measured in this citation"
        sentence = f"Claim {identifier} of {version}; tolerance: {result}."
        sources, origin, date = entry.sources, entry.origin, environment()["date"]
    else:
        document, checksum = read(run)
        found = _entry(document, identifier, run)
        version, date = _version(document["environment"]), document["environment"]["date"]
        result = f"{_result(found)}; {run.name}, SHA-256 {checksum}"
        verdict = VERDICTS.get(found["verdict"], f"has the verdict “{found['verdict']}”")
        sentence = f"Claim {identifier} of {version} {verdict}: {result}."
        sources, origin = found["source"], found["origin"]
    note = re.sub(r"([#%&_])", r"\\\1", f"{version}; {entry.kind}, {origin}; {result}")
    bibtex = (
        f"@misc{{espref-{identifier.replace('.', '-')},\n"
        f"  title = {{Claim \\texttt{{{identifier}}} in the ledger of espref}},\n"
        f"  author = {{{authors_in_bibtex()}}},\n  year = {{{date[:4]}}},\n"
        f"  note = {{{note}}},\n"
        f"  url = {{{project().repository}}}\n}}"
    )
    return "\n\n".join([bibtex, *([cite(*sources)] if sources else []), sentence])


def _version(made_with: dict[str, Any]) -> str:
    """Version and commit in words."""
    changed = " with uncommitted changes" if made_with["dirty"] else ""
    commit = f"commit {made_with['commit']}{changed}" if made_with["commit"] else "commit unknown"
    return f"espref {made_with['espref']} ({commit})"


def _entry(document: Document, identifier: str, run: Path) -> dict[str, Any]:
    """The claim in the document."""
    for found in document["claims"]:
        if found["id"] == identifier:
            entry: dict[str, Any] = found
            return entry
    raise ValueError(f"{run}: no measurement of {identifier} in it")


def _result(found: dict[str, Any]) -> str:
    """Residual and tolerance in words."""
    bound = f"{found['sense']} {found['tolerance']:g}"
    if found["residual"] is None:
        return f"no residual, tolerance: {bound}"
    worst = f", worst on {found['worst']}" if found["runs"] > 1 else ""
    return f"residual {found['residual']:.2g}, tolerance: {bound}{worst}"
