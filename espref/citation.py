"""BibTeX for what was used, from the package's one bibliography, ``references.bib``."""

from __future__ import annotations

import re
from importlib.resources import files

from ._version import __version__

#: What ``cite()`` returns when nothing is asked for: the package, and the two papers it stands on.
DEFAULT = ("espref", "liu2025est", "shahbazi2025espformer")


def bibliography() -> dict[str, str]:
    """Key -> BibTeX entry, in the order of the file; the package itself first."""
    text = files("espref").joinpath("references.bib").read_text(encoding="utf-8")
    entries = {
        "espref": "@software{espref,\n"
        "  title = {espref: a reference for expected sliced transport plans and {ESPFormer} attention},\n"
        "  author = {{The espref authors}},\n"
        f"  version = {{{__version__}}}\n"
        "}"
    }
    for entry in re.split(r"\n(?=@)", text.strip()):
        match = re.match(r"@\w+\{([^,]+),", entry)
        if match:
            entries[match.group(1)] = entry.strip()
    return entries


def cite(*keys: str) -> str:
    """BibTeX entries for the given keys; without keys, espref itself and the papers of the plan and of the attention.

    Parameters
    ----------
    keys : str
        Keys of the bibliography, as named under "References" in the docstrings and as sources of claims.

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
