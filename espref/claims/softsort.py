"""Chapter 6 of the ledger: soft sorting, what softness costs, and the balanced repair."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .. import softsort as ss
from .ledger import claim

#: Temperatures over which claims are measured, for scores of unit variance.
TAUS = (1e-6, 1e-3, 0.03, 0.3, 3.0, 1e3)
KINDS = tuple((power, sort) for power in (1, 2) for sort in ("soft", "balanced"))


def _every(s: np.ndarray, taus=TAUS):
    """(soft sort, tau, power, sort) for both kernels, both normalisations and every tau."""
    for power, sort in KINDS:
        for tau in taus:
            yield ss.soft_permutation(s, tau, power=power, sort=sort), tau, power, sort


@claim(
    "softsort.rows-sum-to-one",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="prillo2020softsort",
    statement=r"Every row of a soft sort is a probability vector: $P \ge 0$, $P 1 = 1$.",
)
def rows_sum(rng: np.random.Generator) -> float:
    """Rows are divided by their sums; balanced ones are scaled until they sum to 1."""
    s = rng.normal(size=40)
    return max(max(float(abs(p.sum(axis=1) - 1).max()), -float(p.min())) for p, *_ in _every(s))


@claim(
    "softsort.rows-are-unimodal",
    kind="theorem",
    on="seed",
    tolerance=1e-14,
    source="prillo2020softsort",
    statement=r"Row $i$ of SoftSort, read in sorted order, rises up to the score of rank $i$ and falls after it.",
)
def unimodal(rng: np.random.Generator) -> float:
    """The kernel falls with the distance from the i-th smallest score, and sorting orders the distances."""
    s, worst = rng.normal(size=40), 0.0
    for p, _, _, sort in _every(s):
        if sort == "soft":
            steps = np.diff(p[:, np.argsort(s)], axis=1)
            signs = np.where(np.arange(len(s) - 1) >= np.arange(len(s))[:, None], 1, -1)
            worst = max(worst, float((steps * signs).max()))
    return worst


@claim(
    "softsort.small-tau",
    kind="theorem",
    on="seed",
    tolerance=1e-15,
    source="prillo2020softsort",
    statement=r"Without ties SoftSort tends to the sorting permutation: $|P_{ij} - 1[j = \sigma(i)]| \le (n - 1)\, "
    r"e^{-g^q / \tau}$, with $g$ the smallest gap between scores. Largest violation.",
)
def small_tau(rng: np.random.Generator) -> float:
    """Off the diagonal K is at most the bound's exponential, and the row sum is at least 1."""
    s, worst = rng.normal(size=20), 0.0
    permutation = np.eye(20)[np.argsort(s)]
    gap = np.diff(np.sort(s)).min()
    for power in (1, 2):
        for scale in (0.02, 0.1, 0.5, 2.0):
            tau = scale * gap**power
            off = abs(ss.soft_permutation(s, tau, power=power) - permutation).max()
            worst = max(worst, float(off - 19 * np.exp(-1 / scale)))
    return worst


@small_tau.without("the absence of ties", at_least=0.4, on="fixed")
def tied_limit() -> float:
    """Two equal scores share both ranks at every tau."""
    return float(abs(ss.soft_permutation([0.0, 0.0, 1.0], 1e-9) - np.eye(3)).max())


@claim(
    "softsort.limits",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="prillo2020softsort",
    statement=r"As $\tau \to 0$ both soft sorts tend to the permutation averaged over ties, as $\tau \to \infty$ to "
    r"$\frac1n 1 1^\top$. Measured on scores with ties at $\tau = 10^{-9}$ and $10^{12}$.",
)
def limits(rng: np.random.Generator) -> float:
    """The kernel tends to the indicator of equal scores, or to 1; both are balanced within a class."""
    s, worst = rng.integers(0, 8, 20).astype(float), 0.0
    ordered = np.sort(s)
    equal = ordered[:, None] == s
    hard = equal / equal.sum(axis=1, keepdims=True)
    for p, tau, _, _ in _every(s, (0.0, 1e-9, 1e12)):
        worst = max(worst, float(abs(p - (1 / 20 if tau > 1 else hard)).max()))
    return worst


@claim(
    "softsort.invariances",
    kind="theorem",
    on="seed",
    tolerance=1e-11,
    source="prillo2020softsort",
    statement=r"$P_\tau(s + t) = P_\tau(s)$, $P_{c^q \tau}(c\, s) = P_\tau(s)$ for $c > 0$, and $P(s \Pi) = "
    r"P(s)\, \Pi$ for a permutation $\Pi$ of the scores.",
)
def invariances(rng: np.random.Generator) -> float:
    """Only differences of scores over tau to the power 1/q enter, and columns follow their scores."""
    s, order, worst = rng.normal(size=25), rng.permutation(25), 0.0
    for p, tau, power, sort in _every(s, (0.03, 1.0)):
        shifted = ss.soft_permutation(s + 4, tau, power=power, sort=sort)
        scaled = ss.soft_permutation(8 * s, 8**power * tau, power=power, sort=sort)
        permuted = ss.soft_permutation(s[order], tau, power=power, sort=sort)
        worst = max(worst, *(float(abs(a - b).max()) for a, b in ((p, shifted), (p, scaled), (p[:, order], permuted))))
    return worst


@claim(
    "softsort.sorts-softly",
    kind="theorem",
    on="seed",
    tolerance=1e-11,
    source="",
    statement=r"The soft-sorted scores $P s$ are ascending at every $\tau$, for both kernels and both "
    r"normalisations. The residual is the largest descent.",
)
def sorts_softly(rng: np.random.Generator) -> float:
    r"""$e^{-|s - t|^q / \tau}$ with q >= 1 is a log-concave function of s - t, hence totally positive of order 2,
    and stays so when rows and columns are scaled: each row's distribution stochastically dominates the row above."""
    s = rng.normal(size=40)
    return max(float(-np.diff(p @ s).min()) for p, *_ in _every(s))


@sorts_softly.without(
    "log-concavity of the kernel: $e^{-(|t| - 1)^2 / \\tau}$ looks away from itself", at_least=0.9, on="fixed"
)
def looking_away() -> float:
    """Two scores at distance 1 look at each other, and are sorted downwards."""
    s = np.array([0.0, 1.0])
    kernel = np.exp(-((abs(s[:, None] - s) - 1) ** 2) / 0.1)
    return float(-np.diff((kernel / kernel.sum(axis=1, keepdims=True)) @ s).min())


@claim(
    "softsort.column-sums-follow-density",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"With the local density $Z = K 1$, the column sum of SoftSort at score $j$ is a mean of $Z_j / "
    r"Z_i$ with weights $K_{ij} / Z_j$: it lies between $\min_i Z_j / Z_i$ and $\max_i Z_j / Z_i$, and is 1 where "
    r"the density is locally constant. Largest violation.",
)
def column_sums(rng: np.random.Generator) -> float:
    r"""$c_j = \sum_i K_{ij} / Z_i = \sum_i (K_{ij} / Z_j)\, Z_j / Z_i$, and the weights sum to 1 by symmetry of K."""
    s, worst = rng.normal(size=40), 0.0
    for power in (1, 2):
        for tau in TAUS:
            sums = ss.soft_permutation(s, tau, power=power).sum(axis=0)
            distances = abs(s[:, None] - s) ** power
            kernel = np.exp(-distances / tau)
            density = kernel.sum(axis=1)
            ratios = density / density[:, None]  # Z_j / Z_i
            mean = (kernel / density * ratios).sum(axis=0)
            bounds = max((ratios.min(axis=0) - sums).max(), (sums - ratios.max(axis=0)).max())
            worst = max(worst, float(abs(mean - sums).max()), float(bounds))
    return worst


@claim(
    "softsort.is-doubly-stochastic",
    kind="refutation",
    on="seed",
    tolerance=0.15,
    source="prillo2020softsort, shahbazi2025espformer",
    statement=r"“A soft sort has column sums 1, like the permutation it relaxes.” SoftSort of 128 Gaussian scores "
    r"with the Gauss kernel at $\tau = 0.032$ (the released ESPFormer's setting for heads of 32 coordinates) "
    r"misses them; the residual is the largest deviation.",
)
def not_doubly_stochastic(rng: np.random.Generator) -> float:
    """Rows are normalised, columns are not; crowded scores receive more than lonely ones."""
    return float(abs(ss.soft_permutation(rng.normal(size=128), 0.032, power=2).sum(axis=0) - 1).max())


@claim(
    "softsort.defect-vanishes-at-both-ends",
    kind="measurement",
    on="seed",
    tolerance=1e-6,
    source="",
    statement=r"The largest deviation of SoftSort's column sums from 1 vanishes as $\tau \to 0$ and as $\tau \to "
    r"\infty$ (here $10^{-9}$ and $10^{9}$), and not between.",
)
def defect_ends(rng: np.random.Generator) -> float:
    """Both limits, the permutation and the constant matrix, are doubly stochastic."""
    s = rng.normal(size=50)
    return max(float(abs(ss.soft_permutation(s, tau, power=q).sum(axis=0) - 1).max()) for tau in (1e-9, 1e9) for q in (1, 2))


@defect_ends.without("extreme $\\tau$: here 0.1", at_least=0.1)
def defect_middle(rng: np.random.Generator) -> float:
    """Between the ends the local density of the scores shows."""
    s = rng.normal(size=50)
    return min(float(abs(ss.soft_permutation(s, 0.1, power=q).sum(axis=0) - 1).max()) for q in (1, 2))


@claim(
    "softsort.kernel-is-positive-definite",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"In sorted order $K_{ij} = e^{-|s_{(i)} - s_{(j)}|^q / \tau}$ is symmetric and positive "
    r"semidefinite for $q = 1, 2$ (definite without ties). The residual is the most negative eigenvalue over the "
    r"largest, or asymmetry.",
)
def positive_definite(rng: np.random.Generator) -> float:
    """Both are Fourier transforms of positive measures, Cauchy's and Gauss's (Bochner)."""
    ordered, worst = np.sort(rng.normal(size=40)), 0.0
    for power in (1, 2):
        for tau in TAUS:
            kernel = ss.sort_kernel(ordered, tau, power)
            values = np.linalg.eigvalsh(kernel)
            worst = max(worst, float(-values[0] / values[-1]), float(abs(kernel - kernel.T).max()))
    return worst


@positive_definite.without("$q \\le 2$: the kernel $e^{-t^4}$", at_least=1e-3, on="fixed")
def fourth_power() -> float:
    """Its Fourier transform takes negative values."""
    ordered = np.linspace(-3, 3, 30)
    values = np.linalg.eigvalsh(np.exp(-((ordered[:, None] - ordered) ** 4)))
    return float(-values[0] / values[-1])


@claim(
    "softsort.balanced-is-doubly-stochastic",
    kind="theorem",
    on="seed",
    tolerance=1e-11,
    source="marshall1968scaling, sinkhorn1967diagonal",
    statement=r"The balanced soft sort $\mathrm{diag}(d)\, K\, \mathrm{diag}(d)\, \Pi$ is doubly stochastic at "
    r"every $\tau$, ties and outliers included: largest deviation of rows and columns from 1.",
)
def balanced_marginals(rng: np.random.Generator) -> float:
    """A symmetric matrix with positive entries has exactly one symmetric scaling of that kind."""
    outlier = np.append(rng.normal(size=30), 1e6)
    worst = 0.0
    for s in (rng.normal(size=60), rng.integers(0, 5, 30).astype(float), outlier):
        for p, _, _, sort in _every(s):
            if sort == "balanced":
                worst = max(worst, *(float(abs(p.sum(axis=axis) - 1).max()) for axis in (0, 1)))
    return worst


@claim(
    "softsort.balanced-scaling-is-unique",
    kind="theorem",
    on="seed",
    tolerance=1e-10,
    source="marshall1968scaling",
    statement=r"The scaling $d > 0$ with $\mathrm{diag}(d)\, K\, \mathrm{diag}(d)\, 1 = 1$ is unique: the "
    r"iteration reaches the same $d$ from random starts. Relative difference.",
)
def unique_scaling(rng: np.random.Generator) -> float:
    r"""It is the stationary point of the strictly convex function $\frac12 \sum_{ij} e^{u_i} K_{ij} e^{u_j} -
    \sum_i u_i$."""
    kernel, worst = ss.sort_kernel(np.sort(rng.normal(size=40)), 0.1), 0.0
    plain = ss.balance(kernel, np.ones(40))
    for _ in range(4):
        other = ss.fixed_point(lambda d: kernel @ d, np.exp(rng.normal(size=40)))
        worst = max(worst, float(abs(other / plain - 1).max()))
    return worst


@claim(
    "softsort.balanced-jacobian",
    kind="theorem",
    on="seed",
    tolerance=1e-6,
    source="",
    statement=r"At the fixed point the map $d \mapsto \sqrt{d / (K d)}$ has in $\log d$ the Jacobian $\frac12 (I "
    r"- S)$ with $S = \mathrm{diag}(d)\, K\, \mathrm{diag}(d)$ (finite differences), whose eigenvalues lie in "
    r"$[0, \frac12]$.",
)
def jacobian(rng: np.random.Generator) -> float:
    """Differentiate; S is doubly stochastic and positive semidefinite, so its spectrum lies in [0, 1]."""
    kernel, step, worst = ss.sort_kernel(np.sort(rng.normal(size=15)), 0.3), 1e-5, 0.0
    d = ss.balance(kernel, np.ones(15))
    columns = []
    for unit in np.eye(15):
        up, down = d * np.exp(step * unit), d * np.exp(-step * unit)
        columns.append((np.log(up / (kernel @ up)) - np.log(down / (kernel @ down))) / (4 * step))
    scaled = d[:, None] * kernel * d
    worst = float(abs(np.array(columns).T - (np.eye(15) - scaled) / 2).max())
    values = np.linalg.eigvalsh((np.eye(15) - scaled) / 2)
    return max(worst, float(values[-1] - 0.5), float(-values[0]))


@claim(
    "softsort.balanced-rate",
    kind="measurement",
    on="seed",
    tolerance=0.51,
    source="",
    statement=r"Near the fixed point every round of the balanced scaling shrinks the error in $\log d$ (Euclidean "
    r"norm) to at most one half, whatever $\tau$: the residual is the largest ratio of successive errors below "
    r"$10^{-2}$.",
)
def rate(rng: np.random.Generator) -> float:
    """The Jacobian is symmetric with norm at most 1/2; the remainder is quadratic."""
    worst = 0.0
    for tau in (1e-3, 0.03, 1.0):
        for power in (1, 2):
            kernel = ss.sort_kernel(np.sort(rng.normal(size=60)), tau, power)
            fixed = np.log(ss.balance(kernel, np.ones(60)))
            d, errors = np.full(60, 1 / np.sqrt(60)), []
            for _ in range(30):
                errors.append(np.linalg.norm(np.log(d) - fixed))
                d = np.sqrt(d / (kernel @ d))
            pairs = [(e, f) for e, f in pairwise(errors) if 1e-8 < e < 1e-2]
            worst = max([worst] + [float(f / e) for e, f in pairs])
    return float(worst)


@claim(
    "softsort.balanced-keeps-the-mean",
    kind="theorem",
    on="seed",
    tolerance=1e-11,
    source="",
    statement=r"Balanced soft sorting keeps the mean of the scores and never increases their variance: $1^\top P "
    r"s = 1^\top s$, $|P s - \bar s| \le |s - \bar s|$. Violations relative to the standard deviation.",
)
def keeps_mean(rng: np.random.Generator) -> float:
    """Columns sum to 1; doubly stochastic matrices have norm 1."""
    s, worst = rng.gamma(1.0, size=40), 0.0
    for p, _, _, sort in _every(s):
        if sort == "balanced":
            softly = p @ s
            worst = max(worst, abs(softly.mean() - s.mean()) / s.std(), softly.std() / s.std() - 1)
    return float(worst)


@keeps_mean.without("balance: SoftSort of skewed scores", at_least=0.01)
def moves_mean(rng: np.random.Generator) -> float:
    """Rows alone sum to 1."""
    s = rng.gamma(1.0, size=40)
    return float(max(abs((p @ s).mean() - s.mean()) for p, _, _, sort in _every(s) if sort == "soft"))
