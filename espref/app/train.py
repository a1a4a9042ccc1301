"""The command ``espref train``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from ..train.config import Config
from ..train.presets import PRESETS
from ..train.runs import Comparison
from .report import new_console

HIDDEN = ("task", "attention", "seed")
MODULES = ("torch", "lightning_fabric", "torchmetrics", "sacrebleu", "tensorboard", "sklearn", "babel", "matplotlib")
#: What the options that are not settings of a run are when they are not given.
OF_TASKS = {
    "attention": "esp",
    "root": "data",
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32-true",
    "strategy": "ddp",
}
OF_STUDIES = {"jobs": 1, "only": "", "record": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All settings of a run are options; defaults are shown."""
    parser.add_argument("task", nargs="?", help="a task or a preset (--list), or 'study'")
    parser.add_argument("study", nargs="?", help="with 'study': which one")
    parser.add_argument("--list", action="store_true", help="tasks, kinds of attention, studies")
    parser.add_argument("--attention", metavar="KIND[,KIND]", help="kinds to train (default esp)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each, seeds 0 to N - 1 (default 1)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="a folder a run (default runs)")
    parser.add_argument("--root", metavar="DIR", help="where the files of the paper's data are (default data)")
    parser.add_argument("--jobs", type=int, metavar="N", help="with 'study': runs at a time (default 1)")
    parser.add_argument("--only", metavar="TEXT", help="with 'study': groups whose title contains TEXT")
    parser.add_argument("--record", type=Path, metavar="FILE", help="with 'study': where the record goes")
    parser.add_argument("--accelerator", help="cpu, cuda or auto (default cpu)")
    parser.add_argument("--devices", type=int, metavar="N", help="devices of this machine (default 1)")
    parser.add_argument("--precision", help="of Lightning Fabric, such as bf16-mixed (default 32-true)")
    parser.add_argument("--strategy", help="of several processes: ddp, or fsdp, a sharded model (default ddp)")
    for field in fields(Config):
        if field.name not in HIDDEN:
            kind: Any = type(field.default)
            text = f"default {field.default!r}"
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, metavar=kind.__name__, help=text)


def run_command(options: argparse.Namespace) -> int:
    """Train, or run a study, or list what there is."""
    for module in MODULES:
        if find_spec(module) is None:
            raise ImportError(f"espref train needs {module}: pip install 'espref[train]'")
    if options.list:
        return _list()
    if options.task is None:
        raise ValueError("task: expected the name of a task, see espref train --list")
    study = options.task == "study"
    if options.study is not None and not study:
        raise ValueError(f"study: expected none after a task, got {options.study!r}")
    settings = dict.fromkeys(field.name for field in fields(Config) if field.name not in HIDDEN)
    _refuse(options, OF_TASKS | settings if study else OF_STUDIES, "a study" if study else "a task")
    for name, default in (OF_TASKS | OF_STUDIES).items():
        setattr(options, name, default if getattr(options, name) is None else getattr(options, name))
    for name in ("seeds", "jobs", "devices"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}: expected a positive whole number, got {getattr(options, name)}")
    if study:
        return _study(options)
    import torch

    from ..train.embedded import EMBEDDED

    if options.task in EMBEDDED:  # models too small to gain from more, and the same numbers as in a study
        torch.set_num_threads(1)
    return _train(options)


def _refuse(options: argparse.Namespace, names: Iterable[str], of: str) -> None:
    """An option that would have no effect is an error."""
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: expected no such option with {of}")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = dict(PRESETS[options.task].settings) if options.task in PRESETS else {}
    given = {field.name: getattr(options, field.name, None) for field in fields(Config) if field.name not in HIDDEN}
    return settings | {name: value for name, value in given.items() if value is not None}


def _train(options: argparse.Namespace) -> int:
    from ..nn.transformer import ATTENTION
    from ..train.loop import train
    from ..train.pictures import attention_maps, curves
    from ..train.processes import make_fabric
    from ..train.runs import compare, load

    console, settings = new_console(), _settings(options)
    kinds = list(dict.fromkeys(options.attention.split(",")))
    for kind in kinds:
        if kind not in ATTENTION:
            raise ValueError(f"--attention: expected some of {', '.join(ATTENTION)}, got {kind!r}")
    configs = [Config(options.task, kind, seed, **settings) for kind in kinds for seed in range(options.seeds)]
    data = load(options.task, options.root)
    fabric = make_fabric(options.accelerator, options.devices, options.precision, options.strategy)
    results: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in kinds}
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[last]}"))
    with Progress(*columns, console=console, disable=not fabric.is_global_zero) as bar:
        for config in configs:
            line = bar.add_task(f"{config.attention}, seed {config.seed}", total=config.epochs, last="")

            def advance(epoch: int, metrics: dict[str, float], line: Any = line) -> None:
                shown = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items() if name != "epoch")
                bar.update(line, completed=epoch + 1, last=shown)

            folder = options.out / config.name()
            results[config.attention][config.seed] = train(data, config, folder, fabric, advance)
    if fabric.is_global_zero:
        rows = compare(data.task, results)
        console.print(table(f"{options.task}, {configs[0].epochs} epochs", rows))
        for name, draw in (("curves", curves), ("attention", attention_maps)):
            path = options.out / f"{options.task}-{name}.png"
            draw(path, data, results, {config.attention: config for config in configs}, options.out)
            console.print(f"written: {path}", markup=False)
    return 0


def _study(options: argparse.Namespace) -> int:
    from ..train.studies import run_study

    console = new_console()
    path = options.record or Path(f"espref-train-{options.study}.json")
    study = run_study(
        options.study or "", seeds=options.seeds, out=options.out, jobs=options.jobs, only=options.only, record=path
    )
    for title, rows in study:
        console.print(table(title, rows))
    console.print(f"written: {path}", markup=False)
    return 0


def _list() -> int:
    from ..nn.transformer import ATTENTION
    from ..train.embedded import EMBEDDED
    from ..train.paper import LOADERS
    from ..train.studies import STUDIES

    groups = (
        ("tasks, data included", EMBEDDED),
        ("tasks of the paper, from files below --root", LOADERS),
        ("attention", ATTENTION),
        ("studies", STUDIES),
    )
    for title, named in groups:
        print(f"{title}:")
        for name, thing in named.items():
            summary = (getattr(thing, "__doc__", None) or "").strip().split("\n")[0] if title != "attention" else ""
            print(f"  {name:<16}{summary}".rstrip())
    print("presets:")
    for name, preset in PRESETS.items():
        print(f"  {name:<24}{preset.source}")
    return 0


def table(title: str, rows: list[Comparison]) -> Table:
    """A rich table: mean and spread over seeds, and the paired difference to the first row."""
    found = Table(title=title, title_justify="left")
    for name in (
        "attention",
        rows[0].metric,
        "sd",
        "seeds",
        f"minus {rows[0].variant}",
        "± standard error",
        "better in",
    ):
        found.add_column(name, justify="left" if name == "attention" else "right")
    for row in rows:
        paired = ("", "", "") if row is rows[0] else (_number(row.difference, "+"), _number(row.error), f"{row.wins}")
        found.add_row(row.variant, _number(row.mean), _number(row.sd), str(row.seeds), *paired)
    return found


def _number(value: float, sign: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{sign}.2f}"
