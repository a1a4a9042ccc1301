"""Attention exchanged in existing models: stock encoders, and timm's interface."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from espref.nn import EspAttention, SinkhornAttention, SoftmaxAttention, swap_attention, swap_report  # noqa: E402
from espref.nn.transformer import SetTransformer  # noqa: E402


@pytest.mark.parametrize("training", [True, False])
def test_swap_in_a_stock_encoder(training: bool) -> None:
    """Every MultiheadAttention of nn.TransformerEncoder is replaced, and no fast path bypasses it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    x, pad = torch.randn(2, 6, 16), torch.tensor([[0] * 6, [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        before = model(x, src_key_padding_mask=pad)
        swap_attention(model, SoftmaxAttention)
        valid = ~pad
        torch.testing.assert_close(model(x, src_key_padding_mask=pad)[valid], before[valid], atol=1e-5, rtol=1e-4)
    called = []
    stock = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    swapped = swap_attention(stock, EspAttention, sort="balanced")
    for block in swapped.layers:
        block.self_attn.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        assert torch.isfinite(swapped(x, src_key_padding_mask=pad)).all()
    assert len(called) == 2


@pytest.mark.parametrize("kind", [EspAttention, SinkhornAttention])
def test_padding_in_a_swapped_encoder(kind: type[nn.Module]) -> None:
    """Stock layers hand on the mask of the keys only; in self-attention it counts for queries too."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dtype=torch.float64)
    model = swap_attention(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), kind)
    x, pad = torch.randn(2, 6, 16, dtype=torch.float64), torch.tensor([[0] * 6, [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        both = model(x, src_key_padding_mask=pad)
        torch.testing.assert_close(both[1, :4], model(x[1:, :4])[0], rtol=0, atol=1e-10)


def test_default_layers_are_swapped() -> None:
    """Dropout, norm first, biases missing, tokens first: as stock layers come; parameters' settings are carried."""
    for options in ({}, {"norm_first": True}, {"bias": False}, {"batch_first": True}, {"dtype": torch.float64}):
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, **options), 2, enable_nested_tensor=False)
        model.layers[0].self_attn.in_proj_weight.requires_grad_(False)
        weights = model.layers[0].self_attn.in_proj_weight.clone()
        swapped = swap_attention(model.eval(), EspAttention, tau=0.3)
        attention = swapped.layers[0].self_attn
        assert swapped is model and torch.equal(attention.in_proj.weight, weights) and not attention.training
        assert not attention.in_proj.weight.requires_grad and swapped.layers[1].self_attn.in_proj.weight.requires_grad
        x = torch.randn(5, 3, 8, dtype=options.get("dtype"))
        with torch.no_grad():
            assert swapped(x).shape == x.shape


def test_shared_and_bare_modules() -> None:
    """A module used twice stays one; an attention on its own is returned replaced."""
    shared = nn.MultiheadAttention(8, 2, batch_first=True)
    model = swap_attention(nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared])}), SoftmaxAttention)
    assert isinstance(model["a"], SoftmaxAttention) and model["a"] is model["b"][0]
    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(swap_attention(shared, SoftmaxAttention)(x, x, x)[0], shared(x, x, x)[0])


def test_attention_of_this_package_is_exchanged_too() -> None:
    """From softmax to ESP and back is where it began; settings of one kind are not carried to another."""
    torch.manual_seed(0)
    model = SetTransformer(features=3, classes=2, dim=8, depth=2, heads=2, attention="softmax").eval()
    model.encoder.blocks[0].attention.batch_first = False
    x = torch.randn(2, 5, 3)
    before = model(x)
    swap_attention(model, EspAttention, tau=0.3)
    attention = [block.attention for block in model.encoder.blocks]
    assert all(type(module) is EspAttention and not module.training for module in attention)
    assert attention[0].extra_repr().count("tau=0.3") == 1 and not attention[0].batch_first
    assert not torch.allclose(model(x), before)
    swap_attention(model, SoftmaxAttention)
    assert torch.equal(model(x), before)


REFUSED = {
    "kdim": lambda: nn.MultiheadAttention(8, 2, kdim=4),
    "bias_k": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
    "add_zero_attn": lambda: nn.MultiheadAttention(8, 2, add_zero_attn=True),
    "subclass": lambda: type("Subclass", (nn.MultiheadAttention,), {})(8, 2),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.MultiheadAttention(8, 2), "in_proj_weight"),
    "in_proj_weight": lambda: prune.l1_unstructured(nn.MultiheadAttention(8, 2), "in_proj_weight", 0.5),
    "forward": lambda: with_forward(nn.MultiheadAttention(8, 2)),
    "quantizable": lambda: torch.ao.nn.quantizable.MultiheadAttention(8, 2),
    "known to be plain": lambda: OwnAttention(8, 2),
}


def with_forward(module: nn.Module) -> nn.Module:
    module.forward = module.forward
    return module


class OwnAttention(nn.Module):
    """Looks like plain attention, and is not: it rotates."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = num_heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(nn.functional.scaled_dot_product_attention(q.roll(1, -1), k, v))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_known_is_refused(reason: str) -> None:
    """Path, type and reason are in the message, and nothing has been exchanged; ``where`` leaves the module out."""
    odd = REFUSED[reason]()
    model = nn.ModuleDict({"fine": nn.MultiheadAttention(8, 2), "odd": nn.ModuleList([odd])})
    kind = {"quantizable": "quantizable", "parametrized": "Parametrized", "subclass": "Subclass"}.get(reason, "")
    word = {"quantizable": "subclass", "forward": "forward has been replaced"}.get(reason, reason)
    with pytest.raises(ValueError, match=rf"^odd\.0: [\w.]*{kind}.*{word}") as caught:
        swap_attention(model)
    assert isinstance(model["fine"], nn.MultiheadAttention) and "fine" not in str(caught.value)
    assert word in swap_report(model).left["odd.0"]
    swap_attention(model, where=lambda path, module: module is not odd)
    assert type(model["fine"]) is EspAttention and model["odd"][0] is odd
    assert list(swap_report(model).exchanged) == ["fine"] and list(swap_report(model).left) == ["odd.0"]


def test_nothing_to_exchange() -> None:
    """No attention, none that is selected, and a kind that is none of this package."""
    with pytest.raises(ValueError, match=r"^kind: expected an attention module"):
        swap_attention(nn.MultiheadAttention(8, 2), lambda dim, heads, **_: nn.Identity())
    with pytest.raises(ValueError, match=r"^model: expected attention to replace, found none in Linear"):
        swap_attention(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^model: expected attention to replace, found none .* where the function is"):
        swap_attention(nn.MultiheadAttention(8, 2), where=lambda path, module: False)


def test_plans_in_decoders_are_refused() -> None:
    """Every output of a plan depends on all tokens, later ones too; softmax attention has masks against that."""
    decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    with pytest.raises(ValueError, match=r"^self_attn and 1 more: .*of a decoder"):
        swap_attention(decoder)
    x, memory = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    before = decoder(x, memory, tgt_mask=torch.ones(4, 4, dtype=torch.bool).triu(1))
    after = swap_attention(decoder, SoftmaxAttention)(x, memory, tgt_mask=torch.ones(4, 4, dtype=torch.bool).triu(1))
    torch.testing.assert_close(after, before)


def parameters(model: nn.Module) -> set[int]:
    return {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("make", [lambda: nn.MultiheadAttention(8, 2, bias=False), lambda: timm_attention(8, 2)])
def test_parameters_are_the_same_objects(make: Callable[[], nn.Module]) -> None:
    """Tied parameters stay tied, an optimizer trains them, and no copy is left behind."""
    model = nn.ModuleList([make(), make()])
    first, second = (next(module.parameters()) for module in model)
    out = [module.out_proj if hasattr(module, "out_proj") else module.proj for module in model]
    out[1].weight = out[0].weight
    optimizer, before = torch.optim.SGD(model.parameters(), lr=0.1), parameters(model)
    swap_attention(model, SoftmaxAttention)
    assert parameters(model) == before
    x = torch.randn(2, 3, 8)
    outputs = [module(x, x, x)[0] if isinstance(module, SoftmaxAttention) else module(x) for module in model]
    sum(output.square().sum() for output in outputs).backward()
    old = first.detach().clone()
    optimizer.step()
    assert not torch.equal(first, old) and second.grad.abs().sum() > 0


def test_hooks_survive() -> None:
    """Of the module and of its projections; their handles still remove them."""
    model = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True), timm_attention(8, 2)])
    calls: list[str] = []
    handles = [
        model[0].register_forward_hook(lambda *_: calls.append("forward")),
        model[0].register_forward_pre_hook(lambda *_: calls.append("pre")),
        model[1].register_full_backward_hook(lambda *_: calls.append("backward")),
        model[1].qkv.register_forward_hook(lambda *_: calls.append("qkv")),
        model[1].proj.register_forward_pre_hook(lambda *_: calls.append("proj")),
    ]
    swap_attention(model, SoftmaxAttention)
    x = torch.randn(2, 3, 8, requires_grad=True)

    def run() -> list[str]:
        calls.clear()
        (model[0](x, x, x)[0] + model[1](x)).sum().backward()
        return sorted(calls)

    assert run() == ["backward", "forward", "pre", "proj", "qkv"]
    for handle in handles:
        handle.remove()
    assert run() == []


def test_random_numbers_are_left_alone() -> None:
    """Parameters of the new modules that are thrown away use none of the caller's random numbers."""
    model = nn.ModuleList([timm_attention(8, 2)])
    state = torch.get_rng_state()
    swap_attention(model, SoftmaxAttention)
    assert torch.equal(torch.get_rng_state(), state)


class Attention(nn.Module):
    """Written from the documented interface of timm.layers.Attention, whose name it takes."""

    __module__ = "timm.layers.attention"

    def __init__(self, dim: int, num_heads: int, *, qkv_bias=False, norm=False, fused=True, gated=False, drop=0.0):
        super().__init__()
        self.num_heads, self.fused_attn, self.scale = num_heads, fused, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if norm else nn.Identity()
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.gate = nn.Linear(dim, dim) if gated else None
        self.attn_drop, self.proj_drop = nn.Dropout(drop), nn.Dropout(drop)

    def forward(self, x, attn_mask=None, is_causal=False):
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, scale = self.q_norm(q), self.k_norm(k), None if self.fused_attn else self.scale
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale)
        y = self.norm(y.transpose(1, 2).reshape(batch, n, dim))
        y = y if self.gate is None else y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y))


def timm_attention(*arguments: int, **options: object) -> nn.Module:
    """With weights of a size at which attention is far from uniform."""
    made = Attention(*arguments, **options)
    with torch.no_grad():
        made.qkv.weight.mul_(4)
        made.proj.bias.normal_()
    return made


@pytest.mark.parametrize(
    "options",
    [{}, {"qkv_bias": True}, {"norm": True}, {"gated": True}, {"fused": False}, {"drop": 0.5}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_timm_attention_is_unchanged(options: dict) -> None:
    """Biases on one side only, norms of queries, keys and outputs, gates, and the scale if timm uses it."""
    torch.manual_seed(0)
    old = timm_attention(8, 2, **options).eval()
    old.scale = 0.1  # fused kernels of timm do not read it
    model, x = nn.ModuleList([old]), torch.randn(2, 5, 8)
    causal, padded = torch.ones(5, 5, dtype=torch.bool).tril(), torch.arange(5) < torch.tensor([[5], [3]])
    masks = [
        None,
        causal,
        padded[:, None, None].expand(2, 1, 5, 5),
        torch.where(padded[:, None, None], 0.0, -torch.inf).expand(2, 2, 5, 5),
    ]
    state = set(model.state_dict())
    before = [old(x, attn_mask=mask) for mask in masks] + [old(x, is_causal=True)]
    new = swap_attention(model, SoftmaxAttention)[0]
    after = [new(x, attn_mask=mask) for mask in masks] + [new(x, is_causal=True)]
    for one, other in zip(after, before, strict=True):
        torch.testing.assert_close(one, other)
    assert set(model.state_dict()) == state
    esp = swap_attention(swap_attention(model, EspAttention, tau=0.3), SoftmaxAttention)[0]
    torch.testing.assert_close(esp(x), before[0])
    assert swap_report(model).exchanged == {"0": "SoftmaxAttention, was timm.layers.attention.Attention"}


@pytest.mark.parametrize("kind", [EspAttention, SinkhornAttention])
def test_masks_of_timm_with_plans(kind: type[nn.Module]) -> None:
    """A mask of padding, booleans or floats, counts for queries too; other masks are refused by name."""
    torch.manual_seed(0)
    model = swap_attention(nn.ModuleList([timm_attention(8, 2).double()]), kind)[0].eval()
    x, valid = torch.randn(2, 5, 8, dtype=torch.float64), torch.arange(5) < torch.tensor([[5], [3]])
    alone = model(x[1:, :3])
    pairs = valid[:, None, :, None] & valid[:, None, None, :]
    for mask in (valid[:, None, None], pairs, torch.where(pairs, 0.0, -torch.inf), torch.where(pairs, 0.0, -3e38)):
        torch.testing.assert_close(model(x, attn_mask=mask)[1, :3], alone[0], rtol=0, atol=1e-12)
    for mask, text in (
        (torch.ones(5, 5, dtype=torch.bool).tril(), "differs from query to query"),
        (torch.rand(5, 5), "got a bias"),
        (torch.stack([pairs[1], pairs[1] | True], dim=1), "differs from head to head"),
    ):
        with pytest.raises(ValueError, match=f"^attn_mask: .*{text}"):
            model(x, attn_mask=mask)
    with pytest.raises(ValueError, match=r"^is_causal: expected False"):
        model(x, is_causal=True)


def test_unknown_parts_of_timm_attention_are_refused() -> None:
    """A later version of timm, or somebody's own, may compute more."""
    model = nn.ModuleList([timm_attention(8, 2)])
    model[0].rope = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^0: timm\.layers\.attention\.Attention: unknown parts: rope"):
        swap_attention(model)


def test_report() -> None:
    """Printed, the report has a line for each kind of module, before and after."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)
    stock = "torch.nn.modules.activation.MultiheadAttention"
    left = f"  layers.0.self_attn and 2 more: {stock}: can be exchanged"
    assert str(swap_report(model)).splitlines() == ["exchanged: 0", "left: 3", left]
    swap_attention(model, SinkhornAttention, where=lambda path, _: path.startswith("layers.1"))
    exchanged = f"  layers.1.self_attn: SinkhornAttention, was {stock}"
    assert str(swap_report(model)).splitlines() == [
        "exchanged: 1",
        exchanged,
        "left: 2",
        left.replace("2 more", "1 more"),
    ]
