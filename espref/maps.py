r"""What a plan does to points: its barycentric map, the map at new points, and the clouds on the way.

A plan $G$ splits the mass of $x_i$ among the $y_j$. Its barycentric map sends $x_i$ to the mean of where its mass goes,
$T(x_i) = \sum_j G_{ij} y_j / \sum_j G_{ij}$. Displacement interpolation splits the mass instead, and moves each piece
along a segment. Both take any plan: of a slice, expected, exact or entropic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.spatial import KDTree

from ._checks import Array, InputLimit, Plan, as_fraction, as_nonnegative_plan, as_pair, as_points
from ._floats import underflow_is_zero


class WeightedCloud(NamedTuple):
    """Points with the mass that each carries.

    See Also
    --------
    displacement_interpolation

    Examples
    --------
    >>> from espref import displacement_interpolation
    >>> points, weights = displacement_interpolation([[1.0]], [[0.0]], [[2.0]], t=0.5)
    >>> points, weights
    (array([[1.]]), array([1.]))
    """

    points: Array  # (k, d)
    weights: Array  # (k,) positive; their sum is the mass of the plan


@underflow_is_zero
def barycentric_map(plan: Plan, y: ArrayLike) -> Array:
    r"""The barycentric map of a plan, $T(x_i) = \sum_j G_{ij} y_j / \sum_j G_{ij}$.

    The mean of where the mass of $x_i$ goes, the conditional expectation of the target. If each row of the plan has one
    entry, the plan is a map, and this is it. If the plan is optimal for squared costs, $T$ is an optimal map onto its
    own image: the plan lies in the subdifferential of a convex function, whose values are convex sets, so the means
    stay in it. For other plans $T$ need not be optimal.

    Parameters
    ----------
    plan : (n, m) array or sparse array
        Nonnegative, with mass in every row.
    y : (m, d) array_like
        Target.

    Returns
    -------
    (n, d) array
        The image of each source point; it lies in the convex hull of the target.

    Raises
    ------
    ValueError
        For malformed input, or a row without mass: a point of weight 0 has no image.

    See Also
    --------
    extend_map : The map at points that are not in the source.
    displacement_interpolation : Split the mass of a point instead of moving it to the mean.

    Examples
    --------
    >>> from espref import barycentric_map
    >>> barycentric_map([[0.25, 0.25], [0.0, 0.5]], [[0.0], [4.0]])
    array([[2.],
           [4.]])

    References
    ----------
    ambrosio2008gradient, theorem 12.4.4
    """
    y = as_points(y, "y")
    entries = as_nonnegative_plan(plan)
    if entries.shape[1] != len(y):
        raise ValueError(f"plan: expected one column for each of the {len(y)} rows of y, got shape {entries.shape}")
    heaviest = np.zeros(entries.shape[0])
    np.maximum.at(heaviest, entries.row, entries.data)
    empty = np.flatnonzero(heaviest == 0)
    if len(empty):
        raise ValueError(f"plan: expected mass in every row, got none in row {empty[0]}; leave such points out")
    shares = coo_array((entries.data / heaviest[entries.row], (entries.row, entries.col)), shape=entries.shape).tocsr()
    shares.data /= np.repeat(shares.sum(axis=1), np.diff(shares.indptr))
    shift = 4 if np.abs(y).max() > 1e300 else 0  # so that no partial sum overflows
    with np.errstate(over="ignore"):
        images = np.ldexp(shares @ np.ldexp(y, -shift), shift)
    return np.asarray(np.clip(images, y.min(axis=0), y.max(axis=0)))  # rounding does not leave the target's box


@underflow_is_zero
def extend_map(points: ArrayLike, x: ArrayLike, images: ArrayLike) -> Array:
    r"""A map given on a cloud, at new points: each moves like the nearest point of the cloud.

    $$T(z) = z + T(x_i) - x_i, \qquad i = \arg\min_k |z - x_k|.$$

    Where several points are nearest, up to rounding, $T(z)$ is the mean over them; equal points count once. At a point
    of the cloud the given image is returned exactly. Distances below 1e-150 of the largest coordinate count as 0.

    Parameters
    ----------
    points : (k, d) array_like
        Where the map is wanted.
    x : (n, d) array_like
        Where the map is known.
    images : (n, d) array_like
        $T(x_i)$, for example from :func:`espref.barycentric_map`.

    Returns
    -------
    (k, d) array
        The image of each new point.

    Raises
    ------
    ValueError
        For malformed input, or images beyond the range of floats.

    See Also
    --------
    barycentric_map : The images of the cloud itself.

    Examples
    --------
    >>> from espref import extend_map
    >>> extend_map([[0.0], [0.25], [0.5]], x=[[0.0], [1.0]], images=[[10.0], [20.0]])
    array([[10.  ],
           [10.25],
           [15.  ]])

    References
    ----------
    ferradans2014regularized
    """
    points, x = as_pair(points, x, ("points", "x"))
    images = as_points(images, "images")
    if images.shape != x.shape:
        raise ValueError(f"images: expected the shape of x, {x.shape}, got shape {images.shape}")
    x, images = _distinct(x, images)
    shift = -int(np.frexp(max(np.abs(points).max(), np.abs(x).max()))[1])  # nothing over- or underflows when squared
    cloud, queries = np.ldexp(x, shift), np.ldexp(points, shift)
    tree = KDTree(cloud)
    least = tree.query(queries)[0]
    rounding = 16 * np.finfo(float).eps * np.maximum(np.abs(queries).max(axis=1), least)
    nearest = tree.query_ball_point(queries, np.where(least > 0, least + rounding, 0.0))
    counts = np.array([len(found) for found in nearest])
    where, of = np.concatenate(nearest).astype(int), np.repeat(np.arange(len(points)), counts)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = images[where] + (points[of] - x[where])
        mean = np.add.reduceat(moved / counts[of, None], np.concatenate([[0], np.cumsum(counts)[:-1]]), axis=0)
    if not np.isfinite(mean).all():
        raise InputLimit("points: expected images that fit a float, got an overflow")
    return np.asarray(mean)


@underflow_is_zero
def displacement_interpolation(plan: Plan, x: ArrayLike, y: ArrayLike, t: float) -> WeightedCloud:
    r"""The cloud at time t of a movement along a plan: mass $G_{ij}$ at $(1 - t)\, x_i + t\, y_j$.

    It is x at t = 0 and y at t = 1, with a point repeated for each of its pieces. For an optimal plan of squared costs
    the clouds are a geodesic: $W_2(\mu_s, \mu_t) = |s - t|\, W_2(\mu_0, \mu_1)$. For any plan,
    $W_2(\mu_s, \mu_t) \le |s - t|\, \langle C, G \rangle^{1/2}$.

    Parameters
    ----------
    plan : (n, m) array or sparse array
        Nonnegative, with some mass.
    x, y : (n, d) and (m, d)
        Source and target.
    t : float
        Time, from 0 to 1.

    Returns
    -------
    WeightedCloud
        points (k, d) and weights (k,), one for each positive entry of the plan, row by row.

    Raises
    ------
    ValueError
        For malformed input.

    See Also
    --------
    barycentric_map : Move each point to the mean instead of splitting its mass.

    Examples
    --------
    >>> from espref import displacement_interpolation
    >>> displacement_interpolation([[0.5, 0.5]], [[0.0]], [[2.0], [4.0]], t=0.25)
    WeightedCloud(points=array([[0.5],
           [1. ]]), weights=array([0.5, 0.5]))

    References
    ----------
    mccann1997convexity
    """
    x, y = as_pair(x, y)
    t = as_fraction(t, "t")
    entries = as_nonnegative_plan(plan)
    if entries.shape != (len(x), len(y)):
        raise ValueError(f"plan: expected shape ({len(x)}, {len(y)}), got shape {entries.shape}")
    start, stop = x[entries.row], y[entries.col]
    with np.errstate(over="ignore"):
        points = np.clip((1 - t) * start + t * stop, np.minimum(start, stop), np.maximum(start, stop))
    return WeightedCloud(points, entries.data)


def _distinct(x: Array, images: Array) -> tuple[Array, Array]:
    """Each point once, with the mean of its images."""
    rows, first, which = np.unique(x + 0.0, axis=0, return_index=True, return_inverse=True)
    which = which.ravel()
    if len(rows) == len(x):
        return x, images
    counts = np.bincount(which)
    mean = np.zeros(rows.shape)
    np.add.at(mean, which, images / counts[which, None])
    alone = counts == 1
    mean[alone] = images[first[alone]]
    return rows, mean
