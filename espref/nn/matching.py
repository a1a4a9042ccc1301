r"""Mass matched from left to right along many directions at once: the hard plans behind :mod:`espref.nn.losses`.

Each cloud is sorted along each direction, its weights are cumulated, and the ends of both sides are merged. Between two
successive ends, mass goes from one source point to one target point: at most n + m *pieces* a slice. Points and weights
may require gradients; which piece joins which points is constant.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .clouds import Cloud

#: The most pairs of tied points that are looked at one by one, for p other than 2.
MOST_PAIRS = 50_000_000


class Ranked(NamedTuple):
    """A cloud sorted along L directions. ``mass`` and ``ends`` have one slice where all slices share them."""

    order: Tensor  # (B, L, n)  points by rank, padding last
    mass: Tensor  # (B, L or 1, n)  weights by rank, float64
    ends: Tensor  # (B, L or 1, n)  their sums up to each rank, the last one 1
    first: Tensor | None  # (B, L, n)  the first rank of the class of tied points; None: no ties


class Pieces(NamedTuple):
    """Monotone plans between ranks: piece k carries ``mass[k]`` from rank ``source[k]`` to rank ``target[k]``."""

    source: Tensor  # (B, L or 1, pieces)
    target: Tensor  # (B, L or 1, pieces)
    mass: Tensor  # (B, L or 1, pieces)  float64, sum 1


def hard_costs(x: Cloud, y: Cloud, source: Ranked, target: Ranked, p: float) -> Tensor:
    r"""The costs $c_l = \sum_{ij} |x_i - y_j|^p\, G_{l,ij}$ of the lifted plans, (B, L), without building any.

    The clouds may have been moved since they were ranked.
    """
    if source.first is not None or target.first is not None:
        return _tied_squared_costs(x, y, source, target) if p == 2 else _tied_costs(x, y, source, target, p)
    pieces = monotone_pieces(source, target)
    i, j = _at(source.order, pieces.source), _at(target.order, pieces.target)  # (B, L, pieces)
    difference = rows(x.points, i) - rows(y.points, j)  # (B, L, pieces, d)
    return (pieces.mass.to(difference.dtype) * powers(difference, p)).sum(-1)


def ranked(cloud: Cloud, directions: Tensor, ties: str) -> Ranked:
    """The cloud sorted along directions (L, d). The order is decided in float64, whatever the type of the points."""
    scores = exact_scores(cloud.points, directions)  # (B, L, n)
    if cloud.valid is not None:
        scores = scores.masked_fill(~cloud.valid[:, None], torch.inf)
    scores, order = scores.sort(dim=-1, stable=True)
    mass, ends = by_rank(cloud, order)
    return Ranked(order, mass, ends, first_of_class(scores) if ties == "split" else None)


def by_rank(cloud: Cloud, order: Tensor) -> tuple[Tensor, Tensor]:
    """Mass and ends of mass at the ranks of ``order`` (B, L, n), padding last: both (B, L or 1, n)."""
    if cloud.weights is None:  # i / n, so that i / n = j / m holds for floats where it holds for fractions
        n = cloud.points.shape[1]
        rank = torch.arange(1, n + 1, dtype=torch.float64, device=order.device)
        count = rank.new_full((len(order), 1), n) if cloud.valid is None else cloud.valid.sum(-1, keepdim=True).double()
        mass, ends = (rank <= count) / count, (rank / count).clamp(max=1)  # (B, n)
        return mass[:, None], ends[:, None]
    mass = cloud.weights[:, None].expand(order.shape).gather(-1, order)  # (B, L, n)
    ends = mass.cumsum(-1)
    return mass, ends / ends[..., -1:]


def exact_scores(points: Tensor, directions: Tensor) -> Tensor:
    """<x_i, theta_l> up to the length of theta, (B, L, n), float64: equal points tie, and grids tie along diagonals."""
    points, units = points.detach().double(), directions.detach().double()
    units = units / units.abs().amax(-1, keepdim=True)
    diagonal = ((units == 0) | (units.abs() == 1)).all(-1, keepdim=True)  # every coordinate 0, 1 or -1
    units = torch.where(diagonal, units.round(), units)  # (L, d)
    scores = points.new_zeros(len(points), len(units), points.shape[1])
    for k in range(points.shape[2]):  # one coordinate after the other: all scores are summed in the same order
        scores += units[:, k, None] * points[:, None, :, k]
    if not scores.isfinite().all():
        raise ValueError("x, y: expected points whose projections are finite, got an overflow; rescale them")
    return scores


def monotone_pieces(source: Ranked, target: Ranked) -> Pieces:
    """The pieces between two sorted clouds, n + m of them, those of mass zero included."""
    n, m = source.ends.shape[-1], target.ends.shape[-1]
    slices = max(source.ends.shape[1], target.ends.shape[1])
    both = [side.ends.expand(-1, slices, -1) for side in (source, target)]
    constant = not any(ends.requires_grad for ends in both)
    if constant and slices == 1 and n == m and torch.equal(*both):  # rank to rank
        rank = torch.arange(n, device=source.ends.device).expand(both[0].shape)
        return Pieces(rank, rank, _steps(both[0]))
    ends, order = torch.cat(both, dim=-1).sort(dim=-1, stable=True)  # (B, L or 1, n + m)
    of_source = order < n
    emptied = of_source.cumsum(-1) - of_source.long()  # ranks that end before this piece does
    filled = (~of_source).cumsum(-1) - (~of_source).long()
    return Pieces(emptied.clamp(max=n - 1), filled.clamp(max=m - 1), _steps(ends))


def _steps(ends: Tensor) -> Tensor:
    """Mass between successive ends."""
    return torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[..., :1]))


def rows(points: Tensor, index: Tensor) -> Tensor:
    """points (B, n, d) at index (B, L, k): (B, L, k, d)."""
    batch, n, _ = points.shape
    start = torch.arange(batch, device=index.device)[:, None, None] * n
    return points.flatten(0, 1).index_select(0, (index + start).flatten()).view(*index.shape, points.shape[-1])


def powers(difference: Tensor, p: float) -> Tensor:
    """|difference|^p over the last dimension; the derivative at 0 is taken to be 0, also for p = 1."""
    if p == 2:
        return difference.square().sum(-1)
    largest = difference.detach().abs().amax(-1, keepdim=True)  # squares may over- or underflow where powers do not
    scale = torch.where(largest > 0, largest, 1.0)
    squares = (difference / scale).square().sum(-1)
    distance = torch.where(squares > 0, squares, 1.0).sqrt() * scale[..., 0]
    return torch.where(squares > 0, distance**p, 0.0)


# Ties: the points of a class share its mass in proportion to their weights.


def first_of_class(scores: Tensor) -> Tensor | None:
    """The first rank of each class of equal scores (B, L, n), ascending; None without ties. Padding is no tie."""
    new = torch.ones_like(scores, dtype=torch.bool)
    new[..., 1:] = (scores[..., 1:] != scores[..., :-1]) | scores[..., 1:].isinf()
    if new.all():
        return None
    return torch.where(new, torch.arange(scores.shape[-1], device=scores.device), 0).cummax(-1).values


def _at(values: Tensor, ranks: Tensor) -> Tensor:
    """values (B, L, n) at ranks (B, L or 1, k): (B, L, k)."""
    return values.gather(-1, ranks.expand(-1, values.shape[1], -1))


def shares(mass: Tensor, first: Tensor) -> Tensor:
    """Each rank's part of the mass of its class, (B, L, n); 0 in a class without mass."""
    mass = mass.expand(first.shape)
    total = torch.zeros_like(mass).scatter_add(-1, first, mass).gather(-1, first)
    return torch.where(mass > 0, mass / torch.where(total > 0, total, 1.0), 0.0)


def _class_moments(cloud: Cloud, side: Ranked) -> tuple[Tensor, Tensor]:
    """For each rank the mean of its class, (B, L, n, d), and the mean squared distance to it, (B, L, n)."""
    points = rows(cloud.points, side.order)  # (B, L, n, d)
    if side.first is None:
        return points, points.new_zeros(points.shape[:-1])
    share, first = shares(side.mass, side.first).to(points.dtype), side.first
    index = first[..., None].expand(points.shape)
    means = torch.zeros_like(points).scatter_add(2, index, share[..., None] * points).gather(2, index)
    squares = share * (points - means).square().sum(-1)
    return means, torch.zeros_like(squares).scatter_add(-1, first, squares).gather(-1, first)


def _tied_squared_costs(x: Cloud, y: Cloud, source: Ranked, target: Ranked) -> Tensor:
    """Between two classes the mean of |x - y|^2 is |mean - mean|^2 plus both variances: O(L (n + m) d)."""
    (x_mean, x_spread), (y_mean, y_spread) = _class_moments(x, source), _class_moments(y, target)
    pieces = monotone_pieces(source, target)
    k = x_mean.shape[1]
    i, j = pieces.source.expand(-1, k, -1), pieces.target.expand(-1, k, -1)  # (B, L, pieces)
    columns = (*i.shape, x_mean.shape[-1])
    difference = x_mean.gather(2, i[..., None].expand(columns)) - y_mean.gather(2, j[..., None].expand(columns))
    costs = difference.square().sum(-1) + x_spread.gather(-1, i) + y_spread.gather(-1, j)
    return (pieces.mass.to(costs.dtype) * costs).sum(-1)


def _tied_costs(x: Cloud, y: Cloud, source: Ranked, target: Ranked, p: float) -> Tensor:
    """All pairs of points of every two matched classes, one by one: for p other than 2 nothing shorter is known."""
    batch, slices, _ = source.order.shape
    sides = [_by_class(side) for side in (source, target)]
    pieces = monotone_pieces(*(side for side, _ in sides))
    item, piece = (pieces.mass.flatten(0, 1) > 0).nonzero(as_tuple=True)  # item: of B L
    at = [ranks.flatten(0, 1)[item, piece] for ranks in (pieces.source, pieces.target)]  # last ranks of classes
    sizes = [counts.flatten(0, 1)[item, rank] for (_, counts), rank in zip(sides, at, strict=True)]
    pairs = sizes[0] * sizes[1]
    if pairs.sum() > MOST_PAIRS:
        raise ValueError(
            f"ties: expected at most {MOST_PAIRS:,} pairs of tied points for p other than 2, got {int(pairs.sum()):,}; "
            "ties='first' looks at n + m pairs"
        )
    of = torch.repeat_interleave(pairs)  # the piece that each pair belongs to
    place = torch.arange(len(of), device=of.device) - (pairs.cumsum(0) - pairs)[of]
    mass, points = pieces.mass.flatten(0, 1)[item, piece][of], []
    places = (place // sizes[1][of], place % sizes[1][of])
    for cloud, (side, _), last, back in zip((x, y), sides, at, places, strict=True):
        which, rank = item[of], last[of] - back
        if side.first is not None:
            mass = mass * shares(side.mass, side.first).flatten(0, 1)[which, rank]
        points.append(cloud.points[which // slices, side.order.flatten(0, 1)[which, rank]])  # (pairs, d)
    costs = mass.to(x.points.dtype) * powers(points[0] - points[1], p)
    return costs.new_zeros(batch * slices).index_add(0, item[of], costs).view(batch, slices)


def _by_class(side: Ranked) -> tuple[Ranked, Tensor]:
    """The same with all mass of a class at its last rank, for every slice, and the sizes of the classes there."""
    shape = side.order.shape
    rank = torch.arange(shape[-1], device=side.order.device).expand(shape)
    first = rank if side.first is None else side.first
    last = torch.ones_like(first, dtype=torch.bool)
    last[..., :-1] = first[..., 1:] != first[..., :-1]
    ends = side.ends.expand(shape)
    before = torch.where(first > 0, ends.gather(-1, (first - 1).clamp(min=0)), 0.0)
    return side._replace(ends=torch.where(last, ends, before)), rank - first + 1
