r"""ESP attention without plans: the fast form of :func:`espref.esp_attention` for the Laplace kernel.

In sorted order $K_{ij} = \exp(-|s_{(i)} - s_{(j)}| / \tau)$ is applied by two first-order recurrences,

$$f_i = x_i + r_i f_{i-1}, \qquad g_i = x_i + r_{i+1} g_{i+1}, \qquad K x = f + g - x, \qquad
r_i = e^{-(s_{(i)} - s_{(i-1)}) / \tau} \le 1,$$

stable at every tau. They are bidiagonal triangular systems, which LAPACK solves in O(n) a column. One slice costs
O(n (log n + d)) time and O(n d) memory, instead of O(n^3) and O(n^2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.lapack import dtbtrs

from ._checks import Array, as_beta, as_choice, as_directions, as_tau
from .attention import SORTS, _checked
from .expected import gibbs_weights
from .line import Index, quantise, rank_pieces
from .softplan import soft_scores
from .softsort import fixed_point, gap_unit

#: Numbers held at once: small enough to stay in cache.
_CHUNK = 2**15

#: Factors below this are zero: what they carry is lost in rounding, and denormal numbers are slow.
_TINY = 1e-290


def link_factors(ordered: Array, tau: float) -> Array:
    """r_1, ..., r_(n-1), shape (n - 1,): the links of sorted neighbours; at tau = 0 whether they are equal."""
    unit = gap_unit(ordered)
    gaps = np.diff(ordered / unit)
    if tau == 0:
        return (gaps == 0).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        factors = np.exp(-gaps / tau * unit)
    factors[factors < _TINY] = 0.0
    return factors


def apply_kernel(factors: Array, x: Array) -> Array:
    """K x in sorted order by the two recurrences, for c vectors at once: x (c, n) to (c, n)."""
    if x.shape[1] == 1:
        return x.copy()
    band = np.zeros((2, x.shape[1]), order="F")
    band[1, :-1] = -factors
    forward, _ = dtbtrs(band, x.T, uplo="L", trans="N", diag="U")
    backward, _ = dtbtrs(band, x.T, uplo="L", trans="T", diag="U")
    forward += backward
    forward -= x.T
    return forward.T


class Sorter(NamedTuple):
    """A soft sort P = diag(left) K diag(right) Pi, held by its factors. Vectors are rows: x is (c, n)."""

    order: Index  # (n,)
    factors: Array  # (n - 1,)
    left: Array  # (n,)
    right: Array  # (n,)

    def apply(self, x: Array) -> Array:
        """P x: from points to ranks."""
        return self.left * apply_kernel(self.factors, self.right * x[:, self.order])

    def transpose(self, x: Array) -> Array:
        """P^T x: from ranks to points."""
        result = np.empty_like(x)
        result[:, self.order] = self.right * apply_kernel(self.factors, self.left * x)
        return result


def sorter(s: Array, tau: float, balanced: bool) -> Sorter:
    """The soft sort of scores s, (n,)."""
    order = s.argsort(kind="stable")
    factors, ones = link_factors(s[order], tau), np.ones(len(s))
    if balanced:
        d = fixed_point(lambda d: apply_kernel(factors, d[None])[0], ones / np.sqrt(len(s)))
        return Sorter(order, factors, d, d)
    return Sorter(order, factors, 1 / apply_kernel(factors, ones[None])[0], ones)


class RankPlan(NamedTuple):
    """The monotone plan A[n, m] between ranks, held by its pieces, source rank by source rank."""

    starts: Index  # (n,)  first piece of each source rank
    target: Index  # (pieces,)
    mass: Array  # (pieces,)

    def apply(self, x: Array) -> Array:
        """A x: from target ranks to source ranks, (c, m) to (c, n)."""
        return np.add.reduceat(self.mass * x[:, self.target], self.starts, axis=1)


def uniform_rank_plan(n: int, m: int) -> RankPlan:
    """A[n, m] for uniform weights."""
    source, target, mass = rank_pieces(quantise(np.full(n, 1 / n), np.full(m, 1 / m)))
    return RankPlan(source.searchsorted(np.arange(n)), target, mass)


def planfree_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    tau: float,
    beta: float,
    directions: ArrayLike | None = None,
    sort: str = "soft",
) -> Array:
    r"""The output of :func:`espref.esp_attention` with the Laplace kernel (power = 1), no n x m matrix being built.

    The squared cost of a slice is $\sum_j c^P_j |q_j|^2 + \sum_k c^Q_k |k_k|^2 - 2 \langle P q, A\, Q k \rangle$ with
    the column sums $c^P = P^\top 1 / n$ and $c^Q = Q^\top 1 / m$. Parameters and errors are those of
    :func:`espref.esp_attention`.

    Returns
    -------
    (n, dv) array.

    Examples
    --------
    >>> import numpy as np
    >>> from espref import esp_attention, planfree_attention
    >>> q, k, v = np.random.default_rng(0).normal(size=(3, 50, 4))
    >>> plain = esp_attention(q, k, v, tau=0.1, beta=1.0).output
    >>> bool(np.allclose(planfree_attention(q, k, v, tau=0.1, beta=1.0), plain, rtol=0, atol=1e-13))
    True

    References
    ----------
    shahbazi2025espformer, prillo2020softsort
    """
    q, k, v = _checked(q, k, v)
    directions = np.eye(q.shape[1]) if directions is None else as_directions(directions, q.shape[1])
    beta, tau, sort = as_beta(beta), as_tau(tau), as_choice(sort, "sort", SORTS)
    tau, balanced = 0.0 if sort == "hard" else tau, sort == "balanced"
    ranks = uniform_rank_plan(len(q), len(k))
    centre = k.mean(axis=0)  # the cost is unchanged, and its three terms cancel less
    rows = [np.ascontiguousarray(part.T) for part in (q - centre, k - centre, v)]

    def sorters(theta: Array) -> tuple[Sorter, Sorter]:
        return sorter(soft_scores(q, theta, tau), tau, balanced), sorter(soft_scores(k, theta, tau), tau, balanced)

    costs = np.array([_squared_cost(*sorters(theta), ranks, rows[0], rows[1]) for theta in directions])
    output = np.zeros((v.shape[1], len(q)))
    for weight, theta in zip(gibbs_weights(costs, beta), directions, strict=True):
        if weight > 0:  # sorted again: nothing of size slices x points is kept
            source, target = sorters(theta)
            for block in _blocks(rows[2]):
                output[block] += weight * len(q) * source.transpose(ranks.apply(target.apply(rows[2][block])))
    return np.ascontiguousarray(output.T)


def _blocks(x: Array) -> list[slice]:
    """Some vectors at a time, few enough to stay in cache."""
    step = max(1, _CHUNK // x.shape[1])
    return [slice(start, start + step) for start in range(0, len(x), step)]


def _squared_cost(source: Sorter, target: Sorter, ranks: RankPlan, q: Array, k: Array) -> float:
    """<C, P^T A Q> for the squared cost, from column sums and one inner product."""
    cost = 0.0
    for sort, x in ((source, q), (target, k)):
        sums = sort.transpose(np.full((1, x.shape[1]), 1 / x.shape[1]))[0]
        cost += float(np.einsum("n,dn,dn->", sums, x, x))
    for block in _blocks(q):
        cost -= 2 * float(np.sum(source.apply(q[block]) * ranks.apply(target.apply(k[block]))))
    return cost
