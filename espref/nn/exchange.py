"""Exchange the attention of existing models, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from .esp import EspAttention
from .exchanged import LAYOUTS, ExchangedAttention, reason_against_parts
from .known import NO_ATTENTION, attention_modules, grouped, reason_against, type_name
from .multihead import MultiheadBase

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


class SwapReport(NamedTuple):
    """The attention modules of a model, by path.

    See Also
    --------
    swap_report

    Examples
    --------
    >>> import torch
    >>> from espref.nn import swap_report
    >>> list(swap_report(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).left)
    ['self_attn']
    """

    exchanged: dict[str, str]  #: modules of this package -> their type, and the type that stood there
    left: dict[str, str]  #: all others -> their type, and why they cannot be exchanged if they cannot

    def __str__(self) -> str:
        lines = [f"exchanged: {len(self.exchanged)}", *(f"  {line}" for line in grouped(self.exchanged))]
        return "\n".join([*lines, f"left: {len(self.left)}", *(f"  {line}" for line in grouped(self.left))])


def swap_attention(
    model: nn.Module,
    kind: Callable[..., nn.Module] = EspAttention,
    *,
    where: Callable[[str, nn.Module], bool] | None = None,
    **settings: object,
) -> nn.Module:
    """Replace the attention modules of a model, in place; their projections, parameters and hooks are used on.

    Three kinds of modules are exchanged, and by exact type, since a subclass may compute something else:
    :class:`torch.nn.MultiheadAttention`; timm's plain attention, with its submodules under their names, so that state
    dicts still load; and the attention modules of this package. Parameters are the same objects as before: tied ones
    stay tied, and optimizers keep them. Forward and backward hooks of the modules are carried over.

    Every other module that is attention, or seems to be, is refused with its path, its type and the reason, and nothing
    is exchanged; ``where`` leaves it out. :func:`swap_report` says what was exchanged and what was left.

    Parameters
    ----------
    model : nn.Module
        The model; if it is itself an attention module, its replacement is returned.
    kind : class or function
        :class:`EspAttention` or another attention class of this package, or a function that takes the same leading
        arguments and returns such a module.
    where : function, optional
        From the path and the module to whether it is exchanged; all by default. For example
        ``lambda path, _: "encoder" in path``.
    **settings : object
        Passed to ``kind``.

    Returns
    -------
    nn.Module
        The model.

    Raises
    ------
    ValueError
        Naming the modules that cannot be exchanged, or when there is no attention in the model. The model is then
        unchanged.

    See Also
    --------
    swap_report, set_encoder_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn import SoftmaxAttention, swap_attention, swap_report
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> print(swap_report(swap_attention(layer, SoftmaxAttention)))
    exchanged: 1
      self_attn: SoftmaxAttention, was torch.nn.modules.activation.MultiheadAttention
    left: 0
    """
    attention = {path: old for path, old in _attention(model).items() if type_name(old) not in NO_ATTENTION}
    chosen = {path: old for path, old in attention.items() if where is None or where(path, old)}
    if not chosen:
        selected = "" if where is None else " where the function is true"
        raise ValueError(f"model: expected attention to replace, found none in {type(model).__name__}{selected}")
    reasons = {old: reason for old in chosen.values() if (reason := _reason(old)) is not None}
    new: dict[nn.Module, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):  # parameters that are thrown away use no random numbers of the caller
        for path, old in chosen.items():
            if old not in new and old not in reasons:
                new[old] = _replacement(old, kind, settings)
                if reason := _reason_here(model, path, new[old], settings):
                    reasons[old] = reason
    if reasons:
        refused = {path: f"{type_name(old)}: {reasons[old]}" for path, old in chosen.items() if old in reasons}
        raise ValueError("\n".join(["; ".join(grouped(refused)), "where= leaves such modules out"]))
    for path, old in chosen.items():
        if path:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new[old])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
    return new.get(model, model)


def swap_report(model: nn.Module) -> SwapReport:
    """Which attention modules of a model are this package's, and which are not, and why.

    Parameters
    ----------
    model : nn.Module
        Any model, before or after :func:`swap_attention`.

    Returns
    -------
    SwapReport
        Two dictionaries from paths, ``exchanged`` and ``left``; printed, one line for each kind of module.

    See Also
    --------
    swap_attention

    Examples
    --------
    >>> import torch
    >>> from espref.nn import EspAttention, swap_report
    >>> print(swap_report(torch.nn.Sequential(torch.nn.Linear(8, 8), EspAttention(8, 2))).exchanged)
    {'1': 'EspAttention'}
    """
    exchanged, left = {}, {}
    for path, module in _attention(model).items():
        if isinstance(module, (MultiheadBase, ExchangedAttention)):
            core = module.core if isinstance(module, ExchangedAttention) else module
            former = getattr(module, "exchanged_from", None)
            exchanged[path] = type(core).__name__ + (f", was {former}" if former else "")
        else:
            left[path] = f"{type_name(module)}: {_reason(module) or 'can be exchanged'}"
    return SwapReport(exchanged, left)


def _attention(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> attention module; what is within a module that is known is part of it."""
    found = attention_modules(model)
    whole = tuple(f"{path}." for path, module in found.items() if path and _is_known(module))
    return {path: module for path, module in found.items() if not path.startswith(whole)}


def _is_known(module: nn.Module) -> bool:
    known = type(module) in (nn.MultiheadAttention, ExchangedAttention) or isinstance(module, MultiheadBase)
    return known or type_name(module) in LAYOUTS


def _reason(module: nn.Module) -> str | None:
    """Why a module cannot be exchanged; None: it can."""
    if not _is_known(module):
        return reason_against(module)
    if "forward" in vars(module):
        return "its forward has been replaced"
    if isinstance(module, nn.MultiheadAttention):
        if not module._qkv_same_embed_dim:
            return "kdim or vdim: keys or values of another width"
        if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
            return "bias_k, bias_v or add_zero_attn: keys that are no tokens"
        if "in_proj_weight" not in module._parameters:
            return "in_proj_weight is computed from other parameters, by pruning or weight normalisation"
    return reason_against_parts(module) if type_name(module) in LAYOUTS else None


def _reason_here(model: nn.Module, path: str, new: nn.Module, settings: dict[str, Any]) -> str | None:
    """Why a module cannot stand at its place: plans in decoders would let tokens see later ones.

    In stock layers the place says whether it is self-attention.
    """
    holder = model.get_submodule(path.rpartition(".")[0])
    if path and isinstance(holder, nn.TransformerDecoderLayer) and getattr(new, "matrix_is_plan", False):
        return "attention of a decoder: with a plan every output would depend on all tokens, later ones included"
    stock = isinstance(holder, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
    if path and stock and isinstance(new, MultiheadBase) and "self_attention" not in settings:
        new.self_attention = path.endswith("self_attn")
    return None


def _replacement(old: nn.Module, kind: Callable[..., nn.Module], settings: dict[str, Any]) -> nn.Module:
    like = next(old.parameters())
    if isinstance(old, nn.MultiheadAttention):
        settings = {"batch_first": old.batch_first, **settings}
        new = _made(kind, old.embed_dim, old.num_heads, like, old.dropout, settings)
        new.in_proj._parameters |= {name: old._parameters[f"in_proj_{name}"] for name in ("weight", "bias")}
        new.out_proj = old.out_proj
    elif isinstance(old, MultiheadBase):
        layout = {name: getattr(old, name) for name in ("batch_first", "self_attention", "kdim", "vdim")}
        new = _made(kind, old.embed_dim, old.num_heads, like, old.dropout, layout | settings)
        for name in (*old.projection_names, "out_proj"):
            setattr(new, name, getattr(old, name))
    else:
        return _for_timm(old, kind, settings)
    return _finished(new, old)


def _for_timm(old: nn.Module, kind: Callable[..., nn.Module], settings: dict[str, Any]) -> nn.Module:
    proj = old.get_submodule("proj")
    weight = next(proj.parameters())
    heads, width = int(old.num_heads), int(proj.in_features)  # type: ignore[arg-type]
    core = _made(kind, width, heads, weight, getattr(getattr(old, "attn_drop", None), "p", 0.0), settings)
    core.leave_projections()
    return _finished(ExchangedAttention(old, core), old)


def _made(
    kind: Callable[..., nn.Module], dim: int, heads: int, like: torch.Tensor, dropout: float, settings: dict[str, Any]
) -> MultiheadBase:
    """A module of that kind, on the device and in the type of ``like``."""
    new = kind(dim, heads, device=like.device, dtype=like.dtype, **settings)
    if not isinstance(new, MultiheadBase):
        raise ValueError(f"kind: expected an attention module of this package, got {type(new).__name__}")
    if "dropout" not in settings:
        new.dropout = dropout
    return new


def _finished(new: nn.Module, old: nn.Module) -> nn.Module:
    """In the mode of the old module, with its hooks, which their handles still remove."""
    for name in _HOOKS:
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]
    new.__dict__["exchanged_from"] = old.__dict__.get("exchanged_from", type_name(old))
    return new.train(old.training)
