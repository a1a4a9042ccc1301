"""Multi-head ESP attention."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ._checks import shown
from .dense import released_attention
from .functional import AttentionOutput, esp_attention, without_autocast
from .masks import Masks
from .plan import PlanAttention, with_dropped_keys
from .ranks import valid_count
from .sorting import SORTS
from .temperatures import Temperatures, scale_free


class EspAttention(PlanAttention):
    r"""Multi-head ESP attention: doubly stochastic with sort = "balanced" or "hard", nearly so with "soft".

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads.
    tau, beta : float, optional
        Temperature of the soft sort and inverse temperature over slices at the beginning, for queries and keys scaled
        by head_dim^(-1/2). By default those of ``espref.nn.temperatures.scale_free``, which follow head_dim and,
        in each item, the number of keys. Each head has its own factor of the default, or temperature where it was
        given: the exponentials of the parameters ``log_tau`` and ``log_beta``.
    learn_tau, learn_beta : bool
        Whether they are trained.
    settings : "paper" | "released"
        "released" is the layer of the code released with the paper, for replication, with every matrix formed: see
        :func:`espref.nn.dense.released_attention`. Then tau = 1e-3 and beta = 10 by default, both fixed, and other
        settings and padding are refused.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort (ties averaged).
    sort_in_eval : str, optional
        The sort used in evaluation mode ("hard" after annealing tau); the same as in training by default.
    straight_through : bool
        With a hard sort, train with the gradient of the soft one.
    directions : (L, head_dim), optional
        Initial value of the slicers, which are then a trained parameter; the axes, fixed, by default.
    dropout : float
        Probability with which a key is left out in training. Rows of the matrix then sum to 1 on average only, and
        columns to 0 or n / (m (1 - dropout)).
    bias, kdim, vdim, batch_first, self_attention, device, dtype : optional
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
        tau: float | None = None,
        beta: float | None = None,
        learn_tau: bool = False,
        learn_beta: bool = True,
        settings: str = "paper",
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
        if settings not in ("paper", "released"):
            raise ValueError(f"settings: expected paper or released, got {settings!r}")
        if settings == "released":
            others = {"learn_tau": learn_tau, "straight_through": straight_through, "dropout": dropout}
            others |= {
                "directions": directions is not None,
                "sort": sort != "soft",
                "sort_in_eval": sort_in_eval is not None,
            }
            for name, given in others.items():
                if given:
                    raise ValueError(f"{name}: expected the default, as settings='released'")
            tau, beta, learn_beta = 1e-3 if tau is None else tau, 10.0 if beta is None else beta, False
        for name, number in (("tau", tau), ("beta", beta)):
            if number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, Real) or not 0 < number < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {number!r}")
        for name, choice in (("sort", sort), ("sort_in_eval", sort_in_eval or sort)):
            if choice not in SORTS:
                raise ValueError(f"{name}: expected one of {', '.join(SORTS)}, got {choice!r}")
        self.tau, self.beta = (None if x is None else float(x) for x in (tau, beta))
        self.settings, self.sort, self.sort_in_eval = settings, sort, sort_in_eval or sort
        self.straight_through = straight_through
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
        nn.init.constant_(self.log_tau, math.log(self.tau or 1.0))
        nn.init.constant_(self.log_beta, math.log(self.beta or 1.0))
        if self.directions is not None and self.slicers is not None:
            with torch.no_grad():
                self.directions.copy_(self.slicers)

    def anneal(self, factor: float) -> None:
        """Multiply tau by ``factor`` > 0, in place."""
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor: expected a finite number > 0, got {factor!r}")
        with torch.no_grad():
            self.log_tau.add_(math.log(factor))

    def temperatures(self, n_keys: float | Tensor) -> Temperatures:
        """Tau (num_heads,) and beta (num_heads,), or (N, num_heads) for numbers of keys (N, 1)."""
        head_dim = self.embed_dim // self.num_heads
        spread = (head_dim * (2 if self.packed else 1)) ** -0.5  # of the scores, as the projections are initialised
        tau, beta = scale_free(head_dim, n_keys, spread=spread)
        own_tau, own_beta = (
            (log.float() if log.dtype.itemsize < 4 else log).exp() for log in (self.log_tau, self.log_beta)
        )
        return Temperatures(
            own_tau * (tau if self.tau is None else 1.0), own_beta * (beta if self.beta is None else 1.0)
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        key_padding_mask, query_padding_mask = self.padding_for_heads(masks)
        scale = q.shape[-1] ** -0.5
        q, k = (x.float() * scale if x.dtype.itemsize < 4 else x * scale for x in (q, k))
        if self.settings == "released":
            return self._released(q, k, v, masks)
        n_keys = k.shape[-2] if masks.key is None else valid_count(k, ~masks.key.ignored)  # (N, 1)
        tau, beta = self.temperatures(n_keys)
        kept = self.dropped_keys(v)
        result = esp_attention(
            q,
            k,
            v if kept is None else v * kept,
            tau=tau,
            beta=beta,
            directions=self.directions,
            sort=self.sort if self.training else self.sort_in_eval,
            straight_through=self.straight_through,
            key_padding_mask=key_padding_mask,
            query_padding_mask=query_padding_mask,
            need_weights=need_weights,
        )
        return with_dropped_keys(result, kept)

    def _released(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> AttentionOutput:
        for name, mask in (("key_padding_mask", masks.key), ("query_padding_mask", masks.query)):
            if mask is not None:
                raise ValueError(f"{name}: expected None, as settings='released', whose padding is a sentinel")
        if q.shape[-2] != k.shape[-2]:
            raise ValueError(f"key: expected {q.shape[-2]} tokens as query, as settings='released', got {k.shape[-2]}")
        tau, beta = self.temperatures(1.0)
        with without_autocast(q):
            output, matrix = released_attention(q, k, v.to(q.dtype), tau=tau, beta=beta)
        return AttentionOutput(output.to(v.dtype), matrix.to(v.dtype))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *arguments: Any) -> None:
        """Takes one temperature for all heads, as version 0.1 had it; those were numbers, not factors of a default."""
        version = local_metadata.get("version")
        for name, given in (("log_tau", self.tau), ("log_beta", self.beta)):
            log = state_dict.get(prefix + name)
            if log is None:
                continue
            if given is None and (version == 1 or (version is None and len(log) != self.num_heads)):
                errors = arguments[-1]
                errors.append(
                    f"{prefix}{name}: expected the factor of a default, got a temperature; build the module "
                    f"with tau={math.exp(state_dict[prefix + 'log_tau'].flatten()[0]):.4g} and beta=1.0"
                )
            if len(log) == 1:
                state_dict[prefix + name] = log.expand(self.num_heads)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)

    def extra_repr(self) -> str:
        tau, beta = (
            _shown(log) + (" x default" if given is None else "")
            for log, given in ((self.log_tau, self.tau), (self.log_beta, self.beta))
        )
        return f"{super().extra_repr()}, tau={tau}, beta={beta}, sort={self.sort}, in eval {self.sort_in_eval}"


def _shown(log: Tensor) -> str:
    """exp(log), from least to largest. Of a sharded module, what this process holds."""
    local = log.to_local() if hasattr(log, "to_local") else log
    if not local.numel() or local.device.type == "meta":
        return "elsewhere"
    least, largest = (f"{x.exp().item():.3g}" for x in local.detach().aminmax())
    return least if least == largest else f"{least} to {largest}"
