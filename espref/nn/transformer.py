"""Transformers whose attention is chosen by one argument: for images, point sets, text and translation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import DifferentialAttention, EspAttention, SinkhornAttention, SoftmaxAttention

#: Attention by name: each takes embed_dim and num_heads. "esp-hard-eval" trains a soft sort and evaluates a hard one.
ATTENTION: dict[str, Callable[[int, int], nn.Module]] = {
    "softmax": SoftmaxAttention,
    "sinkhorn": SinkhornAttention,
    "differential": DifferentialAttention,
    "esp": EspAttention,
    "esp-balanced": lambda dim, heads: EspAttention(dim, heads, sort="balanced"),
    "esp-hard-eval": lambda dim, heads: EspAttention(dim, heads, sort_in_eval="hard"),
}
Attention = str | Callable[[int, int], nn.Module]


def make_attention(attention: Attention, dim: int, heads: int) -> nn.Module:
    """The attention module of that name, or ``attention(dim, heads)``.

    Raises
    ------
    ValueError
        For a name that is not in ``ATTENTION``.
    """
    if callable(attention):
        return attention(dim, heads)
    if attention not in ATTENTION:
        raise ValueError(f"attention: expected one of {', '.join(ATTENTION)} or a callable, got {attention!r}")
    return ATTENTION[attention](dim, heads)


class EncoderBlock(nn.Module):
    """x + attention(norm x), then x + mlp(norm x). ``hidden`` defaults to 4 dim."""

    def __init__(
        self, dim: int, heads: int, attention: Attention = "esp", *, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), make_attention(attention, dim, heads)
        self.mlp = _mlp(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, N, dim) to (B, N, dim); ``padding`` (B, N) True = ignore, as key and as query."""
        y = self.norm(x)
        y = _attend(self.attention, y, y, padding, padding)  # (B, N, dim)
        x = x + self.dropout(y)
        return x + self.mlp(x)


class DecoderBlock(nn.Module):
    """Causal softmax attention among the target's tokens, attention to the source's, and an mlp, each added to x."""

    def __init__(
        self, dim: int, heads: int, attention: Attention, *, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(dim), SoftmaxAttention(dim, heads)
        self.cross_norm, self.cross_attention = nn.LayerNorm(dim), make_attention(attention, dim, heads)
        self.mlp = _mlp(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor | None, memory_padding: Tensor | None) -> Tensor:
        """(B, M, dim) and the encoded source (B, N, dim) to (B, M, dim)."""
        y = self.self_norm(x)
        x = x + self.dropout(self.self_attention(y, y, y, padding, need_weights=False, is_causal=True)[0])
        x = x + self.dropout(_attend(self.cross_attention, self.cross_norm(x), memory, padding, memory_padding))
        return x + self.mlp(x)


def _attend(module: nn.Module, x: Tensor, memory: Tensor, padding: Tensor | None, keys: Tensor | None) -> Tensor:
    return module(x, memory, memory, keys, need_weights=False, query_padding_mask=padding)[0]


def _mlp(dim: int, hidden: int | None, dropout: float) -> nn.Module:
    hidden = hidden or 4 * dim
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout)
    )


class _Encoder(nn.Module):
    """``depth`` blocks and a norm."""

    def __init__(
        self, dim: int, depth: int, heads: int, attention: Attention, hidden: int | None, dropout: float
    ) -> None:
        super().__init__()
        blocks = [EncoderBlock(dim, heads, attention, hidden=hidden, dropout=dropout) for _ in range(depth)]
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, padding)  # (B, N, dim)
        return self.norm(x)


def _mean(x: Tensor, padding: Tensor | None) -> Tensor:
    """Mean of the real tokens, (B, N, dim) to (B, dim)."""
    if padding is None:
        return x.mean(dim=1)
    real = (~padding).to(x.dtype)[..., None]  # (B, N, 1)
    return (x * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


class VisionTransformer(nn.Module):
    """Square patches as tokens, learned positions, the mean token classified.

    Raises ValueError when the patches do not tile the image.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        channels: int,
        classes: int,
        dim: int,
        depth: int,
        heads: int,
        attention: Attention = "esp",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"patch_size: expected a divisor of image_size = {image_size}, got {patch_size}")
        self.patches = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.positions = nn.Parameter(0.5 * torch.randn((image_size // patch_size) ** 2, dim))
        self.encoder = _Encoder(dim, depth, heads, attention, hidden, dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, size, size) to logits (B, classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (B, N, dim)
        return self.head(_mean(self.encoder(x + self.positions), None))


class SetTransformer(nn.Module):
    """Points as tokens, without positions: the result does not depend on the order of the points."""

    def __init__(
        self,
        *,
        features: int,
        classes: int,
        dim: int,
        depth: int,
        heads: int,
        attention: Attention = "esp",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, dim), nn.GELU(), nn.Linear(dim, dim))
        self.encoder = _Encoder(dim, depth, heads, attention, hidden, dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, points: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, N, features), padding (B, N) True = ignore, to logits (B, classes)."""
        return self.head(_mean(self.encoder(self.embed(points), padding), padding))


class _Tokens(nn.Module):
    """Embedded tokens with learned positions, up to ``length`` of them."""

    def __init__(self, vocabulary: int, length: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(0.5 * torch.randn(length, dim))
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N) to (B, N, dim)."""
        if tokens.shape[1] > len(self.positions):
            raise ValueError(f"tokens: expected at most length = {len(self.positions)}, got {tokens.shape[1]}")
        return self.embed(tokens) + self.positions[: tokens.shape[1]]


class TextTransformer(nn.Module):
    """Tokens with learned positions, the mean token classified."""

    def __init__(
        self,
        *,
        vocabulary: int,
        classes: int,
        length: int,
        dim: int,
        depth: int,
        heads: int,
        attention: Attention = "esp",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = _Tokens(vocabulary, length, dim)
        self.encoder = _Encoder(dim, depth, heads, attention, hidden, dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, N) whole numbers, padding (B, N) True = ignore, to logits (B, classes)."""
        return self.head(_mean(self.encoder(self.embed(tokens), padding), padding))


class TranslationTransformer(nn.Module):
    """Encoder with the chosen attention, decoder with causal softmax attention among its own tokens.

    Cross attention is softmax by default. An ESP plan is between all target and all source tokens, so that with ESP
    cross attention a token's output depends on later target tokens: a teacher-forced decoder would see the future.
    """

    def __init__(
        self,
        *,
        source_vocabulary: int,
        target_vocabulary: int,
        length: int,
        dim: int,
        depth: int,
        heads: int,
        attention: Attention = "esp",
        cross_attention: Attention = "softmax",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.source, self.target = _Tokens(source_vocabulary, length, dim), _Tokens(target_vocabulary, length, dim)
        self.encoder = _Encoder(dim, depth, heads, attention, hidden, dropout)
        blocks = [DecoderBlock(dim, heads, cross_attention, hidden=hidden, dropout=dropout) for _ in range(depth)]
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(dim)
        self.head = nn.Linear(dim, target_vocabulary)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Source (B, N), target (B, M) to logits of each next target token, (B, M, target_vocabulary)."""
        memory = self.encoder(self.source(source), source_padding)  # (B, N, dim)
        return self._decode(target, memory, target_padding, source_padding)

    def _decode(self, target: Tensor, memory: Tensor, padding: Tensor | None, memory_padding: Tensor | None) -> Tensor:
        x = self.target(target)  # (B, M, dim)
        for block in self.blocks:
            x = block(x, memory, padding, memory_padding)
        return self.head(self.norm(x))

    @torch.no_grad()
    def translate(
        self, source: Tensor, source_padding: Tensor | None = None, *, begin: int, end: int, limit: int
    ) -> Tensor:
        """The most likely next token, one at a time, until ``end`` or ``limit`` tokens: (B, at most limit).

        Tokens behind an ``end`` are ``end``.
        """
        memory = self.encoder(self.source(source), source_padding)
        target = torch.full((len(source), 1), begin, device=source.device)  # (B, 1)
        done = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        for _ in range(limit):
            token = self._decode(target, memory, None, source_padding)[:, -1].argmax(-1)  # (B,)
            token = torch.where(done, end, token)
            target, done = torch.cat([target, token[:, None]], dim=1), done | (token == end)
            if bool(done.all()):
                break
        return target[:, 1:]
