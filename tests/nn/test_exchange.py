"""Attention exchanged in existing models: stock encoders, timm's interface, Hugging Face's registration."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from torch import nn  # noqa: E402

from espref.nn import EspAttention, SinkhornAttention, SoftmaxAttention, register_with_transformers, swap_attention  # noqa: E402
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


@pytest.mark.parametrize("options", [{"kdim": 4}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_what_cannot_be_carried_is_named(options: dict) -> None:
    """The path of the module is in the message, and nothing has been exchanged before."""
    model = nn.ModuleDict({"fine": nn.MultiheadAttention(8, 2), "odd": nn.ModuleList([])})
    model["odd"].append(nn.MultiheadAttention(8, 2, **options))
    with pytest.raises(ValueError, match=r"^odd\.0: expected"):
        swap_attention(model)
    assert isinstance(model["fine"], nn.MultiheadAttention)
    with pytest.raises(ValueError, match=r"^kind: expected an attention module"):
        swap_attention(nn.MultiheadAttention(8, 2), lambda dim, heads, **_: nn.Identity())
    with pytest.raises(ValueError, match=r"^model: expected attention to replace, found none in Linear"):
        swap_attention(nn.Linear(2, 2))


class TimmAttention(nn.Module):
    """Written from the documented interface of timm.layers.Attention."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x, attn_mask=None):
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=attn_mask)
        return self.proj_drop(self.proj(y.transpose(1, 2).reshape(batch, n, dim)))


def test_swap_in_timm_like_models() -> None:
    """Softmax attention in its place computes the same; ESP attention trains; norms of queries are refused."""
    model, x = nn.Sequential(TimmAttention(8, 2), nn.GELU(), TimmAttention(8, 2)), torch.randn(2, 5, 8)
    before = model(x)
    torch.testing.assert_close(swap_attention(model, SoftmaxAttention)(x), before)
    model = swap_attention(nn.Sequential(TimmAttention(8, 2)), EspAttention, sort="balanced")
    model(x).square().sum().backward()
    assert model[0].attention.in_proj.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"^0: expected attention without norms"):
        swap_attention(nn.Sequential(TimmAttention(8, 2, qk_norm=True)))


def test_swap_in_timm() -> None:
    """A Vision Transformer of timm."""
    timm = pytest.importorskip("timm", reason="timm is missing: pip install timm")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, depth=2).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = model(x)
        torch.testing.assert_close(swap_attention(model, SoftmaxAttention)(x), before, rtol=1e-4, atol=1e-5)


def bert(attention: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is missing: pip install transformers")
    torch.manual_seed(0)
    size = {
        "initializer_range": 0.5,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = transformers.BertConfig(vocab_size=30, **size, attn_implementation=attention)
    return transformers.BertModel(config).eval()


def test_hugging_face_encoder() -> None:
    """Both sides are registered: padding reaches the attention, and gives what the short item gives alone."""
    pytest.importorskip("transformers", reason="transformers is missing: pip install transformers")
    register_with_transformers("esp-test", tau=0.2, sort="balanced")
    model, tokens = bert("esp-test"), torch.randint(1, 30, (2, 7))
    keep = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad():
        both = model(tokens, attention_mask=keep).last_hidden_state
        alone = model(tokens[1:, :4]).last_hidden_state
        other = bert("sdpa")(tokens, attention_mask=keep).last_hidden_state
    torch.testing.assert_close(both[1, :4], alone[0], rtol=0, atol=1e-5)
    assert (both - other).abs().max() > 1e-3


def test_hugging_face_decoder_is_refused() -> None:
    """A causal model meets the reason."""
    transformers = pytest.importorskip("transformers", reason="transformers is missing: pip install transformers")
    register_with_transformers("esp-test")
    config = transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, attn_implementation="esp-test")
    with pytest.raises(ValueError, match=r"triangular matrix is the identity|attention_mask: expected the same mask"):
        transformers.GPT2Model(config)(torch.randint(1, 30, (1, 5)))
