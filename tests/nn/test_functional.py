"""The torch function against its NumPy specification: outputs, weights, gradients, masks, precision."""

from __future__ import annotations

import numpy as np
import pytest

from espref import esp_attention as specification
from espref import marginal_defect, planfree_attention
from espref import sinkhorn_attention as sinkhorn_specification
from espref import softmax_attention as softmax_specification

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.nn import functional as F  # noqa: E402
from espref.nn import operators, scan, streaming  # noqa: E402

SORTS = ("soft", "balanced", "hard")
DOUBLE = torch.float64


def tokens(n: int, m: int, dim: int = 4, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Queries, keys, values in float64."""
    rng = np.random.default_rng(seed)
    return tuple(torch.tensor(rng.normal(size=size)) for size in ((n, dim), (m, dim), (m, 3)))


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (70, 53), (1, 5), (5, 1), (130, 129)])
def test_equals_numpy(sort: str, power: int, n: int, m: int) -> None:
    """Outputs and weights equal the plain NumPy form to 1e-12, at small, middle and large tau."""
    q, k, v = tokens(n, m)
    for tau in (1e-4, 0.1, 10.0):
        plain = specification(q, k, v, tau=tau, beta=1.3, sort=sort, power=power)
        result = F.esp_attention(q, k, v, tau=tau, beta=1.3, sort=sort, power=power, need_weights=True)
        np.testing.assert_allclose(result.output, plain.output, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.matrix, plain.matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sort", SORTS)
def test_slicers_ties_and_leading_dimensions(sort: str) -> None:
    """Free slicers, tied scores, and (batch, heads, tokens, coordinates): each item as alone."""
    q, k, v = tokens(24, 24)
    q, slicers = q.round(), torch.tensor(np.random.default_rng(1).normal(size=(7, 4)))
    many = [torch.stack([x, x.flip(0)])[None] for x in (q, k, v)]
    result = F.esp_attention(*many, tau=0.2, beta=0.7, directions=slicers, sort=sort).output
    for item, parts in enumerate(((q, k, v), (q.flip(0), k.flip(0), v.flip(0)))):
        plain = specification(*parts, tau=0.2, beta=0.7, directions=slicers, sort=sort).output
        np.testing.assert_allclose(result[0, item], plain, rtol=0, atol=1e-12)


def test_long_sequences_equal_planfree() -> None:
    """Three levels of carries (N = 2500 > 32^2): equal to the NumPy recurrences."""
    q, k, v = tokens(2500, 2100)
    for sort in SORTS:
        plain = planfree_attention(q, k, v, tau=0.01, beta=1.0, sort=sort)
        np.testing.assert_allclose(F.esp_attention(q, k, v, tau=0.01, beta=1.0, sort=sort).output, plain, atol=1e-12)


def test_slice_groups_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slice at a time gives what all at once give: the running softmax is exact."""
    q, k, v = tokens(30, 30, 8)
    whole = F.esp_attention(q, k, v, tau=0.1, beta=3.0).output
    monkeypatch.setattr(streaming, "GROUP", 1)
    torch.testing.assert_close(F.esp_attention(q, k, v, tau=0.1, beta=3.0).output, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("sort", SORTS)
def test_padding_equals_unpadded(sort: str) -> None:
    """Items of different lengths, padded anywhere: each as its valid tokens alone; padded rows are zero."""
    lengths = [(9, 12), (12, 5), (1, 1), (40, 33)]
    size = (40, 33)
    q, k, v = (torch.randn(4, n, d, dtype=DOUBLE) * 1e3 for n, d in ((40, 4), (33, 4), (33, 3)))
    query_pad, key_pad = torch.ones(4, 40, dtype=torch.bool), torch.ones(4, 33, dtype=torch.bool)
    generator, alone = torch.Generator().manual_seed(0), []
    for item, (n, m) in enumerate(lengths):
        rows, cols = (torch.randperm(s, generator=generator)[:c] for s, c in zip(size, (n, m), strict=True))
        parts = tokens(n, m, seed=item)
        q[item, rows], k[item, cols], v[item, cols] = parts
        query_pad[item, rows], key_pad[item, cols] = False, False
        alone.append((rows, cols, specification(*parts, tau=0.1, beta=1.0, sort=sort)))
    result = F.esp_attention(
        q, k, v, tau=0.1, beta=1.0, sort=sort, need_weights=True, key_padding_mask=key_pad, query_padding_mask=query_pad
    )
    for item, (rows, cols, plain) in enumerate(alone):
        np.testing.assert_allclose(result.output[item, rows], plain.output, rtol=0, atol=1e-11)
        np.testing.assert_allclose(result.matrix[item][rows][:, cols], plain.matrix, rtol=0, atol=1e-11)
        assert (result.output[item][query_pad[item]] == 0).all() and (result.matrix[item][:, key_pad[item]] == 0).all()
        if sort != "soft":
            assert marginal_defect(result.matrix[item][rows][:, cols].numpy() / len(rows)) < 1e-10


@pytest.mark.parametrize("sort", SORTS)
def test_no_valid_tokens_give_zeros(sort: str) -> None:
    """A batch item without valid keys, or without valid queries, gives zeros and finite gradients."""
    q, k, v = (x.expand(2, -1, -1).clone().requires_grad_() for x in tokens(6, 5))
    padding = torch.tensor([[True], [False]])
    for masks in ({"key_padding_mask": padding.expand(2, 5)}, {"query_padding_mask": padding.expand(2, 6)}):
        output = F.esp_attention(q, k, v, tau=0.1, beta=1.0, sort=sort, **masks).output
        assert (output[0] == 0).all() and (output[1] != 0).any()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(output.sum(), (q, k, v)))


MASKS = {
    "key_padding_mask": torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.bool),
    "query_padding_mask": torch.tensor([[0] * 6, [0, 0, 1, 0, 0, 1]], dtype=torch.bool),
}


@pytest.mark.parametrize("sort", ["soft", "balanced"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("masks", [{}, MASKS], ids=["no padding", "padded"])
def test_gradients(sort: str, power: int, masks: dict) -> None:
    """Gradients of queries, keys, values, slicers, tau and beta against finite differences, n != m."""
    torch.manual_seed(0)
    sizes = ((2, 6, 3), (2, 4, 3), (2, 4, 2), (4, 3))
    q, k, v, slicers = (torch.randn(size, dtype=DOUBLE, requires_grad=True) for size in sizes)
    tau, beta = (torch.tensor(x, dtype=DOUBLE, requires_grad=True) for x in (0.5, 0.7))

    def output(q, k, v, slicers, tau, beta):
        options = {"tau": tau, "beta": beta, "directions": slicers, "sort": sort, "power": power}
        return F.esp_attention(q, k, v, **options, **masks).output

    assert torch.autograd.gradcheck(output, (q, k, v, slicers, tau, beta), atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_straight_through_takes_the_soft_gradient(beta: float) -> None:
    """The hard output and matrix, bit for bit, with the gradient of the soft ones, beta's and tau's too; the hard sort
    alone sends none through the scores."""
    leaves = [x.requires_grad_() for x in (*tokens(12, 9), *torch.tensor([0.3, beta], dtype=DOUBLE))]
    *_, tau_leaf, beta_leaf = leaves

    def call(**options):
        return F.esp_attention(*leaves[:3], tau=tau_leaf, beta=beta_leaf, need_weights=True, **options)

    plain, soft = call(sort="hard"), call(sort="soft")
    through = call(sort="hard", straight_through=True)
    assert torch.equal(through.output, plain.output) and torch.equal(through.matrix, plain.matrix)
    for name in ("output", "matrix"):
        g = getattr(plain, name).detach()
        result, expected = (
            torch.autograd.grad(getattr(x, name), leaves, g, materialize_grads=True) for x in (through, soft)
        )
        for one, other in zip(result, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
    if not beta:
        assert torch.autograd.grad(plain.output.square().sum(), leaves[0])[0].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_floats(dtype: torch.dtype) -> None:
    """Half precision is computed in float32 and returned as it came: within its own rounding of the float64 result."""
    exact = tokens(100, 100)
    narrow = [x.to(dtype) for x in exact]
    result = F.esp_attention(*narrow, tau=0.1, beta=1.0).output
    reference = F.esp_attention(*(x.double() for x in narrow), tau=0.1, beta=1.0).output
    assert result.dtype == dtype
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(result.double(), reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("sort", ["soft", "balanced"])
def test_extreme_tau_stays_finite(sort: str, power: int) -> None:
    """tau from 1e-30 to 1e30 in float32: finite outputs and gradients, tau's too."""
    for temperature in (1e-30, 1e-6, 1e6, 1e30):
        q, k, v = (x.float().requires_grad_() for x in tokens(80, 80))
        tau = torch.tensor(temperature, requires_grad=True)
        output = F.esp_attention(q, k, v, tau=tau, beta=1.0, sort=sort, power=power).output
        grads = torch.autograd.grad(output.sum(), (q, k, v, tau))
        assert torch.isfinite(output).all() and all(torch.isfinite(g).all() for g in grads)


def test_no_matrix_is_built() -> None:
    """The largest tensor of forward and backward has O(N) elements a slice and coordinate, far below N x M."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            if function.name() in operators.INSIDE:
                with self:
                    return operators.INSIDE[function.name()](*args)
            result = function(*args, **(kwargs or {}))
            for part in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(part, torch.Tensor):
                    largest = max(largest, part.untyped_storage().nbytes() // part.element_size())
            return result

    n = 4096
    q, k, v = (torch.randn(n, 2, requires_grad=True) for _ in range(3))
    with Watch():
        F.esp_attention(q, k, v, tau=0.1, beta=1.0).output.sum().backward()
    assert 0 < largest <= 2 * n * scan.CHUNK + 1 < n * n / 16  # both slices' chunk kernels


GOOD = {"query": torch.zeros(5, 4), "key": torch.zeros(5, 4), "value": torch.zeros(5, 3)}
TEMPERATURES = {"tau": 0.1, "beta": 1.0}
NO_TENSORS = [
    torch.zeros(3),
    torch.zeros(5, 4, dtype=torch.long),
    torch.zeros(0, 4),
    torch.zeros(5, 0),
    [[1.0] * 4] * 5,
]
NO_NUMBERS = [
    -1.0,
    True,
    "one",
    None,
    torch.zeros(1),
    torch.ones((), dtype=torch.cfloat),
    torch.ones((), device="meta"),
]
NO_MASKS = [torch.zeros(5), torch.zeros(9, dtype=torch.bool), torch.zeros(2, dtype=torch.bool), [True] * 5]
NO_MASKS += [torch.zeros((), dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)]
BAD = {
    **dict.fromkeys(GOOD, NO_TENSORS),
    "key": [*NO_TENSORS, torch.zeros(5, 3)],
    "value": [*NO_TENSORS, torch.zeros(4, 3)],
    "directions": [torch.zeros(2, 9), torch.zeros(4), torch.zeros(2, 4).long(), torch.zeros(0, 4), [[1.0] * 4]],
    "sort": ["quick", None, 1],
    "power": [3, 1.0, "1"],
    "tau": [*NO_NUMBERS, 0.0, 10**400],
    "beta": [*NO_NUMBERS, 10**400, float("inf"), torch.tensor(torch.inf)],
    "key_padding_mask": NO_MASKS,
    "query_padding_mask": NO_MASKS,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    """A ValueError that starts with the argument."""
    for bad in BAD[name]:
        with pytest.raises(ValueError, match=rf"^{name}: expected"):
            F.esp_attention(**(GOOD | TEMPERATURES | {name: bad}))
        if name in (*GOOD, "key_padding_mask", "query_padding_mask"):
            with pytest.raises(ValueError, match=rf"^{name}: expected"):
                F.sinkhorn_attention(**(GOOD | {name: bad}))
    for side in ("key", "value"):
        with pytest.raises(ValueError, match=r"^key, value: expected leading dimensions \(\)"):
            F.softmax_attention(**(GOOD | {side: GOOD[side].expand(2, -1, -1)}))
    for bad in (True, 1.5, 0, "5"):
        with pytest.raises(ValueError, match=r"^n_iter: expected"):
            F.sinkhorn_attention(**GOOD, n_iter=bad)
    odd = {side: torch.zeros(2, 4, 3) for side in GOOD}
    with pytest.raises(ValueError, match=r"^query: expected an even number of coordinates, got 3"):
        F.differential_attention(**odd, mix=torch.tensor(0.1))


def test_no_matrix_unless_it_is_asked_for() -> None:
    """Of all four functions; five iterations are the default of Sinkhorn attention."""
    q, k, v = tokens(7, 5)
    result = F.sinkhorn_attention(q, k, v)
    every = [result, F.esp_attention(q, k, v, **TEMPERATURES), F.softmax_attention(q, k, v)]
    every.append(F.differential_attention(q, k, v, mix=torch.tensor(0.1)))
    assert [result.matrix for result in every] == [None] * 4
    assert torch.equal(result.output, F.sinkhorn_attention(q, k, v, n_iter=5).output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_types_of_results_and_of_what_is_between(dtype: torch.dtype) -> None:
    """Output and matrix come as the values came; no tokens between are in float64, whatever the directions are in."""
    from torch.utils._python_dispatch import TorchDispatchMode

    wide = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.name() in operators.INSIDE:
                with self:
                    return operators.INSIDE[function.name()](*args)
            result = function(*args, **(kwargs or {}))
            parts = result if isinstance(result, (tuple, list)) else [result]
            tensors = [x for x in parts if isinstance(x, torch.Tensor) and x.numel() >= 40]
            wide.extend(str(function) for x in tensors if x.dtype == DOUBLE)
            return result

    q, k, v = (x.to(dtype) for x in tokens(40, 40))
    slicers = torch.eye(4, dtype=DOUBLE).flip(0)
    with Watch():
        esp = F.esp_attention(q, k, v, **TEMPERATURES, need_weights=True)
        sinkhorn = F.sinkhorn_attention(q, k, v, need_weights=True)
    assert not wide
    assert {x.dtype for x in (*esp, *sinkhorn)} == {dtype}
    turned = F.esp_attention(q, k, v, **TEMPERATURES, directions=slicers).output
    assert torch.equal(turned, F.esp_attention(q, k, v, **TEMPERATURES, directions=slicers.float()).output)
    for function in (F.sinkhorn_attention, lambda *x: F.esp_attention(*x, **TEMPERATURES)):
        plain = function(q, k, v).output
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(function(q, k, v).output, plain)
        assert torch.equal(function(*(x.float() for x in (q, k, v))).output.to(dtype), plain)
        reference = function(*(x.double() for x in (q, k, v))).output
        tolerance = max(2 * torch.finfo(dtype).eps, 1e-5)
        torch.testing.assert_close(plain.double(), reference, rtol=tolerance, atol=tolerance)


def test_another_default_device_does_not_matter() -> None:
    """Everything is made where the tokens are."""
    q, k, v = tokens(40, 37)
    calls = [
        lambda: F.esp_attention(q, k, v, **TEMPERATURES, need_weights=True),
        lambda: F.sinkhorn_attention(q, k, v, need_weights=True),
        lambda: F.softmax_attention(q, k, v, need_weights=True),
    ]
    for call in calls:
        plain = call()
        with torch.device("meta"):
            assert all(torch.equal(x, y) for x, y in zip(call(), plain, strict=True))


def test_one_mask_alone_and_masks_that_expand() -> None:
    """One sequence without a batch: keys only, queries only, one truth value for all tokens."""
    q, k, v = tokens(8, 6)
    masked = torch.arange(8) >= 5, torch.arange(6) >= 4
    for function in (F.sinkhorn_attention, lambda *x, **o: F.esp_attention(*x, **TEMPERATURES, **o)):
        keys = function(q, k, v, key_padding_mask=masked[1]).output
        torch.testing.assert_close(keys, function(q, k[:4], v[:4]).output, rtol=0, atol=1e-13)
        queries = function(q, k, v, query_padding_mask=masked[0]).output
        torch.testing.assert_close(queries[:5], function(q[:5], k, v).output, rtol=0, atol=1e-13)
        assert not queries[5:].any()
        none = torch.zeros(1, dtype=torch.bool)
        both = function(q, k, v, key_padding_mask=none, query_padding_mask=none).output
        torch.testing.assert_close(both, function(q, k, v).output, rtol=0, atol=1e-13)
        assert not function(q, k, v, key_padding_mask=~none).output.any()


def test_an_empty_batch() -> None:
    """Gives an empty result, and empty gradients."""
    q, k, v = (x.expand(0, -1, -1).requires_grad_() for x in tokens(8, 6))
    calls = [F.sinkhorn_attention, F.softmax_attention]
    calls += [lambda *x, sort=sort: F.esp_attention(*x, **TEMPERATURES, sort=sort) for sort in SORTS]
    for call in calls:
        output = call(q, k, v).output
        assert output.shape == (0, 8, 3)
        assert torch.autograd.grad(output.sum(), q)[0].shape == (0, 8, 4)


def test_leading_dimensions_of_pairwise_attention() -> None:
    """Softmax and differential attention of a batch with masks: each item as alone."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, n, 6, generator=generator, dtype=DOUBLE) for n in (7, 5, 5))
    allowed = torch.rand(3, 7, 5, generator=generator) < 0.5
    allowed[1, 2] = False
    mix = torch.tensor(0.2, dtype=DOUBLE)
    for function in (F.softmax_attention, lambda *x, **o: F.differential_attention(*x, mix=mix, **o)):
        result = function(q, k, v, allowed=allowed, need_weights=True)
        torch.testing.assert_close(result.output, result.matrix @ v, rtol=0, atol=1e-13)
        for item in range(3):
            alone = function(q[item], k[item], v[item], allowed=allowed[item], need_weights=True)
            for one, other in zip(result, alone, strict=True):
                torch.testing.assert_close(one[item], other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [7, 60, 700])
@pytest.mark.parametrize("tied", [False, True])
def test_kernel_and_its_gradients_equal_the_dense_ones(size: int, tied: bool) -> None:
    """K x, and the gradients to s, tau and x, equal those of the dense kernel, ties across chunks included (a tied pair
    contributes nothing)."""
    torch.manual_seed(0)
    scores = torch.randint(0, 3, (2, size)).double() if tied else torch.randn(2, size, dtype=DOUBLE)
    s = scores.sort(dim=-1).values.requires_grad_()
    tau = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)
    x, g = torch.randn(2, size, 3, dtype=DOUBLE, requires_grad=True), torch.randn(2, size, 3, dtype=DOUBLE)
    dense = torch.exp(-(s[:, :, None] - s[:, None, :]).abs() / tau) @ x
    kernel = scan.laplace_kernel(s.detach()[:, None], tau.detach().expand(2))
    image, back = kernel.product(x.detach()[:, None]), kernel.product(g[:, None])
    torch.testing.assert_close(image.value[:, 0], dense, rtol=1e-12, atol=1e-12)
    slope = scan.score_gradient(kernel, s.detach()[:, None], back, image)[:, 0]
    of_tau = -(s.detach() * slope).sum() / tau.detach()
    expected = torch.autograd.grad(dense, (s, tau, x), g)
    for one, other in zip((slope, of_tau, back.value[:, 0]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sort", SORTS)
def test_equal_tokens_tie_in_every_direction(sort: str) -> None:
    """Duplicates have equal scores along free slicers, wherever they stand: as NumPy has it, and equal outputs."""
    q, k, v = tokens(40, 40, 7)
    rows = torch.tensor(np.random.default_rng(5).integers(0, 9, size=40))
    q, k = q[rows], k[rows.flip(0)]
    slicers = torch.tensor(np.random.default_rng(6).normal(size=(11, 7)))
    result = F.esp_attention(q, k, v, tau=0.05, beta=0.4, directions=slicers, sort=sort).output
    plain = specification(q, k, v, tau=0.05, beta=0.4, directions=slicers, sort=sort).output
    np.testing.assert_allclose(result, plain, rtol=0, atol=1e-12)
    first = torch.stack([torch.nonzero(rows == r)[0, 0] for r in rows])
    np.testing.assert_allclose(result, result[first], rtol=0, atol=1e-13)


def test_tiny_spread_far_from_zero_is_still_sorted() -> None:
    """Tokens around 1 that differ by a few rounding units keep their order: centring comes after sorting."""
    v = torch.eye(6, dtype=DOUBLE)
    steps = torch.tensor([3, 0, 5, 1, 4, 2], dtype=DOUBLE)
    q = (1.0 + steps * 2.0**-52)[:, None]
    k = torch.cat([torch.full((1, 1), -(2.0**40), dtype=DOUBLE), q[1:]])  # the mean of the keys is far from the rest
    plan = F.esp_attention(q, k, v, tau=1.0, beta=0.0, sort="hard").output
    ranks_q, ranks_k = q[:, 0].argsort(), k[:, 0].argsort()
    expected = torch.zeros(6, 6, dtype=DOUBLE)
    expected[ranks_q, ranks_k] = 1.0
    torch.testing.assert_close(plan, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("n", "m"), [(9, 9), (12, 5), (1, 7)])
@pytest.mark.parametrize("n_iter", [1, 2, 5, 20])
def test_sinkhorn_equals_numpy(n: int, m: int, n_iter: int) -> None:
    """Output and matrix after every number of iterations, and softmax attention's."""
    q, k, v = tokens(n, m)
    plain = sinkhorn_specification(q, k, v, n_iter=n_iter)
    result = F.sinkhorn_attention(3 * q, k / 3, v, n_iter=n_iter, need_weights=True)
    np.testing.assert_allclose(result.output, plain.output, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.matrix, plain.matrix, rtol=0, atol=1e-12)
    softmax = F.softmax_attention(q, k, v, need_weights=True)
    np.testing.assert_allclose(softmax.matrix, softmax_specification(q, k, v).matrix, rtol=0, atol=1e-13)
    np.testing.assert_allclose(softmax.output, softmax.matrix @ v, rtol=0, atol=1e-13)


def test_sinkhorn_padding_equals_unpadded() -> None:
    """Items of different lengths: each as its valid tokens alone, gradients too; without valid keys, zeros."""
    q, k, v = (torch.randn(4, n, 3, dtype=DOUBLE).requires_grad_() for n in (8, 6, 6))
    query_pad, key_pad = torch.zeros(4, 8, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    lengths = [(8, 6), (5, 2), (1, 6), (3, 0)]
    for item, (n, m) in enumerate(lengths):
        query_pad[item, n:], key_pad[item, m:] = True, True
    masks = {"key_padding_mask": key_pad, "query_padding_mask": query_pad}
    result = F.sinkhorn_attention(q, k, v, n_iter=6, **masks, need_weights=True)
    grads = torch.autograd.grad(result.output.square().sum(), (q, k, v))
    for item, (n, m) in enumerate(lengths):
        alone = torch.zeros(n, 3, dtype=DOUBLE)
        expected = [torch.zeros_like(x[item]) for x in (q, k, v)]
        if m:
            parts = [x[item, :size].detach().requires_grad_() for x, size in ((q, n), (k, m), (v, m))]
            alone = F.sinkhorn_attention(*parts, n_iter=6).output
            for part, whole in zip(torch.autograd.grad(alone.square().sum(), parts), expected, strict=True):
                whole[: len(part)] = part
        torch.testing.assert_close(result.output[item, :n], alone, rtol=0, atol=1e-13)
        assert not result.output[item, n:].any() and not result.matrix[item, :, m:].any()
        for grad, whole in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad[item], whole, rtol=0, atol=1e-12)


def test_differential_is_a_difference_of_two_softmax_maps() -> None:
    """Matrix and output from explicit exponentials; rows sum to 1 - mix; a mask keeps its pairs at zero."""
    q, k, v = tokens(7, 5)
    allowed = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    allowed[3] = False
    result = F.differential_attention(q, k, v, mix=torch.tensor(0.3, dtype=DOUBLE), allowed=allowed, need_weights=True)
    maps = []
    for half in (slice(0, 2), slice(2, 4)):
        entries = np.exp(q[:, half].numpy() @ k[:, half].numpy().T / np.sqrt(2)) * allowed.numpy()
        maps.append(entries / np.where(allowed.any(1)[:, None], entries.sum(1, keepdims=True), 1.0))
    matrix = maps[0] - 0.3 * maps[1]
    np.testing.assert_allclose(result.matrix, matrix, rtol=0, atol=1e-13)
    np.testing.assert_allclose(result.output, matrix @ v.numpy(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(result.matrix.sum(1)[allowed.any(1)], 0.7, rtol=0, atol=1e-13)
