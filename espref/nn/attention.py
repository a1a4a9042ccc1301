"""Attention modules with the call signature of :class:`torch.nn.MultiheadAttention`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .functional import differential_attention, esp_attention, sinkhorn_attention, softmax_attention
from .sorting import SORTS


class _Multihead(nn.Module):
    """Projections to heads and back, and the signature; what happens between is the subclass's ``attend``."""

    plans = False  # whether queries count: padded ones must then be known, as padded keys are
    in_proj_bias = None  # stock encoder layers ask for it, and without one leave the attention to this module

    def __init__(
        self, embed_dim: int, num_heads: int, *, bias: bool = True, batch_first: bool = True, device=None, dtype=None
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim: expected a positive multiple of num_heads = {num_heads}, got {embed_dim}")
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias, device=device, dtype=dtype)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        nn.init.xavier_uniform_(self.in_proj.weight)
        if bias:
            nn.init.zeros_(self.in_proj.bias)
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        query_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(N, L, E) queries, (N, S, E) keys and values to (N, L, E) and weights (N, L, S) (or None), heads averaged.

        Unbatched and ``batch_first=False`` inputs as in :class:`torch.nn.MultiheadAttention`. Masks say True = ignore.
        ESP and Sinkhorn plans are between real tokens: of self-attention, where query and key are the same tensor,
        ``key_padding_mask`` is the mask of both.

        ``need_weights`` is True by default, as there, and costs the attention matrix: O(L S) memory, and for ESP
        attention, which makes none without, the time of S value columns more. Pass False in training.
        """
        if self.plans and query is key and query_padding_mask is None:
            query_padding_mask = key_padding_mask
        if key_padding_mask is not None:
            key_padding_mask = _as_boolean(key_padding_mask, "key_padding_mask")
        if query_padding_mask is not None:
            query_padding_mask = _as_boolean(query_padding_mask, "query_padding_mask")
        batched = query.ndim == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
            query_padding_mask = None if query_padding_mask is None else query_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        weight = self.in_proj.weight.chunk(3)
        bias = (None,) * 3 if self.in_proj.bias is None else self.in_proj.bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (N, H, tokens, E / H)
            for x, w, b in zip((query, key, value), weight, bias, strict=True)
        )
        output, weights = self.attend(q, k, v, key_padding_mask, query_padding_mask, attn_mask, is_causal, need_weights)
        output = self.out_proj(output.transpose(1, 2).flatten(-2))  # (N, L, E)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def attend(self, q, k, v, key_padding_mask, query_padding_mask, attn_mask, is_causal, need_weights):
        """(N, H, L, D), (N, H, S, D) to (N, H, L, D) and weights (N, H, L, S) or None."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


def _as_boolean(mask: Tensor, name: str) -> Tensor:
    """True = ignore; stock encoder layers hand such masks on as floats, 0 and -inf."""
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point() or not ((mask == 0) | (mask == -torch.inf)).all():
        raise ValueError(f"{name}: expected booleans, or floats 0 and -inf, got {mask.dtype}")
    return mask == -torch.inf


def _refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    reason = "(use key_padding_mask for padding): a doubly stochastic triangular matrix is the identity"
    if is_causal:
        raise ValueError(f"is_causal: expected False {reason}")
    if attn_mask is not None:
        raise ValueError(f"attn_mask: expected None {reason}")


def _for_heads(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None]


class EspAttention(_Multihead):
    r"""Multi-head ESP attention: doubly stochastic with sort = "balanced" or "hard", nearly so with "soft".

    Parameters
    ----------
    embed_dim, num_heads : int
    tau, beta : float
        Initial temperature of the soft sort and inverse temperature over slices, for queries and keys scaled by
        head_dim^(-1/2). Kept positive as exponentials of the parameters ``log_tau``, ``log_beta``.
    learn_tau, learn_beta : bool
        Whether they are trained.
    sort : "soft" | "balanced" | "hard"
    sort_in_eval : str, optional
        The sort used in evaluation mode ("hard" after annealing tau); the same as in training by default.
    straight_through : bool
        With a hard sort, train with the gradient of the soft one.
    directions : (L, head_dim) tensor, optional
        Slicers as a trained parameter; the axes by default.
    bias, batch_first, device, dtype
        As in :class:`torch.nn.MultiheadAttention`, but ``batch_first`` is True by default.

    Raises
    ------
    ValueError
        For settings outside these ranges; for causal masks and general attention masks, because a doubly stochastic
        triangular matrix is the identity.
    RuntimeError
        When the balanced scaling does not converge.

    References
    ----------
    shahbazi2025espformer
    """

    plans = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        tau: float = 0.1,
        beta: float = 1.0,
        learn_tau: bool = False,
        learn_beta: bool = True,
        sort: str = "soft",
        sort_in_eval: str | None = None,
        straight_through: bool = False,
        directions: Tensor | None = None,
        bias: bool = True,
        batch_first: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(embed_dim, num_heads, bias=bias, batch_first=batch_first, device=device, dtype=dtype)
        for name, number in (("tau", tau), ("beta", beta)):
            if not 0 < number < float("inf"):
                raise ValueError(f"{name}: expected a finite number > 0, got {number!r}")
        for name, word in (("sort", sort), ("sort_in_eval", sort_in_eval or sort)):
            if word not in SORTS:
                raise ValueError(f"{name}: expected one of {', '.join(SORTS)}, got {word!r}")
        self.sort, self.sort_in_eval, self.straight_through = sort, sort_in_eval or sort, straight_through
        tau_of, beta_of = (torch.tensor([x], device=device, dtype=dtype).log() for x in (tau, beta))
        self.log_tau = nn.Parameter(tau_of, requires_grad=learn_tau)  # (1,): fully_shard takes no scalars
        self.log_beta = nn.Parameter(beta_of, requires_grad=learn_beta)  # (1,)
        self.directions = None if directions is None else nn.Parameter(directions.detach().to(device, dtype, copy=True))

    def anneal(self, factor: float) -> None:
        """Multiply tau by ``factor`` > 0, in place."""
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor: expected a finite number > 0, got {factor!r}")
        with torch.no_grad():
            self.log_tau.add_(math.log(factor))

    def attend(self, q, k, v, key_padding_mask, query_padding_mask, attn_mask, is_causal, need_weights):
        _refuse_masks(attn_mask, is_causal)
        scale = q.shape[-1] ** -0.5
        return esp_attention(
            q * scale,
            k * scale,
            v,
            tau=self.log_tau[0].exp(),
            beta=self.log_beta[0].exp(),
            directions=self.directions,
            sort=self.sort if self.training else self.sort_in_eval,
            straight_through=self.straight_through,
            key_padding_mask=_for_heads(key_padding_mask),
            query_padding_mask=_for_heads(query_padding_mask),
            need_weights=need_weights,
        )

    def extra_repr(self) -> str:
        tau, beta = (_shown(log) for log in (self.log_tau, self.log_beta))
        return f"{super().extra_repr()}, tau={tau}, beta={beta}, sort={self.sort}, in eval {self.sort_in_eval}"


def _shown(log: Tensor) -> str:
    """exp(log); of a sharded module one process holds it, and asking the others would wait for them."""
    here = log.to_local() if hasattr(log, "to_local") else log
    return f"{here.exp().item():.3g}" if here.numel() else "elsewhere"


class _Looking(_Multihead):
    """Attention that a mask may keep from looking at single pairs: causal and general masks are welcome."""

    def keep(self, q, k, key_padding_mask, query_padding_mask, attn_mask, is_causal) -> Tensor | None:
        """True where a query may look at a key, (N or 1, H or 1, L, S); None: everywhere."""
        if not is_causal and attn_mask is None and key_padding_mask is None and query_padding_mask is None:
            return None
        keep = torch.ones(1, 1, q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        if is_causal:
            keep = keep.tril()
        if attn_mask is not None:
            away = _as_boolean(attn_mask, "attn_mask")
            keep = keep & ~(away.unflatten(0, (-1, self.num_heads)) if away.ndim == 3 else away)
        if key_padding_mask is not None:
            keep = keep & ~key_padding_mask[:, None, None, :]
        if query_padding_mask is not None:
            keep = keep & ~query_padding_mask[:, None, :, None]
        return keep


class SoftmaxAttention(_Looking):
    """Multi-head scaled dot-product attention on :func:`torch.nn.functional.scaled_dot_product_attention`.

    Queries without any key to look at give zeros.
    """

    def attend(self, q, k, v, key_padding_mask, query_padding_mask, attn_mask, is_causal, need_weights):
        keep = self.keep(q, k, key_padding_mask, query_padding_mask, attn_mask, is_causal)
        return softmax_attention(q, k, v, keep=keep, need_weights=need_weights)


class DifferentialAttention(_Looking):
    r"""Multi-head differential attention: the difference of two softmax maps, normalised head by head.

    One half of a head's coordinates makes the first map, the other the second, which is multiplied by a trained
    $\lambda = e^{\langle a_1, b_1 \rangle} - e^{\langle a_2, b_2 \rangle} + \lambda_0$, whose vectors all heads share.
    Each head's output is normalised to root mean square 1 and multiplied by $1 - \lambda_0$.

    Parameters
    ----------
    embed_dim, num_heads : int
        With embed_dim / num_heads even.
    lambda_init : float
        $\lambda_0$ in [0, 1).
    bias, batch_first, device, dtype
        As in :class:`torch.nn.MultiheadAttention`, but ``batch_first`` is True by default.

    Raises
    ------
    ValueError
        For settings outside these ranges.

    References
    ----------
    ye2024differential
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        lambda_init: float = 0.2,
        bias: bool = True,
        batch_first: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(embed_dim, num_heads, bias=bias, batch_first=batch_first, device=device, dtype=dtype)
        head = embed_dim // num_heads
        if head % 2:
            raise ValueError(f"embed_dim: expected an even number of coordinates a head, got {head}")
        if not 0 <= lambda_init < 1:
            raise ValueError(f"lambda_init: expected a number in [0, 1), got {lambda_init!r}")
        self.lambda_init = lambda_init
        self.vectors = nn.Parameter(0.1 * torch.randn(2, 2, head // 2, device=device, dtype=dtype))
        self.norm = nn.RMSNorm(head, device=device, dtype=dtype)

    def attend(self, q, k, v, key_padding_mask, query_padding_mask, attn_mask, is_causal, need_weights):
        keep = self.keep(q, k, key_padding_mask, query_padding_mask, attn_mask, is_causal)
        first, second = self.vectors.prod(dim=1).sum(-1).exp()
        mix = first - second + self.lambda_init
        output, weights = differential_attention(q, k, v, mix=mix, keep=keep, need_weights=need_weights)
        output = self.norm(output.to(self.norm.weight.dtype))  # under autocast heads are narrow, its weights are not
        return output * (1 - self.lambda_init), weights


class SinkhornAttention(_Multihead):
    """Multi-head Sinkhorn attention: the softmax matrix with rows and columns normalised in turn.

    ``n_iter`` counts iterations, each of rows and columns; other parameters as in :class:`torch.nn.MultiheadAttention`, but
    ``batch_first`` is True by default. Causal masks and general attention masks are refused with a ValueError.

    References
    ----------
    sander2022sinkformers
    """

    plans = True

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        n_iter: int = 5,
        bias: bool = True,
        batch_first: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(embed_dim, num_heads, bias=bias, batch_first=batch_first, device=device, dtype=dtype)
        if not isinstance(n_iter, int) or n_iter < 1:
            raise ValueError(f"n_iter: expected a positive whole number, got {n_iter!r}")
        self.n_iter = n_iter

    def attend(self, q, k, v, key_padding_mask, query_padding_mask, attn_mask, is_causal, need_weights):
        _refuse_masks(attn_mask, is_causal)
        return sinkhorn_attention(
            q,
            k,
            v,
            n_iter=self.n_iter,
            key_padding_mask=_for_heads(key_padding_mask),
            query_padding_mask=_for_heads(query_padding_mask),
            need_weights=need_weights,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, n_iter={self.n_iter}"
