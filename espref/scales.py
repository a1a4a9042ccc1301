r"""Units of the coordinates: two clouds standardised before they are compared.

Costs $|x - y|^p$ in $R^d$ add up coordinates, so that those of the largest spread decide. Where coordinates have
different units, each is first shifted and scaled to mean 0 and standard deviation 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, as_choice, as_measures
from ._floats import underflow_is_zero

HOW = ("joint", "each")


class Standardised(NamedTuple):
    """Two clouds in standard units; ``x * scale[0] + shift[0]`` and ``y * scale[1] + shift[1]`` are the given ones.

    See Also
    --------
    standardise

    Examples
    --------
    >>> from espref import standardise
    >>> standardise([[1.0], [3.0]], [[1.0], [3.0]]).shift
    array([[2.],
           [2.]])
    """

    x: Array  # (n, d)
    y: Array  # (m, d)
    shift: Array  # (2, d)  of source and of target, subtracted
    scale: Array  # (2, d)  by which was divided afterwards


@underflow_is_zero
def standardise(
    x: ArrayLike, y: ArrayLike, how: str = "joint", a: ArrayLike | None = None, b: ArrayLike | None = None
) -> Standardised:
    r"""Two clouds with mean 0 and standard deviation 1 in every coordinate.

    With means $\bar x_k$, $\bar y_k$ and variances $\sigma_{x,k}^2$, $\sigma_{y,k}^2$ of coordinate k (weighted, and
    divided by the total weight, not by n - 1), "each" takes $(x_{ik} - \bar x_k) / \sigma_{x,k}$, and the same for the
    target by itself. "joint" takes one shift and one scale for both, those of the mixture with half its mass on either
    side,

    $$s_k = \frac{\bar x_k + \bar y_k}{2}, \qquad
    \sigma_k^2 = \frac{\sigma_{x,k}^2 + \sigma_{y,k}^2}{2} + \frac{(\bar x_k - \bar y_k)^2}{4} .$$

    A coordinate without spread is shifted only.

    Parameters
    ----------
    x, y : (n, d) and (m, d) array_like
        Source and target.
    how : "joint" or "each"
        "joint" changes units and keeps how the clouds lie to each other; "each" removes differences of location and
        spread, so that only those of shape are left.
    a, b : (n,) and (m,) array_like, optional
        Weights, sum 1; uniform by default.

    Returns
    -------
    Standardised
        x (n, d), y (m, d), shift (2, d), scale (2, d).

    Raises
    ------
    ValueError
        For malformed input, or a spread beyond the range of floats.

    See Also
    --------
    slice_costs, transport_cost

    Examples
    --------
    >>> from espref import standardise
    >>> x, y, shift, scale = standardise([[0.0, 5.0], [2.0, 5.0]], [[4.0, 5.0], [6.0, 5.0]], "each")
    >>> x
    array([[-1.,  0.],
           [ 1.,  0.]])
    >>> shift
    array([[1., 5.],
           [5., 5.]])
    """
    x, y, a, b = as_measures(x, y, a, b)
    as_choice(how, "how", HOW)
    size = np.frexp(np.maximum(np.abs(x).max(axis=0), np.abs(y).max(axis=0)))[1]
    u, v = np.ldexp(x, -size), np.ldexp(y, -size)  # squares neither over- nor underflow
    means, spreads = map(np.stack, zip(_moments(u, a), _moments(v, b), strict=True))
    if how == "joint":
        spreads = np.broadcast_to(spreads.mean(axis=0) + np.diff(means, axis=0)[0] ** 2 / 4, means.shape)
        means = np.broadcast_to(means.mean(axis=0), means.shape)
    scale = np.sqrt(spreads)
    with np.errstate(over="ignore"):
        scale = np.where(scale > 0, scale, np.ldexp(1.0, -size))
        back = np.ldexp(means, size), np.ldexp(scale, size)
    if not np.isfinite(back).all() or not (back[1] > 0).all():
        raise ValueError("x, y: expected coordinates whose spread a float can hold; rescale the points")
    return Standardised((u - means[0]) / scale[0], (v - means[1]) / scale[1], *back)


def _moments(points: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean and variance of every coordinate, (d,) each; exactly zero variance where all values are equal."""
    heavy = points[weights > 0]
    origin = heavy[0]
    offset = weights[weights > 0] @ (heavy - origin)
    return origin + offset, weights[weights > 0] @ (heavy - origin - offset) ** 2
