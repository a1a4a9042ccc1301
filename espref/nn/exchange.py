"""Attention of existing models exchanged: modules of PyTorch and timm in place, Hugging Face by registration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .esp import EspAttention
from .functional import esp_attention
from .multihead import MultiheadBase


def swap_attention(model: nn.Module, kind: Callable[..., nn.Module] = EspAttention, **settings: object) -> nn.Module:
    """Replace every attention of a model by ``kind``, in place, carrying its projections over; returns the model.

    Found are :class:`torch.nn.MultiheadAttention`, in stock encoder layers too, which lose their fused fast path,
    modules built like timm's ``Attention``: ``qkv`` and ``proj`` are linear, ``forward(x, attn_mask=None)``, and the
    attention of this package. A module that is used twice stays one. Dropout of attention weights is left out: there is
    no matrix to drop entries of.

    Parameters
    ----------
    model : nn.Module
        When it is such an attention itself, its replacement is returned.
    kind : class of this package
        :class:`EspAttention` and its kin, or a function with their leading arguments.
    settings
        Go to ``kind``.

    Raises
    ------
    ValueError
        Naming the module, where the projections cannot be carried over: kdim, vdim, bias_k, add_zero_attn, query and
        key norms; when there is no attention in the model. The model is then as it was.
    """
    found = {path: child for path, child in model.named_modules(remove_duplicate=False) if _is_attention(child)}
    if not found:
        raise ValueError(f"model: expected attention to replace, found none in {type(model).__name__}")
    new: dict[nn.Module, nn.Module] = {}
    for path, child in found.items():
        if child not in new:
            new[child] = _replacement(child, path or "model", kind, settings)
    for path, child in found.items():
        if path:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new[child])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
    return new.get(model, model)


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, (nn.MultiheadAttention, MultiheadBase)) or _is_fused(module)


def _is_fused(module: nn.Module) -> bool:
    """One linear map to queries, keys and values, one back, and a number of heads: timm's Attention."""
    parts = (getattr(module, "qkv", None), getattr(module, "proj", None))
    return all(isinstance(part, nn.Linear) for part in parts) and hasattr(module, "num_heads")


def _replacement(old: nn.Module, path: str, kind: Callable[..., nn.Module], settings: dict) -> nn.Module:
    if isinstance(old, nn.MultiheadAttention):
        if old.in_proj_weight is None or old.bias_k is not None or old.add_zero_attn:
            raise ValueError(f"{path}: expected MultiheadAttention without kdim, vdim, bias_k and add_zero_attn")
        return _carried(
            old.embed_dim,
            old.num_heads,
            (old.in_proj_weight, old.in_proj_bias),
            old.out_proj,
            kind,
            {"batch_first": old.batch_first, **settings},
        ).train(old.training)
    if isinstance(old, MultiheadBase):
        into = (old.in_proj.weight, old.in_proj.bias)
        settings = {"batch_first": old.batch_first, **settings}
        return _carried(old.embed_dim, old.num_heads, into, old.out_proj, kind, settings).train(old.training)
    norms = [getattr(old, name, None) for name in ("q_norm", "k_norm", "norm")]
    if any(not isinstance(norm, nn.Identity | None) for norm in norms):
        raise ValueError(f"{path}: expected attention without norms of queries, keys or heads")
    qkv, proj, heads = old.qkv, old.proj, old.num_heads
    assert isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear) and isinstance(heads, int)
    new = _carried(proj.in_features, heads, (qkv.weight, qkv.bias), proj, kind, settings)
    return _Fused(new, getattr(old, "proj_drop", nn.Identity())).train(old.training)


def _carried(
    dim: int,
    heads: int,
    into: tuple[Tensor, Tensor | None],
    out: nn.Linear,
    kind: Callable[..., nn.Module],
    settings: dict,
) -> nn.Module:
    """A module of that kind which holds the given parameters, frozen ones frozen."""
    weight, bias = into
    new = kind(dim, heads, bias=bias is not None, device=weight.device, dtype=weight.dtype, **settings)
    if not isinstance(new, MultiheadBase):
        raise ValueError(f"kind: expected an attention module of this package, got {type(new).__name__}")
    with torch.no_grad():
        for mine, theirs in (
            (new.in_proj.weight, weight),
            (new.in_proj.bias, bias),
            (new.out_proj.weight, out.weight),
            (new.out_proj.bias, out.bias),
        ):
            if mine is not None and theirs is not None:
                mine.copy_(theirs).requires_grad_(theirs.requires_grad)
            elif mine is not None:
                mine.zero_().requires_grad_(False)  # a bias on one side only
    return new


class _Fused(nn.Module):
    """Self-attention called as timm calls it."""

    def __init__(self, attention: nn.Module, dropout: nn.Module) -> None:
        super().__init__()
        self.attention, self.proj_drop = attention, dropout

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x, _ = self.attention(x, x, x, need_weights=False, attn_mask=attn_mask, is_causal=is_causal)  # (B, N, dim)
        return self.proj_drop(x)


def register_with_transformers(
    name: str = "esp",
    *,
    tau: float = 0.1,
    beta: float = 1.0,
    directions: Tensor | None = None,
    sort: str = "soft",
) -> None:
    """Make ESP attention known to Hugging Face transformers, as ``attn_implementation=name`` of bidirectional encoders.

    Padding masks hold for keys and, where there are as many queries as keys, for queries. Queries and keys are both
    multiplied by the model's ``scaling``, head_dim^(-1/2) as a rule, as in :class:`EspAttention`; tau, beta, directions
    and sort are those of :func:`espref.nn.functional.esp_attention`. The mask function is registered under the same
    name, because without one padding masks would silently be dropped. Attention dropout is left out.

    Raises
    ------
    ValueError
        When the model runs: for causal masks, and masks that differ from query to query.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        if is_causal or (is_causal is None and getattr(module, "is_causal", False) and query.shape[2] > 1):
            raise ValueError("is_causal: expected an encoder: a doubly stochastic triangular matrix is the identity")
        groups = query.shape[1] // key.shape[1]  # grouped queries share keys and values
        key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        padding = None if attention_mask is None else _padding(attention_mask)
        output = esp_attention(
            query * scale,
            key * scale,
            value,
            tau=tau,
            beta=beta,
            directions=directions,
            sort=sort,
            key_padding_mask=padding,
            query_padding_mask=padding if query.shape[2] == key.shape[2] else None,  # an encoder's own tokens
        ).output
        return output.transpose(1, 2).contiguous(), None  # (B, N, H, D)

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)


def _padding(mask: Tensor) -> Tensor:
    """(B, 1, N, M) where a query may look at a key (True or 0; False or very negative) to keys ignored, (B, 1, M)."""
    keep = mask if mask.dtype == torch.bool else mask > -1.0
    if not (keep == keep[..., :1, :]).all():
        raise ValueError("attention_mask: expected one mask of keys for all queries, got one that differs among them")
    return ~keep[..., 0, :]
