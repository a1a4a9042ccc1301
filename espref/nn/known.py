"""Which modules are attention among tokens, and why some of them cannot be exchanged.

Types are compared by their full names, so that neither timm nor transformers is imported. A subclass is another type,
which may compute something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

_ROTARY = "rotary positions turn queries and keys, so that scores depend on places"
_BIASES = "a bias for each pair of places, relative positions, is added to the scores"
_REDUCED = "keys and values come from fewer tokens than queries, by strides or pooling"
_CHANNELS = "channel attention: a matrix among channels, not among tokens"
_CLASS = "class attention: one query, the class token"
_LINEAR = "linear attention: the softmax, if there is one, is not over pairs of tokens"
_BLOCK = "attention and the other layers of the block share their projections"
_POOLED = "queries are pooled, so that there are fewer outputs than inputs"
_POOLING = "attention pooling: learned queries, of other tokens than the keys"

#: Types that are no attention among tokens, whatever they are called -> what they are. They are left as they are.
NO_ATTENTION = {
    **dict.fromkeys(
        [
            "timm.layers.cbam.ChannelAttn",
            "timm.layers.cbam.LightChannelAttn",
            "timm.layers.cbam.LightSpatialAttn",
            "timm.layers.cbam.SpatialAttn",
            "timm.layers.coord_attn.CoordAttn",
            "timm.layers.coord_attn.EfficientLocalAttn",
            "timm.layers.coord_attn.SimpleCoordAttn",
            "timm.layers.coord_attn.StripAttn",
            "timm.layers.non_local_attn.BatNonLocalAttn",
            "timm.layers.non_local_attn.BilinearAttnTransform",
            "timm.layers.selective_kernel.SelectiveKernelAttn",
            "timm.layers.split_attn.SplitAttn",
        ],
        "a gate that weighs channels or places, with no matrix among tokens",
    ),
    "timm.models.efficientvim.HSMSSD": "a state space model, with no matrix among tokens",
    "timm.models.nextvit.ConvAttention": "a grouped convolution, with no matrix among tokens",
}
#: Types of attention that are not exchanged -> why.
OTHERS = {
    "timm.layers.attention.AttentionRope": _ROTARY,
    "timm.layers.attention2d.Attention2d": _REDUCED,
    "timm.layers.attention2d.MultiQueryAttention2d": f"heads share keys and values; {_REDUCED}",
    "timm.layers.attention2d.MultiQueryAttentionV2": f"heads share keys and values; {_REDUCED}",
    "timm.layers.attention_pool.AttentionPoolLatent": _POOLING,
    "timm.layers.attention_pool.AttentionPoolPrr": _POOLING,
    "timm.layers.attention_pool2d.AttentionPool2d": _POOLING,
    "timm.layers.attention_pool2d.RotAttentionPool2d": _POOLING,
    "timm.layers.bottleneck_attn.BottleneckAttn": _BIASES,
    "timm.layers.diff_attention.DiffAttention": "differential attention: the difference of two softmax matrices",
    "timm.layers.halo_attn.HaloAttn": f"keys come from a larger window than queries; {_BIASES}",
    "timm.layers.lambda_layer.LambdaLayer": _LINEAR,
    "timm.layers.non_local_attn.NonLocalAttn": "scores of whole feature maps, without heads",
    "timm.models.beit.Attention": _BIASES,
    "timm.models.cait.ClassAttn": _CLASS,
    "timm.models.cait.TalkingHeadAttn": "talking heads: scores and weights of different heads are mixed",
    "timm.models.coat.FactorAttnConvRelPosEnc": _LINEAR,
    "timm.models.convit.GPSA": f"weights mix the scores with ones of places; {_BIASES}",
    "timm.models.cpubone.ConvAttention": _REDUCED,
    "timm.models.crossvit.CrossAttention": "cross attention of a class token to the tokens of another branch",
    "timm.models.csatv2.SpatialAttention": "scores of single numbers, without heads",
    "timm.models.davit.ChannelAttention": _CHANNELS,
    "timm.models.davit.ChannelAttentionV2": _CHANNELS,
    "timm.models.edgenext.CrossCovarianceAttn": _CHANNELS,
    "timm.models.efficientformer.Attention": _BIASES,
    "timm.models.efficientformer_v2.Attention2d": f"talking heads: scores of different heads are mixed; {_BIASES}",
    "timm.models.efficientformer_v2.Attention2dDownsample": f"{_REDUCED}; {_BIASES}",
    "timm.models.efficientvit_mit.LiteMLA": _LINEAR,
    "timm.models.efficientvit_msra.CascadedGroupAttention": f"each head reads the output of the one before; {_BIASES}",
    "timm.models.eva.EvaAttention": _ROTARY,
    "timm.models.gcvit.WindowAttentionGlobal": _BIASES,
    "timm.models.gemma4_vit.Gemma4Attention": _ROTARY,
    "timm.models.hiera.MaskUnitAttention": _POOLED,
    "timm.models.hieradet_sam2.MultiScaleAttention": _POOLED,
    "timm.models.iformer.SHMA": "projections are convolutions, and windows at the border are filled up with zeros",
    "timm.models.levit.Attention": _BIASES,
    "timm.models.levit.AttentionDownsample": f"{_REDUCED}; {_BIASES}",
    "timm.models.lowformer.ConvAttention": _REDUCED,
    "timm.models.maxxvit.Attention2d": _BIASES,
    "timm.models.maxxvit.AttentionCl": _BIASES,
    "timm.models.mobilevit.LinearSelfAttention": _LINEAR,
    "timm.models.mvitv2.MultiScaleAttention": f"queries, keys and values are pooled; {_BIASES}",
    "timm.models.mvitv2.MultiScaleAttentionPoolFirst": f"queries, keys and values are pooled; {_BIASES}",
    "timm.models.nextvit.EfficientAttention": _REDUCED,
    "timm.models.pvt_v2.Attention": _REDUCED,
    "timm.models.shvit.SHSA": "projections are convolutions, and only some of the channels take part",
    "timm.models.swiftformer.EfficientAdditiveAttention": _LINEAR,
    "timm.models.swin_transformer.WindowAttention": _BIASES,
    "timm.models.swin_transformer_v2.WindowAttention": f"scores are cosines; {_BIASES}",
    "timm.models.swin_transformer_v2_cr.WindowMultiHeadAttention": f"scores are cosines; {_BIASES}",
    "timm.models.tiny_vit.Attention": _BIASES,
    "timm.models.tnt.Attention": "heads of queries and keys are of another width than heads of values",
    "timm.models.twins.GlobalSubSampleAttn": _REDUCED,
    "timm.models.twins.LocallyGroupedAttn": "windows at the border are filled up with zeros, which take part as tokens",
    "timm.models.visformer.Attention": "projections are convolutions",
    "timm.models.vision_transformer.DiffParallelScalingBlock": _BLOCK,
    "timm.models.vision_transformer.ParallelScalingBlock": _BLOCK,
    "timm.models.vision_transformer_relpos.RelPosAttention": _BIASES,
    "timm.models.vision_transformer_sam.Attention": f"{_ROTARY}, or {_BIASES}",
    "timm.models.volo.ClassAttention": _CLASS,
    "timm.models.volo.OutlookAttention": "outlook attention: weights come from one token alone, without keys",
    "timm.models.xcit.XCA": _CHANNELS,
}
_NAMES = re.compile(r"attention|attn", re.IGNORECASE)
#: Functions that attention is computed with, wherever a module calls them.
_CALLS = {"scaled_dot_product_attention", "multi_head_attention_forward", "flash_attn_func", "ALL_ATTENTION_FUNCTIONS"}
_HEADS = ("num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads")


def type_name(module: nn.Module) -> str:
    """The full name of the type, ``torch.nn.modules.activation.MultiheadAttention``."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def reason_against(module: nn.Module) -> str:
    """Why an attention module of no known type is not exchanged."""
    name = type_name(module)
    if name in OTHERS or name in NO_ATTENTION:
        return OTHERS.get(name) or NO_ATTENTION[name]
    if isinstance(module, nn.MultiheadAttention):
        return "a subclass of nn.MultiheadAttention, or one with parametrized weights, may compute something else"
    if name.startswith("transformers."):
        return "attention of transformers: espref.nn.register_with_transformers is the way"
    if name.startswith("peft."):
        return "adapters of peft: exchange the attention first, then add them"
    return "not a type of attention that is known to be plain"


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> module that is or seems to be attention; a module that occurs twice has both its paths."""
    found = {path: module for path, module in model.named_modules(remove_duplicate=False) if _seems_attention(module)}
    return {path: module for path, module in found.items() if not _only_holds(module)}


def _seems_attention(module: nn.Module) -> bool:
    """By the name of its type, or by what it calls."""
    if type(module).__module__.startswith("torch.nn.modules"):
        return type(module) is nn.MultiheadAttention
    if type_name(module) in OTHERS or type_name(module) in NO_ATTENTION:
        return True
    return bool(_NAMES.search(type(module).__name__)) or _computes(module)


def _only_holds(module: nn.Module) -> bool:
    """Whether a module is called attention because another module within it is."""
    name = type_name(module)
    if (
        name in OTHERS
        or name in NO_ATTENTION
        or name.startswith("espref.")
        or isinstance(module, nn.MultiheadAttention)
        or _computes(module)
    ):
        return False
    return any(_seems_attention(part) for part in module.modules() if part is not module)


def _computes(module: nn.Module) -> bool:
    """Whether the code of its class calls one of the functions of attention, or has heads and calls a softmax."""
    names = names_used(module)
    has_heads = any(isinstance(getattr(module, name, None), int) for name in _HEADS)
    return bool(names & _CALLS) or ("softmax" in names and has_heads)


def names_used(module: nn.Module) -> set[str]:
    """The attributes and global names in the code of the module's class."""
    return {name for code in _codes(type(module)) for name in code.co_names}


def grouped(found: dict[str, str]) -> list[str]:
    """One text for each value: the first path, how many more there are, and the value."""
    paths: dict[str, list[str]] = {}
    for path, text in found.items():
        paths.setdefault(text, []).append(path or "model")
    return [
        f"{first}{f' and {len(others)} more' if others else ''}: {text}" for text, (first, *others) in paths.items()
    ]


def _codes(kind: type) -> Iterator[CodeType]:
    """The code of all methods of a class, those of ``nn.Module`` and of transformers' base class left out."""
    for base in kind.__mro__:
        if base in (nn.Module, object) or base.__module__ == "transformers.modeling_utils":
            continue
        for value in vars(base).values():
            function = getattr(value, "__wrapped__", value)
            if isinstance(function, FunctionType):
                yield function.__code__
