"""What transformers are made of: attention chosen by name, encoder and decoder blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import DifferentialAttention, SinkhornAttention, SoftmaxAttention
from .esp import EspAttention

#: Attention by name: each takes embed_dim and num_heads. "esp-hard-eval" trains a soft sort and evaluates a hard one.
ATTENTION: dict[str, Callable[[int, int], nn.Module]] = {
    "softmax": SoftmaxAttention,
    "sinkhorn": SinkhornAttention,
    "differential": DifferentialAttention,
    "esp": EspAttention,
    "esp-balanced": lambda dim, heads: EspAttention(dim, heads, sort="balanced"),
    "esp-hard-eval": lambda dim, heads: EspAttention(dim, heads, sort_in_eval="hard"),
}
#: A name in ``ATTENTION``, or a function from the width of the tokens and the number of heads to a module.
AttentionChoice = str | Callable[[int, int], nn.Module]


def make_attention(attention: AttentionChoice, dim: int, heads: int) -> nn.Module:
    """The attention module of that name, or ``attention(dim, heads)``.

    Parameters
    ----------
    attention : str or callable
        A name in ``ATTENTION``, or a function from ``dim`` and ``heads`` to a module.
    dim, heads : int
        Width of the tokens and number of heads.

    Returns
    -------
    nn.Module
        Called like :class:`torch.nn.MultiheadAttention`.

    Raises
    ------
    ValueError
        For a name that is not in ``ATTENTION``.

    See Also
    --------
    espref.nn.swap_attention

    Examples
    --------
    >>> from espref.nn.blocks import make_attention
    >>> make_attention("esp-balanced", 8, 2).sort
    'balanced'
    """
    if callable(attention):
        return attention(dim, heads)
    if attention not in ATTENTION:
        raise ValueError(f"attention: expected one of {', '.join(ATTENTION)} or a callable, got {attention!r}")
    return ATTENTION[attention](dim, heads)


class EncoderBlock(nn.Module):
    """Encoder block with the norms first: x + attention(norm x), then x + mlp(norm x).

    Parameters
    ----------
    dim, heads : int
        Width of the tokens and number of heads.
    attention : str or callable
        As in :func:`make_attention`.
    hidden : int, optional
        Width of the hidden layer of the mlp; 4 dim by default.
    dropout : float
        Probability with which what attention and mlp add is dropped.

    See Also
    --------
    espref.nn.blocks.Encoder, DecoderBlock

    Examples
    --------
    >>> import torch
    >>> from espref.nn.blocks import EncoderBlock
    >>> EncoderBlock(8, 2)(torch.randn(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        attention: AttentionChoice = "esp",
        *,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), make_attention(attention, dim, heads)
        self.mlp = _mlp(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, N, dim) to (B, N, dim); ``padding`` (B, N), True = ignore, as key and as query."""
        y = self.norm(x)
        x = x + self.dropout(_attend(self.attention, y, y, padding, padding))  # (B, N, dim)
        update: Tensor = self.mlp(x)
        return x + update


class DecoderBlock(nn.Module):
    """Causal softmax attention among target tokens, attention to source tokens, and an mlp, each added to x.

    Parameters
    ----------
    dim, heads : int
        Width of the tokens and number of heads.
    attention : str or callable
        The attention to the source tokens, as in :func:`make_attention`.
    hidden : int, optional
        Width of the hidden layer of the mlp; 4 dim by default.
    dropout : float
        Probability with which what attention and mlp add is dropped.

    See Also
    --------
    EncoderBlock

    Examples
    --------
    >>> import torch
    >>> from espref.nn.blocks import DecoderBlock
    >>> block = DecoderBlock(8, 2, "softmax")
    >>> block(torch.randn(3, 5, 8), torch.randn(3, 7, 8), None, None).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self, dim: int, heads: int, attention: AttentionChoice, *, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(dim), SoftmaxAttention(dim, heads)
        self.cross_norm, self.cross_attention = nn.LayerNorm(dim), make_attention(attention, dim, heads)
        self.mlp = _mlp(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor | None, memory_padding: Tensor | None) -> Tensor:
        """Target tokens (B, M, dim) and the encoded source ``memory`` (B, N, dim) to (B, M, dim)."""
        y = self.self_norm(x)
        x = x + self.dropout(_attend(self.self_attention, y, y, padding, padding, is_causal=True))
        x = x + self.dropout(_attend(self.cross_attention, self.cross_norm(x), memory, padding, memory_padding))
        update: Tensor = self.mlp(x)
        return x + update


class Encoder(nn.Module):
    """``depth`` encoder blocks and a norm.

    Parameters
    ----------
    dim, depth, heads : int
        Width of the tokens, number of blocks, number of heads.
    attention : str or callable
        As in :func:`make_attention`.
    hidden : int, optional
        Width of the hidden layers; 4 dim by default.
    dropout : float
        Probability of dropout in the blocks.

    See Also
    --------
    EncoderBlock

    Examples
    --------
    >>> import torch
    >>> from espref.nn.blocks import Encoder
    >>> encoder = Encoder(8, 2, 2, "esp", None, 0.0)
    >>> encoder(torch.randn(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self, dim: int, depth: int, heads: int, attention: AttentionChoice, hidden: int | None, dropout: float
    ) -> None:
        super().__init__()
        blocks = [EncoderBlock(dim, heads, attention, hidden=hidden, dropout=dropout) for _ in range(depth)]
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, N, dim) to (B, N, dim); ``padding`` (B, N), True = ignore."""
        for block in self.blocks:
            x = block(x, padding)  # (B, N, dim)
        normed: Tensor = self.norm(x)
        return normed


def _attend(
    module: nn.Module,
    x: Tensor,
    memory: Tensor,
    query_padding: Tensor | None,
    key_padding: Tensor | None,
    is_causal: bool = False,
) -> Tensor:
    output: Tensor
    if key_padding is not None and query_padding is None:  # no query is padding, and that is said
        query_padding = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    output, _ = module(
        x, memory, memory, key_padding, need_weights=False, is_causal=is_causal, query_padding_mask=query_padding
    )
    return output


def _mlp(dim: int, hidden: int | None, dropout: float) -> nn.Module:
    hidden = hidden or 4 * dim
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout)
    )
