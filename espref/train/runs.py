"""Several runs, by attention and seed, in several processes; and their comparison."""

from __future__ import annotations

import math
import multiprocessing
import signal
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .._environment import VARYING
from .config import Config
from .data import Data
from .embedded import EMBEDDED
from .loop import read_run, train, versions
from .model import METRIC
from .paper import LOADERS
from .presets import PRESETS
from .processes import make_fabric


def load(task: str, root: str | Path = "data") -> Data:
    """The data of a task or a preset, by name; files of the paper's data are looked for below ``root``.

    Raises
    ------
    ValueError
        If the name is unknown, or the data is missing or corrupt.
    """
    if task in EMBEDDED:
        return EMBEDDED[task]()
    loaders = LOADERS | {name: preset.load for name, preset in PRESETS.items()}
    if task not in loaders:
        raise ValueError(f"task: expected one of {', '.join([*EMBEDDED, *LOADERS, *PRESETS])}, got {task!r}")
    return loaders[task](Path(root))


def run(config: Config, out: Path) -> dict[str, Any]:
    """One run in this process, in a folder of ``out`` named after the configuration."""
    return train(load(config.task), config, out / config.name(), make_fabric())


def run_all(configs: Sequence[Config], out: Path, *, jobs: int = 1) -> list[dict[str, Any]]:
    """The results of all runs, made in ``jobs`` processes of one thread each. Finished runs are read, not repeated.

    Raises
    ------
    ChildProcessError
        If a process was killed; the same call resumes from the checkpoints.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        try:
            return list(pool.map(run, configs, repeat(out)))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"a training process was killed, possibly out of memory; rerun to resume from the checkpoints in {out}"
            ) from error
        except KeyboardInterrupt:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # it would finish its run before the pool closes
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the others
    torch.set_num_threads(1)


def common_environment(configs: Sequence[Config], out: Path) -> dict[str, Any]:
    """The versions, commit and machine of the runs in ``out``, those still to be made included: the same for all.

    What varies between processes, such as the date, is that of the first.

    Raises
    ------
    ValueError
        If they differ.
    """
    current = versions()
    common: dict[str, Any] = {}
    for config in configs:
        folder = out / config.name()
        paths = [path for name in ("config.json", "metrics.json") if (path := folder / name).exists()]
        environments = [read_run(path)["environment"] for path in paths]
        if not (folder / "metrics.json").exists():
            environments.append(current)
        for environment in environments:
            common = common or environment
            names = [name for name in {**common, **environment} if name not in VARYING]
            names = [name for name in names if common.get(name) != environment.get(name)]
            if names:
                expected, got = (", ".join(f"{name} {e.get(name)}" for name in names) for e in (common, environment))
                raise ValueError(f"{folder}: expected a run made by {expected}; got {got}")
    return common


class Comparison(NamedTuple):
    """One variant over its seeds, and its paired difference to the first variant on the same seeds."""

    variant: str
    metric: str
    mean: float
    sd: float
    seeds: int
    difference: float  # mean of the paired differences to the first variant
    error: float  # its standard error; nan for one seed
    wins: int  # seeds better than the first variant


def compare(task: str, results: dict[str, dict[int, dict[str, Any]]]) -> list[Comparison]:
    """Rows of a table from results[variant][seed], paired with the first variant by seed: all have the same seeds."""
    metric = METRIC[task]
    first = next(iter(results.values()))
    rows = []
    for name, by_seed in results.items():
        values = [result["final"][metric] for result in by_seed.values()]
        gaps = [result["final"][metric] - first[seed]["final"][metric] for seed, result in by_seed.items()]
        mean, difference = statistics.fmean(values), statistics.fmean(gaps)
        sd, gap_sd = (statistics.stdev(x) if len(x) > 1 else math.nan for x in (values, gaps))
        error, wins = gap_sd / math.sqrt(len(gaps)), sum(gap > 0 for gap in gaps)
        rows.append(Comparison(name, metric, mean, sd, len(values), difference, error, wins))
    return rows
