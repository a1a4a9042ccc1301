r"""Machinery of the line: classes of equal points, and plans that share mass within them.

With $U_i$ the class of the source points equal to $u_i$, $A(U_i)$ its weight, and $\Lambda$ the monotone plan between
classes, the tie-splitting plan is $G_{ij} = \frac{a_i}{A(U_i)} \frac{b_j}{B(V_j)} \Lambda(U_i, V_j)$.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from ._checks import Array, InputLimit

Index = NDArray[np.integer[Any]]

#: The most entries a tie-splitting plan may hold (16 bytes each) before it is refused.
MAX_ENTRIES = 50_000_000


class Pieces(NamedTuple):
    """A plan by its entries: piece k carries ``mass[k]`` from ``source[k]`` to ``target[k]``."""

    source: Index
    target: Index
    mass: NDArray[Any]  # whole numbers of quanta, or mass, as the function that returns it says


class Classes(NamedTuple):
    """Points on the line in ascending order, grouped: class U holds ``order[starts[U]:starts[U + 1]]``."""

    order: Index  # (n,)
    starts: Index  # (U,)  rank at which each class starts; without ties every point is a class

    @property
    def tied(self) -> bool:
        """Whether any class holds more than one point."""
        return len(self.starts) < len(self.order)

    def sizes(self) -> Index:
        """How many points each class holds, (U,)."""
        return np.diff(self.starts, append=len(self.order))

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums over the classes, (..., U), of values of the points, (..., n)."""
        ordered = values[..., self.order]
        return np.add.reduceat(ordered, self.starts, axis=-1) if self.tied else ordered

    def shares(self, weights: Array) -> Array:
        """Each point's part of the weight of its class, (n,), by rank."""
        shares: Array = weights[self.order] / np.repeat(self.sums(weights), self.sizes())
        return shares


class Matching(NamedTuple):
    """The monotone plan between the distinct values of two weighted clouds on the line."""

    source: Classes
    target: Classes
    pieces: Pieces  # from class to class, with mass

    @property
    def tied(self) -> bool:
        """Whether either side has a tie."""
        return self.source.tied or self.target.tied

    def pair_counts(self) -> Index:
        """How many pairs of points each piece spreads over."""
        rows, cols, _ = self.pieces
        return self.source.sizes()[rows] * self.target.sizes()[cols]


def classes(values: Array, ties: str) -> Classes:
    """Equal values grouped; with ties = "first" every point is a class of its own, equal ones in input order."""
    if ties == "first":
        return Classes(values.argsort(kind="stable"), np.arange(len(values)))
    order = values.argsort()
    ordered = values[order]
    differs = ordered[1:] != ordered[:-1]
    starts = np.arange(len(values)) if differs.all() else np.concatenate([[0], 1 + np.flatnonzero(differs)])
    return Classes(order, starts)


def tied_pairs(matching: Matching, a: Array, b: Array, step: int) -> Iterator[Pieces]:
    """All pairs of points in matched classes with their tie-splitting mass, ``step`` pairs at a time."""
    source, target, (rows, cols, mass) = matching
    ends = matching.pair_counts().cumsum()
    starts = np.concatenate([[0], ends[:-1]])
    widths = target.sizes()[cols]
    share_a, share_b = source.shares(a), target.shares(b)
    for start in range(0, int(ends[-1]), step):
        pair = np.arange(start, min(start + step, ends[-1]))
        piece = ends.searchsorted(pair, side="right")
        i, j = np.divmod(pair - starts[piece], widths[piece])
        i += source.starts[rows[piece]]
        j += target.starts[cols[piece]]
        yield Pieces(source.order[i], target.order[j], mass[piece] * share_a[i] * share_b[j])


def refuse_large(matchings: Iterable[Matching]) -> None:
    """Raise ValueError before anything is built if tied slices would spread over more than ``MAX_ENTRIES`` entries."""
    count = 0
    for matching in matchings:
        if matching.tied:
            pairs = matching.pair_counts()
            count += int(pairs[pairs > 1].sum())
    if count > MAX_ENTRIES:
        raise InputLimit(
            f"ties: expected plans of at most {MAX_ENTRIES:,} entries, got ties that would spread over {count:,}; "
            "merge equal points (numpy.unique, with their counts as weights), or take ties='first', which keeps one "
            "optimal plan with at most n + m - 1 entries, or slice_costs and est_distance, which build no plan"
        )


def split_ties(matching: Matching, a: Array, b: Array) -> Pieces:
    """Spread each piece over the points of its classes in proportion to their weights: from point to point, with mass.

    Raises ValueError before anything is built if the plan would hold more than ``MAX_ENTRIES`` entries.
    """
    if matching.tied:
        refuse_large([matching])
        return next(tied_pairs(matching, a, b, MAX_ENTRIES))
    rows, cols, mass = matching.pieces
    return Pieces(matching.source.order[rows], matching.target.order[cols], mass)


def sparse_plan(matching: Matching, a: Array, b: Array) -> coo_array:
    """The plan between the points, (n, m), without stored zeros; indices of 32 bits where they suffice."""
    rows, cols, mass = split_ties(matching, a, b)
    size = np.int32 if max(len(a), len(b)) < 2**31 else np.int64
    return coo_array((mass, (rows.astype(size), cols.astype(size))), shape=(len(a), len(b)))
