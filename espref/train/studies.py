"""The studies whose records the documentation shows: variants compared over seeds, with their spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from .._output import check_writable
from ..benchmarks.records import write
from .config import Config
from .runs import Comparison, common_environment, compare, load, run_all

KINDS = ("softmax", "sinkhorn", "differential", "esp", "esp-balanced", "esp-hard-eval")
#: Epochs that train the embedded tasks on a CPU within a minute.
EPOCHS = {"digits": 15, "digit-points": 10, "languages": 6, "names": 30}

#: The run whose weights plug-and-play starts from.
PRETRAINED = Config("digits", "softmax", epochs=15)

#: Groups of variants that are compared with one another, by the title of the group.
Groups = dict[str, dict[str, Config]]


def kinds() -> Groups:
    """Kinds of attention on the four embedded tasks, with equal sizes, epochs and learning rates."""
    return {task: {kind: Config(task, kind, epochs=epochs) for kind in KINDS} for task, epochs in EPOCHS.items()}


def little_data() -> Groups:
    """1, 10, 25 and 100 % of the digits, with about as many steps."""
    groups: Groups = {}
    for share, epochs in ((0.01, 300), (0.1, 100), (0.25, 50), (1.0, 13)):
        variants = {
            kind: Config("digits", kind, epochs=epochs, fraction=share) for kind in ("softmax", "sinkhorn", "esp")
        }
        groups[f"digits, {share:.0%} of the training images"] = variants
    return groups


def annealing() -> Groups:
    """The hard sort in evaluation, with constant tau and with tau falling to a hundredth."""
    base = Config("digits", "esp", epochs=15)
    hard = replace(base, attention="esp-hard-eval")
    return {
        "digits": {
            "soft": base,
            "hard in evaluation": hard,
            "soft, annealed": replace(base, anneal=0.01),
            "hard in evaluation, annealed": replace(hard, anneal=0.01),
        }
    }


def balance() -> Groups:
    """Soft and balanced sort at several tau: does exact double stochasticity help?"""
    return {
        f"digits, tau = {tau:g}": {
            "soft": Config("digits", "esp", epochs=15, tau=tau),
            "balanced": Config("digits", "esp-balanced", epochs=15, tau=tau),
        }
        for tau in (0.03, 0.1, 1.0)
    }


def slicers() -> Groups:
    """Axes, fixed random directions and learned directions."""
    return {
        "digits": {kind: Config("digits", "esp", epochs=15, slicers=kind) for kind in ("axes", "random", "learned")}
    }


def slices() -> Groups:
    """The number of random slices per head."""
    return {
        "digits": {
            str(count): Config("digits", "esp", epochs=15, slicers="random", slices=count) for count in (1, 2, 4, 8, 16)
        }
    }


def plug_and_play() -> Groups:
    """Train with softmax, exchange the attention, and fine-tune for a few epochs; softmax continues as the baseline."""
    base = replace(PRETRAINED, epochs=5, rate=1e-3, start=PRETRAINED.name().removesuffix("-seed=0"))
    return {"digits, 5 more epochs": {kind: replace(base, attention=kind) for kind in KINDS}}


STUDIES: dict[str, Callable[[], Groups]] = {
    "kinds": kinds,
    "little-data": little_data,
    "annealing": annealing,
    "balance": balance,
    "slicers": slicers,
    "slices": slices,
    "plug-and-play": plug_and_play,
}


def run_study(
    name: str, *, seeds: int, out: Path, jobs: int, record: Path, only: str = ""
) -> Iterator[tuple[str, list[Comparison]]]:
    """Title and comparison of each group of a study, as soon as its runs are done; the record is rewritten each time.

    Finished runs in ``out`` are read, not repeated. With ``only``, just the groups whose title contains it are run; the
    record also holds the other groups whose runs are all finished.

    Raises
    ------
    ValueError
        If no study has that name, or no title contains ``only``; if runs in ``out`` were made by other versions,
        another commit or another machine than the others or than the runs to come.
    """
    if name not in STUDIES:
        raise ValueError(f"study: expected one of {', '.join(STUDIES)}, got {name!r}")
    groups = STUDIES[name]()
    if not any(only in title for title in groups):
        raise ValueError(f"only: expected part of one of {'; '.join(groups)}, got {only!r}")
    check_writable(record, (".json",))
    chosen: dict[str, dict[str, list[Config]]] = {}
    for title, group in groups.items():
        runs = {variant: [_with_seed(config, seed, out) for seed in range(seeds)] for variant, config in group.items()}
        if only in title or all((out / run.name() / "metrics.json").exists() for run in chain(*runs.values())):
            chosen[title] = runs
    every = [config for runs in chosen.values() for config in chain(*runs.values())]
    pretrained = [replace(PRETRAINED, seed=seed) for seed in range(seeds) if any(config.start for config in every)]
    common_environment([*pretrained, *every], out)
    run_all(pretrained, out, jobs=jobs)
    rows: list[dict[str, Any]] = []
    for title, runs in chosen.items():
        results = iter(run_all(list(chain(*runs.values())), out, jobs=jobs))
        by_variant = {variant: {config.seed: next(results) for config in configs} for variant, configs in runs.items()}
        comparison = compare(load(next(iter(groups[title].values())).task).task, by_variant)
        for row in comparison:
            runs_of_row = by_variant[row.variant].values()
            last = max((run["environment"] for run in runs_of_row), key=lambda made_with: made_with["date"])
            about = {"parameters": by_variant[row.variant][0]["parameters"], "environment": last}
            about["config"] = asdict(groups[title][row.variant])
            rows.append({"group": title, **_without_nan(row), **about})
        write(record, {"study": name, "runs": rows})
        yield title, comparison


def _with_seed(config: Config, seed: int, out: Path) -> Config:
    """The configuration with a seed, starting from the pretrained run of the same seed if it starts from one."""
    return replace(config, seed=seed, start=str(out / f"{config.start}-seed={seed}") if config.start else "")


def _without_nan(row: Comparison) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row._asdict().items()}
