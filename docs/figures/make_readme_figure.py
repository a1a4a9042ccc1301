"""The figure of the README: one slice, the expected plan and the exact plan between the same two clouds.

Run from the project's root: python docs/figures/make_readme_figure.py
"""

from pathlib import Path

import numpy as np

from espref import expected_sliced_plan, sample_directions, sliced_plans, transport_cost
from espref.plot import draw_plan, new_figure
from espref.solvers import exact_plan


def main() -> None:
    """Draw and write the figure."""
    rng = np.random.default_rng(3)
    angle = rng.uniform(0, 2 * np.pi, 40)
    x = np.column_stack([np.cos(angle), np.sin(angle)]) + 0.08 * rng.normal(size=(40, 2))
    y = np.array([2.6, 0.0]) + rng.normal(size=(40, 2)) * [0.25, 0.9]

    directions = sample_directions(64, 2, method="equispaced")
    slice_plan = sliced_plans(x, y, directions[:1])[0]
    expected = expected_sliced_plan(x, y, directions, beta=8)
    exact = exact_plan(x, y)

    figure, axes = new_figure(10, 3.4, columns=3)
    cost = transport_cost(slice_plan, x, y)
    draw_plan(axes[0], slice_plan, x, y, f"one slice, cost {cost:.2f}")
    draw_plan(axes[1], expected.plan, x, y, f"64 slices, β = 8, cost {expected.cost:.2f}")
    draw_plan(axes[2], exact.plan, x, y, f"exact, cost {exact.cost:.2f}")
    for ax in axes[1:]:
        ax.get_legend().remove()
    for text in (*(ax.title for ax in axes), *axes[0].get_legend().get_texts()):
        text.set_color("#333333")  # the picture is always on white
    figure.savefig(Path(__file__).parent.parent / "_static" / "readme.png", dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
