"""Machinery of the line: weights as whole numbers of quanta, so that cumulative sums are exact.

Uniform weights are exact: the total is the least common multiple of n and m. Other weights are multiples of 2^-62 of
the total mass, or, where a point is so light that this would distort it, of a smaller power of two, as Python integers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._checks import Array

Whole = NDArray[Any]  # int64, or Python integers where 62 bits are too few

#: Bits of the total mass in 64-bit integers; they are used where the lightest point has 40, 12 digits, and otherwise as
#: many bits as leave it 53, all that a float has.
BITS = 62
ENOUGH_BITS = 40
FLOAT_BITS = 53

#: Ends of cumulative weights, relative to the total, that rounding of the weights cannot tell apart. They are taken for
#: equal only where that moves less than one part in 2^30 of the mass of any point nearby.
ROUNDING = 4 * float(np.finfo(np.float64).eps)
NEGLIGIBLE = 2**30


class Quanta(NamedTuple):
    """Weights in whole numbers of quanta. Both sides have the total ``total`` after :func:`balanced_total`."""

    source: Whole  # (n,)
    target: Whole  # (m,)
    total: int
    slack: int  # ends closer than this may be equal but for rounding; 0 when no weight was rounded


def quantise(a: Array, b: Array) -> Quanta:
    """Both weight vectors in quanta; zero weights stay zero, and no other weight becomes zero."""
    n, m = len(a), len(b)
    if (a == a[0]).all() and (b == b[0]).all():
        total = int(np.lcm(n, m))
        return Quanta(np.full(n, total // n), np.full(m, total // m), total, 0)
    lightest = 1 - int(np.frexp(min(a[a > 0].min(), b[b > 0].min()))[1])  # its weight is at least 2^-lightest
    bits = BITS if BITS - lightest >= ENOUGH_BITS else FLOAT_BITS + lightest
    slack = int(2**bits * Fraction(ROUNDING)) + n + m  # each weight is rounded by half a quantum
    return Quanta(_whole(a, bits), _whole(b, bits), 2**bits, slack)


def _whole(weights: Array, bits: int) -> Whole:
    """weights * 2^bits as whole numbers, scaled by rounding so that the sum is nearly 2^bits; none becomes zero."""
    if bits == BITS:
        whole = np.rint(weights * 2.0**BITS).astype(np.int64)
        rest = 2**BITS - int(whole.sum())
        return np.asarray(whole + np.rint(whole * (rest / 2.0**BITS)).astype(np.int64))
    mantissa, exponent = np.frexp(weights)
    shifts = exponent - 53 + bits
    digits = np.ldexp(mantissa, 53).astype(np.int64)
    large = np.empty(len(weights), dtype=object)
    large[:] = [int(x) << int(s) if s >= 0 else int(x) >> int(-s) for x, s in zip(digits, shifts, strict=True)]
    return np.asarray(large + large * (2**bits - int(large.sum())) // 2**bits)


def balanced_total(weights: Whole, total: int) -> Whole:
    """Weights in sorted order whose total is ``total``: the heaviest, the first of them, takes what rounding left over.

    In sorted order, so that the result depends on the measure and not on the numbering of its points.
    """
    rest = total - int(weights.sum())
    if rest == 0:
        return weights
    weights = weights.copy()
    weights[weights.argmax()] += rest
    return weights


def reconcile(source: Whole, target: Whole, slack: int) -> Whole:
    """Target weights (..., m) such that ends which agree with ends of the source within rounding agree exactly.

    A cloud and the same cloud with its equal points merged have weights that differ by rounding; without this, slivers
    of mass would go to neighbours. Ends are moved only if that is negligible for all points around them, and within a
    stretch between two such ends all points but the last keep their weight.
    """
    n, weights = source.shape[-1], np.concatenate([source, target], axis=-1)
    ends = np.concatenate([source.cumsum(-1), target.cumsum(-1)], axis=-1)
    order = ends.argsort(axis=-1, kind="stable")
    ends, of_source = np.take_along_axis(ends, order, -1), order < n
    last = source[..., -1:], target[..., -1:]  # behind the last point, nothing lighter
    following = np.concatenate([source[..., 1:], last[0], target[..., 1:], last[1]], axis=-1)
    lightest = np.take_along_axis(np.minimum(weights, following), order, -1)

    gap = np.diff(ends)
    negligible = np.minimum(lightest[..., 1:], lightest[..., :-1]) // NEGLIGIBLE
    meets = (of_source[..., 1:] != of_source[..., :-1]) & (gap <= slack) & (gap <= negligible)
    shift = np.where(of_source[..., :-1], -gap, gap)  # from the target's end to the source's
    moved = np.zeros_like(ends)
    at = np.zeros(ends.shape, dtype=np.int64)
    for side in (slice(None, -1), slice(1, None)):  # the pair's end that belongs to the target
        here = meets & ~of_source[..., side]
        moved[..., side] = np.where(here, shift, moved[..., side])
        at[..., side] = np.where(here, np.arange(ends.shape[-1])[side], at[..., side])
    latest = np.maximum.accumulate(at, axis=-1)
    ends = np.where(of_source, ends, ends + np.take_along_axis(moved, latest, -1))
    places = np.argsort(order, axis=-1)[..., n:]
    return np.diff(np.take_along_axis(ends, places, -1), prepend=0)
