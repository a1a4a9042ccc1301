"""The notebooks that the site offers run anywhere: each is executed in an empty folder. Needs a built site.

Building the site executes every page in an empty folder too, but the page, with this checkout at hand. Here the
downloads themselves are executed, with a copy of the package alone, as pip would install it: all how-to pages, and the
tutorials that read records, which the copy does not have.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build" / "html"
NOTEBOOKS = sorted(SITE.glob("tutorials/*.ipynb")) + sorted(SITE.glob("how-to/*.ipynb"))
READ_RECORDS = [path for path in NOTEBOOKS if "committed(" in path.read_text(encoding="utf-8")]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_every_page_has_its_notebook() -> None:
    """One download for each executed page."""
    pages = {path.with_suffix("") for name in ("tutorials", "how-to") for path in (SITE / name).glob("*.html")}
    assert {path.with_suffix("") for path in NOTEBOOKS} == {page for page in pages if page.stem != "index"}
    assert len(READ_RECORDS) >= 2


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that contains the package and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "espref", folder / "espref", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.parent.name == "how-to" or path in READ_RECORDS], ids=lambda p: p.stem
)
def test_notebook_runs_in_an_empty_folder(
    path: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell runs, with no other file beside the notebook."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
