r"""Chapter 6. Soft sorting: a permutation matrix made smooth, and made doubly stochastic.

Sort the scores, $s_{(1)} \le \dots \le s_{(n)}$, and compare them with the unsorted ones through a kernel,
$K_{ij} = \exp(-|s_{(i)} - s_j|^q / \tau)$, with q = 1 (Laplace) or 2 (Gauss). SoftSort (Prillo and Eisenschlos, 2020)
normalises the rows of K; they sum to 1, the columns do not. In sorted order K is symmetric and positive definite, so
there is exactly one positive d with $\mathrm{diag}(d)\, K\, \mathrm{diag}(d)\, 1 = 1$: the *balanced* soft sort.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ._checks import (
    Array,
    NumericalLimit,
    as_choice,
    as_count,
    as_flag,
    as_levels,
    as_power,
    as_tau,
    as_values,
    as_weights,
)
from ._floats import underflow_is_zero

#: Rounds of the balanced scaling, and the marginal error at which it stops.
MAX_ROUNDS = 100
MARGINAL_ERROR = 1e-13

#: "soft" is SoftSort, rows normalised; "balanced" is scaled to be doubly stochastic.
SORTS = ("soft", "balanced")


@underflow_is_zero
def soft_permutation(
    s: ArrayLike, tau: float, *, power: int = 1, sort: str = "soft", descending: bool = False
) -> Array:
    r"""The soft permutation matrix P that sorts scores in ascending order.

    $$P_{ij} = \frac{K_{ij}}{\sum_k K_{ik}}, \qquad K_{ij} = \exp(-|s_{(i)} - s_j|^q / \tau) .$$

    Balanced, $P = \mathrm{diag}(d)\, K\, \mathrm{diag}(d)\, \Pi$ with $\Pi$ the sorting permutation: doubly stochastic
    for every tau. Both tend to the permutation as tau -> 0 (averaged over ties) and to 1/n as tau -> infinity.

    Parameters
    ----------
    s : (n,)
        Scores.
    tau : float
        Temperature of the soft sort, >= 0, in units of score^power. 0 is the hard limit, averaged over ties; infinity
        gives 1/n everywhere.
    power : 1 or 2
        Exponent q of the kernel: 1 Laplace (SoftSort's default), 2 Gauss (the released ESPFormer's).
    sort : "soft" or "balanced"
        Normalise the rows only, or scale rows and columns.
    descending : bool
        The largest score first instead of the least.

    Returns
    -------
    (n, n) array. Rows sum to 1; balanced, columns too (to 1e-13).

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    soft_sort, soft_rank : The sorted values and the ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from espref import soft_permutation
    >>> soft_permutation([3.0, 1.0, 1.0], tau=0)
    array([[0. , 0.5, 0.5],
           [0. , 0.5, 0.5],
           [1. , 0. , 0. ]])

    The formula as it stands:

    >>> s, tau = np.array([0.3, -1.0, 0.8]), 0.5
    >>> K = np.exp(-np.abs(np.sort(s)[:, None] - s) / tau)
    >>> bool(np.allclose(soft_permutation(s, tau), K / K.sum(axis=1, keepdims=True), rtol=1e-14))
    True

    References
    ----------
    prillo2020softsort
    """
    s, tau, power = as_values(s, "s"), as_tau(tau, infinite=True), as_power(power)
    matrix = weighted_soft_permutation(s, np.ones(len(s)), tau, power, as_choice(sort, "sort", SORTS))
    return matrix[::-1].copy() if as_flag(descending, "descending") else matrix


@underflow_is_zero
def soft_sort(s: ArrayLike, tau: float, *, power: int = 1, sort: str = "soft", descending: bool = False) -> Array:
    r"""Soft-sorted values, $P s$.

    Parameters
    ----------
    s : (n,)
        Scores.
    tau : float
        Temperature of the soft sort, >= 0 or infinity, in units of score^power.
    power : 1 or 2
        Exponent of the kernel.
    sort : "soft" or "balanced"
        See :func:`soft_permutation`.
    descending : bool
        The largest score first instead of the least.

    Returns
    -------
    (n,) array, between the least and the largest score. Balanced, its mean is the mean of the scores.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    soft_rank, soft_quantile, soft_permutation

    Examples
    --------
    >>> from espref import soft_sort
    >>> soft_sort([3.0, 1.0, 2.0], tau=0)
    array([1., 2., 3.])

    References
    ----------
    prillo2020softsort
    """
    matrix = soft_permutation(s, tau, power=power, sort=sort, descending=descending)
    return matrix @ as_values(s, "s")


@underflow_is_zero
def soft_rank(
    s: ArrayLike,
    tau: float,
    a: ArrayLike | None = None,
    *,
    power: int = 1,
    sort: str = "soft",
    descending: bool = False,
) -> Array:
    r"""Soft ranks, from 1 for the first score in order to n: $r_j = \sum_i i\, P_{ij} / \sum_i P_{ij}$.

    The mean rank under the column of each score. As tau -> 0 these are the ranks of :func:`scipy.stats.rankdata`, equal
    scores sharing their mean rank. With weights, a score takes up the share $a_j$ of the scale from 1/2 to n + 1/2,
    and its rank is the middle of its share:

    $$r_j = \frac{\sum_i a_{(i)} R_i P_{ij}}{\sum_i a_{(i)} P_{ij}}, \qquad
    R_i = \tfrac12 + n \big(a_{(1)} + \dots + a_{(i-1)} + \tfrac12 a_{(i)}\big),$$

    where P sees the weights, $P_{ij} \propto K_{ij} a_j$, as in :func:`soft_line_plan`. So $(r_j - \frac12) / n$ is a
    soft form of the mid-distribution function, which depends on the measure alone: merged points keep their rank on it.

    Parameters
    ----------
    s : (n,)
        Scores.
    tau : float
        Temperature of the soft sort, >= 0 or infinity, in units of score^power.
    a : (n,), optional
        Weights, positive, sum 1; uniform by default.
    power : 1 or 2
        Exponent of the kernel.
    sort : "soft" or "balanced"
        See :func:`soft_permutation`.
    descending : bool
        The largest score first instead of the least.

    Returns
    -------
    (n,) array, between 1/2 and n + 1/2; without weights between 1 and n.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    soft_sort, soft_permutation

    Examples
    --------
    >>> from espref import soft_rank
    >>> soft_rank([3.0, 1.0, 1.0], tau=0)
    array([3. , 1.5, 1.5])
    >>> soft_rank([3.0, 1.0], tau=0, a=[0.25, 0.75])  # shares 0.5 to 2 and 2 to 2.5
    array([2.25, 1.25])

    References
    ----------
    prillo2020softsort
    """
    if a is None:
        matrix = soft_permutation(s, tau, power=power, sort=sort, descending=descending)
        ranks: Array = np.arange(1, len(matrix) + 1) @ matrix / matrix.sum(axis=0)
        return ranks
    s, tau, power = as_values(s, "s"), as_tau(tau, infinite=True), as_power(power)
    as_choice(sort, "sort", SORTS)
    a = as_weights(a, len(s), "a")
    if a.min() == 0:
        raise ValueError(f"a: expected positive weights, got 0 in row {a.argmin()}")
    mass = a[s.argsort(kind="stable")]
    middles = 0.5 + len(s) * (mass.cumsum() - mass / 2)
    matrix = weighted_soft_permutation(s, a, tau, power, sort)
    ranks = (mass * middles) @ matrix / (mass @ matrix)
    return len(s) + 1 - ranks if as_flag(descending, "descending") else ranks


@underflow_is_zero
def soft_quantile(s: ArrayLike, t: ArrayLike, tau: float, *, power: int = 1, sort: str = "soft") -> Array:
    r"""Soft quantiles: the soft-sorted values at rank $1 + t (n - 1)$, linear in between.

    As tau -> 0 these are the quantiles of :func:`numpy.quantile`; t = 1/2 is a soft median.

    Parameters
    ----------
    s : (n,)
        Scores.
    t : array of numbers in [0, 1]
        Levels.
    tau : float
        Temperature of the soft sort, >= 0 or infinity, in units of score^power.
    power : 1 or 2
        Exponent of the kernel.
    sort : "soft" or "balanced"
        See :func:`soft_permutation`.

    Returns
    -------
    Array of the shape of ``t``.

    Raises
    ------
    ValueError
        For malformed input, or levels outside [0, 1].
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    soft_sort, espref.line_quantile

    Examples
    --------
    >>> from espref import soft_quantile
    >>> soft_quantile([3.0, 1.0, 2.0], [0.5], tau=0)
    array([2.])

    References
    ----------
    prillo2020softsort
    """
    levels, values = as_levels(t, "t"), soft_sort(s, tau, power=power, sort=sort)
    return np.asarray(np.interp(levels * (len(values) - 1), np.arange(len(values)), values))


@underflow_is_zero
def soft_top_k(s: ArrayLike, k: int, tau: float, *, power: int = 1, sort: str = "soft") -> Array:
    r"""Soft membership among the k largest scores: $\sum_{i > n - k} P_{ij}$, of total k.

    Parameters
    ----------
    s : (n,)
        Scores.
    k : int
        How many, 1 to n.
    tau : float
        Temperature of the soft sort, >= 0 or infinity, in units of score^power.
    power : 1 or 2
        Exponent of the kernel.
    sort : "soft" or "balanced"
        Balanced, every membership is at most 1.

    Returns
    -------
    (n,) array, nonnegative.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    soft_permutation

    Examples
    --------
    >>> from espref import soft_top_k
    >>> soft_top_k([3.0, 1.0, 2.0], 2, tau=0)
    array([1., 0., 1.])

    References
    ----------
    prillo2020softsort
    """
    matrix = soft_permutation(s, tau, power=power, sort=sort)
    if as_count(k, "k") > len(matrix):
        raise ValueError(f"k: expected at most the number of scores, {len(matrix)}, got {k}")
    members: Array = matrix[len(matrix) - k :].sum(axis=0)
    return members


# Behind the definition: kernels without overflow, weights, and the balanced scaling.


def gap_unit(ordered: Array) -> float:
    """The unit in which sorted scores are subtracted: 1, or 2 where a difference would overflow."""
    return 2.0 if max(-ordered[0], ordered[-1]) >= 2.0**1022 else 1.0


def sort_kernel(ordered: Array, tau: float, power: int = 1) -> Array:
    """K_ij = exp(-|s_(i) - s_(j)|^q / tau) in sorted order, (n, n); at tau = 0 the indicator of equal scores."""
    unit = gap_unit(ordered)
    gaps = np.abs(ordered[:, None] / unit - ordered / unit)
    if tau == 0:
        return np.asarray(gaps == 0, dtype=np.float64)
    with np.errstate(over="ignore"):
        exponents = gaps / tau * unit if power == 1 else (gaps / np.sqrt(tau) * unit) ** 2
        return np.exp(-exponents)


def balance(kernel: Array, weights: Array) -> Array:
    r"""The d > 0 with $d_i \sum_j K_{ij} a_j d_j = 1$, (n,), for a symmetric positive definite K and weights a > 0.

    Damped iteration $d \leftarrow \sqrt{d / (K a d)}$. At the fixed point its Jacobian in log d is (I - S) / 2 with S
    symmetric up to a diagonal change of basis and spectrum in [0, 1]: near the fixed point the error at least halves
    every round. From far away a round can gain less; that the iteration converges from every start follows from
    Hilbert's metric, in which it is a contraction.

    Raises
    ------
    RuntimeError
        When the marginal error is above 1e-13 after 100 rounds (and still falling, where n roundings are more).

    References
    ----------
    marshall1968scaling, sinkhorn1967diagonal
    """
    return fixed_point(lambda d: kernel @ (weights * d), 1.0 / np.sqrt(kernel @ weights))


def fixed_point(apply: Callable[[Array], Array], d: Array) -> Array:
    """Iterate d <- sqrt(d / apply(d)) until d * apply(d) = 1 within the marginal error.

    Sums of very many terms round worse than that: the iteration also ends where it stands still within n roundings.
    """
    error, rounding = np.inf, len(d) * np.finfo(np.float64).eps
    for _ in range(MAX_ROUNDS):
        image = apply(d)
        before, error = error, np.abs(d * image - 1).max()
        if error <= MARGINAL_ERROR or before <= error <= rounding:
            return d
        d = np.sqrt(d) / np.sqrt(image)  # the quotient could overflow
    raise NumericalLimit(
        f"balanced soft sort: marginal error {error:.1e} after {MAX_ROUNDS} rounds, expected {MARGINAL_ERROR}"
    )


def weighted_soft_permutation(s: Array, weights: Array, tau: float, power: int, sort: str) -> Array:
    r"""The soft sort of weighted scores, (n, n): row i belongs to rank i, $P_{ij} \propto K_{ij} a_j$, rows sum to 1.

    Balanced: $P_{ij} = d_i K_{ij} d_j a_j$ with $d_i \sum_j K_{ij} a_j d_j = 1$, so that $P^\top a_{()} = a$ as well.
    For uniform weights this is :func:`soft_permutation`. Weights are positive.
    """
    order = s.argsort(kind="stable")
    kernel, mass = sort_kernel(s[order], tau, power), weights[order]
    if sort == "balanced":
        d = balance(kernel, mass)
        ordered = d[:, None] * kernel * (d * mass)
    else:
        ordered = kernel * mass
        ordered /= ordered.sum(axis=1, keepdims=True)
    matrix = np.empty_like(ordered)
    matrix[:, order] = ordered
    return matrix
