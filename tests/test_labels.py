"""One policy for what arrays carry besides numbers: compared where both sides have it, refused where they differ."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

import espref
from espref import (
    est_distance,
    expected_sliced_plan,
    line_plan,
    soft_permutation,
    softmax_attention,
    transport_cost,
)

AXES = np.eye(2)


class Labelled:
    """An array with names, as far as espref looks at them; ``family`` is the package that it pretends to come from."""

    def __init__(self, values, **labels) -> None:
        self.values = np.asarray(values, dtype=float)
        self.ndim, self.attrs = self.values.ndim, {}
        self.__dict__.update(labels)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


def of(family: str, values, **labels):
    kind = type("Labelled", (Labelled,), {"__module__": f"{family}.core"})
    return kind(values, **labels)


def frame(values, columns, index=None):
    index = range(len(values)) if index is None else index
    return of("pandas", values, columns=columns, index=index)


def test_columns_are_compared() -> None:
    """Two frames with columns (a, b) and (b, a) are refused; equal columns, or one plain array, are taken."""
    points = [[0.0, 1.0], [2.0, 3.0]]
    x, y = frame(points, ["a", "b"]), frame(np.fliplr(points), ["b", "a"])
    for call in (
        lambda: est_distance(x, y, AXES),
        lambda: expected_sliced_plan(x, y, AXES),
        lambda: transport_cost(np.eye(2) / 2, x, y),
        lambda: espref.circle_plan(x, y),
        lambda: espref.expected_soft_plan(x, y, AXES, 0.1),
        lambda: softmax_attention(x, y, points),
    ):
        with pytest.raises(ValueError, match=r"expected the columns of \w, \['a', 'b'\], got \['b', 'a'\]"):
            call()
    assert est_distance(x, frame(points, ["a", "b"]), AXES) == est_distance(x, points, AXES) == 0


def test_weights_follow_the_rows() -> None:
    """A series of weights names the rows it belongs to; other rows, or another order, are refused."""
    points = [[0.0, 1.0], [2.0, 3.0]]
    series = of("pandas", [0.9, 0.1], index=[1, 0])
    with pytest.raises(ValueError, match=r"^a: expected rows in the order of x, 0 at position 0, got 1"):
        est_distance(points, points, AXES, series)
    with pytest.raises(ValueError, match=r"^b: expected rows in the order of v, 'p' at position 0, got 'q'"):
        line_plan([1.0, 2.0], of("pandas", [1.0, 2.0], index=["p", "q"]), b=of("pandas", [0.5, 0.5], index=["q", "p"]))
    named = frame(points, ["a", "b"], index=[1, 0])
    plain = est_distance(points, points[::-1], AXES, [0.9, 0.1])
    assert est_distance(named, points[::-1], AXES, series) == plain
    assert est_distance(points, points[::-1], AXES, of("pandas", [0.9, 0.1], index=[0, 1])) == plain


def test_dimensions_and_units_of_xarray() -> None:
    """An array against its transpose, and metres against centimetres, are refused."""
    square = np.arange(4.0).reshape(2, 2)
    x = of("xarray", square, dims=("point", "axis"), coords={})
    with pytest.raises(ValueError, match=r"^y: expected the dimensions of x"):
        est_distance(x, of("xarray", square.T, dims=("axis", "point"), coords={}), AXES)
    metres = of("xarray", square, dims=("point", "axis"), coords={}, attrs={"units": "m"})
    with pytest.raises(ValueError, match=r"^y: expected the units of x, m, got cm"):
        est_distance(metres, of("xarray", square, dims=("point", "axis"), coords={}, attrs={"units": "cm"}), AXES)
    assert est_distance(metres, metres, AXES) == 0


@pytest.mark.parametrize(("holder", "number"), [("units", "magnitude"), ("unit", "to_value")])
def test_units_are_refused(holder: str, number: str) -> None:
    """A quantity would lose its unit; a dimensionless one has none to lose."""
    length = of("pint", [[1.0]], **{holder: "metre", number: None})
    with pytest.raises(ValueError, match=r"^x: expected numbers without a unit, got 'metre'"):
        est_distance(length, [[100.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"^u: expected numbers without a unit"):
        line_plan([of("pint", 1.0, **{holder: "metre", number: None})], [1.0])
    assert est_distance(of("pint", [[1.0]], **{holder: "dimensionless", number: None}), [[1.0]], [[1.0]]) == 0


def test_masks_are_refused() -> None:
    """A hidden entry is no number; a masked array without hidden entries is an array."""
    masked = np.ma.masked_values([[0.0], [1.0], [-9999.0]], -9999.0)
    for call in (
        lambda: est_distance(masked, [[1.0]], [[1.0]]),
        lambda: est_distance(list(masked), [[1.0]], [[1.0]]),
        lambda: line_plan([0.0, 1.0], [0.0, 1.0], np.ma.masked_less([0.5, 0.5], 1)),
        lambda: soft_permutation(np.ma.masked_equal([1.0, 2.0], 2), 0.1),
        lambda: transport_cost(np.ma.masked_equal([[0.5, 0.5]], 0.5), [[1.0]], [[1.0], [2.0]]),
    ):
        with pytest.raises(ValueError, match=r"^\w+: expected no masked entries, got a masked array"):
            call()
    assert est_distance(np.ma.masked_array([[1.0]]), [[1.0]], [[1.0]]) == 0


def test_what_numpy_cannot_read_is_told() -> None:
    """Sparse clouds, tensors that require gradients, arrays on other devices: the argument and the reason are named."""
    with pytest.raises(ValueError, match=r"^x: expected a dense array, got a sparse one; x.toarray\(\) is dense"):
        est_distance(csr_array(AXES), AXES, AXES)

    class Elsewhere:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("Implicit conversion is not allowed. Please use .get()")

    with pytest.raises(ValueError, match=r"^x: expected an array of real numbers.*use \.get\(\)"):
        est_distance(Elsewhere(), AXES, AXES)
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"^x: expected an array of real numbers.*requires grad"):
        est_distance(torch.eye(2, requires_grad=True), AXES, AXES)


def test_rounding_makes_no_ties() -> None:
    """Integers beyond 2^53 and long doubles that float64 cannot tell apart are refused, others rounded."""
    with pytest.raises(ValueError, match=r"^u: expected numbers that float64 tells apart"):
        line_plan(np.array([2**60, 2**60 + 1]), [0.0, 1.0])
    assert line_plan(np.array([2**60, 2**61 + 1]), [0.0, 1.0]).nnz == 2
    long = np.nextafter(np.longdouble(1), np.longdouble(2))
    if long != np.float64(long):
        with pytest.raises(ValueError, match=r"^u: expected numbers that float64 tells apart"):
            line_plan(np.array([np.longdouble(1), long]), [0.0, 1.0])


def test_hints() -> None:
    """Counts for weights, and directions as columns: the message says what to do."""
    with pytest.raises(ValueError, match=r"of counts, pass counts / counts.sum\(\)"):
        line_plan([0.0, 1.0], [0.0, 1.0], np.array([3, 5]))
    with pytest.raises(ValueError, match=r"one direction per row: pass directions.T"):
        est_distance(np.eye(3), np.eye(3), np.ones((3, 50)))


def test_32_bit_indices() -> None:
    """Plans have 32-bit indices where the shape allows, which every scikit-learn estimator takes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6, 2))
    plans = [
        line_plan([0.0, 1.0], [1.0, 2.0]),
        espref.rank_plan([0.5, 0.5], [1.0]),
        *espref.sliced_plans(x, y, AXES),
        expected_sliced_plan(x, y, AXES).plan,
        espref.min_sliced_plan(x, y, AXES).plan,
        espref.circle_plan(x, y).plan,
    ]
    assert {(plan.row.dtype, plan.col.dtype) for plan in plans} == {(np.dtype(np.int32), np.dtype(np.int32))}
