r"""ESP attention a few slices at a time: their Gibbs average, and its gradient.

Forward keeps a running softmax over the slices. Backward needs the weights w and, for each slice, the inner product of
its output with the gradient g:

$$\bar{\text{output}}_l = w_l\, g, \qquad
\bar c_l = -\beta w_l (\langle g, \text{output}_l \rangle - \langle g, \text{output} \rangle), \qquad
\bar\beta = -\sum_l w_l c_l (\langle g, \text{output}_l \rangle - \langle g, \text{output} \rangle) .$$

Both go through the same step, :func:`espref.nn.slices.slice_terms`; backward takes it again instead of storing it.
These functions are what the operators of :mod:`espref.nn.operators` do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .slices import Directions, prepare, slice_terms

#: Elements (batch x slices x tokens x coordinates) that are worked on at once.
GROUP = 2**20


class Call(NamedTuple):
    """What attention is computed from."""

    q: Tensor  # (B, N, E)
    k: Tensor  # (B, M, E)
    v: Tensor  # (B, M, Ev)
    directions: Tensor | None  # (L, E)  None: the axes
    tau: Tensor  # (B,)
    beta: Tensor  # (B,)
    query_valid: Tensor | None  # (B, N)  None: all of them
    key_valid: Tensor | None  # (B, M)
    sort: str
    power: int

    @property
    def slices(self) -> int:
        return self.q.shape[-1] if self.directions is None else len(self.directions)


class Gradients(NamedTuple):
    """The gradients of the first six."""

    q: Tensor
    k: Tensor
    v: Tensor
    directions: Tensor  # (L, E), or (0, E) for the axes
    tau: Tensor
    beta: Tensor


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """N sum_l w_l U_l v, (B, N, Ev), with w = softmax(-beta c), and the costs c up to a constant, (B, L) in float64."""
    _check_temperatures(call)
    q, v = call.q, call.v
    queries, keys = prepare(q, q[..., :0], call.k, v, call.query_valid, call.key_valid, call.sort)
    costs, total = [], q.new_zeros(len(q), dtype=torch.float64)
    top, output = torch.full_like(total, -torch.inf), q.new_zeros(len(q), q.shape[1], v.shape[2])
    for _, directions in _groups(call):
        terms = slice_terms(queries, keys, directions, _tau(call), call.sort, call.power)
        costs.append(terms.costs())  # (B, G)
        logits = -call.beta[:, None] * costs[-1]
        new_top = torch.maximum(top, logits.amax(1))
        weights, scale = torch.exp(logits - new_top[:, None]), torch.exp(top - new_top)
        added = torch.einsum("bg,bgne->bne", weights.to(q.dtype), terms.outputs())
        output = output * scale.to(q.dtype)[:, None, None] + added
        total, top = total * scale + weights.sum(1), new_top
    return output / total.to(q.dtype)[:, None, None], torch.cat(costs, dim=1)


def backward(g: Tensor, output: Tensor, costs: Tensor, call: Call) -> Gradients:
    """The gradients of <g, output>, from what :func:`forward` returned."""
    dtype, dim = g.dtype, call.q.shape[-1]
    queries, keys = prepare(call.q, g, call.k, call.v, call.query_valid, call.key_valid, call.sort)
    weights = torch.softmax(-call.beta[:, None] * costs, dim=1)  # (B, L)
    mean = (queries.rest * output).sum((1, 2), dtype=torch.float64)[:, None]  # (B, 1)  <g, output>
    q, k, v, tau = (torch.zeros_like(x) for x in (call.q, call.k, call.v, call.tau))
    turns, beta = [call.q.new_zeros(0, dim)], torch.zeros_like(mean[:, 0])
    for part, directions in _groups(call):
        terms = slice_terms(queries, keys, directions, _tau(call), call.sort, call.power)
        products = terms.products()  # (B, G, N)
        excess = weights[:, part] * ((terms.masses * products).sum(-1, dtype=torch.float64) - mean)  # (B, G)
        beta -= (excess * costs[:, part]).sum(1)
        of_cost = (-call.beta[:, None] * excess).to(dtype)
        to_source, to_target = terms.backward(weights[:, part].to(dtype), of_cost, products)
        source = queries.backward(terms.source, directions, to_source, rest_too=False)
        target = keys.backward(terms.target, directions, to_target, rest_too=True)
        q, k, v, tau = q + source.x, k + target.x, v + target.rest, tau + source.tau + target.tau
        if source.directions is not None and target.directions is not None:
            turns.append(source.directions + target.directions)
    return Gradients(q, k, v, torch.cat(turns), tau, beta.to(call.beta.dtype))


def _groups(call: Call) -> Iterator[tuple[slice, Directions]]:
    """Ranges of slices, few enough for the memory, and their directions."""
    (batch, n, dim), (_, m, width) = call.q.shape, call.v.shape
    size = max(1, min(call.slices, GROUP // max(batch * max(n, m) * max(dim, width), 1)))
    for start in range(0, call.slices, size):
        part = slice(start, start + size)
        yield part, part if call.directions is None else call.directions[part]


def _tau(call: Call) -> Tensor | None:
    return None if call.sort == "hard" else call.tau


def _check_temperatures(call: Call) -> None:
    """Asked on the CPU only: elsewhere it would be a wait, and bad temperatures give NaN."""
    for name, x, fits, wanted in (
        ("tau", call.tau, call.tau > 0, "> 0"),
        ("beta", call.beta, (call.beta >= 0) & (call.beta < torch.inf), ">= 0 and finite"),
    ):
        if x.device.type == "cpu" and not fits.all():
            raise ValueError(f"{name}: expected numbers {wanted}, got {x[~fits][0].item()}")
