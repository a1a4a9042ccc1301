r"""Chapter 1. Optimal transport on the line is sorting.

For $\mu = \sum_i a_i \delta_{u_i}$ and $\nu = \sum_j b_j \delta_{v_j}$ on the real line, sort both sides and match mass
from left to right: the *monotone plan*. It is optimal for every cost $h(u - v)$ with $h$ convex
(Peyré and Cuturi, 2019).

The matching is done in integers. Weights become whole numbers of *quanta* of mass, cumulative sums of quanta are exact,
and so every row and column of a plan receives the very mass of its point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array

from ._checks import Array, as_choice, as_values, as_weights

Index = NDArray[np.int64]

#: General weights are rounded to multiples of 1 / QUANTA: 2e-19 of the total mass, far below a rounding of float64.
#: Points lighter than that take no part.
QUANTA = 2**62

#: The most entries a tie-splitting plan may hold (16 bytes each) before it is refused.
MAX_ENTRIES = 50_000_000

TIES = ("split", "first")


class Quanta(NamedTuple):
    """Weights in whole numbers of quanta, both sides with the same total."""

    source: Index  # (n,)
    target: Index  # (m,)
    total: int


class Pieces(NamedTuple):
    """A monotone plan in ranks: piece k carries ``mass[k]`` from rank ``source[k]`` to rank ``target[k]``."""

    source: Index
    target: Index
    mass: NDArray  # quanta or mass, as the function that returns it says


class Matching(NamedTuple):
    """The monotone plan between two clouds on the line, class of equal values by class of equal values.

    Class U holds the points ``source_order[source_starts[U]:source_starts[U + 1]]``; without ties a class is one point.
    """

    source_order: Index  # (n,)  points in ascending order, those without weight left out
    source_starts: Index  # (U,)  rank at which each class starts
    target_order: Index  # (m,)
    target_starts: Index  # (V,)
    pieces: Pieces  # in classes, with mass

    @property
    def tied(self) -> bool:
        """Whether any class holds more than one point."""
        return len(self.source_starts) < len(self.source_order) or len(self.target_starts) < len(self.target_order)


def quantise(a: Array, b: Array) -> Quanta:
    """Both weight vectors in quanta.

    Exact for uniform weights, where the total is the least common multiple of n and m; otherwise multiples of 2^-62,
    what rounding leaves over going to the heaviest point.
    """
    n, m = len(a), len(b)
    if (a == a[0]).all() and (b == b[0]).all():
        total = int(np.lcm(n, m))
        return Quanta(np.full(n, total // n), np.full(m, total // m), total)

    def whole(weights: Array) -> Index:
        quanta = np.rint(weights * QUANTA).astype(np.int64)
        quanta[weights.argmax()] += QUANTA - quanta.sum()
        return quanta

    return Quanta(whole(a), whole(b), QUANTA)


def monotone_pieces(source: Index, target: Index) -> Pieces:
    """Match quanta from left to right (north-west corner rule) along the last axis.

    source : (..., n) and target : (..., m), whole numbers with equal totals, in sorted order.
    Returns pieces of shape (..., n + m), mass in quanta; pieces without mass are among them.
    """
    n = source.shape[-1]
    ends = np.concatenate([source.cumsum(-1), target.cumsum(-1)], axis=-1)
    order = ends.argsort(axis=-1, kind="stable")  # linear time: two sorted runs; the target's last end is the last
    mass = np.take_along_axis(ends, order, -1)
    mass[..., 1:] -= mass[..., :-1].copy()
    of_source = order < n
    done_source = of_source.cumsum(-1) - of_source
    done_target = np.arange(ends.shape[-1]) - done_source
    return Pieces(np.minimum(done_source, n - 1), done_target, mass)


def rank_pieces(quanta: Quanta) -> Pieces:
    """The monotone plan between sorted weights, with mass (not quanta), no piece empty.

    For uniform weights entry (i, j) is the length of [i/n, (i+1)/n] intersected with [j/m, (j+1)/m].
    """
    if len(quanta.source) == len(quanta.target) == quanta.total:  # n = m, uniform: rank to rank
        ranks = np.arange(quanta.total)
        return Pieces(ranks, ranks, np.full(quanta.total, 1.0 / quanta.total))
    source, target, mass = monotone_pieces(quanta.source, quanta.target)
    full = mass > 0
    return Pieces(source[full], target[full], mass[full] / quanta.total)


def _sort(values: Array, ties: str) -> tuple[Index, Index]:
    """Ascending order, and the rank at which each class starts; "first" makes every point its own class."""
    if ties == "first":
        return values.argsort(kind="stable"), np.arange(len(values))
    order = values.argsort()
    ordered = values[order]
    new = ordered[1:] != ordered[:-1]
    starts = np.arange(len(values)) if new.all() else np.concatenate([[0], 1 + np.flatnonzero(new)])
    return order, starts


def match(u: Array, v: Array, a: Array, b: Array, ties: str) -> Matching:
    """The monotone plan between the distinct values of two weighted clouds on the line (inputs already checked)."""
    if a.min() < 1 / QUANTA or b.min() < 1 / QUANTA:  # points without weight take no part
        heavy_a, heavy_b = np.flatnonzero(a >= 1 / QUANTA), np.flatnonzero(b >= 1 / QUANTA)
        inner = match(u[heavy_a], v[heavy_b], a[heavy_a], b[heavy_b], ties)
        return inner._replace(source_order=heavy_a[inner.source_order], target_order=heavy_b[inner.target_order])
    quanta = quantise(a, b)
    source_order, source_starts = _sort(u, ties)
    target_order, target_starts = _sort(v, ties)
    classes = Quanta(
        _class_sums(quanta.source[source_order], source_starts),
        _class_sums(quanta.target[target_order], target_starts),
        quanta.total,
    )
    return Matching(source_order, source_starts, target_order, target_starts, rank_pieces(classes))


def _class_sums(ordered: Index, starts: Index) -> Index:
    return ordered if len(starts) == len(ordered) else np.add.reduceat(ordered, starts)


def class_sizes(starts: Index, n: int) -> Index:
    """How many points each class holds, shape (U,)."""
    return np.diff(starts, append=n)


def pair_counts(matching: Matching) -> Index:
    """How many pairs of points each class piece spreads over."""
    source_sizes = class_sizes(matching.source_starts, len(matching.source_order))
    target_sizes = class_sizes(matching.target_starts, len(matching.target_order))
    return source_sizes[matching.pieces.source] * target_sizes[matching.pieces.target]


def tied_pairs(matching: Matching, a: Array, b: Array, step: int) -> Iterator[Pieces]:
    """All pairs of points in matched classes with their tie-splitting mass, ``step`` pairs at a time."""
    rows, cols, mass = matching.pieces
    ends = pair_counts(matching).cumsum()
    starts = np.concatenate([[0], ends[:-1]])
    widths = class_sizes(matching.target_starts, len(matching.target_order))[cols]
    share_a = class_shares(a, matching.source_order, matching.source_starts)
    share_b = class_shares(b, matching.target_order, matching.target_starts)
    for start in range(0, int(ends[-1]), step):
        pair = np.arange(start, min(start + step, ends[-1]))
        piece = ends.searchsorted(pair, side="right")
        i, j = np.divmod(pair - starts[piece], widths[piece])
        i += matching.source_starts[rows[piece]]
        j += matching.target_starts[cols[piece]]
        yield Pieces(matching.source_order[i], matching.target_order[j], mass[piece] * share_a[i] * share_b[j])


def class_shares(weights: Array, order: Index, starts: Index) -> Array:
    """Each point's part of the mass of its class, by rank."""
    ordered = weights[order]
    return ordered / np.repeat(np.add.reduceat(ordered, starts), class_sizes(starts, len(order)))


def refuse_large(matchings: Iterable[Matching]) -> None:
    """Raise ValueError before anything is built if tied slices would spread over more than ``MAX_ENTRIES`` entries."""
    count = sum(int(pair_counts(matching).sum()) for matching in matchings if matching.tied)
    if count > MAX_ENTRIES:
        raise ValueError(
            f"ties: expected plans of at most {MAX_ENTRIES:,} entries, got ties that would spread over {count:,}; "
            "ties='first' keeps one optimal plan with at most n + m - 1 entries, and slice_costs builds no plan"
        )


def split_ties(matching: Matching, a: Array, b: Array) -> Pieces:
    """Spread each class piece over its points in proportion to their weights; returns points and mass.

    Raises ValueError before anything is built if the plan would hold more than ``MAX_ENTRIES`` entries.
    """
    if not matching.tied:
        rows, cols, mass = matching.pieces
        return Pieces(matching.source_order[rows], matching.target_order[cols], mass)
    refuse_large([matching])
    return next(tied_pairs(matching, a, b, MAX_ENTRIES))


def to_plan(pieces: Pieces, n: int, m: int) -> coo_array:
    """A sparse plan of shape (n, m) without stored zeros: no piece is empty."""
    return coo_array((pieces.mass, (pieces.source, pieces.target)), shape=(n, m))


def line_plan(
    u: ArrayLike, v: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, ties: str = "split"
) -> coo_array:
    r"""The optimal transport plan between two weighted clouds on the line.

    With $U$ the class of points equal to $u_i$, $A(U)$ its weight, and $\Lambda$ the monotone plan between the distinct
    values, the *tie-splitting* plan is

    $$G_{ij} = \frac{a_i}{A(U_i)} \frac{b_j}{B(V_j)} \Lambda(U_i, V_j), \qquad 0/0 = 0 .$$

    Parameters
    ----------
    u, v : (n,) and (m,)
        Points of the source and of the target.
    a, b : (n,) and (m,), optional
        Weights, nonnegative, sum 1; uniform by default.
    ties : "split" or "first"
        "split" is the definition above, a function of the two measures. "first" matches equal values in their input
        order: optimal too, with at most n + m - 1 entries, but dependent on the numbering of the points.

    Returns
    -------
    scipy.sparse.coo_array, shape (n, m)
        Total mass 1, marginals a and b, no stored zeros.

    Raises
    ------
    ValueError
        For malformed input, or when splitting the ties would take more than ``line.MAX_ENTRIES`` entries.

    Examples
    --------
    >>> from espref import line_plan
    >>> line_plan([3.0, 1.0], [10.0, 20.0]).toarray()
    array([[0. , 0.5],
           [0.5, 0. ]])
    >>> line_plan([1.0, 1.0], [10.0, 20.0]).toarray()  # a tie: mass is shared
    array([[0.25, 0.25],
           [0.25, 0.25]])

    References
    ----------
    liu2025est (lifted plan), peyre2019computational (the line)
    """
    u, v = as_values(u, "u"), as_values(v, "v")
    a, b = as_weights(a, len(u), "a"), as_weights(b, len(v), "b")
    as_choice(ties, "ties", TIES)
    return to_plan(split_ties(match(u, v, a, b, ties), a, b), len(u), len(v))
