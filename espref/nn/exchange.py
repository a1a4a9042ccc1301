"""Exchange the attention of existing models: modules of PyTorch and timm in place, Hugging Face by registration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .esp import EspAttention
from .functional import esp_attention
from .multihead import MultiheadBase


def swap_attention(model: nn.Module, kind: Callable[..., nn.Module] = EspAttention, **settings: object) -> nn.Module:
    """Replace every attention module of a model, in place, and carry its projections over.

    Three kinds of modules are replaced: :class:`torch.nn.MultiheadAttention`, also within stock encoder layers, which
    lose their fused fast path; modules built like timm's ``Attention``, with linear ``qkv`` and ``proj`` and
    ``forward(x, attn_mask=None)``; and the attention modules of this package. A module that is used twice stays one.
    Dropout of attention weights is not carried over: there is no matrix whose entries could be dropped.

    Parameters
    ----------
    model : nn.Module
        The model; if it is itself an attention module, its replacement is returned.
    kind : class or function
        :class:`EspAttention` or another attention class of this package, or a function that takes the same leading
        arguments and returns such a module.
    settings
        Passed to ``kind``.

    Returns
    -------
    nn.Module
        The model.

    Raises
    ------
    ValueError
        Naming the module whose projections cannot be carried over (kdim, vdim, bias_k, add_zero_attn, norms of queries
        and keys), or when there is no attention in the model. The model is then unchanged.
    """
    modules = {path: child for path, child in model.named_modules(remove_duplicate=False) if _is_attention(child)}
    if not modules:
        raise ValueError(f"model: expected attention to replace, found none in {type(model).__name__}")
    new: dict[nn.Module, nn.Module] = {}
    for path, child in modules.items():
        if child not in new:
            new[child] = _replacement(child, path or "model", kind, settings).train(child.training)
            owner = model.get_submodule(path.rpartition(".")[0])
            stock = isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
            vars(new[child]).update(self_attention=stock and path.endswith("self_attn"))
    for path, child in modules.items():
        if path:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new[child])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
    return new.get(model, model)


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, (nn.MultiheadAttention, MultiheadBase)) or _is_like_timm(module)


def _is_like_timm(module: nn.Module) -> bool:
    """One linear map to queries, keys and values, one back, and a number of heads: timm's Attention."""
    parts = (getattr(module, "qkv", None), getattr(module, "proj", None))
    return all(isinstance(part, nn.Linear) for part in parts) and hasattr(module, "num_heads")


class Projections(NamedTuple):
    """What is carried over."""

    dim: int
    heads: int
    in_weight: Tensor  # (3 dim, dim)
    in_bias: Tensor | None  # (3 dim,)
    out: nn.Linear


def _replacement(old: nn.Module, path: str, kind: Callable[..., nn.Module], settings: dict[str, object]) -> nn.Module:
    if isinstance(old, nn.MultiheadAttention):
        if old.in_proj_weight is None or old.bias_k is not None or old.add_zero_attn:
            raise ValueError(f"{path}: expected MultiheadAttention without kdim, vdim, bias_k and add_zero_attn")
        projections = Projections(old.embed_dim, old.num_heads, old.in_proj_weight, old.in_proj_bias, old.out_proj)
        return _carried(projections, kind, {"batch_first": old.batch_first, **settings})
    if isinstance(old, MultiheadBase):
        projections = Projections(old.embed_dim, old.num_heads, old.in_proj.weight, old.in_proj.bias, old.out_proj)
        return _carried(projections, kind, {"batch_first": old.batch_first, **settings})
    norms = [getattr(old, name, None) for name in ("q_norm", "k_norm", "norm")]
    if any(not isinstance(norm, nn.Identity | None) for norm in norms):
        raise ValueError(f"{path}: expected attention without norms of queries, keys or heads")
    qkv, proj, heads = old.qkv, old.proj, old.num_heads
    assert isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear) and isinstance(heads, int)
    new = _carried(Projections(proj.in_features, heads, qkv.weight, qkv.bias, proj), kind, settings)
    return _LikeTimm(new, getattr(old, "proj_drop", nn.Identity()))


def _carried(old: Projections, kind: Callable[..., nn.Module], settings: dict[str, Any]) -> nn.Module:
    """A module of that kind with the given parameters; what was frozen stays frozen."""
    weight, bias = old.in_weight, old.in_bias
    new = kind(old.dim, old.heads, bias=bias is not None, device=weight.device, dtype=weight.dtype, **settings)
    if not isinstance(new, MultiheadBase):
        raise ValueError(f"kind: expected an attention module of this package, got {type(new).__name__}")
    with torch.no_grad():
        for mine, theirs in (
            (new.in_proj.weight, weight),
            (new.in_proj.bias, bias),
            (new.out_proj.weight, old.out.weight),
            (new.out_proj.bias, old.out.bias),
        ):
            if mine is not None and theirs is not None:
                mine.copy_(theirs).requires_grad_(theirs.requires_grad)
            elif mine is not None:
                mine.zero_().requires_grad_(False)  # the old module has a bias on one side only
    return new


class _LikeTimm(nn.Module):
    """Self-attention that is called as timm's Attention is."""

    def __init__(self, attention: nn.Module, dropout: nn.Module) -> None:
        super().__init__()
        self.attention, self.proj_drop = attention, dropout

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x, _ = self.attention(x, x, x, need_weights=False, attn_mask=attn_mask, is_causal=is_causal)  # (B, N, dim)
        dropped: Tensor = self.proj_drop(x)
        return dropped


def register_with_transformers(
    name: str = "esp",
    *,
    tau: float = 0.1,
    beta: float = 1.0,
    directions: Tensor | None = None,
    sort: str = "soft",
) -> None:
    """Register ESP attention with Hugging Face transformers, as ``attn_implementation=name`` of bidirectional encoders.

    Padding masks apply to keys and, where there are as many queries as keys, to queries. Queries and keys are both
    multiplied by the model's ``scaling``, usually head_dim^(-1/2), as in :class:`EspAttention`. The mask function is
    registered under the same name, because without one padding masks would silently be dropped. Dropout of attention
    weights is not applied.

    Parameters
    ----------
    name : str
        Name of the implementation.
    tau, beta : float
        Temperature of the soft sort and inverse temperature over slices, both fixed.
    directions : (L, head_dim) tensor, optional
        Slicers; the axes by default.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort.

    Raises
    ------
    ValueError
        When the model runs: for causal masks, and for masks that differ from query to query.
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
    """The padded keys, (B, 1, M), of a mask (B, 1, N, M) that is True or 0 where a query may attend to a key."""
    allowed: Tensor = mask if mask.dtype == torch.bool else mask > -1.0
    if not (allowed == allowed[..., :1, :]).all():
        raise ValueError("attention_mask: expected the same mask for all queries, got masks that differ")
    return ~allowed[..., 0, :]
