r"""Chapter 8. Attention as transport: softmax, Sinkhorn, and expected sliced plans (ESP).

An attention matrix says how much each of n queries takes from each of m keys: rows sum to 1. It is n times a plan when
its columns sum to n/m too. This module is the specification that the PyTorch module imitates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax

from ._checks import Array, as_beta, as_choice, as_count, as_directions, as_pair, as_points, as_power, as_prior, as_tau
from ._floats import underflow_is_zero
from .softplan import mean_soft_plan

SORTS = ("soft", "balanced", "hard")


class Attention(NamedTuple):
    """What attention returns.

    See Also
    --------
    softmax_attention, sinkhorn_attention, esp_attention

    Examples
    --------
    >>> from espref import softmax_attention
    >>> output, matrix = softmax_attention([[0.0]], [[1.0], [2.0]], [[3.0], [5.0]])
    >>> matrix
    array([[0.5, 0.5]])
    """

    output: Array  # (n, dv) matrix @ v
    matrix: Array  # (n, m)


@underflow_is_zero
def softmax_attention(q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Attention:
    r"""Scaled dot-product attention, $A_{ij} \propto_j \exp(\langle q_i, k_j \rangle / \sqrt d)$: rows sum to 1.

    Parameters
    ----------
    q, k, v : (n, d), (m, d), (m, dv)
        Queries, keys, values.

    Returns
    -------
    Attention
        output (n, dv), matrix (n, m).

    Raises
    ------
    ValueError
        For malformed input.

    See Also
    --------
    sinkhorn_attention, esp_attention

    Examples
    --------
    >>> from espref import softmax_attention
    >>> softmax_attention([[0.0], [0.0]], [[1.0], [2.0]], [[3.0], [5.0]]).output
    array([[4.],
           [4.]])

    References
    ----------
    vaswani2017attention
    """
    q, k, v = as_tokens(q, k, v)
    matrix = softmax(q @ k.T / np.sqrt(q.shape[1]), axis=1)
    return Attention(matrix @ v, matrix)


@underflow_is_zero
def sinkhorn_attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, *, n_iter: int = 5) -> Attention:
    r"""Sinkhorn attention: rows and columns of $\exp(\langle q_i, k_j \rangle / \sqrt d)$ normalised in turn.

    One iteration makes every row sum to 1, and then every column sum to n/m. So after each the columns are exact and
    the rows nearly; in the limit both are, and the matrix is n times an entropic transport plan.

    Parameters
    ----------
    q, k, v : (n, d), (m, d), (m, dv)
        Queries, keys, values.
    n_iter : int
        Number of iterations, >= 1, each of one row and one column normalisation.

    Returns
    -------
    Attention
        output (n, dv), matrix (n, m).

    Raises
    ------
    ValueError
        For malformed input.

    See Also
    --------
    softmax_attention, esp_attention

    Notes
    -----
    Sander et al. count single normalisations, starting with the rows: their iterate 2 n_iter is this one.

    Examples
    --------
    >>> from espref import sinkhorn_attention
    >>> sinkhorn_attention([[0.0], [1.0]], [[1.0], [1.0]], [[3.0], [5.0]]).matrix
    array([[0.5, 0.5],
           [0.5, 0.5]])

    References
    ----------
    sander2022sinkformers
    """
    q, k, v = as_tokens(q, k, v)
    n_iter = as_count(n_iter, "n_iter")
    logits = q @ k.T / np.sqrt(q.shape[1])
    for _ in range(n_iter):
        logits = log_softmax(logits, axis=1)
        logits = log_softmax(logits, axis=0) + np.log(len(q) / len(k))
    matrix = np.exp(logits)
    return Attention(matrix @ v, matrix)


@underflow_is_zero
def esp_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    tau: float,
    beta: float,
    directions: ArrayLike | None = None,
    sort: str = "soft",
    power: int = 1,
    prior: ArrayLike | None = None,
) -> Attention:
    r"""ESP attention: n times the expected soft sliced plan between queries and keys, applied to the values.

    For each direction l: P, Q the soft sorts of the projected queries and keys, $U_l = P^\top A\, Q$ of mass 1 (for
    n = m, A is 1/n times the identity), $D_l = \sum_{ij} |q_i - k_j|^2 U_{l,ij}$; $w = \mathrm{softmax}(-\beta D)$, and

    $$\text{matrix} = n \sum_l w_l U_l, \qquad \text{output} = \text{matrix}\; v .$$

    The only causal (triangular) doubly stochastic matrix is the identity, so there is no causal form with these sums.

    Parameters
    ----------
    q, k, v : (n, d), (m, d), (m, dv)
        Queries, keys, values.
    tau : float
        Temperature of the soft sort, >= 0, in units of score^power. Unused by sort = "hard".
    beta : float
        Inverse temperature over slices, >= 0, in units of 1 / |q|^2.
    directions : (L, d), optional
        Slicers; the axes by default.
    sort : "soft" | "balanced" | "hard"
        SoftSort (rows and columns are off by the column sums of P and Q), balanced or hard sort (both exact).
    power : 1 or 2
        Exponent of the sort kernel.
    prior : (L,), optional
        Weights of the slicers themselves, sum 1; uniform by default.

    Returns
    -------
    Attention
        output (n, dv), matrix (n, m) of total n.

    Raises
    ------
    ValueError
        For malformed input.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    planfree_attention, expected_soft_plan, espref.nn.EspAttention

    Examples
    --------
    >>> from espref import esp_attention
    >>> q = k = [[0.0], [1.0], [2.0]]
    >>> esp_attention(q, k, [[5.0], [6.0], [7.0]], tau=0.1, beta=1.0, sort="hard").output
    array([[5.],
           [6.],
           [7.]])

    References
    ----------
    shahbazi2025espformer (Algorithm 1)
    """
    q, k, v = as_tokens(q, k, v)
    directions = np.eye(q.shape[1]) if directions is None else as_directions(directions, q.shape[1])
    tau, beta = as_tau(tau), as_beta(beta)
    as_choice(sort, "sort", SORTS)
    power = as_power(power)
    if sort == "hard":  # the limit tau = 0, where both soft sorts are the same
        sort, tau = "soft", 0.0
    a, b, prior = np.full(len(q), 1 / len(q)), np.full(len(k), 1 / len(k)), as_prior(prior, len(directions))
    plan = mean_soft_plan(q, k, directions, tau, a, b, beta, 2, power, sort, prior).plan
    matrix = len(q) * plan
    return Attention(matrix @ v, matrix)


def as_tokens(q: ArrayLike, k: ArrayLike, v: ArrayLike) -> tuple[Array, Array, Array]:
    """Queries (n, d), keys (m, d) and values (m, dv), checked."""
    q, k = as_pair(q, k, ("q", "k"))
    v = as_points(v, "v")
    if len(v) != len(k):
        raise ValueError(f"v: expected one row for each of the {len(k)} keys, got {len(v)}")
    with np.errstate(over="ignore"):
        largest = q.shape[1] * (np.abs(q).max() + np.abs(k).max()) ** 2  # bounds every |q_i - k_j|^2 and <q_i, k_j>
    if not np.isfinite(largest):
        raise ValueError("q, k: expected finite squared distances and inner products, got an overflow; rescale both")
    return q, k, v
