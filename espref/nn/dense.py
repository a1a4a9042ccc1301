r"""The readable specification of ESP attention in PyTorch: every matrix is formed, and autograd differentiates.

:func:`esp_attention` is the definition, step by step; :class:`DenseEsp` is the layer around it. They take
O(L N^3) time and O(L N^2) memory. :func:`espref.nn.functional.esp_attention` and :class:`espref.nn.EspAttention`
compute the same without these matrices, and are tested against this module.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

#: Rounds of the balanced scaling; near the fixed point each at least halves the error in log d and in its derivative.
ROUNDS = 60


class Attention(NamedTuple):
    """What attention returns.

    See Also
    --------
    esp_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn.dense import esp_attention
    >>> q = torch.randn(5, 3)
    >>> output, matrix = esp_attention(q, q, q, tau=0.1, beta=1.0)
    >>> output.shape, matrix.shape
    (torch.Size([5, 3]), torch.Size([5, 5]))
    """

    output: Tensor  # (..., N, Ev)  matrix @ v
    matrix: Tensor  # (..., N, M)


def esp_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tau: float | Tensor,
    beta: float | Tensor,
    directions: Tensor | None = None,
    sort: str = "soft",
    power: int = 1,
    query_padding_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
) -> Attention:
    r"""ESP attention, $N \sum_l w_l U_l V$, from its definition; see :func:`espref.esp_attention`.

    Parameters
    ----------
    q, k, v : (..., N, E), (..., M, E), (..., M, Ev)
        Queries, keys, values, of the same type.
    tau, beta : float or tensor (...,)
        Temperature of the soft sort, > 0, and inverse temperature over slices, >= 0; one for each item, or for all.
    directions : (L, E), optional
        Slicers; the axes by default.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort (ties averaged).
    power : 1 or 2
        Exponent of the sort kernel: Laplace or Gauss.
    query_padding_mask, key_padding_mask : (..., N) and (..., M) bool, optional
        True = ignore.

    Returns
    -------
    Attention
        output (..., N, Ev) and matrix (..., N, M).

    See Also
    --------
    espref.nn.functional.esp_attention, espref.esp_attention

    Notes
    -----
    Arguments are not checked: this is a text to read and to test against.

    Examples
    --------
    >>> import torch
    >>> from espref.nn.dense import esp_attention
    >>> q, v = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
    >>> esp_attention(q, q, v, tau=0.1, beta=1.0, sort="hard").output
    tensor([[3.],
            [5.]])

    References
    ----------
    shahbazi2025espformer
    """
    q_valid = valid_tokens(q, query_padding_mask)[..., None, :]  # (..., 1, N)
    k_valid = valid_tokens(k, key_padding_mask)[..., None, :]  # (..., 1, M)
    theta = q.new_ones(q.shape[-1]).diag()  # (L, E), the axes
    if directions is not None:
        theta = directions
    tau = torch.as_tensor(tau, dtype=q.dtype)[..., None, None, None]  # (..., 1, 1, 1)
    beta = torch.as_tensor(beta, dtype=q.dtype)[..., None]  # (..., 1)
    # 1. Slice: the scores of all tokens along all directions.
    s = (q[..., None, :, :] * theta[:, None]).sum(-1)  # (..., L, N)
    t = (k[..., None, :, :] * theta[:, None]).sum(-1)  # (..., L, M)
    # 2. Sort the scores of each slice, softly.
    P = soft_permutation(s, tau, q_valid, sort, power)  # (..., L, N, N)
    Q = soft_permutation(t, tau, k_valid, sort, power)  # (..., L, M, M)
    # 3. Couple equal ranks: one plan for each slice, of mass 1.
    A = rank_plan(q_valid, k_valid).to(q.dtype)  # (..., 1, N, M)
    U = P.mT @ A @ Q  # (..., L, N, M)
    # 4. Weigh the slices by the costs of their plans.
    difference = q[..., :, None, :] - k[..., None, :, :]  # (..., N, M, E)
    C = difference.square().sum(-1)  # (..., N, M)
    c = (U * C[..., None, :, :]).sum((-2, -1))  # (..., L)
    w = torch.softmax(-beta * c, dim=-1)  # (..., L)
    # 5. Average the plans, and apply them to the values.
    n = q_valid.sum(-1, keepdim=True)  # (..., 1, 1)
    matrix = n * (w[..., None, None] * U).sum(-3)  # (..., N, M)
    return Attention(matrix @ v, matrix)


def released_attention(
    q: Tensor, k: Tensor, v: Tensor, *, tau: float | Tensor = 1e-3, beta: float | Tensor = 10.0
) -> Attention:
    r"""The attention of the code released with the paper, for scaled queries and keys; written from its formulas.

    Gauss kernels along the axes, slices weighted by unsquared distances summed under plans of mass N, and no factor N:
    $\sum_l w_l P_l^\top Q_l v$ with $w = \mathrm{softmax}_l(-\beta \sum_{ij} |q_i - k_j| (P_l^\top Q_l)_{ij})$. See
    ``espref.deviations`` for the differences.

    Parameters
    ----------
    q, k, v : (..., N, E), (..., N, E), (..., N, Ev)
        Queries and keys, scaled by E^(-1/2), and values.
    tau, beta : float or tensor (...,)
        Temperature of the sort and inverse temperature over slices.

    Returns
    -------
    Attention
        output (..., N, Ev) and matrix (..., N, N), whose rows sum to about 1.

    See Also
    --------
    esp_attention : As in the paper.

    Examples
    --------
    >>> import torch
    >>> from espref.nn import dense
    >>> q, k, v = torch.rand(3, 5, 4).unbind()
    >>> output, matrix = dense.released_attention(q / 2, k / 2, v)
    >>> round(matrix.sum().item(), 4)
    5.0

    References
    ----------
    shahbazi2025espformer
    """
    tau = torch.as_tensor(tau, dtype=q.dtype)[..., None, None, None]  # (..., 1, 1, 1)
    beta = torch.as_tensor(beta, dtype=q.dtype)[..., None]  # (..., 1)
    every = valid_tokens(q, None)[..., None, :]  # (..., 1, N)
    P = soft_permutation(q.mT, tau, every, power=2)  # (..., E, N, N)
    Q = soft_permutation(k.mT, tau, every, power=2)  # (..., E, N, N)
    U = P.mT @ Q  # (..., E, N, N), of mass N
    D = torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist")  # (..., N, N)
    c = (U * D[..., None, :, :]).sum((-2, -1))  # (..., E)
    w = torch.softmax(-beta * c, dim=-1)
    matrix = (w[..., None, None] * U).sum(-3)
    return Attention(matrix @ v, matrix)


def soft_permutation(
    s: Tensor,
    tau: float | Tensor,
    valid: Tensor,
    sort: str = "soft",
    power: int = 1,
) -> Tensor:
    """The matrix that sorts scores softly, ranks by tokens; see :func:`espref.soft_permutation`.

    Scores s (..., N) and valid (..., N) bool to (..., N, N). Padding stands behind the valid tokens, and the identity
    sorts it.

    Parameters
    ----------
    s : (..., N)
        Scores.
    tau : float or tensor
        Temperature of the soft sort, > 0.
    valid : (..., N) bool
        True for tokens that are not padding.
    sort : "soft" | "balanced" | "hard"
        As in :func:`esp_attention`.
    power : 1 or 2
        Exponent of the sort kernel.

    Returns
    -------
    (..., N, N) tensor
        Rows are ranks, columns are tokens.

    See Also
    --------
    espref.soft_permutation

    Examples
    --------
    >>> import torch
    >>> from espref.nn.dense import soft_permutation
    >>> s = torch.tensor([3.0, 1.0])
    >>> soft_permutation(s, 0.1, torch.ones(2, dtype=torch.bool), sort="hard")
    tensor([[0., 1.],
            [1., 0.]])
    """
    last = s.masked_fill(~valid, torch.inf)  # (..., N)
    order = last.argsort(dim=-1, stable=True)  # (..., N)
    u = s.gather(-1, order)  # (..., N), ascending
    gaps = (u[..., :, None] - u[..., None, :]).abs()  # (..., N, N)
    K = torch.exp(-(gaps**power) / tau)  # (..., N, N)
    if sort == "hard":
        K = (gaps == 0).to(s.dtype)  # the limit tau -> 0
    r = valid.expand_as(s).gather(-1, order)  # (..., N)
    pairs = r[..., :, None] & r[..., None, :]  # (..., N, N)
    K = torch.where(pairs, K, torch.ones_like(u).diag_embed())
    if sort == "balanced":
        d = balanced_scaling(K)  # (..., N)
        S = d[..., :, None] * K * d[..., None, :]  # doubly stochastic
    else:
        S = K / K.sum(-1, keepdim=True)  # rows sum to 1
    rank = order.argsort(dim=-1)  # (..., N)
    return S.gather(-1, rank[..., None, :].expand_as(S))  # (..., N, N)


def balanced_scaling(K: Tensor) -> Tensor:
    """The d > 0 with d * (K d) = 1, (..., N), for symmetric K (..., N, N).

    Autograd differentiates the rounds as they are; their derivative converges as they do.

    Parameters
    ----------
    K : (..., N, N)
        Symmetric, with positive diagonal and nonnegative entries.

    Returns
    -------
    (..., N) tensor
        The scaling d.

    See Also
    --------
    soft_permutation

    Examples
    --------
    >>> import torch
    >>> from espref.nn.dense import balanced_scaling
    >>> balanced_scaling(torch.diag(torch.tensor([4.0, 1.0])))
    tensor([0.5000, 1.0000])
    """
    d = K.sum(-1).rsqrt()  # (..., N)
    for _ in range(ROUNDS):
        d = (d / (K @ d[..., None])[..., 0]).sqrt()
    return d


def rank_plan(source: Tensor, target: Tensor) -> Tensor:
    """The plan between the ranks of n valid sources and m valid targets, (..., N, M), in float64.

    Rank i covers ((i - 1) / n, i / n] and rank j covers ((j - 1) / m, j / m]; A_ij is the length of their overlap.
    ``source`` (..., N) and ``target`` (..., M) bool are True for valid tokens.

    Parameters
    ----------
    source, target : (..., N) and (..., M) bool
        True for valid tokens.

    Returns
    -------
    (..., N, M) tensor
        Float64, mass 1.

    See Also
    --------
    espref.rank_plan

    Examples
    --------
    >>> import torch
    >>> from espref.nn.dense import rank_plan
    >>> rank_plan(torch.tensor([True]), torch.tensor([True, True, False]))
    tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    n = source.sum(-1)[..., None, None]  # (..., 1, 1)
    m = target.sum(-1)[..., None, None]  # (..., 1, 1)
    i = torch.arange(source.shape[-1] + 1, device=source.device)[:, None]
    j = torch.arange(target.shape[-1] + 1, device=target.device)
    u = i.minimum(n) * m  # (..., N + 1, 1), ends in units of 1 / (n m)
    v = j.minimum(m) * n  # (..., 1, M + 1)
    begin = u[..., :-1, :].maximum(v[..., :-1])  # (..., N, M)
    end = u[..., 1:, :].minimum(v[..., 1:])  # (..., N, M)
    overlap: Tensor = (end - begin).clamp(min=0).double()
    return overlap / (n * m).clamp(min=1)


def valid_tokens(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """The tokens of x (..., N, E) that are not padding, (..., N).

    Parameters
    ----------
    x : (..., N, E)
        Tokens.
    padding_mask : (..., N) bool or None
        True = ignore.

    Returns
    -------
    (..., N) tensor
        True for the tokens that count.

    See Also
    --------
    esp_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn.dense import valid_tokens
    >>> valid_tokens(torch.zeros(2, 1), torch.tensor([False, True]))
    tensor([ True, False])
    """
    if padding_mask is None:
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    return ~padding_mask.expand(x.shape[:-1])


class DenseEsp(nn.Module):
    """Multi-head ESP self-attention, with every matrix in the open.

    Its ``state_dict`` is that of an :class:`espref.nn.EspAttention` with the same temperatures.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads.
    tau, beta : float
        Temperature of the soft sort, fixed, and initial inverse temperature over slices, trained, for queries and keys
        scaled by head_dim^(-1/2).
    sort : "soft" | "balanced" | "hard"
        As in :func:`esp_attention`.

    See Also
    --------
    espref.nn.EspAttention

    Examples
    --------
    >>> import torch
    >>> from espref.nn.dense import DenseEsp
    >>> output, matrices = DenseEsp(8, 2)(torch.randn(3, 5, 8))
    >>> output.shape, matrices.shape
    (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 5]))
    """

    _version = 2  # of the state_dict

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        tau: float = 0.1,
        beta: float = 1.0,
        sort: str = "soft",
    ) -> None:
        super().__init__()
        self.num_heads, self.sort = num_heads, sort
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        log_tau, log_beta = torch.tensor([[tau], [beta]]).log().expand(2, num_heads)
        self.log_tau = nn.Parameter(log_tau.clone(), requires_grad=False)  # (H,)
        self.log_beta = nn.Parameter(log_beta.clone())  # (H,)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, E) to tokens (B, N, E) and matrices (B, H, N, N); ``padding_mask`` (B, N), True = ignore."""
        parts = self.in_proj(x).chunk(3, dim=-1)  # (B, N, E) each
        heads = (self.num_heads, -1)
        q, k, v = (torch.unflatten(y, -1, heads).transpose(1, 2) for y in parts)
        scale = q.shape[-1] ** -0.5  # q, k, v: (B, H, N, d)
        if padding_mask is not None:
            padding_mask = padding_mask[:, None]  # (B, 1, N), for all heads
        output, matrix = esp_attention(
            q * scale,
            k * scale,
            v,
            tau=self.log_tau.exp(),
            beta=self.log_beta.exp(),
            sort=self.sort,
            query_padding_mask=padding_mask,
            key_padding_mask=padding_mask,
        )  # (B, H, N, d), (B, H, N, N)
        output = output.transpose(1, 2).flatten(-2)  # (B, N, E)
        return self.out_proj(output), matrix
