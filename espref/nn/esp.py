"""Multi-head ESP attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .functional import AttentionOutput, esp_attention
from .multihead import Masks, PlanAttention
from .sorting import SORTS


class EspAttention(PlanAttention):
    r"""Multi-head ESP attention: doubly stochastic with sort = "balanced" or "hard", nearly so with "soft".

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads.
    tau, beta : float
        Initial temperature of the soft sort and inverse temperature over slices, for queries and keys scaled by
        head_dim^(-1/2). Kept positive as exponentials of the parameters ``log_tau`` and ``log_beta``.
    learn_tau, learn_beta : bool
        Whether they are trained.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort (ties averaged).
    sort_in_eval : str, optional
        The sort used in evaluation mode ("hard" after annealing tau); the same as in training by default.
    straight_through : bool
        With a hard sort, train with the gradient of the soft one.
    directions : (L, head_dim) tensor, optional
        Initial value of the slicers, which are then a trained parameter; the axes, fixed, by default.
    bias, batch_first, device, dtype
        As in :class:`torch.nn.MultiheadAttention`, but ``batch_first`` is True by default.

    Raises
    ------
    ValueError
        For settings outside these ranges; for causal masks and general attention masks, because a doubly stochastic
        triangular matrix is the identity.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    espref.nn.dense.DenseEsp : the same layer, written to be read.

    References
    ----------
    shahbazi2025espformer
    """

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(embed_dim, num_heads, bias=bias, batch_first=batch_first, device=device, dtype=dtype)
        for name, temperature in (("tau", tau), ("beta", beta)):
            if not 0 < temperature < float("inf"):
                raise ValueError(f"{name}: expected a finite number > 0, got {temperature!r}")
        for name, choice in (("sort", sort), ("sort_in_eval", sort_in_eval or sort)):
            if choice not in SORTS:
                raise ValueError(f"{name}: expected one of {', '.join(SORTS)}, got {choice!r}")
        self.sort, self.sort_in_eval, self.straight_through = sort, sort_in_eval or sort, straight_through
        log_tau, log_beta = (torch.tensor([x], device=device, dtype=dtype).log() for x in (tau, beta))
        self.log_tau = nn.Parameter(log_tau, requires_grad=learn_tau)  # (1,): fully_shard takes no scalars
        self.log_beta = nn.Parameter(log_beta, requires_grad=learn_beta)  # (1,)
        self.directions = None if directions is None else nn.Parameter(directions.detach().to(device, dtype, copy=True))

    def anneal(self, factor: float) -> None:
        """Multiply tau by ``factor`` > 0, in place."""
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor: expected a finite number > 0, got {factor!r}")
        with torch.no_grad():
            self.log_tau.add_(math.log(factor))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        key_padding_mask, query_padding_mask = self.padding_for_heads(masks)
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
            key_padding_mask=key_padding_mask,
            query_padding_mask=query_padding_mask,
            need_weights=need_weights,
        )

    def extra_repr(self) -> str:
        tau, beta = (_shown(log) for log in (self.log_tau, self.log_beta))
        return f"{super().extra_repr()}, tau={tau}, beta={beta}, sort={self.sort}, in eval {self.sort_in_eval}"


def _shown(log: Tensor) -> str:
    """exp(log). If the module is sharded, one process holds the value, and the others do not wait for it."""
    local = log.to_local() if hasattr(log, "to_local") else log
    return f"{local.exp().item():.3g}" if local.numel() else "elsewhere"
