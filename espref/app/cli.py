"""The command ``espref``: its subcommands, and what their errors become.

The exit status has one meaning each, whether or not anybody reads what is printed: see ``STATUSES``.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .._checks import Limit
from .._version import __version__
from ..citation import cite
from ..claims import LEDGER, cite_claim
from ..claims.ledger import EXTRAS, remedy
from ..deviations import deviation_table
from . import bench, plan, verify
from .streams import guarded

#: Exit status -> what it says.
STATUSES = {
    0: "all is well",
    1: "a claim fails, or a benchmark misses its target",
    2: "something that was asked for cannot be done: bad input, a file that cannot be written, a missing package",
    3: "an error of espref's own, with a traceback: please report it",
    130: "interrupted",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    with guarded() as output:
        try:
            status = _run(argv)
        except SystemExit as leave:  # of argparse, after --help or wrong usage
            status = leave.code if isinstance(leave.code, int) else 2
            if output.report() and not status:
                raise SystemExit(2) from None
            raise
        return status or (2 if output.report() else 0)


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    train = words[:1] == ["train"]  # which has a parser of its own
    options = argparse.Namespace(run=_train, words=words[1:]) if train else _parser().parse_args(words)
    try:
        status: int = options.run(options)
        return status
    except KeyboardInterrupt:
        print("espref: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:  # of an extra: what installs it
        missing = (error.name or "").split(".")[0]
        text = f"{words[0]} needs {missing}: {remedy([missing])}" if missing in EXTRAS else str(error)
        print(f"espref: {text}", file=sys.stderr)
        return 2
    except (ValueError, Limit, ImportError, OSError, MemoryError) as error:
        print(f"espref: {' '.join(str(error).split()) or 'not enough memory'}", file=sys.stderr)
        return 2
    except Exception:  # an uncaught exception would end with status 1, which means that a claim fails
        traceback.print_exc()
        return 3


def _parser() -> argparse.ArgumentParser:
    epilog = "Exit status: " + "; ".join(f"{status} {meaning}" for status, meaning in STATUSES.items()) + "."
    about = "The reference for expected sliced transport plans."
    parser = argparse.ArgumentParser(prog="espref", description=about, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"espref {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    command = commands.add_parser("verify", help="measure every claim of the ledger on this machine")
    verify.add_arguments(command)
    command.set_defaults(run=verify.run_command)

    command = commands.add_parser("plan", help="the expected sliced plan between two files")
    plan.add_arguments(command)
    command.set_defaults(run=plan.run_command)

    command = commands.add_parser("bench", help="speed and memory, as ratios measured in one run")
    bench.add_arguments(command)
    command.set_defaults(run=bench.run_command)

    trains = "train the four applications, and compare kinds of attention"
    command = commands.add_parser("train", help=trains, add_help=False)
    command.add_argument("words", nargs=argparse.REMAINDER)
    command.set_defaults(run=_train)

    command = commands.add_parser("cite", help="BibTeX of espref and its papers, of the given keys, or of a claim")
    command.add_argument("keys", nargs="*", help="such as prillo2020softsort, or a claim: line.marginals")
    run = "what espref verify --json wrote: the citation of a claim then has its residual"
    command.add_argument("--run", dest="document", type=Path, metavar="FILE", help=run)
    command.set_defaults(run=_cite)

    command = commands.add_parser("deviations", help="where paper, released code, POT and espref differ")
    command.set_defaults(run=_deviations)
    return parser


def _train(options: argparse.Namespace) -> int:
    try:
        from .train import add_arguments, run_command
    except ImportError as error:
        raise ImportError("espref train needs PyTorch and more: pip install 'espref[train]'") from error
    parser = argparse.ArgumentParser(prog="espref train", description="The applications of ESP attention.")
    add_arguments(parser)
    return run_command(parser.parse_args(options.words))


def _cite(options: argparse.Namespace) -> int:
    claimed = [key for key in options.keys if key in LEDGER]
    if options.document is not None and not claimed:
        raise ValueError("--run: expected a claim to cite (espref verify --list)")
    papers = [key for key in options.keys if key not in LEDGER]
    texts = [cite_claim(key, options.document) for key in claimed]
    print("\n\n".join([*texts, *([cite(*papers)] if papers or not claimed else [])]))
    return 0


def _deviations(options: argparse.Namespace) -> int:
    print(deviation_table())
    return 0
