r"""Chapter 1. Optimal transport on the line is sorting.

For $\mu = \sum_i a_i \delta_{u_i}$ and $\nu = \sum_j b_j \delta_{v_j}$ on the real line, sort both sides and match mass
from left to right: the *monotone plan*. It is optimal for every cost $h(u - v)$ with $h$ convex
(Peyré and Cuturi, 2019).

In code: sort, cumulate the weights, take differences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array

from ._checks import Array, as_choice, as_exponent, as_finite_cost, as_values, as_weights
from ._costs import powers
from ._ties import Classes, Index, Matching, Pieces, classes, split_ties

TIES = ("split", "first")

#: General weights are rounded to multiples of 1 / QUANTA: 2e-19 of the total mass, far below a rounding of float64.
#: Points lighter than that take no part.
QUANTA = 2**62


def monotone_pieces(source: Index, target: Index) -> Pieces:
    """Match mass from left to right: source (..., n) and target (..., m) are sorted weights with equal totals.

    Cumulate both sides and merge the ends. Between two successive ends, mass goes from the first source point that is
    not yet emptied to the first target point that is not yet filled.

    Returns
    -------
    Pieces
        source, target and mass, (..., n + m), along the last axis; zero-mass pieces are included. Weights are whole
        numbers, so that cumulative sums are exact.

    Examples
    --------
    >>> source, target, mass = monotone_pieces(np.array([2, 2]), np.array([1, 1, 2]))
    >>> [(int(i), int(j), int(w)) for i, j, w in zip(source, target, mass) if w > 0]
    [(0, 0, 1), (0, 1, 1), (1, 2, 2)]
    """
    n = source.shape[-1]
    ends = np.concatenate([source.cumsum(-1), target.cumsum(-1)], axis=-1)
    order = ends.argsort(axis=-1, kind="stable")  # linear time: two sorted runs
    mass = np.diff(np.take_along_axis(ends, order, -1), prepend=0)
    of_source = order < n
    emptied = of_source.cumsum(-1) - of_source
    filled = (~of_source).cumsum(-1) - ~of_source
    return Pieces(np.minimum(emptied, n - 1), filled, mass)  # the last end is the target's, and its piece is empty


def rank_plan(a: ArrayLike, b: ArrayLike) -> coo_array:
    r"""The monotone plan A between ranks: the one that couples sorted points of weights a and b.

    With $\alpha_i = a_1 + \dots + a_i$ and $\beta_j = b_1 + \dots + b_j$,

    $$A_{ij} = \text{length of } [\alpha_{i-1}, \alpha_i] \cap [\beta_{j-1}, \beta_j] ;$$

    for n = m and uniform weights, 1/n times the identity.

    Parameters
    ----------
    a, b : (n,) and (m,)
        Weights in the order of their ranks, nonnegative, sum 1.

    Returns
    -------
    scipy.sparse.coo_array, shape (n, m)
        Mass 1, marginals a and b, at most n + m - 1 entries, no stored zeros.

    Raises
    ------
    ValueError
        For malformed input.

    Examples
    --------
    >>> import numpy as np
    >>> from espref import rank_plan
    >>> a, b = np.array([0.5, 0.5]), np.array([0.25, 0.25, 0.5])
    >>> rank_plan(a, b).toarray()
    array([[0.25, 0.25, 0.  ],
           [0.  , 0.  , 0.5 ]])

    The formula, one line a term:

    >>> ends_a, ends_b = a.cumsum(), b.cumsum()
    >>> first, last = np.maximum.outer(ends_a - a, ends_b - b), np.minimum.outer(ends_a, ends_b)
    >>> np.maximum(last - first, 0)
    array([[0.25, 0.25, 0.  ],
           [0.  , 0.  , 0.5 ]])

    References
    ----------
    peyre2019computational
    """
    a, b = as_values(a, "a"), as_values(b, "b")
    a, b = as_weights(a, len(a), "a"), as_weights(b, len(b), "b")
    rows, cols, mass = rank_pieces(quantise(a, b))
    return coo_array((mass, (rows, cols)), shape=(len(a), len(b)))


def line_plan(
    u: ArrayLike, v: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, ties: str = "split"
) -> coo_array:
    r"""The optimal transport plan between two weighted clouds on the line.

    The rank plan of the sorted weights, read between the points themselves. Equal points share their mass: with $U$ the
    class of points equal to $u_i$, $A(U)$ its weight, and $\Lambda$ the monotone plan between the distinct values, the
    *tie-splitting* plan is

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
        For malformed input, or when splitting the ties would take more than 50 million entries.

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
    rows, cols, mass = split_ties(match(u, v, a, b, as_choice(ties, "ties", TIES)), a, b)
    return coo_array((mass, (rows, cols)), shape=(len(u), len(v)))


def line_cost(
    u: ArrayLike, v: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, p: float = 2
) -> float:
    r"""The optimal transport cost between two weighted clouds on the line, $W_p^p$.

    $$W_p^p = \min_G \sum_{ij} |u_i - v_j|^p\, G_{ij} = \int_0^1 |F_u^{-1}(t) - F_v^{-1}(t)|^p\, dt .$$

    Parameters
    ----------
    u, v : (n,) and (m,)
        Points of the source and of the target.
    a, b : (n,) and (m,), optional
        Weights, nonnegative, sum 1; uniform by default.
    p : float
        Exponent of the ground cost, >= 1.

    Returns
    -------
    float, in units of length^p.

    Raises
    ------
    ValueError
        For malformed input, or when the cost overflows.

    Examples
    --------
    >>> from espref import line_cost
    >>> line_cost([0.0, 1.0], [3.0, 5.0])  # 0 goes to 3 and 1 to 5
    12.5

    References
    ----------
    peyre2019computational
    """
    u, v = as_values(u, "u"), as_values(v, "v")
    a, b = as_weights(a, len(u), "a"), as_weights(b, len(v), "b")
    p = as_exponent(p)
    rows, cols, mass = split_ties(match(u, v, a, b, "first"), a, b)
    with np.errstate(over="ignore"):
        return as_finite_cost(float(mass @ powers((u[rows] - v[cols])[:, None], p)), "u, v")


# Behind the definition: weights as whole numbers, and classes of equal points.


class Quanta(NamedTuple):
    """Weights in whole numbers of quanta, both sides with the same total."""

    source: Index  # (n,)
    target: Index  # (m,)
    total: int


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


def rank_pieces(quanta: Quanta) -> Pieces:
    """The rank plan by its entries, with mass (not quanta), no piece empty."""
    if len(quanta.source) == len(quanta.target) == quanta.total:  # n = m, uniform: rank to rank
        ranks = np.arange(quanta.total)
        return Pieces(ranks, ranks, np.full(quanta.total, 1.0 / quanta.total))
    source, target, mass = monotone_pieces(quanta.source, quanta.target)
    positive = mass > 0
    return Pieces(source[positive], target[positive], mass[positive] / quanta.total)


def match(u: Array, v: Array, a: Array, b: Array, ties: str) -> Matching:
    """The monotone plan between the distinct values of two weighted clouds on the line (inputs already checked)."""
    if a.min() < 1 / QUANTA or b.min() < 1 / QUANTA:  # points without weight take no part
        heavy_a, heavy_b = np.flatnonzero(a >= 1 / QUANTA), np.flatnonzero(b >= 1 / QUANTA)
        source, target, pieces = match(u[heavy_a], v[heavy_b], a[heavy_a], b[heavy_b], ties)
        source, target = Classes(heavy_a[source.order], source.starts), Classes(heavy_b[target.order], target.starts)
        return Matching(source, target, pieces)
    quanta, source, target = quantise(a, b), classes(u, ties), classes(v, ties)
    weights = Quanta(source.sums(quanta.source), target.sums(quanta.target), quanta.total)
    return Matching(source, target, rank_pieces(weights))
