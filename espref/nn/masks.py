"""The masks of the attention modules, checked, and as what they mean.

A boolean mask says True = ignore. A float mask is added to the scores where there are scores; what is -inf is ignored.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import shown


class Padding(NamedTuple):
    """Which tokens of one side are ignored."""

    ignored: Tensor  # (N, tokens) bool
    bias: Tensor | None  # (N, tokens)  the mask, where it was given in floats


class Masks(NamedTuple):
    """The masks of a call."""

    key: Padding | None
    query: Padding | None
    general: Tensor | None  # (1 or N, 1 or H, L, S)  booleans or floats, as it was passed
    is_causal: bool

    def pairs(self, queries: int, keys: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Which pairs of query and key are allowed, and what is added to their scores, both (1 or N, 1 or H, L, S)."""
        allowed = []
        if self.is_causal:
            allowed.append(torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device).tril())
        if self.query is not None:
            allowed.append(~self.query.ignored[:, None, :, None])
        if self.key is not None:
            allowed.append(~self.key.ignored[:, None, None, :])
        biases = [] if self.key is None or self.key.bias is None else [self.key.bias[:, None, None, :]]
        if self.general is not None and self.general.dtype == torch.bool:
            allowed.append(~self.general)
        elif self.general is not None:
            biases.append(self.general)
        size = (queries, keys)
        both = reduce(torch.logical_and, allowed) if allowed else None
        added = reduce(torch.add, biases) if biases else None
        return (
            None if both is None else both.expand(*both.shape[:2], *size),
            None if added is None else added.expand(*added.shape[:2], *size),
        )


@torch.library.custom_op("espref::ignored", mutates_args=())
def _ignored(mask: Tensor, name: str) -> Tensor:
    """An operator, so that compilers and exporters carry the question along."""
    ignored = mask == -torch.inf
    others = mask[~ignored & (mask != 0)]
    if others.numel():
        raise ValueError(f"{name}: expected booleans, or floats 0 and -inf, got the value {others[0].item():g}")
    return ignored


@_ignored.register_fake
def _(mask: Tensor, name: str) -> Tensor:
    return torch.empty_like(mask, dtype=torch.bool)


@_ignored.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], mask: Tensor, name: str) -> tuple[Tensor, Any]:
    return _ignored(mask, name), in_dims[0]


def as_padding(mask: object, name: str, size: tuple[int, ...], like: Tensor, exact: bool) -> Padding | None:
    """A padding mask of that size, (N, tokens) or without a batch (tokens,).

    ``exact`` ones can only ignore a token or not: floats other than 0 and -inf are refused, and so are masks that want
    a gradient.
    """
    if mask is None:
        return None
    mask = _checked(mask, name, (size,), like)
    mask = mask if len(size) == 2 else mask[None]
    if mask.dtype == torch.bool:
        return Padding(mask, None)
    if not exact:
        return Padding(mask.detach() == -torch.inf, mask)
    if mask.requires_grad:
        raise ValueError(f"{name}: expected a mask without gradient: it only tells padding from other tokens")
    return Padding(_ignored(mask, name), None)


def as_general_mask(mask: object, heads: int, size: tuple[int, int, int], like: Tensor) -> Tensor | None:
    """An ``attn_mask`` (L, S) or (N heads, L, S), with dimensions for N and the heads."""
    if mask is None:
        return None
    batch, *pairs = size
    mask = _checked(mask, "attn_mask", (tuple(pairs), (batch * heads, *pairs)), like)
    return mask[None, None] if mask.ndim == 2 else torch.unflatten(mask, 0, (-1, heads))


def _checked(mask: object, name: str, sizes: tuple[tuple[int, ...], ...], like: Tensor) -> Tensor:
    fits = isinstance(mask, Tensor) and (mask.dtype == torch.bool or mask.is_floating_point())
    if not isinstance(mask, Tensor) or not fits or mask.shape not in sizes or mask.device != like.device:
        wanted = " or ".join(map(str, sizes))
        raise ValueError(f"{name}: expected booleans or floats of shape {wanted} on {like.device}, got {shown(mask)}")
    return mask
