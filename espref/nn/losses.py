r"""Sliced transport plans as losses between batches of weighted clouds.

:func:`espref.nn.functional.est_loss` is the expected cost of hard plans, with exact gradients in points and weights;
:func:`espref.nn.functional.soft_est_loss` is that of soft plans, smooth, with gradients in the slicers too: with these,
slicers are learned. :func:`espref.nn.functional.expected_soft_plan` returns a soft plan itself. The NumPy chapters
:mod:`espref.expected` and :mod:`espref.softplan` specify what is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import check_options
from .clouds import (
    TIES,
    as_beta,
    as_choice,
    as_clouds,
    as_directions,
    as_exponent,
    as_prior,
    as_tau,
    centred,
    finite,
)
from .matching import hard_costs, powers, ranked
from .softplans import Sorting, soft_plans, soft_ranked, soft_squared_costs

SORTS = ("soft", "balanced")
#: Excess of a slice's cost, relative to the cheapest, that is rounding (in units of eps).
COST_ROUNDING = 64


class SoftPlan(NamedTuple):
    """What :func:`expected_soft_plan` returns."""

    plan: Tensor  # (..., n, m), mass 1
    cost: Tensor  # (...), expected cost, sum_l weights_l costs_l = <C, plan>
    weights: Tensor  # (..., L) of the slices, sum 1
    costs: Tensor  # (..., L) of the slices


def est_loss(
    x: Tensor,
    y: Tensor,
    directions: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    beta: float | Tensor = 0.0,
    p: float = 2,
    ties: str = "split",
    prior: Tensor | None = None,
    x_padding_mask: Tensor | None = None,
    y_padding_mask: Tensor | None = None,
) -> Tensor:
    r"""The expected sliced transport cost between weighted clouds, $\mathrm{EST}_p^p = \sum_l w_l c_l$.

    $$c_l = \sum_{ij} |x_i - y_j|^p\, G_{l,ij}, \qquad w_l \propto \pi_l e^{-\beta c_l} ,$$

    where $G_l$ is the optimal plan between the projections on $\theta_l$: :func:`espref.est_distance` to the power p.
    It takes O(L (n + m) (log(n + m) + d)) time and O(L (n + m) d) memory; no plan is formed.

    Parameters
    ----------
    x, y : (..., n, d) and (..., m, d)
        Source and target clouds, with the same leading dimensions. Half precision is computed in float32.
    directions : (L, d), optional
        One direction per row, constant; the axes by default.
    a, b : (..., n) and (..., m), optional
        Weights, nonnegative, sum 1; they may lack leading dimensions. Uniform by default.
    beta : float or tensor without dimensions
        Inverse temperature over slices, >= 0, in units of 1 / length^p. 0 is the plain mean, inf the cheapest slices.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.
    ties : "split" or "first"
        See :func:`espref.line_plan`. Splitting them takes time and memory for each pair of tied points if p is not 2.
    prior : (L,), optional
        Weights $\pi$ of the directions themselves, sum 1; see :func:`espref.direction_weights`.
    x_padding_mask, y_padding_mask : (..., n) and (..., m) bool, optional
        True = padding, as in :class:`torch.nn.MultiheadAttention`. Nothing that stands there is looked at.

    Returns
    -------
    Tensor, shape (...)
        One loss per pair of clouds, in units of length^p, of the type of ``x``.

    Raises
    ------
    ValueError
        For malformed input; for directions that require a gradient, since plans are piecewise constant in them; for
        costs that overflow.

    See Also
    --------
    soft_est_loss : the same for soft plans, which have a gradient in the directions.

    Notes
    -----
    Plans are piecewise constant in the points. With $F = \sum_l w_l c_l$ and $r_{ij} = x_i - y_j$, wherever no
    direction ties two points of a cloud,

    $$\frac{\partial F}{\partial x_i} = \sum_l w_l\, (1 - \beta (c_l - F))
      \sum_j G_{l,ij}\; p\, |r_{ij}|^{p-2}\, r_{ij} .$$

    Where two points swap their places along a direction the loss may jump; a gradient is that of the plans at hand.
    The gradient in the weights is that of the loss of a / sum a. Weights are cumulated in float64, whatever their type,
    to 1e-16 of the total mass. A squared cost between points that are closer than the square root of the smallest float
    counts as zero.

    Higher derivatives, forward mode, ``torch.func.jacrev`` and ``torch.compile`` work. ``vmap`` does not, because
    values are checked; leading dimensions are the batch.

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import est_loss
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    >>> y = torch.tensor([[5.0, 0.0], [3.0, 0.0]])
    >>> loss = est_loss(x, y, torch.tensor([[1.0, 0.0]]))
    >>> loss.item()  # 0 goes to 3 and 1 to 5
    12.5
    >>> loss.backward()
    >>> x.grad[:, 0]
    tensor([-3., -4.])

    References
    ----------
    liu2025est
    """
    lead = x.shape[:-2] if isinstance(x, Tensor) else torch.Size()
    with torch.autocast(_device(x), enabled=False):
        source, target = as_clouds(x, y, a, b, x_padding_mask, y_padding_mask)
        theta, number = as_directions(directions, source.points), as_beta(beta, source.points)
        if theta.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "directions: expected constants, got a tensor that requires a gradient, but hard plans are piecewise "
                "constant in the directions; use soft_est_loss, or pass directions.detach()"
            )
        p, weights = as_exponent(p), as_prior(prior, theta)
        as_choice(ties, "ties", TIES)
        ranks = ranked(source, theta, ties), ranked(target, theta, ties)
        shift = source.points.new_zeros(len(source.points), 1)
        if p == 2:
            source, target, shift = centred(source, target)
        costs = hard_costs(source, target, *ranks, p)  # (B, L)
        loss = (gibbs_weights(costs, number, weights) * costs).sum(-1) + shift.square().sum(-1)  # (B,)
    return finite(loss, x.dtype).reshape(lead)


def soft_est_loss(
    x: Tensor,
    y: Tensor,
    directions: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    tau: float | Tensor,
    beta: float | Tensor = 0.0,
    sort: str = "soft",
    power: int = 1,
    prior: Tensor | None = None,
    x_padding_mask: Tensor | None = None,
    y_padding_mask: Tensor | None = None,
) -> Tensor:
    r"""The expected squared cost of soft sliced plans, $\sum_l w_l \langle C, P_l^\top A_l Q_l \rangle$.

    ``expected_soft_plan(...).cost`` for p = 2 without forming a plan: O(L (n + m) (log(n + m) + d)). It is smooth
    wherever no direction ties two points, and has gradients in points, weights, ``directions``, ``tau`` and ``beta``.

    Parameters
    ----------
    x, y : (..., n, d) and (..., m, d)
        Source and target clouds, with the same leading dimensions. Half precision is computed in float32.
    directions : (L, d), optional
        Slicers, given or learned; the axes by default. The scores that are sorted are <x_i, theta_l>, so their length
        matters.
    a, b : (..., n) and (..., m), optional
        Weights, nonnegative, sum 1; they may lack leading dimensions. Uniform by default.
    tau : float or tensor without dimensions
        Temperature of the soft sort, > 0, in units of (length x |theta|)^power.
    beta : float or tensor without dimensions
        Inverse temperature over slices, >= 0, in units of 1 / length^2. 0 is the plain mean, inf the cheapest slices.
    sort : "soft" or "balanced"
        SoftSort, whose plans have mass 1 but only nearly the marginals a and b, or the balanced sort, whose plans have
        them exactly, so that the loss is at least the optimal transport cost.
    power : 1 or 2
        Exponent of the sort kernel: Laplace, linear in n, or Gauss, quadratic in n.
    prior : (L,), optional
        Weights $\pi$ of the directions themselves, sum 1; see :func:`espref.direction_weights`.
    x_padding_mask, y_padding_mask : (..., n) and (..., m) bool, optional
        True = padding, as in :class:`torch.nn.MultiheadAttention`. Nothing that stands there is looked at.

    Returns
    -------
    Tensor, shape (...)
        One loss per pair of clouds, in units of length^2, of the type of ``x``.

    Raises
    ------
    ValueError
        For malformed input, or costs that overflow.
    RuntimeError
        When the balanced scaling does not converge.
    NotImplementedError
        For second derivatives, but for SoftSort with the Gauss kernel, which has them.

    See Also
    --------
    est_loss : the limit tau -> 0, for every p.
    expected_soft_plan : the plan itself, for every p.

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import soft_est_loss
    >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 2.0]])
    >>> slicer = torch.tensor([[1.0, -1.0]], requires_grad=True)
    >>> soft_est_loss(x, y, slicer, tau=0.1).backward()
    >>> slicer.grad.shape
    torch.Size([1, 2])

    References
    ----------
    liu2025est, shahbazi2025espformer
    """
    lead = x.shape[:-2] if isinstance(x, Tensor) else torch.Size()
    with torch.autocast(_device(x), enabled=False):
        source, target = as_clouds(x, y, a, b, x_padding_mask, y_padding_mask)
        theta, number = as_directions(directions, source.points), as_beta(beta, source.points)
        weights, how = as_prior(prior, theta), _sorting(source.points, tau, sort, power)
        sorts = [soft_ranked(cloud, theta.to(cloud.points.dtype), how) for cloud in (source, target)]
        source, target, shift = centred(source, target)
        costs = soft_squared_costs(source, target, shift, *sorts)  # (B, L)
        loss = (gibbs_weights(costs, number, weights) * costs).sum(-1) + shift.square().sum(-1)  # (B,)
    return finite(loss, x.dtype).reshape(lead)


def expected_soft_plan(
    x: Tensor,
    y: Tensor,
    directions: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    tau: float | Tensor,
    beta: float | Tensor = 0.0,
    p: float = 2,
    power: int = 1,
    sort: str = "soft",
    prior: Tensor | None = None,
    x_padding_mask: Tensor | None = None,
    y_padding_mask: Tensor | None = None,
) -> SoftPlan:
    r"""The expected soft plan $\sum_l w_l P_l^\top A_l Q_l$, with $w_l \propto \pi_l e^{-\beta c_l}$, differentiable.

    See :func:`espref.expected_soft_plan`. O(L n m) time and memory for the Laplace kernel.

    Parameters
    ----------
    x, y : (..., n, d) and (..., m, d)
        Source and target clouds, with the same leading dimensions. Half precision is computed in float32.
    directions : (L, d), optional
        Slicers, given or learned; the axes by default. The scores that are sorted are <x_i, theta_l>.
    a, b : (..., n) and (..., m), optional
        Weights, nonnegative, sum 1; they may lack leading dimensions. Uniform by default.
    tau : float or tensor without dimensions
        Temperature of the soft sort, > 0, in units of (length x |theta|)^power.
    beta : float or tensor without dimensions
        Inverse temperature over slices, >= 0, in units of 1 / length^p. 0 is the plain mean, inf the cheapest slices.
    p : float
        Exponent of the ground cost |x - y|^p, >= 1.
    power : 1 or 2
        Exponent of the sort kernel: Laplace or Gauss.
    sort : "soft" or "balanced"
        See :func:`soft_est_loss`.
    prior : (L,), optional
        Weights $\pi$ of the directions themselves, sum 1; see :func:`espref.direction_weights`.
    x_padding_mask, y_padding_mask : (..., n) and (..., m) bool, optional
        True = padding, as in :class:`torch.nn.MultiheadAttention`. Rows and columns of padding are zero.

    Returns
    -------
    SoftPlan
        plan (..., n, m) of mass 1, cost (...), weights (..., L), costs (..., L), of the type of ``x``.

    Raises
    ------
    ValueError
        For malformed input, or costs that overflow.
    RuntimeError
        When the balanced scaling does not converge.
    NotImplementedError
        For second derivatives, but for SoftSort with the Gauss kernel, which has them.

    Examples
    --------
    >>> import torch
    >>> from espref.nn.functional import expected_soft_plan
    >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    >>> expected_soft_plan(x, y, tau=1e-3).plan
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]])

    References
    ----------
    shahbazi2025espformer
    """
    lead = x.shape[:-2] if isinstance(x, Tensor) else torch.Size()
    with torch.autocast(_device(x), enabled=False):
        source, target = as_clouds(x, y, a, b, x_padding_mask, y_padding_mask)
        theta, number = as_directions(directions, source.points), as_beta(beta, source.points)
        weights, how = as_prior(prior, theta), _sorting(source.points, tau, sort, power)
        p = as_exponent(p)
        sorts = [soft_ranked(cloud, theta.to(cloud.points.dtype), how) for cloud in (source, target)]
        plans = soft_plans(*sorts)  # (B, L, n, m)
        ground = powers(source.points[:, :, None] - target.points[:, None], p)  # (B, n, m)
        costs = (plans * ground[:, None]).sum((-2, -1))  # (B, L)
        comparable = soft_squared_costs(*centred(source, target), *sorts) if p == 2 else costs
        w = gibbs_weights(comparable, number, weights)  # (B, L)
        cost = (w * costs).sum(-1)  # (B,)
        plan = (w[:, :, None, None] * plans).sum(1)  # (B, n, m)
    return SoftPlan(*(finite(part, x.dtype).reshape(lead + part.shape[1:]) for part in (plan, cost, w, costs)))


def gibbs_weights(costs: Tensor, beta: Tensor, prior: Tensor) -> Tensor:
    r"""Weights $w_l \propto \pi_l e^{-\beta c_l}$, (B, L), of costs (B, L); see :func:`espref.gibbs_weights`."""
    prior = prior.to(costs.dtype)
    least = torch.where(prior > 0, costs, torch.inf).detach().amin(-1, keepdim=True)  # (B, 1)
    excess = costs - least
    rounding = excess.detach() <= COST_ROUNDING * torch.finfo(costs.dtype).eps * least.abs()
    if beta == torch.inf:
        weights = prior * rounding
        return weights / weights.sum(-1, keepdim=True)
    excess = excess - torch.where(rounding, excess, 0.0).detach()  # zero, with the gradient of the cost
    return torch.softmax(prior.log() - beta * excess, dim=-1)


def _sorting(points: Tensor, tau: float | Tensor, sort: str, power: int) -> Sorting:
    as_choice(sort, "sort", SORTS)
    check_options(points, None, sort, power)
    return Sorting(as_tau(tau, points), power, sort == "balanced")


def _device(x: Tensor) -> str:
    return x.device.type if isinstance(x, Tensor) and x.device.type != "meta" else "cpu"  # meta has no autocast
