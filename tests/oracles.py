"""Slow, plain computations that share nothing with the package: rational or 50-digit arithmetic, loops over points."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
from mpmath import mp

mp.dps = 50


def rational(weights, n: int) -> list[Fraction]:
    """Weights as exact fractions of sum 1."""
    if weights is None:
        return [Fraction(1, n)] * n
    exact = [Fraction(float(w)) for w in weights]
    return [w / sum(exact) for w in exact]


def line_plan(u, v, a, b, ties: str = "split") -> np.ndarray:
    """The plan on the line by its definition: intervals of mass in rational arithmetic, classes of equal values."""
    a, b = rational(a, len(u)), rational(b, len(v))

    def classes(values):
        order = sorted(range(len(values)), key=lambda i: values[i])  # stable
        groups: list[list[int]] = []
        for i in order:
            if groups and ties == "split" and values[groups[-1][0]] == values[i]:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    plan = [[Fraction(0)] * len(v) for _ in u]
    start_u = Fraction(0)
    for group_u in classes(list(u)):
        mass_u = sum(a[i] for i in group_u)
        start_v = Fraction(0)
        for group_v in classes(list(v)):
            mass_v = sum(b[j] for j in group_v)
            overlap = min(start_u + mass_u, start_v + mass_v) - max(start_u, start_v)
            if overlap > 0:
                for i in group_u:
                    for j in group_v:
                        plan[i][j] = a[i] / mass_u * b[j] / mass_v * overlap
            start_v += mass_v
        start_u += mass_u
    return np.array([[float(entry) for entry in row] for row in plan])


def cost(plan, x, y, p: float) -> float:
    """sum_ij |x_i - y_j|^p G_ij, entry by entry."""
    plan = plan.toarray() if hasattr(plan, "toarray") else plan
    return math.fsum(
        float(plan[i, j]) * math.dist(x[i], y[j]) ** p for i in range(len(x)) for j in range(len(y)) if plan[i, j]
    )


def all_pairs(x, y, p: float) -> np.ndarray:
    """|x_i - y_j|^p, one pair at a time."""
    return np.array([[math.dist(xi, yj) ** p for yj in y] for xi in x])


def arcs(x, y, a, b, p: float) -> list[tuple[float, np.ndarray, float]]:
    """(length, plan, cost) of every arc, each plan at its middle angle by rational arithmetic: no code shared."""
    a = np.full(len(x), 1 / len(x)) if a is None else a
    b = np.full(len(y), 1 / len(y)) if b is None else b
    ends = {0.0}
    for cloud, weights in ((x, a), (y, b)):
        for (p0, w0), (p1, w1) in itertools.combinations(zip(cloud.tolist(), weights, strict=True), 2):
            if p0 != p1 and w0 > 0 and w1 > 0:
                ends.add(math.atan((p0[0] - p1[0]) / (p1[1] - p0[1])) % math.pi if p0[1] != p1[1] else math.pi / 2)
    ordered = [*sorted(ends), math.pi]
    found = []
    for start, stop in itertools.pairwise(ordered):
        if stop - start < 1e-12:
            continue
        c, s = math.cos((start + stop) / 2), math.sin((start + stop) / 2)
        u, v = [c * q[0] + s * q[1] for q in x.tolist()], [c * q[0] + s * q[1] for q in y.tolist()]
        plan = line_plan(u, v, a, b)
        found.append((stop - start, plan, cost(plan, x, y, p)))
    return found


def number(value) -> mp.mpf:
    """A float as it is; a number of 50 digits unrounded."""
    return value if isinstance(value, mp.mpf) else mp.mpf(float(value))


def soft_permutation(s, tau, power: int = 1, sort: str = "soft", weights=None) -> mp.matrix:
    """The soft sort of weighted scores by its definition, in 50 digits; the balanced one by Newton's method."""
    n = len(s)
    s, a = (
        [number(value) for value in s],
        [mp.mpf(float(w)) for w in (np.ones(n) if weights is None else weights)],
    )
    order = sorted(range(n), key=lambda i: s[i])

    def kernel(i: int, j: int) -> mp.mpf:
        if s[i] == s[j] or tau == 0:
            return mp.mpf(s[i] == s[j])
        exponent = abs(s[i] - s[j]) ** power / mp.mpf(float(tau))
        return mp.exp(-exponent) if exponent < 10**5 else mp.mpf(0)

    k = mp.matrix([[kernel(i, j) for j in order] for i in order])
    mass = [a[i] for i in order]
    d = scaling(k, mass) if sort == "balanced" else [1 / mp.fsum(k[i, j] * mass[j] for j in range(n)) for i in range(n)]
    p = mp.matrix(n, n)
    for i in range(n):
        for rank, point in enumerate(order):
            p[i, point] = d[i] * k[i, rank] * mass[rank] * (d[rank] if sort == "balanced" else 1)
    return p


def scaling(k: mp.matrix, mass: list[mp.mpf]) -> list[mp.mpf]:
    """d > 0 with d_i sum_j K_ij a_j d_j = 1, d = e^u: Newton on the convex a^T D K D a / 2 - a^T u, D = diag(d)."""
    n = len(mass)
    u = [-mp.log(mass[i]) / 2 for i in range(n)]

    def image(u: list[mp.mpf]) -> list[mp.mpf]:
        e = [mass[j] * mp.exp(u[j]) for j in range(n)]
        return [mp.exp(u[i]) * mp.fsum(k[i, j] * e[j] for j in range(n)) for i in range(n)]

    def value(u: list[mp.mpf]) -> mp.mpf:
        return mp.fsum(mass[i] * (entry / 2 - u[i]) for i, entry in enumerate(image(u)))

    for _ in range(100):
        now = image(u)
        error = max(abs(entry - 1) for entry in now)
        if error < mp.mpf(10) ** -30:
            return [mp.exp(entry) for entry in u]
        hessian = mp.matrix(n, n)
        for i in range(n):
            for j in range(n):
                hessian[i, j] = mp.exp(u[i]) * k[i, j] * mass[j] * mp.exp(u[j])
            hessian[i, i] += now[i]
        step = mp.lu_solve(hessian, mp.matrix([1 - entry for entry in now]))
        length, before = mp.mpf(1), value(u)
        while (
            error > 1e-3 and value([u[i] + length * step[i] for i in range(n)]) > before and length > mp.mpf(10) ** -9
        ):
            length /= 2
        u = [u[i] + length * step[i] for i in range(n)]
    raise AssertionError("Newton's method did not converge")


def soft_line_plan(u, v, tau, a=None, b=None, power: int = 1, sort: str = "soft") -> mp.matrix:
    """P^T A Q in 50 digits, A by intervals of rational mass; points without weight take no part."""
    n, m = len(u), len(v)
    a, b = ([mp.mpf(w.numerator) / w.denominator for w in rational(weights, k)] for weights, k in ((a, n), (b, m)))
    rows, cols = [i for i in range(n) if a[i]], [j for j in range(m) if b[j]]
    p = soft_permutation([u[i] for i in rows], tau, power, sort, [a[i] for i in rows])
    q = soft_permutation([v[j] for j in cols], tau, power, sort, [b[j] for j in cols])
    by_rank = [[a[i] for i in sorted(rows, key=lambda i: u[i])], [b[j] for j in sorted(cols, key=lambda j: v[j])]]
    ends = [[mp.fsum(side[:k]) for k in range(len(side) + 1)] for side in by_rank]
    ranks = mp.matrix(len(rows), len(cols))
    for i in range(len(rows)):
        for j in range(len(cols)):
            overlap = min(ends[0][i + 1], ends[1][j + 1]) - max(ends[0][i], ends[1][j])
            ranks[i, j] = max(overlap, mp.mpf(0))
    inner = p.T * ranks * q
    plan = mp.matrix(n, m)
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            plan[row, col] = inner[i, j]
    return plan


def esp_matrix(q, k, directions, tau, beta, power: int = 1, sort: str = "soft") -> mp.matrix:
    """n sum_l w_l U_l in 50 digits, w = softmax(-beta <C, U_l>)."""
    n, m = len(q), len(k)
    plans = [soft_line_plan(q @ theta, k @ theta, tau, None, None, power, sort) for theta in directions]
    ground = [[mp.fsum((number(s) - number(t)) ** 2 for s, t in zip(x, y, strict=True)) for y in k] for x in q]
    costs = [mp.fsum(ground[i][j] * plan[i, j] for i in range(n) for j in range(m)) for plan in plans]
    gibbs = [mp.exp(-mp.mpf(float(beta)) * (cost - min(costs))) for cost in costs]
    total = mp.matrix(n, m)
    for plan, weight in zip(plans, gibbs, strict=True):
        total += plan * (n * weight / mp.fsum(gibbs))
    return total


def sinkhorn_matrix(q, k, n_iter: int) -> mp.matrix:
    """Rows to sum 1, then columns to sum n / m, n_iter times, on exp(<q_i, k_j> / sqrt d) in 50 digits."""
    n, m, root = len(q), len(k), mp.sqrt(len(q[0]))
    logits = [[mp.fsum(mp.mpf(float(s)) * mp.mpf(float(t)) for s, t in zip(x, y, strict=True)) for y in k] for x in q]
    matrix = mp.matrix([[mp.exp(entry / root) for entry in row] for row in logits])
    for step in range(2 * n_iter):
        if step % 2 == 0:
            sums = [mp.fsum(matrix[i, j] for j in range(m)) for i in range(n)]
        else:
            sums = [mp.fsum(matrix[i, j] for i in range(n)) * m / n for j in range(m)]
        for i in range(n):
            for j in range(m):
                matrix[i, j] /= sums[j if step % 2 else i]
    return matrix


def floats(matrix: mp.matrix) -> np.ndarray:
    """A matrix of 50 digits, rounded."""
    return np.array(matrix.tolist(), dtype=float).reshape(matrix.rows, matrix.cols)
