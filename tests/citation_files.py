"""CITATION.cff and codemeta.json, written from pyproject.toml, espref/_version.py and espref/references.bib.

``make citation`` runs this after a change of version, authors or address; ``tests/test_citation.py`` holds the files to
it.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from espref._version import BASE, DATE
from espref.citation import DEFAULT, TITLE, bibliography, project

ROOT = Path(__file__).parent.parent
PAPERS = DEFAULT[2:]
ACCENTS = {r"{\'\i}": "í", r"{\'e}": "é"}
HEAD = """\
# Written by "make citation"; change the sources, not this file.
# Authors and address: "authors" and "[project.urls]" in pyproject.toml. A person is named as "Given Family";
# "The espref authors" stands for all until a person says otherwise. Version and date: espref/_version.py.
# Papers: espref/references.bib. A DOI of an archived release goes into tests/citation_files.py, as "doi".
"""


def author(name: str) -> dict[str, str]:
    """A person, or a group, whose name begins with "The"."""
    given, _, family = name.rpartition(" ")
    return {"name": name} if name.startswith("The ") else {"family-names": family, "given-names": given}


def field(entry: str, name: str) -> str | None:
    """A field of a BibTeX entry, in plain characters."""
    found = re.search(rf"^\s*{name} = \{{(.*)\}},?$", entry, flags=re.M)
    if found is None:
        return None
    text = found[1]
    for code, character in ACCENTS.items():
        text = text.replace(code, character)
    return re.sub(r"[{}]", "", text)


def paper(key: str) -> dict[str, Any]:
    """An entry of the bibliography as a reference of the Citation File Format."""
    entry = bibliography()[key]
    names = [name.split(", ") for name in field(entry, "author").split(" and ")]
    reference: dict[str, Any] = {
        "type": "conference-paper",
        "title": field(entry, "title"),
        "authors": [{"family-names": family, "given-names": given} for family, given in names],
        "conference": {"name": field(entry, "booktitle").removeprefix("Proceedings of the ")},
        "year": int(field(entry, "year")),
        "url": field(entry, "url"),
        "identifiers": [{"type": "other", "value": f"arXiv:{field(entry, 'eprint')}"}],
    }
    if pages := field(entry, "pages"):
        start, end = pages.split("--")
        reference |= {"collection-title": field(entry, "series"), "volume": int(field(entry, "volume"))}
        reference |= {"start": int(start), "end": int(end)}
    return reference


def citation() -> dict[str, Any]:
    """The content of CITATION.cff."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names, repository = project()
    software = {
        "title": re.sub(r"[{}]", "", TITLE),
        "authors": [author(name) for name in names],
        "version": BASE,
        "date-released": DATE,
        "license": table["license"],
        "repository-code": repository,
        "url": repository,
    }
    return {
        "cff-version": "1.2.0",
        "message": "If you use espref, please cite this software, and the paper of the method used (see references).",
        "type": "software",
        **software,
        "abstract": table["description"] + ".",
        "keywords": table["keywords"],
        "preferred-citation": {"type": "software", **software, "year": int(DATE[:4])},
        "references": [paper(key) for key in PAPERS],
    }


def codemeta() -> dict[str, Any]:
    """The content of codemeta.json, CodeMeta 2.0."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names, repository = project()
    persons = [author(name) for name in names]
    return {
        "@context": "https://doi.org/10.5063/schema/codemeta-2.0",
        "@type": "SoftwareSourceCode",
        "identifier": "espref",
        "name": "espref",
        "description": table["description"] + ".",
        "author": [
            {"@type": "Organization", "name": person["name"]}
            if "name" in person
            else {"@type": "Person", "givenName": person["given-names"], "familyName": person["family-names"]}
            for person in persons
        ],
        "version": BASE,
        "softwareVersion": BASE,
        "dateModified": DATE,
        "license": f"https://spdx.org/licenses/{table['license']}",
        "codeRepository": repository,
        "issueTracker": f"{repository}/issues",
        "readme": f"{repository}/blob/main/README.md",
        "keywords": table["keywords"],
        "programmingLanguage": "Python",
        "runtimePlatform": f"Python {table['requires-python']}",
        "softwareRequirements": table["dependencies"],
        "developmentStatus": "active",
        "referencePublication": [field(bibliography()[key], "url") for key in PAPERS],
    }


def to_yaml(value: Any, indent: str = "") -> str:
    """Nested dictionaries and lists as YAML in block style; texts are quoted as in JSON, which YAML contains."""
    if isinstance(value, dict):
        lines = []
        for name, item in value.items():
            nested = isinstance(item, dict | list)
            lines.append(f"{indent}{name}:" + ("\n" + to_yaml(item, indent + "  ") if nested else f" {to_yaml(item)}"))
        return "\n".join(lines)
    if isinstance(value, list):
        items = (to_yaml(item, indent + "  ") for item in value)
        return "\n".join(f"{indent}- {item.removeprefix(indent + '  ')}" for item in items)
    return json.dumps(value, ensure_ascii=False)


def files() -> dict[Path, str]:
    """Both files, as they should be."""
    return {
        ROOT / "CITATION.cff": f"{HEAD}{to_yaml(citation())}\n",
        ROOT / "codemeta.json": json.dumps(codemeta(), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(path.name)
