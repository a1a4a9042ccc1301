"""The command ``espref``: verify the ledger, compute a plan between two files, run the benchmarks, cite.

Exit codes: 0 all is well; 1 a claim fell or a benchmark missed its target; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from ._checks import Array, as_count
from .directions import METHODS
from .files import FileError, check_writable, read_points, read_weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets its line
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("espref: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, head for one, has gone; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"espref: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espref", description="Expected sliced transport plans: the reference.")
    parser.add_argument("--version", action="version", version=f"espref {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    verify = commands.add_parser("verify", help="measure every claim of the ledger on this machine")
    verify.add_argument("--only", metavar="PATTERN", help="claims whose identifier contains or matches PATTERN")
    verify.add_argument("--seeds", type=int, default=3, metavar="N", help="problems of seeds 0 ... N-1 (default 3)")
    verify.add_argument("--list", action="store_true", help="list the claims and measure nothing")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the measurements")
    verify.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    verify.add_argument("--source", type=Path, metavar="FILE", help="your source cloud, .npy or .csv, a point a row")
    verify.add_argument("--target", type=Path, metavar="FILE", help="your target cloud")
    _weight_options(verify)
    verify.add_argument(
        "--max-points", type=int, default=300, metavar="N", help="thin your clouds at random to N points (default 300)"
    )
    verify.set_defaults(run=_verify)

    plan = commands.add_parser("plan", help="the expected sliced plan between two files")
    plan.add_argument("source", type=Path, help=".npy or .csv, a point a row")
    plan.add_argument("target", type=Path)
    plan.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the plan, for scipy.sparse.load_npz")
    plan.add_argument("--png", type=Path, metavar="FILE", help="a picture of the plan")
    _weight_options(plan)
    plan.add_argument("--slices", type=int, default=128, metavar="L", help="number of directions (default 128)")
    plan.add_argument("--method", choices=METHODS, default="random", help="how directions are chosen (default random)")
    plan.add_argument("--beta", type=float, default=0.0, help="inverse temperature over slices (default 0, the mean)")
    plan.add_argument("--p", type=float, default=2.0, help="exponent of the ground cost |x - y|^p (default 2)")
    plan.add_argument("--seed", type=int, default=0, help="of the random directions (default 0)")
    plan.set_defaults(run=_plan)

    bench = commands.add_parser("bench", help="speed and memory, as ratios measured in one run")
    bench.add_argument("suite", nargs="?", default="all", help="plans, planfree, attention or all (default)")
    bench.add_argument("--json", type=Path, default=Path("espref-bench.json"), metavar="FILE")
    bench.set_defaults(run=_bench)

    cite = commands.add_parser("cite", help="BibTeX of espref, its papers, or the given keys")
    cite.add_argument("keys", nargs="*", help="keys of the bibliography, such as prillo2020softsort")
    cite.set_defaults(run=_cite)
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
    from . import verification

    if not options.list:
        verification.require_rich()
    seeds = as_count(options.seeds, "--seeds")
    max_points = as_count(options.max_points, "--max-points")
    own = options.source is not None and options.target is not None
    if not own and any((options.source, options.target, options.source_weights, options.target_weights)):
        raise ValueError("--source, --target: expected both files, or neither")
    entries = verification.select(options.only, own=own)
    if options.list:
        for entry in entries:
            print(f"{entry.id:<55} {entry.kind}")
        return 0
    for path in (options.json, options.html):
        check_writable(path)
    problems, note = verification.own_problems(*_clouds(options), max_points, seeds) if own else verification.problems(seeds)
    return verification.verify(entries, problems, seeds, note, json_file=options.json, html_file=options.html)


def _plan(options: argparse.Namespace) -> int:
    from .planning import plan_files

    for path in (options.output, options.png):
        check_writable(path)
    x, y, a, b = _clouds(options)
    for line in plan_files(
        x,
        y,
        a,
        b,
        n_directions=as_count(options.slices, "--slices"),
        method=options.method,
        beta=options.beta,
        p=options.p,
        seed=as_count(options.seed, "--seed", least=0),
        output=options.output,
        png=options.png,
    ):
        print(line, flush=True)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from . import benchmarks

    check_writable(options.json)
    return benchmarks.bench(options.suite, options.json)


def _cite(options: argparse.Namespace) -> int:
    from .citation import cite

    print(cite(*options.keys))
    return 0
