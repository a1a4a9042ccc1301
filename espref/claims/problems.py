"""The problems that claims are run on: pairs of weighted clouds, synthetic, real, or from the user's files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._checks import Array
from ..directions import sample_directions

#: Unit of rounding.
EPS = float(np.finfo(np.float64).eps)
#: Seeds of the random problems in a run of the whole ledger, on the command line and on the site alike.
SEEDS = 3


class NotMeasurable(Exception):
    """Raised by a check that cannot measure its claim on the given clouds, with the reason."""


@dataclass(frozen=True)
class Problem:
    """A pair of weighted clouds.

    Parameters
    ----------
    name : str
        What reports call it.
    x, y : (n, d) and (m, d) array
        Source and target.
    a, b : (n,) and (m,) array
        Weights, sum 1.
    origin : "synthetic", "real" or "user"
        Where the clouds come from.
    seed : int
        Seed of the random numbers of :meth:`rng`.

    See Also
    --------
    synthetic_problems, real_problems, user_problem

    Examples
    --------
    >>> import numpy as np
    >>> from espref.claims import Problem
    >>> weights = np.array([0.5, 0.5])
    >>> Problem("two points", np.eye(2), np.ones((2, 2)), weights, weights).square
    True
    """

    name: str
    x: Array
    y: Array
    a: Array
    b: Array
    origin: Literal["synthetic", "real", "user"] = "synthetic"
    seed: int = 0

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return int(self.x.shape[1])

    @property
    def square(self) -> bool:
        """n = m and uniform weights on both sides."""
        return len(self.x) == len(self.y) and len(set(self.a) | set(self.b)) == 1

    def rng(self, salt: int = 0) -> np.random.Generator:
        """A generator that belongs to this problem: same problem and ``salt``, same numbers."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), salt])

    def directions(self, n_directions: int = 16) -> Array:
        """Random directions in the problem's space, shape (L, d), the same at every call."""
        return sample_directions(n_directions, self.dim, rng=self.rng(1))


def fits(problem: Problem, scope: str) -> bool:
    """Whether a claim of this scope ("pair", "square", "plane") applies to the problem."""
    return {"pair": True, "square": problem.square, "plane": problem.dim == 2}[scope]


def positive(scale: float, name: str) -> float:
    """The scale that a residual is relative to; a residual relative to zero has no meaning."""
    if not scale > 0:
        raise NotMeasurable(f"{name} is 0")
    return float(scale)


def inverse_temperature(costs: Array) -> float:
    """An inverse temperature at which the Gibbs weights are neither equal nor concentrated on one slice."""
    return 1.0 / positive(max(costs.std(), 1e-3 * costs.max()), "the cost of every slice")


def on_grid(problem: Problem, bits: int) -> tuple[Array, Array]:
    """Both clouds rounded to multiples of 2^-bits of the largest coordinate, so that there is room for exact sums."""
    size = int(np.frexp(max(np.abs(problem.x).max(), np.abs(problem.y).max()))[1]) - bits
    x, y = (np.ldexp(np.rint(np.ldexp(points, -size)), size) for points in (problem.x, problem.y))
    return x, y


def order_is_certain(points: Array, directions: Array) -> NDArray[np.bool_]:
    """Whether rounding can neither tie nor exchange projections of distinct points, for each unit direction, (L,)."""
    distinct = np.unique(points, axis=0)
    gaps = np.diff(np.sort(distinct @ directions.T, axis=0), axis=0)
    dim = points.shape[1]
    slack = (dim + 2) * EPS * np.abs(points).max() * np.abs(directions).sum(axis=1) if dim > 1 else 0.0
    return np.asarray((gaps > slack).all(axis=0))


def uniform(n: int) -> Array:
    """Weights 1/n, shape (n,)."""
    return np.full(n, 1.0 / n)


def _dirichlet(rng: np.random.Generator, n: int, zeros: int) -> Array:
    """Random weights, ``zeros`` of them zero."""
    weights: Array = rng.dirichlet(np.ones(n))
    weights[rng.choice(n, zeros, replace=False)] = 0.0
    weights /= weights.sum()
    return weights


def synthetic_problems(seed: int = 0) -> list[Problem]:
    """Small pairs of clouds that cover sizes, weights, ties, dimensions and scales.

    Parameters
    ----------
    seed : int
        Seed of the random numbers.

    Returns
    -------
    list of Problem
        The same for the same seed.

    See Also
    --------
    real_problems, user_problem

    Examples
    --------
    >>> from espref.claims import synthetic_problems
    >>> [problem.name for problem in synthetic_problems()][:2]
    ['line #0', 'plane #0']
    """
    rng = np.random.default_rng([seed, 314159])
    normal = rng.normal
    grid = np.array([(i, j) for i in range(5) for j in range(4)], dtype=float)
    tag = f" #{seed}"

    def pair(name: str, x: Array, y: Array, a: Array | None = None, b: Array | None = None) -> Problem:
        a = uniform(len(x)) if a is None else a
        b = uniform(len(y)) if b is None else b
        return Problem(name + tag, x, y, a, b, "synthetic", seed)

    n, m = int(rng.integers(25, 40)), int(rng.integers(25, 40))
    return [
        pair("line", normal(size=(n, 1)), 1 + 2 * normal(size=(n, 1))),
        pair("plane", normal(size=(20, 2)), normal(size=(20, 2)) @ [[2, 1], [0, 0.5]] + 1),
        pair(
            "plane, weighted",
            normal(size=(14, 2)),
            normal(size=(19, 2)),
            _dirichlet(rng, 14, 2),
            _dirichlet(rng, 19, 0),
        ),
        pair("grid, tied", grid, np.repeat(grid[::2], 2, axis=0)[rng.permutation(20)] + [1, 0]),
        pair("space", normal(size=(n, 3)), normal(size=(n, 3)) + [2, 0, 0]),
        pair("space, n != m", normal(size=(n, 3)), rng.uniform(-2, 2, size=(m + 16, 3))),
        pair(
            "space, weighted",
            normal(size=(n, 5)),
            normal(size=(m, 5)) * 3,
            _dirichlet(rng, n, 3),
            _dirichlet(rng, m, 4),
        ),
        pair("high dimension", normal(size=(32, 64)), 1e3 * normal(size=(32, 64))),
    ]


def _photograph_colours(name: str, rng: np.random.Generator, n: int) -> Array:
    """Colours of n random pixels of a photograph that scikit-learn ships, in [0, 1]^3."""
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image(name).reshape(-1, 3)
    colours: Array = pixels[rng.choice(len(pixels), n, replace=False)] / 255.0
    return colours


def _digit(rng: np.random.Generator, label: int) -> tuple[Array, Array]:
    """A handwritten digit as ink on the pixel grid: (64, 2) positions and weights; blank pixels weigh zero."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = digits.images[rng.choice(np.flatnonzero(digits.target == label))]
    rows, columns = np.indices(image.shape)
    positions = np.column_stack([columns.ravel(), rows.ravel()[::-1]]).astype(float)
    return positions, image.ravel() / image.sum()


def real_problems(seed: int = 0) -> list[Problem]:
    """Colours of scikit-learn's two photographs, and digits as weighted clouds on their pixel grid (many ties).

    Parameters
    ----------
    seed : int
        Seed of the choice of pixels and digits.

    Returns
    -------
    list of Problem
        The same for the same seed.

    See Also
    --------
    synthetic_problems, user_problem

    Notes
    -----
    Photographs: china.jpg by danielbuechele and flower.jpg by vultilion, both on Flickr, CC BY 2.0.

    Examples
    --------
    >>> from espref.claims import real_problems
    >>> [(problem.name, problem.dim) for problem in real_problems()][-1]
    ('digits 3 and 8 #0', 2)
    """
    rng = np.random.default_rng([seed, 161803])
    tag = f" #{seed}"
    china = _photograph_colours("china.jpg", rng, 120)
    flower = _photograph_colours("flower.jpg", rng, 120)
    palette, counts = np.unique(np.round(flower * 7) / 7, axis=0, return_counts=True)
    three, three_weights = _digit(rng, 3)
    eight, eight_weights = _digit(rng, 8)
    return [
        Problem("photographs" + tag, china, flower, uniform(120), uniform(120), "real", seed),
        Problem("photograph to palette" + tag, china, palette, uniform(120), counts / counts.sum(), "real", seed),
        Problem("digits 3 and 8" + tag, three, eight, three_weights, eight_weights, "real", seed),
    ]


def user_problem(x: Array, y: Array, a: Array | None, b: Array | None, *, max_points: int, seed: int = 0) -> Problem:
    """The user's clouds, reduced at random to at most ``max_points`` points each, since the exact solvers are dense.

    Parameters
    ----------
    x, y : (n, d) and (m, d) array
        Source and target.
    a, b : (n,) and (m,) array, optional
        Weights; uniform by default.
    max_points : int
        Largest number of points of each cloud.
    seed : int
        Seed of the choice of points.

    Returns
    -------
    Problem
        Both clouds, with weights that sum to 1.

    Raises
    ------
    ValueError
        When all points drawn from a cloud have weight zero.

    See Also
    --------
    synthetic_problems, real_problems

    Examples
    --------
    >>> import numpy as np
    >>> from espref.claims import user_problem
    >>> user_problem(np.zeros((9, 2)), np.ones((5, 2)), None, None, max_points=4).x.shape
    (4, 2)
    """
    rng = np.random.default_rng([seed, 141421])

    def thin(points: Array, weights: Array | None) -> tuple[Array, Array]:
        weights = uniform(len(points)) if weights is None else weights
        drawn = np.sort(rng.choice(len(points), min(len(points), max_points), replace=False))
        mass = weights[drawn].sum()
        if mass == 0:
            raise ValueError("weights: all points drawn for verification have weight zero; raise --max-points")
        return points[drawn], weights[drawn] / mass

    (x, a), (y, b) = thin(x, a), thin(y, b)
    return Problem("your clouds", x, y, a, b, "user", seed)
