"""The models: shapes, padding that changes nothing, invariances, and which attention leaks the future."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.nn import transformer as T  # noqa: E402

NAMES = list(T.ATTENTION)
SIZE = {"dim": 16, "depth": 2, "heads": 2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def learns(model: torch.nn.Module, loss) -> None:
    """Every parameter that is trained receives a finite gradient, and one small step down lowers the loss."""
    before = loss()
    before.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
        assert loss() < before


@pytest.mark.parametrize("attention", NAMES)
def test_vision(attention: str) -> None:
    """(B, C, H, W) to logits of each class, learnable with every attention, in evaluation too."""
    model = T.VisionTransformer(image_size=8, patch_size=2, channels=3, classes=5, attention=attention, **SIZE)
    images, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 2])
    learns(model, lambda: torch.nn.functional.cross_entropy(model(images), labels))
    assert torch.isfinite(model.eval()(images)).all()


@pytest.mark.parametrize("attention", NAMES)
def test_padding_of_sets_and_text_changes_nothing(attention: str) -> None:
    """A short item in a padded batch gets the logits that it gets alone."""
    sets = T.SetTransformer(features=3, classes=4, attention=attention, **SIZE).double()
    text = T.TextTransformer(vocabulary=30, classes=4, length=12, attention=attention, **SIZE).double()
    points, tokens = torch.randn(2, 9, 3).double(), torch.randint(1, 30, (2, 9))
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    for model, x in ((sets, points), (text, tokens)):
        both = model(x, padding)
        torch.testing.assert_close(both[0], model(x[:1])[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(both[1], model(x[1:, :5])[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", NAMES)
def test_sets_have_no_order(attention: str) -> None:
    """Permuted points give the same logits."""
    model = T.SetTransformer(features=3, classes=4, attention=attention, **SIZE).double()
    points, order = torch.randn(2, 9, 3).double(), torch.randperm(9)
    torch.testing.assert_close(model(points[:, order]), model(points), rtol=0, atol=1e-10)


def translation(attention: str, **options) -> T.TranslationTransformer:
    return T.TranslationTransformer(
        source_vocabulary=11, target_vocabulary=13, length=10, attention=attention, **SIZE, **options
    ).double()


@pytest.mark.parametrize("attention", NAMES)
def test_translation_does_not_see_the_future(attention: str) -> None:
    """Later target tokens do not change earlier logits; padding changes nothing; greedy decoding agrees with them."""
    model = translation(attention).eval()
    source, target = torch.randint(3, 11, (2, 8)), torch.randint(3, 13, (2, 6))
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[1, 5:] = True
    logits = model(source, target, padding)
    other = target.clone()
    other[:, 4:] = (target[:, 4:] + 1) % 13
    torch.testing.assert_close(model(source, other, padding)[:, :4], logits[:, :4], rtol=0, atol=1e-12)
    torch.testing.assert_close(model(source[1:, :5], target[1:]), logits[1:], rtol=0, atol=1e-10)
    result = model.translate(source, padding, begin=1, end=2, limit=5)
    forced = model(source, torch.cat([torch.ones(2, 1, dtype=torch.long), result[:, :-1]], dim=1), padding).argmax(-1)
    ended = (result == 2).cumsum(1) > 1
    assert torch.equal(result.masked_fill(ended, 2), forced.masked_fill(ended, 2))


def test_esp_cross_attention_sees_the_future() -> None:
    """Why cross attention is softmax by default: a plan looks at all target tokens at once."""
    model = translation("esp", cross_attention="esp").eval()
    source, target = torch.randint(3, 11, (1, 8)), torch.randint(3, 13, (1, 6))
    other = target.clone()
    other[:, 5:] = (target[:, 5:] + 1) % 13
    assert (model(source, other) - model(source, target))[:, :5].abs().max() > 1e-6


def test_attention_by_name_or_callable() -> None:
    """Unknown names are refused with the list, a callable gets dim and heads; settings that cannot be are named."""
    seen = []
    T.make_attention(lambda dim, heads: seen.append((dim, heads)) or torch.nn.Identity(), 8, 2)
    assert seen == [(8, 2)]
    with pytest.raises(ValueError, match=r"attention: expected one of softmax.*got 'linear'"):
        T.make_attention("linear", 8, 2)
    with pytest.raises(ValueError, match="patch_size"):
        T.VisionTransformer(image_size=8, patch_size=3, channels=1, classes=2, **SIZE)
    text = T.TextTransformer(vocabulary=5, classes=2, length=4, **SIZE)
    with pytest.raises(ValueError, match="at most length = 4, got 6"):
        text(torch.ones(1, 6, dtype=torch.long))


def test_hard_evaluation_is_hard() -> None:
    """ "esp-hard-eval" trains the soft sort and evaluates the hard one: the two outputs differ, training's is esp's."""
    hard, soft = T.make_attention("esp-hard-eval", 8, 2), T.make_attention("esp", 8, 2)
    soft.load_state_dict(hard.state_dict())
    x = torch.randn(1, 6, 8)
    torch.testing.assert_close(hard(x, x, x)[0], soft(x, x, x)[0])
    assert (hard.eval()(x, x, x)[0] - soft.eval()(x, x, x)[0]).abs().max() > 1e-4
