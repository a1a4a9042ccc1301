"""What stands in the place of timm's attention: its own projections, with another attention between them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .esp import EspAttention
from .known import type_name
from .masks import Masks, Padding
from .multihead import MultiheadBase

#: timm's plain attention -> how its input is laid out. Each has ``qkv``, ``proj``, ``num_heads`` and
#: ``scale``; scores are scalar products of queries and keys times the scale, and nothing else.
LAYOUTS = {
    "timm.layers.attention.Attention": "B N C",
    "timm.models.convit.MHSA": "B N C",
    "timm.models.davit.WindowAttention": "B N C",
    "timm.models.metaformer.Attention": "B N C",
    "timm.models.nest.Attention": "B T N C",
    "timm.models.volo.Attention": "B H W C",
    "timm.models.fastvit.Attention": "B C H W",
}
_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop", "softmax"}


def reason_against_parts(old: nn.Module) -> str | None:
    """What an instance of timm's attention has beside the parts that are known, or lacks; None: nothing."""
    names = {*dict(old.named_children()), *dict(old.named_parameters(recurse=False)), *old._buffers}
    if names - _PARTS:
        return f"unknown parts: {', '.join(sorted(names - _PARTS))}"
    if not {"qkv", "proj"} <= names:
        return "expected the parts qkv and proj"
    return None


class ExchangedAttention(nn.Module):
    """Self-attention that is called as timm's, with its submodules under their names, so that state dicts load.

    Parameters
    ----------
    old : nn.Module
        One of timm's plain attention modules, or one of this class; its submodules are used, not copied.
    core : MultiheadBase
        What computes outputs from heads; its own projections are not used.
    """

    qkv: nn.Module
    proj: nn.Module
    gate: nn.Module
    layout: str
    factor: float

    def __init__(self, old: nn.Module, core: MultiheadBase) -> None:
        super().__init__()
        self.num_heads, self.core = core.num_heads, core
        for name, part in old.named_children():
            if name not in ("core", "attn_drop", "softmax"):  # the core does what these did
                self.add_module(name, part)
        if isinstance(old, ExchangedAttention):
            self.layout, self.factor = old.layout, old.factor
            return
        self.layout = LAYOUTS[type_name(old)]
        # Fused kernels multiply by head_dim^(-1/2), as the core does, whatever the attribute says.
        head_dim = core.embed_dim // core.num_heads
        factor = float(old.scale) * math.sqrt(head_dim)  # type: ignore[arg-type]
        self.factor = 1.0 if getattr(old, "fused_attn", False) or math.isclose(factor, 1) else factor

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens in the layout of the module, and a mask that expands to (B, H, N, N), True or 0 = attend."""
        tokens = self._tokens(x)  # (B, N, C)
        batch, n, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, H, N, D)
        q, k = self._part("q_norm", q), self._part("k_norm", k)
        if self.factor != 1:
            q, k = q * self.factor, k * self.factor if isinstance(self.core, EspAttention) else k
        masks = self._masks(attn_mask, batch, n, is_causal)
        y, _ = self.core.attend(q, k, v, masks, need_weights=False)
        y = y.permute(0, 2, 3, 1) if self.layout == "B T N C" else y.transpose(1, 2)  # nest: the head comes last
        y = self._part("norm", y.reshape(batch, n, -1))
        if "gate" in self._modules:
            y = y * self.gate(tokens).sigmoid()
        return self._untokens(self._part("proj_drop", self.proj(y)), x)

    def _part(self, name: str, x: Tensor) -> Tensor:
        part = self._modules.get(name)
        return x if part is None else part(x)

    def _tokens(self, x: Tensor) -> Tensor:
        if self.layout == "B C H W":
            return x.flatten(2).transpose(1, 2)
        if self.layout == "B H W C":
            return x.flatten(1, 2)
        return x.flatten(0, 1) if self.layout == "B T N C" else x

    def _untokens(self, y: Tensor, x: Tensor) -> Tensor:
        if self.layout == "B C H W":
            return y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        return y.reshape(*x.shape[:-1], -1)

    def _masks(self, attn_mask: Tensor | None, batch: int, n: int, is_causal: bool) -> Masks:
        if attn_mask is None:
            return Masks(None, None, None, is_causal)
        if self.core.matrix_is_plan:
            padding = Padding(padding_of(attn_mask.expand(batch, *attn_mask.shape[-3:-2], n, n), "attn_mask"), None)
            return Masks(padding, padding, None, is_causal)
        general = attn_mask if attn_mask.ndim == 4 else attn_mask.expand(1, 1, n, n)
        return Masks(None, None, ~general if general.dtype == torch.bool else general, is_causal)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, layout={self.layout!r}"


def padding_of(mask: Tensor, name: str) -> Tensor:
    """The padded tokens (B, N), True = ignore, of a self-attention's mask (B, ..., N, N), True or 0 = attend.

    Rows of padded tokens do not matter: some masks let them attend to valid ones, some to nothing.

    Raises
    ------
    ValueError
        When the mask is not one of padding: it differs from query to query, or from head to head, or is a bias.
    """
    if mask.dtype != torch.bool:
        attend, ignore = mask == 0, mask <= torch.finfo(mask.dtype).min / 2
        if not (attend | ignore).all():
            raise ValueError(f"{name}: expected a mask of padding, got a bias, which attention by plans cannot use")
        mask = attend
    valid = mask.any(-2)  # (B, ..., N): keys that some query attends to
    if not (mask | ~valid[..., :, None]).eq(valid[..., None, :] | ~valid[..., :, None]).all():
        raise ValueError(f"{name}: expected a mask of padding, got one that differs from query to query")
    if valid.ndim > 2:
        if not (valid == valid[:, :1]).all():
            raise ValueError(f"{name}: expected a mask of padding, got one that differs from head to head")
        valid = valid[:, 0]
    return ~valid
