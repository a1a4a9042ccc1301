r"""Chapter 9. ESP attention without plans: the fast form of :func:`espref.esp_attention` for the Laplace kernel.

In sorted order $K_{ij} = \exp(-|s_{(i)} - s_{(j)}| / \tau)$ is applied by two first-order recurrences,

$$f_i = x_i + r_i f_{i-1}, \qquad g_i = x_i + r_{i+1} g_{i+1}, \qquad K x = f + g - x, \qquad
r_i = e^{-(s_{(i)} - s_{(i-1)}) / \tau} \le 1,$$

stable at every tau. One slice costs O(n (log n + d)) time and O(n d) memory, instead of O(n^3) and O(n^2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.lapack import dtbtrs
from scipy.sparse import csr_array

from ._checks import Array, as_beta, as_choice, as_directions, as_tau
from ._floats import underflow_is_zero
from ._ties import Index
from .attention import SORTS, as_tokens
from .expected import gibbs_weights
from .line import rank_plan
from .softplan import soft_scores
from .softsort import fixed_point, gap_unit

#: Numbers held at once: small enough to stay in cache.
_CHUNK = 2**15

#: Factors below this are zero: what they carry is lost in rounding, and denormal numbers are slow.
_TINY = 1e-290


def apply_kernel(factors: Array, x: Array) -> Array:
    """K x in sorted order by the two recurrences, for c vectors at once: factors r (n - 1,), x (c, n) to (c, n).

    The recurrences are bidiagonal triangular systems, which LAPACK solves in O(n) per vector.

    Examples
    --------
    >>> s, tau, x = np.array([0.0, 0.2, 0.7]), 0.5, np.array([[1.0, 2.0, 3.0]])
    >>> f, g = x[0].copy(), x[0].copy()
    >>> r = np.exp(-np.diff(s) / tau)
    >>> for i in (1, 2):
    ...     f[i] += r[i - 1] * f[i - 1]
    >>> for i in (1, 0):
    ...     g[i] += r[i] * g[i + 1]
    >>> K = np.exp(-np.abs(s[:, None] - s) / tau)
    >>> bool(np.allclose(f + g - x[0], K @ x[0])), bool(np.allclose(apply_kernel(r, x), x @ K))
    (True, True)
    """
    if x.shape[1] == 1:
        return x.copy()
    band = np.zeros((2, x.shape[1]), order="F")
    band[1, :-1] = -factors
    forward, _ = dtbtrs(band, x.T, uplo="L", trans="N", diag="U")
    backward, _ = dtbtrs(band, x.T, uplo="L", trans="T", diag="U")
    total: Array = forward
    total += backward
    total -= x.T
    return total.T


class SoftSort(NamedTuple):
    """A soft permutation P = diag(left) K diag(right) Pi, held by its factors. Vectors are rows: x is (c, n)."""

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


@underflow_is_zero
def planfree_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    tau: float,
    beta: float,
    directions: ArrayLike | None = None,
    sort: str = "soft",
    prior: ArrayLike | None = None,
) -> Array:
    r"""The output of :func:`espref.esp_attention` with the Laplace kernel (power = 1), no n x m matrix being built.

    The squared cost of a slice is $\sum_j c^P_j |q_j|^2 + \sum_k c^Q_k |k_k|^2 - 2 \langle P q, A\, Q k \rangle$ with
    the column sums $c^P = P^\top 1 / n$ and $c^Q = Q^\top 1 / m$.

    Parameters
    ----------
    q, k, v : (n, d), (m, d), (m, dv)
        Queries, keys, values.
    tau : float
        Temperature of the soft sort, >= 0, in units of score. Unused by sort = "hard".
    beta : float
        Inverse temperature over slices, >= 0, in units of 1 / |q|^2.
    directions : (L, d), optional
        Slicers; the axes by default.
    sort : "soft" | "balanced" | "hard"
        As in :func:`espref.esp_attention`.
    prior : (L,), optional
        Weights of the slicers themselves, sum 1; uniform by default.

    Returns
    -------
    (n, dv) array.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    esp_attention

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
    q, k, v = as_tokens(q, k, v)
    directions = np.eye(q.shape[1]) if directions is None else as_directions(directions, q.shape[1])
    beta, tau, sort = as_beta(beta), as_tau(tau), as_choice(sort, "sort", SORTS)
    if sort == "hard":  # the limit tau = 0, where both soft sorts are the same
        sort, tau = "soft", 0.0
    n, m = len(q), len(k)
    ranks = rank_plan(np.full(n, 1 / n), np.full(m, 1 / m)).tocsr()
    q_mean, k_mean = q.mean(axis=0), k.mean(axis=0)  # centred: weights depend on differences of costs
    q_rows, k_rows, v_rows = (np.ascontiguousarray(part.T) for part in (q - q_mean, k - k_mean, v))
    exact = tau == 0 or sort == "balanced"  # plans with uniform marginals: their costs differ as the centred ones do
    shift = np.zeros(q.shape[1]) if exact else q_mean - k_mean

    def soft_sorts(theta: Array) -> tuple[SoftSort, SoftSort]:
        source, target = (factored_sort(soft_scores(x, theta, tau), tau, sort) for x in (q, k))
        return source, target

    costs = np.array([_squared_cost(*soft_sorts(theta), ranks, q_rows, k_rows, shift) for theta in directions])
    output = np.zeros((v.shape[1], n))
    for weight, theta in zip(gibbs_weights(costs, beta, prior), directions, strict=True):
        if weight > 0:  # sorted again: nothing of size slices x points is kept
            source, target = soft_sorts(theta)
            for block in _blocks(v_rows):
                output[block] += weight * n * source.transpose(target.apply(v_rows[block]) @ ranks.T)
    return np.ascontiguousarray(output.T)


# Behind the definition: the factors, and blocks that stay in cache.


def link_factors(ordered: Array, tau: float) -> Array:
    """r_1, ..., r_(n-1), shape (n - 1,): the links of sorted neighbours; at tau = 0 whether they are equal."""
    unit = gap_unit(ordered)
    gaps = np.diff(ordered / unit)
    if tau == 0:
        return np.asarray(gaps == 0, dtype=np.float64)
    with np.errstate(over="ignore"):
        factors = np.exp(-gaps / tau * unit)
    factors[factors < _TINY] = 0.0
    return factors


def factored_sort(s: Array, tau: float, sort: str) -> SoftSort:
    """The soft permutation of scores s, (n,), "soft" or "balanced"."""
    order = s.argsort(kind="stable")
    factors, ones = link_factors(s[order], tau), np.ones(len(s))
    if sort == "balanced":
        d = fixed_point(lambda d: apply_kernel(factors, d[None])[0], ones / np.sqrt(len(s)))
        return SoftSort(order, factors, d, d)
    return SoftSort(order, factors, 1 / apply_kernel(factors, ones[None])[0], ones)


def _blocks(x: Array) -> list[slice]:
    """Some vectors at a time, few enough to stay in cache."""
    step = max(1, _CHUNK // x.shape[1])
    return [slice(start, start + step) for start in range(0, len(x), step)]


def _squared_cost(source: SoftSort, target: SoftSort, ranks: csr_array, q: Array, k: Array, shift: Array) -> float:
    """<C, P^T A Q> for the squared cost of queries q + shift, less |shift|^2: column sums and one inner product."""
    cost = 0.0
    for soft_sort, x, sign in ((source, q, 1), (target, k, -1)):
        sums = soft_sort.transpose(np.full((1, x.shape[1]), 1 / x.shape[1]))[0]
        cost += float(np.einsum("n,dn,dn->", sums, x, x)) + 2 * sign * float(shift @ (x @ sums))
    for block in _blocks(q):
        cost -= 2 * float(np.sum(source.apply(q[block]) * (target.apply(k[block]) @ ranks.T)))
    return cost
