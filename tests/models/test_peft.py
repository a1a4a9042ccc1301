"""LoRA of peft on layers that were exchanged."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
peft = pytest.importorskip("peft", reason="run by make models")
from standin import import_timm  # noqa: E402
from torch import nn  # noqa: E402

from espref.nn import EspAttention, SoftmaxAttention, swap_attention  # noqa: E402


def stock() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def timm_vit() -> nn.Module:
    return import_timm().create_model("test_vit", img_size=32, patch_size=8, num_classes=3)


@pytest.mark.parametrize("kind", [EspAttention, SoftmaxAttention])
@pytest.mark.parametrize(
    ("make", "targets", "x"),
    [(stock, ["in_proj", "out_proj"], torch.randn(2, 5, 16)), (timm_vit, ["qkv", "proj"], torch.randn(2, 3, 32, 32))],
    ids=["stock", "timm"],
)
def test_lora_on_exchanged_layers(make, targets: list[str], x: torch.Tensor, kind: type[nn.Module]) -> None:
    """Adapters begin as nothing, are trained alone, change the output, and merge into the weights."""
    torch.manual_seed(0)
    model, x = swap_attention(make(), kind).eval().double(), x.double()
    before = model(x).detach()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2)).eval().double()
    torch.testing.assert_close(adapted(x), before)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(x)[..., 0].sum().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)
    after = adapted(x).detach()
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(adapted.merge_and_unload()(x), after, rtol=0, atol=1e-9)
