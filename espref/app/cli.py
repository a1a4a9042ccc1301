"""The command ``espref``: verify the ledger, compute a plan between two files, run the benchmarks, cite.

Exit codes: 0 all is well; 1 a claim fell or a benchmark missed its target; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._checks import Array, as_count
from .._output import FileError, atomic, check_writable
from .._version import __version__
from ..citation import cite
from ..directions import METHODS, direction_weights, sample_directions
from ..expected import SlicedPlan, expected_sliced_plan
from ..lift import slice_costs, transport_cost
from .files import read_points, read_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..claims import Problem

#: Directions where none are asked for; "axes" has one for each dimension.
SLICES = {"lebedev": 110}
DEFAULT_SLICES = 128

#: Clouds smaller than this share of the extent of both lose too many digits for the claims to be measured on them.
SMALLEST_EXTENT = 1e-4

#: Exact OT and Sinkhorn hold a dense matrix and take their time: beyond this many pairs ``plan`` leaves them out.
MOST_PAIRS = 4_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets its line
    words = list(sys.argv[1:] if argv is None else argv)
    train = words[:1] == ["train"]  # which has a parser of its own
    options = argparse.Namespace(run=_train, words=words[1:]) if train else _parser().parse_args(words)
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("espref: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, head for one, has gone; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError, MemoryError) as error:
        print(f"espref: {' '.join(str(error).split()) or 'not enough memory'}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espref", description="The reference for expected sliced transport plans.")
    parser.add_argument("--version", action="version", version=f"espref {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    verify = commands.add_parser("verify", help="measure every claim of the ledger on this machine")
    verify.add_argument("--only", metavar="PATTERN", help="claims whose identifier contains or matches PATTERN")
    verify.add_argument(
        "--seeds", type=int, metavar="N", help="random problems of N seeds (default 3; 1 on your clouds)"
    )
    verify.add_argument("--list", action="store_true", help="list the claims and measure nothing")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the measurements")
    verify.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    verify.add_argument("--source", type=Path, metavar="FILE", help="your source cloud, .npy or .csv, one point a row")
    verify.add_argument("--target", type=Path, metavar="FILE", help="your target cloud")
    _weight_options(verify)
    thin = "draw N of your points at random where there are more (default 300)"
    verify.add_argument("--max-points", type=int, default=300, metavar="N", help=thin)
    verify.set_defaults(run=_verify)

    plan = commands.add_parser("plan", help="the expected sliced plan between two files")
    plan.add_argument("source", type=Path, help=".npy or .csv, one point a row")
    plan.add_argument("target", type=Path, help=".npy or .csv, one point a row")
    saved = "where the plan goes; scipy.sparse.load_npz reads it"
    plan.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=saved)
    plan.add_argument("--png", type=Path, metavar="FILE", help="a picture of the plan")
    _weight_options(plan)
    plan.add_argument("--slices", type=int, metavar="L", help=f"number of directions (default {DEFAULT_SLICES})")
    plan.add_argument("--method", choices=METHODS, default="random", help="scheme of directions (default random)")
    plan.add_argument("--beta", type=float, default=0.0, help="inverse temperature over slices (default 0, the mean)")
    plan.add_argument("--p", type=float, default=2.0, help="exponent of the ground cost |x - y|^p (default 2)")
    plan.add_argument("--seed", type=int, default=0, help="of random directions (default 0)")
    plan.set_defaults(run=_plan)

    bench = commands.add_parser("bench", help="speed and memory, as ratios measured in one run")
    bench.add_argument(
        "suite",
        nargs="?",
        default="all",
        help="plans, planfree, attention or all three (default); transformers, numerics, large",
    )
    bench.add_argument("--json", type=Path, default=Path("espref-bench.json"), metavar="FILE", help="the results")
    bench.set_defaults(run=_bench)

    trains = "train the four applications, and compare kinds of attention"
    training = commands.add_parser("train", help=trains, add_help=False)
    training.add_argument("words", nargs=argparse.REMAINDER)
    training.set_defaults(run=_train)

    citation = commands.add_parser("cite", help="BibTeX of espref and its papers, or of the given keys")
    citation.add_argument("keys", nargs="*", help="keys of the bibliography, such as prillo2020softsort")
    citation.set_defaults(run=_cite)

    table = commands.add_parser("deviations", help="where paper, released code, POT and espref differ")
    table.set_defaults(run=_deviations)
    return parser


def _weight_options(parser: argparse.ArgumentParser) -> None:
    for side in ("source", "target"):
        text = f"weights of the {side}, .npy or .csv, scaled to sum 1"
        parser.add_argument(f"--{side}-weights", type=Path, metavar="FILE", help=text)


def _clouds(options: argparse.Namespace) -> tuple[Array, Array, Array | None, Array | None]:
    """Both clouds and their weights, from the files of the command line."""
    x, y = read_points(options.source), read_points(options.target)
    if x.shape[1] != y.shape[1]:
        raise FileError(f"{options.target}: expected {x.shape[1]} columns like {options.source}, got {y.shape[1]}")
    a = read_weights(options.source_weights, len(x)) if options.source_weights else None
    b = read_weights(options.target_weights, len(y)) if options.target_weights else None
    return x, y, a, b


def _verify(options: argparse.Namespace) -> int:
    from .. import claims
    from ..claims.problems import fits
    from ..train import claims as _  # noqa: F401  the claims about training enter the ledger
    from . import report

    own = bool(options.source and options.target)
    seeds = as_count((1 if own else 3) if options.seeds is None else options.seeds, "--seeds")
    most = as_count(options.max_points, "--max-points")
    if not own and any((options.source, options.target, options.source_weights, options.target_weights)):
        raise ValueError("--source, --target: expected both files, or neither")
    entries = [entry for entry in claims.LEDGER.values() if _matches(entry.id, options.only)]
    if not entries:
        raise ValueError(f"--only: expected part of an identifier (espref verify --list), got {options.only!r}")
    if options.list:
        for entry in entries:
            print(f"{entry.id:<56}{entry.kind}")
        return 0
    for path in (options.json, options.html):
        check_writable(path)

    note = ""
    if own:
        x, y, a, b = _clouds(options)
        problems = [claims.user_problem(x, y, a, b, max_points=most, seed=seed) for seed in range(seeds)]
        problems = [_standardised(problem, options) for problem in problems]
        note = "your clouds were moved and scaled together to extent 1"
        # statements about any pair of clouds; companions need hypotheses that only chosen clouds violate
        scopes = [scope for scope in ("pair", "square", "plane") if fits(problems[0], scope)]
        entries = [replace(entry, companions=[]) for entry in entries if entry.on in scopes]
        if not entries:
            raise ValueError(f"--only: no claim that matches {options.only!r} speaks about these clouds")
    else:
        problems = [problem for seed in range(seeds) for problem in claims.synthetic_problems(seed)]
        if find_spec("sklearn") is None:
            note = "real data skipped: pip install 'espref[verify]'"
        else:
            problems += [problem for seed in range(seeds) for problem in claims.real_problems(seed)]

    start = time.perf_counter()
    console = report.new_console()
    outcomes: list[claims.Outcome] = []
    with report.progress_bar(console, len(entries)) as advance:
        measured = claims.run(entries, problems, seeds, advance)
        for chapter, group in groupby(measured, lambda outcome: outcome.claim.chapter):
            outcomes += (found := list(group))
            console.print(report.chapter_table(chapter, found))
    seconds = time.perf_counter() - start
    for line in report.closing(outcomes, problems, seconds, note):
        console.print(line)
    if options.json:
        with atomic(options.json) as draft:
            draft.write_text(json.dumps(report.to_json(outcomes, problems, seeds, note), indent=1, allow_nan=False))
    if options.html:
        from .page import to_html

        with atomic(options.html) as draft:
            draft.write_text(to_html(outcomes, problems, seconds, note), encoding="utf-8")
    return 0 if all(outcome.good for outcome in outcomes) else 1


def _standardised(problem: Problem, options: argparse.Namespace) -> Problem:
    """Both clouds moved and scaled together into a box of extent 1, so that rounding does not depend on their units.

    Residuals are relative to the spread of the clouds and to the cost between them: neither may vanish.
    """
    both = np.vstack([problem.x, problem.y])
    size = np.abs(both).max() or 1.0
    low, high = (both / size).min(axis=0), (both / size).max(axis=0)
    extent = (high - low).max() or 1.0
    x, y = ((points / size - (low + high) / 2) / extent for points in (problem.x, problem.y))
    for path, points in ((options.source, x[problem.a > 0]), (options.target, y[problem.b > 0])):
        spread = np.ptp(points, axis=0).max()
        if spread < SMALLEST_EXTENT:
            raise FileError(
                f"{path}: expected points with weight that differ by over {SMALLEST_EXTENT:g} of both extents"
            )
    if slice_costs(x, y, problem.directions(), problem.a, problem.b).min() == 0:
        raise FileError(f"{options.target}: expected another cloud than {options.source}; the two coincide")
    return replace(problem, x=x, y=y)


def _matches(identifier: str, pattern: str | None) -> bool:
    return pattern is None or pattern in identifier or fnmatchcase(identifier, pattern)


def _plan(options: argparse.Namespace) -> int:
    for path in (options.output, options.png):
        check_writable(path)
    x, y, a, b = _clouds(options)
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
    """The cost of the expected plan beside that of its slices and of other plans, a line each."""

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
    from ..plot import draw_matrix, draw_plan, new_figure

    figure, (left, right) = new_figure(9, 4, columns=2)
    draw_plan(left, result.plan, x, y, f"expected sliced plan, cost {result.cost:.4g}")
    draw_matrix(right, result.plan, "the same as a matrix")
    return figure


def _bench(options: argparse.Namespace) -> int:
    from .. import benchmarks
    from .._environment import environment
    from ..train import benchmark as _  # noqa: F401  the suite "transformers" is registered
    from . import report

    check_writable(options.json)
    names = benchmarks.suites(options.suite)
    rows = []
    console = report.new_console()
    for name in names:
        found = benchmarks.run(name)
        console.print(report.benchmark_table(name, found))
        rows += [{"suite": name, **row} for row in found]
    with atomic(options.json) as draft:
        draft.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1, allow_nan=False))
    console.print(f"written to {options.json}", markup=False)
    return 1 if any(row["ok"] is False for row in rows) else 0


def _train(options: argparse.Namespace) -> int:
    try:
        from .train import add_arguments, run_command
    except ImportError as error:
        raise ImportError("espref train needs PyTorch and more: pip install 'espref[train]'") from error
    parser = argparse.ArgumentParser(prog="espref train", description="The applications of ESP attention.")
    add_arguments(parser)
    return run_command(parser.parse_args(options.words))


def _deviations(options: argparse.Namespace) -> int:
    from ..deviations import deviation_table

    print(deviation_table())
    return 0


def _cite(options: argparse.Namespace) -> int:
    print(cite(*options.keys))
    return 0
