r"""Soft sorts of many tokens along many slices, held as diag(left) K diag(right) Pi and never as matrices.

:func:`soft_sort` makes them, :class:`SortedTokens` is one with its image of the tokens. All gradients are written out:
they are needed within a custom operator, where autograd records nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .scan import Image, Kernel, laplace_kernel, may_be_tied, score_gradient

SORTS = ("soft", "balanced", "hard")
#: Rounds of the balanced scaling before it is given up.
MAX_ROUNDS = 100


class SoftSort(NamedTuple):
    """Soft permutations P = diag(left) K diag(right) Pi of G slices, held by their factors."""

    order: Tensor  # (B, G, N)
    ordered: Tensor  # (B, G, N)  sorted scores
    mask: Tensor  # (B, G, N)  1.0 for valid ranks, 0.0 for padding
    tau: Tensor | None  # (B,)  None: the hard limit
    kernel: Kernel | Tensor | None  # Laplace; Gauss, dense (B, G, N, N); None: the identity

    def product(self, x: Tensor, columns: int | None = None) -> Image:
        """K x: ranks to ranks, (B, G, N, E), or its first columns."""
        if self.kernel is None:
            return Image(x, x[..., :columns], None)
        if isinstance(self.kernel, Tensor):
            return Image(x, self.kernel @ x[..., :columns], None)
        return self.kernel.product(x, columns)

    def gradient(self, g: Image, x: Image) -> tuple[Tensor, Tensor]:
        """The gradients of <g, K x> to the sorted scores, (B, G, N), and to tau, (B,)."""
        if self.tau is None or self.kernel is None:
            return torch.zeros_like(self.ordered), self.ordered.new_zeros(len(self.ordered))
        if isinstance(self.kernel, Tensor):
            rate = _rate(self.tau)
            gaps = (self.ordered[..., :, None] - self.ordered[..., None, :]).mul_(rate).clamp_(-1e4, 1e4)
            pairs = (g.x @ x.x.mT).mul_(self.kernel).mul_(gaps)  # (B, G, N, N)
            slope = -2 * (pairs.sum(-1) - pairs.sum(-2)) * rate[..., 0]
            return slope, (pairs * gaps).sum((1, 2, 3)) / self.tau
        slope = score_gradient(self.kernel, self.ordered, g, x)
        centred = self.ordered - self.ordered.mean(dim=-1, keepdim=True)
        return slope, -(centred * slope).sum((1, 2)) / self.tau


def soft_sort(s: Tensor, valid: Tensor | None, tau: Tensor | None, power: int) -> SoftSort:
    """Scores s (B, G, N) in order, and their kernel. Padded tokens stand behind the valid ones.

    Without tau (B,), sorts are hard: K is the indicator of equal scores.
    """
    order = (s if valid is None else s.masked_fill(~valid[:, None], torch.inf)).argsort(dim=-1, stable=True)
    ordered = s.gather(-1, order)
    mask = torch.ones_like(ordered)
    if valid is not None:
        mask = valid[:, None].expand_as(s).gather(-1, order).to(s.dtype)
        top = ordered.masked_fill(mask == 0, -torch.inf).amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
        behind = torch.arange(1, s.shape[-1] + 1, device=s.device) * (top.abs() + 1)  # distinct: ties are slower
        ordered = torch.where(mask > 0, ordered, top + behind)
    kernel: Kernel | Tensor | None = None
    if tau is not None and power == 2:
        kernel = gauss_kernel(ordered, tau)
    elif tau is not None or may_be_tied(ordered):
        kernel = laplace_kernel(ordered, tau)
    return SoftSort(order, ordered, mask, tau, kernel)


def gauss_kernel(s: Tensor, tau: Tensor) -> Tensor:
    """K_ij = exp(-(s_i - s_j)^2 / tau) of s (B, G, n): dense, O(n^2) time and memory."""
    return (s[..., :, None] - s[..., None, :]).mul_(_rate(tau)).square_().neg_().exp_()


def _rate(tau: Tensor) -> Tensor:
    """tau^(-1/2), (B, 1, 1, 1), also where 1 / tau overflows."""
    return torch.exp(-tau.log() / 2)[:, None, None, None]


class TokenGradients(NamedTuple):
    """The gradients of a loss to what :func:`sort_tokens` took."""

    tokens: Tensor  # (B, N, E)
    squares: Tensor  # (B, N)
    scores: Tensor  # (B, G, N)
    tau: Tensor  # (B,)


class SortedTokens(NamedTuple):
    """A soft sort with what it makes of the tokens x and of one more number for each of them."""

    sort: SoftSort
    balanced: bool
    left: Tensor  # (B, G, N)  zero for padding, and so is right
    right: Tensor | None  # (B, G, N)  None: ones
    image: Image  # of right * Pi x; of right * Pi [1, squares, x] unless balanced
    squares: Tensor  # (B, G)  1^T P squares

    @property
    def value(self) -> Tensor:
        """diag(1 / left) P x, (B, G, N, E)."""
        return self.image.value if self.balanced else self.image.value[..., 2:]

    def transpose(self, x: Tensor) -> Tensor:
        """P^T diag(1 / left) x: ranks (B, G, N, E) to points (B, G, N, E)."""
        return self._to_points(self.sort.product(x).value)

    def backward(self, image: Tensor, left: Tensor, squares: Tensor, columns: int) -> TokenGradients:
        """From the gradients to ``value`` (B, G, N, E), ``left`` (B, G, N) and ``squares`` (B, G).

        At least to the first columns of the tokens.
        """
        if self.balanced:
            return self._balanced_backward(image, left, squares)
        left = left + squares[..., None] * self.image.value[..., 1]
        head = torch.stack([-left * self.left.square(), squares[..., None] * self.left], dim=-1)  # (B, G, N, 2)
        g = self.sort.product(torch.cat([head, image], dim=-1), 2 + columns)
        slope, tau = self.sort.gradient(g, self.image)
        points = self._to_points(g.value).sum(1)  # (B, N, 2 + E)
        return TokenGradients(points[..., 2:], points[..., 1], permute_back(slope, self.sort.order), tau)

    def _balanced_backward(self, image: Tensor, left: Tensor, squares: Tensor) -> TokenGradients:
        g = self.sort.product(image)
        slope, tau = self.sort.gradient(g, self.image)
        along = self.left * left + (g.value * self.image.x).sum(-1)  # d times the gradient to d
        slope_of_d, tau_of_d = scaling_gradient(self.sort, self.left, along)
        total = squares.sum(1, keepdim=True).expand(-1, self.left.shape[-1])
        scores = permute_back(slope + slope_of_d, self.sort.order)
        return TokenGradients(self._to_points(g.value).sum(1), total, scores, tau + tau_of_d)

    def _to_points(self, x: Tensor) -> Tensor:
        """Pi^T diag(right) x."""
        return permute_rows(x if self.right is None else self.right[..., None] * x, inverse(self.sort.order))


def sort_tokens(
    s: Tensor, x: Tensor, squares: Tensor, valid: Tensor | None, tau: Tensor | None, sort: str, power: int
) -> SortedTokens:
    """The soft sorts of scores s (B, G, N), applied to x (B, N, E) and to squares (B, N), both zero for padding."""
    soft = soft_sort(s, valid, tau, power)
    if sort == "balanced":
        d = balanced_scaling(soft)
        image = soft.product(d[..., None] * permute_rows(x[:, None], soft.order))
        return SortedTokens(soft, True, d, d, image, squares.sum(-1, keepdim=True).expand(-1, s.shape[1]))
    # Row sums, squares and x go through one product.
    columns = torch.cat([torch.stack([torch.ones_like(squares), squares], dim=-1), x], dim=-1)
    columns = permute_rows(columns[:, None], soft.order)
    right = None if valid is None else soft.mask
    image = soft.product(columns if right is None else right[..., None] * columns)
    row_sums, moments = image.value[..., 0], image.value[..., 1]
    left = soft.mask / (row_sums if valid is None else torch.where(soft.mask > 0, row_sums, 1.0))
    return SortedTokens(soft, False, left, right, image, (left * moments).sum(-1))


def balanced_scaling(sort: SoftSort) -> Tensor:
    """The d (B, G, N), > 0 on valid ranks and 0 for padding, with d * (K d) = 1.

    Damped iteration d <- sqrt(d / (K d)); near the fixed point the error in log d at least halves every round. Items
    with NaN stay NaN, and the others do not wait for them.

    Raises
    ------
    RuntimeError
        When the rows are not balanced after 100 rounds.
    """
    mask = sort.mask
    tolerance = 1e-13 if mask.dtype == torch.float64 else 2e-6
    every = 1 if mask.device.type == "cpu" else 8  # elsewhere a question is a wait
    d = mask / mask.sum(dim=-1, keepdim=True).clamp(min=1).sqrt()
    for number in range(1, MAX_ROUNDS + every):
        image = sort.product(d[..., None]).value[..., 0]
        if number % every == 0 and not (((d * image - 1) * mask).abs() > tolerance).any():
            return d
        d = torch.where(mask > 0, (d / torch.where(mask > 0, image, 1.0)).sqrt(), 0.0)
    raise RuntimeError(f"balanced soft sort: no convergence in {MAX_ROUNDS} rounds")


def scaling_gradient(sort: SoftSort, d: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    r"""The gradients to sorted scores and to tau through the solution d > 0 of d * (K d) = 1.

    With u = log d, the residual r(u, K) = log(d * (K d)) vanishes at the solution. There dr/du = I + S with
    S = diag(d) K diag(d), whose spectrum lies in [0, 1], and the implicit function theorem gives

    $$\mathrm{d} u = -(I + S)^{-1}\, \partial_K r\, \mathrm{d} K, \qquad
    \bar r = -(I + S)^{-1} (d \odot \bar d),$$

    where a bar is the gradient of what stands under it; ``along`` (B, G, N) is d * d-bar.
    """

    def identity_plus_s(z: Tensor) -> Tensor:
        image: Tensor = d * sort.product((d * z)[..., None]).value[..., 0]
        return z + image

    residual = -conjugate_gradients(identity_plus_s, along * sort.mask)
    return sort.gradient(sort.product((d * residual)[..., None]), sort.product(d[..., None]))


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
    """Row order[b, g, i] of x[b, g], (B, G, N, E), for x (B, G or 1, N, E) and permutations (B, G, N).

    Contiguous rows are copied whole.
    """
    batch, slices, n = order.shape
    start = torch.arange(batch * x.shape[1], device=x.device).view(batch, x.shape[1], 1) * n
    return x.flatten(0, 2).index_select(0, (order + start).flatten()).view(batch, slices, n, x.shape[-1])


def permute_back(x: Tensor, order: Tensor) -> Tensor:
    """Numbers (B, G, N) at ranks to where the tokens stand."""
    return torch.empty_like(x).scatter_(-1, order, x)
