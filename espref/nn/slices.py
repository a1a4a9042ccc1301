r"""What G slices contribute, without a plan: the one step that forward and backward of the attention share.

For slice l, let P and Q be the soft sorts of queries and keys and A the plan between their ranks, so that
U_l = P^T A Q. With N queries and g the gradient of the output, three sums over ranks are needed:

$$\text{output}_l = N P^\top (A Q v), \qquad
c_l = \sum_{ij} U_{l,ij} (|q_i|^2 + |k_j|^2) - 2 \langle P q, A Q k \rangle, \qquad
\langle g, \text{output}_l \rangle = N \langle P g, A Q v \rangle .$$

Forward takes the first two of them from :class:`SliceTerms`, backward the last two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .ranks import rank_plan, valid_count
from .sorting import Options, SoftSort, factored_sort, scores


class SliceTerms(NamedTuple):
    """What output, costs and gradients of G slices have in common.

    With P = diag(left) K diag(right) Pi the sorts of the queries, query_image = P q / left, and
    masses * target_image = left * A Q [k, v], the keys and values at the ranks of the queries.
    """

    source: SoftSort  # P
    squares: Tensor  # (B, G)  sum_ij U_ij (|q_i|^2 + |k_j|^2)
    query_image: Tensor  # (B, G, N, E)
    target_image: Tensor  # (B, G, N, E + Ev)
    masses: Tensor  # (B, G, N)

    def costs(self) -> Tensor:
        """The costs of the slices, (B, G)."""
        dim = self.query_image.shape[-1]
        return self._cost((self.query_image * self.target_image[..., :dim]).sum(-1))

    def outputs(self, n: Tensor) -> Tensor:
        """Their outputs, (B, G, N, Ev), for n valid queries, (B, 1)."""
        dim = self.query_image.shape[-1]
        return self.source.transpose_unscaled((self.masses * n[:, :, None])[..., None] * self.target_image[..., dim:])

    def costs_and_products(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """The costs again, and <P g, A Q v> for g (B, N, Ev): both (B, G), differentiable together."""
        g_image = self.source.apply_unscaled(g[:, None])  # (B, G, N, Ev)
        row_products: Callable[..., tuple[Tensor, Tensor]] = _RowProducts.apply
        query_products, g_products = row_products(self.query_image, g_image, self.target_image)
        return self._cost(query_products), (self.masses * g_products).sum(-1)

    def _cost(self, products: Tensor) -> Tensor:
        """From the inner products (B, G, N) of the rows of queries and keys."""
        return self.squares - 2 * (self.masses * products).sum(-1)


def slice_terms(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor, tau: Tensor | None, options: Options
) -> SliceTerms:
    """The one step of forward and backward: G directions (G, E) sorted and coupled."""
    n, m = valid_count(q, options.query_valid), valid_count(k, options.key_valid)  # (B, 1)
    tau = None if options.sort == "hard" else tau
    q_scores, k_scores = scores(q, directions), scores(k, directions)
    centre = _mean(k, options.key_valid)  # leaves plans and weights as they are, and the costs cancel less
    q, k = q - centre, k - centre
    pair = torch.cat([k, v], dim=-1)
    source, query_image, q_squares = factored_sort(q_scores, q, q.square().sum(-1), options.query_valid, tau, options)
    target, pair_image, k_squares = factored_sort(k_scores, pair, k.square().sum(-1), options.key_valid, tau, options)
    squares = q_squares / n + k_squares / m
    plan = rank_plan(q, k, options.query_valid, options.key_valid)
    if plan is None:  # A = 1/n
        return SliceTerms(source, squares, query_image, pair_image, source.left * target.left / n[:, :, None])
    target_image = plan.apply(target.left[..., None] * pair_image, q.shape[1])
    return SliceTerms(source, squares, query_image, target_image, source.left)


def _mean(k: Tensor, valid: Tensor | None) -> Tensor:
    """The mean of the valid keys, (B, 1, E), as a constant."""
    if valid is None:
        return k.detach().mean(dim=1, keepdim=True)
    mask = valid[..., None].to(k.dtype)
    return (k.detach() * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


class _RowProducts(torch.autograd.Function):
    """Inner products of rows: x (..., E) with the first columns of z (..., E + Ev), y (..., Ev) with the others.

    Written out so that backward fills one gradient of z instead of adding up two.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, y, z)
        dim = x.shape[-1]
        return (x * z[..., :dim]).sum(-1), (y * z[..., dim:]).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, z = ctx.saved_tensors
        dim, z_gradient = x.shape[-1], torch.empty_like(z)
        torch.mul(first[..., None], x, out=z_gradient[..., :dim])
        torch.mul(second[..., None], y, out=z_gradient[..., dim:])
        return first[..., None] * z[..., :dim], second[..., None] * z[..., dim:], z_gradient
