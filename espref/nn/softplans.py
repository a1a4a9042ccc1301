r"""Soft sorts of weighted clouds along many slices, held by their factors: the soft plans of :mod:`espref.nn.losses`.

Rank i of a cloud with weights a is $P_{ij} = \ell_i K_{ij} r_j$ of the points, K the sort kernel: $r = a$ and rows
normalised (SoftSort), or $r = d \odot a$ and $\ell = d$ with $d_i \sum_j K_{ij} a_j d_j = 1$ (balanced). With P and Q
the sorts of both clouds and A the monotone plan between the sorted weights, the soft plan is $P^\top A\, Q$.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clouds import Cloud
from .matching import Pieces, Ranked, by_rank, first_of_class, monotone_pieces, rows, shares
from .scan import Image, Kernel, laplace_kernel, score_gradient
from .sorting import conjugate_gradients, inverse, scores

#: Rounds of the balanced scaling before it is given up.
MAX_ROUNDS = 100


class Sorting(NamedTuple):
    """How clouds are sorted."""

    tau: Tensor  # ()
    power: int
    balanced: bool


class SortKernel(NamedTuple):
    """K_ij = exp(-|s_i - s_j|^power / tau) for ascending s, which may require a gradient, as may tau."""

    s: Tensor  # (B, L, n)
    how: Sorting
    constant: Kernel | Tensor  # K for the values of s and tau; the Gauss kernel is dense, (B, L, n, n)

    def product(self, x: Tensor) -> Tensor:
        """K x, (B, L, n, E), differentiable in s, tau and x."""
        if isinstance(self.constant, Tensor):
            return gauss_kernel(self.s, self.how.tau) @ x
        apply: Callable[..., Tensor] = _LaplaceProduct.apply
        return apply(self.s, self.how.tau, x, self.constant)

    def constant_product(self, x: Tensor) -> Tensor:
        """K x as a constant."""
        return self.constant @ x if isinstance(self.constant, Tensor) else self.constant.product(x).value


def sort_kernel(s: Tensor, how: Sorting) -> SortKernel:
    """The kernel of ascending s (B, L, n)."""
    s_value, tau = s.detach(), how.tau.detach()
    if how.power == 2:
        return SortKernel(s, how, gauss_kernel(s_value, tau))
    return SortKernel(s, how, laplace_kernel(s_value, tau.expand(len(s))))


def gauss_kernel(s: Tensor, tau: Tensor) -> Tensor:
    """K_ij = exp(-(s_i - s_j)^2 / tau), dense."""
    rate = torch.exp(-tau.log() / 2)  # the derivative of a power would overflow at tiny tau
    return torch.exp(-((s[..., :, None] - s[..., None, :]) * rate).square())


class _LaplaceProduct(torch.autograd.Function):
    """K x for the Laplace kernel. It depends on s / tau, and so the gradient in tau follows from that in s."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, tau: Tensor, x: Tensor, kernel: Kernel) -> Tensor:
        image = kernel.product(x)
        ctx.kernel, ctx.carries = kernel, image.carries
        ctx.save_for_backward(s, tau, x)
        return image.value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        s, tau, x = ctx.saved_tensors
        with torch.no_grad():
            image = ctx.kernel.product(g)
            slope = score_gradient(ctx.kernel, s, image, Image(x, x, ctx.carries))
            of_tau = -((s - s.mean(dim=-1, keepdim=True)) * slope).sum() / tau
        return *_once((slope, of_tau, image.value), (g, s, tau, x)), None


def _once(gradients: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients that refuse to be differentiated in the inputs that they were computed from, without a record.

    PyTorch's ``once_differentiable`` does so for ``backward()``, but lets ``grad()`` return wrong numbers.
    """
    if not torch.is_grad_enabled():
        return gradients
    apply: Callable[..., tuple[Tensor, ...]] = _Once.apply
    return apply(len(gradients), *gradients, *inputs)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.clone() for gradient in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError("soft losses and plans: their gradient has no derivative; that of est_loss has one")


class SoftRanked(NamedTuple):
    """A cloud softly sorted along L slices: P = diag(left) K diag(right) Pi."""

    kernel: SortKernel  # K
    left: Tensor  # (B, L, n)  zero where there is padding, and so is right
    right: Tensor  # (B, L, n)
    ranks: Ranked

    def image(self, x: Tensor) -> Tensor:
        """P x: points (B, n, E) to ranks (B, L, n, E)."""
        x = self.right[..., None] * rows(x, self.ranks.order)
        return self.left[..., None] * self.kernel.product(x)

    def transpose(self, x: Tensor) -> Tensor:
        """P^T x: ranks (B, L, n, E) to points (B, L, n, E)."""
        x = self.right[..., None] * self.kernel.product(self.left[..., None] * x)
        return x.gather(2, inverse(self.ranks.order)[..., None].expand(x.shape))


def soft_ranked(cloud: Cloud, directions: Tensor, how: Sorting) -> SoftRanked:
    """The soft sorts of the scores <x_i, theta_l>. Points without weight take no part, as padding does not."""
    dtype = cloud.points.dtype
    valid = cloud.valid if cloud.weights is None else cloud.weights > 0  # (B, n)
    s = scores(cloud.points, directions)  # (B, L, n)
    keys = s.detach() if valid is None else s.detach().masked_fill(~valid[:, None], torch.inf)
    order = keys.argsort(dim=-1, stable=True)
    mass, ends = by_rank(cloud, order)
    ranks, mass = Ranked(order, mass, ends, None), mass.to(dtype).expand(order.shape)  # (B, L, n)
    used = torch.ones_like(order, dtype=torch.bool) if valid is None else valid[:, None].expand(order.shape)
    used = used.gather(-1, order)
    ordered = _ties_together(_padding_behind(s.gather(-1, order), used), mass)
    kernel = sort_kernel(ordered, how)
    if how.balanced:
        d = weighted_scaling(kernel, used, mass)
        return SoftRanked(kernel, d, d * mass, ranks)
    row_sums = kernel.product(mass[..., None])[..., 0]
    return SoftRanked(kernel, torch.where(used, 1 / torch.where(used, row_sums, 1.0), 0.0), mass, ranks)


def _padding_behind(ordered: Tensor, used: Tensor) -> Tensor:
    """Ascending scores (B, L, n), those of padding replaced by others behind them."""
    top = ordered.detach().masked_fill(~used, -torch.inf).amax(dim=-1, keepdim=True)
    return torch.where(used, ordered, top)


def _ties_together(ordered: Tensor, mass: Tensor) -> Tensor:
    """The same scores. Ranks within a class of equal ones are arbitrary: its gradient goes to all by their weights."""
    first = first_of_class(ordered)
    if first is None:
        return ordered
    part = shares(mass.detach(), first) * ordered  # (B, L, n)
    mean = torch.zeros_like(part).scatter_add(-1, first, part).gather(-1, first)
    return ordered.detach() + (mean - mean.detach())


def coupled(pieces: Pieces, image: Tensor, n: int) -> Tensor:
    """A x: target ranks (B, L, m, E) to source ranks (B, L, n, E)."""
    slices, columns = image.shape[1], image.shape[-1]
    source, target = (r.expand(-1, slices, -1)[..., None].expand(-1, -1, -1, columns) for r in pieces[:2])
    moved = image.gather(2, target) * pieces.mass.to(image.dtype)[..., None]
    return image.new_zeros(*image.shape[:2], n, columns).scatter_add(2, source, moved)


def soft_squared_costs(x: Cloud, y: Cloud, shift: Tensor, source: SoftRanked, target: SoftRanked) -> Tensor:
    r"""The costs of the soft plans for p = 2, less the squared distance ``shift`` (B, d) of the means: (B, L).

    The clouds are centred; they were sorted before.

    No plan is built: with G = P^T A Q,

    $$\sum_{ij} |x_i - y_j|^2 G_{ij} = \sum_i a_{(i)} (P |x|^2)_i + \sum_j b_{(j)} (Q |y|^2)_j
      - 2 \sum_{ij} \langle (P x)_i, A_{ij} (Q y)_j \rangle .$$
    """
    squares, means, images = [], [], []
    for cloud, side in ((x, source), (y, target)):
        columns = torch.cat([cloud.points.square().sum(-1, keepdim=True), cloud.points], dim=-1)  # (B, n, 1 + d)
        image = side.image(columns)  # (B, L, n, 1 + d)
        moments = (side.ranks.mass[..., None, :].to(image.dtype) @ image)[..., 0, :]  # (B, L, 1 + d)
        squares.append(moments[..., 0])
        means.append(moments[..., 1:])
        images.append(image[..., 1:])
    moved = coupled(monotone_pieces(source.ranks, target.ranks), images[1], x.points.shape[1])  # A Q y
    costs = squares[0] + squares[1] - 2 * (images[0] * moved).sum((-2, -1))
    return costs + 2 * ((means[0] - means[1]) * shift[:, None]).sum(-1)  # the last term vanishes for balanced sorts


def soft_plans(source: SoftRanked, target: SoftRanked) -> Tensor:
    """The soft plans P^T A Q of all slices, (B, L, n, m): O(L n m) time for the Laplace kernel."""
    (batch, _, n), (m, like) = source.left.shape, (target.left.shape[-1], target.left)
    image = target.image(torch.eye(m, dtype=like.dtype, device=like.device).expand(batch, -1, -1))  # (B, L, m, m), Q
    return source.transpose(coupled(monotone_pieces(source.ranks, target.ranks), image, n))


def weighted_scaling(kernel: SortKernel, used: Tensor, mass: Tensor) -> Tensor:
    """The d (B, L, n) with d * K (mass * d) = 1 on used ranks, 0 on others, differentiable in K and mass.

    Damped iteration d <- sqrt(d / K (mass d)); the error in log d at least halves every round near the solution.

    Raises
    ------
    RuntimeError
        When the rows are not balanced after 100 rounds.
    """
    fixed, d = mass.detach(), used.to(mass.dtype)
    tolerance = 1e-13 if mass.dtype == torch.float64 else 2e-6
    for _ in range(MAX_ROUNDS):
        image = kernel.constant_product((fixed * d)[..., None])[..., 0]
        if (((d * image - 1).abs() <= tolerance) | ~used).all():
            break
        d = torch.where(used, d.sqrt() / torch.where(used, image, 1.0).sqrt(), 0.0)
    else:
        raise RuntimeError(f"balanced soft sort: no convergence in {MAX_ROUNDS} rounds")
    if not torch.is_grad_enabled():
        return d
    image = kernel.product((mass * d)[..., None])[..., 0]
    residual = torch.where(used, d * image, 1.0).log()  # zero, with the derivatives of K and mass
    implicit: Callable[..., Tensor] = _WeightedScaling.apply
    return implicit(residual, d, fixed, kernel)


class _WeightedScaling(torch.autograd.Function):
    r"""The solution d > 0 of d * K (a * d) = 1 as an implicit function of the symmetric matrix K and the weights a.

    With u = log d, the residual r = log(d * K (a d)) vanishes at the solution. There dr/du = I + T with
    $T = D K D M$, $D = \mathrm{diag}(d)$, $M = \mathrm{diag}(a)$, and $S = M^{1/2} T M^{-1/2}$ is symmetric, with
    spectrum in [0, 1]. By the implicit function theorem

    $$\mathrm{d} u = -(I + T)^{-1} \mathrm{d} r, \qquad
    \bar r = -M^{1/2} (I + S)^{-1} M^{-1/2} (d \odot \bar d),$$

    where a bar is the gradient of what stands under it. Forward returns d.
    """

    @staticmethod
    def forward(ctx: Any, residual: Tensor, d: Tensor, mass: Tensor, kernel: SortKernel) -> Tensor:
        ctx.save_for_backward(d, mass, residual)
        ctx.product = kernel.constant_product
        return d.clone()

    @staticmethod
    @torch.no_grad()
    def solved(d: Tensor, mass: Tensor, product: Callable[[Tensor], Tensor], gradient: Tensor) -> Tensor:
        """The gradient of the residual, from that of d."""
        root = mass.sqrt()
        e = root * d

        def identity_plus_s(z: Tensor) -> Tensor:
            return z + e * product((e * z)[..., None])[..., 0]

        scaled = torch.where(root > 0, d * gradient / torch.where(root > 0, root, 1.0), 0.0)
        return -root * conjugate_gradients(identity_plus_s, scaled)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d, mass, residual = ctx.saved_tensors
        solution = _WeightedScaling.solved(d, mass, ctx.product, gradient)
        return *_once((solution,), (gradient, residual)), None, None, None
