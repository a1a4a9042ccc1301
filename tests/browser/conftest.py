"""One headless Chromium for all tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert chromium, "chromium: not found; install it or name it in CHROMIUM"
    options = ["--no-sandbox", "--disable-gpu"]
    with sync_playwright() as p, p.chromium.launch(executable_path=chromium, args=options) as opened:
        yield opened
