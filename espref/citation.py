"""BibTeX for what was used, from the package's one bibliography, ``references.bib``."""

from __future__ import annotations

import re
from importlib.resources import files

from ._version import __version__

#: Year of this version.
YEAR = 2026

#: What ``cite()`` returns without keys: the package, and the two papers it is about.
DEFAULT = ("espref", "liu2025est", "shahbazi2025espformer")


def bibliography() -> dict[str, str]:
    """Key -> BibTeX entry: the package itself, then ``references.bib`` in its order."""
    text = files("espref").joinpath("references.bib").read_text(encoding="utf-8")
    entries = {
        "espref": "@software{espref,\n"
        "  title = {espref: a reference for expected sliced transport plans and {ESPFormer} attention},\n"
        "  author = {{The espref authors}},\n"
        f"  year = {{{YEAR}}},\n"
        f"  version = {{{__version__}}}\n"
        "}"
    }
    for entry in re.split(r"\n(?=@)", text.strip()):
        match = re.match(r"@\w+\{([^,]+),", entry)
        if match:
            entries[match.group(1)] = entry.strip()
    return entries


def cite(*keys: str) -> str:
    """BibTeX entries of the given keys; without keys, of espref and of the papers on sliced plans and on ESPFormer.

    Parameters
    ----------
    keys : str
        Keys of the bibliography, which docstrings name under "References" and claims as their sources.

    Returns
    -------
    str
        BibTeX, entries separated by an empty line.

    Raises
    ------
    ValueError
        For an unknown key; the message lists the known ones.

    Examples
    --------
    >>> from espref import cite
    >>> print(cite("prillo2020softsort").splitlines()[0])
    @inproceedings{prillo2020softsort,
    """
    entries = bibliography()
    for key in keys:
        if key not in entries:
            raise ValueError(f"keys: expected keys among {', '.join(entries)}, got {key!r}")
    return "\n\n".join(entries[key] for key in keys or DEFAULT)
