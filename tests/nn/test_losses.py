"""Sliced plans as losses: equal to the NumPy chapters, exact gradients, padding, invariances, linear work."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

import espref
from espref.claims import LEDGER, run_claim
from espref.claims.nn import _elements

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.nn import functional as F  # noqa: E402
from espref.nn import losses, matching, softplans  # noqa: E402

DOUBLE = torch.float64
SIZES = [(12, 12), (11, 17), (1, 6), (6, 1), (1, 1)]


def problem(n: int, m: int, *, weighted: bool = False, tied: bool = False, dim: int = 3, seed: int = 0) -> list:
    """x, y, directions, a, b as NumPy arrays, some directions axes and diagonals; a holds a zero."""
    rng = np.random.default_rng(seed)
    x, y, directions = rng.normal(size=(n, dim)), 0.4 + 1.3 * rng.normal(size=(m, dim)), rng.normal(size=(6, dim))
    directions[:2] = np.eye(dim)[-1], np.r_[1, 1, np.zeros(dim - 2)]
    if tied:
        x, y = x.round(), y.round()
    if not weighted:
        return [x, y, directions, None, None]
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    if n > 2:
        a[n // 2] = 0
    return [x, y, directions, a / a.sum(), b]


def tensors(parts: list, dtype: torch.dtype = DOUBLE) -> list:
    return [None if part is None else torch.tensor(part, dtype=dtype) for part in parts]


def close(result: object, expected: object, scale: float = 1.0) -> bool:
    """Within 1e-12, relative to ``scale`` and to 1."""
    result = result.detach().numpy() if isinstance(result, torch.Tensor) else result
    return bool(np.abs(np.asarray(result) - np.asarray(expected)).max() <= 1e-12 * max(1.0, scale))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_est_distance(n: int, m: int, weighted: bool, tied: bool) -> None:
    """est_loss = est_distance^p for all p, beta and ties, and is the cost of the expected and the min-sliced plan."""
    parts = problem(n, m, weighted=weighted, tied=tied)
    for p, beta, ties in itertools.product((1, 1.5, 2, 3), (0.0, 0.7, np.inf), ("split", "first")):
        expected = espref.est_distance(*parts, beta=beta, p=p, ties=ties) ** p
        assert close(F.est_loss(*tensors(parts), beta=beta, p=p, ties=ties), expected, expected)
    x, y, directions, a, b = parts
    least = espref.min_sliced_plan(x, y, directions, a, b).cost
    assert close(F.est_loss(*tensors(parts), beta=np.inf), least, least)
    assert least <= float(F.est_loss(*tensors(parts), beta=0.3)) + 1e-12


@pytest.mark.parametrize("sort", ["soft", "balanced"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_expected_soft_plan(n: int, m: int, weighted: bool, power: int, sort: str) -> None:
    """Plan, cost, weights and costs are those of NumPy, and soft_est_loss is the cost for p = 2."""
    for tied, tau, beta, p in itertools.product((False, True), (0.02, 0.5), (0.0, 0.6), (1, 2)):
        parts = problem(n, m, weighted=weighted, tied=tied)
        x, y, directions, a, b = parts
        plain = espref.expected_soft_plan(x, y, directions, tau, a, b, beta=beta, p=p, power=power, sort=sort)
        options = {"tau": tau, "beta": beta, "power": power, "sort": sort}
        result = F.expected_soft_plan(*tensors(parts), **options, p=p)
        assert all(close(ours, theirs, plain.costs.max()) for ours, theirs in zip(result, plain, strict=True))
        if p == 2:
            assert close(F.soft_est_loss(*tensors(parts), **options), plain.cost, plain.cost)


def test_axes_by_default_and_prior() -> None:
    """Without directions the slices are the axes; a prior is that of NumPy."""
    x, y, directions, a, b = problem(9, 7, weighted=True)
    prior = np.r_[0, np.random.default_rng(3).dirichlet(np.ones(5))]
    for beta in (0.0, 0.8, np.inf):
        expected = espref.est_distance(x, y, np.eye(3), a, b, beta=beta) ** 2
        assert close(F.est_loss(*tensors([x, y, None, a, b]), beta=beta), expected, expected)
        expected = espref.est_distance(x, y, directions, a, b, beta=beta, prior=prior) ** 2
        result = F.est_loss(*tensors([x, y, directions, a, b]), beta=beta, prior=torch.tensor(prior))
        assert close(result, expected, expected)
    plain = espref.expected_soft_plan(x, y, directions, 0.1, a, b, beta=0.8, prior=prior)
    options = {"tau": 0.1, "beta": 0.8, "prior": torch.tensor(prior)}
    assert close(F.soft_est_loss(*tensors([x, y, directions, a, b]), **options), plain.cost, plain.cost)


LOSSES = {
    "hard p=2": lambda *clouds, **masks: F.est_loss(*clouds, **masks, beta=0.5),
    "hard p=1": lambda *clouds, **masks: F.est_loss(*clouds, **masks, beta=0.5, p=1),
    "hard p=3 first": lambda *clouds, **masks: F.est_loss(*clouds, **masks, beta=0.1, p=3, ties="first"),
    "min-sliced": lambda *clouds, **masks: F.est_loss(*clouds, **masks, beta=np.inf),
    "soft": lambda *clouds, **masks: F.soft_est_loss(*clouds, **masks, tau=0.1, beta=0.5),
    "soft gauss": lambda *clouds, **masks: F.soft_est_loss(*clouds, **masks, tau=0.1, beta=0.5, power=2),
    "balanced": lambda *clouds, **masks: F.soft_est_loss(*clouds, **masks, tau=0.1, beta=0.5, sort="balanced"),
    "plan p=1": lambda *clouds, **masks: F.expected_soft_plan(*clouds, **masks, tau=0.1, beta=0.5, p=1).cost,
}


def padded(weighted: bool, tied: bool, junk: float) -> tuple[list, dict, list[list]]:
    """A (2, 2) batch of clouds of different sizes with junk behind the masks, and the clouds alone."""
    sizes = [(5, 8), (8, 8), (1, 3), (8, 2)]
    alone = [problem(n, m, weighted=weighted, tied=tied, seed=k) for k, (n, m) in enumerate(sizes)]
    directions = alone[0][2]
    batch = [np.full((4, 8, 3), junk), np.full((4, 8, 3), junk), directions, None, None]
    if weighted:
        batch[3:] = np.full((4, 8), junk), np.full((4, 8), junk)
    masks = np.ones((2, 4, 8), dtype=bool)
    for k, ((n, m), parts) in enumerate(zip(sizes, alone, strict=True)):
        places = np.random.default_rng(k).permutation(8)  # padding anywhere
        for side, size in ((0, n), (1, m)):
            at = np.sort(places[:size])
            batch[side][k, at] = parts[side]
            masks[side, k, at] = False
            if weighted:
                batch[3 + side][k, at] = parts[3 + side]
        parts[2] = directions
    result = tensors(batch)
    for k in (0, 1, 3, 4):
        result[k] = None if result[k] is None else result[k].unflatten(0, (2, 2))
    names = ("x_padding_mask", "y_padding_mask")
    return result, {name: torch.tensor(m).view(2, 2, 8) for name, m in zip(names, masks, strict=True)}, alone


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("junk", [np.nan, 1e19])
def test_padding_is_never_looked_at(name: str, weighted: bool, junk: float) -> None:
    """Each padded item of a batch has the loss and the gradient that it has alone; the gradient of padding is zero."""
    for tied in (False, True):
        batch, masks, alone = padded(weighted, tied, junk)
        moving = [0, 1, 3, 4] if weighted else [0, 1]
        for place in moving:
            batch[place].requires_grad_()
        loss = LOSSES[name](*batch, **masks)
        assert loss.shape == (2, 2)
        gradients = torch.autograd.grad(loss.sum(), [batch[place] for place in moving])
        for k, parts in enumerate(alone):
            single = tensors(parts)
            for place in moving:
                single[place].requires_grad_()
            value = LOSSES[name](*single)
            assert close(loss.flatten()[k], value.item(), abs(value.item()))
            own = torch.autograd.grad(value, [single[place] for place in moving])
            for place, gradient, expected in zip(moving, gradients, own, strict=True):
                mask = masks["x_padding_mask" if place in (0, 3) else "y_padding_mask"].flatten(0, 1)[k]
                gradient = gradient.flatten(0, 1)[k]
                assert (gradient[mask] == 0).all()
                assert (gradient[~mask] - expected).abs().max() <= 1e-11 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_gradient_is_the_formula(p: float, weighted: bool, beta: float) -> None:
    """d loss / d x_i = sum_l w_l (1 - beta (c_l - loss)) sum_j G_l,ij p |x_i - y_j|^(p-2) (x_i - y_j), from plans."""
    parts = problem(13, 9, weighted=weighted)
    x, y, directions, a, b = parts
    plans = [plan.toarray() for plan in espref.sliced_plans(x, y, directions, a, b)]
    costs = espref.slice_costs(x, y, directions, a, b, p=p)
    weights = espref.gibbs_weights(costs, beta)
    loss = weights @ costs
    difference = x[:, None] - y
    slopes = p * np.linalg.norm(difference, axis=-1, keepdims=True) ** (p - 2) * difference  # (n, m, d)
    factor = weights * (1 - beta * (costs - loss))
    expected = sum(f * (plan[..., None] * slopes).sum(1) for f, plan in zip(factor, plans, strict=True))
    inputs = tensors(parts)
    inputs[0].requires_grad_()
    gradient = torch.autograd.grad(F.est_loss(*inputs, beta=beta, p=p), inputs[0])[0]
    assert close(gradient, expected, np.abs(expected).max())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_hard_gradients_are_difference_quotients(p: float, weighted: bool) -> None:
    """First and second derivatives in points, beta and logits of the weights, where nothing is tied."""
    x, y, directions, a, b = tensors(problem(4, 6, weighted=weighted, dim=2))
    beta = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
    inputs = [x.requires_grad_(), y.requires_grad_(), beta]
    if weighted:  # softmax keeps the sum of the weights
        logits = [(weights + 0.1).log().requires_grad_() for weights in (a, b)]
        inputs += logits

    def loss(x: torch.Tensor, y: torch.Tensor, beta: torch.Tensor, *logits: torch.Tensor) -> torch.Tensor:
        return F.est_loss(x, y, directions, *(z.softmax(-1) for z in logits), beta=beta, p=p)

    assert torch.autograd.gradcheck(loss, inputs, atol=1e-7)
    assert torch.autograd.gradgradcheck(loss, inputs, atol=1e-6)


@pytest.mark.parametrize("sort", ["soft", "balanced"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_soft_gradients_are_difference_quotients(sort: str, power: int, weighted: bool) -> None:
    """Gradients in points, slicers, tau, beta and logits of the weights, of the loss and of the plan."""
    x, y, directions, a, b = tensors(problem(5, 7, weighted=weighted, dim=2))
    tau, beta = (torch.tensor(number, dtype=DOUBLE, requires_grad=True) for number in (0.4, 0.3))
    inputs = [x.requires_grad_(), y.requires_grad_(), directions[:3].clone().requires_grad_(), tau, beta]
    if weighted:
        inputs += [(weights + 0.1).log().requires_grad_() for weights in (a, b)]

    def loss(x, y, slicers, tau, beta, *logits):
        weights = [z.softmax(-1) for z in logits]
        return F.soft_est_loss(x, y, slicers, *weights, tau=tau, beta=beta, sort=sort, power=power)

    def plan(x, y, slicers, tau, beta, *logits):
        weights = [z.softmax(-1) for z in logits]
        return F.expected_soft_plan(x, y, slicers, *weights, tau=tau, beta=beta, sort=sort, power=power, p=1)[:2]

    assert torch.autograd.gradcheck(loss, inputs, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradcheck(plan, inputs, atol=1e-6, fast_mode=True)


TIED = {name: loss for name, loss in LOSSES.items() if "first" not in name}


@pytest.mark.parametrize("name", TIED)
def test_equal_points_share_the_gradient(name: str) -> None:
    """Points that are equal get gradients in proportion to their weights, however they are numbered."""
    x, y, directions, a, b = tensors(problem(6, 5, weighted=True))
    same = torch.tensor([0, 1, 2, 2, 4, 2])
    x, a = x[same].requires_grad_(), torch.tensor([0.2, 0.1, 0.05, 0.15, 0.2, 0.3], dtype=DOUBLE)
    gradient = torch.autograd.grad(TIED[name](x, y, directions, a, b), x)[0]
    each = gradient[[2, 3, 5]] / a[[2, 3, 5], None]
    assert (each - each[0]).abs().max() <= 1e-11
    turned = torch.autograd.grad(TIED[name](x.flip(0), y, directions, a.flip(0), b), x)[0]
    assert (gradient - turned).abs().max() <= 1e-11
    merged = x[[0, 1, 2, 4]].detach().requires_grad_()
    weights = torch.tensor([0.2, 0.1, 0.5, 0.2], dtype=DOUBLE)
    expected = torch.autograd.grad(TIED[name](merged, y, directions, weights, b), merged)[0]
    assert (gradient[[2, 3, 5]].sum(0) - expected[2]).abs().max() <= 1e-11


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_equal_clouds_have_loss_and_gradient_zero(p: float) -> None:
    """At x = y, in whatever order and dtype, the least is reached, and no derivative of |x - y| is NaN."""
    for dtype in (torch.float32, DOUBLE):
        x = torch.tensor(problem(9, 9)[0], dtype=dtype, requires_grad=True)
        y = x.detach()[torch.randperm(9, generator=torch.Generator().manual_seed(0))]
        loss = F.est_loss(x, y, torch.tensor(problem(9, 9)[2], dtype=dtype), beta=0.5, p=p)
        assert loss.item() <= 1e-12
        assert torch.autograd.grad(loss, x)[0].abs().max() <= 1e-5 if dtype == torch.float32 else 1e-14


def test_weights_descend_to_the_target() -> None:
    """The gradient in the weights is that of the loss of a / sum a: orthogonal to a, and descent lowers the loss."""
    x, y, directions, a, b = tensors(problem(8, 8, weighted=True))
    a.requires_grad_()
    loss = F.est_loss(x, y, directions, a, b)
    gradient = torch.autograd.grad(loss, a)[0]
    assert abs(float(gradient @ a.detach())) <= 1e-12
    lower = (a - 1e-4 * a * gradient).detach()
    assert F.est_loss(x, y, directions, lower / lower.sum(), b) < loss


@pytest.mark.parametrize("name", LOSSES)
def test_invariances(name: str) -> None:
    """Numbering does not matter; turning both clouds and the slicers does not; p = 2: a shift adds |shift|^2."""
    x, y, directions, a, b = tensors(problem(10, 7, weighted=True))
    loss = LOSSES[name](x, y, directions, a, b)
    i, j = torch.randperm(10), torch.randperm(7)
    assert close(LOSSES[name](x[i], y[j], directions, a[i], b[j]), loss.item(), loss.item())
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)))[0]
    assert close(LOSSES[name](x @ turn, y @ turn, directions @ turn, a, b), loss.item(), loss.item())
    if name in ("hard p=2", "min-sliced", "balanced"):
        between = ((a @ x - b @ y) ** 2).sum()
        for shift in (3.0, 1e4):
            moved = x + shift
            far = ((a @ moved - b @ y) ** 2).sum()
            assert abs(LOSSES[name](moved, y, directions, a, b) - far - (loss - between)) <= 1e-13 * far + 1e-11


def test_a_common_shift_changes_no_weight() -> None:
    """p = 2: far from each other two clouds choose the same slices, although all costs agree in 12 digits."""
    x, y, directions, a, b = tensors(problem(10, 7, weighted=True))
    x.requires_grad_()
    near, far = (
        torch.autograd.grad(F.est_loss(x + shift, y, directions, a, b, beta=2.0), x)[0] for shift in (0.0, 1e6)
    )
    means = 2 * a[:, None] * 1e6
    assert (far - near - means).abs().max() <= 1e-4 * (near.abs().max() + 1)


def test_plans_between_clouds_far_apart() -> None:
    """The weights of the slices are those of clouds that are near, although all costs are about 1e12."""
    x, y, directions, a, b = problem(10, 7, weighted=True)
    near = espref.expected_soft_plan(x, y, directions, 0.2, a, b, beta=2.0, sort="balanced")
    far = F.expected_soft_plan(*tensors([x + 1e6, y, directions, a, b]), tau=0.2, beta=2.0, sort="balanced")
    assert np.abs(far.weights.numpy() - near.weights).max() <= 1e-8
    assert np.abs(far.plan.numpy() - near.plan).max() <= 1e-8


@pytest.mark.parametrize("name", LOSSES)
def test_defaults_of_torch_do_not_matter(name: str) -> None:
    """Another default device, another default type, autocast: the same number."""
    inputs = tensors(problem(6, 8, weighted=True))
    loss = LOSSES[name](*inputs)
    with torch.device("meta"):
        assert LOSSES[name](*inputs) == loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert LOSSES[name](*inputs) == loss
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        assert LOSSES[name](*inputs) == loss
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("name", LOSSES)
def test_float32_and_half(name: str) -> None:
    """float32 is near float64, whose order of the scores it shares; half precision keeps its type and is finite."""
    parts = problem(40, 30, weighted=True)
    narrow = tensors(parts, torch.float32)
    wide = [None if part is None else part.double() for part in narrow]
    for k in (3, 4):
        wide[k] = wide[k] / wide[k].sum()
    loss = LOSSES[name](*narrow)
    assert loss.dtype == torch.float32
    assert abs(loss.item() - LOSSES[name](*wide).item()) <= 1e-5 * abs(loss.item())
    for dtype in (torch.float16, torch.bfloat16):
        x = narrow[0].to(dtype).requires_grad_()
        loss = LOSSES[name](x, narrow[1].to(dtype), narrow[2].to(dtype))
        assert loss.dtype == dtype
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_the_order_is_decided_in_float64() -> None:
    """Points whose projections float32 cannot tell apart are matched as NumPy matches them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 300, 2)).astype(np.float32)
    x[:, 0], directions = 1e4 + 1e-3 * x[:, 0], np.array([[1.0, 1e-4]], dtype=np.float32)
    expected = espref.est_distance(x, y, directions) ** 2
    result = F.est_loss(*(torch.tensor(part) for part in (x, y, directions)))
    assert abs(result.item() / expected - 1) <= 1e-6
    plain, torch_order = (
        (x.astype(float) @ directions[0].astype(float)).argsort(),
        matching.exact_scores(torch.tensor(x)[None], torch.tensor(directions))[0, 0].argsort(),
    )
    assert (plain == torch_order.numpy()).all()


@pytest.mark.parametrize("name", ["hard p=2", "hard p=1", "soft", "balanced"])
@pytest.mark.parametrize("weighted", [False, True])
def test_work_is_linear_and_no_plan_is_built(name: str, weighted: bool) -> None:
    """Of all tensors that forward and backward build, none has n m elements, and all together grow like n log n."""

    def elements(n: int) -> tuple[int, int]:
        x, y, directions, a, b = tensors(problem(n, n + 100, weighted=weighted))
        x.requires_grad_()
        return _elements(lambda: LOSSES[name](x, y, directions[:2], a, b).backward())

    (largest, total), (_, small) = elements(4000), elements(2000)
    assert largest < 4000 * 4100 / 100
    assert total / small < 2.3


def test_an_empty_batch_and_broadcast_weights() -> None:
    """No clouds give no losses; one vector of weights serves the whole batch."""
    assert F.est_loss(torch.zeros(0, 4, 2), torch.zeros(0, 3, 2)).shape == (0,)
    assert F.soft_est_loss(torch.zeros(0, 4, 2), torch.zeros(0, 3, 2), tau=0.1).shape == (0,)
    x, y, directions, a, b = tensors(problem(5, 6, weighted=True))
    many = F.est_loss(torch.stack([x, 2 * x]), torch.stack([y, y]), directions, a, b)
    assert close(many[1], F.est_loss(2 * x, y, directions, a, b).item())


def _small() -> tuple[torch.Tensor, ...]:
    x, y, directions, _, _ = tensors(problem(4, 5, dim=2))
    return x, y, directions[:3]


@pytest.mark.parametrize(("sort", "power"), [("soft", 1), ("balanced", 1), ("balanced", 2)])
@pytest.mark.parametrize("name", ["soft_est_loss", "expected_soft_plan"])
def test_second_derivatives_of_soft_losses_are_refused(name: str, sort: str, power: int) -> None:
    """Not only by backward(), but by grad() and hessian() too, which would return wrong numbers."""
    x, y, directions = _small()

    def loss(x: torch.Tensor) -> torch.Tensor:
        result = getattr(F, name)(x, y, directions, tau=0.3, beta=0.5, sort=sort, power=power)
        return result.cost if name == "expected_soft_plan" else result

    x.requires_grad_()
    gradient = torch.autograd.grad(loss(x), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="their gradient has no derivative"):
        torch.autograd.grad(gradient.square().sum(), x, retain_graph=True)
    with pytest.raises(NotImplementedError, match="their gradient has no derivative"):
        gradient.square().sum().backward()
    with pytest.raises(NotImplementedError, match="their gradient has no derivative"):
        torch.autograd.functional.hessian(loss, x.detach())


def test_second_derivatives_with_the_gauss_kernel() -> None:
    """SoftSort with the Gauss kernel is plain autograd, and has them."""
    x, y, directions = _small()
    x.requires_grad_()
    directions.requires_grad_()

    def loss(x: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return F.soft_est_loss(x, y, directions, tau=0.3, beta=0.5, power=2)

    assert torch.autograd.gradgradcheck(loss, (x, directions), atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # used by torch.func
@pytest.mark.parametrize("p", [1, 2])
def test_transforms_of_est_loss(p: float) -> None:
    """jacrev, hessian and jvp agree with autograd; vmap is refused; so are tensors without values."""
    x, y, directions = _small()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return F.est_loss(x, y, directions, beta=0.5, p=p)

    moving = x.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(moving), moving, create_graph=True)[0]
    second = torch.autograd.functional.hessian(loss, x)
    assert close(torch.func.jacrev(loss)(x), gradient.detach())
    assert close(torch.func.hessian(loss)(x), second)
    assert close(torch.func.jvp(loss, (x,), (y[:4],))[1], (gradient.detach() * y[:4]).sum())
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(loss)(x[None])
    with pytest.raises(ValueError, match="expected tensors with values"):
        F.est_loss(x.to("meta"), y.to("meta"))


@pytest.mark.trust
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the tracer itself
def test_a_compiled_loss() -> None:
    """torch.compile breaks the graph where values are checked, and changes no number."""
    x, y, directions = _small()
    x.requires_grad_()
    compiled = torch.compile(F.est_loss, backend="aot_eager")
    gradients = [torch.autograd.grad(loss(x, y, directions, beta=0.5), x)[0] for loss in (F.est_loss, compiled)]
    assert close(gradients[1], gradients[0])


@given(
    strategies.problems(most=7, scales=(1e-100, 1e-3, 1.0, 1e4, 1e70)),
    st.sampled_from([1, 1.5, 2, 3]),
    st.sampled_from([0.0, 0.5, np.inf]),
)
@settings(max_examples=60)
def test_hostile_clouds(clouds: strategies.Problem, p: float, beta: float) -> None:
    """Ties, duplicates, zero and tiny weights, all scales: equal to NumPy, and the gradients are finite.

    Equally cheap slices may differ by rounding in the two, so that at infinite beta only the cost is compared.
    """
    x, y, a, b, directions = clouds
    scale = float(max(np.abs(x).max(), np.abs(y).max(), 1e-300)) ** p
    beta = beta / scale if np.isfinite(beta) else beta
    expected = espref.est_distance(x, y, directions, a, b, beta=beta, p=p) ** p
    inputs = tensors([x, y, directions, a, b])
    moving = [inputs[k].requires_grad_() for k in (0, 1)]
    loss = F.est_loss(*inputs, beta=beta, p=p)
    assert abs(loss.item() - expected) <= 1e-12 * max(scale, expected)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, moving))


@given(strategies.problems(most=6, scales=(1e-3, 1.0, 1e4)), st.sampled_from([1e-6, 0.1, 1.0, 1e3]))
@settings(max_examples=40)
def test_hostile_clouds_softly(clouds: strategies.Problem, tau: float) -> None:
    """The same for soft plans of both sorts: the balanced one has the marginals, and neither has a NaN."""
    x, y, a, b, directions = clouds
    scale = float(max(np.abs(x).max(), np.abs(y).max(), 1e-3))
    inputs = tensors([x, y, directions, a, b])
    moving = [inputs[k].requires_grad_() for k in (0, 1, 2)]
    for sort in ("soft", "balanced"):
        plain = espref.expected_soft_plan(x, y, directions, tau * scale, a, b, sort=sort)
        result = F.expected_soft_plan(*inputs, tau=tau * scale, sort=sort)
        assert close(result.plan, plain.plan)
        loss = F.soft_est_loss(*inputs, tau=tau * scale, sort=sort)
        assert abs(loss.item() - plain.cost) <= 1e-11 * max(scale**2, plain.cost)
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, moving))
        if sort == "balanced":
            for dim, weights, n in ((1, a, len(x)), (0, b, len(y))):
                assert close(result.plan.sum(dim), np.full(n, 1 / n) if weights is None else weights)


GOOD = {"x": torch.zeros(4, 3, 2), "y": torch.zeros(4, 5, 2)}
BAD = {
    "a list": ({"x": [[0.0]]}, "x: expected a floating point tensor"),
    "whole numbers": ({"y": torch.zeros(4, 5, 2, dtype=torch.long)}, "y: expected a floating point tensor"),
    "a vector": ({"x": torch.zeros(3)}, "x: expected shape"),
    "no points": ({"x": torch.zeros(4, 0, 2)}, "x: expected shape"),
    "another batch": ({"y": torch.zeros(3, 5, 2)}, r"y: expected shape \(4, m, 2\)"),
    "another dimension": ({"y": torch.zeros(4, 5, 3)}, r"y: expected shape \(4, m, 2\)"),
    "NaN": ({"x": torch.full((4, 3, 2), torch.nan)}, "x: expected finite points, got nan"),
    "infinity": ({"y": torch.full((4, 5, 2), torch.inf)}, "y: expected finite points, got inf"),
    "too few weights": ({"a": torch.ones(2) / 2}, "a: expected weights that expand"),
    "one weight for all": ({"a": torch.ones(1)}, "a: expected weights that expand"),
    "whole weights": ({"a": torch.ones(3, dtype=torch.long)}, "a: expected weights that expand"),
    "negative weights": ({"a": torch.tensor([1.5, -0.5, 0.0])}, "a: expected nonnegative weights, got -0.5"),
    "zero weights": ({"b": torch.zeros(5)}, "b: expected weights that sum to 1 in every cloud, all are zero"),
    "weights that sum to 2": ({"b": torch.ones(5) * 0.4}, "b: expected weights that sum to 1 in every cloud, got a su"),
    "NaN weights": ({"b": torch.full((5,), torch.nan)}, "b: expected finite weights"),
    "all padding": ({"x_padding_mask": torch.ones(3, dtype=torch.bool)}, "x_padding_mask: expected a point that is no"),
    "a float mask": ({"x_padding_mask": torch.zeros(3)}, "x_padding_mask: expected a boolean mask"),
    "a long mask": ({"y_padding_mask": torch.zeros(6, dtype=torch.bool)}, "y_padding_mask: expected a boolean mask"),
    "directions of another dimension": ({"directions": torch.eye(3)}, "directions: expected None or"),
    "a zero direction": ({"directions": torch.zeros(1, 2)}, "directions: expected nonzero rows"),
    "no directions": ({"directions": torch.zeros(0, 2)}, "directions: expected None or"),
    "NaN directions": ({"directions": torch.full((1, 2), torch.nan)}, "directions: expected finite"),
    "a negative beta": ({"beta": -1.0}, "beta: expected a number >= 0"),
    "beta NaN": ({"beta": float("nan")}, "beta: expected a number >= 0"),
    "a word for beta": ({"beta": "1"}, "beta: expected a number >= 0"),
    "a long prior": ({"prior": torch.ones(3) / 3}, "prior: expected weights"),
    "a learned prior": ({"prior": torch.tensor([0.5, 0.5], requires_grad=True)}, "prior: expected a constant"),
}
HARD = {
    "p below 1": ({"p": 0.5}, "p: expected a number >= 1"),
    "p infinite": ({"p": float("inf")}, "p: expected a number >= 1 and finite"),
    "another word": ({"ties": "last"}, "ties: expected one of split, first"),
    "learned directions": ({"directions": torch.eye(2, requires_grad=True)}, "directions: expected constants"),
    "an overflow": ({"x": torch.full((4, 3, 2), 1e30)}, "x, y: expected points whose cost is finite"),
    "an overflow of halves": ({"x": torch.full((4, 3, 2), 300.0).half()}, "whose cost is finite in torch.float16"),
}
SOFT = {
    "tau zero": ({"tau": 0.0}, "tau: expected a number > 0"),
    "tau infinite": ({"tau": float("inf")}, "tau: expected a number > 0"),
    "tau NaN": ({"tau": float("nan")}, "tau: expected a number > 0"),
    "the hard sort": ({"sort": "hard"}, "sort: expected one of soft, balanced"),
    "a third power": ({"power": 3}, "power: expected 1"),
}


@pytest.mark.parametrize("name", [*BAD, *HARD])
def test_bad_input_is_named_by_est_loss(name: str) -> None:
    """ValueError: the argument, what was expected, what came."""
    changed, message = (BAD | HARD)[name]
    with pytest.raises(ValueError, match=message):
        F.est_loss(**(GOOD | changed))


@pytest.mark.parametrize("name", [*BAD, *SOFT])
@pytest.mark.parametrize("function", [F.soft_est_loss, F.expected_soft_plan])
def test_bad_input_is_named_by_soft_functions(name: str, function: object) -> None:
    """ValueError: the argument, what was expected, what came."""
    changed, message = (BAD | SOFT)[name]
    with pytest.raises(ValueError, match=message):
        function(**(GOOD | {"tau": 0.1} | changed))


def test_ties_in_great_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """For p other than 2 all pairs of tied points are looked at, up to a limit; p = 2 needs their means only."""
    monkeypatch.setattr(matching, "MOST_PAIRS", 100)
    x, y = torch.zeros(30, 2), torch.ones(20, 2)
    with pytest.raises(ValueError, match="ties: expected at most 100 pairs"):
        F.est_loss(x, y, p=1)
    assert F.est_loss(x, y).item() == pytest.approx(2, rel=1e-6)
    assert F.est_loss(x, y, p=1, ties="first").item() == pytest.approx(2**0.5, rel=1e-6)


CLAIMS = [entry for entry in LEDGER.values() if "loss" in entry.id or "slicers" in entry.id]
by_rank, gibbs, slope = matching.by_rank, losses.gibbs_weights, softplans.score_gradient
BREAKS = {
    "weights in input order": (matching, "by_rank", lambda cloud, order: by_rank(cloud, order.sort().values)),
    "the same for soft plans": (softplans, "by_rank", lambda cloud, order: by_rank(cloud, order.sort().values)),
    "a tie shared evenly": (matching, "shares", lambda mass, first: torch.ones_like(first) / 2),
    "no gradient through the weights of slices": (
        losses,
        "gibbs_weights",
        lambda *arguments: gibbs(*arguments).detach(),
    ),
    "a kernel whose derivative is halved": (softplans, "score_gradient", lambda *arguments: slope(*arguments) / 2),
    "no implicit derivative": (softplans, "conjugate_gradients", lambda apply, b: torch.zeros_like(b)),
    "padding among the points": (
        matching,
        "ranked",
        lambda cloud, *rest: ranked(cloud._replace(valid=None), *rest),
    ),
}
ranked = matching.ranked


@pytest.mark.parametrize("broken", BREAKS)
def test_a_claim_fails_when_a_loss_is_broken(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one function broken, a claim about losses fails by its own residual."""
    module, name, replacement = BREAKS[broken]
    for user in (module, losses):
        if hasattr(user, name):
            monkeypatch.setattr(user, name, replacement)
    outcomes = (run_claim(entry, [], seeds=1) for entry in CLAIMS if entry.on == "seed")
    assert any(outcome.verdict == "fails" and outcome.note.startswith("worst on") for outcome in outcomes)
