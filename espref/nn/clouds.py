"""Batches of weighted clouds: what the arguments of :mod:`espref.nn.losses` must look like, padding out of the way."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import as_temperature, as_valid

TIES = ("split", "first")


class Cloud(NamedTuple):
    """B weighted clouds of up to n points."""

    points: Tensor  # (B, n, d)  zero where there is padding
    weights: Tensor | None  # (B, n)  float64, sum 1, zero where there is padding; None: uniform
    valid: Tensor | None  # (B, n)  which points are not padding; None: all of them

    def masses(self) -> Tensor:
        """The weights, uniform ones written out: (B, n), float64, sum 1."""
        if self.weights is not None:
            return self.weights
        ones = self.points.new_ones(self.points.shape[:2], dtype=torch.float64)
        ones = ones if self.valid is None else ones * self.valid
        return ones / ones.sum(-1, keepdim=True)

    def mean(self) -> Tensor:
        """The mean of each cloud, (B, 1, d), summed in float64."""
        return (self.masses()[:, None] @ self.points.double()).to(self.points.dtype)

    def moved(self, shift: Tensor) -> Cloud:
        """The clouds moved by ``shift`` (B, 1, d); padding stays at zero."""
        points = self.points + shift
        return self._replace(points=points if self.valid is None else torch.where(self.valid[..., None], points, 0.0))


def centred(x: Cloud, y: Cloud) -> tuple[Cloud, Cloud, Tensor]:
    r"""Both clouds less their own means, and the difference of the means, (B, d).

    For p = 2 the cost of every plan is that of the centred clouds plus the squared distance of the means, which is the
    same for all slices and would drown what they differ by. First both are moved by the same constant, so that means
    far from the origin are not rounded.
    """
    origin = x.mean().detach()
    x, y = x.moved(-origin), y.moved(-origin)
    x_mean, y_mean = x.mean(), y.mean()
    return x.moved(-x_mean), y.moved(-y_mean), (x_mean - y_mean)[:, 0]


def as_clouds(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    x_padding_mask: Tensor | None,
    y_padding_mask: Tensor | None,
) -> tuple[Cloud, Cloud]:
    """Two batches of clouds with one leading dimension, checked: float32 or float64, of the wider of both types."""
    for name, points in (("x", x), ("y", y)):
        if not isinstance(points, Tensor) or not points.is_floating_point():
            raise ValueError(f"{name}: expected a floating point tensor of shape (..., points, d), got {shown(points)}")
        if points.ndim < 2 or 0 in points.shape[-2:]:
            raise ValueError(f"{name}: expected shape (..., points, d), both at least 1, got {tuple(points.shape)}")
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        wanted = ", ".join(map(str, (*x.shape[:-2], "m", x.shape[-1])))
        raise ValueError(f"y: expected shape ({wanted}) for x of shape {tuple(x.shape)}, got {tuple(y.shape)}")
    if x.device != y.device or x.device.type == "meta":
        raise ValueError(f"x, y: expected tensors with values on one device, got devices {x.device} and {y.device}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return as_cloud(x, a, x_padding_mask, ("x", "a"), dtype), as_cloud(y, b, y_padding_mask, ("y", "b"), dtype)


def as_cloud(
    points: Tensor, weights: Tensor | None, padding_mask: Tensor | None, names: tuple[str, str], dtype: torch.dtype
) -> Cloud:
    """Points (..., n, d) and weights (..., n); nothing behind the padding is looked at."""
    lead, name = points.shape[:-2], names[0]
    points = points.reshape(-1, *points.shape[-2:]).to(dtype)  # (B, n, d)
    valid = as_valid(padding_mask, lead, points, f"{name}_padding_mask")
    if valid is not None:
        if not valid.any(-1).all():
            raise ValueError(f"{name}_padding_mask: expected a point that is not padding in every cloud, got none")
        points = torch.where(valid[..., None], points, 0.0)
    _refuse(~points.isfinite(), points, name, "finite points")
    return Cloud(points, _as_weights(weights, lead, points, valid, names[1]), valid)


def _as_weights(
    weights: Tensor | None, lead: torch.Size, points: Tensor, valid: Tensor | None, name: str
) -> Tensor | None:
    """Weights (..., n) that expand to the points, as (B, n), float64, sum 1."""
    if weights is None:
        return None
    size = (*lead, points.shape[1])
    fits = isinstance(weights, Tensor) and weights.is_floating_point() and weights.device == points.device
    fits = fits and 0 < weights.ndim <= len(size) and weights.shape[-1] == size[-1]
    if not fits or any(m not in (1, s) for m, s in zip(reversed(weights.shape), reversed(size), strict=False)):
        raise ValueError(
            f"{name}: expected weights that expand to {size} on {points.device}, floating point, got {shown(weights)}"
        )
    slack = max(1e-9, 16 * torch.finfo(weights.dtype).eps)
    weights = weights.expand(size).reshape(-1, size[-1]).double()  # (B, n)
    if valid is not None:
        weights = torch.where(valid, weights, 0.0)
    _refuse(~weights.isfinite(), weights, name, "finite weights")
    _refuse(weights < 0, weights, name, "nonnegative weights")
    total = weights.sum(-1, keepdim=True)  # (B, 1)
    for sums in total[(total - 1).abs() > slack].tolist()[:1]:
        got = "all are zero" if sums == 0 else f"got a sum of {sums!r}"
        raise ValueError(f"{name}: expected weights that sum to 1 in every cloud, {got}")
    return weights / total


def as_directions(directions: Tensor | None, like: Tensor) -> Tensor:
    """Directions (L, d), finite, no row zero; the axes for None."""
    if directions is None:
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    fits = isinstance(directions, Tensor) and directions.is_floating_point() and directions.ndim == 2
    if not fits or directions.shape[1] != like.shape[-1] or not len(directions) or directions.device != like.device:
        raise ValueError(
            f"directions: expected None or a floating point tensor of shape (L, {like.shape[-1]}) on {like.device}, "
            f"got {shown(directions)}"
        )
    _refuse(~directions.isfinite(), directions, "directions", "finite numbers")
    zero = (directions == 0).all(-1)
    if zero.any():
        raise ValueError(f"directions: expected nonzero rows, got a zero direction at row {zero.nonzero()[0].item()}")
    return directions


def as_prior(prior: Tensor | None, directions: Tensor) -> Tensor:
    """Weights of the directions, (L,), float64, sum 1, as constants."""
    n = len(directions)
    if prior is None:
        return torch.full((n,), 1 / n, dtype=torch.float64, device=directions.device)
    if isinstance(prior, Tensor) and prior.requires_grad and torch.is_grad_enabled():
        raise ValueError("prior: expected a constant, got a tensor that requires a gradient; pass prior.detach()")
    weights = _as_weights(prior, torch.Size(), directions[None], None, "prior")
    return weights[0] if weights is not None else directions.new_empty(0)


def as_beta(beta: float | Tensor, like: Tensor) -> Tensor:
    """The inverse temperature over slices: a tensor without dimensions, >= 0; infinity selects the cheapest slices."""
    number = as_temperature(beta, "beta", torch.Size(), like)[0]
    if not number >= 0:
        raise ValueError(f"beta: expected a number >= 0, got {number.item()}")
    return number


def as_tau(tau: float | Tensor, like: Tensor) -> Tensor:
    """The temperature of the soft sort: a tensor without dimensions, > 0 and finite."""
    number = as_temperature(tau, "tau", torch.Size(), like)[0]
    if not 0 < number < torch.inf:
        raise ValueError(f"tau: expected a number > 0 and finite in {like.dtype}, got {tau!r}")
    return number


def as_exponent(p: float) -> float:
    """The exponent of the ground cost, >= 1 and finite."""
    if isinstance(p, bool) or not isinstance(p, Real) or not 1 <= p < math.inf:
        raise ValueError(f"p: expected a number >= 1 and finite, got {shown(p)}")
    return float(p)


def as_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {shown(value)}")
    return value


def finite(result: Tensor, dtype: torch.dtype) -> Tensor:
    """The result in the type of the points; ValueError where a cost is too large for it."""
    result = result.to(dtype)
    if not result.isfinite().all():
        raise ValueError(f"x, y: expected points whose cost is finite in {dtype}, got an overflow; rescale them")
    return result


def shown(x: object) -> str:
    """What came, in an error."""
    if isinstance(x, Tensor):
        return f"{tuple(x.shape)}, {x.dtype}, {x.device}"
    return repr(x) if isinstance(x, (int, float, str, type(None))) else type(x).__name__


def _refuse(bad: Tensor, values: Tensor, name: str, wanted: str) -> None:
    """ValueError that shows the first value that is bad."""
    if bad.any():
        value = values.detach()[bad][0].item()
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name}: expected {wanted}, got {value} at index {where}, leading dimensions taken as one")
