"""Padding is data, not luck: what stands behind a mask, and who says which queries are padded."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from espref.nn import (  # noqa: E402
    DifferentialAttention,
    EspAttention,
    SinkhornAttention,
    SoftmaxAttention,
    functional,
)

SORTS = ("soft", "balanced", "hard")
KINDS = {
    "softmax": SoftmaxAttention,
    "differential": DifferentialAttention,
    "sinkhorn": SinkhornAttention,
    **{f"esp {sort}": lambda *x, sort=sort, **o: EspAttention(*x, sort=sort, **o) for sort in SORTS},
    "esp slicers": lambda *x, **o: EspAttention(*x, directions=torch.eye(4).flip(0), **o),
}
PLANS = [kind for kind in KINDS if kind not in ("softmax", "differential")]
CONTENTS = [float("nan"), float("inf"), -float("inf"), 1e19, 3e38]
PADDING = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 1]], dtype=torch.bool)


def module(kind: str, **options) -> nn.Module:
    torch.manual_seed(0)
    made = KINDS[kind](8, 2, **options)
    for parameter in made.parameters():  # biases are zero at first
        nn.init.normal_(parameter, std=0.5) if parameter.ndim == 1 and len(parameter) > 2 else None
    return made


def run(layer: nn.Module, x: torch.Tensor, y: torch.Tensor, **masks) -> list[torch.Tensor]:
    """The output at real queries, and the gradients of a loss of these in parameters and real tokens."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    real = ~masks.get("query_padding_mask", masks["key_padding_mask"])
    layer.zero_grad()
    output = layer(x, y, y, need_weights=False, **masks)[0][real]
    output.square().sum().backward()
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    return [output, x.grad[real], y.grad[~masks["key_padding_mask"]], *grads]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("cross", [False, True])
def test_what_stands_behind_a_mask_is_never_seen(kind: str, content: float, cross: bool) -> None:
    """Outputs at real tokens and all gradients, of the parameters too, are bit for bit those with zeros there."""
    layer = module(kind)
    x = torch.randn(2, 6, 8)
    y = torch.randn(2, 6, 8) if cross else x
    masks = {"query_padding_mask": PADDING.flip(1) if cross else PADDING, "key_padding_mask": PADDING}
    hidden = [z.masked_fill(mask[..., None], content) for z, mask in zip((x, y), masks.values(), strict=True)]
    plain = [z.masked_fill(mask[..., None], 0.0) for z, mask in zip((x, y), masks.values(), strict=True)]
    for one, other in zip(run(layer, *hidden, **masks), run(layer, *plain, **masks), strict=True):
        assert torch.isfinite(other).all() and torch.equal(one, other)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("content", CONTENTS)
def test_functions_never_see_it_either(sort: str, power: int, content: float) -> None:
    """Of queries, keys and values, and the gradient that comes back to a padded query."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 6, 3, generator=generator) for _ in range(3))
    masks = {"query_padding_mask": PADDING.flip(1), "key_padding_mask": PADDING}

    def results(hidden: float, call) -> list[torch.Tensor]:
        leaves = [
            x.masked_fill(mask[..., None], hidden).requires_grad_()
            for x, mask in ((q, masks["query_padding_mask"]), (k, PADDING), (v, PADDING))
        ]
        output = call(*leaves)
        g = torch.ones_like(output).masked_fill(masks["query_padding_mask"][..., None], hidden)
        return [output, *torch.autograd.grad(output, leaves, g)]

    allowed = ~masks["query_padding_mask"][:, :, None] & ~PADDING[:, None, :]
    for call in (
        lambda *x: functional.esp_attention(*x, tau=0.2, beta=1.0, sort=sort, power=power, **masks).output,
        lambda *x: functional.sinkhorn_attention(*x, **masks).output,
        lambda *x: functional.softmax_attention(*x, allowed=allowed).output,
    ):
        assert all(map(torch.equal, results(content, call), results(0.0, call)))


@pytest.mark.parametrize("shift", [10.0, 300.0])
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("slicers", [False, True])
def test_slice_weights_do_not_cancel(shift: float, sort: str, slicers: bool) -> None:
    """Queries far from the keys: float32 is as near to float64 as the rounding of the scores allows."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(64, 8) for _ in range(3))
    q = q + shift
    directions = torch.randn(5, 8) if slicers else None
    options = {"tau": 0.5, "beta": 1.0, "sort": sort}
    result = functional.esp_attention(q, k, v, directions=directions, **options).output
    exact = functional.esp_attention(
        *(x.double() for x in (q, k, v)),
        directions=None if directions is None else directions.double(),
        **options,
    ).output
    rounding = 2e-7 * shift / 0.5 if slicers else 0.0  # of the scores, which are sums then
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=2e-5 + 8 * rounding)


def test_shifts_change_no_weights_of_plans() -> None:
    """Of balanced and hard sorts: a common shift of the queries leaves output and gradients as they are."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(20, 4, dtype=torch.float64).requires_grad_() for _ in range(3))
    for sort in ("balanced", "hard"):
        results = []
        for shift in (0.0, 2.0**20):
            output = functional.esp_attention(q + shift, k, v, tau=0.5, beta=2.0, sort=sort).output
            results.append([output, *torch.autograd.grad(output.square().sum(), (q, k, v))])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_item_spoils_itself_alone(kind: str) -> None:
    """NaN or inf at a real token of one item: the other items have their outputs and gradients, balanced too."""
    layer = module(kind)
    x = torch.randn(3, 6, 8)
    clean = layer(x, x, x, need_weights=False)[0]
    for content in (float("nan"), float("inf")):
        broken = x.clone()
        broken[1, 2] = content
        broken.requires_grad_()
        output = layer(broken, broken, broken, need_weights=False)[0]
        assert torch.equal(output[[0, 2]], clean[[0, 2]]) and not output[1].isfinite().all()
        (grad,) = torch.autograd.grad(output.square().sum(), broken)
        assert grad[[0, 2]].isfinite().all()


@pytest.mark.parametrize("kind", PLANS)
def test_identity_of_objects_decides_nothing(kind: str) -> None:
    """Clones, views by lists, both kinds of checkpoints, vmap: the results of the plain call, gradients too."""
    layer = module(kind, self_attention=True).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)

    def plain(x, mask):
        return layer(x, x, x, mask, need_weights=False)[0]

    def cloned(x, mask):
        return layer(x, x.clone(), x[:, list(range(6))], mask.clone(), need_weights=False)[0]

    def explicit(x, mask):
        return explicit_layer(x, x.clone(), x, mask, need_weights=False, query_padding_mask=mask.clone())[0]

    def attend(q, k, v, mask):
        return layer(q, k, v, mask, need_weights=False)[0]

    explicit_layer = copy.deepcopy(layer)
    explicit_layer.self_attention = False
    calls = [
        plain,
        cloned,
        explicit,
        lambda x, mask: checkpoint(attend, x, x, x, mask, use_reentrant=False),
        lambda x, mask: checkpoint(attend, x, x, x, mask, use_reentrant=True),
        lambda x, mask: torch.vmap(plain)(x[:, None], mask[:, None])[:, 0],
    ]
    results = []
    for call in calls:
        leaf = x.clone().requires_grad_()
        output = call(leaf, PADDING)
        output.square().sum().backward()
        results.append([output, leaf.grad])
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    alone = layer(x[1:, ~PADDING[1]], x[1:, ~PADDING[1]], x[1:, ~PADDING[1]], need_weights=False)[0]
    torch.testing.assert_close(results[0][0][1, ~PADDING[1]], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", PLANS)
def test_one_mask_is_refused_where_two_are_needed(kind: str) -> None:
    """A plan couples queries and keys: a mask of the keys alone says nothing about the queries."""
    x = torch.randn(2, 6, 8)
    layer = module(kind)
    with pytest.raises(ValueError, match=r"^query_padding_mask: expected a mask beside key_padding_mask"):
        layer(x, x, x, PADDING)
    layer(x, x, x, query_padding_mask=PADDING)  # no key is padding
    layer.self_attention = True
    with pytest.raises(ValueError, match=r"^key_padding_mask: expected a mask beside query_padding_mask"):
        layer(x, x, x, query_padding_mask=PADDING)
    with pytest.raises(ValueError, match=r"^key: expected the 6 tokens of query, as self_attention=True, got 4"):
        layer(x, x[:, :4], x[:, :4])


@pytest.mark.parametrize("kind", KINDS)
def test_float_masks_mean_what_booleans_mean(kind: str) -> None:
    """0 and -inf, as stock encoder layers hand them on, and with NaN behind them."""
    layer = module(kind, self_attention=True)
    x = torch.randn(2, 6, 8)
    as_float = torch.zeros(2, 6).masked_fill(PADDING, -torch.inf)
    expected = layer(x, x, x, PADDING, need_weights=False)[0]
    broken = x.masked_fill(PADDING[..., None], float("nan"))
    torch.testing.assert_close(layer(broken, broken, broken, as_float, need_weights=False)[0], expected)
