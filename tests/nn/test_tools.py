"""The attention among PyTorch's own tools: compile, autocast, vmap, checkpoints, determinism, no global state."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.nn import EspAttention, functional, transformer  # noqa: E402

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
    for found, plain in zip(gradients(compiled, *tokens(2)), gradients(compute, *tokens(2)), strict=True):
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sort", SORTS)
def test_autocast(sort: str) -> None:
    """In a bfloat16 region projections are narrow, sorts are not: near the float32 module, and finite gradients."""
    torch.manual_seed(0)
    module, x = EspAttention(16, 2, sort=sort, beta=0.1), torch.randn(2, 12, 16)
    plain = module(x, x, x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(x, x, x)[0]
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    if sort != "hard":  # a rounded score may change places
        torch.testing.assert_close(found.float(), plain, rtol=0, atol=0.1 * float(plain.detach().abs().max()))


def test_functional_transforms() -> None:
    """torch.func.functional_call and grad see the parameters; a batch dimension does what vmap would."""
    torch.manual_seed(0)
    module = EspAttention(8, 2).double()
    x = torch.randn(3, 5, 8).double()
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(values):
        return torch.func.functional_call(module, values, (x, x, x), {"need_weights": False})[0].square().sum()

    module(x, x, x, need_weights=False)[0].square().sum().backward()
    expected = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    moved = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    found = torch.autograd.grad(loss(moved), [moved[name] for name in expected])
    for name, grad in zip(expected, found, strict=True):
        torch.testing.assert_close(grad, expected[name])


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
    """No operation is refused where PyTorch is told to use deterministic ones only."""
    torch.use_deterministic_algorithms(True)
    try:
        q, k, v = tokens(2)
        mask = torch.zeros(2, 20, dtype=torch.bool)
        mask[1, 15:] = True
        for sort in SORTS:
            output = functional.esp_attention(q, k, v, tau=0.2, beta=1.0, sort=sort, key_padding_mask=mask).output
            output.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_vmap_says_what_to_do() -> None:
    """vmap does not go through: leading dimensions are the batch, and the error says something."""
    q, k, v = (x.detach() for x in tokens(3))
    together = functional.esp_attention(q, k, v, tau=0.2, beta=1.0).output
    one_by_one = [functional.esp_attention(*x, tau=0.2, beta=1.0).output for x in zip(q, k, v, strict=True)]
    torch.testing.assert_close(together, torch.stack(one_by_one), rtol=0, atol=1e-13)
    with pytest.raises(RuntimeError, match=r"vmap|functorch"):
        torch.vmap(lambda q, k, v: functional.esp_attention(q, k, v, tau=0.2, beta=1.0).output)(q, k, v)
