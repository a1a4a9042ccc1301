"""Chapter 10 of the ledger: the PyTorch module. The checks import torch when they run, and are skipped without it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import attention, expected, lift, softplan
from .ledger import claim

TORCH: tuple[str, ...] = ("torch",)
SORTS = ("soft", "balanced", "hard")


def _functions() -> Any:
    from ..nn import functional

    return functional


def _tokens(rng: np.random.Generator, n: int, m: int, dim: int = 4, values: int = 3) -> list[Any]:
    """Queries, keys and values in float64."""
    import torch

    return [torch.tensor(rng.normal(size=size)) for size in ((n, dim), (m, dim), (m, values))]


def _largest(x: Any) -> float:
    return float(abs(x).max())


def _difference(result: Any, plain: attention.Attention) -> float:
    """Largest difference between output and matrix of a torch function and those of its specification."""
    return max(_largest(result.output.numpy() - plain.output), _largest(result.matrix.numpy() - plain.matrix))


@claim(
    "nn.equals-the-specification",
    kind="property",
    on="seed",
    tolerance=1e-11,
    needs=TORCH,
    source="shahbazi2025espformer",
    statement=r"Output and matrix of `espref.nn.functional.esp_attention` in float64 are those of "
    r"`espref.esp_attention`: soft, balanced and hard sorts, both kernels, along the axes and along free slicers, for "
    r"$n = m$ and $n \ne m$.",
    measured="largest difference of an entry",
)
def equals_specification(rng: np.random.Generator) -> float:
    """Two implementations of one definition: the specification forms matrices, the module uses recurrences."""
    import torch

    worst = 0.0
    for (n, m), sort, power, free in itertools.product(((40, 40), (37, 52)), SORTS, (1, 2), (False, True)):
        tokens = _tokens(rng, n, m)
        directions = rng.normal(size=(5, 4)) if free else None
        plain = attention.esp_attention(*tokens, tau=0.2, beta=1.3, directions=directions, sort=sort, power=power)
        result = _functions().esp_attention(
            *tokens,
            tau=0.2,
            beta=1.3,
            directions=None if directions is None else torch.tensor(directions),
            sort=sort,
            power=power,
            need_weights=True,
        )
        worst = max(worst, _difference(result, plain))
    return worst


@claim(
    "nn.gradients-are-derivatives",
    kind="property",
    on="seed",
    tolerance=1e-6,
    needs=TORCH,
    source="",
    statement=r"The gradients of soft and balanced ESP attention in queries, keys, values, $\tau$, $\beta$ and slicers "
    r"are the derivatives of the NumPy specification.",
    measured="largest deviation from a difference quotient along a random line, relative to gradient times line",
)
def gradients(rng: np.random.Generator) -> float:
    """Central differences of step 1e-5 along random lines, whose own error is of order 1e-10."""
    import torch

    worst, step = 0.0, 1e-5
    for sort, (n, m) in itertools.product(("soft", "balanced"), ((9, 9), (7, 11))):
        tensors = [*_tokens(rng, n, m, 3), torch.tensor(rng.normal(size=(4, 3))), torch.tensor([0.3]).double()]
        tensors = [x.requires_grad_() for x in [*tensors, torch.tensor([0.7]).double()]]
        g = torch.tensor(rng.normal(size=(n, 3)))

        def value(compute: Callable[..., Any], inputs: list[Any], sort: str = sort) -> Any:
            q, k, v, slicers, tau, beta = inputs
            return compute(q, k, v, directions=slicers, tau=tau[0], beta=beta[0], sort=sort).output

        output = value(_functions().esp_attention, tensors)
        gradients = torch.autograd.grad((output * g).sum(), tensors)
        for place, grad in enumerate(gradients):
            line = torch.tensor(rng.normal(size=tuple(grad.shape)))
            ends = []
            for sign in (1, -1):
                moved = [x.detach().numpy() for x in tensors]
                moved[place] = moved[place] + sign * step * line.numpy()
                ends.append(float((value(attention.esp_attention, moved) * g.numpy()).sum()))
            quotient = (ends[0] - ends[1]) / (2 * step)
            scale = max(1.0, abs(quotient), float(grad.norm() * line.norm()))
            worst = max(worst, abs(float((grad * line).sum()) - quotient) / scale)
    return worst


def _padded(rng: np.random.Generator, masked: bool) -> float:
    """Items of different lengths in one batch, against each of them alone; behind the masks stands NaN."""
    import torch

    functions, worst = _functions(), 0.0
    lengths, size = [(9, 12), (12, 5), (1, 1), (14, 14)], (14, 14)
    for sort in SORTS:
        fill = float("nan") if masked else 1e2
        q, k, v = (torch.tensor(fill * rng.normal(size=(4, n, 3))) for n in (*size, size[1]))
        pads = [torch.ones(4, n, dtype=torch.bool) for n in size]
        alone = []
        for item, (n, m) in enumerate(lengths):
            parts = _tokens(rng, n, m, 3)
            q[item, :n], k[item, :m], v[item, :m] = parts
            pads[0][item, :n], pads[1][item, :m] = False, False
            alone.append(functions.esp_attention(*parts, tau=0.1, beta=1.0, sort=sort).output)
        masks = dict(zip(("query_padding_mask", "key_padding_mask"), pads, strict=True)) if masked else {}
        output = functions.esp_attention(q, k, v, tau=0.1, beta=1.0, sort=sort, **masks).output
        for item, (n, _) in enumerate(lengths):
            worst = max(worst, _largest(output[item, :n] - alone[item]))
            worst = max(worst, float(abs(output[item, n:]).sum())) if masked else worst
    return worst


@claim(
    "nn.padding-changes-nothing",
    kind="property",
    on="seed",
    tolerance=1e-11,
    needs=TORCH,
    source="",
    statement=r"With padding masks, the plan of a batch item couples its valid tokens only: outputs are those of the "
    r"item alone, and zero at padded queries, whatever the padding holds.",
    measured="largest difference of an output",
)
def padding(rng: np.random.Generator) -> float:
    """Valid tokens come first in rank, padding carries no mass, and ranks are coupled by the counts of valid tokens."""
    return _padded(rng, masked=True)


@padding.without("the masks", at_least=0.1)
def unmasked(rng: np.random.Generator) -> float:
    """Padding is sorted and coupled like any other token."""
    return _padded(rng, masked=False)


def _elements(call: Callable[[], Any]) -> tuple[int, int]:
    """Elements of the largest tensor that a call makes, and of all its tensors together; operators are looked into."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from ..nn.operators import INSIDE

    largest, total = 0, 0

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest, total
            if function.name() in INSIDE:
                with self:
                    return INSIDE[function.name()](*args)
            result = function(*args, **(kwargs or {}))
            for part in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(part, torch.Tensor):
                    largest, total = max(largest, part.numel()), total + part.numel()
            return result

    with Watch():  # type: ignore[no-untyped-call]
        call()
    return largest, total


def _forward_and_backward(n: int, compute: Callable[..., Any]) -> Callable[[], None]:
    import torch

    generator = torch.Generator().manual_seed(n)
    tokens = [torch.randn(n, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    return lambda: compute(*tokens).output.sum().backward()


def _esp(q: Any, k: Any, v: Any) -> Any:
    return _functions().esp_attention(q, k, v, tau=0.1, beta=1.0)


@claim(
    "nn.no-plan-is-built",
    kind="property",
    on="fixed",
    tolerance=0.1,
    needs=TORCH,
    source="",
    statement=r"Forward and backward of ESP attention form no $n \times m$ matrix.",
    measured=r"elements of the largest tensor at $n = m = 4096$ and $d = 4$, as a fraction of $n m$",
)
def no_plan() -> float:
    """Every tensor that PyTorch makes is counted; the largest are the kernels within chunks, 16 numbers per token."""
    return _elements(_forward_and_backward(4096, _esp))[0] / 4096**2


@no_plan.without("the recurrences: dense Sinkhorn attention", at_least=1.0)
def dense() -> float:
    """Sinkhorn attention starts from its n x m matrix of scores."""
    return _elements(_forward_and_backward(512, lambda *tokens: _functions().sinkhorn_attention(*tokens)))[0] / 512**2


def _slope(compute: Callable[..., Any], sizes: tuple[int, ...]) -> float:
    work = [_elements(_forward_and_backward(n, compute))[1] for n in sizes]
    return float(np.polyfit(np.log(sizes), np.log(work), 1)[0])


@claim(
    "nn.linear-work",
    kind="measurement",
    on="fixed",
    tolerance=1.1,
    needs=TORCH,
    source="",
    statement=r"The count of numbers written by forward and backward of soft ESP attention grows linearly. A sort, "
    r"which is one call, counts as the numbers that it writes.",
    measured=r"log-log slope from $n = 1024$ to $8192$",
)
def linear_work() -> float:
    """Counted, not timed, so that it is the same on every machine."""
    return _slope(_esp, (1024, 2048, 4096, 8192))


@linear_work.without("the recurrences: dense Sinkhorn attention", at_least=1.8)
def quadratic_work() -> float:
    """Each normalisation writes an n x m matrix."""
    return _slope(lambda *tokens: _functions().sinkhorn_attention(*tokens), (128, 256, 512))


@claim(
    "nn.finite-at-every-tau",
    kind="measurement",
    on="seed",
    tolerance=1e-5,
    needs=TORCH,
    source="",
    statement=r"In float32, for $\tau$ from $10^{-6}$ to $10^6$ and $n = 300$: soft ESP attention and its gradients "
    r"are finite, and the entries of its matrix sum to $n$.",
    measured="largest relative deviation of that sum",
)
def every_tau(rng: np.random.Generator) -> float:
    """Every exponent is at most 0, so nothing overflows; a row sum of the kernel is at least its diagonal entry, 1."""
    import torch

    q, k, _ = (x.float() for x in _tokens(rng, 300, 300))
    ones, worst = torch.ones(300, 1), 0.0
    for tau in 10.0 ** np.arange(-6, 7):
        q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
        sums = _functions().esp_attention(k, q, ones, tau=tau, beta=1.0).output
        gradients = torch.autograd.grad((sums * torch.arange(300.0)[:, None]).sum(), (q, k))
        if not all(torch.isfinite(g).all() for g in gradients):
            return np.inf
        worst = max(worst, abs(float(sums.detach().double().sum()) / 300 - 1))
    return worst


@claim(
    "nn.balanced-in-float32",
    kind="property",
    on="seed",
    tolerance=2e-5,
    needs=TORCH,
    source="",
    statement=r"In float32, balanced and hard ESP attention have row sums 1 and column sums $n / m$, for $n = m$ and "
    r"$n \ne m$.",
    measured="largest relative deviation of a sum",
)
def balanced_float32(rng: np.random.Generator) -> float:
    """The scaling stops when the sums are 1 to a few rounding errors."""
    return max(_defect(rng, sort) for sort in ("balanced", "hard"))


@balanced_float32.without("balance: the soft sort at $\\tau = 0.1$", at_least=0.05)
def unbalanced_float32(rng: np.random.Generator) -> float:
    """The columns of SoftSort do not sum to 1."""
    return _defect(rng, "soft")


def _defect(rng: np.random.Generator, sort: str) -> float:
    worst = 0.0
    for n, m in ((64, 64), (40, 57)):
        tokens = [x.float() for x in _tokens(rng, n, m)]
        matrix = _functions().esp_attention(*tokens, tau=0.1, beta=1.0, sort=sort, need_weights=True).matrix
        worst = max(worst, lift.marginal_defect(matrix.double().numpy() / n))
    return worst


@claim(
    "nn.annealing-ends-in-the-hard-sort",
    kind="theorem",
    on="seed",
    tolerance=1e-10,
    needs=TORCH,
    source="shahbazi2025espformer, prillo2020softsort",
    statement=r"Without ties, soft ESP attention at $\tau = 10^{-9}$ equals the hard one: a model trained while $\tau$ "
    r"is lowered may be evaluated with the hard sort.",
    measured="largest difference of an output",
)
def annealed(rng: np.random.Generator) -> float:
    r"""Neighbouring scores are about $10^{-4}$ apart, so the kernel of different scores is $e^{-10^5} = 0$."""
    tokens = _tokens(rng, 50, 50)
    soft, hard = (
        _functions().esp_attention(*tokens, tau=1e-9, beta=1.0, sort=sort).output for sort in ("soft", "hard")
    )
    return _largest(soft - hard)


@annealed.without("annealing: $\\tau = 0.1$", at_least=1e-2)
def not_annealed(rng: np.random.Generator) -> float:
    """Switching to the hard sort without annealing changes the model."""
    tokens = _tokens(rng, 50, 50)
    soft, hard = (_functions().esp_attention(*tokens, tau=0.1, beta=1.0, sort=sort).output for sort in ("soft", "hard"))
    return _largest(soft - hard)


@claim(
    "nn.temperatures-follow-the-size",
    kind="property",
    on="fixed",
    tolerance=2.5,
    needs=TORCH,
    source="",
    statement=r"At initialisation, with the default temperatures, `EspAttention` is as far from the mean of the values "
    r"as `SoftmaxAttention`, and its gradients reach queries as strongly, within a factor of 2.5, at every head "
    r"dimension and number of tokens $N(0, I)$.",
    measured=r"largest factor between the root mean squares of $N A_{ij} - 1$, and between the ratios of the norms of "
    r"the gradients to queries and to values, over 8 heads, at head dimensions 16, 64, 128 and 16 to 256 tokens",
)
def temperatures() -> float:
    """Tau is a multiple of the spread of the scores, beta of one over the spread of the costs of the slices; the
    derivation is in espref.nn.temperatures."""
    return _factor(((16, 16), (16, 256), (64, 16), (64, 64), (128, 16), (128, 64)), None, None)


@temperatures.without("the sizes: $\\tau = 0.1$ and $\\beta = 1$ at every size", at_least=5.0)
def fixed_temperatures() -> float:
    """At head dimension 64 and more, that is mean pooling."""
    return _factor(((64, 16), (64, 64)), 0.1, 1.0)


def _factor(sizes: tuple[tuple[int, int], ...], tau: float | None, beta: float | None) -> float:
    worst = 1.0
    for seed, (head_dim, n) in enumerate(sizes):
        softmax, esp = _deviation_and_gradient(seed, head_dim, 8, n, tau, beta)
        for one, other in zip(softmax, esp, strict=True):
            worst = max(worst, one / other, other / one)
    return worst


def _deviation_and_gradient(
    seed: int, head_dim: int, heads: int, n: int, tau: float | None, beta: float | None
) -> list[tuple[float, float]]:
    """Of softmax and of ESP attention: the root mean square of N A_ij - 1, and |gradient to q| / |gradient to v|."""
    import torch

    from .. import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dim = head_dim * heads
        esp = nn.EspAttention(dim, heads, tau=tau, beta=beta)
        softmax = nn.SoftmaxAttention(dim, heads)
        softmax.load_state_dict(esp.multihead_state_dict())
        x, direction = torch.randn(n, dim), torch.randn(heads, n, head_dim)
        probe = torch.randn(heads, n, 64)
    found, no_masks = [], nn.masks.Masks(None, None, None, False)
    for layer in (softmax, esp):
        q, k, v = (torch.unflatten(part, -1, (heads, -1)).transpose(0, 1) for part in layer.in_proj(x).chunk(3, dim=-1))
        q, v = (part.detach().requires_grad_() for part in (q, v))

        def attend(values: Any, layer: Any = layer, q: Any = q, k: Any = k) -> Any:
            return layer.attend(q[None], k.detach()[None], values[None], no_masks, False).output[0]

        with torch.no_grad():  # E |(A - 1/N) z|^2 is the sum of the squares of the entries of A - 1/N
            away = attend(probe) - probe.mean(1, keepdim=True)
        to_q, to_v = torch.autograd.grad((attend(v) * direction).sum(), (q, v))
        found.append((float((away.square().mean(-1).sum(-1).mean()).sqrt()), float(to_q.norm() / to_v.norm())))
    return found


@claim(
    "nn.sinkhorn-equals-the-specification",
    kind="property",
    on="seed",
    tolerance=1e-12,
    needs=TORCH,
    source="sander2022sinkformers",
    statement=r"Output and matrix of `espref.nn.functional.sinkhorn_attention` are those of "
    r"`espref.sinkhorn_attention`, for 1, 4 and 9 iterations.",
    measured="largest difference of an entry",
)
def sinkhorn_equals(rng: np.random.Generator) -> float:
    """Two implementations of one definition, iterations counted alike: one is rows, then columns."""
    worst = 0.0
    for (n, m), n_iter in itertools.product(((20, 20), (13, 21)), (1, 4, 9)):
        tokens = _tokens(rng, n, m)
        plain = attention.sinkhorn_attention(*tokens, n_iter=n_iter)
        result = _functions().sinkhorn_attention(*tokens, n_iter=n_iter, need_weights=True)
        worst = max(worst, _difference(result, plain))
    return worst


Clouds = tuple[Any, Any, Any, Any, Any]  # x, y, directions, a, b


def _clouds(rng: np.random.Generator, n: int, m: int, weighted: bool, grid: bool = False) -> Clouds:
    """x, y, directions, a, b: clouds in space, on a grid where ``grid``, six directions, one of them a diagonal."""
    x, y, directions = rng.normal(size=(n, 3)), 0.5 + rng.normal(size=(m, 3)), rng.normal(size=(6, 3))
    directions[0] = 1, 1, 0
    if grid:
        x, y = np.rint(x), np.rint(y)
    weights = (rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))) if weighted else (None, None)
    return x, y, directions, *weights


def _tensors(arrays: Any) -> list[Any]:
    import torch

    return [None if x is None else torch.tensor(x, dtype=torch.float64) for x in arrays]


#: Sizes, weights, ties.
CASES = tuple((*case, grid) for case in (((12, 12), False), ((11, 17), True)) for grid in (False, True))


@claim(
    "nn.est-loss-equals-est-distance",
    kind="property",
    on="seed",
    tolerance=1e-12,
    needs=TORCH,
    source="liu2025est, mahey2023swgg",
    statement=r"In float64 `espref.nn.functional.est_loss` is `espref.est_distance` to the power $p$: $p = 1, 2, 3$, "
    r"$\beta = 0$, $0.7$ and $\infty$, $n = m$ and $n \ne m$, uniform and other weights, with and without ties.",
    measured="largest difference, relative to the loss or to 1 where that is larger",
)
def loss_equals(rng: np.random.Generator) -> float:
    """Two implementations of one definition. At infinite inverse temperature it is the cost of the min-sliced plan."""
    worst = 0.0
    for ((n, m), weighted, grid), p, beta in itertools.product(CASES, (1, 2, 3), (0.0, 0.7, np.inf)):
        clouds = _clouds(rng, n, m, weighted, grid)
        plain = expected.est_distance(*clouds, p=p, beta=beta) ** p
        worst = max(worst, abs(float(_functions().est_loss(*_tensors(clouds), p=p, beta=beta)) - plain) / max(1, plain))
    return worst


@loss_equals.without("shared ties: equal projections matched in their input order", at_least=0.1)
def loss_with_first(rng: np.random.Generator) -> float:
    """All points tie, and input order happens to match like with like."""
    x, y = (np.sort(rng.normal(size=(12, 2)), axis=0) for _ in range(2))
    x[:, 0], y[:, 0], axis = 0.0, 0.0, np.eye(2)[:1]
    loss = _functions().est_loss(*_tensors((x, y, axis)), ties="first")
    return abs(float(loss) - expected.est_distance(x, y, axis) ** 2)


def _apart(rng: np.random.Generator, n: int, m: int) -> Clouds:
    """Weighted clouds: no two points of one are closer than 1e-4 along any direction, none of both closer than 0.1."""
    while True:
        clouds = _clouds(rng, n, m, True)
        x, y, directions = clouds[:3]
        gap = min(np.diff(np.sort(points @ directions.T, axis=0), axis=0).min() for points in (x, y))
        if gap > 1e-4 and np.linalg.norm(x[:, None] - y, axis=-1).min() > 0.1:
            return clouds


@claim(
    "nn.est-loss-gradient",
    kind="theorem",
    on="seed",
    tolerance=1e-7,
    needs=TORCH,
    source="",
    statement=r"Let no direction tie two points of $x$ or two points of $y$, and let $x_i \ne y_j$ for all $i, j$. "
    r"Then $F = \sum_l w_l c_l$ with $w_l \propto e^{-\beta c_l}$ is differentiable in $x$, and "
    r"$\partial F / \partial x_i = \sum_l w_l (1 - \beta (c_l - F)) "
    r"\sum_j G_{l,ij}\, p\, |x_i - y_j|^{p-2} (x_i - y_j)$.",
    measured="largest deviation, relative to the largest entry, of the formula from the gradient of "
    "`espref.nn.functional.est_loss`, and from difference quotients of the costs in NumPy",
)
def loss_gradient(rng: np.random.Generator) -> float:
    r"""The order of the projections is constant near $x$, and so are the plans: $c_l$ is differentiable, with
    derivative $\sum_j G_{l,ij}\, p\, |x_i - y_j|^{p-2} (x_i - y_j)$. Further $\partial w_k / \partial c_l =
    -\beta w_k (\delta_{kl} - w_l)$, so that $\partial F / \partial c_l = w_l - \beta w_l (c_l - F)$. The quotients are
    central, of step $10^{-5}$, too small to change the order."""
    import torch

    worst, step = 0.0, 1e-5
    for p, beta in itertools.product((1, 2, 3), (0.0, 0.4)):
        x, y, directions = (clouds := _apart(rng, 6, 5))[:3]
        costs = lift.slice_costs(*clouds, p=p)
        w = expected.gibbs_weights(costs, beta)
        difference = x[:, None] - y  # (n, m, d)
        slopes = p * np.linalg.norm(difference, axis=-1, keepdims=True) ** (p - 2) * difference
        factors = w * (1 - beta * (costs - w @ costs))
        plans = [plan.toarray() for plan in lift.sliced_plans(*clouds)]
        formula = sum(f * (G[..., None] * slopes).sum(1) for f, G in zip(factors, plans, strict=True))
        inputs = _tensors(clouds)
        inputs[0].requires_grad_()
        loss = _functions().est_loss(*inputs, p=p, beta=beta)
        deviation = _largest(torch.autograd.grad(loss, inputs[0])[0].numpy() - formula)
        line = rng.normal(size=x.shape)
        line /= np.abs(line).max() * np.abs(directions).sum(axis=1).max()
        ends = [expected.est_distance(x + sign * step * line, *clouds[1:], p=p, beta=beta) ** p for sign in (1, -1)]
        deviation = max(deviation, abs((ends[0] - ends[1]) / (2 * step) - (formula * line).sum()))
        worst = max(worst, deviation / _largest(formula))
    return worst


@loss_gradient.without("distinct projections: two points that are tied along all directions", at_least=1.0)
def loss_jumps(rng: np.random.Generator) -> float:
    """The difference quotient of the first axis, in the direction in which two points swap their places: a jump."""
    x, y = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    x[:, 0], y[0, 0] = 0.0, y[1, 0] + 1.0
    step, line = 1e-5, np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    ends = [expected.est_distance(x + sign * step * line, y, np.eye(3)[:1]) ** 2 for sign in (1, -1)]
    jump = (x[0] - x[1]) @ (y[0] - y[1])  # by which the matchings differ in cost
    return float(abs(ends[0] - ends[1]) / (2 * step * abs(jump)))


@claim(
    "nn.soft-loss-equals-the-soft-plan",
    kind="property",
    on="seed",
    tolerance=1e-11,
    needs=TORCH,
    source="liu2025est, shahbazi2025espformer",
    statement=r"In float64 `espref.nn.functional.expected_soft_plan` returns what `espref.expected_soft_plan` does, "
    r"and `espref.nn.functional.soft_est_loss`, which forms no plan, its cost for $p = 2$: both sorts, both kernels, "
    r"$n = m$ with uniform weights, and $n \ne m$ with others and ties.",
    measured="largest difference of an entry, a weight or a cost, relative to the largest cost, or to 1 where that is "
    "larger",
)
def soft_loss_equals(rng: np.random.Generator) -> float:
    """With the soft sorts applied to points instead of written out; the squared cost needs no plan."""
    worst = 0.0
    for ((n, m), weighted, grid), sort, power in itertools.product(CASES[::3], SORTS[:2], (1, 2)):
        x, y, directions, a, b = clouds = _clouds(rng, n, m, weighted, grid)
        settings: dict[str, Any] = {"sort": sort, "power": power, "beta": 0.6}
        plain = softplan.expected_soft_plan(x, y, directions, 0.2, a, b, **settings)
        inputs = _tensors(clouds)
        result = _functions().expected_soft_plan(*inputs, tau=0.2, **settings)
        loss = _functions().soft_est_loss(*inputs, tau=0.2, **settings)
        pairs = [*zip(result, plain, strict=True), (loss, plain.cost)]
        largest = max(_largest(np.asarray(ours) - theirs) for ours, theirs in pairs)
        worst = max(worst, largest / max(1.0, plain.costs.max()))
    return worst


@claim(
    "nn.slicers-get-the-gradient",
    kind="property",
    on="seed",
    tolerance=1e-6,
    needs=TORCH,
    source="",
    statement=r"The gradient of `soft_est_loss` in the slicers is the derivative of the cost of "
    r"`espref.expected_soft_plan`.",
    measured="largest deviation from a difference quotient along a random line, relative to gradient times line",
)
def slicer_gradient(rng: np.random.Generator) -> float:
    """Central differences of step 1e-5, whose own error is of order 1e-10."""
    import torch

    worst, step = 0.0, 1e-5
    for sort, power in itertools.product(SORTS[:2], (1, 2)):
        x, y, directions, a, b = clouds = _apart(rng, 7, 9)
        inputs, line = _tensors(clouds), rng.normal(size=directions.shape)
        inputs[2].requires_grad_()
        settings: dict[str, Any] = {"sort": sort, "power": power, "beta": 0.6}
        loss = _functions().soft_est_loss(*inputs, tau=0.5, **settings)
        gradient = torch.autograd.grad(loss, inputs[2])[0].numpy()
        ends = [
            softplan.expected_soft_plan(x, y, directions + sign * step * line, 0.5, a, b, **settings).cost
            for sign in (1, -1)
        ]
        quotient = (ends[0] - ends[1]) / (2 * step)
        scale = max(abs(quotient), float(np.linalg.norm(gradient) * np.linalg.norm(line)))
        worst = max(worst, abs(float((gradient * line).sum()) - quotient) / scale)
    return worst


@claim(
    "nn.losses-see-no-padding",
    kind="property",
    on="seed",
    tolerance=1e-11,
    needs=TORCH,
    source="",
    statement=r"Losses and gradients of clouds in a padded batch are those of each cloud alone, and gradients are zero "
    r"at the padding, even where points and weights of the padding are NaN.",
    measured="largest difference of a loss or a gradient, relative to the largest loss or gradient",
)
def losses_padding(rng: np.random.Generator) -> float:
    """Padding is set to zero before anything else, stands behind the other points in rank, and carries no mass."""
    import torch

    functions, worst = _functions(), 0.0
    losses = (functions.est_loss, lambda *clouds, **masks: functions.soft_est_loss(*clouds, tau=0.2, **masks))
    for loss, weighted in itertools.product(losses, (False, True)):
        sizes = ((5, 9), (9, 3), (1, 1))
        alone = [_tensors(_clouds(rng, n, m, weighted)) for n, m in sizes]
        batch = [torch.full(shape, torch.nan).double() for shape in ((3, 9, 3), (3, 9, 3), (3, 9), (3, 9))]
        for k, (n, m) in enumerate(sizes):
            for part, size, own in zip(batch, (n, m, n, m), (0, 1, 3, 4), strict=True):
                if alone[k][own] is not None:
                    part[k, :size] = alone[k][own]
        x, y, *weights = (part.requires_grad_() for part in batch)
        pads = [torch.arange(9) >= torch.tensor(side)[:, None] for side in zip(*sizes, strict=True)]
        masses: list[Any] = weights if weighted else [None, None]
        values = loss(x, y, alone[0][2], *masses, x_padding_mask=pads[0], y_padding_mask=pads[1])
        gradients = torch.autograd.grad(values.sum(), (x, y))
        for k, counts in enumerate(sizes):
            inputs = [alone[k][0].requires_grad_(), alone[k][1].requires_grad_(), alone[0][2], *alone[k][3:]]
            value = loss(*inputs)
            single = torch.autograd.grad(value, inputs[:2])
            change = abs(float((values[k] - value).detach()))
            worst = max(worst, change / max(1.0, float(value.detach())))
            for count, plain, gradient in zip(counts, single, gradients, strict=True):
                change = _largest(gradient[k, :count] - plain) / max(1.0, _largest(plain))
                worst = max(worst, change, float(gradient[k, count:].abs().sum()))
    return worst


def _loss_and_backward(n: int, compute: Callable[..., Any]) -> Callable[[], None]:
    inputs = _tensors(_clouds(np.random.default_rng(n), n, n + 1, True))
    inputs[0].requires_grad_()
    return lambda: compute(inputs[0], inputs[1], inputs[2][:2], *inputs[3:]).backward()


@claim(
    "nn.losses-build-no-plan",
    kind="property",
    on="fixed",
    tolerance=0.05,
    needs=TORCH,
    source="",
    statement=r"Forward and backward of `est_loss` and of `soft_est_loss` (Laplace kernel, both sorts) form no "
    r"$n \times m$ matrix.",
    measured="elements of the largest tensor for weighted clouds of n = 1024 and m = 1025 points and two directions, "
    "as a fraction of n m",
)
def losses_no_plan() -> float:
    """Every tensor that PyTorch makes is counted; the largest hold d numbers for each of the n + m pieces of a plan."""
    functions = _functions()
    losses = (
        functions.est_loss,
        lambda *clouds: functions.est_loss(*clouds, p=1),
        lambda *clouds: functions.soft_est_loss(*clouds, tau=0.1),
        lambda *clouds: functions.soft_est_loss(*clouds, tau=0.1, sort="balanced"),
    )
    return max(_elements(_loss_and_backward(1024, loss))[0] for loss in losses) / 1024**2


@losses_no_plan.without("the loss alone: the soft plan itself", at_least=1.0)
def losses_plan() -> float:
    """expected_soft_plan returns an n x m matrix, and makes one for each slice."""
    call = _loss_and_backward(256, lambda *clouds: _functions().expected_soft_plan(*clouds, tau=0.1).cost)
    return _elements(call)[0] / 256**2


@claim(
    "nn.swap-keeps-the-projections",
    kind="property",
    on="seed",
    tolerance=1e-12,
    needs=TORCH,
    source="",
    statement=r"`swap_attention` carries the projections over: a stock encoder whose attention is replaced by "
    r"`SoftmaxAttention` computes what it did before.",
    measured="largest difference of an output",
)
def swap(rng: np.random.Generator) -> float:
    """Both are the same function of the same parameters."""
    return _swapped(rng, "SoftmaxAttention")


@swap.without("softmax: ESP attention with the same projections", at_least=1e-2)
def swap_esp(rng: np.random.Generator) -> float:
    """ESP attention is another function of the same parameters; the model has to be fine-tuned."""
    return _swapped(rng, "EspAttention")


def _swapped(rng: np.random.Generator, kind: str) -> float:
    import torch

    from .. import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, dtype=torch.float64)
        model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        x = torch.randn(3, 7, 16, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)
        return _largest(nn.swap_attention(model, getattr(nn, kind))(x) - before)


@claim(
    "nn.esp-decoder-does-not-see-the-future",
    kind="refutation",
    on="seed",
    tolerance=1e-6,
    needs=TORCH,
    source="",
    statement=r"“A teacher-forced decoder with causal self-attention and ESP cross attention does not see later target "
    r"tokens.” It does.",
    measured="largest change of earlier outputs when only the last target token changes",
)
def future(rng: np.random.Generator) -> float:
    """The plan couples all target tokens to all source tokens: another last token changes the ranks of the others, and
    the weights of the slices. With softmax cross attention the change is zero, as the tests of the models check."""
    return _future(rng, "esp")


def _future(rng: np.random.Generator, cross: str) -> float:
    import torch

    from ..nn import transformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        model = transformer.TranslationTransformer(
            source_vocabulary=11,
            target_vocabulary=13,
            length=10,
            dim=16,
            depth=1,
            heads=2,
            attention="esp",
            cross_attention=cross,
        ).double()
        source, target = torch.randint(3, 11, (1, 8)), torch.randint(3, 12, (1, 6))
    other = target.clone()
    other[:, 5] += 1
    with torch.no_grad():
        return _largest((model(source, other) - model(source, target))[:, :5])
