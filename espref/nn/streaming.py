r"""The expected output of all slices without a plan, a few slices at a time, and its gradient.

Per slice: soft sorts as diag(left) K diag(right) Pi with K in linear time, the monotone plan between their ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .sorting import Options, Sorter, scores, soft_sort

#: Elements (batch x slices x tokens x coordinates) worked on at once.
GROUP = 2**20
#: Elements of all slices up to which their terms are kept for the backward, which else computes them again.
KEEP = 2**23


class _Ranks(NamedTuple):
    """The monotone plan A[n_i, m_i] between ranks, one for each batch item, by its pieces."""

    source: Tensor  # (B, pieces)
    target: Tensor
    mass: Tensor  # (B, pieces)

    def apply(self, x: Tensor, n: int) -> Tensor:
        """A x: target ranks (B, G, M, E) to source ranks (B, G, N, E)."""
        shape = (x.shape[0], x.shape[1], self.target.shape[1], x.shape[3])
        pieces = x.gather(2, self.target[:, None, :, None].expand(shape)) * self.mass[:, None, :, None]
        result = x.new_zeros(x.shape[0], x.shape[1], n, x.shape[3])
        return result.scatter_add(2, self.source[:, None, :, None].expand(shape), pieces)


def _ranks(q: Tensor, k: Tensor, options: Options) -> _Ranks | None:
    """Pieces in whole numbers: rank i of n ends at i m, rank j of m at j n; mass 1 in all. None for A = 1/n."""
    (batch, n, _), m = q.shape, k.shape[1]
    ones = torch.ones(batch, 1, dtype=torch.long, device=q.device)
    real_n = n * ones if options.query_real is None else options.query_real.sum(-1, keepdim=True)
    real_m = m * ones if options.key_real is None else options.key_real.sum(-1, keepdim=True)
    if n == m and bool((real_n == real_m).all()):
        return None
    both = (real_n * real_m).clamp(min=1)
    ends_n = ((torch.arange(n, device=q.device) + 1) * real_m).minimum(both)
    ends_m = ((torch.arange(m, device=q.device) + 1) * real_n).minimum(both)
    ends, order = torch.cat([ends_n, ends_m], dim=1).sort(dim=1, stable=True)
    of_source = order < n
    source = (of_source.cumsum(1) - of_source.long()).clamp(max=n - 1)
    target = ((~of_source).cumsum(1) - (~of_source).long()).clamp(max=m - 1)
    mass = torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1])).to(q.dtype) / both
    return _Ranks(source, target, mass * ((real_n > 0) & (real_m > 0)))


def real_count(x: Tensor, real: Tensor | None) -> Tensor:
    """Number of real tokens, (B, 1), at least 1."""
    if real is None:
        return x.new_full((len(x), 1), x.shape[1])
    return real.sum(-1, keepdim=True).clamp(min=1).to(x.dtype)


def _centre(k: Tensor, real: Tensor | None) -> Tensor:
    """The mean of the real keys, (B, 1, E), as a constant."""
    if real is None:
        return k.detach().mean(dim=1, keepdim=True)
    kept = real[..., None].to(k.dtype)
    return (k.detach() * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)


class _Dots(torch.autograd.Function):
    """Inner products of rows: x (..., E) with the first coordinates of z (..., E + Ev), y (..., Ev) with the others."""

    @staticmethod
    def forward(ctx, x, y, z):
        ctx.save_for_backward(x, y, z)
        dim = x.shape[-1]
        return (x * z[..., :dim]).sum(-1), (y * z[..., dim:]).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, first, second):
        x, y, z = ctx.saved_tensors
        dim, z_grad = x.shape[-1], torch.empty_like(z)
        torch.mul(first[..., None], x, out=z_grad[..., :dim])
        torch.mul(second[..., None], y, out=z_grad[..., dim:])
        return first[..., None] * z[..., :dim], second[..., None] * z[..., dim:], z_grad


class _Terms(NamedTuple):
    """What output and gradients of G slices are made of."""

    source: Sorter
    squares: Tensor  # (B, G)  mean of |query|^2 and |key|^2 under the marginals of the plans
    pushed: Tensor  # (B, G, N, E)  the queries, ranked and smoothed: source.left * pushed = P q
    pulled: Tensor  # (B, G, N, E + Ev)  keys and values at the ranks of the queries:
    masses: Tensor  # (B, G, N)  masses * pulled = source.left * A Q [k, v]


def _terms(q: Tensor, k: Tensor, v: Tensor, directions: Tensor, tau: Tensor | None, options: Options) -> _Terms:
    ranks = _ranks(q, k, options)
    q_scores, k_scores = scores(q, directions), scores(k, directions)
    centre = _centre(k, options.key_real)  # plans and weights do not notice, and the costs cancel less
    q, k = q - centre, k - centre
    source, pushed, squares_q = soft_sort(q_scores, q, q.square().sum(-1), options.query_real, tau, options)
    pair = torch.cat([k, v], dim=-1)
    target, pulled, squares_k = soft_sort(k_scores, pair, k.square().sum(-1), options.key_real, tau, options)
    squares = squares_q / real_count(q, options.query_real) + squares_k / real_count(k, options.key_real)
    if ranks is None:
        masses = source.left * target.left / real_count(q, options.query_real)[:, :, None]
    else:
        pulled, masses = ranks.apply(target.left[..., None] * pulled, q.shape[1]), source.left
    return _Terms(source, squares, pushed, pulled, masses)


class _Memo:
    """What the forward keeps for the backward when sequences are short."""

    inputs: list[Tensor] | None = None
    terms: list[_Terms]


def _item_by_item(function: Any, info: Any, in_dims: tuple, arguments: tuple) -> tuple[Any, Any]:
    """The rule of vmap for functions with several results: called for each item, without a memo."""
    arguments = pytree.tree_map(lambda x: None if isinstance(x, _Memo) else x, arguments)
    leaves, form = pytree.tree_flatten(arguments)
    dims = pytree.tree_flatten(in_dims, is_leaf=lambda d: d is None)[0]
    items = [
        function.apply(*form.unflatten([x if d is None else x.select(d, i) for x, d in zip(leaves, dims, strict=True)]))
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(results) for results in zip(*items, strict=True)), (0,) * len(items[0])


class _Streamed(torch.autograd.Function):
    """sum_l w_l output_l with w = softmax(-beta costs), and the costs, a few slices at a time."""

    @staticmethod
    def forward(q, k, v, directions, tau, beta, options, group, memo):
        _check_temperatures(tau, beta)
        dim, count = q.shape[-1], real_count(q, options.query_real)
        inputs = [x.detach() for x in (q, k, v, directions, tau)]
        keep = memo is not None and len(directions) * len(q) * max(q.shape[1], k.shape[1]) * (dim + v.shape[2]) <= KEEP
        if keep:
            memo.inputs, memo.terms = [x.requires_grad_() for x in inputs], []
        top = q.new_full((len(q),), -torch.inf)
        total, output, costs = torch.zeros_like(top), q.new_zeros(len(q), q.shape[1], v.shape[2]), []
        for start in range(0, len(directions), group):
            with torch.set_grad_enabled(keep):
                terms = _part(inputs, slice(start, start + group), options)
            if keep:
                memo.terms.append(terms)
            pushed, pulled, masses = terms.pushed.detach(), terms.pulled.detach(), terms.masses.detach()
            cross = (masses * (pushed * pulled[..., :dim]).sum(-1)).sum(-1)
            cost = terms.squares.detach() - 2 * cross  # (B, G)
            weighted = (masses * count[:, :, None])[..., None] * pulled[..., dim:]
            with torch.no_grad():
                outputs = terms.source.unranked(terms.source.product(weighted))  # (B, G, N, Ev)
            logits = -beta * cost
            new_top = torch.maximum(top, logits.amax(1))
            weights, scale = torch.exp(logits - new_top[:, None]), torch.exp(top - new_top)
            output = output * scale[:, None, None] + torch.einsum("bg,bgne->bne", weights, outputs)
            total, top = total * scale + weights.sum(1), new_top
            costs.append(cost)
        return output / total[:, None, None], torch.cat(costs, dim=1)

    @staticmethod
    def setup_context(ctx, inputs, results):
        *tensors, ctx.options, ctx.group, ctx.memo = inputs
        ctx.mark_non_differentiable(results[1])
        ctx.save_for_backward(*tensors, *results)

    @staticmethod
    def backward(ctx, g, _):
        memo, ctx.memo = ctx.memo, None
        return *_Backward.apply(g, *ctx.saved_tensors, ctx.options, ctx.group, memo), None, None, None

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _item_by_item(_Streamed, info, in_dims, arguments)


class _Backward(torch.autograd.Function):
    """The gradients of :class:`_Streamed`, which computes the terms again if they were not kept.

    With g the gradient of the output, slice l receives w_l g on its output and -beta w_l (<g, output_l> - <g, output>)
    on its cost. Costs and inner products <g, output_l> are both sums over ranks of P (.) times A Q (.).
    """

    @staticmethod
    def forward(g, q, k, v, directions, tau, beta, output, costs, options, group, memo):
        weights = torch.softmax(-beta * costs, dim=1)  # (B, L)
        mean = (g * output).sum((1, 2))  # (B,)
        g = g * real_count(q, options.query_real)[:, :, None]
        kept = memo is not None and memo.inputs is not None
        inputs = memo.inputs if kept else [x.detach().requires_grad_() for x in (q, k, v, directions, tau)]
        sums, beta_grad = [torch.zeros_like(x) for x in inputs], torch.zeros_like(beta)
        for number, start in enumerate(range(0, len(directions), group)):
            part = slice(start, start + group)
            with torch.enable_grad():
                terms = memo.terms[number] if kept else _part(inputs, part, options)
                looked = terms.source.product(terms.source.ranked(g[:, None]))  # (B, G, N, Ev)
                cross, inner = _Dots.apply(terms.pushed, looked, terms.pulled)
                cost = terms.squares - 2 * (terms.masses * cross).sum(-1)  # (B, G)
                inner = (terms.masses * inner).sum(-1)  # (B, G)  <g, output_l>
            along = weights[:, part] * (inner.detach() - mean[:, None])  # (B, G)
            beta_grad = beta_grad - (along * costs[:, part]).sum()
            grads = torch.autograd.grad([inner, cost], inputs, [weights[:, part], -beta * along], allow_unused=True)
            sums = [s if grad is None else s + grad for s, grad in zip(sums, grads, strict=True)]
        return *sums, beta_grad

    @staticmethod
    def setup_context(ctx, inputs, results):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError("esp_attention: its gradient has no derivative")

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _item_by_item(_Backward, info, in_dims, arguments)


def _check_temperatures(tau: Tensor, beta: Tensor) -> None:
    """Here, behind the transforms of torch.func and the compiler, they are numbers."""
    for name, x, fits, wanted in (("tau", tau, tau > 0, "> 0"), ("beta", beta, beta >= 0, ">= 0")):
        if not fits:
            raise ValueError(f"{name}: expected a number {wanted}, got {x.item()}")


def _part(inputs: list[Tensor], part: slice, options: Options) -> _Terms:
    q, k, v, directions, tau = inputs
    return _terms(q, k, v, directions[part], None if options.sort == "hard" else tau, options)


def streamed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor,
    tau: Tensor,
    beta: Tensor,
    options: Options,
    least: bool = False,
) -> Tensor:
    """N sum_l w_l U_l v, (B, N, Ev), for (B, N, E), (B, M, E), (B, M, Ev); ``least`` memory: one slice at a time."""
    per_slice = len(q) * max(q.shape[1], k.shape[1]) * max(q.shape[2], v.shape[2])
    group = 1 if least else max(1, min(len(directions), GROUP // max(per_slice, 1)))
    tensors = (q, k, v, directions, tau, beta)
    memo = _Memo() if torch.is_grad_enabled() and any(x.requires_grad for x in tensors) else None
    apply = _Streamed.apply
    if torch.compiler.is_compiling():  # break the graph: the function differentiates by itself, and is not traced
        apply = torch.compiler.disable(apply)
    return apply(*tensors, options, group, memo)[0]
