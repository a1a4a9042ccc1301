"""``espref plan``: the expected sliced plan between two files, saved, with its cost beside that of other plans."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from .._checks import Array, as_count
from .._environment import environment
from .._output import atomic, check_distinct, check_writable
from ..directions import METHODS, direction_weights, sample_directions
from ..expected import SlicedPlan, expected_sliced_plan
from ..lift import transport_cost
from ..plot import house_style
from ..scales import HOW, standardise
from .files import Clouds, add_file_options, inputs_of, read_clouds
from .numbers import option_number, option_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Number of directions by default. The scheme "axes" has as many as there are dimensions.
DEFAULT_SLICES = 128
SLICES = {"lebedev": 110}

#: Exact OT and Sinkhorn hold a dense matrix: beyond this many pairs of points they are left out.
MOST_PAIRS = 4_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``espref plan``."""
    cloud = "one row per point: .csv, .tsv, .txt, .npy, .npz (FILE.npz:name) or .parquet"
    parser.add_argument("source", type=Path, help=cloud)
    parser.add_argument("target", type=Path, help="the same for the target")
    output = "where the plan is saved (.npz); scipy.sparse.load_npz reads it, numpy.load all that belongs to it"
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=output)
    parser.add_argument("--png", type=Path, metavar="FILE", help="a picture of the plan")
    parser.add_argument("--slices", type=option_whole, metavar="L", help=f"number of directions ({DEFAULT_SLICES})")
    parser.add_argument("--method", choices=METHODS, default="random", help="scheme of directions (default random)")
    beta = "inverse temperature over slices (default 0, the mean; inf, the cheapest)"
    parser.add_argument("--beta", type=option_number, default=0.0, help=beta)
    p = "exponent of the ground cost |x - y|^p (default 2)"
    parser.add_argument("--p", type=option_number, default=2.0, help=p)
    parser.add_argument("--seed", type=option_whole, default=0, help="of random directions (default 0)")
    units = "mean 0 and standard deviation 1 in every column: of both clouds together, or of each by itself"
    parser.add_argument("--standardise", choices=HOW, help=units)
    add_file_options(parser)


def run_command(options: argparse.Namespace) -> int:
    """Compute the plan, save it, and print its cost beside that of other plans."""
    check_writable(options.output, (".npz",))
    check_writable(options.png, (".png",))
    check_distinct({"--output": options.output, "--png": options.png}, inputs_of(options))
    if options.png and find_spec("matplotlib") is None:
        raise ImportError("--png needs matplotlib: pip install 'espref[verify]'")
    clouds = read_clouds(options)
    for line in clouds.said:
        print(line)
    if options.standardise:
        scaled = standardise(*clouds[:2], options.standardise, *clouds[2:4])
        clouds = clouds._replace(x=scaled.x, y=scaled.y)
        print(f"standardised {'together' if options.standardise == 'joint' else 'each by itself'}: mean 0, deviation 1")
    x, y, a, b = clouds[:4]
    default = x.shape[1] if options.method == "axes" else SLICES.get(options.method, DEFAULT_SLICES)
    count = as_count(default if options.slices is None else options.slices, "--slices")
    seed = as_count(options.seed, "--seed", least=0)
    directions = sample_directions(count, x.shape[1], method=options.method, rng=seed)
    prior = direction_weights(count, x.shape[1], method=options.method)
    result = expected_sliced_plan(x, y, directions, a, b, beta=options.beta, p=options.p, prior=prior)
    _save(options.output, result, _about(result, clouds, directions, prior, options))
    failure = _save_picture(options.png, result, x, y) if options.png else None
    print(f"{len(x)} source and {len(y)} target points in R^{x.shape[1]}, cost |x - y|^{options.p:g}")
    for line in _costs(result, x, y, a, b, options.p):
        print(line, flush=True)
    if failure is not None:
        raise failure
    return 0


def _about(
    result: SlicedPlan, clouds: Clouds, directions: Array, prior: Array, options: argparse.Namespace
) -> dict[str, Any]:
    """What belongs to a plan: everything that it was computed from, and with what."""
    x, y, a, b = clouds[:4]
    made_with = environment(clouds.inputs)
    return {
        "a": np.full(len(x), 1 / len(x)) if a is None else a,
        "b": np.full(len(y), 1 / len(y)) if b is None else b,
        "directions": directions,
        "prior": prior,
        "slice_costs": result.costs,
        "slice_weights": result.weights,
        "cost": result.cost,
        "beta": options.beta,
        "p": options.p,
        "method": options.method,
        "seed": options.seed,
        "standardise": options.standardise or "",
        "columns": np.array(clouds.names or [], dtype=str),
        "version": made_with["espref"],
        "commit": made_with["commit"] or "",
        "input_names": np.array([file["name"] for file in made_with["inputs"]]),
        "input_sha256": np.array([file["sha256"] for file in made_with["inputs"]]),
        "environment": json.dumps(made_with),
    }


def _save(path: Path, result: SlicedPlan, about: dict[str, Any]) -> None:
    """One archive: the sparse matrix as ``scipy.sparse.save_npz`` writes it, and what belongs to it."""
    matrix = io.BytesIO()
    sparse.save_npz(matrix, result.plan)
    matrix.seek(0)
    with np.load(matrix) as fields, atomic(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **fields, **about)


def _save_picture(path: Path, result: SlicedPlan, x: Array, y: Array) -> ValueError | None:
    """Draw and save the picture; what prevents it is returned, so that the costs are printed first."""
    try:
        with house_style():
            picture = io.BytesIO()
            _picture(result, x, y).savefig(picture, format="png", dpi=150, facecolor="white")
    except Exception as error:  # matplotlib, and what it calls, may raise anything
        return ValueError(f"{path}: the picture cannot be drawn: {error}")
    try:
        with atomic(path) as draft:
            draft.write_bytes(picture.getvalue())
    except ValueError as error:
        return error
    return None


def _costs(result: SlicedPlan, x: Array, y: Array, a: Array | None, b: Array | None, p: float) -> Iterator[str]:
    """One line for the cost of the expected plan, and one for each plan it is compared with."""

    def line(name: str, cost: float, comment: str) -> str:
        return f"{name:<22}{cost:>14.6g}   {comment}"

    slices = len(result.costs)
    yield line("expected sliced plan", result.cost, f"{slices} slices, {result.plan.nnz} entries")
    yield line("cheapest slice", result.costs.min(), "the min-sliced plan")
    if p == np.inf:
        yield "exact and entropic transport are left out for p = inf"
        return
    if len(x) * len(y) > MOST_PAIRS:
        yield f"exact and entropic transport are left out beyond {MOST_PAIRS:.0e} pairs of points"
        return
    if find_spec("ot") is None:
        yield "exact and entropic transport need POT: pip install 'espref[verify]'"
        return
    try:
        yield from (line(*row) if len(row) == 3 else row[0] for row in _other_plans(x, y, a, b, p))
    except MemoryError:
        yield "exact and entropic transport are left out: not enough memory for their matrices"


def _other_plans(x: Array, y: Array, a: Array | None, b: Array | None, p: float) -> Iterator[tuple[Any, ...]]:
    """Name, cost and comment of the plans for comparison; a sentence alone for one that cannot be had."""
    from .. import solvers

    try:
        yield "exact transport", solvers.exact_plan(x, y, a, b, p=p).cost, "the least of all plans"
    except (RuntimeError, ValueError) as error:
        yield (f"exact transport         {error}",)
    weights = [np.full(len(c), 1 / len(c)) if w is None else w for c, w in ((x, a), (y, b))]
    independent = transport_cost(np.outer(*weights), x, y, p=p)
    if independent > 0:
        try:
            entropic = solvers.sinkhorn_plan(x, y, 0.05 * independent, a, b, p=p, n_iter=2000).cost
            yield "entropic (Sinkhorn)", entropic, f"regularisation {0.05 * independent:.3g}"
        except (RuntimeError, ValueError) as error:
            yield (f"entropic (Sinkhorn)     {error}",)
    yield "independent coupling", independent, "every source point to all targets"


def _picture(result: SlicedPlan, x: Array, y: Array) -> Figure:
    """The plan as lines between the clouds and as a matrix."""
    from ..plot import draw_matrix, draw_plan, new_figure

    figure, (left, right) = new_figure(9, 4, columns=2)
    draw_plan(left, result.plan, x, y, f"expected sliced plan, cost {result.cost:.4g}")
    draw_matrix(right, result.plan, "the same as a matrix")
    return figure
