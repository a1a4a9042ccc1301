"""The Laplace sort kernel applied to sorted scores in linear time: the one place that is optimised.

Sorted points are cut into chunks. K x at a chunk is a small dense product within the chunk, plus what is carried in
from the chunks before and behind it. The carries are one-sided sums of the same kind over the ends of the chunks, and
are computed by the same function, one level up. Every exponent is <= 0, so nothing overflows at any tau. A kernel is
built once and applied to many x; its gradient with respect to the scores is made of the same sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Points in a chunk.
CHUNK = 16
#: Number of points up to which all of them are one chunk: less work than two padded chunks and their carries.
ONE_CHUNK = 2 * CHUNK


class Kernel(NamedTuple):
    """K_ij = exp(-|s_i - s_j| / tau) for ascending s in k chunks of c points."""

    inside: Tensor  # (B, G, k, c, c)  within the chunks
    into: Tensor  # (B, G, k, c, 2)  decay from the last point of the chunk before, and from the first of the one behind
    ends: Tensor  # (B, G, 2, k)  last points; first points, negated and read backwards: where carries are summed
    tau: Tensor | None  # (B,)  None: the limit tau -> 0, the indicator of equal scores

    def product(self, x: Tensor, columns: int | None = None) -> Image:
        """K x for x (B, G, n, d), or for its first columns only: O(n d) time and memory."""
        values = _split(x)
        inside = self.inside @ values[..., :columns]  # (B, G, k, c, columns)
        last, first = inside[..., -1, :], inside[..., 0, :]
        if columns is not None and columns < x.shape[-1] and values.shape[-3] > 1:
            ends = self.inside[..., [-1, 0], :] @ values[..., columns:]  # (B, G, k, 2, d - columns)
            last, first = (torch.cat([y, z], dim=-1) for y, z in ((last, ends[..., 0, :]), (first, ends[..., 1, :])))
        carries = _carries(self, last, first)
        if carries is not None:
            inside.flatten(0, -3).baddbmm_(self.into.flatten(0, -3), carries[..., :columns].flatten(0, -3))
        return Image(x, inside.flatten(-3, -2)[..., : x.shape[-2], :], carries)


class Image(NamedTuple):
    """K x, and what its gradient needs."""

    x: Tensor  # (B, G, n, d)
    value: Tensor  # (B, G, n, d)  K x, or its first columns
    carries: Tensor | None  # (B, G, k, 2, d)  what comes into each chunk; None for a single chunk and dense kernels


def decay(distance: Tensor, tau: Tensor | None) -> Tensor:
    """exp(-distance / tau), a new tensor (B, ...); without tau (the hard limit) the indicator of equal scores.

    What is far below rounding is set to zero, because denormal numbers would slow down everything that follows.
    """
    if tau is None:
        return (distance <= 0).to(distance.dtype)
    least = torch.finfo(distance.dtype).tiny ** 0.75
    rate = -tau.view(-1, *(1,) * (distance.ndim - 1))
    decayed: Tensor = torch.nn.functional.threshold(distance.div(rate).exp_(), least, 0.0, inplace=True)
    return decayed


def lower_product(s: Tensor, x: Tensor, tau: Tensor | None) -> Tensor:
    """y_i = sum_{j <= i} exp(-(s_i - s_j) / tau) x_j for ascending s (B, ..., n), x (B, ..., n, d) and tau (B,)."""
    n = s.shape[-1]
    if n <= ONE_CHUNK:
        return decay((s[..., :, None] - s[..., None, :]).clamp_(min=0), tau).tril_() @ x
    points, values = _chunks(s, -1, s[..., -1:]), _chunks(x, -2)
    inside = decay((points[..., :, None] - points[..., None, :]).clamp_(min=0), tau).tril_() @ values
    carried = lower_product(points[..., -1], inside[..., -1, :], tau)  # (..., k, d)
    into = decay(points[..., 1:, :] - points[..., :-1, -1:], tau)  # (..., k - 1, c)
    inside[..., 1:, :, :] += into[..., None] * carried[..., :-1, None, :]
    return inside.flatten(-3, -2)[..., :n, :]


def laplace_kernel(s: Tensor, tau: Tensor | None) -> Kernel:
    """The kernel of ascending s (B, G, n) for tau (B,)."""
    points = _chunks(s, -1, s[..., -1:]) if s.shape[-1] > ONE_CHUNK else s[..., None, :]  # (B, G, k, c)
    inside = decay((points[..., :, None] - points[..., None, :]).abs_(), tau)
    into = s.new_zeros(*points.shape, 2)
    into[..., 1:, :, 0] = decay(points[..., 1:, :] - points[..., :-1, -1:], tau)
    into[..., :-1, :, 1] = decay(points[..., 1:, :1] - points[..., :-1, :], tau)
    return Kernel(inside, into, torch.stack([points[..., -1], -points[..., 0].flip(-1)], dim=-2), tau)


def score_gradient(kernel: Kernel, s: Tensor, g: Image, x: Image) -> Tensor:
    """The gradient to s (B, G, n) of sum_i <g_i, (K x)_i>, from K g and K x.

    With M_ij = sign(s_i - s_j) K_ij <g_i, x_j>, it is sum_j (M_ji - M_ij) / tau at s_i. Tied pairs contribute nothing:
    the derivative is the symmetric one. The gradient to tau is -sum_i s_i / tau times it, because K depends on s / tau.
    """
    assert kernel.tau is not None
    if may_be_tied(s):
        ties = laplace_kernel(s, None)
        strict = kernel._replace(inside=kernel.inside - ties.inside)
        across = ties._replace(inside=torch.zeros_like(ties.inside))
        slope = _slope(strict, g, x) - _slope(across, ties.product(g.x), ties.product(x.x))
    else:
        slope = _slope(kernel, g, x)
    return slope[..., : s.shape[-1]] / kernel.tau[:, None, None]


def may_be_tied(ordered: Tensor) -> bool:
    """Whether two of the ascending scores (..., n) are equal. Asked only where the answer needs no wait."""
    return ordered.device.type != "cpu" or bool((ordered[..., 1:] == ordered[..., :-1]).any())


def _carries(kernel: Kernel, last: Tensor, first: Tensor) -> Tensor | None:
    """What comes into each chunk from before and from behind, (B, G, k, 2, d); None for a single chunk.

    ``last`` and ``first`` (B, G, k, d) are the products within the chunks, at their last and first points.
    """
    if last.shape[-2] == 1:
        return None
    sums = lower_product(kernel.ends, torch.stack([last, first.flip(-2)], dim=-3), kernel.tau)  # (B, G, 2, k, d)
    carries = last.new_zeros(*last.shape[:-1], 2, last.shape[-1])
    carries[..., 1:, 0, :] = sums[..., 0, :-1, :]
    carries[..., :-1, 1, :] = sums[..., 1, :, :].flip(-2)[..., 1:, :]
    return carries


def _slope(kernel: Kernel, g: Image, x: Image) -> Tensor:
    """sum_j M_ji - sum_j M_ij with signs by rank, (B, G, k c)."""
    left, right = _split(g.x), _split(x.x)
    pairs = (left @ right.mT).mul_(kernel.inside)  # (B, G, k, c, c)
    sign = pairs.new_ones(pairs.shape[-2:]).tril_(-1)
    pairs *= sign - sign.mT
    slope = pairs.sum(-2) - pairs.sum(-1)  # (B, G, k, c)
    if g.carries is not None and x.carries is not None:
        carried = (left @ x.carries.mT).add_(right @ g.carries.mT).mul_(kernel.into)  # (B, G, k, c, 2)
        slope += carried[..., 1] - carried[..., 0]
    return slope.flatten(-2)


def _split(x: Tensor) -> Tensor:
    """x (B, G, n, d) in the chunks of a kernel, (B, G, k, c, d)."""
    return _chunks(x, -2) if x.shape[-2] > ONE_CHUNK else x[..., None, :, :]


def _chunks(x: Tensor, dim: int, fill: Tensor | None = None) -> Tensor:
    """``dim`` cut into whole chunks, the last one completed with zeros or with ``fill``."""
    missing = -x.shape[dim] % CHUNK
    if missing:
        size = list(x.shape)
        size[dim] = missing
        x = torch.cat([x, x.new_zeros(size) if fill is None else fill.expand(size)], dim=dim)
    return torch.unflatten(x, dim, (-1, CHUNK))
