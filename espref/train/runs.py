"""Several runs: by attention and seed, in several processes, and their comparison."""

from __future__ import annotations

import math
import multiprocessing
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from .config import Config
from .data import Data
from .embedded import EMBEDDED
from .model import METRIC
from .paper import LOADERS
from .presets import PRESETS

Announce = Callable[[Config, dict[str, float]], None]


def load(task: str, root: str | None = None) -> Data:
    """The data of a task, by name.

    Raises
    ------
    ValueError
        For an unknown name, or data that is missing or corrupt.
    """
    if task in EMBEDDED:
        return EMBEDDED[task]()
    folder = Path(root or "data")
    if task in PRESETS:
        return PRESETS[task].load(folder)
    if task not in LOADERS:
        raise ValueError(f"task: expected one of {', '.join([*EMBEDDED, *LOADERS, *PRESETS])}, got {task!r}")
    return LOADERS[task](folder)


def run(config: Config, out: Path, root: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """One run in this process, without a report."""
    import torch

    from .loop import train
    from .processes import make_fabric

    if threads:
        torch.set_num_threads(threads)
    return train(load(config.task, root), config, out / config.name(), make_fabric())


def run_all(
    configs: Sequence[Config], out: Path, *, jobs: int = 1, root: str | None = None
) -> Iterator[tuple[Config, dict[str, Any]]]:
    """All runs in ``jobs`` processes of one thread each; results as they come. Finished ones are read, not repeated.

    Raises
    ------
    ChildProcessError
        When a process was killed; checkpoints stay, and the same call goes on from them.
    """
    before = set(multiprocessing.active_children())
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; this one tells the others
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=signal.signal, initargs=ignore) as pool:
        waiting = {pool.submit(run, config, out, root, 1): config for config in configs}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"a training process was killed, for lack of memory perhaps; started again, training goes on from the "
                f"checkpoints in {out}"
            ) from error
        except KeyboardInterrupt:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()  # else it would finish its run, and the next ones in the queue
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def common_environment(configs: Sequence[Config], out: Path) -> dict[str, Any]:
    """The versions, commit and machine of runs in ``out``, finished, begun or yet to be made: the same for all.

    Raises
    ------
    ValueError
        When they differ.
    """
    from .loop import read_run, versions

    found: dict[str, Any] | None = None
    current = versions()
    for config in configs:
        folder = out / config.name()
        made = [read_run(path) for name in ("config.json", "metrics.json") if (path := folder / name).exists()]
        here = [] if (folder / "metrics.json").exists() else [current]
        for environment in [run["environment"] for run in made] + here:
            found = found or environment
            if environment != found:
                raise ValueError(f"{folder}: expected a run made by {differences(found, environment)}")
    return found or current


def differences(expected: dict[str, Any], got: Any) -> str:
    """What differs between two environments, in words."""
    if not isinstance(got, dict):
        return f"versions that it names, got {got!r}"
    names = [name for name in {**expected, **got} if expected.get(name) != got.get(name)]
    one, other = (", ".join(f"{name} {known.get(name)}" for name in names) for known in (expected, got))
    return f"{one}; got {other}"


class Comparison(NamedTuple):
    """One variant over its seeds, and beside the first variant on the same seeds."""

    variant: str
    metric: str
    mean: float
    sd: float
    seeds: int
    difference: float  # mean of the paired differences to the first variant
    error: float  # its standard error; nan for one seed
    wins: int  # seeds better than the first variant


def compare(task: str, results: dict[str, dict[int, dict[str, Any]]]) -> list[Comparison]:
    """Rows of a table from results[variant][seed], paired with the first variant by seed."""
    metric = METRIC[task]
    values = {
        name: {seed: result["final"][metric] for seed, result in sorted(found.items())}
        for name, found in results.items()
    }
    first = next(iter(values.values()))
    rows = []
    for name, found in values.items():
        gaps = [value - first[seed] for seed, value in found.items() if seed in first]
        sd = statistics.stdev(found.values()) if len(found) > 1 else math.nan
        error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
        mean, difference = statistics.fmean(found.values()), statistics.fmean(gaps)
        rows.append(Comparison(name, metric, mean, sd, len(found), difference, error, sum(gap > 0 for gap in gaps)))
    return rows
