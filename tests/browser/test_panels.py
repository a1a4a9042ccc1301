"""The interactive figures: their numbers are NumPy's, and they work by keyboard, by touch, from disk, and not at all.

Each panel stands alone on a page that is read from disk, as in a site that was downloaded.
"""

from __future__ import annotations

import html
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

import espref as es

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import panels  # noqa: E402  (an extension of the site)

NAMES = tuple(panels.PANELS)


def write_page(folder: Path, name: str) -> Path:
    """A page with one panel and copies of the scripts."""
    shutil.copytree(DOCS / "_static" / "panels", folder / "panels", dirs_exist_ok=True)
    panel = panels.PANELS[name]
    state = html.escape(json.dumps(panel.state()))
    page = folder / f"{name}.html"
    page.write_text(
        '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><link rel="stylesheet" '
        'href="panels/panels.css"><script defer src="panels/core.js"></script><script defer src="panels/panels.js">'
        f'</script><div class="espref-panel" data-panel="{name}" data-state="{state}">'
        f'<img class="static" src="{panels.picture(panel)}" alt="{html.escape(panel.alt)}"></div></html>',
        encoding="utf-8",
    )
    return page


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    """Open the page of a panel; a script error fails the test."""
    pages: list[Page] = []
    errors: list[str] = []

    def open_page(name: str, **options: Any) -> Page:
        page = browser.new_page(**options)
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(write_page(tmp_path, name).as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not errors


def random_state(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Any state that a panel can be brought to; points are on a grid now and then, so that projections tie."""
    n, m = rng.integers(1, 9, 2)
    x, y = rng.uniform(-1.9, 1.9, (n, 2)), rng.uniform(-1.9, 1.9, (m, 2))
    if rng.integers(2):
        x, y = x.round(0), y.round(0)
    slices = int(rng.integers(1, 40))
    if name == "slices":
        return {"x": x.tolist(), "y": y.tolist(), "extent": 2, "slices": slices, "index": int(rng.integers(slices))}
    if name == "beta":
        return {
            "x": x.tolist(),
            "y": y.tolist(),
            "extent": 2,
            "slices": slices,
            "beta": float(10 ** rng.uniform(-2, 3)),
        }
    if name == "soft-sort":
        return {"s": rng.uniform(-2, 2, n).tolist(), "tau": float(10 ** rng.uniform(-2.5, 1.5))}
    q, k = rng.normal(size=(2, n + 1, 5)).tolist()
    tau, beta = 10.0 ** rng.uniform(-3, 1.5), 10.0 ** rng.uniform(-2, 2)
    return {"q": q, "k": k, "d": int(rng.integers(1, 6)), "tau": float(tau), "beta": float(beta)}


def expected_numbers(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """What a panel shows, computed by the package."""
    if name in ("slices", "beta"):
        x, y = np.array(state["x"]), np.array(state["y"])
        angles = np.pi * (np.arange(state["slices"]) + 0.5) / state["slices"]
        directions = np.column_stack([np.cos(angles), np.sin(angles)])
        costs = es.slice_costs(x, y, directions)
    if name == "slices":
        plans = [plan.toarray() for plan in es.sliced_plans(x, y, directions)]
        mean = np.mean(plans[: state["index"] + 1], axis=0)
        theta = directions[state["index"]]
        return {"costs": costs, "plan": plans[state["index"]], "mean": mean, "u": x @ theta, "v": y @ theta,
                "meanCost": es.transport_cost(mean, x, y)}  # fmt: skip
    if name == "beta":
        tilted = es.expected_sliced_plan(x, y, directions, beta=state["beta"])
        weights = tilted.weights
        return {"costs": costs, "weights": weights, "plan": tilted.plan.toarray(), "cost": tilted.cost,
                "effective": 1 / np.sum(weights**2)}  # fmt: skip
    if name == "soft-sort":
        permutation = es.soft_permutation(state["s"], state["tau"])
        return {"permutation": permutation, "sorted": es.soft_sort(state["s"], state["tau"]),
                "columns": permutation.sum(axis=0)}  # fmt: skip
    q, k = (np.array(state[part])[:, : state["d"]] for part in "qk")
    esp = es.esp_attention(q, k, k, tau=state["tau"], beta=state["beta"]).matrix
    return {"matrices": [esp, es.softmax_attention(q, k, k).matrix]}


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_numpy(show: Any, name: str) -> None:
    """On 40 random states every number of a panel is the package's to 1e-9.

    States of grid points are compared along slices without near ties: there the order of two projections would depend
    on the last bit of a cosine.
    """
    page, rng = show(name), np.random.default_rng(0)
    compared = 0
    for _ in range(40):
        state = random_state(name, rng)
        if name in ("slices", "beta"):
            angles = np.pi * (np.arange(state["slices"]) + 0.5) / state["slices"]
            directions = np.column_stack([np.cos(angles), np.sin(angles)])
            gaps = [np.diff(np.sort(np.array(state[cloud]) @ theta)) for cloud in "xy" for theta in directions]
            if any(((gap > 0) & (gap < 1e-9)).any() for gap in gaps):
                continue
        found = page.evaluate(
            "state => { const panel = document.querySelector('.espref-panel').espref;"
            " Object.assign(panel.state, state); return panel.numbers(); }",
            state,
        )
        for key, value in expected_numbers(name, state).items():
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-9, err_msg=f"{name}: {key}")
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("viewport", [{"width": 1200, "height": 800}, {"width": 390, "height": 800}])
def test_nothing_is_cut(show: Any, name: str, viewport: dict[str, int]) -> None:
    """The picture is gone, and no part of the panel is wider than the page."""
    page = show(name, viewport=viewport)
    assert page.locator(".espref-panel.ready").count() == 1 and page.locator("img.static").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("name", NAMES)
def test_sliders_by_keyboard(show: Any, name: str) -> None:
    """Every slider changes what is drawn, and says its value."""
    page = show(name)
    for slider in page.locator("input[type=range]").all():
        before = page.locator(".views").inner_html() + page.locator(".views").inner_text()
        slider.focus()
        page.keyboard.press("PageUp")
        assert page.locator(".views").inner_html() + page.locator(".views").inner_text() != before
        assert slider.get_attribute("aria-valuetext") == slider.locator("xpath=following-sibling::output").inner_text()


@pytest.mark.parametrize("name", ["slices", "beta", "soft-sort"])
def test_points_by_keyboard(show: Any, name: str) -> None:
    """A point in focus moves with the arrow keys, and everything that depends on it with it."""
    page = show(name)
    read = "() => JSON.stringify(document.querySelector('.espref-panel').espref.state)"
    for handle in page.locator(".handle").all():
        before = page.evaluate(read)
        handle.focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate(read) != before
        assert handle.get_attribute("aria-label")


@pytest.mark.parametrize("name", ["slices", "beta", "soft-sort"])
def test_points_by_mouse(show: Any, name: str) -> None:
    """A point follows the pointer."""
    page = show(name, viewport={"width": 1200, "height": 900})
    handle = page.locator(".handle").first
    start = handle.bounding_box()
    assert start is not None
    x, y = start["x"] + start["width"] / 2, start["y"] + start["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 17, y, steps=4)
    page.mouse.up()
    end = handle.bounding_box()
    assert end is not None and abs(end["x"] - start["x"] - 17) < 1.5


@pytest.mark.parametrize("name", NAMES)
def test_without_scripts(show: Any, name: str) -> None:
    """Without JavaScript the static picture is there, with a text that says what it shows."""
    page = show(name, java_script_enabled=False)
    image = page.locator("img.static")
    assert image.count() == 1 and len(image.get_attribute("alt") or "") > 40
