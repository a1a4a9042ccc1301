"""Projections are modules that are called, and what nn.MultiheadAttention takes or refuses is taken or refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrize, prune  # noqa: E402

import espref  # noqa: E402
from espref.nn import DifferentialAttention, EspAttention, SinkhornAttention, SoftmaxAttention  # noqa: E402

KINDS = [SoftmaxAttention, DifferentialAttention, SinkhornAttention, EspAttention]


def outputs(layer: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Of self-attention and of cross-attention."""
    return [layer(x, x, x, need_weights=False)[0], layer(x, y, y, need_weights=False)[0]]


class Adapter(nn.Module):
    """A linear map with a low-rank addition."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["in_proj", "out_proj", "q_proj", "k_proj", "v_proj"])
def test_adapters_equal_merged_weights(kind: type[nn.Module], name: str) -> None:
    """A low-rank adapter in place of a projection computes what the merged weight does, and trains."""
    torch.manual_seed(0)
    kdim = 8 if name.startswith(("in", "out")) else 6
    layer = kind(8, 2, kdim=kdim, vdim=kdim).double()
    x, y = torch.randn(2, 5, 8).double(), torch.randn(2, 5, kdim).double()
    adapter = Adapter(getattr(layer, name)).double()
    merged, adapted = copy.deepcopy(layer), copy.deepcopy(layer)
    with torch.no_grad():
        getattr(merged, name).weight += adapter.up.weight @ adapter.down.weight
    setattr(adapted, name, adapter)
    result = adapted(x, y, y, need_weights=False)[0]
    torch.testing.assert_close(result, merged(x, y, y, need_weights=False)[0], rtol=0, atol=1e-12)
    result.square().sum().backward()
    assert adapter.up.weight.grad.any() and adapter.down.weight.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_pruning_and_norms_reach_the_projections(kind: type[nn.Module]) -> None:
    """Forward hooks are called; parametrisations, pruning and weight_norm follow later changes of what they are made
    of, and take gradients twice."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    hooked = kind(8, 2)
    plain, called = outputs(hooked, x, y), []
    hooked.in_proj.register_forward_hook(lambda module, inputs, output: called.append(1) or 2 * output)
    assert not torch.allclose(outputs(hooked, x, y)[1], plain[1]) and called

    def pruned(layer: nn.Module) -> nn.Parameter:
        prune.l1_unstructured(layer.in_proj, "weight", 0.5)
        return layer.in_proj.weight_orig

    def weight_normed(layer: nn.Module) -> nn.Parameter:
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(layer.in_proj)
        return layer.in_proj.weight_v

    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    def parametrised(layer: nn.Module) -> nn.Parameter:
        parametrize.register_parametrization(layer.in_proj, "weight", Double())
        return layer.in_proj.parametrizations.weight.original

    for change in (pruned, weight_normed, parametrised):
        layer = kind(8, 2)
        source = change(layer)
        for _ in range(2):
            layer.zero_grad()
            sum(y.square().sum() for y in outputs(layer, x, y)).backward()
            assert source.grad.any()
        before = outputs(layer, x, y)
        with torch.no_grad():
            source.copy_(source.flip(0))
        assert not any(torch.allclose(a, b) for a, b in zip(before, outputs(layer, x, y), strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_quantisation(kind: type[nn.Module]) -> None:
    """The quantised projections are called: near the float module, and not equal to it."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no engine of quantisation")
    torch.manual_seed(0)
    layer, x, y = kind(16, 2).eval(), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    quantised = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, dtype=torch.qint8)
    assert not isinstance(quantised.in_proj, nn.Linear)
    for result, plain in zip(outputs(quantised, x, y), outputs(layer, x, y), strict=True):
        assert not torch.equal(result, plain)
        torch.testing.assert_close(result, plain, rtol=0, atol=0.05 * float(plain.abs().max()) + 0.02)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 6, "vdim": 5}, {"kdim": 6, "bias": False}])
def test_checkpoints_of_multihead_attention(options: dict) -> None:
    """Loaded, SoftmaxAttention is nn.MultiheadAttention: outputs, weights, masks; and back."""
    torch.manual_seed(0)
    stock = nn.MultiheadAttention(8, 2, batch_first=True, **options).eval()
    for parameter in stock.parameters():  # biases begin as zeros
        nn.init.normal_(parameter, std=0.3)
    ours = SoftmaxAttention(8, 2, **options).eval()
    ours.load_state_dict(stock.state_dict())
    wrapped = nn.ModuleDict({"a": SoftmaxAttention(8, 2, **options)})
    wrapped.load_state_dict({f"a.{name}": x for name, x in stock.state_dict().items()})
    x = torch.randn(2, 4, 8)
    y, z = torch.randn(2, 5, options.get("kdim", 8)), torch.randn(2, 5, options.get("vdim", 8))
    expected = stock(x, y, z)
    for layer in (ours, wrapped["a"]):
        for one, other in zip(layer(x, y, z), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    back = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    back.load_state_dict(ours.multihead_state_dict())
    assert all(torch.equal(one, other) for one, other in zip(back.parameters(), stock.parameters(), strict=True))
    assert set(SoftmaxAttention(8, 2, **options).state_dict()) == set(ours.state_dict())
    with pytest.raises(RuntimeError, match="bias_k"):
        ours.load_state_dict(nn.MultiheadAttention(8, 2, add_bias_kv=True, **options).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_widths_of_keys_and_values(kind: type[nn.Module]) -> None:
    """kdim and vdim: outputs have the width of the queries."""
    layer = kind(8, 2, kdim=6, vdim=5)
    output, weights = layer(torch.randn(2, 4, 8), torch.randn(2, 7, 6), torch.randn(2, 7, 5))
    assert output.shape == (2, 4, 8) and weights.shape == (2, 4, 7)


def test_dropout_of_pairwise_attention_is_that_of_entries() -> None:
    """In training only; weights come back dropped, as nn.MultiheadAttention gives them, and make the output."""
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(8, 2, dropout=0.5), torch.randn(2, 50, 8)
    weights = layer(x, x, x, average_attn_weights=False)[1]
    assert 0.4 < (weights == 0).double().mean() < 0.6
    evaluated = layer.eval()(x, x, x)
    assert torch.equal(evaluated[0], layer(x, x, x)[0]) and not (evaluated[1] == 0).any()


@pytest.mark.parametrize("kind", [SinkhornAttention, EspAttention])
def test_dropout_of_plans_is_that_of_keys(kind: type[nn.Module]) -> None:
    """Columns are zero or multiplied by 1 / (1 - p), and the output is the matrix applied to the values."""
    torch.manual_seed(0)
    layer, x = kind(8, 2, dropout=0.25).double(), torch.randn(1, 400, 8).double()
    torch.manual_seed(1)
    output, weights = layer(x, x, x, average_attn_weights=False)
    plain = layer.eval()(x, x, x, average_attn_weights=False)[1]
    zero = (weights == 0).all(-2)
    assert 0.15 < zero.double().mean() < 0.35
    kept = plain / 0.75 * ~zero[..., None, :]
    torch.testing.assert_close(weights, kept, rtol=0, atol=1e-12)
    values = layer.in_proj(x)[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
    torch.testing.assert_close(output, layer.out_proj((kept @ values).transpose(1, 2).flatten(-2)), rtol=0, atol=1e-12)


def test_a_learned_mask_trains() -> None:
    """Float masks are added to the scores, as nn.MultiheadAttention does, and have gradients; ESP attention says what
    it cannot use."""
    torch.manual_seed(0)
    stock, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    ours = SoftmaxAttention(8, 2)
    ours.load_state_dict(stock.state_dict())
    masks = [torch.randn(3, 3), torch.full((3, 3), -1e9).triu(1), torch.randn(4, 3, 3)]
    masks.append(torch.full((3, 3), torch.finfo(torch.float32).min).triu(1))
    masks.append(torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf))
    for mask in masks:
        for need_weights in (True, False):
            leaf, other = (mask.clone().requires_grad_() for _ in range(2))
            result, expected = ours(x, x, x, attn_mask=leaf), stock(x, x, x, attn_mask=other)
            torch.testing.assert_close(result[0], expected[0], rtol=0, atol=1e-6)
            result = ours(x, x, x, attn_mask=leaf, need_weights=need_weights)
            result[0].square().sum().backward()
            expected[0].square().sum().backward()
            torch.testing.assert_close(leaf.grad, other.grad, rtol=0, atol=1e-5)
    bias = torch.randn(2, 3)
    torch.testing.assert_close(ours(x, x, x, bias)[0], stock(x, x, x, bias)[0], rtol=0, atol=1e-6)
    learned = nn.Parameter(torch.zeros(3, 3))
    DifferentialAttention(8, 2)(x, x, x, attn_mask=learned)[0].square().sum().backward()
    assert learned.grad.any()
    for kind in (EspAttention, SinkhornAttention):
        layer = kind(8, 2, self_attention=True)
        with pytest.raises(
            ValueError, match=r"^key_padding_mask: expected booleans, or floats 0 and -inf, got the value"
        ):
            layer(x, x, x, bias)
        with pytest.raises(ValueError, match=r"^key_padding_mask: expected a mask without gradient"):
            layer(x, x, x, nn.Parameter(torch.zeros(2, 3)))
        with pytest.raises(ValueError, match=r"^attn_mask: expected None"):
            layer(x, x, x, attn_mask=learned)


def test_half_precision_does_not_overflow() -> None:
    """Scores are scaled before they are multiplied: x = +-40 at 64 coordinates in float16."""
    torch.manual_seed(0)
    x = (40 * torch.randn(2, 5, 64).sign()).half()
    for kind in KINDS:
        layer = kind(64, 1).half()
        with torch.no_grad():
            layer.in_proj.weight.copy_(torch.eye(64).repeat(3, 1))
        for result in layer(x, x, x):
            assert result.isfinite().all()
        reference = copy.deepcopy(layer).double()(x.double(), x.double(), x.double())[1]
        torch.testing.assert_close(layer(x, x, x)[1].double(), reference, rtol=0, atol=4e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_built_without_memory(kind: type[nn.Module]) -> None:
    """On the meta device, then to_empty and every reset_parameters: as one that was built at once."""
    options = {"directions": torch.eye(4).flip(0), "tau": 0.3} if kind is EspAttention else {}
    with torch.device("meta"):
        layer = kind(8, 2, **options)
    x = torch.randn(2, 5, 8, device="meta")
    assert layer(x, x, x)[0].shape == (2, 5, 8) and repr(layer)
    layer.to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 1e20)
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert all(parameter.abs().max() < 10 for parameter in layer.parameters())
    y = torch.randn(2, 5, 8)
    assert layer(y, y, y)[0].isfinite().all()
    if kind is EspAttention:
        torch.testing.assert_close(layer.log_tau.exp(), torch.full((2,), 0.3))
        assert torch.equal(layer.directions, options["directions"])


def test_stock_containers() -> None:
    """nn.TransformerEncoder built around a layer whose attention is one of ours, in training and in evaluation."""
    x, pad = torch.randn(2, 5, 8), torch.arange(5) >= torch.tensor([[5], [3]])
    for kind in KINDS:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        layer.self_attn = kind(8, 2, self_attention=True)
        with pytest.warns(UserWarning, match="use_nested_tensor is False"):  # says that padding is not cut off
            model = nn.TransformerEncoder(layer, 2)
        assert model(x).shape == model.eval()(x, src_key_padding_mask=pad).shape == x.shape


X, Y = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
NO_TOKENS = [
    X[..., :7],
    X[None],
    X[0, 0],
    X.long(),
    X.to(torch.complex64),
    X.tolist(),
    X.numpy(),
    None,
    X[:, :0],
    torch.nested.nested_tensor([X[0], X[0, :3]], layout=torch.jagged),
]
NO_MASKS = {
    "key_padding_mask": [torch.zeros(2, 1), torch.zeros(1, 7), torch.zeros(7), torch.zeros(2, 5), [[False] * 7] * 2],
    "query_padding_mask": [torch.zeros(2, 1), torch.zeros(1, 5), torch.zeros(2, 7), np.zeros((2, 5), bool)],
    "attn_mask": [torch.zeros(7), torch.zeros(2, 5, 7), torch.zeros(1, 5, 7), torch.zeros(2, 2, 5, 7), [[0] * 7] * 5],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused_by_name(kind: type[nn.Module]) -> None:
    """Inputs and masks of other shapes and types, for all kinds of attention, with the batch first or second."""
    for batch_first in (True, False):
        layer = kind(8, 2, batch_first=batch_first)
        good = [x if batch_first else x.transpose(0, 1) for x in (X, Y, Y)]
        for place, name in enumerate(("query", "key", "value")):
            for bad in [*NO_TOKENS, X.double()]:
                batched = batch_first or not isinstance(bad, torch.Tensor) or bad.is_nested or bad.ndim != 3
                arguments = list(good)
                arguments[place] = bad if batched else bad.transpose(0, 1)
                named = r"(query|key|value)" if isinstance(bad, torch.Tensor) and bad.ndim == 1 else name
                with pytest.raises(ValueError, match=rf"^{named}: expected"):
                    layer(*arguments)
        for key, value in ((Y[:1], Y[:1]), (Y, Y[:, :6]), (Y, Y[:1])):
            with pytest.raises(ValueError, match=r"^key, value: expected 2 items"):
                layer(good[0], *(x if batch_first else x.transpose(0, 1) for x in (key, value)))
        for name, masks in NO_MASKS.items():
            for mask in [*masks, torch.zeros(2, 7, dtype=torch.long), torch.zeros(2, 7, device="meta")]:
                other = {"query_padding_mask": torch.zeros(2, 5).bool()} if name == "key_padding_mask" else {}
                bool_mask = mask.bool() if isinstance(mask, torch.Tensor) and mask.is_floating_point() else mask
                for form in (mask, bool_mask):
                    if isinstance(form, torch.Tensor) and form.device.type == "meta" and name == "attn_mask":
                        continue
                    with pytest.raises(ValueError, match=rf"^{name}: expected"):
                        layer(*good, **{name: form}, **other)
    with pytest.raises(ValueError, match=r"^query: expected torch.float32 as the parameters have, got torch.float64"):
        kind(8, 2)(X.double(), X.double(), X.double())


def test_masks_of_pairs_have_one_meaning() -> None:
    """(L, S), or (N num_heads, L, S), where N = num_heads is not read as one mask per item."""
    torch.manual_seed(0)
    stock, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    ours = SoftmaxAttention(8, 2)
    ours.load_state_dict(stock.state_dict())
    per_head = torch.rand(4, 3, 3) < 0.4
    per_head[..., 0] = False
    torch.testing.assert_close(ours(x, x, x, attn_mask=per_head)[0], stock(x, x, x, attn_mask=per_head)[0])
    torch.testing.assert_close(
        ours(x[0], x[0], x[0], attn_mask=per_head[:2])[0], stock(x[0], x[0], x[0], attn_mask=per_head[:2])[0]
    )
    with pytest.raises(ValueError, match=r"^attn_mask: expected booleans or floats of shape \(3, 3\) or \(4, 3, 3\)"):
        ours(x, x, x, attn_mask=per_head[:2])
    with pytest.raises(ValueError, match=r"^attn_mask: expected booleans or floats of shape \(3, 3\) or \(2, 3, 3\)"):
        ours(x[:1], x[:1], x[:1], attn_mask=per_head)


@pytest.mark.parametrize("kind", KINDS)
def test_results_with_the_batch_second_can_be_viewed(kind: type[nn.Module]) -> None:
    """As those of nn.MultiheadAttention can, and they are the batch-first ones."""
    layer, other = kind(8, 2, batch_first=False), kind(8, 2)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 8)
    output = layer(x, x, x)[0]
    assert output.view(10, 8).shape == (10, 8)
    batch_first = other(*[x.transpose(0, 1)] * 3)[0]
    torch.testing.assert_close(output.transpose(0, 1), batch_first)


@pytest.mark.parametrize("kind", [SoftmaxAttention, DifferentialAttention, SinkhornAttention])
def test_second_derivatives_where_there_is_a_matrix(kind: type[nn.Module]) -> None:
    """With need_weights=True the output is the matrix applied to the values, which can be differentiated twice."""
    torch.manual_seed(0)
    layer, x = kind(4, 1).double(), torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, x, x)[0], x)


def test_numbers_and_arrays_of_numpy() -> None:
    """Temperatures may be NumPy's, and directions an array."""
    directions = espref.sample_directions(3, 4, rng=0)
    layer = EspAttention(8, 2, tau=np.float32(0.1), beta=np.int64(2), directions=directions)
    np.testing.assert_allclose(layer.directions.detach(), directions, rtol=1e-6)
    torch.testing.assert_close(layer.log_tau.exp(), torch.full((2,), 0.1))
    for bad in (np.zeros((3, 5)), np.zeros((0, 4)), [1.0] * 4, np.full((3, 4), np.nan), np.zeros((3, 4), complex)):
        with pytest.raises(ValueError, match=r"^directions: expected"):
            EspAttention(8, 2, directions=bad)
    for name, values in {"tau": [0, -1, True, "1", np.nan], "beta": [0, "1"], "dropout": [1.0, -0.1]}.items():
        for bad in values:
            with pytest.raises(ValueError, match=rf"^{name}: expected"):
                EspAttention(8, 2, **{name: bad})
    for sizes in ((8.0, 2), (0, 1), (8, 3), (8, True)):
        with pytest.raises(ValueError, match=r"^(embed_dim|num_heads): expected"):
            EspAttention(*sizes)
