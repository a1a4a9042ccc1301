r"""ESP attention as a pure function of tensors; :func:`espref.esp_attention` is its specification.

Per slice: sort the scores, apply soft sorts as diag(left) K diag(right) Pi with K in linear time, and stream over
slices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .sorting import SORTS, Options, Sorter, soft_sort

#: Elements (batch x slices x tokens x coordinates) worked on at once.
GROUP = 2**20
#: Elements of all slices up to which their terms are kept for the backward, which else computes them again.
KEEP = 2**23


class EspOutput(NamedTuple):
    """What :func:`esp_attention` returns."""

    output: Tensor  # (..., N, Ev)
    weights: Tensor | None  # (..., N, M), only with need_weights


class _Ranks(NamedTuple):
    """The monotone plan A[n_i, m_i] between ranks, one for each batch item, by its pieces."""

    source: Tensor  # (B, pieces)
    target: Tensor
    mass: Tensor  # (B, pieces)

    def apply(self, x: Tensor, n: int) -> Tensor:
        """A x: target ranks (B, G, M, E) to source ranks (B, G, N, E)."""
        shape = (x.shape[0], x.shape[1], self.target.shape[1], x.shape[3])
        pieces = x.gather(2, self.target[:, None, :, None].expand(shape)) * self.mass[:, None, :, None]
        result = x.new_zeros(x.shape[0], x.shape[1], n, x.shape[3])
        return result.scatter_add(2, self.source[:, None, :, None].expand(shape), pieces)


def _ranks(q: Tensor, k: Tensor, options: Options) -> _Ranks | None:
    """Pieces in whole numbers: rank i of n ends at i m, rank j of m at j n; mass 1 in all. None for A = 1/n."""
    (batch, n, _), m = q.shape, k.shape[1]
    if options.query_real is None and options.key_real is None and n == m:
        return None
    ones = torch.ones(batch, 1, dtype=torch.long, device=q.device)
    real_n = n * ones if options.query_real is None else options.query_real.sum(-1, keepdim=True)
    real_m = m * ones if options.key_real is None else options.key_real.sum(-1, keepdim=True)
    both = (real_n * real_m).clamp(min=1)
    ends_n = ((torch.arange(n, device=q.device) + 1) * real_m).minimum(both)
    ends_m = ((torch.arange(m, device=q.device) + 1) * real_n).minimum(both)
    ends, order = torch.cat([ends_n, ends_m], dim=1).sort(dim=1, stable=True)
    of_source = order < n
    source = (of_source.cumsum(1) - of_source.long()).clamp(max=n - 1)
    target = ((~of_source).cumsum(1) - (~of_source).long()).clamp(max=m - 1)
    mass = torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1])).to(q.dtype) / both
    return _Ranks(source, target, mass * ((real_n > 0) & (real_m > 0)))


def _real_count(x: Tensor, real: Tensor | None) -> Tensor:
    """Number of real tokens, (B, 1), at least 1."""
    if real is None:
        return x.new_full((len(x), 1), x.shape[1])
    return real.sum(-1, keepdim=True).clamp(min=1).to(x.dtype)


class _Dots(torch.autograd.Function):
    """Inner products of rows: x (..., E) with the first coordinates of z (..., E + Ev), y (..., Ev) with the others."""

    @staticmethod
    def forward(ctx, x, y, z):
        ctx.save_for_backward(x, y, z)
        dim = x.shape[-1]
        return (x * z[..., :dim]).sum(-1), (y * z[..., dim:]).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, first, second):
        x, y, z = ctx.saved_tensors
        dim, z_grad = x.shape[-1], torch.empty_like(z)
        torch.mul(first[..., None], x, out=z_grad[..., :dim])
        torch.mul(second[..., None], y, out=z_grad[..., dim:])
        return first[..., None] * z[..., :dim], second[..., None] * z[..., dim:], z_grad


class _Terms(NamedTuple):
    """What output and gradients of G slices are made of."""

    source: Sorter
    squares: Tensor  # (B, G)  mean of |query|^2 and |key|^2 under the marginals of the plans
    pushed: Tensor  # (B, G, N, E)  the queries, ranked and smoothed: source.left * pushed = P q
    pulled: Tensor  # (B, G, N, E + Ev)  keys and values at the ranks of the queries:
    masses: Tensor  # (B, G, N)  masses * pulled = source.left * A Q [k, v]


def _terms(q: Tensor, k: Tensor, v: Tensor, directions: Tensor, tau: Tensor | None, options: Options) -> _Terms:
    ranks = _ranks(q, k, options)
    source, squares_q = soft_sort(q, directions, options.query_real, tau, options)
    target, squares_k = soft_sort(k, directions, options.key_real, tau, options)
    squares = squares_q / _real_count(q, options.query_real) + squares_k / _real_count(k, options.key_real)
    pulled = target.product(target.ranked(torch.cat([k, v], dim=-1)[:, None]))
    if ranks is None:
        masses = source.left * target.left / q.shape[1]
    else:
        pulled, masses = ranks.apply(target.left[..., None] * pulled, q.shape[1]), source.left
    return _Terms(source, squares, source.product(source.ranked(q[:, None])), pulled, masses)


class _Streamed(torch.autograd.Function):
    """sum_l w_l output_l with w = softmax(-beta costs), a few slices at a time; the backward computes them again.

    With g the gradient of the output, slice l receives w_l g on its output and -beta w_l (<g, output_l> - <g, output>)
    on its cost. Costs and inner products <g, output_l> are both sums over ranks of P (.) times A Q (.).
    """

    @staticmethod
    def forward(ctx, q, k, v, directions, tau, beta, options, group):
        dim, count = q.shape[-1], _real_count(q, options.query_real)
        inputs = [x.detach() for x in (q, k, v, directions, tau)]
        keep = any(ctx.needs_input_grad) and not options.straight_through
        keep = keep and len(directions) * len(q) * max(q.shape[1], k.shape[1]) * (dim + v.shape[2]) <= KEEP
        if keep:
            inputs = [x.requires_grad_() for x in inputs]
        top = q.new_full((len(q),), -torch.inf)
        total, output, costs, kept = torch.zeros_like(top), q.new_zeros(len(q), q.shape[1], v.shape[2]), [], []
        for start in range(0, len(directions), group):
            with torch.set_grad_enabled(keep):
                terms = _part(inputs, slice(start, start + group), options)
            if keep:
                kept.append(terms)
            pushed, pulled, masses = terms.pushed.detach(), terms.pulled.detach(), terms.masses.detach()
            cross = (masses * (pushed * pulled[..., :dim]).sum(-1)).sum(-1)
            cost = terms.squares.detach() - 2 * cross  # (B, G)
            weighted = (masses * count[:, :, None])[..., None] * pulled[..., dim:]
            with torch.no_grad():
                outputs = terms.source.unranked(terms.source.product(weighted))  # (B, G, N, Ev)
            logits = -beta * cost
            new_top = torch.maximum(top, logits.amax(1))
            weights, scale = torch.exp(logits - new_top[:, None]), torch.exp(top - new_top)
            output = output * scale[:, None, None] + torch.einsum("bg,bgne->bne", weights, outputs)
            total, top = total * scale + weights.sum(1), new_top
            costs.append(cost)
        output = output / total[:, None, None]
        ctx.save_for_backward(q, k, v, directions, tau, beta, output, torch.cat(costs, dim=1))
        ctx.options, ctx.group, ctx.kept = options, group, (inputs, kept) if keep else None
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        q, k, v, directions, tau, beta, output, costs = ctx.saved_tensors
        options = ctx.options
        if options.sort == "hard" and options.straight_through:
            options = options._replace(sort="soft")
        weights = torch.softmax(-beta * costs, dim=1)  # (B, L)
        mean = (g * output).sum((1, 2))  # (B,)
        g = g * _real_count(q, options.query_real)[:, :, None]
        inputs, kept = ctx.kept or ([x.detach().requires_grad_() for x in (q, k, v, directions, tau)], [])
        ctx.kept = None
        sums, beta_grad = [torch.zeros_like(x) for x in inputs], torch.zeros_like(beta)
        for number, start in enumerate(range(0, len(directions), ctx.group)):
            part = slice(start, start + ctx.group)
            with torch.enable_grad():
                terms = kept[number] if kept else _part(inputs, part, options)
                looked = terms.source.product(terms.source.ranked(g[:, None]))  # (B, G, N, Ev)
                cross, inner = _Dots.apply(terms.pushed, looked, terms.pulled)
                cost = terms.squares - 2 * (terms.masses * cross).sum(-1)  # (B, G)
                inner = (terms.masses * inner).sum(-1)  # (B, G)  <g, output_l>
            along = weights[:, part] * (inner.detach() - mean[:, None])  # (B, G)
            beta_grad = beta_grad - (along * costs[:, part]).sum()
            grads = torch.autograd.grad([inner, cost], inputs, [weights[:, part], -beta * along], allow_unused=True)
            sums = [s if grad is None else s + grad for s, grad in zip(sums, grads, strict=True)]
        return (*sums, beta_grad, None, None)


def _part(inputs: list[Tensor], part: slice, options: Options) -> _Terms:
    q, k, v, directions, tau = inputs
    return _terms(q, k, v, directions[part], None if options.sort == "hard" else tau, options)


def esp_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    tau: float | Tensor,
    beta: float | Tensor,
    directions: Tensor | None = None,
    sort: str = "soft",
    power: int = 1,
    key_padding_mask: Tensor | None = None,
    query_padding_mask: Tensor | None = None,
    straight_through: bool = False,
    need_weights: bool = False,
) -> EspOutput:
    r"""ESP attention, $N \sum_l w_l U_l V$, exact, without building a plan; see :func:`espref.esp_attention`.

    Parameters
    ----------
    query, key, value : (..., N, E), (..., M, E), (..., M, Ev)
        Floating point tensors; half precision is computed in float32 and returned as it came.
    tau : float or tensor without dimensions
        Temperature of the soft sort, > 0 (unused by a hard sort without ``straight_through``).
    beta : float or tensor without dimensions
        Inverse temperature over slices, >= 0, in units of 1 / |query|^2.
    directions : (L, E), optional
        Slicers, fixed or learned; the axes by default.
    sort : "soft" | "balanced" | "hard"
        SoftSort, the doubly stochastic balanced sort, or the hard sort (ties averaged).
    power : 1 or 2
        Laplace kernel, linear in N; Gauss kernel, quadratic.
    key_padding_mask, query_padding_mask : (..., M) and (..., N) bool, optional
        True = ignore, as in MultiheadAttention. The plan is between the real tokens of each batch item; padded queries
        give zeros, and so does a batch item without any real key.
    straight_through : bool
        With a hard sort, take the gradient of the soft one.
    need_weights : bool
        Also compute the attention matrix: O(N M) memory, and the time of M value columns.

    Returns
    -------
    EspOutput
        output (..., N, Ev) and weights (..., N, M) or None.

    Raises
    ------
    ValueError
        For malformed arguments.
    RuntimeError
        When the balanced scaling does not converge.

    References
    ----------
    shahbazi2025espformer, prillo2020softsort
    """
    lead = _check(query, key, value, directions, sort, power)
    kept = value.dtype
    dtype = torch.float64 if kept == torch.float64 else torch.float32
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (x.reshape(-1, *x.shape[-2:]).to(dtype) for x in (query, key, value))
        tau, beta = (_scalar(x, name, q) for x, name in ((tau, "tau"), (beta, "beta")))
        slicers = torch.eye(q.shape[-1], dtype=dtype, device=q.device) if directions is None else directions.to(q)
        masks = [_real(mask, lead, x, name) for mask, x, name in (
            (query_padding_mask, q, "query_padding_mask"), (key_padding_mask, k, "key_padding_mask"))]  # fmt: skip
        options = Options(sort, power, straight_through, *masks)
        centre = _centre(k, masks[1])  # plans and weights do not notice, and the costs cancel less
        q, k = q - centre, k - centre
        per_slice = len(q) * max(q.shape[1], k.shape[1]) * max(q.shape[2], v.shape[2])
        group = max(1, min(len(slicers), GROUP // max(per_slice, 1)))
        output = _Streamed.apply(q, k, v, slicers, tau, beta, options, group)
        weights = None
        if need_weights:
            identity = torch.eye(k.shape[1], dtype=dtype, device=q.device).expand(len(q), -1, -1)
            weights = _Streamed.apply(q, k, identity, slicers, tau, beta, options, 1)
            weights = weights.to(kept).reshape(*lead, *weights.shape[1:])
    return EspOutput(output.to(kept).reshape(*lead, *output.shape[1:]), weights)


def _check(query: Tensor, key: Tensor, value: Tensor, directions: Tensor | None, sort: str, power: int) -> torch.Size:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or 0 in x.shape[-2:]:
            got = f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name}: expected a floating point tensor of shape (..., tokens, coordinates), got {got}")
    lead = query.shape[:-2]
    if key.shape[:-2] != lead or value.shape[:-2] != lead:
        raise ValueError(f"key, value: expected leading dimensions {tuple(lead)} as query has")
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"key: expected {query.shape[-1]} coordinates as query has, got {key.shape[-1]}")
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(f"value: expected {key.shape[-2]} tokens as key has, got {value.shape[-2]}")
    if directions is not None and (
        directions.ndim != 2 or directions.shape[1] != query.shape[-1] or not len(directions)
    ):
        raise ValueError(f"directions: expected shape (L, {query.shape[-1]}), got {tuple(directions.shape)}")
    if sort not in SORTS:
        raise ValueError(f"sort: expected one of {', '.join(SORTS)}, got {sort!r}")
    if power not in (1, 2):
        raise ValueError(f"power: expected 1 (Laplace) or 2 (Gauss), got {power!r}")
    return lead


def _scalar(x: float | Tensor, name: str, like: Tensor) -> Tensor:
    scalar = torch.as_tensor(x, dtype=like.dtype, device=like.device)
    if scalar.ndim != 0:
        raise ValueError(f"{name}: expected a number, got shape {tuple(scalar.shape)}")
    if not torch.compiler.is_compiling() and not (scalar > 0 if name == "tau" else scalar >= 0):
        raise ValueError(f"{name}: expected a number {'> 0' if name == 'tau' else '>= 0'}, got {scalar.item()}")
    return scalar


def _real(mask: Tensor | None, lead: torch.Size, x: Tensor, name: str) -> Tensor | None:
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape[-1] != x.shape[1]:
        raise ValueError(
            f"{name}: expected a boolean mask of shape (..., {x.shape[1]}), got {tuple(mask.shape)}, {mask.dtype}"
        )
    return ~mask.expand(*lead, x.shape[1]).reshape(-1, x.shape[1])


def _centre(k: Tensor, real: Tensor | None) -> Tensor:
    """The mean of the real keys, (B, 1, E), as a constant."""
    if real is None:
        return k.detach().mean(dim=1, keepdim=True)
    kept = real[..., None].to(k.dtype)
    return (k.detach() * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
