"""Export, compilation, tracing and transforms: right, or refused by name."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from torch import nn  # noqa: E402

from espref.nn import (  # noqa: E402
    DifferentialAttention,
    EspAttention,
    SinkhornAttention,
    SoftmaxAttention,
    functional,
    operators,
    swap_attention,
)

SORTS = ("soft", "balanced", "hard")
KINDS = {
    "softmax": SoftmaxAttention,
    "differential": DifferentialAttention,
    "sinkhorn": SinkhornAttention,
    **{f"esp {sort}": lambda *x, sort=sort, **o: EspAttention(*x, sort=sort, **o) for sort in SORTS},
}
#: Each of these takes seconds; the others are left to make trust.
FEW = [kind if kind in ("softmax", "esp soft") else pytest.param(kind, marks=pytest.mark.trust) for kind in KINDS]
PADDING = torch.arange(6) >= torch.tensor([[6], [4]])


class SelfAttention(nn.Module):
    """A model of one layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = KINDS[kind](8, 2, self_attention=True)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x, x, padding, need_weights=False)[0]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", FEW)
def test_export(kind: str, x: torch.Tensor) -> None:
    """torch.export with sizes left open, through a file: the same outputs at other sizes."""
    model = SelfAttention(kind).eval()
    batch, n = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("n", min=2, max=512)
    program = torch.export.export(model, (x, PADDING), dynamic_shapes=({0: batch, 1: n}, {0: batch, 1: n}))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    y, padding = torch.randn(3, 9, 8), torch.arange(9) >= torch.tensor([[9], [4], [1]])
    torch.testing.assert_close(loaded(y, padding), model(y, padding), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the tracer itself
@pytest.mark.parametrize("kind", FEW)
def test_one_graph(kind: str, x: torch.Tensor) -> None:
    """torch.compile(fullgraph=True): the same outputs and gradients, of the parameters too."""
    model = SelfAttention(kind)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    results = []
    for call in (compiled, model):
        leaf = x.clone().requires_grad_()
        output = call(leaf, PADDING)
        output.square().sum().backward()
        results.append([output, leaf.grad, *(p.grad for p in call.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_trace(kind: str, x: torch.Tensor) -> None:
    """torch.jit.trace, through a file."""
    model = SelfAttention(kind).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, (x, PADDING)), file)
    file.seek(0)
    y = torch.randn(2, 6, 8)
    torch.testing.assert_close(torch.jit.load(file)(y, PADDING), model(y, PADDING), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("free", [False, True])
def test_the_operators_are_what_they_say(sort: str, free: bool) -> None:
    """torch.library.opcheck: schema, fake kernel, registration of the gradient, dynamic sizes."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 6, 3, generator=generator, requires_grad=True) for _ in range(3))
    directions = torch.randn(4, 3, generator=generator, requires_grad=True) if free else None
    tau, beta = (torch.full((2,), number).requires_grad_() for number in (0.3, 1.0))
    arguments = (q, k, v, directions, tau, beta, None, ~PADDING, sort, 1)
    torch.library.opcheck(operators.esp_attention, arguments)
    with torch.no_grad():
        output, costs = operators.esp_attention(*arguments)
        detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
        torch.library.opcheck(operators.esp_attention_backward, (output, output, costs, *detached))


@pytest.mark.parametrize("kind", KINDS)
def test_fake_tensors(kind: str, x: torch.Tensor) -> None:
    """Shapes without numbers."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert SelfAttention(kind)(mode.from_tensor(x), mode.from_tensor(PADDING)).shape == x.shape


def test_a_padded_swapped_encoder_is_one_graph(x: torch.Tensor) -> None:
    """Stock layers hand on float masks, whose values are looked at when the graph runs."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = swap_attention(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), EspAttention)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        plain = model(x, src_key_padding_mask=PADDING)
        torch.testing.assert_close(compiled(x, src_key_padding_mask=PADDING), plain, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of PyTorch's own kernels
@pytest.mark.parametrize("kind", KINDS)
def test_jacobians(kind: str, x: torch.Tensor) -> None:
    """Row by row, vectorised, by is_grads_batched and by torch.func: the same."""
    model = SelfAttention(kind).double()
    x = x.double()[1:, :3]

    def call(x: torch.Tensor) -> torch.Tensor:
        return model(x, PADDING[1:, 3:])

    plain = torch.autograd.functional.jacobian(call, x)
    leaf = x.clone().requires_grad_()
    output = call(leaf)
    basis = torch.eye(output.numel(), dtype=x.dtype).unflatten(1, output.shape)
    batched = torch.autograd.grad(output, leaf, basis, is_grads_batched=True)[0].unflatten(0, output.shape)
    for other in (
        torch.autograd.functional.jacobian(call, x, vectorize=True),
        torch.func.jacrev(call)(x),
        batched,
    ):
        torch.testing.assert_close(other, plain, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode(kind: str, x: torch.Tensor) -> None:
    """Right where there is a matrix, and refused with the name of the function by ESP attention."""
    model, x = SelfAttention(kind).double(), x.double()

    def call(x: torch.Tensor) -> torch.Tensor:
        return model(x, PADDING)

    if kind.startswith("esp"):
        with pytest.raises(NotImplementedError, match=r"^esp_attention: it has no forward-mode derivative"):
            torch.func.jvp(call, (x,), (x,))
        with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match=r"^esp_attention: "):
            call(torch.autograd.forward_ad.make_dual(x, x))
    else:
        along = torch.func.jvp(call, (x,), (x,))[1]
        step = 1e-5 * x
        torch.testing.assert_close(along, (call(x + step) - call(x - step)) / 2e-5, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_onnx_is_refused(x: torch.Tensor) -> None:
    """With the name, and what to do instead."""
    with pytest.raises(NotImplementedError, match=r"^esp_attention: ONNX has no operators for it; use torch.export"):
        torch.onnx.export(SelfAttention("esp soft").eval(), (x, PADDING), io.BytesIO(), dynamo=False)


def test_temperatures_out_of_range_are_refused_when_they_are_numbers() -> None:
    """Compilers see no numbers: the operator says it when it runs."""
    q = torch.randn(5, 3)
    call = torch.compile(
        lambda tau: functional.esp_attention(q, q, q, tau=tau, beta=1.0).output, fullgraph=True, backend="eager"
    )
    assert call(torch.tensor(0.1)).isfinite().all()
    with pytest.raises(ValueError, match=r"^tau: expected numbers > 0, got 0"):
        call(torch.tensor(0.0))
