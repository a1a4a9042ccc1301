"""Slow, plain computations that share nothing with the package: rational arithmetic and loops over points."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


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
