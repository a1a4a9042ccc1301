"""ESP attention as operators of PyTorch, which compilers, exporters, tracers and transforms see as one call.

What they do is in :mod:`espref.nn.streaming`. The gradient is an operator of its own, and has no derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import streaming
from .streaming import Call


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor | None,
    tau: Tensor,
    beta: Tensor,
    query_valid: Tensor | None,
    key_valid: Tensor | None,
    sort: str,
    power: int,
) -> tuple[Tensor, Tensor]:
    """As :func:`espref.nn.streaming.forward`."""
    return streaming.forward(Call(q, k, v, directions, tau, beta, query_valid, key_valid, sort, power))


def _backward(
    g: Tensor,
    output: Tensor,
    costs: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor | None,
    tau: Tensor,
    beta: Tensor,
    query_valid: Tensor | None,
    key_valid: Tensor | None,
    sort: str,
    power: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As :func:`espref.nn.streaming.backward`."""
    call = Call(q, k, v, directions, tau, beta, query_valid, key_valid, sort, power)
    return tuple(streaming.backward(g, output, costs, call))  # type: ignore[return-value]


esp_attention = torch.library.custom_op("espref::esp_attention", _forward, mutates_args=())
esp_attention_backward = torch.library.custom_op("espref::esp_attention_backward", _backward, mutates_args=())
#: What the operators do, for those who look inside.
INSIDE: dict[str, Callable[..., Any]] = {
    "espref::esp_attention": _forward,
    "espref::esp_attention_backward": _backward,
}


@esp_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, directions: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    slices = q.shape[-1] if directions is None else directions.shape[0]
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[0], slices, dtype=torch.float64)


@esp_attention_backward.register_fake
def _(
    g: Tensor,
    output: Tensor,
    costs: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor | None,
    tau: Tensor,
    beta: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    turns = q.new_empty(0, q.shape[-1]) if directions is None else torch.empty_like(directions)
    return *(torch.empty_like(x) for x in (q, k, v)), turns, torch.empty_like(tau), torch.empty_like(beta)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.sort, ctx.power = inputs
    ctx.has_directions = inputs[3] is not None
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(output[1])


def _differentiate(
    ctx: Any, g: Tensor, _: Tensor | None, apply: Callable[..., tuple[Tensor, ...]] = esp_attention_backward
) -> tuple[Tensor | None, ...]:
    q, k, v, directions, tau, beta = apply(g, *ctx.saved_tensors, ctx.sort, ctx.power)
    return q, k, v, directions if ctx.has_directions else None, tau, beta, None, None, None, None


def _refuse(ctx: Any, *_: Tensor) -> None:
    raise NotImplementedError("esp_attention: its gradient has no derivative")


def _item_by_item(apply: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Any, Any]]:
    """The rule of vmap: called for each item."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        items = [
            apply(*(x if d is None else x.select(d, i) for x, d in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(results) for results in zip(*items, strict=True)), (0,) * len(items[0])

    return rule


class _Transformed(torch.autograd.Function):
    """The operator under nested transforms of torch.func, where an operator's own gradient is out of reach."""

    forward = staticmethod(esp_attention)
    setup_context = staticmethod(_save)

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return _differentiate(ctx, g, _, _TransformedBackward.apply)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError("esp_attention: it has no forward-mode derivative; use reverse mode (jacrev, vjp)")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _item_by_item(_Transformed.apply)(info, in_dims, *arguments)


class _TransformedBackward(torch.autograd.Function):
    forward = staticmethod(esp_attention_backward)
    backward = staticmethod(_refuse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _item_by_item(_TransformedBackward.apply)(info, in_dims, *arguments)


def in_forward_mode() -> bool:
    """Whether derivatives are taken along with values."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def apply(*arguments: Any) -> Tensor:
    """The output of :func:`esp_attention`, under every transform."""
    if torch.onnx.is_in_onnx_export():
        raise NotImplementedError(
            "esp_attention: ONNX has no operators for it; use torch.export, or espref.nn.dense.esp_attention"
        )
    nested = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    function: Callable[..., tuple[Tensor, Tensor]] = esp_attention
    if nested or in_forward_mode():
        function = _Transformed.apply
    return function(*arguments)[0]


esp_attention.register_autograd(_differentiate, setup_context=_save)
esp_attention.register_vmap(_item_by_item(esp_attention))
esp_attention_backward.register_autograd(_refuse)
esp_attention_backward.register_vmap(_item_by_item(esp_attention_backward))
