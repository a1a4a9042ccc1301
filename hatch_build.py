"""What the build adds to pyproject.toml: version and commit by espref/_version.py, and a README with full addresses."""

from __future__ import annotations

import re
import runpy
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


def code_of(root: str) -> dict[str, Any]:
    """The names in espref/_version.py."""
    return runpy.run_path(str(Path(root, "espref", "_version.py")))


def with_full_addresses(readme: str, repository: str) -> str:
    """The README with pictures and links that also lead somewhere when a package index shows it."""
    readme = re.sub(r"(!\[[^]]*\])\((?!https?:)([^)#]+)\)", rf"\1({repository}/raw/main/\2)", readme)
    return re.sub(r"\]\((?!https?:)([^)#]+)\)", rf"]({repository}/blob/main/\1)", readme)


class Metadata(MetadataHookInterface):
    """The two dynamic fields of pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        code = code_of(self.root)
        metadata["version"] = code["with_commit"](code["BASE"], code["commit"]())
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = with_full_addresses(readme, metadata["urls"]["Repository"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


class Commit(BuildHookInterface):
    """``espref/_commit.txt``: hash and date of the commit, in wheels and sdists that are built from a checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        name = code_of(self.root)["commit"]()
        if version == "editable" or name is None or not Path(self.root, ".git").exists():
            return
        words = ["git", "show", "--no-patch", "--format=%cs", "HEAD"]
        date = subprocess.run(words, cwd=self.root, capture_output=True, text=True, check=True).stdout.strip()
        with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as self.file:
            self.file.write(f"{name} {date}\n")
        build_data["force_include"][self.file.name] = "espref/_commit.txt"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "file"):
            Path(self.file.name).unlink(missing_ok=True)
