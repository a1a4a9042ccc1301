"""The one optimised place: the sort kernel applied to sorted scores in linear time.

For the Laplace kernel, K x at a chunk of sorted points is a small dense product inside the chunk, plus what the chunks
before and behind it carry in. The carries are one-sided sums of the same kind over chunk ends, and recurse. Every
exponent is <= 0, so nothing overflows at any tau. A kernel is built once and applied to many x; its gradient with
respect to the scores needs the same sums, and is written down rather than recorded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Points in a chunk.
CHUNK = 16
#: Points up to which all are one chunk: that is less work than two chunks, filled up, and what they carry.
WHOLE = 2 * CHUNK


class Kernel(NamedTuple):
    """K_ij = exp(-|s_i - s_j| / tau) for ascending s, ready to be applied: k chunks of c points."""

    inside: Tensor  # (B, k, c, c)  within the chunks
    into: Tensor  # (B, k, c, 2)  decay from the last point of the chunk before, from the first of the chunk behind
    ends: Tensor  # (2, B, k)  last points, and first points read backwards: where the carries are summed
    tau: Tensor | None


def damping(distance: Tensor, tau: Tensor | None) -> Tensor:
    """exp(-distance / tau), a new tensor; without tau (the hard limit) the indicator of equal scores.

    What is far below rounding is zero: denormal numbers would slow down everything after.
    """
    if tau is None:
        return (distance <= 0).to(distance.dtype)
    least = torch.finfo(distance.dtype).tiny ** 0.75
    return torch.nn.functional.threshold(distance.div(-tau).exp_(), least, 0.0, inplace=True)


def _chunks(x: Tensor, dim: int, fill: Tensor | None = None) -> Tensor:
    """``dim`` split in whole chunks, filled up with zeros or with ``fill``."""
    missing = -x.shape[dim] % CHUNK
    if missing:
        size = list(x.shape)
        size[dim] = missing
        x = torch.cat([x, x.new_zeros(size) if fill is None else fill.expand(size)], dim=dim)
    return x.unflatten(dim, (-1, CHUNK))


def lower(s: Tensor, x: Tensor, tau: Tensor | None) -> Tensor:
    """y_i = sum_{j <= i} exp(-(s_i - s_j) / tau) x_j for ascending s (..., n) and x (..., n, d)."""
    n = s.shape[-1]
    if n <= WHOLE:
        return damping((s[..., :, None] - s[..., None, :]).clamp_(min=0), tau).tril_() @ x
    points, values = _chunks(s, -1, s[..., -1:]), _chunks(x, -2)
    inside = damping((points[..., :, None] - points[..., None, :]).clamp_(min=0), tau).tril_() @ values
    carried = lower(points[..., -1], inside[..., -1, :], tau)  # (..., k, d)
    into = damping(points[..., 1:, :] - points[..., :-1, -1:], tau)  # (..., k - 1, c)
    inside[..., 1:, :, :] += into[..., None] * carried[..., :-1, None, :]
    return inside.flatten(-3, -2)[..., :n, :]


def laplace(s: Tensor, tau: Tensor | None) -> Kernel:
    """The kernel of ascending s (B, n), as a constant."""
    s, tau = s.detach(), None if tau is None else tau.detach()
    points = _chunks(s, -1, s[..., -1:]) if s.shape[-1] > WHOLE else s[..., None, :]  # (B, k, c)
    inside = damping((points[..., :, None] - points[..., None, :]).abs_(), tau)
    into = s.new_zeros(*points.shape, 2)
    into[..., 1:, :, 0] = damping(points[..., 1:, :] - points[..., :-1, -1:], tau)
    into[..., :-1, :, 1] = damping(points[..., 1:, :1] - points[..., :-1, :], tau)
    return Kernel(inside, into, torch.stack([points[..., -1], -points[..., 0].flip(-1)]), tau)


def _split(kernel: Kernel, x: Tensor) -> Tensor:
    """x (B, n, d) in the chunks of a kernel, (B, k, c, d)."""
    return _chunks(x, -2) if x.shape[-2] > WHOLE else x[..., None, :, :]


def product(kernel: Kernel, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """K x for x (B, n, d), and the carries (B, k, 2, d) that come into each chunk: O(n d) time and memory."""
    inside = kernel.inside @ _split(kernel, x)  # (B, k, c, d)
    carries = _carries(kernel, inside[..., -1, :], inside[..., 0, :])
    if carries is not None:
        inside.flatten(0, -3).baddbmm_(kernel.into.flatten(0, -3), carries.flatten(0, -3))
    return inside.flatten(-3, -2)[..., : x.shape[-2], :], carries


def _carries(kernel: Kernel, last: Tensor, first: Tensor) -> Tensor | None:
    """What comes into each chunk from before and from behind, (B, k, 2, d), from K x inside at its ends (B, k, d)."""
    if last.shape[-2] == 1:
        return None
    before, behind = lower(kernel.ends, torch.stack([last, first.flip(-2)]), kernel.tau)
    carries = last.new_zeros(*last.shape[:-1], 2, last.shape[-1])
    carries[..., 1:, 0, :] = before[..., :-1, :]
    carries[..., :-1, 1, :] = behind.flip(-2)[..., 1:, :]
    return carries


def _only_carries(kernel: Kernel, x: Tensor) -> Tensor | None:
    ends = kernel.inside[..., [-1, 0], :] @ _split(kernel, x)  # (B, k, 2, d)
    return _carries(kernel, ends[..., 0, :], ends[..., 1, :])


class _Apply(torch.autograd.Function):
    """K x with gradients to s, tau and x.

    With F = sum_ij g_i . x_j K_ij and M_ij = sign(s_i - s_j) K_ij g_i . x_j, dF/ds_i = sum_j (M_ji - M_ij) / tau, and
    tau dF/dtau = -sum_i s_i dF/ds_i, because K depends on s / tau. Tied pairs count nothing: the symmetric derivative.
    """

    @staticmethod
    def forward(ctx, s, tau, x, *kernel):
        y, carries = product(Kernel(*kernel), x)
        ctx.save_for_backward(s, x, carries, *kernel)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        s, x, carries, *tensors = ctx.saved_tensors
        kernel = Kernel(*tensors)
        into_x, g_carries = product(kernel, g) if ctx.needs_input_grad[2] else (None, _only_carries(kernel, g))
        if kernel.tau is None or not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return None, None, into_x, *(None,) * len(tensors)
        ties = laplace(s, None) if (s[..., 1:] == s[..., :-1]).any() else None
        if ties is None:
            slope = _slope(kernel, (g, g_carries), (x, carries))
        else:
            strict = kernel._replace(inside=kernel.inside - ties.inside)
            slope = _slope(strict, (g, g_carries), (x, carries))
            outside = ties._replace(inside=torch.zeros_like(ties.inside))
            slope -= _slope(outside, (g, _only_carries(ties, g)), (x, _only_carries(ties, x)))
        slope = slope[..., : s.shape[-1]] / kernel.tau
        centred = s - s.mean(dim=-1, keepdim=True)
        return slope, -(centred * slope).sum() / kernel.tau, into_x, *(None,) * len(tensors)


def _slope(kernel: Kernel, left: tuple[Tensor, Tensor | None], right: tuple[Tensor, Tensor | None]) -> Tensor:
    """sum_j M_ji - sum_j M_ij with signs by rank, (B, k c), from both factors (B, n, d) and their carries."""
    g, x = _split(kernel, left[0]), _split(kernel, right[0])
    pairs = (g @ x.mT).mul_(kernel.inside)  # (B, k, c, c)
    sign = torch.ones_like(kernel.inside[:1, :1]).tril(-1)
    pairs *= sign - sign.mT
    slope = pairs.sum(-2) - pairs.sum(-1)  # (B, k, c)
    if left[1] is not None and right[1] is not None:
        carried = (g @ right[1].mT).add_(x @ left[1].mT).mul_(kernel.into)  # (B, k, c, 2)
        slope += carried[..., 1] - carried[..., 0]
    return slope.flatten(-2)


def apply(kernel: Kernel, s: Tensor, tau: Tensor | None, x: Tensor) -> Tensor:
    """K x for the kernel built from s (B, n), x (B, n, d); differentiable in s, tau and x."""
    return _Apply.apply(s, tau, x, *kernel)


def gauss(s: Tensor, tau: Tensor) -> Tensor:
    """K_ij = exp(-(s_i - s_j)^2 / tau) of s (..., n): dense, O(n^2) time and memory."""
    rate = torch.exp(-tau.log() / 2)  # the derivative of a power would overflow at tiny tau
    return torch.exp(-((s[..., :, None] - s[..., None, :]) * rate).square())
