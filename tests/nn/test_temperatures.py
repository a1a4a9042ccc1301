"""Temperatures that mean something at every size, and the settings of the released code."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import espref
from espref.deviations import released_settings

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.claims.nn import _deviation_and_gradient  # noqa: E402
from espref.nn import EspAttention, dense, functional  # noqa: E402
from espref.nn.temperatures import scale_free  # noqa: E402

DOUBLE = torch.float64


@pytest.mark.trust
@pytest.mark.parametrize(("head_dim", "n"), [*itertools.product((16, 256, 1024), (16, 256)), (64, 4096), (1024, 1024)])
def test_esp_attention_begins_as_softmax_attention_does(head_dim: int, n: int) -> None:
    """Deviation from the mean of the values, and ratio of gradients of queries and values: within a factor of 2.5."""
    heads = max(2, min(8, 2**19 // (head_dim * n)))
    softmax, esp = _deviation_and_gradient(0, head_dim, heads, n, None, None)
    for one, other in zip(esp, softmax, strict=True):
        assert 1 / 2.5 <= one / other <= 2.5


def test_temperatures_follow_the_units_of_scores() -> None:
    """Scores twice as large: tau twice, beta a quarter; more tokens: larger beta, since costs are nearer each other."""
    tau, beta = scale_free(64, 100)
    other = scale_free(64, 100, spread=2.0)
    assert other.tau == pytest.approx(2 * tau) and other.beta == pytest.approx(beta / 4)
    several = scale_free(64, torch.tensor([10.0, 100.0, 1000.0])).beta
    assert several.diff().gt(0).all() and several[1].item() == pytest.approx(beta)


def test_the_layer_uses_them() -> None:
    """tau and beta of each head are its factors of the default, with the number of valid keys of each item."""
    torch.manual_seed(0)
    layer = EspAttention(8, 2, self_attention=True, learn_tau=True, dtype=DOUBLE)
    with torch.no_grad():
        layer.log_tau.copy_(torch.tensor([0.1, -0.2]))
        layer.log_beta.copy_(torch.tensor([0.3, 0.0]))
    x, padding = torch.randn(2, 9, 8, dtype=DOUBLE), torch.arange(9) >= torch.tensor([[9], [5]])
    output = layer(x, x, x, padding, need_weights=False)[0]
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in layer.in_proj(x).chunk(3, dim=-1))
    spread = math.sqrt(0.5 / 4)  # of the entries of q / 2: the projection has variance 1 / 16 at first
    for item, n in enumerate((9, 5)):
        tau, beta = scale_free(4, n, spread=spread)
        parts = (q[item, :, :n] / 2, k[item, :, :n] / 2, v[item, :, :n])
        plain = dense.esp_attention(*parts, tau=layer.log_tau.exp() * tau, beta=layer.log_beta.exp() * beta).output
        expected = layer.out_proj(plain.transpose(0, 1).flatten(-2))
        torch.testing.assert_close(output[item, :n], expected, rtol=0, atol=1e-12)
    output.square().sum().backward()
    assert layer.log_tau.grad.all() and layer.log_beta.grad.all()
    assert "x default" in repr(layer) and "x default" not in repr(EspAttention(8, 2, tau=0.1, beta=1.0))


def test_one_temperature_for_each_item_and_head() -> None:
    """Tensors that expand to the leading dimensions; their gradients are those of each item alone."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 6, 4, generator=generator, dtype=DOUBLE) for _ in range(3))
    tau = torch.rand(3, generator=generator, dtype=DOUBLE).add(0.1).requires_grad_()
    beta = torch.rand(2, 1, generator=generator, dtype=DOUBLE).requires_grad_()
    for sort, power in (("soft", 1), ("balanced", 1), ("soft", 2)):
        options = {"sort": sort, "power": power}
        output = functional.esp_attention(q, k, v, tau=tau, beta=beta, **options).output
        items = [
            [
                functional.esp_attention(q[i, j], k[i, j], v[i, j], tau=tau[j], beta=beta[i, 0], **options).output
                for j in range(3)
            ]
            for i in range(2)
        ]
        expected = torch.stack([torch.stack(row) for row in items])
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
        for one, other in zip(
            *(torch.autograd.grad(y.square().sum(), (tau, beta)) for y in (output, expected)), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    for bad in (torch.ones(2), torch.ones(4, 3), torch.ones(1, 2, 3)):
        with pytest.raises(ValueError, match=r"^tau: expected"):
            functional.esp_attention(q, k, v, tau=bad, beta=1.0)


def test_old_checkpoints_keep_their_meaning() -> None:
    """One temperature for all heads loads where temperatures are numbers, and is refused as a factor of the default."""
    state = EspAttention(8, 2, tau=0.1, beta=1.0).state_dict()
    old = {name: x[:1] if name.startswith("log") else x for name, x in state.items()}
    layer = EspAttention(8, 2, tau=0.5, beta=3.0)
    layer.load_state_dict(old)
    torch.testing.assert_close(layer.log_tau.exp(), torch.full((2,), 0.1))
    with pytest.raises(RuntimeError, match=r"log_tau: expected the factor of a default, .* build .* with tau=0.1"):
        EspAttention(8, 2).load_state_dict(old)


def test_released_settings() -> None:
    """The layer is N times the NumPy plan at the converted settings, head by head; its mass is N and it trains."""
    torch.manual_seed(0)
    n, dim = 12, 8
    layer = EspAttention(16, 2, settings="released", dtype=DOUBLE)
    x = torch.randn(1, n, 16, dtype=DOUBLE)
    output, weights = layer(x, x, x, average_attn_weights=False)
    q, k, v = (part.unflatten(-1, (2, dim))[0].transpose(0, 1).detach() for part in layer.in_proj(x).chunk(3, dim=-1))
    settings = released_settings(n, dim)
    for head in range(2):
        plan = espref.expected_soft_plan(
            q[head], k[head], np.eye(dim), settings.tau, beta=settings.beta, p=settings.p, power=settings.power
        ).plan
        np.testing.assert_allclose(weights[0, head].detach(), n * plan, rtol=0, atol=1e-8)
    assert weights.sum().item() == pytest.approx(2 * n)
    torch.testing.assert_close(output, layer.out_proj((weights @ v).transpose(1, 2).flatten(-2)))
    output.square().sum().backward()
    assert layer.in_proj.weight.grad.isfinite().all() and layer.log_beta.grad is None


def test_released_settings_refuse_what_the_released_code_has_not() -> None:
    """Padding, other lengths, other sorts, learned temperatures."""
    layer, x = EspAttention(8, 2, settings="released", self_attention=True), torch.randn(1, 5, 8)
    with pytest.raises(ValueError, match=r"^key_padding_mask: expected None, as settings='released'"):
        layer(x, x, x, torch.zeros(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^key: expected 5 tokens as query, as settings='released'"):
        EspAttention(8, 2, settings="released")(x, x[:, :4], x[:, :4])
    refused = {"sort": "hard", "sort_in_eval": "soft", "learn_tau": True, "dropout": 0.1, "directions": np.eye(4)}
    for name, value in refused.items():
        with pytest.raises(ValueError, match=rf"^{name}: expected the default, as settings='released'"):
            EspAttention(8, 2, settings="released", **{name: value})
    with pytest.raises(ValueError, match=r"^settings: expected paper or released"):
        EspAttention(8, 2, settings="code")
