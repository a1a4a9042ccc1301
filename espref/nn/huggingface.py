"""ESP attention in the encoders of Hugging Face transformers, as an attention implementation with a name."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import check_options
from .exchanged import padding_of
from .functional import esp_attention
from .known import attention_modules, grouped, names_used, type_name
from .temperatures import scale_free

#: Arguments that models hand through to their attention and that change nothing in it.
_HARMLESS = {"output_attentions", "output_hidden_states", "return_dict", "use_cache", "position_ids", "cache_position"}
#: Arguments of a forward method by which keys of other tokens come in.
_OTHER_TOKENS = re.compile(r"encoder_|key_value|cross_|context|memory|^kv|^key|^value|latents|^source|^reference")


class _Settings(NamedTuple):
    tau: float | None
    beta: float | None
    directions: Tensor | None
    sort: str

    def equals(self, other: _Settings) -> bool:
        mine, theirs = self.directions, other.directions
        same = mine is theirs if mine is None or theirs is None else torch.equal(mine, theirs)
        return same and self._replace(directions=None) == other._replace(directions=None)


_registered: dict[str, _Settings] = {}


def register_with_transformers(
    name: str = "esp",
    *,
    tau: float | None = None,
    beta: float | None = None,
    directions: Tensor | None = None,
    sort: str = "soft",
) -> None:
    """Register ESP attention with Hugging Face transformers, as ``attn_implementation=name`` of encoders.

    A model then calls it in all its layers; :func:`set_encoder_attention` checks that it does, and leaves decoders out.
    Queries and keys are both multiplied by the model's ``scaling``, usually head_dim^(-1/2), as in
    :class:`EspAttention`. Only self-attention without a causal mask is taken, so that a mask of the keys is one of the
    queries. Dropout leaves out whole keys, as in :class:`EspAttention`. Attention matrices come back when they are
    asked for, with ``output_attentions=True``.

    Parameters
    ----------
    name : str
        "esp", or "esp" with more letters, digits, "_", "-" or ".": other settings need another name.
    tau, beta : float, optional
        Temperature of the soft sort, > 0, and inverse temperature over slices, >= 0, both fixed. By default those of
        ``espref.nn.temperatures.scale_free`` for queries and keys of unit variance before they are scaled.
    directions : (L, head_dim) tensor, optional
        Slicers; the axes by default.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort.

    Raises
    ------
    ValueError
        For settings outside these ranges, and for a name that is not "esp...", or is registered with other settings.
        When the model runs: in causal layers, in cross attention and in decoders, at one query too; for masks that
        differ from query to query; for biases, soft caps and every other argument that would change the attention.

    See Also
    --------
    set_encoder_attention, swap_attention

    Examples
    --------
    >>> from espref.nn import register_with_transformers
    >>> register_with_transformers("esp-balanced", tau=0.1, beta=1.0, sort="balanced")  # doctest: +SKIP
    """
    settings = _checked(name, tau, beta, directions, sort)
    if name in _registered:
        if not settings.equals(_registered[name]):
            raise ValueError(f"name: {name!r} is registered with other settings, choose another name for these")
        return
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    except ImportError as error:
        raise ImportError("this needs transformers: pip install 'espref[models]'") from error
    AttentionInterface.register(name, _attention_function(settings))
    AttentionMaskInterface.register(name, sdpa_mask)
    _registered[name] = settings


def set_encoder_attention(
    model: nn.Module, name: str = "esp", *, where: Callable[[str, nn.Module], bool] | None = None
) -> nn.Module:
    """Let the encoder of a model of transformers call a registered attention, and nothing else in the model.

    An encoder and a decoder often share one configuration, so that ``set_attn_implementation`` would switch both; here
    the encoder gets a copy of its own.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        An encoder, or a model with an encoder and a decoder, whose encoder is meant.
    name : str
        A name given to :func:`register_with_transformers`.
    where : function, optional
        From the path in the encoder and the attention module to whether it has to call the function; all by default.

    Returns
    -------
    nn.Module
        The model.

    Raises
    ------
    ValueError
        Naming the modules that would never call the registered function, for a name that is not registered, and for a
        model without an encoder.

    See Also
    --------
    register_with_transformers

    Examples
    --------
    >>> from transformers import AutoModel  # doctest: +SKIP
    >>> from espref.nn import register_with_transformers, set_encoder_attention
    >>> register_with_transformers()  # doctest: +SKIP
    >>> model = AutoModel.from_pretrained("facebook/bart-base")  # doctest: +SKIP
    >>> model = set_encoder_attention(model, "esp")  # doctest: +SKIP
    """
    if name not in _registered:
        raise ValueError(f"name: expected one given to register_with_transformers, got {name!r}")
    encoder = _encoder_of(model)
    attention = {path: x for path, x in attention_modules(encoder).items() if where is None or where(path, x)}
    silent = {path: type_name(x) for path, x in attention.items() if not _calls_interface(x)}
    if silent or not attention:
        found = "; ".join(grouped(silent)) or f"no attention in {type(encoder).__name__}"
        raise ValueError(f"model: expected attention that calls the registered function, got {found}")
    copies: dict[int, Any] = {}
    for module in encoder.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            own = copies.setdefault(id(config), copy.deepcopy(config))
            own._attn_implementation = name
            module.config = own
    return model


def _checked(name: str, tau: float | None, beta: float | None, directions: Tensor | None, sort: str) -> _Settings:
    others = "sdpa", "eager", "flash", "flex", "paged"
    if not isinstance(name, str) or not re.fullmatch(r"esp[A-Za-z0-9_.-]*", name) or any(x in name for x in others):
        raise ValueError(f'name: expected "esp", or "esp" with letters, digits, "_", "-" or ".", got {name!r}')
    for label, x, least in (("tau", tau, "> 0"), ("beta", beta, ">= 0")):
        if x is None:
            continue
        is_number = isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)
        if not is_number or x < 0 or (x == 0 and label == "tau"):
            raise ValueError(f"{label}: expected a finite number {least}, got {x!r}")
    if directions is not None:
        if not isinstance(directions, Tensor) or directions.ndim != 2 or not directions.is_floating_point():
            raise ValueError(f"directions: expected None or a floating point tensor (L, head_dim), got {directions!r}")
        if not len(directions) or not directions.isfinite().all():
            raise ValueError("directions: expected at least one row, and finite numbers")
    check_options(torch.ones(1, 1), None, sort, 1)
    tau, beta = (None if x is None else float(x) for x in (tau, beta))
    return _Settings(tau, beta, None if directions is None else directions.detach().clone(), sort)


def _attention_function(settings: _Settings) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The function that transformers calls between the projections of a layer."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        **others: object,
    ) -> tuple[Tensor, Tensor | None]:
        _check_call(module, query, key, is_causal, others)
        groups = query.shape[1] // key.shape[1]  # grouped queries share keys and values
        key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        padding = None
        if attention_mask is not None:
            batch, n = query.shape[0], query.shape[2]
            padding = padding_of(attention_mask.expand(batch, -1, n, n), "attention_mask")[:, None]  # (B, 1, N)
        kept = None if not dropout else F.dropout(torch.ones_like(value[..., :1]), dropout)
        theta = settings.directions
        count = query.shape[2] if padding is None else (~padding).sum(-1).clamp(min=1).to(torch.float64)  # (B, 1)
        default = scale_free(query.shape[-1], count, spread=scale)
        query, key = (x.float() * scale if x.dtype.itemsize < 4 else x * scale for x in (query, key))
        output, matrix = esp_attention(
            query,
            key,
            value if kept is None else value * kept,
            tau=default.tau if settings.tau is None else settings.tau,
            beta=default.beta if settings.beta is None else settings.beta,
            directions=None if theta is None else theta.to(query.device),
            sort=settings.sort,
            key_padding_mask=padding,
            query_padding_mask=padding,
            need_weights=_matrix_is_asked_for(others),
        )
        if matrix is not None and kept is not None:
            matrix = matrix * kept.mT
        return output.transpose(1, 2).contiguous(), matrix  # (B, N, H, D)

    return attend


def _check_call(module: nn.Module, query: Tensor, key: Tensor, is_causal: bool | None, others: dict[str, Any]) -> None:
    """Refuse what is not self-attention of an encoder, and arguments that are not used."""
    name = type(module).__name__
    identity = "a doubly stochastic triangular matrix is the identity"
    if is_causal or (is_causal is None and getattr(module, "is_causal", True)):
        raise ValueError(f"is_causal: expected an encoder, got {name}, which is causal: {identity}")
    if getattr(module, "is_decoder", False):
        raise ValueError(f"module: expected an encoder, got {name} of a decoder, whose tokens must not see later ones")
    if getattr(module, "is_cross_attention", False) or "Cross" in name or _may_take_others(module):
        raise ValueError(f"module: expected self-attention, got {name}, which may attend to other tokens")
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"key: expected the {query.shape[2]} tokens of query in self-attention, got {key.shape[2]}")
    for argument, x in others.items():
        if argument not in _HARMLESS and x is not None and x is not False:
            raise ValueError(f"{argument}: expected None, because attention by plans cannot use it ({name})")


def _may_take_others(module: nn.Module) -> bool:
    """Whether keys may come from other tokens than queries, and nothing says that they do not."""
    parameters = inspect.signature(type(module).forward).parameters
    says_no = getattr(module, "is_decoder", None) is False
    return not says_no and any(_OTHER_TOKENS.search(parameter) for parameter in parameters)


def _matrix_is_asked_for(others: dict[str, Any]) -> bool:
    if others.get("output_attentions"):
        return True
    try:
        from transformers.utils.output_capturing import _active_collector
    except ImportError:  # before transformers 5
        return False
    collector: Any = _active_collector
    return any("attentions" in key for key in collector.get() or ())


def _encoder_of(model: nn.Module) -> nn.Module:
    config = getattr(model, "config", None)
    if not hasattr(config, "_attn_implementation"):
        raise ValueError(f"model: expected a model of transformers, got {type(model).__name__}")
    if not getattr(config, "is_encoder_decoder", False):
        return model
    encoder = model.get_encoder()  # type: ignore[operator]
    if not isinstance(encoder, nn.Module) or encoder is model:
        raise ValueError(f"model: expected an encoder in {type(model).__name__}, found none")
    return encoder


def _calls_interface(module: nn.Module) -> bool:
    """Whether the code of the module's class looks up the function that is registered."""
    return "ALL_ATTENTION_FUNCTIONS" in names_used(module)
