r"""Attention as pure functions of tensors; the functions of :mod:`espref.attention` are their specification."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .sorting import SORTS, Options
from .streaming import real_count, streamed


class AttentionOutput(NamedTuple):
    """What every function here returns."""

    output: Tensor  # (..., N, Ev)
    weights: Tensor | None  # (..., N, M), only with need_weights


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
    r"""ESP attention, $N \sum_l w_l U_l V$, exact, without building a plan; see :func:`espref.esp_attention`.

    Parameters
    ----------
    query, key, value : (..., N, E), (..., M, E), (..., M, Ev)
        Floating point tensors; half precision is computed in float32 and returned as it came.
    tau : float or tensor without dimensions
        Temperature of the soft sort, > 0 (unused by a hard sort without ``straight_through``).
    beta : float or tensor without dimensions
        Inverse temperature over slices, >= 0, in units of 1 / |query|^2.
    directions : (L, E), optional
        Slicers, fixed or learned; the axes by default.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort (ties averaged).
    power : 1 or 2
        Laplace kernel, linear in N; Gauss kernel, quadratic.
    key_padding_mask, query_padding_mask : (..., M) and (..., N) bool, optional
        True = ignore, as in MultiheadAttention. The plan is between the real tokens of each batch item; padded queries
        give zeros, and so does a batch item without any real key.
    straight_through : bool
        With a hard sort, take the gradient of the soft one, which is then computed too.
    need_weights : bool
        Also compute the attention matrix: O(N M) memory, and the time of M value columns.

    Returns
    -------
    AttentionOutput
        output (..., N, Ev) and weights (..., N, M) or None.

    Raises
    ------
    ValueError
        For malformed arguments.
    RuntimeError
        When the balanced scaling does not converge.
    NotImplementedError
        For second derivatives.

    Notes
    -----
    The gradient is exact, and has no derivative of its own. :mod:`torch.func` goes through; ``vmap`` calls the function
    item by item, so that leading dimensions are the faster batch.

    References
    ----------
    shahbazi2025espformer, prillo2020softsort
    """
    lead = _check(query, key, value)
    _check_options(query, directions, sort, power)
    kept = value.dtype
    dtype = torch.float64 if kept == torch.float64 else torch.float32
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (x.reshape(-1, *x.shape[-2:]).to(dtype) for x in (query, key, value))
        tau, beta = (_scalar(x, name, q) for x, name in ((tau, "tau"), (beta, "beta")))
        slicers = torch.eye(q.shape[-1], dtype=dtype, device=q.device) if directions is None else directions.to(q)
        masks = [_real(mask, lead, x, name) for mask, x, name in (
            (query_padding_mask, q, "query_padding_mask"), (key_padding_mask, k, "key_padding_mask"))]  # fmt: skip
        options = Options(sort, power, *masks)

        def attend(values: Tensor, least: bool) -> Tensor:
            result = streamed(q, k, values, slicers, tau, beta, options, least)
            if sort != "hard" or not straight_through or not torch.is_grad_enabled():
                return result
            soft = streamed(q, k, values, slicers, tau, beta, options._replace(sort="soft"), least)
            return result.detach() + (soft - soft.detach())  # plus zero, which has a gradient

        output, weights = attend(v, least=False), None
        if need_weights:
            identity = torch.eye(k.shape[1], dtype=dtype, device=q.device).expand(len(q), -1, -1)
            weights = attend(identity, least=True)
            weights = weights.to(kept).reshape(*lead, *weights.shape[1:])
    return AttentionOutput(output.to(kept).reshape(*lead, *output.shape[1:]), weights)


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, *, keep: Tensor | None = None, need_weights: bool = False
) -> AttentionOutput:
    r"""Scaled dot-product attention on PyTorch's fused kernels; see :func:`espref.softmax_attention`.

    query (..., N, E), key (..., M, E), value (..., M, Ev); ``keep`` (..., N, M) boolean, True where a query may look at
    a key. A query that may look at none gives zeros. ``need_weights`` also computes the matrix.

    Raises
    ------
    ValueError
        For malformed tensors.
    """
    _check(query, key, value)
    if keep is None:
        some, allowed = torch.ones((), dtype=torch.bool, device=query.device), None
    else:
        some = keep.any(-1, keepdim=True)
        allowed = keep | ~some
    output, weights = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed) * some, None
    if need_weights:
        logits = query @ key.mT * query.shape[-1] ** -0.5  # (..., N, M)
        weights = torch.softmax(logits if allowed is None else logits.masked_fill(~allowed, -torch.inf), dim=-1) * some
    return AttentionOutput(output, weights)


def differential_attention(
    query: Tensor, key: Tensor, value: Tensor, *, mix: Tensor, keep: Tensor | None = None, need_weights: bool = False
) -> AttentionOutput:
    r"""Softmax attention minus ``mix`` times a second one: each on its half of the coordinates.

    query (..., N, E), key (..., M, E) with E even, value (..., M, Ev); ``mix`` a tensor without dimensions. Rows of the
    matrix sum to 1 - mix, and its entries may be negative. ``keep`` and ``need_weights`` as in
    :func:`softmax_attention`.

    Raises
    ------
    ValueError
        For malformed tensors.

    References
    ----------
    ye2024differential
    """
    _check(query, key, value)
    if query.shape[-1] % 2:
        raise ValueError(f"query: expected an even number of coordinates, got {query.shape[-1]}")
    (q1, q2), (k1, k2) = query.chunk(2, dim=-1), key.chunk(2, dim=-1)
    first = softmax_attention(q1, k1, value, keep=keep, need_weights=need_weights)
    second = softmax_attention(q2, k2, value, keep=keep, need_weights=need_weights)
    weights = None
    if first.weights is not None and second.weights is not None:
        weights = first.weights - mix * second.weights
    return AttentionOutput(first.output - mix * second.output, weights)


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
    r"""Rows and columns of exp(<q_i, k_j> / sqrt E) normalised in turn; see :func:`espref.sinkhorn_attention`.

    Dense, in the log domain and in float32 at least. Each of ``n_iter`` iterations makes the real rows sum to 1, and then
    the real columns to N/M, counted in real tokens. Shapes and padding masks as in :func:`esp_attention`.

    Raises
    ------
    ValueError
        For malformed arguments.

    References
    ----------
    sander2022sinkformers
    """
    lead = _check(query, key, value)
    if not isinstance(n_iter, int) or isinstance(n_iter, bool) or n_iter < 1:
        raise ValueError(f"n_iter: expected a positive whole number, got {n_iter!r}")
    kept, dtype = value.dtype, torch.float64 if value.dtype == torch.float64 else torch.float32
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (x.reshape(-1, *x.shape[-2:]).to(dtype) for x in (query, key, value))
        rows = _real(query_padding_mask, lead, q, "query_padding_mask")
        cols = _real(key_padding_mask, lead, k, "key_padding_mask")
        logits, nothing = q @ k.mT * q.shape[-1] ** -0.5, torch.finfo(dtype).min  # (B, N, M)
        keep = _pairs(rows, cols, logits)
        level = (real_count(q, rows) / real_count(k, cols)).log()[..., None]  # (B, 1, 1)
        for step in range(2 * n_iter):  # rows, columns, rows, ...
            logits = logits if keep is None else logits.masked_fill(~keep, nothing)
            logits = logits - logits.logsumexp(dim=-2 if step % 2 else -1, keepdim=True)
            logits = logits + level if step % 2 else logits
        matrix = logits.exp() if keep is None else logits.masked_fill(~keep, -torch.inf).exp()
        output = matrix @ v
    matrix, output = (x.to(kept).reshape(*lead, *x.shape[1:]) for x in (matrix, output))
    return AttentionOutput(output, matrix if need_weights else None)


def _pairs(rows: Tensor | None, cols: Tensor | None, like: Tensor) -> Tensor | None:
    """Which pairs are real, (B, N, M); None: all are."""
    if rows is None and cols is None:
        return None
    every = torch.ones_like(like, dtype=torch.bool)
    every = every if rows is None else every & rows[:, :, None]
    return every if cols is None else every & cols[:, None, :]


def _check(query: Tensor, key: Tensor, value: Tensor) -> torch.Size:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or 0 in x.shape[-2:]:
            got = f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name}: expected a floating point tensor of shape (..., tokens, coordinates), got {got}")
    lead = query.shape[:-2]
    if key.shape[:-2] != lead or value.shape[:-2] != lead:
        raise ValueError(f"key, value: expected leading dimensions {tuple(lead)} as query has")
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"key: expected {query.shape[-1]} coordinates as query has, got {key.shape[-1]}")
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(f"value: expected {key.shape[-2]} tokens as key has, got {value.shape[-2]}")
    if not query.device == key.device == value.device:
        raise ValueError(f"key, value: expected device {query.device} as query has, got {key.device}, {value.device}")
    return lead


def _check_options(query: Tensor, directions: Tensor | None, sort: str, power: int) -> None:
    if directions is not None:
        fits = isinstance(directions, Tensor) and directions.is_floating_point() and directions.ndim == 2
        if not fits or directions.shape[1] != query.shape[-1] or not len(directions):
            raise ValueError(
                f"directions: expected None or a tensor of shape (L, {query.shape[-1]}), got {_got(directions)}"
            )
        if directions.device != query.device:
            raise ValueError(f"directions: expected device {query.device} as query has, got {directions.device}")
    if not isinstance(sort, str) or sort not in SORTS:
        raise ValueError(f"sort: expected one of {', '.join(SORTS)}, got {_got(sort)}")
    if not isinstance(power, int) or power not in (1, 2):
        raise ValueError(f"power: expected 1 (Laplace) or 2 (Gauss), got {_got(power)}")


def _got(x: object) -> str:
    return f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else repr(x)


def _scalar(x: float | Tensor, name: str, like: Tensor) -> Tensor:
    wanted = f"a number {'> 0' if name == 'tau' else '>= 0'}"
    number = isinstance(x, (int, float)) and not isinstance(x, bool)
    if not number and not (isinstance(x, Tensor) and x.ndim == 0 and not x.is_complex() and x.device.type != "meta"):
        raise ValueError(f"{name}: expected {wanted}, got {_got(x)}")
    try:
        scalar = torch.as_tensor(x, dtype=like.dtype, device=like.device)
    except (OverflowError, RuntimeError) as error:  # a whole number beyond the floats
        raise ValueError(f"{name}: expected {wanted}, got one too large") from error
    return scalar  # its value is looked at in the stream


def _real(mask: Tensor | None, lead: torch.Size, x: Tensor, name: str) -> Tensor | None:
    if mask is None:
        return None
    size = (*lead, x.shape[1])
    fits = (
        isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.device == x.device and 0 < mask.ndim <= len(size)
    )
    if not fits or any(m not in (1, s) for m, s in zip(reversed(mask.shape), reversed(size))):  # noqa: B905
        raise ValueError(f"{name}: expected a boolean mask that expands to {size} on {x.device}, got {_got(mask)}")
    return ~mask.expand(size).reshape(-1, x.shape[1])
