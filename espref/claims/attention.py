"""Chapter 8 of the ledger: attention as transport."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.optimize import linprog

from .. import attention as at
from .. import lift, planfree, softplan, solvers
from .ledger import claim

TAUS = (1e-3, 0.1, 3.0)


def _tokens(rng: np.random.Generator, n: int = 32, m: int = 32, dim: int = 4) -> tuple[np.ndarray, ...]:
    """Queries, keys and values, each from another distribution."""
    return rng.normal(size=(n, dim)), 1.5 * rng.normal(size=(m, dim)) + 0.5, rng.gamma(1.0, size=(m, 3))


def _doubly_stochastic(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> list[at.Attention]:
    """Attention of all doubly stochastic kinds; for n != m with column sums n / m."""
    balanced = [at.esp_attention(q, k, v, tau=tau, beta=1.0, sort="balanced") for tau in TAUS]
    return [*balanced, at.esp_attention(q, k, v, tau=0.0, beta=1.0, sort="hard"), _sinkhorn(q, k, v)]


def _sinkhorn(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> at.Attention:
    """Sinkhorn attention after enough iterations to have converged."""
    return at.sinkhorn_attention(q, k, v, n_iter=1000)


@claim(
    "attention.doubly-stochastic",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="shahbazi2025espformer, sander2022sinkformers",
    statement=r"Balanced and hard ESP attention, and Sinkhorn attention in the limit of its iterations, have "
    r"row sums 1 and column sums $n / m$.",
    measured=r"largest relative deviation of a row or column sum, for $n = m$ and $n \ne m$",
)
def doubly_stochastic(rng: np.random.Generator) -> float:
    """Each is n times a plan with uniform marginals."""
    worst = 0.0
    for n, m in ((32, 32), (20, 33)):
        worst = max([worst] + [lift.marginal_defect(a.matrix / n) for a in _doubly_stochastic(*_tokens(rng, n, m))])
    return worst


@doubly_stochastic.without(
    "balance: the soft sort of the paper, for 63 equal tokens and one more", at_least=0.47, on="fixed"
)
def soft_defect() -> float:
    """The columns of SoftSort do not sum to 1; the example of `softplan.soft-plans-are-plans`."""
    tokens = np.append(np.zeros(63), 1.0)[:, None]
    return lift.marginal_defect(at.esp_attention(tokens, tokens, tokens, tau=1 / np.log(2), beta=1.0).matrix / 64)


@claim(
    "attention.spectral-norm-one",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="",
    statement=r"A doubly stochastic matrix, $n = m$, has spectral norm 1. A matrix $A \ge 0$ of shape $n \times m$ "
    r"with row sums 1 and column sums $n / m$ has spectral norm $\sqrt{n / m}$.",
    measured="largest relative deviation of the norm, for hard, balanced and converged Sinkhorn attention, for $n = "
    "m$, $n < m$ and $n > m$",
    corrected="0.2.0: an earlier version did not ask for $n = m$.",
)
def norm_one(rng: np.random.Generator) -> float:
    r"""$\|A\|_2^2 \le \|A\|_1 \|A\|_\infty = n / m$, and the bound is attained: $A$ maps the ones of $R^m$, of length
    $\sqrt m$, to those of $R^n$, of length $\sqrt n$."""
    worst = 0.0
    for n, m in ((32, 32), (20, 33), (33, 20)):
        norms = [float(np.linalg.norm(a.matrix, 2)) for a in _doubly_stochastic(*_tokens(rng, n, m))]
        worst = max([worst] + [abs(norm / np.sqrt(n / m) - 1) for norm in norms])
    return worst


@norm_one.without("column sums 1: softmax attention to one key", at_least=2.9, on="fixed")
def softmax_norm() -> float:
    r"""All 16 queries attend to one key: the norm is close to $\sqrt{16} = 4$, which is 3 above 1."""
    q, k = np.ones((16, 2)), np.zeros((16, 2))
    k[0] = 50.0
    return float(np.linalg.norm(at.softmax_attention(q, k, k).matrix, 2)) - 1


@claim(
    "attention.keeps-the-mean",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="",
    statement=r"Let the columns of the attention matrix $A$ sum to $n / m$. Then the mean of the outputs is the mean "
    r"of the values: $\frac1n 1^\top A V = \frac1m 1^\top V$. For $n = m$, $A$ doubly stochastic, the sums agree as "
    r"well.",
    measured=r"largest deviation of a coordinate of the mean, relative to the standard deviation of the "
    r"values, for hard, balanced and converged Sinkhorn attention, for $n = m$ and $n \ne m$",
    corrected="0.2.0: an earlier version gave the sums, and did not ask for $n = m$.",
)
def keeps_mean(rng: np.random.Generator) -> float:
    r"""$1^\top A = \frac nm 1^\top$."""
    worst = 0.0
    for n, m in ((32, 32), (20, 33)):
        q, k, v = _tokens(rng, n, m)
        for a in _doubly_stochastic(q, k, v):
            worst = max(worst, float(abs(a.output.mean(axis=0) - v.mean(axis=0)).max() / v.std()))
    return worst


@keeps_mean.without("column sums $n / m$: softmax attention to one key", at_least=3.8, on="fixed")
def softmax_mean() -> float:
    r"""All 16 queries attend to one key, whose value is 1 where the others are 0: the mean moves from 1/16 to 1, by
    $\sqrt{15}$ standard deviations."""
    q, k, v = np.ones((16, 2)), np.zeros((16, 2)), np.eye(16)[:, :1]
    k[0] = 50.0
    return float(abs(at.softmax_attention(q, k, v).output.mean() - v.mean()) / v.std())


@claim(
    "attention.contracts-the-variance",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="",
    statement=r"Let the attention matrix $A$ be doubly stochastic. Then no coordinate of $A V$ has a larger "
    r"variance than the same coordinate of $V$.",
    measured=r"largest relative increase of a variance, for hard, balanced and converged Sinkhorn attention",
)
def contracts(rng: np.random.Generator) -> float:
    """Subtract the mean of the values, which A keeps; the spectral norm of A is 1."""
    q, k, v = _tokens(rng)
    return max(float((a.output.var(axis=0) / v.var(axis=0)).max()) - 1 for a in _doubly_stochastic(q, k, v))


@contracts.without("column sums 1: softmax attention to two opposite keys", at_least=1.0, on="fixed")
def softmax_expands() -> float:
    """Half the queries attend to one outlier, half to the other, and the values in between have no weight."""
    q = np.repeat([[1.0], [-1.0]], 8, axis=0)
    k = np.zeros((16, 1))
    k[[0, 15], 0] = 60.0, -60.0
    return float(at.softmax_attention(q, k, k).output.var() / k.var()) - 1


@claim(
    "attention.no-causal-form",
    kind="theorem",
    on="fixed",
    tolerance=1e-9,
    source="",
    statement=r"A lower triangular doubly stochastic matrix is the identity. So causal attention, unless it is the "
    r"identity, cannot be doubly stochastic.",
    measured=r"largest mass off the diagonal over all such matrices with $n = 6$, by linear programming",
    corrected="0.2.0: an earlier version said that ESP attention has no causal form. The last row of the plan "
    "between the first t queries and the first t keys, for each t, is one: causal and row-stochastic, at one plan "
    "for each token; its columns do not sum to 1.",
)
def no_causal() -> float:
    """The first row has a single entry, which is 1. So the rest of the first column is 0; the same holds for the
    next row, and so on."""
    n = 6
    allowed = np.tril(np.ones((n, n)))
    rows, columns = np.repeat(np.eye(n), n, axis=1), np.tile(np.eye(n), n)
    bounds = [(0, float(entry)) for entry in allowed.ravel()]
    off = (1 - np.eye(n)).ravel()
    best = linprog(-off, A_eq=np.vstack([rows, columns]), b_eq=np.ones(2 * n), bounds=bounds, method="highs")
    return float(np.abs(np.asarray(best.fun, dtype=float)))


@no_causal.without("triangularity: one diagonal above is allowed", at_least=1.0)
def almost_causal() -> float:
    """One step into the future is enough for a cyclic permutation of the tokens."""
    n = 6
    allowed = np.tril(np.ones((n, n)), 1)
    rows, columns = np.repeat(np.eye(n), n, axis=1), np.tile(np.eye(n), n)
    bounds = [(0, float(entry)) for entry in allowed.ravel()]
    off = (1 - np.eye(n)).ravel()
    best = linprog(-off, A_eq=np.vstack([rows, columns]), b_eq=np.ones(2 * n), bounds=bounds)
    return float(-np.asarray(best.fun, dtype=float))


@claim(
    "attention.planfree-equals-plain",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"With the Laplace kernel, recurrences over the sorted scores give the output of ESP attention "
    r"without a plan, for every sort, all sizes and every $\tau$.",
    measured=r"largest difference of the outputs for values of unit scale, for $n = m$ and $n \ne m$, ties "
    r"included, $\tau$ from $10^{-300}$ to $10^{300}$",
)
def planfree_equals(rng: np.random.Generator) -> float:
    """In sorted order each value of the Laplace kernel is the product of those between neighbours."""
    worst = 0.0
    for n, m in ((24, 24), (17, 30), (1, 5)):
        q, k, v = _tokens(rng, n, m)
        k[: m // 2] = np.round(k[: m // 2])
        for sort in at.SORTS:
            for tau in (1e-300, 0.01, 1.0, 1e300):
                with_plan = at.esp_attention(q, k, v, tau=tau, beta=1.0, sort=sort).output
                without = planfree.planfree_attention(q, k, v, tau=tau, beta=1.0, sort=sort)
                worst = max(worst, float(abs(with_plan - without).max()))
    return worst


@planfree_equals.without("the Laplace kernel: Gauss", at_least=0.01, on="fixed")
def planfree_gauss() -> float:
    """Its values are no products of those between neighbours, and the recurrences do not apply."""
    q, k = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.0], [2.5]])
    gauss = at.esp_attention(q, k, k, tau=1.0, beta=1.0, power=2).output
    return float(abs(gauss - planfree.planfree_attention(q, k, k, tau=1.0, beta=1.0)).max())


@claim(
    "attention.token-order",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"Permuting keys together with values leaves the output of ESP attention unchanged. Permuting "
    r"queries permutes it in the same way.",
    measured=r"largest difference of the outputs, for all sorts",
)
def token_order(rng: np.random.Generator) -> float:
    """The plan depends on the two clouds, and not on the order of their points."""
    (q, k, v), worst = _tokens(rng, 20, 26), 0.0
    rows, cols = rng.permutation(20), rng.permutation(26)
    for sort in at.SORTS:
        output = at.esp_attention(q, k, v, tau=0.1, beta=1.0, sort=sort).output
        moved = at.esp_attention(q[rows], k[cols], v[cols], tau=0.1, beta=1.0, sort=sort).output
        worst = max(worst, float(abs(moved - output[rows]).max()))
    return worst


@token_order.without("values permuted together with keys", at_least=0.9, on="fixed")
def values_left_behind() -> float:
    """Keys exchanged and values not: each query then reads the value of another key."""
    x, v = np.array([[0.0], [1.0]]), np.eye(2)
    there, moved = (at.esp_attention(x, k, v, tau=0.0, beta=1.0, sort="hard").output for k in (x, x[::-1]))
    return float(abs(there - moved).max())


@claim(
    "attention.self-attention-of-equals",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"For $Q = K$ without ties the hard ESP matrix is the identity, and the soft and the balanced "
    r"one are symmetric and positive semidefinite.",
    measured=r"largest difference of an entry, or most negative eigenvalue",
)
def self_attention(rng: np.random.Generator) -> float:
    """Each hard slice matches every point with itself; soft and balanced slices are Gram matrices."""
    q, _, v = _tokens(rng)
    worst = float(abs(at.esp_attention(q, q, v, tau=0.0, beta=1.0, sort="hard").matrix - np.eye(len(q))).max())
    for sort in ("soft", "balanced"):
        matrix = at.esp_attention(q, q, v, tau=0.1, beta=1.0, sort=sort).matrix
        worst = max(worst, float(abs(matrix - matrix.T).max()), float(-np.linalg.eigvalsh(matrix)[0]))
    return worst


@self_attention.without("untied tokens", at_least=0.49, on="fixed")
def equal_tokens() -> float:
    """Two equal tokens share their attention."""
    x = np.zeros((2, 1))
    return float(abs(at.esp_attention(x, x, x, tau=0.0, beta=1.0, sort="hard").matrix - np.eye(2)).max())


@claim(
    "attention.scaling",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="",
    statement=r"Let $c > 0$. The ESP attention matrix of $c\, Q$ and $c K$ at $c^q \tau$ and $\beta / c^2$ is "
    r"that of $Q$ and $K$ at $\tau$ and $\beta$. In particular, for $q = 2$, scaling both by $d^{-1/2}$ first, "
    r"as the released code does, is the same as replacing $\tau$ by $d\, \tau$ and $\beta$ by $\beta / d$.",
    measured=r"largest difference of an entry for $c = 3$, for both kernels, soft and balanced",
)
def scaling(rng: np.random.Generator) -> float:
    """Scores are multiplied by $c$, costs by $c^2$."""
    (q, k, v), worst = _tokens(rng), 0.0
    for power in (1, 2):
        for sort in ("soft", "balanced"):
            unscaled = at.esp_attention(q, k, v, tau=0.1, beta=2.0, sort=sort, power=power).matrix
            scaled = at.esp_attention(3 * q, 3 * k, v, tau=0.1 * 3**power, beta=2.0 / 9, sort=sort, power=power).matrix
            worst = max(worst, float(abs(unscaled - scaled).max()))
    return worst


@scaling.without("the factor $c^{-2}$: the same $\\beta$", at_least=0.01, on="fixed")
def unscaled_attention() -> float:
    """At three times the size the Gibbs weights of the slices are sharper."""
    q, k = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    plain, scaled = (at.esp_attention(c * q, c * k, k, tau=0.1 * c, beta=0.1, sort="balanced").matrix for c in (1, 3))
    return float(abs(plain - scaled).max())


@claim(
    "attention.anneals-to-hard",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="shahbazi2025espformer",
    statement=r"As $\tau \to 0$ soft and balanced ESP attention tend to hard ESP attention.",
    measured=r"largest difference of the outputs at $\tau = 10^{-3}$ times the smallest gap",
)
def anneals(rng: np.random.Generator) -> float:
    """By `softplan.hard-limit`, in each slice."""
    q, k, v = _tokens(rng)
    gap = min(np.diff(np.sort(part, axis=0), axis=0).min() for part in (q, k))
    hard = at.esp_attention(q, k, v, tau=0.0, beta=1.0, sort="hard").output
    soft = (at.esp_attention(q, k, v, tau=1e-3 * gap, beta=1.0, sort=sort).output for sort in ("soft", "balanced"))
    return max(float(abs(output - hard).max()) for output in soft)


@claim(
    "attention.released-softness",
    kind="refutation",
    on="seed",
    tolerance=0.1,
    source="shahbazi2025espformer",
    statement=r"“Soft ESP attention is doubly stochastic at the released settings.” With queries and keys "
    r"scaled by $d^{-1/2}$, the Gauss kernel at $\tau = 10^{-3}$, unsquared costs summed over a plan of mass "
    r"$n$ and inverse temperature 10, it is not, for $n = 128$ Gaussian tokens and $d = 16$ axes.",
    measured=r"largest relative deviation of a row or column sum",
)
def released_softness(rng: np.random.Generator) -> float:
    """In the terms of this package p = 1 and beta = 10 n. Nearly all weight is on one or two slices, so that deviations
    do not average out; and the mean of many would not have uniform marginals either."""
    q, k = rng.normal(size=(2, 128, 16)) / np.sqrt(16)
    plan = softplan.expected_soft_plan(q, k, np.eye(16), 1e-3, beta=1280.0, p=1, power=2).plan
    return lift.marginal_defect(plan)


@claim(
    "attention.softmax-is-a-gibbs-measure",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="vaswani2017attention",
    statement=r"Let $\ell_{ij} = \langle q_i, k_j \rangle / \sqrt d$. Row $i$ of softmax attention is the "
    r"probability vector that maximises $\sum_j A_{ij} \ell_{ij} - \sum_j A_{ij} \log A_{ij}$, and the maximum "
    r"is $\log \sum_j e^{\ell_{ij}}$.",
    measured=r"largest difference of the value of a row from that maximum, or most by which another probability vector "
    r"exceeds it or misses the divergence: random ones, and rows at other temperatures",
)
def softmax_is_gibbs(rng: np.random.Generator) -> float:
    """Gibbs's variational principle: the difference from the maximum is a Kullback-Leibler divergence, which vanishes
    only for softmax."""
    q, k, v = _tokens(rng, 20, 27)
    matrix, logits = at.softmax_attention(q, k, v).matrix, q @ k.T / np.sqrt(q.shape[1])
    value = (matrix * (logits - np.log(matrix))).sum(axis=1)
    most = np.log(np.exp(logits).sum(axis=1))
    worst = float(abs(value - most).max())
    others = [rng.dirichlet(np.ones(27), 20), *(at.softmax_attention(s * q, k, v).matrix for s in (0.5, 0.9, 1.1, 2.0))]
    for rows in others:  # the value of each is below the maximum by its divergence from softmax
        there = (rows * (logits - np.log(rows))).sum(axis=1)
        divergence = (rows * np.log(rows / matrix)).sum(axis=1)
        worst = max(worst, float((there - most).max()), float(abs(most - there - divergence).max()))
    return worst


@softmax_is_gibbs.without("the factor $d^{-1/2}$: sharper rows", at_least=0.01, on="fixed")
def sharper_rows() -> float:
    """Softmax of twice the queries has a lower value."""
    q = np.array([[1.0], [-0.5]])
    rows, logits = at.softmax_attention(2 * q, q, q).matrix, q @ q.T
    values = (rows * (logits - np.log(rows))).sum(axis=1)
    return float((np.log(np.exp(logits).sum(axis=1)) - values).max())


@claim(
    "attention.sinkhorn-normalises-in-turn",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="sander2022sinkformers",
    statement=r"Each iteration of Sinkhorn attention scales rows to sum 1, then columns to sum $n / m$: after "
    r"it every column sums to $n / m$, and scaling rows and columns once more gives the next iterate.",
    measured=r"largest relative deviation over the first iterations, for $n = m$ and $n \ne m$",
)
def normalises_in_turn(rng: np.random.Generator) -> float:
    """Columns are scaled last."""
    worst = 0.0
    for n, m in ((24, 24), (17, 30), (30, 17)):
        tokens = _tokens(rng, n, m)
        matrices = [at.sinkhorn_attention(*tokens, n_iter=n_iter).matrix for n_iter in range(1, 5)]
        for matrix, following in itertools.pairwise(matrices):
            rows = matrix / matrix.sum(axis=1, keepdims=True)
            again = rows / rows.sum(axis=0) * n / m
            worst = max(worst, float(abs(matrix.sum(axis=0) * m / n - 1).max()))
            worst = max(worst, float(abs(again / following - 1).max()))
    return worst


@claim(
    "attention.sinkhorn-is-entropic-transport",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    needs=("ot",),
    source="sander2022sinkformers, peyre2019computational",
    statement=r"In the limit of its iterations Sinkhorn attention is $n$ times the entropic plan for the cost "
    r"$|q_i - k_j|^2$, regularisation $2 \sqrt d$ and uniform weights.",
    measured=r"largest difference of an entry, for $n = m$ and $n \ne m$",
)
def entropic(rng: np.random.Generator) -> float:
    r"""$-|q_i - k_j|^2 / (2 \sqrt d)$ is $\langle q_i, k_j \rangle / \sqrt d$ minus a function of $i$ and a function of
    $j$, which scaling rows and columns absorbs."""
    worst = 0.0
    for n, m in ((20, 20), (14, 23)):
        q, k, v = _tokens(rng, n, m)
        plan = solvers.sinkhorn_plan(q, k, 2 * np.sqrt(q.shape[1]), n_iter=5000).plan
        worst = max(worst, float(abs(_sinkhorn(q, k, v).matrix - n * plan).max()))
    return worst


@entropic.without("the matching regularisation: $2 d$ instead of $2 \\sqrt d$", at_least=1e-2)
def other_regularisation(rng: np.random.Generator) -> float:
    """More regularisation gives another plan."""
    q, k, v = _tokens(rng, 20, 20)
    plan = solvers.sinkhorn_plan(q, k, 2.0 * q.shape[1], n_iter=5000).plan
    return float(abs(_sinkhorn(q, k, v).matrix - 20 * plan).max())


@claim(
    "attention.sinkhorn-needs-iterations",
    kind="measurement",
    on="seed",
    tolerance=1e-9,
    source="sander2022sinkformers",
    statement=r"Sinkhorn attention approaches double stochasticity with its iterations. Balanced ESP attention "
    r"is closer to it than ten of them.",
    measured=r"largest breach of this order by the marginal defects of 2, 3 and 10 iterations and of balanced "
    r"ESP attention",
    corrected="0.2.0: an earlier version said 1e-12, and took the order for an observation alone.",
)
def sinkhorn_iterations(rng: np.random.Generator) -> float:
    """The iteration contracts Hilbert's projective metric; that the extreme row sums approach 1 monotonically is a
    theorem, `attention.sinkhorn-sums-contract`. The balanced soft sort is iterated until its sums are 1 to 1e-13."""
    q, k, v = (2 * part for part in _tokens(rng))
    defects = [lift.marginal_defect(at.sinkhorn_attention(q, k, v, n_iter=n).matrix / 32) for n in (2, 3, 10)]
    defects.append(lift.marginal_defect(at.esp_attention(q, k, v, tau=0.1, beta=1.0, sort="balanced").matrix / 32))
    return max(0.0, float(np.diff(defects).max()))


@claim(
    "attention.three-sinkhorn-iterations-suffice",
    kind="refutation",
    on="seed",
    tolerance=0.1,
    source="sander2022sinkformers",
    statement=r"“Three iterations make Sinkhorn attention doubly stochastic.” For logits of a few units they "
    r"do not: the rows do not yet sum to 1.",
    measured=r"largest relative deviation of a row or column sum",
)
def three_iterations(rng: np.random.Generator) -> float:
    """Each iteration ends by scaling the columns, after which the rows no longer sum to 1."""
    q, k, v = (2 * part for part in _tokens(rng))
    return lift.marginal_defect(at.sinkhorn_attention(q, k, v, n_iter=3).matrix / 32)


@claim(
    "attention.sinkhorn-sums-contract",
    kind="theorem",
    on="seed",
    tolerance=1e-12,
    source="sinkhorn1967diagonal",
    statement="In every iteration of Sinkhorn attention the largest row sum does not grow and the smallest does not "
    "shrink. For $n = m$ every row sum lies between the smallest and the largest of the iteration before.",
    measured=r"largest breach over twelve iterations, for $n = m$ and $n \ne m$",
)
def sums_contract(rng: np.random.Generator) -> float:
    r"""Let $A$ have columns of equal sum $n / m$, and rows of the sums $r_i$. Divide row $i$ by $r_i$: a column sum
    becomes $\sum_i A_{ij} / r_i$, $\frac nm$ times a weighted mean of the numbers $1 / r_i$, so that all of them lie
    between $\frac nm / \max r$ and $\frac nm / \min r$. Scale the columns to $n / m$ again: row $i$, which summed to
    1, is multiplied entry by entry with numbers between $\min r$ and $\max r$."""
    worst = -np.inf
    for n, m in ((20, 20), (14, 23)):
        q, k, v = (2 * part for part in _tokens(rng, n, m))
        sums = [at.sinkhorn_attention(q, k, v, n_iter=count).matrix.sum(axis=1) for count in range(1, 13)]
        for before, after in itertools.pairwise(sums):
            worst = max(worst, float(after.max() - before.max()), float(before.min() - after.min()))
    return max(worst, 0.0)


@sums_contract.without(
    "equal column sums before: softmax, the half step, against the first iterate", at_least=0.1, on="fixed"
)
def half_step() -> float:
    """Softmax attention has all row sums 1; scaling the columns changes them."""
    q = np.array([[0.0], [0.0], [3.0]])
    return float(at.sinkhorn_attention(q, q, q, n_iter=1).matrix.sum(axis=1).max() - 1)


def _self_cost(x: np.ndarray) -> float:
    """OT_eps(mu, mu) for uniform weights and eps = 2 sqrt d: <C, G> + eps KL(G | a b), by Sinkhorn iteration."""
    n, eps = len(x), 2 * np.sqrt(x.shape[1])
    ground = ((x[:, None] - x) ** 2).sum(axis=-1)
    kernel, u = np.exp(-ground / eps), np.ones(n)
    for _ in range(400):
        u = np.sqrt(u / (kernel @ u / n))  # the plan between a cloud and itself is symmetric
    plan = u[:, None] * kernel * u / n**2
    return float(np.sum(ground * plan) + eps * np.sum(plan * np.log(plan * n**2)))


def _asymmetry(change: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> float:
    """Largest difference of the Jacobian of a vector field from its transpose, relative to the largest entry."""
    step = 1e-5
    columns = [
        (change(x + step * unit.reshape(x.shape)) - change(x - step * unit.reshape(x.shape))).ravel() / (2 * step)
        for unit in np.eye(x.size)
    ]
    jacobian = np.array(columns).T
    return float(abs(jacobian - jacobian.T).max() / abs(jacobian).max())


#: Five tokens of the plane.
TOKENS = np.array([(0.3, -1.2), (1.4, 0.2), (-0.9, 0.8), (0.1, 1.9), (-1.7, -0.4)])


@claim(
    "attention.sinkhorn-is-a-gradient",
    kind="theorem",
    on="seed",
    tolerance=1e-6,
    source="sander2022sinkformers",
    statement=r"Let $A$ be Sinkhorn attention of the tokens $x$ to themselves, in the limit of its iterations, and "
    r"$\mathrm{OT}_\varepsilon(\mu, \mu)$ the entropic cost of their uniform measure to itself with $\varepsilon = 2 "
    r"\sqrt d$. Then $\nabla_{x_i} \mathrm{OT}_\varepsilon(\mu, \mu) = \frac4n (x_i - (A x)_i)$: the residual step $x "
    r"\mapsto x + A x - x$ is a gradient step, and the Jacobian of $x \mapsto x - A x$ is symmetric.",
    measured="largest difference of the gradient from central differences, or asymmetry of the Jacobian, relative to "
    "the largest entry",
)
def sinkhorn_is_gradient(rng: np.random.Generator) -> float:
    r"""$A = n G$ with the entropic plan $G$ (`attention.sinkhorn-is-entropic-transport`). At the minimum only the
    cost depends on $x$ (the envelope theorem): $\nabla_{x_i} = \sum_j 2 (x_i - x_j) (G_{ij} + G_{ji})$, and $G$ is
    symmetric with row sums $\frac1n$: $\frac4n x_i - 4 \sum_j G_{ij} x_j$. The Jacobian of a gradient is a Hessian,
    hence symmetric."""
    x, step = rng.uniform(-1, 1, (5, 2)), 1e-5  # bounded: the iteration contracts by 0.8 at least
    field = x - _sinkhorn(x, x, x).output
    units = [unit.reshape(x.shape) for unit in np.eye(x.size)]
    quotients = [(_self_cost(x + step * unit) - _self_cost(x - step * unit)) / (2 * step) for unit in units]
    worst = float(abs(np.reshape(quotients, x.shape) - 4 / 5 * field).max())
    return max(worst, _asymmetry(lambda z: z - at.sinkhorn_attention(z, z, z, n_iter=100).output, x))


@sinkhorn_is_gradient.without("Sinkhorn's scaling: softmax attention", at_least=0.05, on="fixed")
def softmax_is_no_gradient() -> float:
    """The Jacobian is not symmetric."""
    return _asymmetry(lambda z: z - at.softmax_attention(z, z, z).output, TOKENS)


@sinkhorn_is_gradient.without("Sinkhorn's plan: balanced ESP attention", at_least=0.05, on="fixed")
def esp_is_no_gradient() -> float:
    """It is doubly stochastic and symmetric too, and no gradient."""
    return _asymmetry(lambda z: z - at.esp_attention(z, z, z, tau=1.0, beta=0.0, sort="balanced").output, TOKENS)


@claim(
    "attention.oversmoothing",
    kind="theorem",
    on="seed",
    tolerance=1e-9,
    source="",
    statement=r"Let $A_1, \dots, A_L$ be doubly stochastic, $z_l = A_l z_{l - 1}$, and $\sigma_2(A)$ the second "
    r"singular value. Then $|z_L - \bar z| \le \prod_l \sigma_2(A_l)\, |z_0 - \bar z|$ with the common mean $\bar z$: "
    r"without residual connections, layers of attention contract towards the mean at least at this rate.",
    measured="largest relative excess over six layers of balanced ESP, of hard ESP and of Sinkhorn attention, "
    "with random queries and keys",
)
def oversmoothing(rng: np.random.Generator) -> float:
    r"""$A 1 = 1$ and $A^\top 1 = 1$: the vector of ones is a left and a right singular vector, with value 1, the
    largest. On its orthogonal complement, which $A$ maps into itself, $A$ has the norm $\sigma_2$."""
    layers: tuple[Callable[..., at.Attention], ...] = (
        lambda q, k, v: at.esp_attention(q, k, v, tau=0.1, beta=1.0, sort="balanced"),
        lambda q, k, v: at.esp_attention(q, k, v, tau=0.0, beta=1.0, sort="hard"),
        _sinkhorn,
    )
    worst = -np.inf
    for layer in layers:
        z, bound = rng.normal(size=(24, 3)), 1.0
        start = np.linalg.norm(z - z.mean(axis=0))
        for _ in range(6):
            q, k = (z @ rng.normal(size=(3, 4)) + 0.3 * rng.normal(size=(24, 4)) for _ in range(2))
            z, matrix = layer(q, k, z)
            bound *= float(np.linalg.svd(matrix, compute_uv=False)[1])
            worst = max(worst, float(np.linalg.norm(z - z.mean(axis=0)) / start - bound))
    return max(worst, 0.0)


@oversmoothing.without("column sums 1: softmax attention to one key", at_least=3.8, on="fixed")
def softmax_leaves_the_mean() -> float:
    r"""The matrix has rank 1, $\sigma_2 = 0$, and all tokens go to the value of that key, away from the mean; the
    example of `attention.keeps-the-mean`."""
    q, k, v = np.ones((16, 2)), np.zeros((16, 2)), np.eye(16)[:, :1]
    k[0] = 50.0
    attention = at.softmax_attention(q, k, v)
    ratio = np.linalg.norm(attention.output - v.mean()) / np.linalg.norm(v - v.mean())
    return float(ratio - np.linalg.svd(attention.matrix, compute_uv=False)[1])


@claim(
    "attention.finds-noisy-copies",
    kind="measurement",
    on="seed",
    tolerance=0,
    source="",
    statement=r"Let 64 keys be 64 permuted Gaussian queries and noise of standard deviation 0.3, both scaled by "
    r"$d^{-1/2}$ in ESP's case. For $d = 64$ the mean weight of a query on its own copy is more than 0.8 with softmax "
    r"attention, less than 0.1 with ESP ($\tau = 0.1$) and less than 0.25 with hard ESP. For $d = 8$ the largest "
    r"weight of ESP is on the copy more often than that of softmax.",
    measured=r"largest breach of these four inequalities",
)
def finds_copies(rng: np.random.Generator) -> float:
    """ESP averages L matchings along single coordinates: a query is sharp only where slices agree. In many
    dimensions the noise in each coordinate hides a partner that the inner product, which adds up all of them, still
    finds. In few dimensions softmax is misled by long keys."""
    breaches = []
    for d in (64, 8):
        q, order = rng.normal(size=(64, d)), rng.permutation(64)
        k = (q + 0.3 * rng.normal(size=(64, d)))[order]
        copy, scale = np.argsort(order), d**-0.5
        softmax = at.softmax_attention(q, k, k).matrix
        soft = at.esp_attention(scale * q, scale * k, k, tau=0.1, beta=1.0).matrix
        hard = at.esp_attention(scale * q, scale * k, k, tau=0.0, beta=1.0, sort="hard").matrix
        weight = [float(matrix[np.arange(64), copy].mean()) for matrix in (softmax, soft, hard)]
        right = [float(np.mean(matrix.argmax(axis=1) == copy)) for matrix in (softmax, soft)]
        breaches += [0.8 - weight[0], weight[1] - 0.1, weight[2] - 0.25] if d == 64 else [right[0] - right[1]]
    return max(0.0, *breaches)
