"""BibTeX for what was used, from the package's one bibliography, ``references.bib``, and for espref itself."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from ._version import DATE, __version__

#: What ``cite()`` returns without keys: the package, and the two papers it is about.
DEFAULT = ("espref", "espref-misc", "liu2025est", "shahbazi2025espformer")
#: Host of the address that stands in pyproject.toml until the project has one.
PLACEHOLDER = "example.invalid"
TITLE = "espref: a reference for expected sliced transport plans and {ESPFormer} attention"


class Project(NamedTuple):
    """What pyproject.toml says of the project: authors, and the address of the repository."""

    authors: tuple[str, ...]
    repository: str

    @property
    def published(self) -> bool:
        """Whether the address is more than a placeholder."""
        return PLACEHOLDER not in self.repository


def project() -> Project:
    """Authors and address, from pyproject.toml in a checkout, else from the metadata of the installed package."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    if path.exists():
        table = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        return Project(tuple(author["name"] for author in table["authors"]), table["urls"]["Repository"])
    about = metadata.metadata("espref")
    addresses = dict(line.split(", ", 1) for line in about.get_all("Project-URL", []))
    return Project(tuple(about["Author"].split(", ")), addresses["Repository"])


def authors_in_bibtex() -> str:
    """The authors as a field of BibTeX; the name of a group is kept together by braces."""
    return " and ".join(f"{{{name}}}" if name.startswith("The ") else name for name in project().authors)


def bibliography() -> dict[str, str]:
    """Key -> BibTeX entry: the package itself, as @software and as @misc, then ``references.bib`` in its order."""
    fields = (
        f"  title = {{{TITLE}}},\n  author = {{{authors_in_bibtex()}}},\n  year = {{{DATE[:4]}}},\n"
        f"  version = {{{__version__}}},\n  url = {{{project().repository}}}\n}}"
    )
    entries = {
        "espref": f"@software{{espref,\n{fields}",
        "espref-misc": "% the same, for bibliography styles that do not know @software\n"
        + f"@misc{{espref-misc,\n{fields}".replace("version = {", "note = {Version "),
    }
    text = files("espref").joinpath("references.bib").read_text(encoding="utf-8")
    for entry in re.split(r"\n(?=@)", text.strip()):
        match = re.match(r"@\w+\{([^,]+),", entry)
        if match:
            entries[match.group(1)] = entry.strip()
    return entries


def cite(*keys: str) -> str:
    """BibTeX entries of the given keys; without keys, of espref and of the papers on sliced plans and on ESPFormer.

    Parameters
    ----------
    *keys : str
        Keys of the bibliography, which docstrings name under "References" and claims as their sources. "espref" is
        this package as @software, and "espref-misc" as @misc, for bibliography styles that do not know @software.

    Returns
    -------
    str
        BibTeX, entries separated by an empty line.

    Raises
    ------
    ValueError
        For an unknown key; the message lists the known ones.

    See Also
    --------
    espref.claims.cite_claim

    Examples
    --------
    >>> from espref import cite
    >>> print(cite("prillo2020softsort").splitlines()[0])
    @inproceedings{prillo2020softsort,
    """
    entries = bibliography()
    for key in keys:
        if key not in entries:
            claims = "; espref.claims.cite_claim cites claims" if "." in key else ""
            raise ValueError(f"keys: expected keys among {', '.join(entries)}, got {key!r}{claims}")
    return "\n\n".join(entries[key] for key in keys or DEFAULT)
