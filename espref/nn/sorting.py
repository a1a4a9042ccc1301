r"""Soft sorts of many tokens along many slices, held as diag(left) K diag(right) Pi and never as matrices.

:func:`factored_sort` makes them. A balanced sort solves an equation for its factors; :class:`BalancedScaling` holds
the gradient of the solution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .scan import Kernel, apply_kernel, gauss_kernel, laplace_kernel

SORTS = ("soft", "balanced", "hard")
#: Rounds of the balanced scaling before it is given up.
MAX_ROUNDS = 100


class Options(NamedTuple):
    """What is sorted how, and which tokens are not padding."""

    sort: str
    power: int
    query_valid: Tensor | None  # (B, N)  None: all of them
    key_valid: Tensor | None  # (B, M)


class SoftSort(NamedTuple):
    """Soft permutations P = diag(left) K diag(right) Pi of G slices, held by their factors.

    The methods leave ``left`` out: the caller multiplies by it where that takes less work.
    """

    order: Tensor  # (B, G, N)
    ordered: Tensor  # (B, G, N)  sorted scores
    left: Tensor  # (B, G, N)
    right: Tensor | None  # (B, G, N)  None: ones
    tau: Tensor | None  # None: the hard limit
    kernel: Kernel | Tensor | None  # Laplace; Gauss, dense (B, G, N, N); None: the identity

    def apply_kernel(self, x: Tensor) -> Tensor:
        """K x: ranks to ranks, (B, G, N, E)."""
        if self.kernel is None:
            return x
        if isinstance(self.kernel, Tensor):
            return self.kernel @ x
        flat = apply_kernel(self.kernel, self.ordered.flatten(0, 1), self.tau, x.flatten(0, 1))
        return flat.view(x.shape)

    def apply_unscaled(self, x: Tensor) -> Tensor:
        """diag(1 / left) P x: points (B, 1, N, E) to ranks (B, G, N, E)."""
        x = permute_rows(x, self.order)
        return self.apply_kernel(x if self.right is None else self.right[..., None] * x)

    def transpose_unscaled(self, x: Tensor) -> Tensor:
        """P^T diag(1 / left) x: ranks (B, G, N, E) to points (B, G, N, E)."""
        x = self.apply_kernel(x)
        return permute_rows(x if self.right is None else self.right[..., None] * x, inverse(self.order))


class SortedTokens(NamedTuple):
    """A soft sort with its image of the tokens, which is computed along with the row sums."""

    sort: SoftSort
    image: Tensor  # (B, G, N, E)  diag(1 / left) P x
    squares: Tensor  # (B, G)  1^T P |x|^2


def factored_sort(
    s: Tensor, x: Tensor, squares: Tensor, valid: Tensor | None, tau: Tensor | None, options: Options
) -> SortedTokens:
    """The soft sorts of scores s (B, G, N), applied to x (B, N, E) and to squares (B, N).

    Padded tokens stand behind the valid ones and carry no mass: left and right are zero there. Without tau, sorts are
    hard: K is the indicator of equal scores.
    """
    keys = s.detach() if valid is None else s.detach().masked_fill(~valid[:, None], torch.inf)
    order = keys.argsort(dim=-1, stable=True)
    ordered, mask = _sorted_scores(s, order, valid)
    right = None if valid is None else mask
    sort = SoftSort(order, ordered, mask, right, tau, _kernel(ordered, mask, tau, options.power))
    if options.sort == "balanced":
        d = balanced_scaling(sort, mask)
        sort = sort._replace(left=d, right=d)
        total = squares.sum(-1, keepdim=True) if valid is None else (squares * valid).sum(-1, keepdim=True)
        return SortedTokens(sort, sort.apply_unscaled(x[:, None]), total.expand(-1, s.shape[1]))
    # Row sums, squares and x go through one product: each product builds sums that the backward goes through again.
    columns = torch.cat([torch.stack([torch.ones_like(squares), squares], dim=-1), x], dim=-1)
    image = sort.apply_unscaled(columns[:, None])
    sums, image = torch.split(image, [2, x.shape[-1]], dim=-1)
    row_sums, moments = sums.unbind(-1)
    left = mask / torch.where(mask > 0, row_sums, torch.ones_like(mask))
    return SortedTokens(sort._replace(left=left), image, (left * moments).sum(-1))


def _sorted_scores(s: Tensor, order: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores in order, and 1.0 for valid ranks, 0.0 for padding; both (B, G, N)."""
    ordered = s.gather(-1, order)
    if valid is None:
        return ordered, torch.ones_like(ordered)
    mask = valid[:, None].expand_as(s).gather(-1, order).to(s.dtype)
    top = ordered.detach().masked_fill(mask == 0, -torch.inf).amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
    behind = torch.arange(1, s.shape[-1] + 1, device=s.device) * (top.abs() + 1)  # distinct: ties are slower
    return torch.where(mask > 0, ordered, top + behind), mask


def _kernel(ordered: Tensor, mask: Tensor, tau: Tensor | None, power: int) -> Kernel | Tensor | None:
    if tau is not None and power == 2:
        return gauss_kernel(ordered, tau)
    if tau is not None or ((ordered[..., 1:] == ordered[..., :-1]) & (mask[..., 1:] > 0)).any():
        return laplace_kernel(ordered.flatten(0, 1), tau)
    return None  # a hard sort without ties


def balanced_scaling(sort: SoftSort, mask: Tensor) -> Tensor:
    """The d (B, G, N), > 0 on valid ranks, with d * (K d) = 1, differentiable in K.

    Damped iteration d <- sqrt(d / (K d)); the error in log d at least halves every round.

    Raises
    ------
    RuntimeError
        When the rows are not balanced after 100 rounds.
    """
    constant = _detached(sort)
    tolerance = 1e-13 if mask.dtype == torch.float64 else 2e-6
    with torch.no_grad():
        d = mask / mask.sum(dim=-1, keepdim=True).clamp(min=1).sqrt()
        for _ in range(MAX_ROUNDS):
            image = constant.apply_kernel(d[..., None])[..., 0]
            if (((d * image - 1) * mask).abs() <= tolerance).all():
                break
            d = torch.where(mask > 0, (d / torch.where(mask > 0, image, 1.0)).sqrt(), 0.0)
        else:
            raise RuntimeError(f"balanced soft sort: no convergence in {MAX_ROUNDS} rounds")
    if not torch.is_grad_enabled():
        return d
    image = sort.apply_kernel(d[..., None])[..., 0]
    residual = torch.where(mask > 0, (d * image).clamp(min=1e-30), 1.0).log()  # zero, with the derivatives of K
    implicit: Callable[..., Tensor] = BalancedScaling.apply
    return implicit(residual, d, mask, constant)


def _detached(sort: SoftSort) -> SoftSort:
    kernel = sort.kernel.detach() if isinstance(sort.kernel, Tensor) else sort.kernel
    tau = None if sort.tau is None else sort.tau.detach()
    return sort._replace(ordered=sort.ordered.detach(), tau=tau, kernel=kernel)


class BalancedScaling(torch.autograd.Function):
    r"""The solution d > 0 of d * (K d) = 1 as an implicit function of the symmetric matrix K.

    With u = log d, the residual r(u, K) = log(d * (K d)) vanishes at the solution. There dr/du = I + S with
    S = diag(d) K diag(d), whose spectrum lies in [0, 1], and the implicit function theorem gives

    $$\mathrm{d} u = -(I + S)^{-1}\, \partial_K r\, \mathrm{d} K, \qquad
    \bar r = -(I + S)^{-1} (d \odot \bar d),$$

    where a bar is the gradient of what stands under it. Forward returns d. Backward returns the gradient of the
    residual, computed at constant d, through which autograd goes on to K.
    """

    @staticmethod
    def forward(ctx: Any, residual: Tensor, d: Tensor, mask: Tensor, sort: SoftSort) -> Tensor:
        ctx.save_for_backward(d, mask)
        ctx.sort = sort
        return d.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d, mask = ctx.saved_tensors
        sort: SoftSort = ctx.sort

        def identity_plus_s(z: Tensor) -> Tensor:
            image: Tensor = d * sort.apply_kernel((d * z)[..., None])[..., 0]
            return z + image

        return -conjugate_gradients(identity_plus_s, d * gradient * mask), None, None, None


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    """The solution of a symmetric system with eigenvalues in [1, 2], given as a function ``apply``.

    The error falls by a factor of at least (sqrt 2 + 1)^2 every round, so that it is below rounding after these.
    """
    rounds = 24 if b.dtype == torch.float64 else 11
    x, residual = torch.zeros_like(b), b
    direction, square = residual, (residual * residual).sum(-1, keepdim=True)
    for _ in range(rounds):
        image = apply(direction)
        step = square / (direction * image).sum(-1, keepdim=True).clamp(min=torch.finfo(b.dtype).tiny)
        x, residual = x + step * direction, residual - step * image
        old, square = square, (residual * residual).sum(-1, keepdim=True)
        direction = residual + square / old.clamp(min=torch.finfo(b.dtype).tiny) * direction
    return x


def scores(x: Tensor, directions: Tensor) -> Tensor:
    """<theta, x>, (B, G, N), summed row by row: a matrix product may round equal tokens differently."""
    return (x[:, None] * directions[:, None]).sum(-1)


def inverse(order: Tensor) -> Tensor:
    """The inverse of permutations (B, G, N)."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def permute_rows(x: Tensor, order: Tensor) -> Tensor:
    """Row order[b, g, i] of x[b, g], (B, G, N, E), for x (B, G or 1, N, E) and permutations (B, G, N)."""
    apply: Callable[..., Tensor] = _PermuteRows.apply
    return apply(x, order)


class _PermuteRows(torch.autograd.Function):
    """Its gradient is the inverse permutation, which needs no atomic addition."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        ctx.shared = x.shape[1] == 1 < order.shape[1]
        return _take_rows(x, order)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        gradient = _take_rows(gradient.contiguous(), inverse(order))
        return gradient.sum(1, keepdim=True) if ctx.shared else gradient, None


def _take_rows(x: Tensor, order: Tensor) -> Tensor:
    """Contiguous rows are copied whole."""
    batch, slices, n = order.shape
    start = torch.arange(batch * x.shape[1], device=x.device).view(batch, x.shape[1], 1) * n
    return x.flatten(0, 2).index_select(0, (order + start).flatten()).view(batch, slices, n, x.shape[-1])
