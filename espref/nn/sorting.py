r"""Soft sorts of many tokens along many slices, kept as diag(left) K diag(right) Pi and never as matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .scan import Kernel, apply, gauss, laplace

SORTS = ("soft", "balanced", "hard")
MAX_ROUNDS = 100


class Options(NamedTuple):
    sort: str
    power: int
    query_real: Tensor | None  # (B, N) true where the token is real; None: all are
    key_real: Tensor | None  # (B, M)


class Sorter(NamedTuple):
    """A soft sort diag(left) K diag(right) Pi, for G slices at once."""

    order: Tensor  # (B, G, N)
    ordered: Tensor  # (B, G, N) sorted scores
    left: Tensor  # (B, G, N)
    right: Tensor | None  # (B, G, N); None: ones
    tau: Tensor | None
    kernel: Kernel | Tensor | None  # Laplace; Gauss, dense (B, G, N, N); None: the identity

    def product(self, x: Tensor) -> Tensor:
        """K x, ranks to ranks, (B, G, N, E)."""
        if self.kernel is None:
            return x
        if isinstance(self.kernel, Tensor):
            return self.kernel @ x
        flat = apply(self.kernel, self.ordered.flatten(0, 1), self.tau, x.flatten(0, 1))
        return flat.unflatten(0, x.shape[:2])

    def ranked(self, x: Tensor) -> Tensor:
        """right * (Pi x): points (B, 1, N, E) to ranks (B, G, N, E)."""
        x = _Rows.apply(x, self.order)
        return x if self.right is None else self.right[..., None] * x

    def unranked(self, x: Tensor) -> Tensor:
        """Pi^T (right * x): ranks (B, G, N, E) to points (B, G, N, E)."""
        return _Rows.apply(x if self.right is None else self.right[..., None] * x, _inverse(self.order))


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """Row order[b, g, i] of x[b, g], (B, G, N, E), for x (B, G or 1, N, E); contiguous rows are copied whole."""
    batch, slices, n = order.shape
    start = torch.arange(batch * x.shape[1], device=x.device).view(batch, x.shape[1], 1) * n
    return x.flatten(0, 2).index_select(0, (order + start).flatten()).view(batch, slices, n, x.shape[-1])


class _Rows(torch.autograd.Function):
    """:func:`_rows` for permutations: the gradient is the inverse permutation, no atomic addition."""

    @staticmethod
    def forward(ctx, x, order):
        ctx.save_for_backward(order)
        ctx.shared = x.shape[1] == 1 < order.shape[1]
        return _rows(x, order)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (order,) = ctx.saved_tensors
        g = _rows(g.contiguous(), _inverse(order))
        return g.sum(1, keepdim=True) if ctx.shared else g, None


def scores(x: Tensor, directions: Tensor) -> Tensor:
    """<theta, x>, (B, G, N). A matrix product may round equal tokens differently; summed row by row they tie."""
    return (x[:, None] * directions[:, None]).sum(-1)


def soft_sort(
    s: Tensor, x: Tensor, squares: Tensor, real: Tensor | None, tau: Tensor | None, options: Options
) -> tuple[Sorter, Tensor, Tensor]:
    """The soft sorts of scores s (B, G, N), K (right * Pi x) (B, G, N, E) for x (B, N, E), and 1^T P squares (B, G) for
    squares (B, N).

    Padded tokens stand behind the real ones, and carry nothing.
    """
    keys = s.detach() if real is None else s.detach().masked_fill(~real[:, None], torch.inf)
    order = keys.argsort(dim=-1, stable=True)
    ordered = s.gather(-1, order)
    mask = torch.ones_like(ordered)
    if real is not None:
        mask = real[:, None].expand_as(s).gather(-1, order).to(s.dtype)
        top = ordered.detach().masked_fill(mask == 0, -torch.inf).amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
        behind = torch.arange(1, s.shape[-1] + 1, device=s.device) * (top.abs() + 1)  # apart: ties would cost time
        ordered = torch.where(mask > 0, ordered, top + behind)
    kernel: Kernel | Tensor | None = None
    if tau is not None and options.power == 2:
        kernel = gauss(ordered, tau)
    elif tau is not None or ((ordered[..., 1:] == ordered[..., :-1]) & (mask[..., 1:] > 0)).any():
        kernel = laplace(ordered.flatten(0, 1), tau)
    sort = Sorter(order, ordered, mask, None if real is None else mask, tau, kernel)
    if options.sort == "balanced":
        d = _balance(sort, mask)
        total = squares.sum(-1, keepdim=True) if real is None else (squares * real).sum(-1, keepdim=True)
        sort = sort._replace(left=d, right=d)
        return sort, sort.product(sort.ranked(x[:, None])), total.expand(-1, s.shape[1])
    ones = torch.ones_like(squares)  # with x in one product: each builds sums that the backward goes through again
    image = sort.product(sort.ranked(torch.cat([torch.stack([ones, squares], dim=-1), x], dim=-1)[:, None]))
    sums, image = image.split([2, x.shape[-1]], dim=-1)
    masses, moments = sums.unbind(-1)
    left = mask / torch.where(mask > 0, masses, torch.ones_like(mask))
    return sort._replace(left=left), image, (left * moments).sum(-1)


def _balance(sort: Sorter, mask: Tensor) -> Tensor:
    """d > 0 on real tokens with d * (K d) = 1, differentiable: by the implicit function theorem the gradient of log d
    passes through (I + S)^{-1} with S = diag(d) K diag(d), solved by conjugate gradients (condition at most 2)."""
    kernel = sort.kernel.detach() if isinstance(sort.kernel, Tensor) else sort.kernel
    tau = None if sort.tau is None else sort.tau.detach()
    fixed = sort._replace(ordered=sort.ordered.detach(), tau=tau, kernel=kernel)
    tolerance = 1e-13 if mask.dtype == torch.float64 else 2e-6
    with torch.no_grad():
        d = mask / mask.sum(dim=-1, keepdim=True).clamp(min=1).sqrt()
        for _ in range(MAX_ROUNDS):
            image = fixed.product(d[..., None])[..., 0]
            if (((d * image - 1) * mask).abs() <= tolerance).all():
                break
            d = torch.where(mask > 0, (d / torch.where(mask > 0, image, 1.0)).sqrt(), 0.0)
        else:
            raise RuntimeError(f"balanced soft sort: no convergence in {MAX_ROUNDS} rounds")
    image = sort.product(d[..., None])[..., 0]
    error = torch.where(mask > 0, (d * image).clamp(min=1e-30), 1.0).log()

    if not error.requires_grad:
        return d

    def solve(gradient: Tensor) -> Tensor:
        with torch.no_grad():
            return _conjugate_gradients(lambda z: z + d * fixed.product((d * z)[..., None])[..., 0], gradient * mask)

    error.register_hook(solve)
    return d * torch.exp(-(error - error.detach()))


def _conjugate_gradients(apply, b: Tensor) -> Tensor:
    """Solve a symmetric system with eigenvalues in [1, 2]; the error falls by (sqrt 2 - 1)^2 a round at worst, so that
    it is below rounding after so many."""
    rounds = 24 if b.dtype == torch.float64 else 11
    x, r = torch.zeros_like(b), b
    p, rr = r, (r * r).sum(-1, keepdim=True)
    for _ in range(rounds):
        image = apply(p)
        step = rr / (p * image).sum(-1, keepdim=True).clamp(min=torch.finfo(b.dtype).tiny)
        x, r = x + step * p, r - step * image
        old, rr = rr, (r * r).sum(-1, keepdim=True)
        p = r + rr / old.clamp(min=torch.finfo(b.dtype).tiny) * p
    return x
