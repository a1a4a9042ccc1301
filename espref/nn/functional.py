r"""ESP attention as a pure function of tensors; :func:`espref.esp_attention` is its specification.

Per slice: sort the scores, apply soft sorts as diag(left) K diag(right) Pi with K in linear time, and stream over
slices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .scan import gauss, laplace

SORTS = ("soft", "balanced", "hard")

#: Elements (batch x slices x tokens x coordinates) worked on at once.
GROUP = 2**21
MAX_ROUNDS = 100


class EspOutput(NamedTuple):
    """What :func:`esp_attention` returns."""

    output: Tensor  # (..., N, Ev)
    weights: Tensor | None  # (..., N, M), only with need_weights


class _Options(NamedTuple):
    sort: str
    power: int
    straight_through: bool
    query_real: Tensor | None  # (B, N) true where the token is real; None: all are
    key_real: Tensor | None  # (B, M)


class _Sorter(NamedTuple):
    """A soft sort diag(left) K diag(right) Pi, for G slices at once."""

    order: Tensor  # (B, G, N)
    ordered: Tensor  # (B, G, N) sorted scores
    left: Tensor  # (B, G, N)
    right: Tensor  # (B, G, N)
    tau: Tensor | None
    power: int

    def kernel(self, x: Tensor) -> Tensor:
        return (laplace if self.power == 1 else gauss)(self.ordered, x, self.tau)

    def apply(self, x: Tensor) -> Tensor:
        """P x: points (B, N, E) to ranks (B, G, N, E)."""
        index = self.order[..., None].expand(*self.order.shape, x.shape[-1])
        ranked = x[:, None].expand(-1, self.order.shape[1], -1, -1).gather(2, index)
        return self.left[..., None] * self.kernel(self.right[..., None] * ranked)

    def transpose(self, x: Tensor) -> Tensor:
        """P^T x: ranks (B, G, N, E) to points (B, G, N, E)."""
        index = self.order[..., None].expand_as(x)
        return torch.zeros_like(x).scatter(2, index, self.right[..., None] * self.kernel(self.left[..., None] * x))


def _sorter(s: Tensor, real: Tensor | None, tau: Tensor | None, options: _Options) -> _Sorter:
    """The soft sort of scores s (B, G, N). Padded tokens stand behind the real ones, and carry nothing."""
    keys = s.detach() if real is None else s.detach().masked_fill(~real[:, None], torch.inf)
    order = keys.argsort(dim=-1, stable=True)
    ordered = s.gather(-1, order)
    mask = torch.ones_like(ordered)
    if real is not None:
        mask = real[:, None].expand_as(s).gather(-1, order).to(s.dtype)
        top = ordered.masked_fill(mask == 0, -torch.inf).amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
        ordered = torch.where(mask > 0, ordered, top)
    sort = _Sorter(order, ordered, mask, mask, tau, options.power)
    if options.sort == "balanced":
        d = _balance(sort, mask)
        return sort._replace(left=d, right=d)
    total = sort.kernel(mask[..., None])[..., 0]
    return sort._replace(left=mask / torch.where(mask > 0, total, torch.ones_like(total)))


def _balance(sort: _Sorter, mask: Tensor) -> Tensor:
    """d > 0 on real tokens with d * (K d) = 1, differentiable: by the implicit function theorem the gradient of log d
    passes through (I + S)^{-1} with S = diag(d) K diag(d), solved by conjugate gradients (condition at most 2)."""
    fixed = sort._replace(ordered=sort.ordered.detach(), tau=None if sort.tau is None else sort.tau.detach())
    tolerance = 1e-13 if mask.dtype == torch.float64 else 2e-6
    with torch.no_grad():
        d = mask / mask.sum(dim=-1, keepdim=True).clamp(min=1).sqrt()
        for _ in range(MAX_ROUNDS):
            image = fixed.kernel(d[..., None])[..., 0]
            if ((d * image - 1) * mask).abs().max() <= tolerance:
                break
            d = torch.where(mask > 0, (d / torch.where(mask > 0, image, 1.0)).sqrt(), 0.0)
        else:
            raise RuntimeError(f"balanced soft sort: no convergence in {MAX_ROUNDS} rounds")
    image = sort.kernel(d[..., None])[..., 0]
    error = torch.where(mask > 0, (d * image).clamp(min=1e-30), 1.0).log()

    if not error.requires_grad:
        return d

    def solve(gradient: Tensor) -> Tensor:
        with torch.no_grad():
            return _conjugate_gradients(lambda z: z + d * fixed.kernel((d * z)[..., None])[..., 0], gradient * mask)

    error.register_hook(solve)
    return d * torch.exp(-(error - error.detach()))


def _conjugate_gradients(apply, b: Tensor) -> Tensor:
    """Solve a symmetric system with eigenvalues in [1, 2]; the error falls by (sqrt 2 - 1)^2 a round at worst."""
    x, r = torch.zeros_like(b), b
    p, rr = r, (r * r).sum(-1, keepdim=True)
    for _ in range(24):
        image = apply(p)
        step = rr / (p * image).sum(-1, keepdim=True).clamp(min=torch.finfo(b.dtype).tiny)
        x, r = x + step * p, r - step * image
        old, rr = rr, (r * r).sum(-1, keepdim=True)
        p = r + rr / old.clamp(min=torch.finfo(b.dtype).tiny) * p
    return x


class _Ranks(NamedTuple):
    """The monotone plan A[n_i, m_i] between ranks, one for each batch item, by its pieces."""

    source: Tensor | None  # (B, pieces); None: n = m everywhere, A is diagonal
    target: Tensor
    mass: Tensor  # (B, pieces), or (B, N) on the diagonal

    def apply(self, x: Tensor, n: int) -> Tensor:
        """A x: target ranks (B, G, M, E) to source ranks (B, G, N, E)."""
        if self.source is None:
            return self.mass[:, None, :, None] * x
        shape = (x.shape[0], x.shape[1], self.target.shape[1], x.shape[3])
        pieces = x.gather(2, self.target[:, None, :, None].expand(shape)) * self.mass[:, None, :, None]
        result = x.new_zeros(x.shape[0], x.shape[1], n, x.shape[3])
        return result.scatter_add(2, self.source[:, None, :, None].expand(shape), pieces)


def _ranks(q: Tensor, k: Tensor, options: _Options) -> _Ranks:
    """Pieces in whole numbers: rank i of n ends at i m, rank j of m at j n; mass 1 in all."""
    (batch, n, _), m = q.shape, k.shape[1]
    if options.query_real is None and options.key_real is None and n == m:
        return _Ranks(None, q.new_zeros(0), q.new_full((1, n), 1 / n))
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
    """Number of real tokens, (B, 1)."""
    return x.new_full((len(x), 1), x.shape[1]) if real is None else real.sum(-1, keepdim=True).to(x.dtype)


def _slices(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor, tau: Tensor | None, options: _Options
) -> tuple[Tensor, Tensor]:
    """Costs (B, G) and outputs (B, G, N, Ev) of G slices."""
    ranks = _ranks(q, k, options)
    sides = []
    for x, real in ((q, options.query_real), (k, options.key_real)):
        sort = _sorter(torch.einsum("bne,ge->bgn", x, directions), real, tau, options)
        sums = sort.transpose(sort.left.new_ones(*sort.left.shape, 1))[..., 0]  # column sums of P, (B, G, N)
        mean = (sums * x.square().sum(-1)[:, None]).sum(-1) / _real_count(x, real).clamp(min=1)
        sides.append((sort, mean))
    (source, squares_q), (target, squares_k) = sides
    cross = (source.apply(q) * ranks.apply(target.apply(k), q.shape[1])).sum((-2, -1))
    output = source.transpose(ranks.apply(target.apply(v), q.shape[1]))
    return squares_q + squares_k - 2 * cross, output * _real_count(q, options.query_real)[:, :, None, None]


class _Streamed(torch.autograd.Function):
    """sum_l w_l output_l with w = softmax(-beta costs), a few slices at a time; the backward computes them again.

    With g the gradient of the output, slice l receives w_l g on its output and -beta w_l (<g, output_l> - <g, output>)
    on its cost.
    """

    @staticmethod
    def forward(ctx, q, k, v, directions, tau, beta, options, group):
        tau_used = None if options.sort == "hard" else tau
        top = q.new_full((len(q),), -torch.inf)
        total, output, costs = torch.zeros_like(top), q.new_zeros(len(q), q.shape[1], v.shape[2]), []
        for part in directions.split(group):
            cost, outputs = _slices(q, k, v, part, tau_used, options)
            logits = -beta * cost  # (B, G)
            new_top = torch.maximum(top, logits.amax(1))
            weights, scale = torch.exp(logits - new_top[:, None]), torch.exp(top - new_top)
            output = output * scale[:, None, None] + torch.einsum("bg,bgne->bne", weights, outputs)
            total, top = total * scale + weights.sum(1), new_top
            costs.append(cost)
        output, all_costs = output / total[:, None, None], torch.cat(costs, dim=1)
        ctx.save_for_backward(q, k, v, directions, tau, beta, output, all_costs)
        ctx.options, ctx.group = options, group
        return output, all_costs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g, g_costs):
        q, k, v, directions, tau, beta, output, costs = ctx.saved_tensors
        options = ctx.options
        if options.sort == "hard" and options.straight_through:
            options = options._replace(sort="soft")
        weights = torch.softmax(-beta * costs, dim=1)  # (B, L)
        mean = (g * output).sum((1, 2))  # (B,)
        inputs = [x.detach().requires_grad_() for x in (q, k, v, directions, tau)]
        sums, beta_grad = [torch.zeros_like(x) for x in inputs], torch.zeros_like(beta)
        for start in range(0, len(directions), ctx.group):
            part = slice(start, start + ctx.group)
            with torch.enable_grad():
                tau_used = None if options.sort == "hard" else inputs[4]
                cost, outputs = _slices(inputs[0], inputs[1], inputs[2], inputs[3][part], tau_used, options)
            w = weights[:, part]
            along = w * ((g[:, None] * outputs.detach()).sum((2, 3)) - mean[:, None])  # (B, G)
            beta_grad = beta_grad - (along * costs[:, part]).sum()
            grads = torch.autograd.grad(
                [outputs, cost],
                inputs,
                [w[:, :, None, None] * g[:, None], -beta * along + g_costs[:, part]],
                allow_unused=True,
            )
            sums = [s if grad is None else s + grad for s, grad in zip(sums, grads, strict=True)]
        return (*sums, beta_grad, None, None)


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
        options = _Options(sort, power, straight_through, *masks)
        centre = _centre(k, masks[1])  # plans and weights do not notice, and the costs cancel less
        q, k = q - centre, k - centre
        per_slice = len(q) * max(q.shape[1], k.shape[1]) * max(q.shape[2], v.shape[2])
        group = max(1, min(len(slicers), GROUP // max(per_slice, 1)))
        output, _ = _Streamed.apply(q, k, v, slicers, tau, beta, options, group)
        weights = None
        if need_weights:
            identity = torch.eye(k.shape[1], dtype=dtype, device=q.device).expand(len(q), -1, -1)
            weights, _ = _Streamed.apply(q, k, identity, slicers, tau, beta, options, 1)
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
