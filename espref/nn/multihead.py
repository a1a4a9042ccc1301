"""What the attention modules share: projections to heads and back, the call signature, and masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .functional import AttentionOutput


class Masks(NamedTuple):
    """The masks of a call, boolean, True = ignore."""

    key_padding: Tensor | None  # (N, S)
    query_padding: Tensor | None  # (N, L)
    attn_mask: Tensor | None  # (L, S) or (N * num_heads, L, S), as it was passed
    is_causal: bool


class MultiheadBase(nn.Module):
    """Multi-head attention; what happens between the projections is the subclass's ``attend``.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads.
    bias : bool
        Whether the projections have biases.
    batch_first : bool
        Whether batched inputs are (batch, tokens, coordinates) or (tokens, batch, coordinates).
    device, dtype
        Where and in which type the parameters are.

    Raises
    ------
    ValueError
        When embed_dim is not a positive multiple of num_heads.
    """

    matrix_is_plan = False  # a plan couples all queries and keys: in self-attention, padded keys are padded queries
    in_proj_bias = None  # stock encoder layers ask for it, and without one leave the attention to this module

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        batch_first: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim: expected a positive multiple of num_heads = {num_heads}, got {embed_dim}")
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias, device=device, dtype=dtype)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        nn.init.xavier_uniform_(self.in_proj.weight)
        if bias:
            nn.init.zeros_(self.in_proj.bias)
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        query_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of N items with L queries and S keys each.

        Parameters
        ----------
        query, key, value : (N, L, E), (N, S, E), (N, S, E)
            Also without a batch dimension or, with ``batch_first=False``, (L, N, E) and (S, N, E).
        key_padding_mask, query_padding_mask : (N, S) and (N, L), optional
            True = ignore; or floats, 0 and -inf. ESP and Sinkhorn plans couple the other tokens only; in
            self-attention, where query and key are the same tensor, ``key_padding_mask`` holds for the queries too.
        need_weights : bool
            Also return the attention matrix; True by default, as in :class:`torch.nn.MultiheadAttention`. It takes
            O(L S) memory. ESP attention never forms this matrix otherwise; requesting it costs as much as S extra value
            columns. Pass False in training.
        attn_mask : (L, S) or (N num_heads, L, S), optional
            True (or -inf) where a query must not attend to a key; refused by ESP and Sinkhorn attention.
        average_attn_weights : bool
            Average the matrix over the heads.
        is_causal : bool
            Whether a query attends to keys up to its own place only; refused by ESP and Sinkhorn attention.

        Returns
        -------
        tuple of Tensor
            The output, (N, L, E), and the matrix, (N, L, S) or (N, num_heads, L, S), or None.
        """
        if self.matrix_is_plan and query is key and query_padding_mask is None:
            query_padding_mask = key_padding_mask
        key_padding = None if key_padding_mask is None else as_boolean(key_padding_mask, "key_padding_mask")
        query_padding = None if query_padding_mask is None else as_boolean(query_padding_mask, "query_padding_mask")
        batched = query.ndim == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding = None if key_padding is None else key_padding[None]
            query_padding = None if query_padding is None else query_padding[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)
        output, weights = self.attend(q, k, v, Masks(key_padding, query_padding, attn_mask, is_causal), need_weights)
        output = self.out_proj(output.transpose(1, 2).flatten(-2))  # (N, L, E)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The heads of queries, keys and values, (N, H, tokens, E / H)."""
        weights = self.in_proj.weight.chunk(3)
        biases = (None,) * 3 if self.in_proj.bias is None else self.in_proj.bias.chunk(3)
        q, k, v = (
            torch.unflatten(F.linear(x, weight, bias), -1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        """(N, H, L, D) and twice (N, H, S, D) to the output (N, H, L, D) and the matrix (N, H, L, S) or None."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


class PlanAttention(MultiheadBase):
    """Attention whose matrix is a transport plan: general and causal masks are refused."""

    matrix_is_plan = True

    def padding_for_heads(self, masks: Masks) -> tuple[Tensor | None, Tensor | None]:
        """The masks of keys (N, 1, S) and queries (N, 1, L), with a dimension for the heads.

        Raises
        ------
        ValueError
            For causal and general attention masks.
        """
        reason = "(use key_padding_mask for padding): a doubly stochastic triangular matrix is the identity"
        if masks.is_causal:
            raise ValueError(f"is_causal: expected False {reason}")
        if masks.attn_mask is not None:
            raise ValueError(f"attn_mask: expected None {reason}")
        keys, queries = (None if mask is None else mask[:, None] for mask in (masks.key_padding, masks.query_padding))
        return keys, queries


class PairwiseAttention(MultiheadBase):
    """Attention in which a mask may exclude single pairs of query and key, causal masks included."""

    def allowed_pairs(self, q: Tensor, k: Tensor, masks: Masks) -> Tensor | None:
        """True where a query may attend to a key, (N or 1, H or 1, L, S); None: everywhere."""
        if not masks.is_causal and all(mask is None for mask in masks[:3]):
            return None
        allowed = torch.ones(1, 1, q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        if masks.is_causal:
            allowed = allowed.tril()
        if masks.attn_mask is not None:
            excluded = as_boolean(masks.attn_mask, "attn_mask")
            if excluded.ndim == 3:
                excluded = torch.unflatten(excluded, 0, (-1, self.num_heads))
            allowed = allowed & ~excluded
        if masks.key_padding is not None:
            allowed = allowed & ~masks.key_padding[:, None, None, :]
        if masks.query_padding is not None:
            allowed = allowed & ~masks.query_padding[:, None, :, None]
        return allowed


def as_boolean(mask: Tensor, name: str) -> Tensor:
    """True = ignore; stock encoder layers pass such masks on as floats, 0 and -inf."""
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point() or not ((mask == 0) | (mask == -torch.inf)).all():
        raise ValueError(f"{name}: expected booleans, or floats 0 and -inf, got {mask.dtype}")
    return mask == -torch.inf
