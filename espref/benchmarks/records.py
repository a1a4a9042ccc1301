"""The committed records of benchmarks and studies, for the pages that show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "records"


def committed(pattern: str) -> dict[str, dict[str, Any]]:
    """Records of ``docs/records`` whose name matches a shell pattern: name -> content, in alphabetical order.

    Empty where espref is installed without its repository.
    """
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{pattern}.json"))}
