"""Attention modules with the call signature of :class:`torch.nn.MultiheadAttention`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .functional import AttentionOutput, differential_attention, sinkhorn_attention, softmax_attention
from .masks import Masks
from .multihead import MultiheadBase
from .plan import PlanAttention, with_dropped_keys


class PairwiseAttention(MultiheadBase):
    """Attention in which a mask may exclude single pairs of query and key, causal masks included."""

    def allowed_pairs(self, q: Tensor, k: Tensor, masks: Masks) -> tuple[Tensor | None, Tensor | None]:
        """Which queries may attend to which keys, and what is added to the scores; None: all, nothing."""
        return masks.pairs(q.shape[-2], k.shape[-2], q.device)


class SoftmaxAttention(PairwiseAttention):
    """Multi-head scaled dot-product attention on :func:`torch.nn.functional.scaled_dot_product_attention`.

    A query that may attend to no key gives zeros.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads.
    dropout, bias, kdim, vdim, batch_first, self_attention, device, dtype : optional
        As in :class:`torch.nn.MultiheadAttention`, but ``batch_first`` is True by default. ``self_attention``: whether
        queries and keys are always the same tokens, so that ``key_padding_mask`` holds for both.

    Raises
    ------
    ValueError
        When embed_dim is not a positive multiple of num_heads.

    See Also
    --------
    EspAttention, espref.nn.functional.softmax_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn import SoftmaxAttention
    >>> x = torch.randn(2, 5, 8)
    >>> output, weights = SoftmaxAttention(8, 2)(x, x, x)
    >>> output.shape, weights.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 5, 5]))

    References
    ----------
    vaswani2017attention
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        allowed, bias = self.allowed_pairs(q, k, masks)
        dropout = self.dropout if self.training else 0.0
        return softmax_attention(q, k, v, allowed=allowed, bias=bias, dropout=dropout, need_weights=need_weights)


class DifferentialAttention(PairwiseAttention):
    r"""Multi-head differential attention: the difference of two softmax maps, normalised head by head.

    One half of a head's coordinates makes the first map, the other half the second, which is multiplied by a trained
    $\lambda = e^{\langle a_1, b_1 \rangle} - e^{\langle a_2, b_2 \rangle} + \lambda_0$, whose vectors all heads share.
    Each head's output is normalised to root mean square 1 and multiplied by $1 - \lambda_0$.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads, with embed_dim / num_heads even.
    lambda_init : float
        $\lambda_0$ in [0, 1).
    dropout, bias, kdim, vdim, batch_first, self_attention, device, dtype : optional
        As in :class:`torch.nn.MultiheadAttention`, but ``batch_first`` is True by default. ``self_attention``: whether
        queries and keys are always the same tokens, so that ``key_padding_mask`` holds for both.

    Raises
    ------
    ValueError
        For settings outside these ranges.

    See Also
    --------
    SoftmaxAttention, espref.nn.functional.differential_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn import DifferentialAttention
    >>> x = torch.randn(2, 5, 8)
    >>> output, weights = DifferentialAttention(8, 2)(x, x, x)
    >>> output.shape, weights.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 5, 5]))

    References
    ----------
    ye2025differential
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        lambda_init: float = 0.2,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
        self_attention: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            dropout=dropout,
            bias=bias,
            kdim=kdim,
            vdim=vdim,
            batch_first=batch_first,
            self_attention=self_attention,
            device=device,
            dtype=dtype,
        )
        head_dim = embed_dim // num_heads
        if head_dim % 2:
            raise ValueError(f"embed_dim: expected an even number of coordinates per head, got {head_dim}")
        if not 0 <= lambda_init < 1:
            raise ValueError(f"lambda_init: expected a number in [0, 1), got {lambda_init!r}")
        self.lambda_init = lambda_init
        self.vectors = nn.Parameter(torch.empty(2, 2, head_dim // 2, device=device, dtype=dtype))
        self.norm = nn.RMSNorm(head_dim, device=device, dtype=dtype)
        nn.init.normal_(self.vectors, std=0.1)

    def reset_parameters(self) -> None:
        """Draw the vectors anew, and the projections."""
        super().reset_parameters()
        nn.init.normal_(self.vectors, std=0.1)
        self.norm.reset_parameters()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        allowed, bias = self.allowed_pairs(q, k, masks)
        first, second = self.vectors.prod(dim=1).sum(-1).exp()
        mix = first - second + self.lambda_init
        output, matrix = differential_attention(
            q,
            k,
            v,
            mix=mix,
            allowed=allowed,
            bias=bias,
            dropout=self.dropout if self.training else 0.0,
            need_weights=need_weights,
        )
        output = self.norm(output.to(self.norm.weight.dtype))  # under autocast heads are narrower than its weights
        return AttentionOutput(output * (1 - self.lambda_init), matrix)


class SinkhornAttention(PlanAttention):
    """Multi-head Sinkhorn attention: rows and columns of the exponentials of the scores normalised in turn.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads.
    n_iter : int
        Number of iterations, >= 1, each of one row and one column normalisation.
    dropout, bias, kdim, vdim, batch_first, self_attention, device, dtype : optional
        As in :class:`torch.nn.MultiheadAttention`, but ``batch_first`` is True by default. ``self_attention``: whether
        queries and keys are always the same tokens, so that ``key_padding_mask`` holds for both.

    Raises
    ------
    ValueError
        For settings outside these ranges; for causal masks and general attention masks, because a doubly stochastic
        triangular matrix is the identity.

    See Also
    --------
    EspAttention, espref.nn.functional.sinkhorn_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn import SinkhornAttention
    >>> x = torch.randn(2, 5, 8)
    >>> output, weights = SinkhornAttention(8, 2)(x, x, x)
    >>> output.shape, weights.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 5, 5]))

    References
    ----------
    sander2022sinkformers
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        n_iter: int = 5,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
        self_attention: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            dropout=dropout,
            bias=bias,
            kdim=kdim,
            vdim=vdim,
            batch_first=batch_first,
            self_attention=self_attention,
            device=device,
            dtype=dtype,
        )
        if not isinstance(n_iter, int) or n_iter < 1:
            raise ValueError(f"n_iter: expected a positive whole number, got {n_iter!r}")
        self.n_iter = n_iter

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        key_padding_mask, query_padding_mask = self.padding_for_heads(masks)
        kept = self.dropped_keys(v)
        result = sinkhorn_attention(
            q,
            k,
            v if kept is None else v * kept,
            n_iter=self.n_iter,
            key_padding_mask=key_padding_mask,
            query_padding_mask=query_padding_mask,
            need_weights=need_weights,
        )
        return with_dropped_keys(result, kept)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, n_iter={self.n_iter}"
