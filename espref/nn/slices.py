r"""What G slices contribute, without a plan: the one step that forward and backward of the attention share.

For slice l, let P and Q be the soft sorts of queries and keys and A the plan between their ranks, so that
U_l = P^T A Q. With N queries and g the gradient of the output, three sums over ranks are needed:

$$\text{output}_l = N P^\top (A Q v), \qquad
c_l = \sum_{ij} U_{l,ij} |q_i - k_j|^2, \qquad
\langle g, \text{output}_l \rangle = N \langle P g, A Q v \rangle .$$

Forward takes the first two of them from :class:`SliceTerms`, backward the last two; g is sorted along with q.

The costs are those of centred tokens: with q = q' + a and k = k' + b, and total mass 1,

$$c_l = \sum_{ij} U_{l,ij} \bigl( |q'_i|^2 + |k'_j|^2 - 2 \langle q'_i, k'_j \rangle
+ 2 \langle a - b, q'_i - k'_j \rangle \bigr) + |a - b|^2 .$$

The last term is the same for all slices, and left out. The one before it is zero when U_l has uniform marginals, so it
enters for the soft sort alone. All that is squared is then as small as the spread of the tokens, wherever they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .ranks import RankPlan, rank_plan, valid_count
from .sorting import SortedTokens, scores, sort_tokens

#: G directions (G, E), or the axes of a range of coordinates.
Directions = Tensor | slice


class Tokens(NamedTuple):
    """Tokens of one side, prepared once for all slices. Padding is zero, whatever was there."""

    scored: Tensor  # (B, N, E)  as they came: what is sorted is never rounded
    centred: Tensor  # (B, N, E)  minus their mean
    rest: Tensor  # (B, N, Ev)  what is sorted along: values, or gradients of outputs
    shift: Tensor  # (B, 1, E)  twice its product with the centred tokens is added to their squares
    valid: Tensor | None  # (B, N)

    def sorted(self, directions: Directions, tau: Tensor | None, sort: str, power: int) -> SortedTokens:
        """Sorted softly along G directions."""
        if isinstance(directions, slice):
            s = self.scored[..., directions].mT.contiguous()  # (B, G, N)
        else:
            s = scores(self.scored, directions)
        squares = self.centred.square().sum(-1) + 2 * (self.centred * self.shift).sum(-1)
        x = torch.cat([self.centred, self.rest], dim=-1)
        return sort_tokens(s, x, squares, self.valid, tau, sort, power)

    def backward(self, sort: SortedTokens, directions: Directions, gradient: SortGradient, rest_too: bool) -> Gradients:
        """From the gradients to what :meth:`sorted` returns. Unless ``rest_too``, that to the rest may be empty."""
        dim, (image, left, squares) = self.centred.shape[-1], gradient
        found = sort.backward(image, left, squares, image.shape[-1] if rest_too else dim)
        x = found.tokens[..., :dim] + 2 * found.squares[..., None] * (self.centred + self.shift)
        if isinstance(directions, slice):
            x[..., directions] += found.scores.mT
            return Gradients(x, found.tokens[..., dim:], None, found.tau)
        x = x + torch.einsum("bgn,ge->bne", found.scores, directions)
        turn = torch.einsum("bgn,bne->ge", found.scores, self.centred)
        return Gradients(x, found.tokens[..., dim:], turn, found.tau)


class Gradients(NamedTuple):
    """What one side gets from G slices."""

    x: Tensor  # (B, N, E)
    rest: Tensor  # (B, N, Ev)
    directions: Tensor | None  # (G, E)  None: axes
    tau: Tensor  # (B,)


def prepare(
    q: Tensor, g: Tensor, k: Tensor, v: Tensor, query_valid: Tensor | None, key_valid: Tensor | None, sort: str
) -> tuple[Tokens, Tokens]:
    """Queries q with g, which is sorted along, and keys k with their values v: (B, N or M, ...)."""
    (q, q_centred, q_mean, g), (k, k_centred, k_mean, v) = _centred(q, g, query_valid), _centred(k, v, key_valid)
    shift = q_mean - k_mean if sort == "soft" else torch.zeros_like(q_mean)
    return Tokens(q, q_centred, g, shift, query_valid), Tokens(k, k_centred, v, -shift, key_valid)


def _centred(x: Tensor, rest: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, x minus its mean, the mean, and rest; the padding of all of them zero."""
    if valid is None:
        mean = x.mean(dim=1, keepdim=True)
        return x, x - mean, mean, rest
    padding = ~valid[..., None]
    x, rest = x.masked_fill(padding, 0.0), rest.masked_fill(padding, 0.0)
    mean = x.sum(dim=1, keepdim=True) / valid_count(x, valid)[..., None]
    return x, (x - mean).masked_fill(padding, 0.0), mean, rest


class SliceTerms(NamedTuple):
    """What output, costs and gradients of G slices have in common.

    With P = diag(left) K diag(right) Pi the sorts of the queries, source.value = P [q, g] / left, and
    masses * target_image = left * A Q [k, v], the keys and values at the ranks of the queries.
    """

    source: SortedTokens  # queries; in backward also the gradients of the outputs
    target: SortedTokens  # keys and values
    plan: RankPlan | None  # A; None: 1/n times the identity
    target_image: Tensor  # (B, G, N, E + Ev)
    masses: Tensor  # (B, G, N)
    counts: tuple[Tensor, Tensor]  # (B, 1) each  valid queries n, valid keys m
    dim: int  # E

    def costs(self) -> Tensor:
        """The costs of the slices, (B, G), up to a constant; summed in float64."""
        n, m = (count.double() for count in self.counts)
        products = (self.source.value[..., : self.dim] * self.target_image[..., : self.dim]).sum(-1)
        cross = (self.masses * products).sum(-1, dtype=torch.float64)
        return self.source.squares / n + self.target.squares / m - 2 * cross

    def outputs(self) -> Tensor:
        """Their outputs, (B, G, N, Ev)."""
        masses = self.masses * self.counts[0][:, :, None]
        return self.source.transpose(masses[..., None] * self.target_image[..., self.dim :])

    def products(self) -> Tensor:
        """The products of N P g / left and A Q v at each rank, (B, G, N): with the masses, <g, output_l> in parts."""
        values = (self.source.value[..., self.dim :] * self.target_image[..., self.dim :]).sum(-1)
        return values * self.counts[0][:, :, None]

    def backward(self, along: Tensor, of_cost: Tensor, products: Tensor) -> tuple[SortGradient, SortGradient]:
        """From sum_l along_l <g, output_l> + of_cost_l c_l, both (B, G), g being a constant, to both sorts."""
        source, target, dim, (n, m) = self.source, self.target, self.dim, self.counts
        cross, along = -2 * of_cost[..., None], along[..., None]  # (B, G, 1)
        of_mass = cross * (source.value[..., :dim] * self.target_image[..., :dim]).sum(-1) + along * products
        factors = (cross * self.masses)[..., None], (along * self.masses * n[:, :, None])[..., None]  # (B, G, N, 1)
        of_source, of_target = _times(self.target_image, factors, dim), _times(source.value, factors, dim)
        if self.plan is None:
            of_left, of_target_left = (of_mass * side.left / n[:, :, None] for side in (target, source))
        else:
            of_target = self.plan.transpose().apply(of_target, target.left.shape[-1])  # (B, G, M, E + Ev)
            of_left, of_target_left = of_mass, (of_target * target.value).sum(-1)
            of_target = target.left[..., None] * of_target
        return SortGradient(of_source, of_left, of_cost / n), SortGradient(of_target, of_target_left, of_cost / m)


class SortGradient(NamedTuple):
    """The gradients to what a sort returns."""

    image: Tensor  # (B, G, N, E + Ev)
    left: Tensor  # (B, G, N)
    squares: Tensor  # (B, G)


def slice_terms(
    queries: Tokens, keys: Tokens, directions: Directions, tau: Tensor | None, sort: str, power: int
) -> SliceTerms:
    """The one step of forward and backward: both sides sorted along G directions, and coupled."""
    q, k = queries.centred, keys.centred
    n, m = valid_count(q, queries.valid), valid_count(k, keys.valid)  # (B, 1)
    source = queries.sorted(directions, tau, sort, power)
    target = keys.sorted(directions, tau, sort, power)
    plan, image = rank_plan(q, k, queries.valid, keys.valid), target.value
    if plan is None:  # A = 1/n
        masses = source.left * target.left / n[:, :, None]
    else:
        masses, image = source.left, plan.apply(target.left[..., None] * image, q.shape[1])
    return SliceTerms(source, target, plan, image, masses, (n, m), q.shape[-1])


def _times(x: Tensor, factors: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """x (B, G, N, E + Ev), its first ``dim`` columns times one factor and the others times the other."""
    result = torch.empty_like(x)
    torch.mul(x[..., :dim], factors[0], out=result[..., :dim])
    torch.mul(x[..., dim:], factors[1], out=result[..., dim:])
    return result
