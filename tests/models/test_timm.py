"""timm: the record of docs/models.md holds, masks mean what they mean in timm, LoRA works on what was exchanged."""

from __future__ import annotations

import importlib.util

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
if importlib.util.find_spec("timm") is None:  # importing it takes the stand-in of standin.py
    pytest.skip("run by make models", allow_module_level=True)
import timm_families as families  # noqa: E402

from espref.benchmarks import records  # noqa: E402
from espref.nn import EspAttention, SoftmaxAttention, swap_attention, swap_report  # noqa: E402
from espref.nn.exchanged import LAYOUTS  # noqa: E402
from espref.nn.known import NO_ATTENTION, OTHERS  # noqa: E402

ROWS = {row["name"].partition(": ")[2]: row for row in records.committed("models-timm")["models-timm"]["rows"]}
EXCHANGED = [name for name, row in ROWS.items() if row["ok"] is not None]


def test_every_family_is_in_the_record() -> None:
    """With the version of timm that is installed; otherwise tests/models/timm_families.py writes the record anew."""
    assert {families.family(name) for name in ROWS} == set(map(families.family, families.timm.list_models()))
    assert {row["environment"]["timm"] for row in ROWS.values()} == {families.timm.__version__}
    assert not [name for name, row in ROWS.items() if row["ok"] is False]


@pytest.mark.parametrize("name", ROWS)
def test_outcome_is_the_recorded_one(name: str) -> None:
    """As many modules are exchanged, or the same are refused, each for a reason of its own."""
    result, modules, reasons = families.outcome(name)
    assert modules == ROWS[name]["measured"]
    if result != families.EXCHANGED:
        assert ROWS[name]["detail"] == (f"{result}. {reasons}" if reasons else result)
        assert "not known" not in reasons and "may compute something else" not in reasons


@pytest.mark.parametrize("name", EXCHANGED)
def test_models_are_unchanged(name: str) -> None:
    """With softmax attention in its place, to 1e-5; attention that normalises otherwise does change the outputs."""
    softmax, sinkhorn = families.difference(name)
    assert softmax <= families.TOLERANCE and sinkhorn > families.EFFECT


def test_every_type_that_is_named_exists() -> None:
    """A type that timm has renamed would no longer be recognised."""
    for name in (*LAYOUTS, *OTHERS, *NO_ATTENTION):
        module, _, kind = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), kind), type), name


def test_padding_of_naflexvit() -> None:
    """A model that is given fewer patches than its batch has: padded patches do not matter, with ESP too."""
    torch.manual_seed(0)
    model = families.built("naflexvit_base_patch16_gap", "cpu")
    model.blocks = model.blocks[:2]
    coordinates = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij"), dim=-1).reshape(1, 12, 2)
    patches, valid = torch.randn(2, 12, 768), torch.arange(12) < torch.tensor([[12], [8]])
    coordinates = coordinates * valid[..., None]  # the grid of an item is as large as its largest coordinates
    batch = {"patches": patches, "patch_coord": coordinates, "patch_valid": valid}
    alone = {name: x[1:, :8] for name, x in batch.items()}
    with torch.no_grad():
        before = model(batch)
        torch.testing.assert_close(swap_attention(model, SoftmaxAttention)(batch), before, rtol=0, atol=1e-5)
        swap_attention(model, EspAttention)
        torch.testing.assert_close(model(batch)[1:], model(alone), rtol=0, atol=1e-4)


def test_where_leaves_a_pooling_layer() -> None:
    """A model with attention pooling is refused; its blocks alone are exchanged, and the report says so."""
    model = families.built("test_vit3")
    with pytest.raises(
        ValueError, match=r"^attn_pool: timm\.layers\.attention_pool\.AttentionPoolLatent: attention pool"
    ):
        swap_attention(model)
    report = swap_report(swap_attention(model, where=lambda path, _: path.startswith("blocks")))
    assert len(report.exchanged) == len(model.blocks) and list(report.left) == ["attn_pool"]


def test_differential_attention_is_refused() -> None:
    """The same class of model with another layer of attention."""
    model = families.timm.create_model("test_vit", attn_layer="diff")
    with pytest.raises(ValueError, match=r"^blocks\.0\.attn and 5 more: .*DiffAttention: differential attention"):
        swap_attention(model)


def test_timm_attention_without_fused_kernels() -> None:
    """Then timm reads ``scale``, and here it counts as well."""
    torch.manual_seed(0)
    old = families.timm.layers.Attention(16, 2, qkv_bias=True, qk_norm=True, norm_layer=torch.nn.LayerNorm).eval()
    x = torch.randn(2, 5, 16)
    for fused, scale in ((False, 1.5), (True, 1.5), (False, old.scale)):
        old.fused_attn, old.scale = fused, scale
        torch.testing.assert_close(swap_attention(old, SoftmaxAttention)(x), old(x))
