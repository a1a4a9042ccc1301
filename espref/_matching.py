"""Machinery of the line: mass matched from left to right, class of equal points by class."""

from __future__ import annotations

import numpy as np

from ._checks import Array
from ._quanta import Quanta, Whole, as_floats, ascending, balanced_total, carried, reconcile, taken
from ._ties import Classes, Matching, Pieces, classes


def monotone_pieces(source: Whole, target: Whole) -> Pieces:
    """Match mass from left to right: source (K, ..., n) and target (K, ..., m) are sorted weights with equal totals.

    Cumulate both sides and merge the ends. Between two successive ends, mass goes from the first source point that is
    not yet emptied to the first target point that is not yet filled.

    Returns
    -------
    Pieces
        source, target and mass, (..., n + m), along the last axis; zero-mass pieces are included. Weights are whole
        numbers (of K limbs, one as a rule), so that cumulative sums are exact.

    Examples
    --------
    >>> source, target, mass = monotone_pieces(np.array([[2, 2]]), np.array([[1, 1, 2]]))
    >>> [(int(i), int(j), float(w)) for i, j, w in zip(source, target, mass) if w > 0]
    [(0, 0, 1.0), (0, 1, 1.0), (1, 2, 2.0)]
    """
    n = source.shape[-1]
    ends = carried(np.concatenate([source.cumsum(-1), target.cumsum(-1)], axis=-1))
    order = ascending(ends)
    mass = as_floats(np.diff(taken(ends, order), prepend=0))
    of_source = order < n
    emptied = of_source.cumsum(-1) - of_source
    filled = (~of_source).cumsum(-1) - ~of_source
    return Pieces(np.minimum(emptied, n - 1), filled, mass)  # the last end is the target's, and its piece is empty


def rank_pieces(source: Whole, target: Whole, total: int, slack: float) -> Pieces:
    """The plan between sorted weights by its entries, with mass (not quanta), no piece empty."""
    if not slack and source.shape[-1] == target.shape[-1] == total:  # n = m, uniform: rank to rank
        ranks = np.arange(total)
        return Pieces(ranks, ranks, np.full(total, 1.0 / total))
    if slack:
        source, target = balanced_total(source, total), balanced_total(target, total)
    pieces = monotone_pieces(source, target)
    if ((pieces.mass > 0) & (pieces.mass <= slack)).any():  # slivers, which rounding may have made
        pieces = monotone_pieces(source, reconcile(source, target, slack))
    positive = pieces.mass > 0
    return Pieces(pieces.source[positive], pieces.target[positive], pieces.mass[positive] / total)


def match(u: Array, v: Array, quanta: Quanta, ties: str) -> Matching:
    """The monotone plan between the distinct values of two weighted clouds on the line (inputs already checked)."""
    weighty = quanta.source.any(axis=0), quanta.target.any(axis=0)
    if not (weighty[0].all() and weighty[1].all()):  # points without weight take no part
        heavy_a, heavy_b = np.flatnonzero(weighty[0]), np.flatnonzero(weighty[1])
        heavy = quanta._replace(source=quanta.source[:, heavy_a], target=quanta.target[:, heavy_b])
        source, target, pieces = match(u[heavy_a], v[heavy_b], heavy, ties)
        source, target = Classes(heavy_a[source.order], source.starts), Classes(heavy_b[target.order], target.starts)
        return Matching(source, target, pieces)
    source, target = classes(u, ties), classes(v, ties)
    weights = carried(source.sums(quanta.source)), carried(target.sums(quanta.target))
    return Matching(source, target, rank_pieces(*weights, quanta.total, quanta.slack))
