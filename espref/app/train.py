"""The command ``espref train``."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ..nn.transformer import ATTENTION
from ..train.config import Config
from ..train.embedded import EMBEDDED
from ..train.loop import train
from ..train.paper import LOADERS
from ..train.pictures import attention_maps, curves
from ..train.presets import PRESETS
from ..train.processes import STRATEGIES, make_fabric
from ..train.runs import Comparison, compare, load
from ..train.studies import STUDIES, run_study
from .numbers import option_number, option_whole
from .terminal import coloured_console

MODULES = ("torchmetrics", "sacrebleu", "tensorboard", "sklearn", "babel", "matplotlib")
SETTINGS = [field for field in fields(Config) if field.name not in ("task", "attention", "seed")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand per task and preset, whose options are the settings of a run; and the subcommand ``study``."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for name, loader in (EMBEDDED | LOADERS).items():
        _add_task(tasks, name, _summary(loader), PRESETS[name].settings if name in PRESETS else {})
    for name, preset in PRESETS.items():
        if name not in LOADERS:
            _add_task(tasks, name, f"preset of {preset.task}: {preset.source}", preset.settings)
    study = tasks.add_parser("study", help="compare variants over seeds, and record the result")
    studies = study.add_subparsers(dest="study", metavar="STUDY", required=True)
    for name, groups in STUDIES.items():
        options = _add_parser(studies, name, _summary(groups))
        options.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at a time")
        options.add_argument("--only", default="", metavar="TEXT", help="run only the groups whose title contains TEXT")
        record = Path(f"espref-train-{name}.json")
        options.add_argument("--record", type=Path, default=record, metavar="FILE", help="where the record is written")


def _add_task(tasks: Any, name: str, summary: str, settings: dict[str, Any]) -> None:
    options = _add_parser(tasks, name, summary)
    help_text = f"the kinds of attention to train, of {', '.join(ATTENTION)}"
    options.add_argument("--attention", type=_kinds, default="esp", metavar="KIND[,KIND...]", help=help_text)
    options.add_argument("--root", default="data", metavar="DIR", help="where the paper's data is looked for")
    options.add_argument("--accelerator", default="cpu", help="cpu, cuda or auto")
    options.add_argument("--devices", type=_positive, default=1, metavar="N", help="devices of this machine")
    options.add_argument("--precision", default="32-true", help="of Lightning Fabric, such as bf16-mixed")
    sharing = "how several processes share the model: fsdp divides it among them"
    options.add_argument("--strategy", choices=STRATEGIES, default="ddp", help=sharing)
    for field in SETTINGS:
        kind: Any = type(field.default)
        default = settings.get(field.name, field.default)
        option = f"--{field.name.replace('_', '-')}"
        text = field.metadata["help"]
        options.add_argument(
            option,
            type={int: option_whole, float: option_number}.get(kind, kind),
            default=default,
            metavar=kind.__name__,
            help=text,
        )


def _add_parser(parsers: Any, name: str, summary: str) -> argparse.ArgumentParser:
    options: argparse.ArgumentParser = parsers.add_parser(
        name,
        help=summary.replace("%", "%%"),
        description=summary,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--seeds", type=_positive, default=1, metavar="N", help="runs of each kind: seeds 0 to N - 1")
    options.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where each run gets a folder")
    return options


def _summary(function: Any) -> str:
    return str(function.__doc__).strip().split("\n")[0]


def _positive(text: str) -> int:
    if option_whole(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _kinds(text: str) -> list[str]:
    kinds = list(dict.fromkeys(text.split(",")))
    for kind in kinds:
        if kind not in ATTENTION:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(ATTENTION)}, got {kind!r}")
    return kinds


def run_command(options: argparse.Namespace) -> int:
    """Train a task, or run a study."""
    for module in MODULES:
        if find_spec(module) is None:
            raise ImportError(f"espref train needs {module}: pip install 'espref[train]'")
    return _study(options) if options.task == "study" else _train(options)


def _train(options: argparse.Namespace) -> int:
    if options.task in EMBEDDED:  # their models are too small to gain from more threads
        torch.set_num_threads(1)
    settings = {field.name: getattr(options, field.name) for field in SETTINGS}
    configs = [
        Config(options.task, kind, seed, **settings) for kind in options.attention for seed in range(options.seeds)
    ]
    data = load(options.task, options.root)
    fabric = make_fabric(options.accelerator, options.devices, options.precision, options.strategy)
    console = coloured_console()
    results: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in options.attention}
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[metrics]}"))
    with Progress(*columns, console=console, disable=not fabric.is_global_zero) as progress:
        for config in configs:
            bar = progress.add_task(f"{config.attention}, seed {config.seed}", total=config.epochs, metrics="")

            def advance(epoch: int, line: dict[str, float], bar: Any = bar) -> None:
                metrics = ", ".join(f"{name} {value:.3g}" for name, value in line.items() if name != "epoch")
                progress.update(bar, completed=epoch + 1, metrics=metrics)

            folder = options.out / config.name()
            results[config.attention][config.seed] = train(data, config, folder, fabric, advance)
    if fabric.is_global_zero:
        console.print(table(f"{options.task}, {options.epochs} epochs", compare(data.task, results)))
        pictures = [options.out / f"{options.task}-{name}.png" for name in ("curves", "attention")]
        curves(pictures[0], data.task, results)
        attention_maps(pictures[1], data, {config.attention: config for config in configs}, options.out)
        for path in pictures:
            console.print(f"written to {path}", markup=False)
    return 0


def _study(options: argparse.Namespace) -> int:
    console = coloured_console()
    study = run_study(
        options.study,
        seeds=options.seeds,
        out=options.out,
        jobs=options.jobs,
        only=options.only,
        record=options.record,
    )
    for title, rows in study:
        console.print(table(title, rows))
    console.print(f"written to {options.record}", markup=False)
    return 0


def table(title: str, rows: list[Comparison]) -> Table:
    """Mean and spread over seeds, and the paired difference to the first row."""
    result = Table("attention", title=title, title_justify="left")
    for name in (rows[0].metric, "sd", "seeds", f"minus {rows[0].variant}", "± standard error", "better in"):
        result.add_column(name, justify="right")
    for row in rows:
        paired = ("", "", "") if row is rows[0] else (_number(row.difference, "+"), _number(row.error), f"{row.wins}")
        result.add_row(row.variant, _number(row.mean), _number(row.sd), str(row.seeds), *paired)
    return result


def _number(value: float, sign: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{sign}.2f}"
