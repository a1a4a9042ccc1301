"""Multi-head ESP attention."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ._checks import shown
from .functional import AttentionOutput, esp_attention
from .masks import Masks
from .plan import PlanAttention, with_dropped_keys
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
    dropout, bias, kdim, vdim, batch_first, self_attention, device, dtype : optional
        As in :class:`SoftmaxAttention`.

    Raises
    ------
    ValueError
        For settings outside these ranges; for causal masks and general attention masks, because a doubly stochastic
        triangular matrix is the identity.
    RuntimeError
        When the balanced scaling does not converge.

    See Also
    --------
    espref.nn.dense.DenseEsp : The same layer, written to be read.

    Examples
    --------
    >>> import torch
    >>> from espref.nn import EspAttention
    >>> x = torch.randn(2, 5, 8)
    >>> output, weights = EspAttention(8, 2, sort="balanced")(x, x, x)
    >>> output.shape, weights.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 5, 5]))

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
        directions: ArrayLike | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
        self_attention: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            dropout=dropout,
            bias=bias,
            kdim=kdim,
            vdim=vdim,
            batch_first=batch_first,
            self_attention=self_attention,
            device=device,
            dtype=dtype,
        )
        for name, temperature in (("tau", tau), ("beta", beta)):
            if isinstance(temperature, bool) or not isinstance(temperature, Real) or not 0 < temperature < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {temperature!r}")
        for name, choice in (("sort", sort), ("sort_in_eval", sort_in_eval or sort)):
            if choice not in SORTS:
                raise ValueError(f"{name}: expected one of {', '.join(SORTS)}, got {choice!r}")
        self.tau, self.beta = float(tau), float(beta)
        self.sort, self.sort_in_eval, self.straight_through = sort, sort_in_eval or sort, straight_through
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.log_tau = nn.Parameter(torch.empty(num_heads, **like), requires_grad=learn_tau)
        self.log_beta = nn.Parameter(torch.empty(num_heads, **like), requires_grad=learn_beta)
        self.slicers = None if directions is None else self._checked_directions(directions)
        self.directions = None
        if self.slicers is not None:
            self.directions = nn.Parameter(torch.empty(self.slicers.shape, **like))
        self._set_temperatures_and_slicers()

    def _checked_directions(self, directions: ArrayLike) -> Tensor:
        """A copy, to begin with; on the CPU, whatever the default device is."""
        with torch.device("cpu"):
            slicers = torch.as_tensor(directions).detach().clone()
        head = self.embed_dim // self.num_heads
        if slicers.is_complex() or slicers.ndim != 2 or slicers.shape[1] != head or not len(slicers):
            raise ValueError(f"directions: expected numbers of shape (L, {head}), got {shown(slicers)}")
        if slicers.device.type != "meta" and not slicers.isfinite().all():
            raise ValueError("directions: expected finite numbers")
        return slicers

    def reset_parameters(self) -> None:
        """Draw the projections anew; temperatures and slicers as they were first set."""
        super().reset_parameters()
        self._set_temperatures_and_slicers()

    def _set_temperatures_and_slicers(self) -> None:
        nn.init.constant_(self.log_tau, math.log(self.tau))
        nn.init.constant_(self.log_beta, math.log(self.beta))
        if self.directions is not None and self.slicers is not None:
            with torch.no_grad():
                self.directions.copy_(self.slicers)

    def anneal(self, factor: float) -> None:
        """Multiply tau by ``factor`` > 0, in place."""
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor: expected a finite number > 0, got {factor!r}")
        with torch.no_grad():
            self.log_tau.add_(math.log(factor))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        key_padding_mask, query_padding_mask = self.padding_for_heads(masks)
        scale, kept = q.shape[-1] ** -0.5, self.dropped_keys(v)
        result = esp_attention(
            q.float() * scale if q.dtype.itemsize < 4 else q * scale,
            k.float() * scale if k.dtype.itemsize < 4 else k * scale,
            v if kept is None else v * kept,
            tau=self.log_tau.exp(),
            beta=self.log_beta.exp(),
            directions=self.directions,
            sort=self.sort if self.training else self.sort_in_eval,
            straight_through=self.straight_through,
            key_padding_mask=key_padding_mask,
            query_padding_mask=query_padding_mask,
            need_weights=need_weights,
        )
        return with_dropped_keys(result, kept)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        """Takes one temperature for all heads, as version 0.1 had it."""
        for name in (prefix + "log_tau", prefix + "log_beta"):
            if name in state_dict and state_dict[name].shape == (1,):
                state_dict[name] = state_dict[name].expand(self.num_heads)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        tau, beta = (_shown(log) for log in (self.log_tau, self.log_beta))
        return f"{super().extra_repr()}, tau={tau}, beta={beta}, sort={self.sort}, in eval {self.sort_in_eval}"


def _shown(log: Tensor) -> str:
    """exp(log), from least to largest. Of a sharded module, what this process holds."""
    local = log.to_local() if hasattr(log, "to_local") else log
    if not local.numel() or local.device.type == "meta":
        return "elsewhere"
    least, largest = (f"{x.exp().item():.3g}" for x in local.detach().aminmax())
    return least if least == largest else f"{least} to {largest}"
