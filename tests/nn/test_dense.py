"""The readable specification against NumPy, and the fast path against the readable specification."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import espref

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.nn import EspAttention, dense, functional, sorting  # noqa: E402

DOUBLE = torch.float64
SORTS = ("soft", "balanced", "hard")


def tokens(n: int, m: int, lead: tuple[int, ...] = (), seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys, values in float64."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((n, 4), (m, 4), (m, 3))
    return [torch.randn(*lead, *size, generator=generator, dtype=DOUBLE) for size in sizes]


def masks(n: int, m: int) -> dict[str, torch.Tensor]:
    """Three items: without padding, with padding anywhere, without any valid key."""
    query, key = torch.zeros(3, n, dtype=torch.bool), torch.zeros(3, m, dtype=torch.bool)
    query[1, [1, n - 1]], key[1, 0], key[2] = True, True, True
    return {"query_padding_mask": query, "key_padding_mask": key}


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(20, 20), (13, 21), (1, 4), (5, 1)])
def test_dense_equals_numpy(sort: str, power: int, n: int, m: int) -> None:
    """Output and matrix are those of espref.esp_attention, along the axes and along free directions."""
    q, k, v = tokens(n, m)
    for directions in (None, torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)):
        plain = espref.esp_attention(q, k, v, tau=0.2, beta=1.3, directions=directions, sort=sort, power=power)
        result = dense.esp_attention(q, k, v, tau=0.2, beta=1.3, directions=directions, sort=sort, power=power)
        np.testing.assert_allclose(result.output, plain.output, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.matrix, plain.matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("n", "m"), [(9, 9), (8, 11), (40, 35)])
def test_fast_path_equals_dense(sort: str, power: int, padded: bool, n: int, m: int) -> None:
    """Outputs to 1e-12, gradients of all six arguments to 1e-10; at 40 tokens the kernel has several chunks."""
    generator = torch.Generator().manual_seed(2)
    leaves = [*tokens(n, m, (3,)), torch.randn(5, 4, generator=generator, dtype=DOUBLE)]
    leaves = [x.requires_grad_() for x in (*leaves, *torch.tensor([0.3, 0.7], dtype=DOUBLE))]
    q, k, v, directions, tau, beta = leaves
    options = {"tau": tau, "beta": beta, "directions": directions, "sort": sort, "power": power}
    options |= masks(n, m) if padded else {}
    plain = dense.esp_attention(q, k, v, **options)
    fast = functional.esp_attention(q, k, v, **options, need_weights=True)
    torch.testing.assert_close(fast.output, plain.output, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast.matrix, plain.matrix, rtol=0, atol=1e-12)
    g = torch.randn(plain.output.shape, generator=generator, dtype=DOUBLE)
    slow_gradients, fast_gradients = (
        torch.autograd.grad(result.output, leaves, g, allow_unused=True, materialize_grads=True)
        for result in (plain, fast)
    )
    for one, other in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert all(x.any() for x in slow_gradients) == (sort != "hard")  # hard sorts are locally constant in directions


def test_padding_is_left_out() -> None:
    """Each item of a padded batch gets what its valid tokens get alone; padded queries get zeros."""
    q, k, v = tokens(8, 11, (3,))
    padding = masks(8, 11)
    for sort in SORTS:
        output = dense.esp_attention(q, k, v, tau=0.2, beta=1.0, sort=sort, **padding).output
        rows, cols = ~padding["query_padding_mask"][1], ~padding["key_padding_mask"][1]
        alone = dense.esp_attention(q[1, rows], k[1, cols], v[1, cols], tau=0.2, beta=1.0, sort=sort).output
        torch.testing.assert_close(output[1, rows], alone, rtol=0, atol=1e-13)
        assert not output[1, ~rows].any() and not output[2].any()


def test_rank_plan_is_the_plan_of_the_numpy_chapter() -> None:
    """Between the uniform weights of the valid tokens, and zero elsewhere."""
    valid = torch.arange(7) < torch.tensor([[7], [4], [1]])
    others = torch.arange(5) < torch.tensor([[5], [3], [5]])
    plans = dense.rank_plan(valid, others)
    for plan, n, m in zip(plans, (7, 4, 1), (5, 3, 5), strict=True):
        expected = np.zeros((7, 5))
        expected[:n, :m] = espref.rank_plan(np.full(n, 1 / n), np.full(m, 1 / m)).toarray()
        np.testing.assert_allclose(plan, expected, rtol=0, atol=1e-16)


@pytest.mark.parametrize("sort", ["soft", "balanced"])
def test_soft_permutation_is_the_matrix_of_the_numpy_chapter(sort: str) -> None:
    """Rank by token, for scores in any order."""
    s = torch.randn(12, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    matrix = dense.soft_permutation(s, 0.4, torch.ones(12, dtype=torch.bool), sort)
    np.testing.assert_allclose(matrix, espref.soft_permutation(s, 0.4, sort=sort), rtol=0, atol=1e-13)


@pytest.mark.parametrize("sort", SORTS)
def test_layer_equals_the_module(sort: str) -> None:
    """DenseEsp and EspAttention exchange their state, and compute the same outputs, matrices and gradients."""
    torch.manual_seed(0)
    plain = dense.DenseEsp(16, 2, tau=0.2, beta=1.5, sort=sort).double()
    layer = EspAttention(16, 2, tau=0.1, beta=1.0, sort=sort, self_attention=True, dtype=DOUBLE)
    layer.load_state_dict(plain.state_dict())
    x, padding = torch.randn(2, 9, 16, dtype=DOUBLE), torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    output, matrix = plain(x, padding)
    fast_output, fast_matrix = layer(x, x, x, padding, average_attn_weights=False)
    torch.testing.assert_close(fast_output, output, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast_matrix, matrix, rtol=0, atol=1e-12)
    output.square().sum().backward()
    fast_output.square().sum().backward()
    for name, parameter in plain.named_parameters():
        gradient = layer.get_parameter(name).grad
        assert (gradient is None) == (parameter.grad is None) == (not parameter.requires_grad)
        if gradient is not None:
            torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-10)


def test_gradient_of_the_balanced_scaling() -> None:
    """d(log d) = -(I + S)^{-1} dr, with the inverse written out, and the derivative of the rounds of the iteration."""
    s = torch.randn(1, 1, 10, generator=torch.Generator().manual_seed(4), dtype=DOUBLE).sort(dim=-1).values
    tau, g = torch.tensor(0.5, dtype=DOUBLE), torch.arange(10, dtype=DOUBLE)
    s.requires_grad_()
    ones = torch.ones_like(s)
    order = torch.arange(10).expand_as(s)
    taus = tau[None]
    sort = sorting.SoftSort(order, s.detach(), ones, taus, sorting.laplace_kernel(s.detach(), taus))
    d = sorting.balanced_scaling(sort)
    gradient, _ = sorting.scaling_gradient(sort, d, d * g)

    def kernel(s: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(s[..., :, None] - s[..., None, :]).abs() / tau)

    unrolled = dense.balanced_scaling(kernel(s))
    torch.testing.assert_close(d, unrolled, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient, torch.autograd.grad(unrolled, s, g.expand_as(d))[0], rtol=0, atol=1e-12)
    S = d[..., :, None] * kernel(s.detach()) * d[..., None, :]
    log_residual = (d * (kernel(s) @ d[..., None])[..., 0]).log()
    solution = torch.linalg.solve(torch.eye(10, dtype=DOUBLE) + S, (d * g)[..., None])[..., 0]
    torch.testing.assert_close(gradient, torch.autograd.grad(log_residual, s, -solution)[0], rtol=0, atol=1e-12)


def test_the_specification_stands_alone() -> None:
    """It imports nothing else of the package, so that it cannot share an error with the fast path."""
    source = inspect.getsource(dense)
    assert "from ." not in source and "import espref" not in source
    assert dense.esp_attention is not functional.esp_attention
