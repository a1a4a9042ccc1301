"""Machinery of the line: weights as whole numbers of quanta, so that cumulative sums are exact.

Uniform weights are exact: the total is the least common multiple of n and m. Other weights are multiples of 2^-62 of
the total mass. Where some point is so light that this would distort it, further *limbs* of 30 bits follow: an array of
whole numbers has shape (K, ..., n), and its value is sum_k limbs[k] 2^(-30 k).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._checks import Array

Whole = NDArray[np.int64]  # (K, ..., n): one limb or more

#: Bits of the total mass in the first limb, and in each further one.
BITS, LIMB = 62, 30

#: One limb is enough where the lightest point has so many bits, 12 digits; else its weight keeps all of a float's.
ENOUGH_BITS, FLOAT_BITS = 40, 53

#: Ends of cumulative weights, relative to the total, that rounding of the weights cannot tell apart. They are taken for
#: equal only where that moves less than this part of the mass of any point nearby.
ROUNDING = 4 * float(np.finfo(np.float64).eps)
NEGLIGIBLE = 2.0**-30


class Quanta(NamedTuple):
    """Weights in whole numbers of quanta. Both sides have the total ``total`` after :func:`balanced_total`."""

    source: Whole  # (K, n)
    target: Whole  # (K, m)
    total: int  # in units of the first limb
    slack: float  # ends closer than this may be equal but for rounding; 0 when no weight was rounded


def quantise(a: Array, b: Array) -> Quanta:
    """Both weight vectors in quanta; zero weights stay zero, and no other weight becomes zero."""
    n, m = len(a), len(b)
    if (a == a[0]).all() and (b == b[0]).all():
        total = int(np.lcm(n, m))
        return Quanta(np.full((1, n), total // n), np.full((1, m), total // m), total, 0)
    lightest = 1 - int(np.frexp(min(a[a > 0].min(), b[b > 0].min()))[1])  # its weight is at least 2^-lightest
    limbs = 1 if BITS - lightest >= ENOUGH_BITS else 1 + -(-(FLOAT_BITS + lightest - BITS) // LIMB)
    slack = 2.0**BITS * ROUNDING + n + m  # each weight is rounded by half a quantum at most
    return Quanta(_whole(a, limbs), _whole(b, limbs), 2**BITS, slack)


def _whole(weights: Array, limbs: int) -> Whole:
    """weights * 2^62 as whole numbers, scaled by rounding so that the sum is nearly 2^62; none becomes zero."""
    if limbs == 1:
        whole = np.rint(weights * 2.0**BITS).astype(np.int64)[None]
    else:
        whole = np.empty((limbs, len(weights)), dtype=np.int64)
        rest, exponent = weights, BITS
        for k in range(limbs):
            digits = np.floor(np.ldexp(rest, exponent))
            rest = rest - np.ldexp(digits, -exponent)  # exact: the digits are leading bits of the weight
            whole[k], exponent = digits, exponent + LIMB
    missing = 2**BITS - int(carried(whole.sum(axis=-1, keepdims=True))[0, 0])
    shares = whole[0] * (missing / 2.0**BITS)  # in proportion
    for k in range(min(limbs, 2)):
        digits = np.rint(shares) if k + 1 == min(limbs, 2) else np.floor(shares)
        whole[k] += digits.astype(np.int64)
        shares = np.ldexp(shares - digits, LIMB)
    return carried(whole)


def carried(limbs: Whole) -> Whole:
    """Limbs after the first brought back into 0 ... 2^30 - 1, in place."""
    for k in range(len(limbs) - 1, 0, -1):
        limbs[k - 1] += limbs[k] >> LIMB
        limbs[k] &= (1 << LIMB) - 1
    return limbs


def as_floats(limbs: Whole) -> Array:
    """The values, (..., n), in units of the first limb."""
    values: Array = limbs[0].astype(np.float64)
    for k in range(1, len(limbs)):
        values += np.ldexp(limbs[k].astype(np.float64), -LIMB * k)
    return values


def ascending(limbs: Whole) -> NDArray[np.int64]:
    """Indices that sort values with carried limbs along the last axis; equal ones in input order."""
    order = limbs[0].argsort(axis=-1, kind="stable")  # linear time: two sorted runs
    if len(limbs) > 1:
        step = np.diff(taken(limbs, order))
        wrong = np.zeros(step.shape[1:], dtype=bool)
        for limb in step[::-1]:
            wrong = (limb < 0) | ((limb == 0) & wrong)
        if wrong.any():  # the first limbs are equal, and the others not in order
            order = np.lexsort(limbs[::-1], axis=-1)
    return np.asarray(order)


def taken(limbs: Whole, order: NDArray[np.int64]) -> Whole:
    """Values rearranged along the last axis."""
    return np.asarray(limbs[:, order] if order.ndim == 1 else np.take_along_axis(limbs, order[None], -1))


def balanced_total(weights: Whole, total: int) -> Whole:
    """Weights in sorted order whose total is ``total``: the heaviest, the first of them, takes what rounding left over.

    In sorted order, so that the result depends on the measure and not on the numbering of its points.
    """
    rest = -carried(weights.sum(axis=-1, keepdims=True))[:, 0]
    rest[0] += total
    if not rest.any():
        return weights
    balanced = weights.copy()
    balanced[:, weights[0].argmax()] += rest
    return carried(balanced)


def reconcile(source: Whole, target: Whole, slack: float) -> Whole:
    """Target weights (K, ..., m) such that ends which agree with ends of the source within rounding agree exactly.

    A cloud and the same cloud with its equal points merged have weights that differ by rounding; without this, slivers
    of mass would go to neighbours. Ends are moved only if that is negligible for all points around them, and within a
    stretch between two such ends all points but the last keep their weight.
    """
    n = source.shape[-1]
    weights = as_floats(np.concatenate([source, target], axis=-1))
    ends = carried(np.concatenate([source.cumsum(-1), target.cumsum(-1)], axis=-1))
    order = ascending(ends)
    ends, of_source = taken(ends, order), order < n
    following = np.concatenate(  # behind the last point, nothing lighter
        [weights[..., 1:n], weights[..., n - 1 : n], weights[..., n + 1 :], weights[..., -1:]], axis=-1
    )
    lightest = np.take_along_axis(np.minimum(weights, following), order, -1)
    step = np.diff(ends)
    gap = as_floats(step)
    negligible = np.minimum(lightest[..., 1:], lightest[..., :-1]) * NEGLIGIBLE
    meets = (of_source[..., 1:] != of_source[..., :-1]) & (gap <= slack) & (gap <= negligible)
    shift = np.where(of_source[..., :-1], -step, step)  # from the target's end to the source's
    moved = np.zeros_like(ends)
    at = np.zeros(order.shape, dtype=np.int64)
    for side in (slice(None, -1), slice(1, None)):  # the end of the pair that belongs to the target
        here = meets & ~of_source[..., side]
        moved[..., side] = np.where(here, shift, moved[..., side])
        at[..., side] = np.where(here, np.arange(order.shape[-1])[side], at[..., side])
    latest = np.maximum.accumulate(at, axis=-1)
    ends = carried(np.where(of_source, ends, ends + taken(moved, latest)))
    places = np.argsort(order, axis=-1)[..., n:]
    return carried(np.diff(taken(ends, places), prepend=0))
