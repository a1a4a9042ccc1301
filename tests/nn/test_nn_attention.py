"""The modules: the signature of nn.MultiheadAttention, masks, settings."""

from __future__ import annotations

import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from torch import nn  # noqa: E402

from espref.nn import EspAttention, SoftmaxAttention, functional, swap_attention  # noqa: E402


def test_softmax_equals_multihead_attention() -> None:
    """With its projections carried over, SoftmaxAttention is nn.MultiheadAttention: outputs and weights, masks too."""
    torch.manual_seed(0)
    stock = nn.MultiheadAttention(16, 4, batch_first=True)
    ours = swap_attention(nn.ModuleDict({"a": stock}), SoftmaxAttention)["a"]
    x, y = torch.randn(3, 7, 16), torch.randn(3, 5, 16)
    pad = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool)
    for average in (True, False):
        for expected, result in zip(
            stock(x, y, y, key_padding_mask=pad, average_attn_weights=average),
            ours(x, y, y, key_padding_mask=pad, average_attn_weights=average),
            strict=True,
        ):
            torch.testing.assert_close(result, expected)
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, x, x, is_causal=True)[0], stock(x, x, x, attn_mask=causal)[0])
    everything = torch.ones(3, 5, dtype=torch.bool)
    assert torch.isfinite(ours(x, y, y, key_padding_mask=everything)[0]).all()


@pytest.mark.parametrize("sort", ["soft", "balanced", "hard"])
def test_esp_module_is_the_function_between_projections(sort: str) -> None:
    """Heads are projected, scaled by head_dim^(-1/2), attended by the pure function, and projected back."""
    torch.manual_seed(0)
    module = EspAttention(12, 3, tau=0.2, beta=2.0, sort=sort)
    x = torch.randn(2, 9, 12)
    output, weights = module(x, x, x, average_attn_weights=False)
    heads = [part.unflatten(-1, (3, 4)).transpose(1, 2) for part in module.in_proj(x).chunk(3, dim=-1)]
    settings = {"tau": 0.2, "beta": 2.0, "sort": sort, "need_weights": True}
    plain = functional.esp_attention(heads[0] / 2, heads[1] / 2, heads[2], **settings)
    torch.testing.assert_close(output, module.out_proj(plain.output.transpose(1, 2).flatten(-2)))
    torch.testing.assert_close(weights, plain.matrix)
    assert module(x, x, x, need_weights=False)[1] is None
    torch.testing.assert_close(module(x[0], x[0], x[0])[0], output[0])
    other = EspAttention(12, 3, tau=0.2, beta=2.0, sort=sort, batch_first=False)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1), output)


def test_causal_and_general_masks_are_refused() -> None:
    """With the reason: doubly stochastic and triangular is the identity."""
    module, x = EspAttention(8, 2), torch.randn(1, 4, 8)
    with pytest.raises(ValueError, match=r"is_causal: .*triangular matrix is the identity"):
        module(x, x, x, is_causal=True)
    with pytest.raises(ValueError, match="attn_mask"):
        module(x, x, x, attn_mask=torch.ones(4, 4, dtype=torch.bool).triu(1))


def test_annealing_and_sort_in_evaluation() -> None:
    """anneal multiplies tau; in evaluation the other sort is used; both parameters learn on request."""
    module = EspAttention(8, 2, tau=0.4, sort="soft", sort_in_eval="hard", learn_tau=True)
    module.anneal(0.5)
    assert module.log_tau.exp().tolist() == pytest.approx([0.2, 0.2])
    x = torch.randn(2, 6, 8)
    trained, evaluated = module(x, x, x)[1], module.eval()(x, x, x)[1]
    assert (trained.sum(1) - 1).abs().max() > 1e-3 and (evaluated.sum(1) - 1).abs().max() < 1e-5
    module.train()(x, x, x)[0].sum().backward()
    assert module.log_tau.grad.all() and module.log_beta.grad.all()
    assert "tau=0.2" in repr(module) and "in eval hard" in repr(module)


def test_state_dict_round_trip() -> None:
    """Saved and loaded with weights_only=True, the module gives the same bits."""
    module = EspAttention(8, 2, directions=torch.randn(5, 4))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = EspAttention(8, 2, directions=torch.zeros(5, 4) + 1)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 5, 8)
    assert torch.equal(module(x, x, x)[0], other(x, x, x)[0])


def test_slicers_take_the_type_of_the_module() -> None:
    """Given in another precision, they are a parameter of the module's, and not the caller's tensor."""
    slicers = torch.randn(5, 4)
    module = EspAttention(8, 2, directions=slicers, dtype=torch.float64)
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    same = EspAttention(8, 2, directions=slicers).directions
    assert same.dtype == slicers.dtype and same.data_ptr() != slicers.data_ptr()


def test_bad_settings_are_named() -> None:
    """A ValueError that starts with the argument."""
    for settings, name in (
        ({"embed_dim": 10, "num_heads": 4}, "embed_dim"),
        ({"embed_dim": 8, "num_heads": 2, "tau": 0.0}, "tau"),
        ({"embed_dim": 8, "num_heads": 2, "beta": -1.0}, "beta"),
        ({"embed_dim": 8, "num_heads": 2, "sort": "quick"}, "sort"),
    ):
        with pytest.raises(ValueError, match=name):
            EspAttention(**settings)


def test_straight_through_trains_a_hard_sort() -> None:
    """The output is the hard one; queries learn as with the soft sort, and not without."""
    torch.manual_seed(0)
    module, x = EspAttention(8, 2, sort="hard", straight_through=True, learn_tau=True), torch.randn(1, 6, 8)
    plain = EspAttention(8, 2, sort="hard")
    plain.load_state_dict(module.state_dict())
    assert torch.equal(module(x, x, x)[0], plain(x, x, x)[0])
    module(x, x, x, need_weights=False)[0].square().sum().backward()
    assert module.log_tau.grad.all() and torch.isfinite(module.in_proj.weight.grad).all()
