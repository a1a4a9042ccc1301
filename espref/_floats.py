"""Floating-point errors: what underflows beside larger numbers is zero, whatever ``np.seterr`` is set to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def underflow_is_zero(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with underflow ignored inside: in sums of probabilities and of costs it is below rounding.

    Results that are themselves too small for a float are refused where they are computed.
    """

    @wraps(function)
    def quiet(*arguments: P.args, **settings: P.kwargs) -> R:
        with np.errstate(under="ignore"):
            return function(*arguments, **settings)

    return quiet
