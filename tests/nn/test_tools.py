"""The attention among PyTorch's own tools: compile, autocast, vmap, checkpoints, determinism, no global state."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.nn import (  # noqa: E402
    DifferentialAttention,
    EspAttention,
    SinkhornAttention,
    SoftmaxAttention,
    functional,
    transformer,
)

SORTS = ("soft", "balanced", "hard")


def tokens(*lead: int, n: int = 20, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*lead, n, 4, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def gradients(compute, q, k, v) -> list[torch.Tensor]:
    output = compute(q, k, v)
    return [output, *torch.autograd.grad(output.square().sum(), (q, k, v))]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the tracer itself
@pytest.mark.parametrize("sort", SORTS)
def test_compiled(sort: str) -> None:
    """Under torch.compile (traced, without a C compiler), output and gradients are the same."""

    def compute(q, k, v):
        return functional.esp_attention(q, k, v, tau=0.2, beta=1.0, sort=sort).output

    compiled = torch.compile(compute, backend="aot_eager")
    for result, plain in zip(gradients(compiled, *tokens(2)), gradients(compute, *tokens(2)), strict=True):
        torch.testing.assert_close(result, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sort", SORTS)
def test_autocast(sort: str) -> None:
    """In a bfloat16 region projections are narrow, sorts are not: near the float32 module, and finite gradients."""
    torch.manual_seed(0)
    module, x = EspAttention(16, 2, sort=sort, beta=0.1), torch.randn(2, 12, 16)
    plain = module(x, x, x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = module(x, x, x)[0]
    assert result.dtype == torch.bfloat16
    result.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    if sort != "hard":  # a rounded score may change places
        torch.testing.assert_close(result.float(), plain, rtol=0, atol=0.1 * float(plain.detach().abs().max()))


@pytest.mark.parametrize("kind", [SoftmaxAttention, SinkhornAttention, DifferentialAttention])
def test_autocast_of_the_other_kinds(kind: type[torch.nn.Module]) -> None:
    """Near the float32 module, without a warning."""
    torch.manual_seed(0)
    module, x = kind(16, 2), torch.randn(2, 12, 16)
    plain = module(x, x, x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = module(x, x, x)[0]
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), plain, rtol=0, atol=0.05 * float(plain.detach().abs().max()))


@pytest.mark.parametrize("sort", SORTS)
def test_functional_transforms(sort: str) -> None:
    """torch.func: grad, vjp, jacrev, vmap (over tokens, masks, temperatures), and gradients item by item equal those
    of autograd."""

    def compute(q, k, v, mask, tau):
        return functional.esp_attention(q, k, v, tau=tau, beta=1.0, sort=sort, key_padding_mask=mask).output

    def loss(*arguments):
        return compute(*arguments).square().sum()

    q, k, v = tokens(3, n=6)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4:] = True
    tau = torch.tensor([0.2, 0.3, 1.0], dtype=torch.float64)
    items = list(zip(q.detach(), k.detach(), v.detach(), mask, tau, strict=True))
    result = torch.vmap(compute)(q.detach(), k.detach(), v.detach(), mask, tau)
    shared = torch.vmap(compute, in_dims=(1, None, None, None, None), out_dims=1)(
        q.detach().transpose(0, 1), *items[0][1:]
    )
    by_item = torch.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 4)))(q.detach(), k.detach(), v.detach(), mask, tau)
    for i, item in enumerate(items):
        leaves = [x.clone().requires_grad_() for x in (*item[:3], item[4])]
        output = compute(*leaves[:3], item[3], leaves[3])
        torch.testing.assert_close(result[i], output, rtol=0, atol=1e-13)
        torch.testing.assert_close(shared[:, i], compute(item[0], *items[0][1:]), rtol=0, atol=1e-13)
        grads = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        for together, alone in zip(by_item, grads, strict=True):
            torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-12)
        for alone, grad in zip(torch.func.grad(loss, argnums=(0, 1, 2, 4))(*item), grads, strict=True):
            torch.testing.assert_close(alone, grad, rtol=0, atol=1e-12)
    pulled = torch.func.vjp(lambda v: compute(*items[0][:2], v, *items[0][3:]), items[0][2])[1]
    jacobian = torch.func.jacrev(compute, argnums=2)(*items[0])
    g = torch.ones(6, 4, dtype=torch.float64)
    torch.testing.assert_close(pulled(g)[0], jacobian.sum((0, 1)), rtol=0, atol=1e-12)


def test_ensemble_of_modules() -> None:
    """Parameters stacked and mapped over, as torch.func does with ensembles: each as alone."""
    torch.manual_seed(0)
    modules = [EspAttention(8, 2, tau=tau, directions=torch.randn(3, 4)).double() for tau in (0.1, 0.5)]
    stacked = torch.func.stack_module_state(modules)
    x = torch.randn(3, 5, 8).double()

    def call(*state):
        return torch.func.functional_call(modules[0], state, (x, x, x), {"need_weights": False})[0]

    for result, module in zip(torch.vmap(call)(*stacked), modules, strict=True):
        torch.testing.assert_close(result, module(x, x, x)[0], rtol=0, atol=1e-13)


def test_second_derivatives_are_refused() -> None:
    """Never a silent zero."""
    q, k, v = tokens()
    (grad,) = torch.autograd.grad(
        functional.esp_attention(q, k, v, tau=0.2, beta=1.0).output.square().sum(), q, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="esp_attention: its gradient has no derivative"):
        grad.sum().backward()


def test_inference_keeps_nothing_for_a_backward() -> None:
    """Learned slicers are parameters: in inference mode, and without gradients, they record nothing."""
    q, k, v = tokens()
    slicers = torch.nn.Parameter(torch.eye(4, dtype=torch.float64))
    expected = functional.esp_attention(q, k, v, tau=0.2, beta=1.0, directions=slicers)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            result = functional.esp_attention(q, k, v, tau=0.2, beta=1.0, directions=slicers)
        assert not result.output.requires_grad and torch.equal(result.output, expected.output)


def test_checkpoints() -> None:
    """state_dict through a file read with weights_only=True: the same outputs; deep copies too."""
    torch.manual_seed(0)
    for name in transformer.ATTENTION:
        size = {"features": 3, "classes": 2, "dim": 8, "depth": 1, "heads": 2}
        model, other = (transformer.SetTransformer(attention=name, **size).eval() for _ in range(2))
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        x = torch.randn(2, 6, 3)
        assert torch.equal(model(x), other(x)) and torch.equal(model(x), copy.deepcopy(model)(x))


@pytest.mark.parametrize("sort", SORTS)
def test_same_bits_and_no_global_state(sort: str) -> None:
    """Twice the same call gives the same bits, gradients too; nothing global is touched."""

    def state():
        return (
            torch.get_rng_state().tolist(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
        )

    before = state()
    runs = [
        gradients(lambda *x: functional.esp_attention(*x, tau=0.2, beta=1.0, sort=sort).output, *tokens(2, n=300))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True)) and state() == before


def test_deterministic_mode() -> None:
    """No operation is refused where PyTorch is told to use deterministic ones only, and the result is the same."""
    q, k, v = tokens(2)
    plain = functional.esp_attention(q, k, v, tau=0.2, beta=1.0, sort="soft").output
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(functional.esp_attention(q, k, v, tau=0.2, beta=1.0, sort="soft").output, plain)
        mask = torch.zeros(2, 20, dtype=torch.bool)
        mask[1, 15:] = True
        for sort in SORTS:
            output = functional.esp_attention(q, k, v, tau=0.2, beta=1.0, sort=sort, key_padding_mask=mask).output
            output.sum().backward()
            assert all(x.grad.isfinite().all() for x in (q, k, v))
    finally:
        torch.use_deterministic_algorithms(False)
