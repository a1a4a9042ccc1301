r"""Attention and losses as pure functions of tensors, in the notation of the NumPy chapters.

:mod:`espref.nn.dense` reads as the definition of :func:`esp_attention` does; this one computes the same in linear time.
The losses are written in ``espref/nn/losses.py``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import operators
from ._checks import as_temperature, as_valid, check_options, check_tokens
from .losses import SoftPlan, est_loss, expected_soft_plan, soft_est_loss
from .ranks import valid_count

__all__ = [
    "AttentionOutput",
    "SoftPlan",
    "differential_attention",
    "esp_attention",
    "est_loss",
    "expected_soft_plan",
    "sinkhorn_attention",
    "soft_est_loss",
    "softmax_attention",
]


class AttentionOutput(NamedTuple):
    """What every function here returns.

    See Also
    --------
    esp_attention, softmax_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import softmax_attention
    >>> q = torch.randn(5, 4)
    >>> softmax_attention(q, q, q).matrix is None
    True
    """

    output: Tensor  # (..., N, Ev) matrix @ value
    matrix: Tensor | None  # (..., N, M), only with need_weights


def esp_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    tau: float | Tensor,
    beta: float | Tensor,
    directions: Tensor | None = None,
    sort: str = "soft",
    power: int = 1,
    key_padding_mask: Tensor | None = None,
    query_padding_mask: Tensor | None = None,
    straight_through: bool = False,
    need_weights: bool = False,
) -> AttentionOutput:
    r"""ESP attention, $N \sum_l w_l U_l V$, exact, without forming a plan; see :func:`espref.esp_attention`.

    Parameters
    ----------
    query, key, value : (..., N, E), (..., M, E), (..., M, Ev)
        Floating point tensors. Half precision is computed in float32; the results have the type of ``value``.
    tau : float or tensor without dimensions
        Temperature of the soft sort, > 0, in units of score^power (unused by a hard sort without
        ``straight_through``).
    beta : float or tensor without dimensions
        Inverse temperature over slices, >= 0, in units of 1 / |query|^2.
    directions : (L, E), optional
        Slicers, fixed or learned; the axes by default.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort (ties averaged).
    power : 1 or 2
        Exponent of the sort kernel: Laplace, linear in N, or Gauss, quadratic in N.
    key_padding_mask, query_padding_mask : (..., M) and (..., N) bool, optional
        True = ignore, as in :class:`torch.nn.MultiheadAttention`. The plan of each batch item couples its valid tokens,
        those that are not padding. Padded queries give zeros, and so does a batch item without valid keys.
    straight_through : bool
        With a hard sort, take the gradient of the soft one, which is then computed too.
    need_weights : bool
        Also return the attention matrix. ESP attention never forms this matrix otherwise; requesting it takes O(N M)
        memory and costs as much as M extra value columns.

    Returns
    -------
    AttentionOutput
        output (..., N, Ev) and matrix (..., N, M) or None.

    Raises
    ------
    ValueError
        For malformed arguments.
    RuntimeError
        When the balanced scaling does not converge.
    NotImplementedError
        For second derivatives, for forward-mode derivatives, and in an export to ONNX.

    See Also
    --------
    espref.nn.EspAttention, espref.nn.dense.esp_attention, espref.esp_attention

    Notes
    -----
    The gradient is exact, but cannot be differentiated again. The transforms of :mod:`torch.func` apply; ``vmap`` calls
    the function once for each item, so leading dimensions are the faster way to batch.

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import esp_attention
    >>> q, k, v = torch.randn(2, 5, 4), torch.randn(2, 7, 4), torch.randn(2, 7, 3)
    >>> output, matrix = esp_attention(q, k, v, tau=0.1, beta=1.0, need_weights=True)
    >>> output.shape, matrix.shape
    (torch.Size([2, 5, 3]), torch.Size([2, 5, 7]))

    References
    ----------
    shahbazi2025espformer, prillo2020softsort
    """
    lead = check_tokens(query, key, value)
    check_options(query, directions, sort, power)
    with without_autocast(query):
        q, k, v = _flattened(query, key, value)
        slicers = None if directions is None else directions.to(q)
        temperatures = [as_temperature(x, name, lead, q) for name, x in (("tau", tau), ("beta", beta))]
        valid = [
            as_valid(query_padding_mask, lead, q, "query_padding_mask"),
            as_valid(key_padding_mask, lead, k, "key_padding_mask"),
        ]

        def attend(values: Tensor, sort: str) -> Tensor:
            return operators.apply(q, k, values, slicers, *temperatures, *valid, sort, power)

        def result(values: Tensor) -> Tensor:
            attended = attend(values, sort)
            if sort == "hard" and straight_through and torch.is_grad_enabled():
                soft = attend(values, "soft")
                attended = attended.detach() + (soft - soft.detach())  # zero, with the gradient of soft
            return _restored(attended, lead, value.dtype)

        output, matrix = result(v), None
        if need_weights:
            matrix = result(torch.eye(k.shape[1], dtype=q.dtype, device=q.device).expand(len(q), -1, -1))
    return AttentionOutput(output, matrix)


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> AttentionOutput:
    r"""Scaled dot-product attention on PyTorch's fused kernels; see :func:`espref.softmax_attention`.

    Keys that no query may attend to, and queries that may attend to none, may hold anything, even NaN.

    Parameters
    ----------
    query, key, value : (..., N, E), (..., M, E), (..., M, Ev)
        Floating point tensors.
    allowed : (..., N, M) bool, optional
        True where a query may attend to a key. A query without any such key gives zeros.
    bias : (..., N, M), optional
        Added to the scaled products of queries and keys; -inf where a query must not attend to a key.
    dropout : float
        Probability with which an entry of the matrix is zero; the others are multiplied by 1 / (1 - dropout).
    need_weights : bool
        Also return the attention matrix, from which the output is then computed, and not by the fused kernels.

    Returns
    -------
    AttentionOutput
        output (..., N, Ev) and matrix (..., N, M) or None.

    Raises
    ------
    ValueError
        For malformed tensors.

    See Also
    --------
    espref.nn.SoftmaxAttention, espref.softmax_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import softmax_attention
    >>> q, k, v = torch.randn(2, 5, 4), torch.randn(2, 7, 4), torch.randn(2, 7, 3)
    >>> output, matrix = softmax_attention(q, k, v, need_weights=True)
    >>> output.shape, matrix.shape
    (torch.Size([2, 5, 3]), torch.Size([2, 5, 7]))

    References
    ----------
    vaswani2017attention
    """
    check_tokens(query, key, value)
    has_key, mask = None, bias
    if bias is not None:
        finite = bias > -torch.inf
        allowed = finite if allowed is None else allowed & finite
    if allowed is not None:
        has_key, unused = allowed.any(-1, keepdim=True), ~allowed.any(-2)[..., None]  # (..., N, 1), (..., M, 1)
        query, key, value = query.masked_fill(~has_key, 0), key.masked_fill(unused, 0), value.masked_fill(unused, 0)
        mask = allowed | ~has_key  # a softmax over no keys would be 0 / 0
        if bias is not None:
            mask = bias.masked_fill(~has_key, 0).masked_fill(~mask, -torch.inf).to(query.dtype)
    matrix = None
    if not need_weights and not operators.in_forward_mode():  # in which the fused kernels have no derivative
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    else:
        logits = (query * query.shape[-1] ** -0.5) @ key.mT  # (..., N, M); scaled first, so that float16 is wide enough
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if bias is None else logits + mask
        matrix = F.dropout(torch.softmax(logits, dim=-1), dropout)
        matrix = matrix if has_key is None else matrix.masked_fill(~has_key, 0)
        output = matrix @ value
    output = output if has_key is None else output.masked_fill(~has_key, 0)
    return AttentionOutput(output, matrix if need_weights else None)


def differential_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mix: Tensor,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> AttentionOutput:
    r"""One softmax attention minus ``mix`` times another, each computed from half of the coordinates.

    Rows of the matrix sum to 1 - mix, and its entries may be negative.

    Parameters
    ----------
    query, key, value : (..., N, E), (..., M, E), (..., M, Ev)
        Floating point tensors, E even.
    mix : tensor without dimensions
        Factor of the second attention.
    allowed, bias, dropout : optional
        As in :func:`softmax_attention`, for both.
    need_weights : bool
        Also return the attention matrix.

    Returns
    -------
    AttentionOutput
        output (..., N, Ev) and matrix (..., N, M) or None.

    Raises
    ------
    ValueError
        For malformed tensors.

    See Also
    --------
    espref.nn.DifferentialAttention

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import differential_attention
    >>> q, k, v = torch.randn(2, 5, 4), torch.randn(2, 7, 4), torch.randn(2, 7, 3)
    >>> output, matrix = differential_attention(q, k, v, mix=torch.tensor(0.5), need_weights=True)
    >>> output.shape, matrix.shape
    (torch.Size([2, 5, 3]), torch.Size([2, 5, 7]))

    References
    ----------
    ye2025differential
    """
    check_tokens(query, key, value)
    if query.shape[-1] % 2:
        raise ValueError(f"query: expected an even number of coordinates, got {query.shape[-1]}")
    first, second = (
        softmax_attention(q, k, value, allowed=allowed, bias=bias, dropout=dropout, need_weights=need_weights)
        for q, k in zip(query.chunk(2, dim=-1), key.chunk(2, dim=-1), strict=True)
    )
    matrix = None
    if first.matrix is not None and second.matrix is not None:
        matrix = first.matrix - mix * second.matrix
    return AttentionOutput(first.output - mix * second.output, matrix)


def sinkhorn_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    n_iter: int = 5,
    key_padding_mask: Tensor | None = None,
    query_padding_mask: Tensor | None = None,
    need_weights: bool = False,
) -> AttentionOutput:
    r"""Rows and columns of $\exp(\langle q_i, k_j \rangle / \sqrt E)$ normalised in turn; dense, in the log domain.

    One iteration makes every row of a valid query sum to 1, and then every column of a valid key to N/M, where N and M
    count valid tokens; see :func:`espref.sinkhorn_attention`.

    Parameters
    ----------
    query, key, value : (..., N, E), (..., M, E), (..., M, Ev)
        Floating point tensors. Half precision is computed in float32; the results have the type of ``value``.
    n_iter : int
        Number of iterations, >= 1, each of one row and one column normalisation.
    key_padding_mask, query_padding_mask : (..., M) and (..., N) bool, optional
        True = ignore. Padded queries give zeros, and so does a batch item without valid keys.
    need_weights : bool
        Also return the attention matrix.

    Returns
    -------
    AttentionOutput
        output (..., N, Ev) and matrix (..., N, M) or None.

    Raises
    ------
    ValueError
        For malformed arguments.

    See Also
    --------
    espref.nn.SinkhornAttention, espref.sinkhorn_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import sinkhorn_attention
    >>> q, k, v = torch.randn(2, 5, 4), torch.randn(2, 7, 4), torch.randn(2, 7, 3)
    >>> output, matrix = sinkhorn_attention(q, k, v, need_weights=True)
    >>> output.shape, matrix.shape
    (torch.Size([2, 5, 3]), torch.Size([2, 5, 7]))

    References
    ----------
    sander2022sinkformers
    """
    lead = check_tokens(query, key, value)
    if not isinstance(n_iter, int) or isinstance(n_iter, bool) or n_iter < 1:
        raise ValueError(f"n_iter: expected a positive whole number, got {n_iter!r}")
    with without_autocast(query):
        q, k, v = _flattened(query, key, value)
        query_valid = as_valid(query_padding_mask, lead, q, "query_padding_mask")
        key_valid = as_valid(key_padding_mask, lead, k, "key_padding_mask")
        q = q if query_valid is None else q.masked_fill(~query_valid[..., None], 0.0)
        k, v = (x if key_valid is None else x.masked_fill(~key_valid[..., None], 0.0) for x in (k, v))
        logits = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, N, M)
        padding = _padding_pairs(query_valid, key_valid, logits)
        column_sum = (valid_count(q, query_valid) / valid_count(k, key_valid)).log()[..., None]  # (B, 1, 1)

        def normalised(logits: Tensor, dim: int) -> Tensor:
            logits = logits if padding is None else logits.masked_fill(padding, torch.finfo(q.dtype).min)
            return logits - logits.logsumexp(dim=dim, keepdim=True)

        for _ in range(n_iter):
            logits = normalised(logits, dim=-1)
            logits = normalised(logits, dim=-2) + column_sum
        matrix = logits.exp() if padding is None else logits.masked_fill(padding, -torch.inf).exp()
        output = matrix @ v
        output = output if query_valid is None else output.masked_fill(~query_valid[..., None], 0.0)
        output = _restored(output, lead, value.dtype)
    return AttentionOutput(output, _restored(matrix, lead, value.dtype) if need_weights else None)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """What is done within is done in the types that are given."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _flattened(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With one leading dimension, (B, tokens, coordinates), in float64 or float32."""
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    q, k, v = (x.reshape(-1, *x.shape[-2:]).to(dtype) for x in (query, key, value))
    return q, k, v


def _restored(x: Tensor, lead: torch.Size, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).reshape(*lead, *x.shape[1:])


def _padding_pairs(query_valid: Tensor | None, key_valid: Tensor | None, like: Tensor) -> Tensor | None:
    """True where the query or the key is padding, (B, N, M); None where neither is masked."""
    if query_valid is None and key_valid is None:
        return None
    pairs = torch.zeros_like(like, dtype=torch.bool)
    pairs = pairs if query_valid is None else pairs | ~query_valid[:, :, None]
    return pairs if key_valid is None else pairs | ~key_valid[:, None, :]
