"""Fuzzing: hostile valid input gives a result that keeps its invariants, invalid input an error that names an argument.

Never another exception, a warning, a NaN, or a changed input array. A bounded part runs among the tests, the same one
each time; ``make fuzz`` runs ESPREF_FUZZ = 100 000 new ones, and a fifth of that for torch.
"""

from __future__ import annotations

import copy
import inspect
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from strategies import TAUS, problems, scores, tokens, weights
from test_labels import of as labelled

import espref
from espref.solvers import exact_plan

EXAMPLES = int(os.environ.get("ESPREF_FUZZ", "0"))

JUNK: list[Any] = [
    None,
    "text",
    "",
    b"bytes",
    float("nan"),
    float("inf"),
    -1,
    0,
    2.5,
    True,
    10**400,
    1j,
    [],
    [[]],
    {},
    object(),
    np.nan * np.ones((3, 2)),
    np.full((2, 2), np.inf),
    np.zeros((0, 2)),
    np.zeros((2, 0)),
    np.zeros((2, 2, 2)),
    np.array("scalar"),
    np.array([["a", "b"]]),
    np.array([1 + 2j, 3.0]),
    np.array([object(), None]),
    [1.0, [2.0]],
    -np.ones(3),
    np.array([True, False]),
    np.array(["2020-01-01"], dtype="datetime64[D]"),
    np.ma.masked_array([1.0, 2.0], mask=[True, False]),
    sparse.coo_array(np.eye(2)),
]


GUISES = [
    *("as is", "list", "float32", "float16", "longdouble", "int", "uint8", "bool", "big-endian"),
    *("strided", "read-only", "fortran", "masked", "one masked", "frame", "labelled frame"),
]


@st.composite
def tailed(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """The same cloud with heavy tails, one outlier, sentinels for missing values, a far shift, or gaps of 1e-12."""
    kind = draw(st.sampled_from(["as is", "as is", "heavy tails", "outlier", "sentinels", "shift", "gaps"]))
    largest = np.abs(array).max(initial=0.0)
    if kind == "as is" or not 1e-100 < largest < 1e100:
        return array
    if kind == "heavy tails":
        return np.sinh(6 * array / largest)
    if kind == "shift":
        return array + largest * 10.0 ** draw(st.integers(1, 18))
    tailed = array.copy()
    if kind == "outlier":
        tailed.flat[draw(st.integers(0, array.size - 1))] = largest * 10.0 ** draw(st.integers(4, 30))
    elif kind == "sentinels":
        tailed.flat[:: draw(st.integers(1, 4))] = -9999
    else:
        tailed = np.sign(array) * largest + 1e-12 * array
    return tailed


@st.composite
def worn(draw: st.DrawFn, array: np.ndarray) -> Any:
    """The same numbers in another guise: another dtype, a list, a frame, masked, strided, Fortran's order."""
    guise = draw(st.sampled_from(GUISES))
    if guise == "list":
        return array.tolist()
    if guise in ("masked", "one masked"):
        masked = np.ma.masked_array(array.copy(), mask=np.zeros(array.shape, dtype=bool))
        if guise == "one masked" and masked.size:
            masked[(0,) * masked.ndim] = np.ma.masked
        return masked
    if guise in ("frame", "labelled frame"):
        rows = range(len(array)) if guise == "frame" else [f"row {k}" for k in range(len(array), 0, -1)]
        columns = {"columns": [f"c{k}" for k in range(array.shape[1])]} if array.ndim == 2 else {}
        return labelled("pandas", array, index=rows, **columns)
    if guise in ("uint8", "bool", "longdouble"):
        return (np.abs(array) % 256 if guise == "uint8" else array).astype(guise)
    if guise in ("float32", "float16"):
        limit = np.finfo(guise).max
        return np.clip(array, -limit, limit).astype(guise)
    if guise == "int":
        return np.clip(np.round(array), -(2**40), 2**40).astype(np.int64)
    if guise == "strided":
        return np.repeat(array, 2, axis=0)[::2]
    if guise == "read-only":
        array = array.copy()
        array.flags.writeable = False
        return array
    if guise == "big-endian":
        return array.astype(">f8")
    return np.asfortranarray(array) if guise == "fortran" else array


@st.composite
def calls(draw: st.DrawFn) -> tuple[Callable, dict[str, Any]]:
    """A public function and arguments, most of them sound, now and then one that is not."""
    function = draw(st.sampled_from(FUNCTIONS))
    names = inspect.signature(function).parameters
    cloud, (q, k, v, theta) = draw(problems()), draw(tokens())
    if function is espref.circle_plan:
        cloud = draw(problems(most=5, dims=(2,)))
    if "directions" in names and "q" not in names:
        theta = cloud.directions
    s, t = draw(scores()), draw(scores())
    n, m = (len(s), len(t)) if "u" in names else (len(cloud.x), len(cloud.y))
    pool: dict[str, Any] = {
        "x": cloud.x,
        "y": cloud.y,
        "a": draw(weights(n)),
        "b": draw(weights(m)),
        "directions": theta,
        "q": q,
        "k": k,
        "v": v,
        "u": s,
        "s": s,
        "costs": np.abs(s),
        "prior": None,
        "plan": np.outer(cloud.a, cloud.b)
        if cloud.a is not None and cloud.b is not None
        else np.full((n, m), 1 / (n * m)),
        "points": cloud.y,
        "images": cloud.x,
        "t": draw(st.sampled_from([0.0, 1e-300, 0.3, 1.0])),
        "tau": draw(st.sampled_from(TAUS)),
        "beta": draw(st.sampled_from([0.0, 1e-300, 0.5, 1e6, 1e300, float("inf")])),
        "p": draw(st.sampled_from([1, 1.5, 2, 3])),
        "power": draw(st.sampled_from([1, 2])),
        "sort": draw(st.sampled_from(["soft", "balanced", "hard"])),
        "descending": draw(st.booleans()),
        "ties": draw(st.sampled_from(["split", "first"])),
        "n_iter": draw(st.integers(1, 30)),
        "n_directions": draw(st.integers(1, 12)),
        "dim": draw(st.integers(1, 5)),
        "method": draw(st.sampled_from(["random", "orthogonal", "sobol", "equispaced", "lebedev", "axes"])),
        "how": draw(st.sampled_from(["joint", "each"])),
        "rng": draw(st.integers(0, 5)),
    }
    if function in (espref.soft_line_plan, espref.line_plan, espref.line_cost, espref.line_potentials):
        pool["v"] = t
    if function is espref.rank_plan:
        pool |= {name: np.full(3, 1 / 3) if pool[name] is None else pool[name] for name in "ab"}
    if function is espref.soft_top_k:
        pool["k"] = draw(st.integers(1, len(s)))
    if function in (espref.line_quantile, espref.soft_quantile):
        pool["t"] = np.array(draw(st.lists(st.floats(0, 1), min_size=1, max_size=4)))
    arguments = {name: pool[name] for name in names}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and name not in ("a", "b", "plan"):  # narrow weights no longer sum to 1
            arguments[name] = draw(worn(draw(tailed(value)) if name in CLOUDS else value))
    if draw(st.integers(0, 2)) == 0:
        arguments[draw(st.sampled_from(list(names)))] = copy.deepcopy(
            draw(st.sampled_from(range(len(JUNK))).map(JUNK.__getitem__))
        )
    return function, arguments


#: Arguments that hold points, tokens or scores.
CLOUDS = ("x", "y", "q", "k", "v", "u", "s", "costs", "points", "images")
OUTCOMES: Counter[str] = Counter()
FUNCTIONS = [
    espref.line_plan,
    espref.sample_directions,
    espref.direction_weights,
    espref.sliced_plans,
    espref.slice_costs,
    espref.transport_cost,
    espref.marginal_defect,
    espref.gibbs_weights,
    espref.expected_sliced_plan,
    espref.min_sliced_plan,
    espref.est_distance,
    espref.circle_plan,
    espref.line_cost,
    espref.line_potentials,
    espref.line_quantile,
    espref.rank_plan,
    espref.sliced_wasserstein,
    espref.max_sliced_wasserstein,
    espref.soft_permutation,
    espref.soft_sort,
    espref.soft_rank,
    espref.soft_quantile,
    espref.soft_top_k,
    espref.soft_line_plan,
    espref.expected_soft_plan,
    espref.softmax_attention,
    espref.sinkhorn_attention,
    espref.esp_attention,
    espref.planfree_attention,
    espref.barycentric_map,
    espref.extend_map,
    espref.standardise,
    espref.displacement_interpolation,
    exact_plan,
]
PLANS = (espref.line_plan, espref.rank_plan, espref.soft_line_plan)


def numbers(result: Any) -> list[np.ndarray]:
    """All arrays of a result."""
    if sparse.issparse(result):
        return [result.data]
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in numbers(part)]
    return [np.asarray(result, dtype=float)]


def dense(plan: Any) -> np.ndarray:
    return plan.toarray() if sparse.issparse(plan) else np.asarray(plan)


def check(function: Callable, result: Any) -> None:
    """Finite everywhere; plans are nonnegative with mass 1, weights a probability, soft sorts have rows of sum 1."""
    assert all(np.isfinite(array).all() for array in numbers(result))
    plans = [result] if function in PLANS else result if function is espref.sliced_plans else []
    plans = [result.plan] if hasattr(result, "plan") else plans
    for plan in plans:
        assert dense(plan).min() >= 0 and abs(dense(plan).sum() - 1) < 1e-9
    if hasattr(result, "weights"):
        assert result.weights.min() >= 0 and abs(result.weights.sum() - 1) < 1e-9
    if function is espref.soft_permutation:
        assert np.allclose(result.sum(axis=1), 1, rtol=0, atol=1e-9)
    if hasattr(result, "matrix"):
        assert result.matrix.min() >= 0 and abs(result.matrix.sum() / len(result.matrix) - 1) < 1e-9


@settings(
    max_examples=EXAMPLES or 700,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(calls())
def test_fuzz(call: tuple[Callable, dict[str, Any]]) -> None:
    """One call: a result that satisfies its invariants, or an error that names an argument."""
    function, arguments = call
    before = {name: value.copy() for name, value in arguments.items() if type(value) is np.ndarray}
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        try:
            result = function(**arguments)
        except (ValueError, TypeError) as error:
            named = re.findall(r"\w+", str(error).split("expected")[0])
            assert set(named) & set(arguments), f"{function.__name__}: {type(error).__name__}: {error}"
            OUTCOMES["refused"] += 1
        except RuntimeError as error:
            assert re.search(r"converge|did not|Sinkhorn|optimal|loses the mass|not certified", str(error)), error
            OUTCOMES["did not converge, and said so"] += 1
        else:
            check(function, result)
            OUTCOMES["sound results"] += 1
    for name, value in before.items():
        assert value.tobytes() == arguments[name].tobytes(), f"{function.__name__} changed {name}"


@pytest.mark.skipif(not EXAMPLES, reason="make fuzz writes the record")
def test_record() -> None:
    """How many calls there were, and how they ended."""
    detail = ", ".join(f"{count} {outcome}" for outcome, count in OUTCOMES.most_common())
    total = OUTCOMES.total()
    assert total >= EXAMPLES
    records.write("fuzz", [records.row("fuzz", "NumPy functions", total, "calls", ">= 100000", total >= 1e5, detail)])
