"""Checks of the arguments of :mod:`espref.nn.functional`.

Each raises a ``ValueError`` that names the argument, what was expected and what came.
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from .sorting import SORTS


def check_tokens(query: Tensor, key: Tensor, value: Tensor) -> torch.Size:
    """The leading dimensions that (..., N, E) queries, (..., M, E) keys and (..., M, Ev) values share."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or 0 in x.shape[-2:]:
            got = shown(x) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name}: expected a floating point tensor of shape (..., tokens, coordinates), got {got}")
    lead = query.shape[:-2]
    if key.shape[:-2] != lead or value.shape[:-2] != lead:
        raise ValueError(f"key, value: expected leading dimensions {tuple(lead)} as query has")
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"key: expected {query.shape[-1]} coordinates as query has, got {key.shape[-1]}")
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(f"value: expected {key.shape[-2]} tokens as key has, got {value.shape[-2]}")
    if not query.device == key.device == value.device:
        raise ValueError(f"key, value: expected device {query.device} as query has, got {key.device}, {value.device}")
    return lead


def check_options(query: Tensor, directions: Tensor | None, sort: str, power: int) -> None:
    """Directions (L, E) on the device of the queries, a known sort, a known kernel."""
    if directions is not None:
        fits = isinstance(directions, Tensor) and directions.is_floating_point() and directions.ndim == 2
        if not fits or directions.shape[1] != query.shape[-1] or not len(directions):
            raise ValueError(
                f"directions: expected None or a tensor of shape (L, {query.shape[-1]}), got {shown(directions)}"
            )
        if directions.device != query.device:
            raise ValueError(f"directions: expected device {query.device} as query has, got {directions.device}")
    if not isinstance(sort, str) or sort not in SORTS:
        raise ValueError(f"sort: expected one of {', '.join(SORTS)}, got {shown(sort)}")
    if not isinstance(power, int) or power not in (1, 2):
        raise ValueError(f"power: expected 1 (Laplace) or 2 (Gauss), got {shown(power)}")


def as_temperature(x: float | Tensor, name: str, lead: torch.Size, like: Tensor) -> Tensor:
    """``tau`` or ``beta`` for each item, (B,). The signs of tensors are checked where they are numbers."""
    wanted = f"a number {'> 0' if name == 'tau' else '>= 0'}, or a tensor of them that expands to {tuple(lead)}"
    if isinstance(x, Tensor):
        fits = not x.is_complex() and x.dtype != torch.bool and expands(x.shape, lead)
        if not fits or not (x.device == like.device or (x.ndim == 0 and x.device.type == "cpu")):
            raise ValueError(f"{name}: expected {wanted}, got {shown(x)}, {x.device}")
    elif not isinstance(x, Real) or isinstance(x, bool) or not (x > 0 if name == "tau" else x >= 0):
        raise ValueError(f"{name}: expected {wanted}, got {shown(x)}")
    try:
        one = torch.as_tensor(x if isinstance(x, Tensor) else float(x), dtype=like.dtype, device=like.device)
    except OverflowError as error:  # an integer beyond the floats
        raise ValueError(f"{name}: expected {wanted}, got one too large") from error
    return one.expand(lead).reshape(-1)


def expands(shape: torch.Size, size: tuple[int, ...]) -> bool:
    """Whether a tensor of that shape expands to ``size``."""
    return len(shape) <= len(size) and all(m in (1, s) for m, s in zip(reversed(shape), reversed(size), strict=False))


def as_valid(padding_mask: Tensor | None, lead: torch.Size, x: Tensor, name: str) -> Tensor | None:
    """Which tokens are valid, (B, N) for x (B, N, E), from a mask of the padding; None: all of them."""
    if padding_mask is None:
        return None
    size = (*lead, x.shape[1])
    fits = isinstance(padding_mask, Tensor) and padding_mask.dtype == torch.bool and padding_mask.device == x.device
    if not fits or padding_mask.ndim == 0 or not expands(padding_mask.shape, size):
        raise ValueError(
            f"{name}: expected a boolean mask that expands to {size} on {x.device}, got {shown(padding_mask)}"
        )
    return ~padding_mask.expand(size).reshape(-1, x.shape[1])


def shown(x: object) -> str:
    """A tensor by its shape and type, anything else as it prints."""
    return f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else repr(x)
