"""Chapter 2 of the ledger: directions."""

from __future__ import annotations

import numpy as np

from .. import directions as dirs
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
    tolerance=5,
    source="mezzadri2007generate",
    statement=r"Blocks of orthogonal directions follow the Haar measure on the orthogonal group. For $d = 2$ "
    r"their trace then has mean 0 and second moment 1.",
    measured=r"larger deviation of these two moments over 4000 blocks, in standard errors",
)
def orthogonal_is_haar(rng: np.random.Generator) -> float:
    """Half of O(2) are rotations, whose trace 2 cos t has second moment 2; half are reflections, whose trace is 0. The
    orthogonal factor of QR, without the correction of signs, does not have this law: its mean is shifted."""
    traces = dirs.sample_directions(8000, 2, method="orthogonal", rng=rng).reshape(-1, 2, 2).trace(axis1=1, axis2=2)
    deviations = [abs(s.mean() - mean) / (s.std() / np.sqrt(len(s))) for s, mean in ((traces, 0), (traces**2, 1))]
    return float(max(deviations))


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
)
def second_moment(rng: np.random.Generator) -> float:
    """For an orthonormal basis the sum of the projections is the identity; for equispaced angles t the sums of cos 2t
    and sin 2t vanish; every Lebedev rule integrates quadratic polynomials exactly."""
    worst = 0.0
    for method, n, d in (("equispaced", 9, 2), ("orthogonal", 15, 5), ("axes", 4, 4), ("lebedev", 14, 3)):
        rows = dirs.sample_directions(n, d, method=method, rng=rng)
        weights = dirs.direction_weights(n, d, method=method)
        worst = max(worst, float(abs(rows.T @ (weights[:, None] * rows) - np.eye(d) / d).max()))
    return worst


@second_moment.without("a balanced scheme: independent random directions", at_least=1e-3)
def random_moment(rng: np.random.Generator) -> float:
    """Independent directions have it only in expectation."""
    rows = dirs.sample_directions(15, 5, rng=rng)
    return float(abs(rows.T @ rows / 15 - np.eye(5) / 5).max())


@claim(
    "directions.random-is-uniform",
    kind="measurement",
    on="seed",
    tolerance=5,
    source="",
    statement=r"Random and Sobol directions are uniform on the sphere. In particular $\mathrm{E}\, \theta = 0$ "
    r"and $\mathrm{E}\, \theta \theta^\top = I / d$.",
    measured=r"largest deviation of these moments over 4096 directions of $R^3$, in standard errors",
)
def random_is_uniform(rng: np.random.Generator) -> float:
    """A Gaussian vector is invariant under rotations, so its direction is uniform."""
    worst = 0.0
    for method in ("random", "sobol"):
        rows = dirs.sample_directions(4096, 3, method=method, rng=rng)
        mean = np.abs(rows.mean(axis=0)).max() * np.sqrt(3)
        spread = np.abs(rows.T @ rows / len(rows) - np.eye(3) / 3).max() / np.sqrt(4 / 45)
        worst = max(worst, mean * np.sqrt(len(rows)), spread * np.sqrt(len(rows)))
    return float(worst)


@claim(
    "directions.lebedev-is-exact",
    kind="theorem",
    on="fixed",
    tolerance=1e-13,
    source="",
    statement=r"The 50-point Lebedev rule with its weights integrates the even moments of the sphere exactly "
    r"up to degree 10: $\sum_l \pi_l\, \theta_{l,3}^{2k} = 1 / (2k + 1)$ for $2k \le 10$.",
    measured=r"largest deviation of a moment",
)
def lebedev_is_exact() -> float:
    """On the unit sphere of $R^3$ each coordinate is uniform on [-1, 1] (Archimedes)."""
    z = dirs.sample_directions(50, 3, method="lebedev")[:, 2]
    weights = dirs.direction_weights(50, 3, method="lebedev")
    return float(max(abs(weights @ z ** (2 * k) - 1 / (2 * k + 1)) for k in range(6)))


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
