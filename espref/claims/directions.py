"""Chapter 2 of the ledger: directions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from .. import directions as dirs
from .._checks import Array
from .ledger import claim

#: (method, number of directions, dimension) for every scheme, in a dimension where it is defined.
SCHEMES = (
    ("random", 40, 7),
    ("orthogonal", 40, 7),
    ("sobol", 40, 7),
    ("equispaced", 40, 2),
    ("lebedev", 50, 3),
    ("axes", 7, 7),
)
#: Dimensions in which the law of random directions is measured; each seed adds one between 13 and 40.
DIMENSIONS = range(1, 13)


def _energies(rows: Array) -> Iterator[tuple[int, int, float]]:
    r"""(k, N, S) for the degrees k = 1, ..., 4: the number N of spherical harmonics of degree k, orthonormal for the
    uniform law, and $S = \frac1L \sum_h (\sum_l Y_h(\theta_l))^2$, the sum over all of them.

    By the addition theorem $S = \frac{N}{L} \sum_{l, l'} P_k(\langle \theta_l, \theta_{l'} \rangle)$ with Gegenbauer's
    polynomial $P_k$, $P_k(1) = 1$. On two points, d = 1, there is one harmonic, of degree 1.
    """
    count, d = rows.shape
    first = float(np.sum(rows.sum(axis=0) ** 2))  # the sum over all pairs of their inner product; its powers follow
    yield 1, d, d * first / count
    if d == 1:
        return
    squares = np.einsum("li,lj->lij", rows, rows).reshape(count, d * d)
    second = float(np.sum(squares.sum(axis=0) ** 2))
    harmonics = math.comb(d + 1, 2) - 1
    yield 2, harmonics, harmonics * (d * second - count**2) / (d - 1) / count
    third = float(np.sum((squares.T @ rows) ** 2))
    harmonics = math.comb(d + 2, 3) - d
    yield 3, harmonics, harmonics * ((d + 2) * third - 3 * first) / (d - 1) / count
    fourth = float(np.sum((squares.T @ squares) ** 2))
    harmonics = math.comb(d + 3, 4) - math.comb(d + 1, 2)
    total = (d + 2) * (d + 4) * fourth - 6 * (d + 2) * second + 3 * count**2
    yield 4, harmonics, harmonics * total / (d * d - 1) / count


def _surprise(rng: np.random.Generator, method: str) -> float:
    """-log10 of the smallest probability of so large an energy, or of so large a deviation of the sum of the fourth
    powers, over all degrees and dimensions.

    A net of Sobol points in many dimensions can be less even in four coordinates together than independent points,
    while each single point is uniform: for degree 4 one point is taken from each of many nets there."""
    worst = 0.0
    for d in (*DIMENSIONS, int(rng.integers(13, 41))):
        large = d > max(DIMENSIONS)
        for degrees, size in (((1, 2, 3), 8192), ((4,), 1024)) if large else (((1, 2, 3, 4), 4096),):
            nets, count = (256, 1) if method == "sobol" and degrees == (4,) else (1, size)
            count = count // d * d if method == "orthogonal" else count
            rows = np.vstack([dirs.sample_directions(count, d, method=method, rng=rng) for _ in range(nets)])
            for degree, harmonics, energy in itertools.islice(_energies(rows), max(degrees)):
                factor = {2: 0.0, 4: 1 + 3 / (d + 1)}.get(degree, 1.0) if method == "orthogonal" else 1.0
                if factor and degree in degrees:  # without it the energy is 0: see directions.second-moment
                    worst = max(worst, float(-stats.chi2.logsf(energy / factor, harmonics) / np.log(10)))
                if degree == 4:
                    mean, second = 3 / (d + 2), (105 + 9 * (d - 1)) / ((d + 2) * (d + 4) * (d + 6))
                    error = np.sqrt(factor * (second - mean**2) / len(rows))
                    worst = max(worst, _two_sided((np.sum(rows**4) / len(rows) - mean) / error))
    return worst


def _two_sided(deviation: float) -> float:
    """-log10 of the probability that a standard normal variable deviates as much."""
    return float(-(stats.norm.logsf(abs(deviation)) + np.log(2)) / np.log(10))


@claim(
    "directions.unit-length",
    kind="property",
    on="seed",
    tolerance=1e-14,
    source="",
    statement=r"Every scheme returns unit vectors: $|\theta_l| = 1$.",
    measured=r"largest deviation of a length",
)
def unit_length(rng: np.random.Generator) -> float:
    """Rows are normalised, or are unit vectors by construction."""
    sampled = (dirs.sample_directions(n, d, method=method, rng=rng) for method, n, d in SCHEMES)
    return max(float(abs(np.linalg.norm(rows, axis=1) - 1).max()) for rows in sampled)


@claim(
    "directions.orthogonal-blocks",
    kind="property",
    on="seed",
    tolerance=1e-14,
    source="",
    statement=r"The rows of each block $\Theta$ of $d$ orthogonal directions are orthonormal: $\Theta "
    r"\Theta^\top = I$.",
    measured=r"largest deviation of an entry of $\Theta \Theta^\top$, for $d = 6$",
)
def orthogonal_blocks(rng: np.random.Generator) -> float:
    """The blocks are the orthogonal factors of QR decompositions."""
    blocks = dirs.sample_directions(30, 6, method="orthogonal", rng=rng).reshape(5, 6, 6)
    return float(abs(blocks @ blocks.swapaxes(1, 2) - np.eye(6)).max())


@claim(
    "directions.orthogonal-is-haar",
    kind="measurement",
    on="seed",
    tolerance=10,
    source="mezzadri2007generate",
    statement=r"Blocks of orthogonal directions follow the Haar measure on the orthogonal group $O(d)$. In particular "
    r"every direction is uniform on the sphere, and the trace has mean 0 and second moment 1.",
    measured=r"$-\log_{10}$ of the smallest probability of so large a deviation of these two moments for $d = 2, 3, "
    r"5$, or of a moment of the directions of degree at most 4 for $d = 1 \dots 12$ and one larger dimension",
)
def orthogonal_is_haar(rng: np.random.Generator) -> float:
    r"""The orthogonal factor of QR, with the correction of signs, has this law. The trace is the character of the
    representation on $R^d$, which is irreducible: its mean is 0 and its second moment is 1.

    For the directions alone see `directions.random-is-uniform`. In a block two different directions are orthogonal, and
    for $k = 4$ the sum over a block of a harmonic has $1 + (d - 1) P_4(0) = 1 + 3 / (d + 1)$ times the variance that
    independent directions give; for $k = 2$ the sum vanishes."""
    worst = _surprise(rng, "orthogonal")
    for d in (2, 3, 5):
        traces = dirs.sample_directions(2000 * d, d, method="orthogonal", rng=rng).reshape(-1, d, d).trace(0, 1, 2)
        for values, mean in ((traces, 0), (traces**2, 1)):
            worst = max(worst, _two_sided((values.mean() - mean) / (values.std() / np.sqrt(len(values)))))
    return worst


@orthogonal_is_haar.without("the correction of signs after QR", at_least=20)
def haar_without_signs(rng: np.random.Generator) -> float:
    """The diagonal of the triangular factor is then negative, and so is the mean of the trace."""
    traces = np.linalg.qr(rng.normal(size=(2000, 3, 3)))[0].trace(0, 1, 2)
    return _two_sided(traces.mean() / (traces.std() / np.sqrt(len(traces))))


@claim(
    "directions.second-moment",
    kind="theorem",
    on="seed",
    tolerance=1e-14,
    source="",
    statement=r"Two or more equispaced directions of the plane, whole blocks of orthogonal directions, the "
    r"axes, and the nodes of a Lebedev rule with its weights have the second moment of the sphere: $\sum_l "
    r"\pi_l\, \theta_l \theta_l^\top = I / d$.",
    measured=r"largest deviation of an entry",
    corrected="0.2.0: an earlier version did not exclude a single equispaced direction, for which it is false.",
)
def second_moment(rng: np.random.Generator) -> float:
    """For an orthonormal basis the sum of the projections is the identity; for two or more equispaced angles t the
    sums of cos 2t and sin 2t vanish; every Lebedev rule integrates quadratic polynomials exactly."""
    worst, sizes = 0.0, [("equispaced", n, 2) for n in (2, 3, 9)] + [("lebedev", n, 3) for n in (6, 14, 50)]
    sizes += [("orthogonal", 3 * d, d) for d in (*DIMENSIONS, 33)] + [("axes", d, d) for d in (*DIMENSIONS, 33)]
    for method, n, d in sizes:
        rows = dirs.sample_directions(n, d, method=method, rng=rng)
        weights = dirs.direction_weights(n, d, method=method)
        worst = max(worst, float(abs(rows.T @ (weights[:, None] * rows) - np.eye(d) / d).max()))
    return worst


@second_moment.without("a balanced scheme: independent random directions", at_least=1e-3)
def random_moment(rng: np.random.Generator) -> float:
    """Independent directions have it only in expectation."""
    rows = dirs.sample_directions(15, 5, rng=rng)
    return float(abs(rows.T @ rows / 15 - np.eye(5) / 5).max())


@second_moment.without("two directions: a single equispaced one", at_least=0.4, on="fixed")
def moment_of_one() -> float:
    """The one direction of the scheme is an axis, with second moment 1 along itself and 0 across."""
    row = dirs.sample_directions(1, 2, method="equispaced")
    return float(abs(row.T @ row - np.eye(2) / 2).max())


@claim(
    "directions.random-is-uniform",
    kind="measurement",
    on="seed",
    tolerance=10,
    source="",
    statement=r"Random and Sobol directions are uniform on the sphere, in every dimension. In particular all their "
    r"moments up to degree 4 are those of the sphere: $\mathrm{E}\, \theta = 0$, $\mathrm{E}\, \theta \theta^\top = "
    r"I / d$, $\mathrm{E}\, \theta_i \theta_j \theta_k = 0$ and $\mathrm{E}\, \theta_i \theta_j \theta_k \theta_l = "
    r"(\delta_{ij} \delta_{kl} + \delta_{ik} \delta_{jl} + \delta_{il} \delta_{jk}) / (d (d + 2))$.",
    measured=r"$-\log_{10}$ of the smallest probability that independent directions deviate as much in the moments of "
    r"one degree, over the degrees 1 to 4, $d = 1 \dots 12$ and one larger dimension, and about 1000 directions",
)
def random_is_uniform(rng: np.random.Generator) -> float:
    r"""A Gaussian vector is invariant under rotations, so its direction is uniform.

    *What is measured.* The moments of degree at most 4 are right if and only if all spherical harmonics of the degrees
    $k = 1, \dots, 4$ have mean 0. For independent uniform directions $\frac{1}{\sqrt L} \sum_l Y_h(\theta_l)$ is
    asymptotically a standard normal variable for each of the $N$ orthonormal harmonics of degree $k$, so that the sum
    of their squares follows $\chi^2_N$. By the addition theorem it is $\frac{N}{L} \sum_{l, l'} P_k(\langle \theta_l,
    \theta_{l'} \rangle)$, which misses no moment. Nets of Sobol points deviate less."""
    return max(_surprise(rng, method) for method in ("random", "sobol"))


@random_is_uniform.without("invariance under rotations: a normalised point of the cube", at_least=20)
def normalised_cube(rng: np.random.Generator) -> float:
    """First, second and third moments are right by symmetry. The fourth are not: the corners are favoured."""
    rows = rng.uniform(-1, 1, size=(1024, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return float(max(-stats.chi2.logsf(energy, n) / np.log(10) for k, n, energy in _energies(rows) if k == 4))


@claim(
    "directions.bases-miss-degree-four",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"Let $d \ge 2$. No orthonormal basis integrates the polynomials of degree 4 as the sphere does: with "
    r"$P_4$ Gegenbauer's polynomial, $P_4(1) = 1$, $\frac1d \sum_{l, l'} P_4(\langle \theta_l, \theta_{l'} \rangle) = "
    r"1 + \frac{3}{d + 1}$, where exactness means 0. The axes are furthest off: $\frac1d \sum_l \theta_{l, i}^4 = "
    r"\frac1d$ is $\frac{d + 2}{3}$ times the mean over the sphere, and the most that a basis can have.",
    measured=r"largest relative deviation of the first sum for blocks of orthogonal directions, and largest deviation "
    r"of an axis from the standard basis, for $d = 2 \dots 12$",
)
def bases_miss_degree_four(rng: np.random.Generator) -> float:
    r"""$P_4(0) = 3 / ((d - 1)(d + 1))$, and the sum has $d$ terms $P_4(1)$ and $d (d - 1)$ terms $P_4(0)$. By the
    addition theorem it is $d$ times the sum of squares of the means of all harmonics of degree 4. For an orthonormal
    basis $\sum_l \theta_{l, i}^2 = 1$, so that $\sum_l \theta_{l, i}^4 \le 1$; the mean over the sphere is $3 / (d
    (d + 2))$."""
    worst = 0.0
    for d in range(2, 13):
        block = dirs.sample_directions(d, d, method="orthogonal", rng=rng)
        harmonics, energy = next((n, energy) for k, n, energy in _energies(block) if k == 4)
        worst = max(worst, abs(energy / harmonics / (1 + 3 / (d + 1)) - 1))
        worst = max(worst, float(abs(dirs.sample_directions(d, d, method="axes") - np.eye(d)).max()))
    return worst


@bases_miss_degree_four.without("a basis: three equispaced directions of the plane", at_least=0.99, on="fixed")
def three_directions() -> float:
    """They integrate all even polynomials of degree 4: the sum vanishes, instead of being 2."""
    rows = dirs.sample_directions(3, 2, method="equispaced")
    return float(next(abs(energy / n / 2 - 1) for k, n, energy in _energies(rows) if k == 4))


@claim(
    "directions.equispaced-is-exact",
    kind="theorem",
    on="fixed",
    tolerance=1e-14,
    source="",
    statement=r"The $L$ equispaced directions of the plane, $\theta_l = (\cos t_l, \sin t_l)$ with $t_l = \pi (l + "
    r"\frac12) / L$, $l = 0, \dots, L - 1$, integrate every even polynomial of degree at most $2 L - 2$ exactly: "
    r"$\sum_l e^{2 i k t_l} = 0$ for $0 < k < L$.",
    measured=r"largest deviation of a direction from this one, or of such a mean from 0, for $L = 1 \dots 40$",
)
def equispaced_is_exact() -> float:
    r"""An even polynomial on the circle is a combination of $e^{2 i k t}$ with $2 |k|$ at most its degree. The sum is
    geometric: $e^{i \pi k / L} \sum_l e^{2 \pi i k l / L}$, which vanishes unless $L$ divides $k$."""
    worst = 0.0
    for count in range(1, 41):
        rows = dirs.sample_directions(count, 2, method="equispaced")
        points, weights = rows[:, 0] + 1j * rows[:, 1], dirs.direction_weights(count, 2, method="equispaced")
        worst = max(worst, float(abs(points - np.exp(1j * np.pi * (np.arange(count) + 0.5) / count)).max()))
        worst = max([worst] + [float(abs(weights @ points ** (2 * k))) for k in range(1, min(count, 8))])
    return worst


@equispaced_is_exact.without("the bound on the degree: degree $2 L$", at_least=0.99)
def degree_too_high() -> float:
    """All terms of the sum are then equal, and it has modulus L."""
    rows = dirs.sample_directions(7, 2, method="equispaced")
    return float(abs(np.mean((rows[:, 0] + 1j * rows[:, 1]) ** 14)))


@claim(
    "directions.lebedev-is-exact",
    kind="theorem",
    on="fixed",
    tolerance=1e-13,
    source="",
    statement=r"The Lebedev rules of 6, 14, 26, 38, 50 and 86 points with their weights integrate all polynomials of "
    r"degree at most 3, 5, 7, 9, 11 and 15 exactly. For the monomials $\theta_1^i \theta_2^j \theta_3^k$ the integral "
    r"over the sphere is $\frac{(i - 1)!!\, (j - 1)!!\, (k - 1)!!}{(i + j + k + 1)!!}$ if $i$, $j$ and $k$ are even, "
    r"and 0 otherwise.",
    measured=r"largest deviation over all these monomials",
)
def lebedev_is_exact() -> float:
    r"""That is how the rules are made. The integrals follow from those of a Gaussian vector, whose length and direction
    are independent: divide $\mathrm{E}\, g_1^i g_2^j g_3^k$ by $\mathrm{E}\, |g|^{i + j + k} = (i + j + k + 1)!!$."""

    def double_factorial(n: int) -> int:
        return math.prod(range(n, 0, -2))

    worst = 0.0
    for size, degree in ((6, 3), (14, 5), (26, 7), (38, 9), (50, 11), (86, 15)):
        rows = dirs.sample_directions(size, 3, method="lebedev")
        weights = dirs.direction_weights(size, 3, method="lebedev")
        for i, j, k in np.ndindex(degree + 1, degree + 1, degree + 1):
            if i + j + k <= degree:
                odd = i % 2 or j % 2 or k % 2
                exact = 0.0 if odd else math.prod(double_factorial(e - 1) for e in (i, j, k))
                mean = weights @ (rows[:, 0] ** i * rows[:, 1] ** j * rows[:, 2] ** k)
                worst = max(worst, float(abs(mean - exact / double_factorial(i + j + k + 1))))
    return worst


@lebedev_is_exact.without("its weights: uniform ones instead", at_least=1e-4)
def lebedev_unweighted() -> float:
    """Without its weights the rule is not exact."""
    z = dirs.sample_directions(50, 3, method="lebedev")[:, 2]
    return float(max(abs(np.mean(z ** (2 * k)) - 1 / (2 * k + 1)) for k in range(6)))


@claim(
    "directions.same-seed-same-bits",
    kind="property",
    on="seed",
    tolerance=0,
    source="",
    statement=r"In every scheme the same seed gives the same directions, bit for bit on one machine, and up to "
    r"rounding error on another. In the random schemes another seed gives other directions.",
    measured=r"number of violations on this machine",
)
def same_seed(rng: np.random.Generator) -> float:
    """All random numbers come from a generator that the seed starts."""
    seed, violations = int(rng.integers(2**31)), 0
    for method, n, d in SCHEMES:
        first, again, other = (dirs.sample_directions(n, d, method=method, rng=s) for s in (seed, seed, seed + 1))
        violations += not np.array_equal(first, again)
        violations += method in ("random", "orthogonal", "sobol") and np.array_equal(first, other)
    return float(violations)


@claim(
    "directions.separate-vectors-by-their-angle",
    kind="measurement",
    on="seed",
    tolerance=6,
    source="",
    statement=r"In every dimension the hyperplane orthogonal to a uniform direction separates two vectors with "
    r"probability $\frac\alpha\pi$, $\alpha$ being the angle between them.",
    measured=r"largest deviation of the share of 4096 directions, in standard errors of independent ones, over "
    r"random, orthogonal and Sobol directions and $d = 2 \dots 8$",
)
def separate_vectors(rng: np.random.Generator) -> float:
    r"""Only the projection on the plane of the two vectors matters, and its direction is uniform on a circle. There
    the directions that separate them fill two opposite sectors of the angle $\alpha$. It is the exact plan of two
    points against two (`circle.two-points-angle`), and a yardstick in every dimension."""
    worst = 0.0
    for method in ("random", "orthogonal", "sobol"):
        for d in range(2, 9):
            u, v = rng.normal(size=(2, d))
            share = np.arccos(u @ v / (np.linalg.norm(u) * np.linalg.norm(v))) / np.pi
            rows = dirs.sample_directions(4096, d, method=method, rng=rng)
            error = np.sqrt(share * (1 - share) * (2 if method == "orthogonal" else 1) / 4096)
            worst = max(worst, float(abs(np.mean((rows @ u) * (rows @ v) < 0) - share) / error))
    return worst


@separate_vectors.without("uniform directions: the axes", at_least=15, on="fixed")
def separated_by_axes() -> float:
    """Two vectors with positive coordinates, at an angle of more than 60 degrees, are separated by no axis."""
    rows, u, v = dirs.sample_directions(2, 2, method="axes"), np.array([1.0, 0.1]), np.array([0.1, 1.0])
    share = np.arccos(u @ v / (np.linalg.norm(u) * np.linalg.norm(v))) / np.pi
    return float(abs(np.mean((rows @ u) * (rows @ v) < 0) - share) / np.sqrt(share * (1 - share) / 4096))
