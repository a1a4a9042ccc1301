"""Tokens that are not padding: how many there are, and the monotone plan between the ranks of two such sets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def valid_count(x: Tensor, valid: Tensor | None) -> Tensor:
    """Number of valid tokens of x (B, N, E), (B, 1), at least 1; ``valid`` (B, N), None: all of them."""
    if valid is None:
        return x.new_full((len(x), 1), x.shape[1])
    return valid.sum(-1, keepdim=True).clamp(min=1).to(x.dtype)


class RankPlan(NamedTuple):
    """The monotone plans A (B, N, M) between ranks, one for each batch item, held by their pieces."""

    source: Tensor  # (B, pieces)  ranks
    target: Tensor  # (B, pieces)
    mass: Tensor  # (B, pieces)  of total 1

    def apply(self, x: Tensor, n: int) -> Tensor:
        """A x: target ranks (B, G, M, E) to source ranks (B, G, n, E)."""
        shape = (x.shape[0], x.shape[1], self.target.shape[1], x.shape[3])
        pieces = x.gather(2, self.target[:, None, :, None].expand(shape)) * self.mass[:, None, :, None]
        result = x.new_zeros(x.shape[0], x.shape[1], n, x.shape[3])
        return result.scatter_add(2, self.source[:, None, :, None].expand(shape), pieces)

    def transpose(self) -> RankPlan:
        """A^T."""
        return RankPlan(self.target, self.source, self.mass)


def rank_plan(q: Tensor, k: Tensor, query_valid: Tensor | None, key_valid: Tensor | None) -> RankPlan | None:
    """The plan between the ranks of q (B, N, E) and k (B, M, E); None where it is 1/n times the identity.

    With n and m valid tokens, rank i of n covers ((i - 1) / n, i / n] and rank j of m covers ((j - 1) / m, j / m];
    A_ij is the length of their overlap. Ends are counted in units of 1 / (n m), in whole numbers.
    """
    (batch, rows, _), cols = q.shape, k.shape[1]
    if rows == cols and query_valid is None and key_valid is None:
        return None
    ones = torch.ones(batch, 1, dtype=torch.long, device=q.device)
    n = rows * ones if query_valid is None else query_valid.sum(-1, keepdim=True)  # (B, 1)
    m = cols * ones if key_valid is None else key_valid.sum(-1, keepdim=True)
    if rows == cols and q.device.type == "cpu" and bool((n == m).all()):  # elsewhere the question is a wait
        return None
    total = (n * m).clamp(min=1)
    source_ends = ((torch.arange(rows, device=q.device) + 1) * m).minimum(total)
    target_ends = ((torch.arange(cols, device=q.device) + 1) * n).minimum(total)
    ends, order = torch.cat([source_ends, target_ends], dim=1).sort(dim=1, stable=True)
    of_source = order < rows
    source = (of_source.cumsum(1) - of_source.long()).clamp(max=rows - 1)  # ranks that end before this piece does
    target = ((~of_source).cumsum(1) - (~of_source).long()).clamp(max=cols - 1)
    mass = torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1])).to(q.dtype) / total
    return RankPlan(source, target, mass * ((n > 0) & (m > 0)))
