"""``espref plan``: the expected sliced plan between two files, its cost beside that of other plans, a picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._checks import Array, as_count
from .._output import atomic, check_writable
from ..directions import METHODS, direction_weights, sample_directions
from ..expected import SlicedPlan, expected_sliced_plan
from ..lift import transport_cost
from .files import add_weight_options, read_clouds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Number of directions by default. The scheme "axes" has as many as there are dimensions.
DEFAULT_SLICES = 128
SLICES = {"lebedev": 110}

#: Exact OT and Sinkhorn hold a dense matrix: beyond this many pairs of points they are left out.
MOST_PAIRS = 4_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``espref plan``."""
    parser.add_argument("source", type=Path, help=".npy or .csv, one row per point")
    parser.add_argument("target", type=Path, help=".npy or .csv, one row per point")
    output = "where the plan is saved; scipy.sparse.load_npz reads it"
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=output)
    parser.add_argument("--png", type=Path, metavar="FILE", help="a picture of the plan")
    add_weight_options(parser)
    parser.add_argument("--slices", type=int, metavar="L", help=f"number of directions (default {DEFAULT_SLICES})")
    parser.add_argument("--method", choices=METHODS, default="random", help="scheme of directions (default random)")
    parser.add_argument("--beta", type=float, default=0.0, help="inverse temperature over slices (default 0, the mean)")
    parser.add_argument("--p", type=float, default=2.0, help="exponent of the ground cost |x - y|^p (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of random directions (default 0)")


def run_command(options: argparse.Namespace) -> int:
    """Compute the plan, print its cost beside others, and save it."""
    for path in (options.output, options.png):
        check_writable(path)
    x, y, a, b = read_clouds(options)
    default = x.shape[1] if options.method == "axes" else SLICES.get(options.method, DEFAULT_SLICES)
    count = as_count(default if options.slices is None else options.slices, "--slices")
    seed = as_count(options.seed, "--seed", least=0)
    directions = sample_directions(count, x.shape[1], method=options.method, rng=seed)
    prior = direction_weights(count, x.shape[1], method=options.method)
    result = expected_sliced_plan(x, y, directions, a, b, beta=options.beta, p=options.p, prior=prior)
    print(f"{len(x)} source and {len(y)} target points in R^{x.shape[1]}, cost |x - y|^{options.p:g}")
    for line in _costs(result, x, y, a, b, options.p):
        print(line, flush=True)
    picture = _picture(result, x, y) if options.png else None
    with atomic(options.output) as draft, draft.open("wb") as file:
        sparse.save_npz(file, result.plan)
    if picture is not None:
        with atomic(options.png) as draft:
            picture.savefig(draft, format="png", dpi=150, facecolor="white")
    return 0


def _costs(result: SlicedPlan, x: Array, y: Array, a: Array | None, b: Array | None, p: float) -> Iterator[str]:
    """One line for the cost of the expected plan, and one for each plan it is compared with."""

    def line(name: str, cost: float, comment: str) -> str:
        return f"{name:<22}{cost:>14.6g}   {comment}"

    slices = len(result.costs)
    yield line("expected sliced plan", result.cost, f"{slices} slices, {result.plan.nnz} entries")
    yield line("cheapest slice", result.costs.min(), "the min-sliced plan")
    if len(x) * len(y) > MOST_PAIRS:
        yield f"exact and entropic transport are left out beyond {MOST_PAIRS:.0e} pairs of points"
        return
    if find_spec("ot") is None:
        yield "exact and entropic transport need POT: pip install 'espref[verify]'"
        return
    from .. import solvers

    yield line("exact transport", solvers.exact_plan(x, y, a, b, p=p).cost, "the least of all plans")
    weights = [np.full(len(c), 1 / len(c)) if w is None else w for c, w in ((x, a), (y, b))]
    independent = transport_cost(np.outer(*weights), x, y, p=p)
    if independent > 0:
        try:
            entropic = solvers.sinkhorn_plan(x, y, 0.05 * independent, a, b, p=p, n_iter=2000).cost
            yield line("entropic (Sinkhorn)", entropic, f"regularisation {0.05 * independent:.3g}")
        except RuntimeError as error:
            yield f"entropic (Sinkhorn)      {error}"
    yield line("independent coupling", independent, "every source point to all targets")


def _picture(result: SlicedPlan, x: Array, y: Array) -> Figure:
    """The plan as lines between the clouds and as a matrix."""
    from ..plot import draw_matrix, draw_plan, new_figure

    figure, (left, right) = new_figure(9, 4, columns=2)
    draw_plan(left, result.plan, x, y, f"expected sliced plan, cost {result.cost:.4g}")
    draw_matrix(right, result.plan, "the same as a matrix")
    return figure
