"""The one optimised place: the sort kernel applied to sorted scores in linear time.

For the Laplace kernel, K x at a chunk of sorted points is a small dense product inside the chunk, plus what the chunks
before and after it carry in. The carries are one-sided sums of the same kind over chunk ends, and recurse. Every
exponent is <= 0, so nothing overflows at any tau.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Points in a chunk.
CHUNK = 32


def damping(distance: Tensor, tau: Tensor | None) -> Tensor:
    """exp(-distance / tau); without tau (the hard limit) the indicator of equal scores."""
    return (distance <= 0).to(distance.dtype) if tau is None else torch.exp(-distance / tau)


def _chunks(s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Padded to whole chunks, the last score repeated and x by zeros: (..., k, c) and (..., k, c, d)."""
    missing = -s.shape[-1] % CHUNK
    if missing:
        s = torch.cat([s, s[..., -1:].expand(*s.shape[:-1], missing)], dim=-1)
        x = torch.cat([x, x.new_zeros(*x.shape[:-2], missing, x.shape[-1])], dim=-2)
    return s.unflatten(-1, (-1, CHUNK)), x.unflatten(-2, (-1, CHUNK))


def lower(s: Tensor, x: Tensor, tau: Tensor | None) -> Tensor:
    """y_i = sum_{j <= i} exp(-(s_i - s_j) / tau) x_j for ascending s (..., n) and x (..., n, d)."""
    n = s.shape[-1]
    if n <= CHUNK:
        kernel = damping((s[..., :, None] - s[..., None, :]).clamp(min=0), tau).tril()  # (..., n, n)
        return kernel @ x
    points, values = _chunks(s, x)
    kernel = damping((points[..., :, None] - points[..., None, :]).clamp(min=0), tau).tril()
    inside = kernel @ values  # (..., k, c, d)
    carried = lower(points[..., -1], inside[..., -1, :], tau)  # (..., k, d)
    into = damping(points[..., 1:, :] - points[..., :-1, -1:], tau)  # (..., k - 1, c)
    rest = inside[..., 1:, :, :] + into[..., None] * carried[..., :-1, None, :]
    return torch.cat([inside[..., :1, :, :], rest], dim=-3).flatten(-3, -2)[..., :n, :]


def upper(s: Tensor, x: Tensor, tau: Tensor | None) -> Tensor:
    """y_i = sum_{j >= i} exp(-(s_j - s_i) / tau) x_j: the lower sum, read backwards."""
    return lower(-s.flip(-1), x.flip(-2), tau).flip(-2)


def laplace(s: Tensor, x: Tensor, tau: Tensor | None) -> Tensor:
    """K x with K_ij = exp(-|s_i - s_j| / tau), ascending s (..., n), x (..., n, d): O(n d) time and memory."""
    n = s.shape[-1]
    points, values = _chunks(s, x) if n > CHUNK else (s[..., None, :], x[..., None, :, :])
    kernel = damping((points[..., :, None] - points[..., None, :]).abs(), tau)  # (..., k, c, c)
    inside = kernel @ values  # (..., k, c, d)
    if points.shape[-2] > 1:
        before = lower(points[..., -1], inside[..., -1, :], tau)  # (..., k, d)
        after = upper(points[..., 0], inside[..., 0, :], tau)
        left = damping(points[..., 1:, :] - points[..., :-1, -1:], tau)  # (..., k - 1, c)
        right = damping(points[..., 1:, :1] - points[..., :-1, :], tau)
        zero = torch.zeros_like(inside[..., :1, :, :])
        inside = inside + torch.cat([zero, left[..., None] * before[..., :-1, None, :]], dim=-3)
        inside = inside + torch.cat([right[..., None] * after[..., 1:, None, :], zero], dim=-3)
    return inside.flatten(-3, -2)[..., :n, :]


def gauss(s: Tensor, x: Tensor, tau: Tensor | None) -> Tensor:
    """K x with K_ij = exp(-(s_i - s_j)^2 / tau): dense, O(n^2) time and memory."""
    return damping((s[..., :, None] - s[..., None, :]).square(), tau) @ x
