r"""Chapter 2. Directions: the unit vectors $\theta$ on which clouds are projected."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.integrate import lebedev_rule

from ._checks import Array, RandomSource, as_choice, as_count, as_generator
from ._floats import underflow_is_zero

METHODS = ("random", "orthogonal", "sobol", "equispaced", "lebedev", "axes")

#: Degrees for which SciPy has a Lebedev rule. Those of degree 13, 25 and 27 have negative weights: no plan averages so.
_LEBEDEV_DEGREES = (*(3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31), *range(35, 132, 6))


@underflow_is_zero
def sample_directions(n_directions: int, dim: int, *, method: str = "random", rng: RandomSource = None) -> Array:
    """Unit directions on the sphere of R^dim.

    Parameters
    ----------
    n_directions : int
        L. "axes" takes L = dim only; "lebedev" the sizes of Lebedev rules (6, 14, 26, 38, 50, 86, ...).
    dim : int
        Dimension d. "equispaced" takes 2 only, "lebedev" 3 only.
    method : "random" | "orthogonal" | "sobol" | "equispaced" | "lebedev" | "axes"
        Independent uniform; rows of Haar orthogonal matrices; scrambled Sobol points through the Gaussian; midpoints of
        equal arcs of the half circle; a Lebedev quadrature rule (use its weights too: :func:`direction_weights`); the
        coordinate axes.
    rng : int, SeedSequence, BitGenerator or Generator, optional
        Source of the random numbers of the first three (SPEC 7); fresh entropy by default. The same seed gives the same
        bits with the same versions on one machine, and the same directions up to rounding error on another: LAPACK,
        which computes "orthogonal", rounds as the processor's vector instructions make it.

    Returns
    -------
    (L, d) array, one unit row per direction.

    Raises
    ------
    ValueError
        For an unknown method, or a size or dimension that the method does not have.

    See Also
    --------
    direction_weights

    Examples
    --------
    >>> from espref import sample_directions
    >>> sample_directions(2, 2, method="axes")
    array([[1., 0.],
           [0., 1.]])

    References
    ----------
    shahbazi2025espformer (axes), mezzadri2007generate (Haar matrices by QR), sobol1967distribution,
    lebedev1999quadrature
    """
    n, dim = as_count(n_directions, "n_directions"), as_count(dim, "dim")
    as_choice(method, "method", METHODS)
    generator = as_generator(rng)
    if method == "random":
        return _random(n, dim, generator)
    if method == "orthogonal":
        return _orthogonal(n, dim, generator)
    if method == "sobol":
        return _sobol(n, dim, generator)
    if method == "equispaced":
        return _equispaced(n, dim)
    return _lebedev(n, dim)[0] if method == "lebedev" else _axes(n, dim)


@underflow_is_zero
def direction_weights(n_directions: int, dim: int, *, method: str = "random") -> Array:
    """Quadrature weights that belong to :func:`sample_directions`, shape (L,), sum 1: pass them as ``prior``.

    Lebedev rules have weights of their own; those of all other methods are uniform.

    Parameters
    ----------
    n_directions : int
        L, as in :func:`sample_directions`.
    dim : int
        Dimension d of the space.
    method : "random" | "orthogonal" | "sobol" | "equispaced" | "lebedev" | "axes"
        As in :func:`sample_directions`.

    Returns
    -------
    (L,) array
        Nonnegative, sum 1.

    Raises
    ------
    ValueError
        As :func:`sample_directions`.

    See Also
    --------
    sample_directions, expected_sliced_plan

    Examples
    --------
    >>> from espref import direction_weights
    >>> direction_weights(14, 3, method="lebedev").round(4)[[0, -1]]
    array([0.0667, 0.075 ])
    """
    n, dim = as_count(n_directions, "n_directions"), as_count(dim, "dim")
    if as_choice(method, "method", METHODS) == "lebedev":
        return _lebedev(n, dim)[1]
    if method in ("equispaced", "axes"):  # refuse the sizes that they do not have
        sample_directions(n, dim, method=method)
    return np.full(n, 1.0 / n)


# Behind the definition: one function per scheme.


def _normalised(rows: Array) -> Array:
    unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _random(n: int, dim: int, rng: np.random.Generator) -> Array:
    """Independent and uniform on the sphere: a normalised Gaussian."""
    return _normalised(rng.standard_normal((n, dim)))


def _orthogonal(n: int, dim: int, rng: np.random.Generator) -> Array:
    """Rows of independent Haar orthogonal matrices, the last one cut short."""
    gaussians = rng.standard_normal((-(-n // dim), dim, dim))
    q, r = np.linalg.qr(gaussians)
    signs = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)  # without them QR is not Haar
    return np.swapaxes(q * signs[:, None, :], 1, 2).reshape(-1, dim)[:n]


def _sobol(n: int, dim: int, rng: np.random.Generator) -> Array:
    """Scrambled Sobol points of the cube, sent to the sphere through the Gaussian."""
    if dim > stats.qmc.Sobol.MAXDIM:
        raise ValueError(f"dim: expected at most {stats.qmc.Sobol.MAXDIM} for Sobol directions, got {dim}")
    bits = max(int(n - 1).bit_length(), 0)
    cube = stats.qmc.Sobol(dim, scramble=True, rng=rng).random_base2(bits)[:n]
    return _normalised(stats.norm.ppf(cube + 2.0**-31))  # middles of the cells of width 2^-30: never 0, 1/2 or 1


def _equispaced(n: int, dim: int) -> Array:
    """Midpoints of n equal arcs of the half circle (the other half gives the same plans)."""
    if dim != 2:
        raise ValueError(f"dim: expected 2 for equispaced directions, got {dim}")
    odd = 2 * np.arange(n) + 1  # the angles are pi odd / (2 n); those above pi / 2 mirror those below
    small = np.minimum(odd, 2 * n - odd)
    swapped = 2 * small > n  # above pi / 4: the complement, so that axes and diagonals are exact
    angles = np.pi * np.where(swapped, n - small, small) / (2 * n)
    cosines, sines = np.cos(angles), np.where(2 * small == n, np.cos(angles), np.sin(angles))
    x, y = np.where(swapped, sines, cosines), np.where(swapped, cosines, sines)
    return np.column_stack([np.where(odd > n, -x, x), y]) + 0.0  # no negative zero


def _lebedev(n: int, dim: int) -> tuple[Array, Array]:
    """The Lebedev rule with n nodes on the sphere of R^3, and its weights, sum 1."""
    if dim != 3:
        raise ValueError(f"dim: expected 3 for Lebedev directions, got {dim}")
    sizes = []
    for degree in _LEBEDEV_DEGREES:
        nodes, weights = lebedev_rule(degree)
        if len(weights) == n:
            return nodes.T, weights / weights.sum()
        sizes.append(len(weights))
        if len(weights) > n:
            break
    raise ValueError(f"n_directions: expected the size of a Lebedev rule ({', '.join(map(str, sizes))}, ...), got {n}")


def _axes(n: int, dim: int) -> Array:
    """The coordinate axes, ESPFormer's choice."""
    if n != dim:
        raise ValueError(f"n_directions: expected the dimension, {dim}, for axes, got {n}")
    return np.eye(dim)
