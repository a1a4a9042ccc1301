"""What the attention modules share: projections to heads and back, the call signature, and masks."""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._checks import shown
from .functional import AttentionOutput
from .masks import Masks, Padding, as_general_mask, as_padding


class Layout(NamedTuple):
    """How a call is batched."""

    batched: bool
    batch: int
    queries: int
    keys: int


class MultiheadBase(nn.Module):
    """Multi-head attention; what happens between the projections is the subclass's ``attend``.

    The projections are modules and are called: ``in_proj``, from tokens to queries, keys and values, or where ``kdim``
    or ``vdim`` differ from ``embed_dim``, ``q_proj``, ``k_proj`` and ``v_proj``; and ``out_proj``. A checkpoint of
    :class:`torch.nn.MultiheadAttention` loads, and :meth:`multihead_state_dict` makes one.

    Parameters
    ----------
    embed_dim, num_heads : int
        Width of the tokens, a multiple of the number of heads.
    dropout : float
        Probability of dropout in training: see the subclass for what is dropped.
    bias : bool
        Whether the projections have biases.
    kdim, vdim : int, optional
        Width of the tokens from which keys and values are made; embed_dim by default.
    batch_first : bool
        Whether batched inputs are (batch, tokens, coordinates) or (tokens, batch, coordinates).
    self_attention : bool
        Whether queries and keys are always the same tokens, so that ``key_padding_mask`` holds for both.
    device, dtype
        Where and in which type the parameters are.

    Raises
    ------
    ValueError
        When embed_dim is not a positive multiple of num_heads, or another setting is outside its range.
    """

    _version = 2  # of the state_dict
    matrix_is_plan = False  # a plan couples all queries and keys: it must be told which queries are padding
    has_projections = True
    in_proj_bias = None  # stock encoder layers ask for these two, and then leave the attention to this module
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
        self_attention: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kdim, vdim = (embed_dim if width is None else width for width in (kdim, vdim))
        sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kdim": kdim, "vdim": vdim}
        for name, size in sizes.items():
            if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
                raise ValueError(f"{name}: expected a positive whole number, got {size!r}")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim: expected a multiple of num_heads = {num_heads}, got {embed_dim}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout!r}")
        self.embed_dim, self.num_heads, self.kdim, self.vdim = map(index, sizes.values())
        self.dropout, self.batch_first, self.self_attention = float(dropout), batch_first, self_attention
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.packed = kdim == vdim == embed_dim
        if self.packed:
            self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, **options)
        else:
            self.q_proj = nn.Linear(embed_dim, embed_dim, **options)
            self.k_proj = nn.Linear(kdim, embed_dim, **options)
            self.v_proj = nn.Linear(vdim, embed_dim, **options)
        self.out_proj = nn.Linear(embed_dim, embed_dim, **options)
        self._initialise()

    def reset_parameters(self) -> None:
        """Draw the weights of the projections as :class:`torch.nn.MultiheadAttention` does; biases are zero."""
        if self.has_projections:
            self.out_proj.reset_parameters()
            self._initialise()

    def _initialise(self) -> None:
        for projection in self._projections():
            nn.init.xavier_uniform_(projection.weight)
        for projection in (*self._projections(), self.out_proj):
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def leave_projections(self) -> None:
        """Have none any more: a module around this one projects, and calls ``attend``."""
        for name in (*self.projection_names, "out_proj"):
            delattr(self, name)
        self.has_projections = False

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
        """Attention of N items with L queries and S keys each.

        What stands in padded places, even NaN, changes neither outputs nor gradients of the other tokens.

        Parameters
        ----------
        query, key, value : (N, L, E), (N, S, kdim), (N, S, vdim)
            Also without a batch dimension or, with ``batch_first=False``, (L, N, E) and (S, N, ...).
        key_padding_mask, query_padding_mask : (N, S) and (N, L), optional
            True = ignore; or floats, 0 and -inf. ESP and Sinkhorn plans couple the other tokens only, and take a mask
            of the keys with one of the queries. With ``self_attention=True`` one mask holds for both. Padded queries
            give what a query without any key gives.
        need_weights : bool
            Also return the attention matrix; True by default, as in :class:`torch.nn.MultiheadAttention`. It takes
            O(L S) memory. ESP attention never forms this matrix otherwise; requesting it costs as much as S extra value
            columns. Pass False in training.
        attn_mask : (L, S) or (N num_heads, L, S), optional
            True where a query must not attend to a key, or floats that are added to the scores; refused by ESP and
            Sinkhorn attention.
        average_attn_weights : bool
            Average the matrix over the heads.
        is_causal : bool
            Whether a query attends to keys up to its own place only; refused by ESP and Sinkhorn attention.

        Returns
        -------
        tuple of Tensor
            The output, (N, L, E), and the matrix, (N, L, S) or (N, num_heads, L, S), or None.
        """
        layout = self._layout(query, key, value)
        masks = self._masks(layout, key_padding_mask, query_padding_mask, attn_mask, is_causal, query)
        if not layout.batched:
            query, key, value = (x[None] for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads(query, key, value, masks)
        output, weights = self.attend(q, k, v, masks, need_weights)
        tokens_first = layout.batched and not self.batch_first
        output = output.permute(2, 0, 1, 3) if tokens_first else output.transpose(1, 2)  # tokens, heads, coordinates
        output = self.out_proj(output.flatten(-2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not layout.batched:
            return output[0], None if weights is None else weights[0]
        return output, weights

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks, need_weights: bool) -> AttentionOutput:
        """(N, H, L, D) and twice (N, H, S, D) to the output (N, H, L, D) and the matrix (N, H, L, S) or None."""
        raise NotImplementedError

    def _layout(self, query: Tensor, key: Tensor, value: Tensor) -> Layout:
        """What is said about shapes and types is said here, not by the projections."""
        widths = {"query": self.embed_dim, "key": self.kdim, "value": self.vdim}
        weight = self.out_proj.weight if type(self.out_proj) is nn.Linear else None
        dtype = weight.dtype if type(weight) is nn.Parameter else None  # a sharded one is cast when it is used
        tokens = "(N, tokens, {0})" if self.batch_first else "(tokens, N, {0})"
        for (name, width), x in zip(widths.items(), (query, key, value), strict=True):
            shape = f"{tokens} or (tokens, {{0}}), at least one token".format(width)
            fits = isinstance(x, Tensor) and not x.is_nested and x.is_floating_point() and x.ndim in (2, 3)
            if not fits or x.shape[-1] != width or not x.shape[-2 if self.batch_first else 0]:
                raise ValueError(f"{name}: expected a floating point tensor of shape {shape}, got {shown(x)}")
            wanted, reason = (query.dtype, "query has") if dtype is None else (dtype, "the parameters have")
            if x.dtype != wanted and not _autocast(x.device.type):
                raise ValueError(f"{name}: expected {wanted} as {reason}, got {x.dtype}")
            if x.ndim != query.ndim:
                raise ValueError(f"{name}: expected {query.ndim} dimensions as query has, got {shown(x)}")
        batched = query.ndim == 3
        sizes = [x.shape[:-1] if batched else (1, len(x)) for x in (query, key, value)]
        sizes = sizes if self.batch_first or not batched else [(n, batch) for batch, n in sizes]
        (batch, queries), (_, keys), _ = sizes
        if sizes[1][0] != batch or sizes[2] != sizes[1]:
            raise ValueError(
                f"key, value: expected {batch} items as query and equally many tokens, "
                f"got shapes {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
            )
        return Layout(batched, batch, queries, keys)

    def _masks(
        self,
        layout: Layout,
        key_padding_mask: Tensor | None,
        query_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
        query: Tensor,
    ) -> Masks:
        batched, batch, queries, keys = layout
        if self.self_attention:
            if queries != keys:
                raise ValueError(f"key: expected the {queries} tokens of query, as self_attention=True, got {keys}")
            if query_padding_mask is None:
                query_padding_mask = key_padding_mask
            elif key_padding_mask is None:
                raise ValueError("key_padding_mask: expected a mask beside query_padding_mask, got None")
        elif self.matrix_is_plan and query_padding_mask is None and key_padding_mask is not None:
            raise ValueError(
                "query_padding_mask: expected a mask beside key_padding_mask, because a plan couples the queries and "
                "keys that are not padding (all False where no query is), or self_attention=True; got None"
            )
        sizes = ((batch, keys), (batch, queries)) if batched else ((keys,), (queries,))
        same = query_padding_mask is key_padding_mask  # then one tensor is made for both
        key = as_padding(key_padding_mask, "key_padding_mask", sizes[0], query, exact=self.matrix_is_plan)
        other = None if same else as_padding(query_padding_mask, "query_padding_mask", sizes[1], query, exact=True)
        general = as_general_mask(attn_mask, self.num_heads, (batch, queries, keys), query)
        return Masks(key, key if same else other, general, is_causal)

    def _heads(self, query: Tensor, key: Tensor, value: Tensor, masks: Masks) -> tuple[Tensor, Tensor, Tensor]:
        """The heads of queries, keys and values, (N, H, tokens, E / H), of tokens that are zero where they are padding.

        Equal tensors are projected once; nothing else depends on which tensors are the same objects.
        """
        filled: dict[tuple[int, int], Tensor] = {}

        def without_padding(x: Tensor, padding: Padding | None) -> Tensor:
            place = id(x), id(padding)
            if place not in filled:
                filled[place] = x if padding is None else x.masked_fill(padding.ignored[..., None], 0.0)
            return filled[place]

        sides = ((query, masks.query), (key, masks.key), (value, masks.key))
        tokens = [without_padding(x, padding) for x, padding in sides]
        if self.packed:
            made = {id(x): x for x in tokens}
            parts = {place: self.in_proj(x).chunk(3, dim=-1) for place, x in made.items()}
            q, k, v = (parts[id(x)][place] for place, x in enumerate(tokens))
        else:
            q, k, v = (project(x) for project, x in zip(self._projections(), tokens, strict=True))
        q, k, v = (torch.unflatten(x, -1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        return q, k, v

    @property
    def projection_names(self) -> tuple[str, ...]:
        """The submodules that make queries, keys and values."""
        return ("in_proj",) if self.packed else ("q_proj", "k_proj", "v_proj")

    def _projections(self) -> list[Any]:
        return [getattr(self, name) for name in self.projection_names]

    def multihead_state_dict(self) -> dict[str, Tensor]:
        """The projections under the names of :class:`torch.nn.MultiheadAttention`, which loads them."""
        state = {f"out_proj.{name}": x.detach() for name, x in self.out_proj.named_parameters()}
        if self.packed:
            return {f"in_proj_{name}": x.detach() for name, x in self.in_proj.named_parameters()} | state
        for name, projection in zip("qkv", self._projections(), strict=True):
            state[f"{name}_proj_weight"] = projection.weight.detach()
        if self.q_proj.bias is not None:
            state["in_proj_bias"] = torch.cat([projection.bias.detach() for projection in self._projections()])
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        """Takes the names of :class:`torch.nn.MultiheadAttention` as well."""
        stock = {"in_proj_weight": ["in_proj.weight"], "in_proj_bias": ["in_proj.bias"]}
        if not self.packed:
            stock = {f"{name}_proj_weight": [f"{name}_proj.weight"] for name in "qkv"}
            stock["in_proj_bias"] = [f"{name}_proj.bias" for name in "qkv"]
        for old, names in stock.items():
            if prefix + old in state_dict:
                parts = state_dict.pop(prefix + old).chunk(len(names))
                state_dict.update({prefix + name: part for name, part in zip(names, parts, strict=True)})
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


def _autocast(device: str) -> bool:
    """Whether projections may take another type than their parameters have."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
