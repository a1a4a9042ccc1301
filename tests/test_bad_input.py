"""Bad input: every public function names the argument, says what was expected and what came, and warns of nothing."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest
from scipy import sparse

import espref
from espref import solvers

X, Y = [[0.0, 1.0], [2.0, 3.0], [4.0, 6.0]], [[1.0, 1.0], [0.0, 5.0]]
THETA = [[1.0, 0.0], [0.6, 0.8]]
PLAN = [[0.25, 0.0], [0.25, 0.25], [0.0, 0.25]]
TOKENS = {"q": X, "k": Y, "v": [[1.0], [2.0]]}
SOFT = {"tau": 0.5, "power": 1, "sort": "soft"}

#: A sound call of every public function, by keyword.
SOUND = {
    espref.line_plan: {"u": [1.0, 2.0, 3.0], "v": [0.0, 5.0], "a": None, "b": None, "ties": "split"},
    espref.sample_directions: {"n_directions": 4, "dim": 3, "method": "random", "rng": 0},
    espref.direction_weights: {"n_directions": 4, "dim": 3, "method": "random"},
    espref.sliced_plans: {"x": X, "y": Y, "directions": THETA, "a": None, "b": None, "ties": "split"},
    espref.slice_costs: {"x": X, "y": Y, "directions": THETA, "a": None, "b": None, "p": 2, "ties": "split"},
    espref.transport_cost: {"plan": PLAN, "x": X, "y": Y, "p": 2},
    espref.marginal_defect: {"plan": PLAN, "a": None, "b": None},
    espref.gibbs_weights: {"costs": [1.0, 2.0], "beta": 1.0, "prior": None},
    espref.expected_sliced_plan: {
        "x": X,
        "y": Y,
        "directions": THETA,
        "a": None,
        "b": None,
        "beta": 1.0,
        "p": 2,
        "ties": "split",
        "prior": None,
    },
    espref.min_sliced_plan: {"x": X, "y": Y, "directions": THETA, "a": None, "b": None, "p": 2, "ties": "split"},
    espref.est_distance: {
        "x": X,
        "y": Y,
        "directions": THETA,
        "a": None,
        "b": None,
        "beta": 1.0,
        "p": 2,
        "ties": "split",
        "prior": None,
    },
    espref.circle_plan: {"x": X, "y": Y, "a": None, "b": None, "beta": 1.0, "p": 2},
    espref.soft_permutation: {"s": [3.0, 1.0], **SOFT, "descending": False},
    espref.soft_sort: {"s": [3.0, 1.0], **SOFT, "descending": False},
    espref.soft_rank: {"s": [3.0, 1.0, 2.0], "a": None, **SOFT, "descending": False},
    espref.soft_quantile: {"s": [3.0, 1.0], "t": [0.5], **SOFT},
    espref.soft_top_k: {"s": [3.0, 1.0], "k": 1, **SOFT},
    espref.line_potentials: {"u": [1.0, 2.0, 3.0], "v": [0.0, 5.0], "a": None, "b": None, "p": 2},
    espref.line_quantile: {"u": [1.0, 2.0, 3.0], "t": [0.5], "a": None},
    espref.sliced_wasserstein: {"x": X, "y": Y, "directions": THETA, "a": None, "b": None, "p": 2, "prior": None},
    espref.max_sliced_wasserstein: {"x": X, "y": Y, "directions": THETA, "a": None, "b": None, "p": 2},
    espref.line_cost: {"u": [1.0, 2.0, 3.0], "v": [0.0, 5.0], "a": None, "b": None, "p": 2},
    espref.rank_plan: {"a": [0.5, 0.25, 0.25], "b": [0.5, 0.5]},
    espref.soft_line_plan: {"u": [1.0, 2.0, 3.0], "v": [0.0, 5.0], "a": None, "b": None, **SOFT},
    espref.expected_soft_plan: {
        "x": X,
        "y": Y,
        "directions": THETA,
        "a": None,
        "b": None,
        "beta": 1.0,
        "p": 2,
        "prior": None,
        **SOFT,
    },
    espref.softmax_attention: TOKENS,
    espref.sinkhorn_attention: {**TOKENS, "n_iter": 3},
    espref.esp_attention: {
        **TOKENS,
        "tau": 0.5,
        "beta": 1.0,
        "directions": THETA,
        "sort": "soft",
        "power": 1,
        "prior": None,
    },
    espref.barycentric_map: {"plan": PLAN, "y": Y},
    espref.extend_map: {"points": Y, "x": X, "images": X},
    espref.displacement_interpolation: {"plan": PLAN, "x": X, "y": Y, "t": 0.5},
    espref.standardise: {"x": X, "y": Y, "how": "joint", "a": None, "b": None},
    espref.planfree_attention: {**TOKENS, "tau": 0.5, "beta": 1.0, "directions": THETA, "sort": "soft", "prior": None},
    solvers.ground_cost: {"x": X, "y": Y, "p": 2},
    solvers.exact_plan: {"x": X, "y": Y, "a": None, "b": None, "p": 2},
    solvers.sinkhorn_plan: {"x": X, "y": Y, "reg": 1.0, "a": None, "b": None, "p": 2, "n_iter": 100},
    solvers.pot_expected_sliced_plan: {
        "x": X,
        "y": Y,
        "directions": THETA,
        "a": None,
        "b": None,
        "beta": 1.0,
        "p": 2,
    },
}

NOT_NUMBERS = [
    ([["a", "b"]], "expected real numbers, got dtype <U1"),
    ([[1.0], [1.0, 2.0]], "expected an array of real numbers, got what NumPy cannot read: "),
    ([[1.0, 1j]], "expected real numbers, got dtype complex128"),
    ([[None, 1.0]], "expected real numbers, got dtype object"),
    (None, "expected real numbers, got dtype object"),
    (np.array([["2020-01-01"]], "M8[D]"), "expected real numbers, got dtype datetime64[D]"),
]

POINTS = [
    *NOT_NUMBERS,
    ([], "expected shape (n, d) with n, d >= 1, got shape (0,)"),
    ([[]], "expected shape (n, d) with n, d >= 1, got shape (1, 0)"),
    (np.empty((0, 2)), "expected shape (n, d) with n, d >= 1, got shape (0, 2)"),
    (3.0, "expected shape (n, d) with n, d >= 1, got shape ()"),
    ([1.0, 2.0], "expected shape (n, d) with n, d >= 1, got shape (2,) (points on the line are a column: x[:, None])"),
    (np.zeros((2, 2, 2)), "expected shape (n, d) with n, d >= 1, got shape (2, 2, 2)"),
    ([[1.0, 2.0], [3.0, math.nan]], "expected finite numbers, got nan at index (1, 1)"),
    ([[1.0, -math.inf], [3.0, 0.0]], "expected finite numbers, got -inf at index (0, 1)"),
]

VALUES = [
    *NOT_NUMBERS,
    ([], "expected a non-empty vector of shape (n,), got shape (0,)"),
    (1.0, "expected a non-empty vector of shape (n,), got shape ()"),
    ([[1.0], [2.0]], "expected a non-empty vector of shape (n,), got shape (2, 1)"),
    ([1.0, math.nan], "expected finite numbers, got nan at index (1)"),
    ([math.inf, 1.0], "expected finite numbers, got inf at index (0)"),
]

DIRECTIONS = [
    *NOT_NUMBERS,
    ([], "expected shape (L, 2) with L >= 1, got shape (0,)"),
    (np.empty((0, 2)), "expected shape (L, 2) with L >= 1, got shape (0, 2)"),
    ([1.0, 0.0], "expected shape (L, 2) with L >= 1, got shape (2,)"),
    ([[1.0, 0.0, 0.0]], "expected shape (L, 2) with L >= 1, got shape (1, 3)"),
    ([[1.0, 0.0], [0.0, 0.0]], "expected nonzero rows, got a zero direction at row 1"),
    ([[1.0, math.nan]], "expected finite numbers, got nan at index (0, 1)"),
]

#: Weights of two points, whatever the argument they are given for.
WEIGHTS = [
    *[(value, message) for value, message in NOT_NUMBERS if value is not None],
    ([0.25] * 4, "expected {n} weights, shape ({n},), got shape (4,)"),
    (1.0, "expected {n} weights, shape ({n},), got shape ()"),
    (lambda n: [1.5, *[-0.5 / (n - 1)] * (n - 1)], "expected nonnegative weights, got -"),
    (lambda n: [0.0] * n, "expected weights that sum to 1, all are zero"),
    (lambda n: [1.0] * n, "expected weights that sum to 1, got a sum of {n}.0"),
    (lambda n: [1.0 + 1e-8, *[0.0] * (n - 1)], "expected weights that sum to 1, got a sum of 1.00000001"),
    (lambda n: [1e308] * n, "expected weights that sum to 1, got a sum of inf"),
    (lambda n: [math.nan] * n, "expected finite numbers, got nan at index (0)"),
    (lambda n: [math.inf, *[0.0] * (n - 1)], "expected finite numbers, got inf at index (0)"),
]


def numbers(expected: str, *bad: object) -> list[tuple[object, str]]:
    return [(value, f"expected {expected}, got {value!r}") for value in bad]


NEVER_NUMBERS = ("2", b"2", None, [1.0], np.array([1.0, 2.0]), 1j, np.complex128(2), math.nan, {}, 10**400)
BETA = numbers("a number >= 0", -1, -1e-300, -math.inf, *NEVER_NUMBERS)
TAU = numbers("a number >= 0 and finite", -1, -5e-324, math.inf, -math.inf, *NEVER_NUMBERS)
POWER = numbers("1 (Laplace kernel) or 2 (Gauss kernel)", 0, 3, 1.5, True, "1", None, [1], math.nan, np.array([1, 2]))
BAD_SORTS = ("Soft", "", None, True, ["soft"], np.array(["soft", "hard"]))
SORT = numbers("one of soft, balanced", "hard", *BAD_SORTS)
EXPONENT = numbers("a number >= 1", 0.5, 0, -2, -math.inf, *NEVER_NUMBERS)
FINITE_EXPONENT = numbers("a number >= 1 and finite", 0.5, 0, -2, math.inf, *NEVER_NUMBERS)
REG = numbers("a number > 0 and finite", 0, -1.0, math.inf, *NEVER_NUMBERS)
UNBOUNDED_TAU = numbers("a number >= 0", -1, -5e-324, -math.inf, *NEVER_NUMBERS)
FLAG = numbers("True or False", 0, 1, None, "yes", "", [True], np.array([True, False]))
FRACTION = [
    *numbers("a number >= 0 and finite", -1, -5e-324, math.inf, *NEVER_NUMBERS),
    *numbers("a number <= 1", 1.5, 2),
]
LEVELS = [
    *NOT_NUMBERS,
    ([], "expected at least one level, got shape (0,)"),
    ([0.5, -0.1], "expected levels in [0, 1], got -0.1 to 0.5"),
    (1.5, "expected levels in [0, 1], got 1.5 to 1.5"),
    ([math.nan], "expected finite numbers, got nan at index (0)"),
]
COUNT = numbers("a whole number >= 1", 0, -1, 2.0, True, "3", None, math.nan, [2], np.array([1, 2]), np.True_)
RNG = numbers("a whole number >= 0 or a NumPy source of random numbers", -1, 0.5, True, "0", [1], np.random.RandomState)
TIES = numbers("one of split, first", "average", "", None, 1, ["split"], np.array(["split", "first"]))
METHOD = numbers("one of random, orthogonal, sobol, equispaced, lebedev, axes", "halton", None, 3, np.array([1, 2]))
PLANS = [
    *NOT_NUMBERS,
    ([0.5, 0.5], "expected shape (n, m) with n, m >= 1, got shape (2,)"),
    ([], "expected shape (n, m) with n, m >= 1, got shape (0,)"),
    (np.empty((0, 2)), "expected shape (n, m) with n, m >= 1, got shape (0, 2)"),
    (np.zeros((1, 2, 2)), "expected shape (n, m) with n, m >= 1, got shape (1, 2, 2)"),
    (sparse.coo_array(np.array([0.5, 0.5])), "expected shape (n, m) with n, m >= 1, got shape (2,)"),
    (sparse.coo_array([[1j]]), "expected real numbers, got dtype complex128"),
    (sparse.coo_array([[0, 0], [math.nan, 1]]), "expected finite numbers, got nan at index (1, 0)"),
    ([[0.5, math.inf]], "expected finite numbers, got inf at index (0, 1)"),
]

BAD = {
    "u": VALUES,
    "v": VALUES,
    "x": POINTS,
    "y": POINTS,
    "points": POINTS,
    "images": POINTS,
    "directions": DIRECTIONS,
    "a": WEIGHTS,
    "b": WEIGHTS,
    "prior": WEIGHTS,
    "costs": VALUES,
    "plan": PLANS,
    "beta": BETA,
    "p": EXPONENT,
    "reg": REG,
    "ties": TIES,
    "how": [(None, "expected one of joint, each, got None"), ("both", "expected one of joint, each, got 'both'")],
    "method": METHOD,
    "rng": [case for case in RNG if case[0] is not None],
    "n_directions": COUNT,
    "dim": COUNT,
    "n_iter": COUNT,
    "s": VALUES,
    "q": POINTS,
    "k": POINTS,
    "tau": TAU,
    "power": POWER,
    "sort": SORT,
    "descending": FLAG,
    "t": LEVELS,
}
#: Where a name means something else: values of attention are points, weights in rank order say themselves how many.
OTHER = {
    **{(function, "v"): POINTS for function in SOUND if "q" in SOUND[function]},
    (espref.displacement_interpolation, "t"): FRACTION,
    **{
        (function, "directions"): [case for case in DIRECTIONS if case[0] is not None]
        for function in (espref.esp_attention, espref.planfree_attention)
    },
    **{
        (function, "p"): FINITE_EXPONENT
        for function in SOUND
        if function
        in (
            espref.expected_soft_plan,
            espref.line_potentials,
            espref.sliced_wasserstein,
            espref.max_sliced_wasserstein,
            solvers.ground_cost,
            solvers.exact_plan,
            solvers.sinkhorn_plan,
        )
    },
    **{(function, "tau"): UNBOUNDED_TAU for function in SOUND if function.__module__ == "espref.softsort"},
    (espref.soft_top_k, "k"): [*COUNT, (3, "expected at most the number of scores, 2, got 3")],
    **{
        (function, "sort"): numbers("one of soft, balanced, hard", *BAD_SORTS)
        for function in (espref.esp_attention, espref.planfree_attention)
    },
    **{(espref.rank_plan, side): [*VALUES, *[case for case in WEIGHTS if callable(case[0])]] for side in "ab"},
}

CASES = [
    pytest.param(function, argument, *case, id=f"{function.__name__}-{argument}-{number}")
    for function, sound in SOUND.items()
    for argument in sound
    for number, case in enumerate(OTHER.get((function, argument), BAD[argument]))
]


def length(function, argument: str) -> int:
    """How many weights the sound call of a function takes for an argument."""
    return 3 if argument == "a" else 2


@pytest.mark.parametrize("function", SOUND)
def test_sound_call(function) -> None:
    """The call that the bad ones are made from goes through."""
    function(**SOUND[function])


@pytest.mark.parametrize(("function", "argument", "bad", "message"), CASES)
def test_bad_argument(function, argument: str, bad: object, message: str) -> None:
    """One bad argument among sound ones: ValueError "argument: expected ..., got ...", on one line."""
    n = length(function, argument)
    value = bad(n) if callable(bad) and not isinstance(bad, type) else bad
    if "{n}" in message:
        message = message.format(n=n)
    with pytest.raises(ValueError, match=f"^{argument}: {re.escape(message)}") as caught:
        function(**{**SOUND[function], argument: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (espref.marginal_defect, {"plan": math.nan}),
        (espref.transport_cost, {"plan": -1, "x": X, "y": Y}),
        (espref.sample_directions, {"dim": 10**400, "n_directions": 8}),
        (espref.soft_permutation, {"power": [1.0, [2.0]], "s": [1.0], "tau": 1.0}),
        (espref.planfree_attention, {"sort": sparse.coo_array(PLAN), **TOKENS, "tau": 0.0, "beta": 0.0}),
    ],
)
def test_found_by_fuzzing(function, arguments: dict) -> None:
    """Calls that once failed deep inside: the first argument is named."""
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))}: expected"):
        function(**arguments)


def test_every_public_function_is_covered() -> None:
    """SOUND holds every function of the mathematics and its every parameter; cite has its own test."""
    public = [getattr(espref, name) for name in espref.__all__ if name != "cite"]
    oracles = [function for name, function in inspect.getmembers(solvers, inspect.isfunction) if name[0] != "_"]
    for function in public + [f for f in oracles if f.__module__ == solvers.__name__]:
        if inspect.isfunction(function):
            assert set(SOUND[function]) == set(inspect.signature(function).parameters)


@pytest.mark.parametrize("function", [f for f, sound in SOUND.items() if {"x", "y"} <= set(sound)])
def test_dimensions_must_agree(function) -> None:
    """y must have the dimension of x."""
    bad = {**SOUND[function], "y": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}
    with pytest.raises(ValueError, match=r"^y: expected the dimension of x, d = 2, got d = 3$"):
        function(**bad)


def test_circle_is_for_the_plane() -> None:
    """circle_plan takes d = 2 only."""
    with pytest.raises(ValueError, match=r"^x: expected points of the plane, d = 2, got d = 3$"):
        espref.circle_plan(np.zeros((2, 3)), np.ones((4, 3)))


def test_plan_must_fit_the_clouds() -> None:
    """transport_cost takes a plan of shape (n, m)."""
    with pytest.raises(ValueError, match=r"^plan: expected shape \(3, 2\), got shape \(2, 3\)$"):
        espref.transport_cost(np.ones((2, 3)), X, Y)


@pytest.mark.parametrize("function", [espref.sample_directions, espref.direction_weights])
@pytest.mark.parametrize(
    ("method", "n", "dim", "message"),
    [
        ("equispaced", 4, 3, "dim: expected 2 for equispaced directions, got 3"),
        ("lebedev", 14, 2, "dim: expected 3 for Lebedev directions, got 2"),
        ("lebedev", 7, 3, "n_directions: expected the size of a Lebedev rule (6, 14, ...), got 7"),
        ("lebedev", 10**6, 3, "n_directions: expected the size of a Lebedev rule (6, 14, 26, "),
        ("axes", 4, 3, "n_directions: expected the dimension, 3, for axes, got 4"),
    ],
)
def test_sizes_that_methods_do_not_have(function, method: str, n: int, dim: int, message: str) -> None:
    """Directions and their weights refuse the same sizes, with the same words."""
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        function(n, dim, method=method)


def test_no_prior_on_any_usable_slice() -> None:
    """A prior must sum to 1 and match the directions in number."""
    with pytest.raises(ValueError, match=r"^prior: expected 2 weights, shape \(2,\), got shape \(1,\)$"):
        espref.expected_sliced_plan(X, Y, THETA, prior=[1.0])


ATTENTIONS = [function for function, sound in SOUND.items() if {"q", "k"} <= set(sound)]


@pytest.mark.parametrize("function", ATTENTIONS)
def test_tokens_must_agree(function) -> None:
    """k must have the dimension of q, v one row for each key."""
    with pytest.raises(ValueError, match=r"^k: expected the dimension of q, d = 2, got d = 3$"):
        function(**{**SOUND[function], "k": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})
    with pytest.raises(ValueError, match=r"^v: expected one row for each of the 2 keys, got 3$"):
        function(**{**SOUND[function], "v": [[1.0], [2.0], [3.0]]})


@pytest.mark.parametrize("function", ATTENTIONS)
def test_attention_refuses_overflow(function) -> None:
    """Tokens whose inner products or squared distances leave the floats are refused, never a NaN or a warning."""
    equal = ([[1e200, 0.0]], [[1e200, 0.0]] * 2)
    for q, k in (([[1e200, 0.0]], Y), (X, [[0.0, -1e160], [1.0, 1.0]]), ([[1.5e154, 1.5e154]], Y), equal):
        with pytest.raises(ValueError, match=r"^q, k: expected finite squared distances and inner products, got an"):
            function(**{**SOUND[function], "q": q, "k": k})


@pytest.mark.parametrize("p", [1, 2, 3])
def test_soft_plans_refuse_overflow(p: float) -> None:
    """Costs, and scores at tau > 0, must stay among the floats; the hard sort takes directions of any length."""
    far = [[1e200 if p > 1 else 1.7e308, 0.0], [-1.7e308 if p == 1 else 0.0, 0.0]]
    with pytest.raises(ValueError, match=r"^x, y: expected points whose cost \|x - y\|\^p is finite, got an overflow"):
        espref.expected_soft_plan(far, far, THETA, 1.0, p=p)
    with pytest.raises(ValueError, match=r"^directions: expected finite scores <x_i, theta>, got an overflow"):
        espref.expected_soft_plan(X, Y, [[1.5e308, 1.5e308]], 1.0, p=p)
    hard = espref.expected_soft_plan(X, Y, [[1.5e308, 1.5e308]], 0.0, p=p).plan
    np.testing.assert_array_equal(hard, espref.expected_soft_plan(X, Y, [[1.0, 1.0]], 0.0, p=p).plan)
