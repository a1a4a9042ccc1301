"""The studies whose records the documentation draws: what comes out, with its spread."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .._output import FileError, atomic, check_writable
from .config import Config
from .runs import Comparison, common_environment, compare, differences, load, run_all

KINDS = ("softmax", "sinkhorn", "differential", "esp", "esp-balanced", "esp-hard-eval")
#: Epochs that leave the embedded tasks trained on a CPU within a minute.
EPOCHS = {"digits": 15, "digit-points": 10, "languages": 6, "names": 30}

#: Groups of variants that are compared with one another, by the title of the group.
Groups = dict[str, dict[str, Config]]


def kinds() -> Groups:
    """Kinds of attention on the four embedded tasks: equal sizes, equal epochs, equal rates."""
    return {task: {kind: Config(task, kind, epochs=epochs) for kind in KINDS} for task, epochs in EPOCHS.items()}


def little_data() -> Groups:
    """1, 10, 25 and 100 % of the digits, with as many steps."""
    groups: Groups = {}
    for share, epochs in ((0.01, 300), (0.1, 150), (0.25, 60), (1.0, 15)):
        variants = {
            kind: Config("digits", kind, epochs=epochs, fraction=share) for kind in ("softmax", "sinkhorn", "esp")
        }
        groups[f"digits, {share:.0%} of the training images"] = variants
    return groups


def annealing() -> Groups:
    """The hard sort in evaluation, with tau constant and with tau falling to a hundredth."""
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
    """Soft against balanced at several tau: does exact double stochasticity help?"""
    return {
        f"digits, tau = {tau:g}": {
            "soft": Config("digits", "esp", epochs=15, tau=tau),
            "balanced": Config("digits", "esp-balanced", epochs=15, tau=tau),
        }
        for tau in (0.03, 0.1, 1.0)
    }


def slicers() -> Groups:
    """Axes, fixed random and learned directions."""
    return {
        "digits": {kind: Config("digits", "esp", epochs=15, slicers=kind) for kind in ("axes", "random", "learned")}
    }


def slices() -> Groups:
    """The number of random slices a head."""
    return {
        "digits": {
            str(count): Config("digits", "esp", epochs=15, slicers="random", slices=count) for count in (1, 2, 4, 8, 16)
        }
    }


def plug_and_play() -> Groups:
    """Train with softmax, exchange the attention, fine-tune for a few epochs; against going on with softmax."""
    base = Config("digits", "softmax", epochs=5, rate=1e-3, start="digits-softmax-epochs=15")
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
    """Each group of a study, as soon as its runs are done: title and comparison. The record is written each time.

    Runs that ``out`` holds finished are not repeated. With ``only``, groups whose title contains it are run, and the
    others that the record holds already are kept.

    Raises
    ------
    ValueError
        For an unknown name, or an ``only`` that no title contains; when the runs in ``out``, or the record with
        ``only``, were made by other versions, another commit or another machine than the runs to come.
    """
    if name not in STUDIES:
        raise ValueError(f"study: expected one of {', '.join(STUDIES)}, got {name!r}")
    groups = STUDIES[name]()
    chosen = {
        title: {variant: [_seeded(config, seed, out) for seed in range(seeds)] for variant, config in variants.items()}
        for title, variants in groups.items()
        if only in title
    }
    if not chosen:
        raise ValueError(f"only: expected part of one of {'; '.join(groups)}, got {only!r}")
    check_writable(record)
    everything = [config for found in chosen.values() for configs in found.values() for config in configs]
    made_by = common_environment([*map(_origin, filter(_starts, everything)), *everything], out)
    rows = _kept(record, name, list(groups), made_by) if only and record.exists() else {}
    for title, configs in chosen.items():
        variants = groups[title]
        for _ in run_all([_origin(config) for config in next(iter(configs.values())) if config.start], out, jobs=jobs):
            pass
        results: dict[str, dict[int, dict[str, Any]]] = {variant: {} for variant in variants}
        places = {config: variant for variant, found in configs.items() for config in found}
        for config, result in run_all(list(places), out, jobs=jobs):
            results[places[config]][config.seed] = result
        found = compare(load(next(iter(variants.values())).task).task, results)
        rows[title] = []
        for variant, row in zip(variants, found, strict=True):
            parameters = next(iter(results[variant].values()))["parameters"]
            about = {"parameters": parameters, "config": asdict(variants[variant])}
            rows[title].append({"group": title, **_finite(row), **about})
        ordered = [row for group in groups for row in rows.get(group, [])]
        _write_record({"study": name, "environment": made_by, "runs": ordered}, record)
        yield title, found


def _kept(path: Path, study: str, titles: list[str], made_by: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows by group of a record of the same study, made by the same versions, commit and machine."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        name, environment, rows = record["study"], record["environment"], record["runs"]
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(row)
    except (ValueError, TypeError, KeyError) as error:
        raise FileError(f"{path}: expected the record of a study, {type(error).__name__}") from error
    if name != study or not set(groups) <= set(titles):
        raise FileError(f"{path}: expected a record of the study {study!r} with its groups, got {name!r}")
    if environment != made_by:
        raise FileError(f"{path}: expected a record made by {differences(made_by, environment)}")
    return groups


def _starts(config: Config) -> bool:
    return bool(config.start)


def _seeded(config: Config, seed: int, out: Path) -> Config:
    start = str(out / f"{config.start}-seed={seed}") if config.start else ""
    return replace(config, seed=seed, start=start)


def _origin(config: Config) -> Config:
    """The softmax run that plug-and-play starts from."""
    return Config("digits", "softmax", seed=config.seed, epochs=15)


def _finite(row: Comparison) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row._asdict().items()}


def _write_record(record: dict[str, Any], path: Path) -> None:
    """The record as JSON, whole or not at all."""
    with atomic(path) as draft:
        draft.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
