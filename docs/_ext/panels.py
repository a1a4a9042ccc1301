"""Interactive figures: ``{panel} slices`` with a caption as its content.

The page gets the state a panel starts from, as JSON, and a picture of it, which is what readers without JavaScript see.
The script ``_static/panels/panels.js`` replaces the picture. State and picture are computed here with the package.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from docutils import nodes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from themes import themed

import espref as es
from espref.plot import MASS, SOURCE, TARGET

State = dict[str, Any]


class Panel(NamedTuple):
    """Where a panel starts, how its static picture is drawn, and what the picture shows."""

    state: Callable[[], State]
    draw: Callable[[State, Figure], None]
    alt: str


def three_by_three() -> State:
    """The worked example of the course: the bakeries and cafés of tutorial 0."""
    return {"x": [[0, 2], [-2, -1], [1, -2]], "y": [[3, 1], [1, 3], [-1, 0]], "extent": 3.6}


def _slices() -> State:
    return {**three_by_three(), "slices": 36, "index": 5}


def _ring() -> State:
    rng = np.random.default_rng(5)
    angle = 2 * np.pi * (np.arange(10) + rng.uniform(-0.3, 0.3, 10)) / 10
    x = 1.4 * np.column_stack([np.cos(angle), np.sin(angle)])
    y = rng.normal(size=(10, 2)) * [0.5, 0.25] + [0.3, 0.2]
    return {"x": x.round(2).tolist(), "y": y.round(2).tolist(), "extent": 2, "slices": 60, "beta": 5.0}


def _scores() -> State:
    return {"s": [0.3, -1.2, 1.0, 0.8, -0.4], "tau": 0.2}


def _tokens() -> State:
    rng = np.random.default_rng(10)
    q, k = rng.normal(size=(2, 12, 16)).round(3)
    return {"q": q.tolist(), "k": k.tolist(), "d": 4, "tau": 0.1, "beta": 1.0}


def _draw_plan(ax: Any, plan: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    for i, j in zip(*np.nonzero(plan > 1e-4), strict=True):
        ax.plot(*zip(x[i], y[j], strict=True), color=MASS, lw=1 + 4 * len(x) * plan[i, j], alpha=0.6)
    ax.plot(*x.T, "o", color=SOURCE)
    ax.plot(*y.T, "s", color=TARGET)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)


def _clouds(state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    directions = es.sample_directions(state["slices"], dim=2, method="equispaced")
    return np.array(state["x"]), np.array(state["y"]), directions


def _draw_slices(state: State, figure: Figure) -> None:
    x, y, directions = _clouds(state)
    left, right = figure.subplots(1, 2)
    _draw_plan(left, es.sliced_plans(x, y, directions)[state["index"]].toarray(), x, y)
    angles = 180 * (np.arange(state["slices"]) + 0.5) / state["slices"]
    costs = es.slice_costs(x, y, directions)
    right.step(angles, costs, where="mid", color=SOURCE)
    right.plot(angles[state["index"]], costs[state["index"]], "o", color=TARGET)
    right.set(xlabel="angle of the direction, degrees", ylabel="cost", xlim=(0, 180))


def _draw_beta(state: State, figure: Figure) -> None:
    x, y, directions = _clouds(state)
    left, right = figure.subplots(1, 2)
    _draw_plan(left, es.expected_sliced_plan(x, y, directions, beta=state["beta"]).plan.toarray(), x, y)
    betas = np.logspace(-2, 3, 81)
    costs = es.slice_costs(x, y, directions)
    right.semilogx(betas, [es.gibbs_weights(costs, beta) @ costs for beta in betas], color=SOURCE)
    right.set(xlabel="β", ylabel="cost of the tilted plan")


def _draw_soft_sort(state: State, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    left.imshow(es.soft_permutation(state["s"], state["tau"]), vmin=0, vmax=1)
    left.set(xlabel="score", ylabel="rank", xticks=[], yticks=[])
    moves = np.linspace(-2, 2, 121)
    right.plot(moves, [es.soft_sort([s, *state["s"][1:]], state["tau"]) for s in moves], color=SOURCE)
    right.set(xlabel="score 1", ylabel="soft sorted values")


def _draw_attention(state: State, figure: Figure) -> None:
    q, k = (np.array(state[name])[:, : state["d"]] for name in "qk")
    matrices = {
        "ESP": es.esp_attention(q, k, k, tau=state["tau"], beta=state["beta"]).matrix,
        "softmax": es.softmax_attention(q, k, k).matrix,
    }
    most = max(matrix.max() for matrix in matrices.values())
    for ax, (name, matrix) in zip(figure.subplots(1, 2), matrices.items(), strict=True):
        image = ax.imshow(matrix, vmin=0, vmax=most)
        ax.set(title=name, xlabel="keys", ylabel="queries", xticks=[], yticks=[])
    figure.colorbar(image, ax=ax)


PANELS = {
    "slices": Panel(
        _slices,
        _draw_slices,
        "Left, three source and three target points joined by the plan of one slice. Right, the cost of a slice "
        "against the angle of its direction: a curve of steps, with a dot at the slice on the left.",
    ),
    "beta": Panel(
        _ring,
        _draw_beta,
        "Left, ten source points on a ring around ten target points, joined by their tilted plan. Right, the cost of "
        "the tilted plan against beta: it falls from left to right.",
    ),
    "soft-sort": Panel(
        _scores,
        _draw_soft_sort,
        "Left, the soft permutation of five scores: a blurred permutation matrix. Right, the five soft sorted values "
        "while the first score moves: smooth curves that hardly cross.",
    ),
    "attention": Panel(
        _tokens,
        _draw_attention,
        "The matrices of ESP and of softmax attention between twelve queries and keys, on one colour scale.",
    ),
}


def picture(panel: Panel) -> str:
    """The static picture, as the address of an SVG."""
    with matplotlib.style.context("espref.figures"):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        panel.draw(panel.state(), figure)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(themed(file.getvalue().decode()).encode()).decode()


class PanelDirective(SphinxDirective):
    """``{panel} name``: the content is the caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        panel = PANELS[name]
        state = html.escape(json.dumps(panel.state()))
        before = (
            f'<div class="espref-panel" data-panel="{name}" data-state="{state}">'
            f'<img class="static" src="{picture(panel)}" alt="{html.escape(panel.alt)}">'
        )
        caption = nodes.container(classes=["panel-caption"])
        self.state.nested_parse(self.content, self.content_offset, caption)
        return [nodes.raw("", before, format="html"), nodes.raw("", "</div>", format="html"), caption]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("panel", PanelDirective)
    app.add_css_file("panels/panels.css")
    app.add_js_file("panels/core.js", loading_method="defer")
    app.add_js_file("panels/panels.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
