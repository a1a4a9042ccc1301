r"""ESP attention a few slices at a time: their Gibbs average, and its gradient.

Forward keeps a running softmax over the slices. Backward needs the weights w and, for each slice, the inner product of
its output with the gradient g:

$$\bar{\text{output}}_l = w_l\, g, \qquad
\bar c_l = -\beta w_l (\langle g, \text{output}_l \rangle - \langle g, \text{output} \rangle), \qquad
\bar\beta = -\sum_l w_l c_l (\langle g, \text{output}_l \rangle - \langle g, \text{output} \rangle) .$$

Both go through the same step, :func:`espref.nn.slices.slice_terms`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .ranks import valid_count
from .slices import SliceTerms, slice_terms
from .sorting import Options

#: Elements (batch x slices x tokens x coordinates) that are worked on at once.
GROUP = 2**20
#: Elements of all slices up to which forward saves the terms for backward; above, backward computes them again.
SAVE = 2**23


def streamed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor,
    tau: Tensor,
    beta: Tensor,
    options: Options,
    one_slice_at_a_time: bool = False,
) -> Tensor:
    """N sum_l w_l U_l v, (B, N, Ev), for q (B, N, E), k (B, M, E), v (B, M, Ev) and directions (L, E)."""
    per_slice = len(q) * max(q.shape[1], k.shape[1]) * max(q.shape[2], v.shape[2])
    group = 1 if one_slice_at_a_time else max(1, min(len(directions), GROUP // max(per_slice, 1)))
    tensors = (q, k, v, directions, tau, beta)
    saved = SavedTerms() if torch.is_grad_enabled() and any(x.requires_grad for x in tensors) else None
    apply: Callable[..., Any] = _Streamed.apply
    if torch.compiler.is_compiling():  # break the graph: the function differentiates itself, and is not traced
        untraced: Callable[..., Any] = torch.compiler.disable
        apply = untraced(apply)
    output: Tensor = apply(*tensors, options, group, saved)[0]
    return output


class _GibbsAverage:
    """sum_l w_l y_l with w = softmax(-beta c), a few slices at a time: a softmax with a running maximum."""

    def __init__(self, like: Tensor, beta: Tensor) -> None:
        """Averages have the shape of ``like``, (B, N, Ev)."""
        self.beta, self.sum = beta, torch.zeros_like(like)
        self.top = like.new_full((len(like),), -torch.inf)  # (B,)
        self.total = torch.zeros_like(self.top)

    def add(self, costs: Tensor, outputs: Tensor) -> None:
        """Costs (B, G) and outputs (B, G, N, Ev)."""
        logits = -self.beta * costs
        top = torch.maximum(self.top, logits.amax(1))
        weights, scale = torch.exp(logits - top[:, None]), torch.exp(self.top - top)
        self.sum = self.sum * scale[:, None, None] + torch.einsum("bg,bgne->bne", weights, outputs)
        self.total, self.top = self.total * scale + weights.sum(1), top

    def result(self) -> Tensor:
        return self.sum / self.total[:, None, None]


class SavedTerms:
    """The terms of all slices with their graph, which forward saves for backward when sequences are short."""

    inputs: list[Tensor] | None = None  # the leaves of the graph; None: nothing is saved
    terms: list[SliceTerms]


class _Streamed(torch.autograd.Function):
    """sum_l w_l output_l with w = softmax(-beta c), and the costs c, a few slices at a time."""

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        directions: Tensor,
        tau: Tensor,
        beta: Tensor,
        options: Options,
        group: int,
        saved: SavedTerms | None,
    ) -> tuple[Tensor, Tensor]:
        _check_temperatures(tau, beta)
        inputs = [x.detach() for x in (q, k, v, directions, tau)]
        elements = len(directions) * len(q) * max(q.shape[1], k.shape[1]) * (q.shape[2] + v.shape[2])
        if saved is not None and elements <= SAVE:
            saved.inputs, saved.terms = [x.requires_grad_() for x in inputs], []
        else:
            saved = None
        n, costs = valid_count(q, options.query_valid), []
        average = _GibbsAverage(q.new_empty(len(q), q.shape[1], v.shape[2]), beta)
        for start in range(0, len(directions), group):
            with torch.set_grad_enabled(saved is not None):
                terms = _group_terms(inputs, start, group, options)
            if saved is not None:
                saved.terms.append(terms)
            with torch.no_grad():
                costs.append(terms.costs())  # (B, G)
                average.add(costs[-1], terms.outputs(n))
        return average.result(), torch.cat(costs, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.options, ctx.group, ctx.saved = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved, ctx.saved = ctx.saved, None
        apply: Callable[..., tuple[Tensor, ...]] = _StreamedBackward.apply
        gradients = apply(g, *ctx.saved_tensors, ctx.options, ctx.group, saved)
        return *gradients, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _item_by_item(_Streamed, info, in_dims, arguments)


class _StreamedBackward(torch.autograd.Function):
    """The gradients of :class:`_Streamed`, from the saved terms or from terms computed again."""

    @staticmethod
    def forward(
        g: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        directions: Tensor,
        tau: Tensor,
        beta: Tensor,
        output: Tensor,
        costs: Tensor,
        options: Options,
        group: int,
        saved: SavedTerms | None,
    ) -> tuple[Tensor, ...]:
        weights = torch.softmax(-beta * costs, dim=1)  # (B, L)
        mean = (g * output).sum((1, 2))[:, None]  # (B, 1)  <g, output>
        g = g * valid_count(q, options.query_valid)[:, :, None]
        if saved is None or saved.inputs is None:
            saved, inputs = None, [x.detach().requires_grad_() for x in (q, k, v, directions, tau)]
        else:
            inputs = saved.inputs
        gradients, beta_gradient = [torch.zeros_like(x) for x in inputs], torch.zeros_like(beta)
        for index, start in enumerate(range(0, len(directions), group)):
            with torch.enable_grad():
                terms = saved.terms[index] if saved is not None else _group_terms(inputs, start, group, options)
                cost, product = terms.costs_and_products(g)  # (B, G); product = <g, output_l>
            part = slice(start, start + group)
            excess = weights[:, part] * (product.detach() - mean)  # (B, G)
            beta_gradient = beta_gradient - (excess * costs[:, part]).sum()
            parts = torch.autograd.grad([product, cost], inputs, [weights[:, part], -beta * excess], allow_unused=True)
            gradients = [a if b is None else a + b for a, b in zip(gradients, parts, strict=True)]
        return *gradients, beta_gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError("esp_attention: its gradient has no derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _item_by_item(_StreamedBackward, info, in_dims, arguments)


def _group_terms(inputs: list[Tensor], start: int, group: int, options: Options) -> SliceTerms:
    q, k, v, directions, tau = inputs
    return slice_terms(q, k, v, directions[start : start + group], tau, options)


def _check_temperatures(tau: Tensor, beta: Tensor) -> None:
    """Here, behind the transforms of torch.func and the compiler, they are numbers."""
    for name, x, fits, wanted in (("tau", tau, tau > 0, "> 0"), ("beta", beta, beta >= 0, ">= 0")):
        if not fits:
            raise ValueError(f"{name}: expected a number {wanted}, got {x.item()}")


def _item_by_item(function: Any, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """The rule of vmap for functions with several results: called for each item, and nothing is saved."""
    arguments = pytree.tree_map(lambda x: None if isinstance(x, SavedTerms) else x, arguments)
    leaves, form = pytree.tree_flatten(arguments)
    dims = pytree.tree_flatten(in_dims, is_leaf=lambda d: d is None)[0]
    items = [
        function.apply(*form.unflatten([x if d is None else x.select(d, i) for x, d in zip(leaves, dims, strict=True)]))
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(results) for results in zip(*items, strict=True)), (0,) * len(items[0])
