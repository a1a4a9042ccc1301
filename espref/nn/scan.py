"""The Laplace sort kernel applied to sorted scores in linear time: the one place that is optimised.

Sorted points are cut into chunks. K x at a chunk is a small dense product within the chunk, plus what is carried in
from the chunks before and behind it. The carries are one-sided sums of the same kind over the ends of the chunks, and
are computed by the same function, one level up. Every exponent is <= 0, so nothing overflows at any tau. A kernel is
built once and applied to many x; its gradient with respect to the scores needs the same sums, and is written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Points in a chunk.
CHUNK = 16
#: Number of points up to which all of them are one chunk: less work than two padded chunks and their carries.
ONE_CHUNK = 2 * CHUNK


class Kernel(NamedTuple):
    """K_ij = exp(-|s_i - s_j| / tau) for ascending s in k chunks of c points."""

    inside: Tensor  # (B, k, c, c)  within the chunks
    into: Tensor  # (B, k, c, 2)  decay from the last point of the chunk before, and from the first of the one behind
    ends: Tensor  # (2, B, k)  last points; first points, negated and read backwards: where carries are summed
    tau: Tensor | None


def decay(distance: Tensor, tau: Tensor | None) -> Tensor:
    """exp(-distance / tau), a new tensor; without tau (the hard limit) the indicator of equal scores.

    What is far below rounding is set to zero, because denormal numbers would slow down everything that follows.
    """
    if tau is None:
        return (distance <= 0).to(distance.dtype)
    least = torch.finfo(distance.dtype).tiny ** 0.75
    return torch.nn.functional.threshold(distance.div(-tau).exp_(), least, 0.0, inplace=True)


def lower_product(s: Tensor, x: Tensor, tau: Tensor | None) -> Tensor:
    """y_i = sum_{j <= i} exp(-(s_i - s_j) / tau) x_j for ascending s (..., n) and x (..., n, d)."""
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
    """The kernel of ascending s (B, n), as a constant."""
    s, tau = s.detach(), None if tau is None else tau.detach()
    points = _chunks(s, -1, s[..., -1:]) if s.shape[-1] > ONE_CHUNK else s[..., None, :]  # (B, k, c)
    inside = decay((points[..., :, None] - points[..., None, :]).abs_(), tau)
    into = s.new_zeros(*points.shape, 2)
    into[..., 1:, :, 0] = decay(points[..., 1:, :] - points[..., :-1, -1:], tau)
    into[..., :-1, :, 1] = decay(points[..., 1:, :1] - points[..., :-1, :], tau)
    return Kernel(inside, into, torch.stack([points[..., -1], -points[..., 0].flip(-1)]), tau)


def gauss_kernel(s: Tensor, tau: Tensor) -> Tensor:
    """K_ij = exp(-(s_i - s_j)^2 / tau) of s (..., n): dense, O(n^2) time and memory."""
    rate = torch.exp(-tau.log() / 2)  # the derivative of a power would overflow at tiny tau
    return torch.exp(-((s[..., :, None] - s[..., None, :]) * rate).square())


def apply_kernel(kernel: Kernel, s: Tensor, tau: Tensor | None, x: Tensor) -> Tensor:
    """K x for the kernel built from s (B, n), and x (B, n, d); differentiable in s, tau and x."""
    apply: Callable[..., Tensor] = _Apply.apply
    return apply(s, tau, x, *kernel)


class _Apply(torch.autograd.Function):
    """K x with gradients to s, tau and x.

    With F = sum_ij g_i . x_j K_ij and M_ij = sign(s_i - s_j) K_ij g_i . x_j, dF/ds_i = sum_j (M_ji - M_ij) / tau, and
    tau dF/dtau = -sum_i s_i dF/ds_i, because K depends on s / tau. Tied pairs contribute nothing: the derivative is the
    symmetric one.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, tau: Tensor | None, x: Tensor, *kernel: Any) -> Tensor:
        y, carries = _product(Kernel(*kernel), x)
        ctx.save_for_backward(s, x, carries, *kernel)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        s, x, carries, *tensors = ctx.saved_tensors
        kernel = Kernel(*tensors)
        x_gradient, g_carries = _product(kernel, g) if ctx.needs_input_grad[2] else (None, _carries_of(kernel, g))
        if kernel.tau is None or not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return None, None, x_gradient, *(None,) * len(tensors)
        ties = laplace_kernel(s, None) if (s[..., 1:] == s[..., :-1]).any() else None
        if ties is None:
            slope = _slope(kernel, (g, g_carries), (x, carries))
        else:
            strict = kernel._replace(inside=kernel.inside - ties.inside)
            slope = _slope(strict, (g, g_carries), (x, carries))
            across = ties._replace(inside=torch.zeros_like(ties.inside))
            slope -= _slope(across, (g, _carries_of(ties, g)), (x, _carries_of(ties, x)))
        slope = slope[..., : s.shape[-1]] / kernel.tau
        centred = s - s.mean(dim=-1, keepdim=True)
        return slope, -(centred * slope).sum() / kernel.tau, x_gradient, *(None,) * len(tensors)


def _product(kernel: Kernel, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """K x for x (B, n, d), and the carries (B, k, 2, d) that come into each chunk: O(n d) time and memory."""
    inside = kernel.inside @ _split(x)  # (B, k, c, d)
    carries = _carries(kernel, inside[..., -1, :], inside[..., 0, :])
    if carries is not None:
        inside.flatten(0, -3).baddbmm_(kernel.into.flatten(0, -3), carries.flatten(0, -3))
    return inside.flatten(-3, -2)[..., : x.shape[-2], :], carries


def _carries(kernel: Kernel, last: Tensor, first: Tensor) -> Tensor | None:
    """What comes into each chunk from before and from behind, (B, k, 2, d); None for a single chunk.

    ``last`` and ``first`` (B, k, d) are the products within the chunks, at their last and first points.
    """
    if last.shape[-2] == 1:
        return None
    before, behind = lower_product(kernel.ends, torch.stack([last, first.flip(-2)]), kernel.tau)
    carries = last.new_zeros(*last.shape[:-1], 2, last.shape[-1])
    carries[..., 1:, 0, :] = before[..., :-1, :]
    carries[..., :-1, 1, :] = behind.flip(-2)[..., 1:, :]
    return carries


def _carries_of(kernel: Kernel, x: Tensor) -> Tensor | None:
    """The carries of K x, for x (B, n, d), without K x itself."""
    ends = kernel.inside[..., [-1, 0], :] @ _split(x)  # (B, k, 2, d)
    return _carries(kernel, ends[..., 0, :], ends[..., 1, :])


def _slope(kernel: Kernel, left: tuple[Tensor, Tensor | None], right: tuple[Tensor, Tensor | None]) -> Tensor:
    """sum_j M_ji - sum_j M_ij with signs by rank, (B, k c), from both factors (B, n, d) and their carries."""
    (g, g_carries), (x, x_carries) = left, right
    g, x = _split(g), _split(x)
    pairs = (g @ x.mT).mul_(kernel.inside)  # (B, k, c, c)
    sign = torch.ones_like(kernel.inside[:1, :1]).tril(-1)
    pairs *= sign - sign.mT
    slope = pairs.sum(-2) - pairs.sum(-1)  # (B, k, c)
    if g_carries is not None and x_carries is not None:
        carried = (g @ x_carries.mT).add_(x @ g_carries.mT).mul_(kernel.into)  # (B, k, c, 2)
        slope += carried[..., 1] - carried[..., 0]
    return slope.flatten(-2)


def _split(x: Tensor) -> Tensor:
    """x (B, n, d) in the chunks of a kernel, (B, k, c, d)."""
    return _chunks(x, -2) if x.shape[-2] > ONE_CHUNK else x[..., None, :, :]


def _chunks(x: Tensor, dim: int, fill: Tensor | None = None) -> Tensor:
    """``dim`` cut into whole chunks, the last one completed with zeros or with ``fill``."""
    missing = -x.shape[dim] % CHUNK
    if missing:
        size = list(x.shape)
        size[dim] = missing
        x = torch.cat([x, x.new_zeros(size) if fill is None else fill.expand(size)], dim=dim)
    return torch.unflatten(x, dim, (-1, CHUNK))
