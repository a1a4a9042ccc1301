"""Transformers whose attention is chosen by one argument: for images, point sets, text and translation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import ATTENTION, AttentionChoice, DecoderBlock, Encoder, EncoderBlock, make_attention

__all__ = [
    "ATTENTION",
    "AttentionChoice",
    "DecoderBlock",
    "EncoderBlock",
    "SetTransformer",
    "TextTransformer",
    "TranslationTransformer",
    "VisionTransformer",
    "make_attention",
]


class VisionTransformer(nn.Module):
    """Square patches as tokens, with learned positions; the mean of the tokens is classified.

    Parameters
    ----------
    image_size, patch_size : int
        Sides of the square images and patches, in pixels.
    channels, classes : int
        Number of colours and of classes.
    dim, depth, heads : int
        Width of the tokens, number of encoder blocks, number of heads.
    attention : str or callable
        As in :func:`espref.nn.blocks.make_attention`.
    hidden : int, optional
        Width of the hidden layers; 4 dim by default.
    dropout : float
        Probability of dropout in the blocks.

    Raises
    ------
    ValueError
        When the patches do not tile the image, or for an unknown attention.

    See Also
    --------
    SetTransformer, TextTransformer

    Examples
    --------
    >>> import torch
    >>> from espref.nn.transformer import VisionTransformer
    >>> model = VisionTransformer(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2)
    >>> model(torch.randn(3, 1, 8, 8)).shape
    torch.Size([3, 10])
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
        attention: AttentionChoice = "esp",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"patch_size: expected a divisor of image_size = {image_size}, got {patch_size}")
        self.patches = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.positions = nn.Parameter(0.5 * torch.randn((image_size // patch_size) ** 2, dim))
        self.encoder = Encoder(dim, depth, heads, attention, hidden, dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, size, size) to logits (B, classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (B, N, dim)
        logits: Tensor = self.head(_mean(self.encoder(x + self.positions), None))
        return logits


class SetTransformer(nn.Module):
    """Points as tokens, without positions: the result does not depend on the order of the points.

    Parameters
    ----------
    features, classes : int
        Coordinates of a point and number of classes.
    dim, depth, heads : int
        Width of the tokens, number of encoder blocks, number of heads.
    attention : str or callable
        As in :func:`espref.nn.blocks.make_attention`.
    hidden : int, optional
        Width of the hidden layers; 4 dim by default.
    dropout : float
        Probability of dropout in the blocks.

    See Also
    --------
    VisionTransformer, TextTransformer

    Examples
    --------
    >>> import torch
    >>> from espref.nn.transformer import SetTransformer
    >>> model = SetTransformer(features=3, classes=10, dim=8, depth=1, heads=2)
    >>> model(torch.randn(4, 20, 3)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        *,
        features: int,
        classes: int,
        dim: int,
        depth: int,
        heads: int,
        attention: AttentionChoice = "esp",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, dim), nn.GELU(), nn.Linear(dim, dim))
        self.encoder = Encoder(dim, depth, heads, attention, hidden, dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, points: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, N, features), padding (B, N), True = ignore, to logits (B, classes)."""
        logits: Tensor = self.head(_mean(self.encoder(self.embed(points), padding), padding))
        return logits


class TextTransformer(nn.Module):
    """Tokens with learned positions; the mean of the tokens is classified.

    Parameters
    ----------
    vocabulary, classes : int
        Number of different tokens and of classes.
    length : int
        Largest number of tokens of a text.
    dim, depth, heads : int
        Width of the tokens, number of encoder blocks, number of heads.
    attention : str or callable
        As in :func:`espref.nn.blocks.make_attention`.
    hidden : int, optional
        Width of the hidden layers; 4 dim by default.
    dropout : float
        Probability of dropout in the blocks.

    See Also
    --------
    SetTransformer, TranslationTransformer

    Examples
    --------
    >>> import torch
    >>> from espref.nn.transformer import TextTransformer
    >>> model = TextTransformer(vocabulary=50, classes=2, length=9, dim=8, depth=1, heads=2)
    >>> model(torch.zeros(4, 9, dtype=torch.long)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        classes: int,
        length: int,
        dim: int,
        depth: int,
        heads: int,
        attention: AttentionChoice = "esp",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = _Tokens(vocabulary, length, dim)
        self.encoder = Encoder(dim, depth, heads, attention, hidden, dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, N) whole numbers, padding (B, N), True = ignore, to logits (B, classes)."""
        logits: Tensor = self.head(_mean(self.encoder(self.embed(tokens), padding), padding))
        return logits


class TranslationTransformer(nn.Module):
    """Encoder with the chosen attention, decoder with causal softmax attention among its own tokens.

    Cross attention is softmax by default. An ESP plan couples all target tokens to all source tokens, so with ESP cross
    attention the output of a token depends on later target tokens: a teacher-forced decoder would see the future.

    Parameters
    ----------
    source_vocabulary, target_vocabulary : int
        Number of different tokens of both languages.
    length : int
        Largest number of tokens of a sentence.
    dim, depth, heads : int
        Width of the tokens, number of encoder and of decoder blocks, number of heads.
    attention, cross_attention : str or callable
        Of the encoder, and from target to source tokens; as in :func:`espref.nn.blocks.make_attention`.
    hidden : int, optional
        Width of the hidden layers; 4 dim by default.
    dropout : float
        Probability of dropout in the blocks.

    See Also
    --------
    TextTransformer, espref.nn.blocks.DecoderBlock

    Examples
    --------
    >>> import torch
    >>> from espref.nn.transformer import TranslationTransformer
    >>> model = TranslationTransformer(
    ...     source_vocabulary=50, target_vocabulary=60, length=9, dim=8, depth=1, heads=2
    ... )
    >>> model(torch.zeros(4, 9).long(), torch.zeros(4, 7).long()).shape
    torch.Size([4, 7, 60])
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
        attention: AttentionChoice = "esp",
        cross_attention: AttentionChoice = "softmax",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.source, self.target = _Tokens(source_vocabulary, length, dim), _Tokens(target_vocabulary, length, dim)
        self.encoder = Encoder(dim, depth, heads, attention, hidden, dropout)
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
        """Source (B, N) and target (B, M) to logits of each next target token, (B, M, target_vocabulary)."""
        memory = self.encoder(self.source(source), source_padding)  # (B, N, dim)
        return self._decode(target, memory, target_padding, source_padding)

    def _decode(self, target: Tensor, memory: Tensor, padding: Tensor | None, memory_padding: Tensor | None) -> Tensor:
        x = self.target(target)  # (B, M, dim)
        for block in self.blocks:
            x = block(x, memory, padding, memory_padding)
        logits: Tensor = self.head(self.norm(x))
        return logits

    @torch.no_grad()
    def translate(
        self, source: Tensor, source_padding: Tensor | None = None, *, begin: int, end: int, limit: int
    ) -> Tensor:
        """Greedy decoding: the most likely next token, one at a time, until ``end`` or ``limit`` tokens.

        Returns (B, at most limit); tokens after the first ``end`` are ``end``.
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
        embedded: Tensor = self.embed(tokens)
        return embedded + self.positions[: tokens.shape[1]]


def _mean(x: Tensor, padding: Tensor | None) -> Tensor:
    """The mean of the tokens that are not padding, (B, N, dim) to (B, dim)."""
    if padding is None:
        return x.mean(dim=1)
    valid = (~padding).to(x.dtype)[..., None]  # (B, N, 1)
    return (x * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
