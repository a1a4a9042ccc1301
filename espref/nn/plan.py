"""What the modules share whose attention matrix is a transport plan."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .functional import AttentionOutput
from .masks import Masks
from .multihead import MultiheadBase


class PlanAttention(MultiheadBase):
    """Attention whose matrix is a transport plan: general and causal masks are refused.

    In training, dropout leaves out whole keys, since there may be no matrix whose entries could be dropped: with
    probability ``dropout`` the column of a key is zero, otherwise it is multiplied by 1 / (1 - dropout). Columns then
    sum to 0 or to n / (m (1 - dropout)), and rows sum to 1 on average only.
    """

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
        if masks.general is not None:
            raise ValueError(f"attn_mask: expected None {reason}")
        keys, queries = (None if side is None else side.ignored[:, None] for side in (masks.key, masks.query))
        return keys, queries

    def dropped_keys(self, v: Tensor) -> Tensor | None:
        """Factors of the keys, (N, H, S, 1): 0 or 1 / (1 - dropout); None outside of training."""
        if not self.training or not self.dropout:
            return None
        return F.dropout(torch.ones_like(v[..., :1]), self.dropout)


def with_dropped_keys(result: AttentionOutput, kept: Tensor | None) -> AttentionOutput:
    """The matrix of a plan applied to values times ``kept``, with these factors in its columns."""
    if kept is None or result.matrix is None:
        return result
    return AttentionOutput(result.output, result.matrix * kept.mT.to(result.matrix.dtype))
