r"""Chapter 1. Optimal transport on the line is sorting.

For $\mu = \sum_i a_i \delta_{u_i}$ and $\nu = \sum_j b_j \delta_{v_j}$ on the real line, sort both sides and match mass
from left to right: the *monotone plan*. It is optimal for every cost $h(u - v)$ with $h$ convex
(Peyré and Cuturi, 2019). In code: sort, cumulate the weights, take differences.

>>> u, a = np.array([3.0, 1.0]), np.array([0.5, 0.5])
>>> v, b = np.array([10.0, 30.0, 20.0]), np.array([0.25, 0.5, 0.25])
>>> i, j = u.argsort(), v.argsort()
>>> ends_u, ends_v = a[i].cumsum(), b[j].cumsum()
>>> ends = np.unique(np.concatenate([ends_u, ends_v]))
>>> mass = np.diff(ends, prepend=0)
>>> plan = np.zeros((2, 3))
>>> plan[i[ends_u.searchsorted(ends)], j[ends_v.searchsorted(ends)]] = mass
>>> plan
array([[0.  , 0.5 , 0.  ],
       [0.25, 0.  , 0.25]])

The functions below do this for weights of any kind, with ties, and without rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array

from ._checks import Array, as_choice, as_exponent, as_levels, as_line_measures, as_values, as_weights
from ._costs import as_representable, matching_cost, powers, root_cost
from ._floats import underflow_is_zero
from ._matching import match, monotone_pieces
from ._quanta import balanced_total, quantise
from ._ties import sparse_plan

TIES = ("split", "first")


@underflow_is_zero
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

    See Also
    --------
    line_cost, line_potentials, rank_plan

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
    u, v, a, b = as_line_measures(u, v, a, b)
    return sparse_plan(match(u, v, quantise(a, b), as_choice(ties, "ties", TIES)), a, b)


@underflow_is_zero
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
        Exponent of the ground cost, >= 1. With ``inf`` the result is the bottleneck distance $W_\infty$, the largest
        $|u_i - v_j|$ that carries mass.

    Returns
    -------
    float, in units of length^p (of length for p = inf).

    Raises
    ------
    ValueError
        For malformed input, or when the cost over- or underflows.

    See Also
    --------
    line_plan, sliced_wasserstein

    Examples
    --------
    >>> from espref import line_cost
    >>> line_cost([0.0, 1.0], [3.0, 5.0])  # 0 goes to 3 and 1 to 5
    12.5

    References
    ----------
    peyre2019computational
    """
    u, v, a, b = as_line_measures(u, v, a, b)
    p = as_exponent(p, infinite=True)
    matching = match(u, v, quantise(a, b), "first")
    clouds = u[:, None], v[:, None], a, b
    return float(as_representable(matching_cost(matching, *clouds, p), root_cost(matching, *clouds), "u, v"))


@underflow_is_zero
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

    See Also
    --------
    line_plan

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
    return sparse_plan(
        match(np.arange(len(a), dtype=float), np.arange(len(b), dtype=float), quantise(a, b), "first"), a, b
    )


class Potentials(NamedTuple):
    """Dual potentials of a transport problem.

    See Also
    --------
    line_potentials

    Examples
    --------
    >>> from espref import line_potentials
    >>> line_potentials([0.0], [3.0]).source
    array([9.])
    """

    source: Array  # (n,)
    target: Array  # (m,)


@underflow_is_zero
def line_potentials(
    u: ArrayLike, v: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None, *, p: float = 2
) -> Potentials:
    r"""Dual potentials on the line: a certificate that the monotone plan is optimal.

    $$f_i + g_j \le |u_i - v_j|^p \text{ for all } i, j, \qquad \sum_i a_i f_i + \sum_j b_j g_j = W_p^p .$$

    The monotone plan walks from (1, 1) to (n, m) in sorted order, one source or one target point at a time. Let f or g
    grow with the cost along that walk; the other inequalities follow because the cost is convex.

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
    Potentials
        source (n,), target (m,), in units of length^p.

    Raises
    ------
    ValueError
        For malformed input, or when the costs over- or underflow.

    See Also
    --------
    line_plan, line_cost

    Examples
    --------
    >>> from espref import line_potentials
    >>> f, g = line_potentials([0.0, 1.0], [3.0, 5.0])
    >>> float(f.mean() + g.mean())  # the cost: 0 goes to 3 and 1 to 5
    12.5

    References
    ----------
    peyre2019computational
    """
    u, v, a, b = as_line_measures(u, v, a, b)
    p, quanta = as_exponent(p), quantise(a, b)
    rows, cols = u.argsort(kind="stable"), v.argsort(kind="stable")
    weights = balanced_total(quanta.source[:, rows], quanta.total), balanced_total(quanta.target[:, cols], quanta.total)
    i, j, _ = monotone_pieces(*weights)
    with np.errstate(over="ignore"):
        distance = np.abs(u[rows[i]] - v[cols[j]])
        cost = powers(distance[:, None], p)
    as_representable(float(cost.max()), float(distance.max()), "u, v")
    steps, down = np.diff(cost), np.diff(i) > 0
    f, g = np.zeros(len(u)), np.zeros(len(v))
    f[rows[i[1:][down]]] = np.cumsum(np.where(down, steps, 0.0))[down]
    g[cols[j[1:][~down]]] = np.cumsum(np.where(down, 0.0, steps))[~down]
    return Potentials(f + cost[0], g)


@underflow_is_zero
def line_quantile(u: ArrayLike, t: ArrayLike, a: ArrayLike | None = None) -> Array:
    r"""The quantile function of a weighted cloud on the line.

    $$F^{-1}(t) = \min \Bigl\{ u_i : \sum_{u_k \le u_i} a_k \ge t \Bigr\} .$$

    Parameters
    ----------
    u : (n,)
        Points.
    t : array of numbers in [0, 1]
        Levels.
    a : (n,), optional
        Weights, nonnegative, sum 1; uniform by default.

    Returns
    -------
    Array of the shape of ``t``; at t = 0 the least point that carries mass.

    Raises
    ------
    ValueError
        For malformed input, or levels outside [0, 1].

    See Also
    --------
    line_cost : The integral of the difference of two quantile functions.

    Examples
    --------
    >>> from espref import line_quantile
    >>> line_quantile([3.0, 1.0, 2.0], [0.0, 0.5, 1.0])
    array([1., 2., 3.])

    References
    ----------
    peyre2019computational
    """
    u, levels = as_values(u, "u"), as_levels(t, "t")
    a = as_weights(a, len(u), "a")
    order = np.flatnonzero(a)[u[a > 0].argsort(kind="stable")]
    ends = np.minimum(a[order].cumsum() / a.sum(), 1.0)
    ends[-1] = 1.0
    reached = levels * (1 - 4 * np.finfo(np.float64).eps)  # but for rounding
    quantiles: Array = u[order][ends.searchsorted(reached)]
    return quantiles
