"""The worst error of each chapter against an oracle that shares nothing with it, as ``docs/records/oracles.json``.

Relative to the largest entry of the exact result. Run as a program it measures 100 problems each; the tests, a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import oracles
import records
from mpmath import mp

import espref

Pair = tuple[Any, Any]
TAUS = (1e-3, 0.1, 1.0, 100.0)


def clouds(rng: np.random.Generator, dim: int) -> tuple[np.ndarray, ...]:
    """x (n, d), y (m, d), a (n,), b (m,): unequal sizes, weights, every third problem on a coarse grid."""
    n, m = rng.integers(2, 8, size=2)
    x, y = rng.normal(size=(n, dim)), rng.normal(size=(m, dim))
    if rng.integers(3) == 0:
        x, y = np.round(x), np.round(y)
    return x, y, rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


def line(rng: np.random.Generator) -> Iterator[Pair]:
    x, y, a, b = clouds(rng, 1)
    for ties in ("split", "first"):
        yield (
            espref.line_plan(x[:, 0], y[:, 0], a, b, ties=ties).toarray(),
            oracles.line_plan(x[:, 0], y[:, 0], a, b, ties),
        )


def lift(rng: np.random.Generator) -> Iterator[Pair]:
    x, y, a, b = clouds(rng, 2)
    for p in (1, 1.5, 2, 3):
        plans = [oracles.line_plan(x[:, k], y[:, k], a, b) for k in (0, 1)]
        yield espref.slice_costs(x, y, np.eye(2), a, b, p=p), [oracles.cost(plan, x, y, p) for plan in plans]


def expected(rng: np.random.Generator) -> Iterator[Pair]:
    x, y, a, b = clouds(rng, 2)
    plans = [oracles.line_plan(x[:, k], y[:, k], a, b) for k in (0, 1)]
    for beta in (0.0, 1.0, 10.0):
        gibbs = [mp.exp(-beta * mp.mpf(oracles.cost(plan, x, y, 2))) for plan in plans]
        exact = sum(plan * float(w / mp.fsum(gibbs)) for plan, w in zip(plans, gibbs, strict=True))
        yield espref.expected_sliced_plan(x, y, np.eye(2), a, b, beta=beta).plan.toarray(), exact


def circle(rng: np.random.Generator) -> Iterator[Pair]:
    x, y, a, b = clouds(rng, 2)
    for beta in (0.0, 1.0):
        lengths, plans, costs = map(np.array, zip(*oracles.arcs(x, y, a, b, 2), strict=True))
        weights = lengths * np.exp(-beta * (costs - costs.min()))
        exact = np.tensordot(weights / weights.sum(), plans, 1)
        yield espref.circle_plan(x, y, a, b, beta=beta).plan.toarray(), exact


def softsort(rng: np.random.Generator) -> Iterator[Pair]:
    s, power, tau = clouds(rng, 1)[0][:, 0], rng.integers(1, 3), rng.choice(TAUS)
    for sort in ("soft", "balanced"):
        exact = oracles.floats(oracles.soft_permutation(s, tau, power, sort))
        yield espref.soft_permutation(s, tau, power=power, sort=sort), exact


def softplan(rng: np.random.Generator) -> Iterator[Pair]:
    (x, y, a, b), tau = clouds(rng, 1), rng.choice(TAUS)
    for sort in ("soft", "balanced"):
        exact = oracles.floats(oracles.soft_line_plan(x[:, 0], y[:, 0], tau, a, b, 1, sort))
        yield espref.soft_line_plan(x[:, 0], y[:, 0], tau, a, b, sort=sort), exact


def tokens(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """q (n, 2), k (m, 2), v (m, 2) and tau."""
    q, k, *_ = clouds(rng, 2)
    return q, k, rng.normal(size=(len(k), 2)), float(rng.choice(TAUS))


def attention(rng: np.random.Generator) -> Iterator[Pair]:
    q, k, v, tau = tokens(rng)
    for sort in ("soft", "balanced"):
        exact = oracles.floats(oracles.esp_matrix(q, k, np.eye(2), tau, 1.0, 1, sort))
        yield espref.esp_attention(q, k, v, tau=tau, beta=1.0, sort=sort).matrix, exact
    exact = oracles.floats(oracles.sinkhorn_matrix(q, k, 7))
    yield espref.sinkhorn_attention(q, k, v, n_iter=7).matrix, exact


def planfree(rng: np.random.Generator) -> Iterator[Pair]:
    q, k, v, tau = tokens(rng)
    for sort in ("soft", "balanced"):
        exact = oracles.floats(oracles.esp_matrix(q, k, np.eye(2), tau, 1.0, 1, sort)) @ v
        yield espref.planfree_attention(q, k, v, tau=tau, beta=1.0, sort=sort), exact


def nn(rng: np.random.Generator) -> Iterator[Pair]:
    import torch

    from espref.nn import functional

    q, k, v, tau = tokens(rng)
    for sort in ("soft", "balanced"):
        exact = oracles.floats(oracles.esp_matrix(q, k, np.eye(2), tau, 1.0, 1, sort)) @ v
        yield (
            functional.esp_attention(*map(torch.tensor, (q, k, v)), tau=tau, beta=1.0, sort=sort).output.numpy(),
            exact,
        )


def gradients(rng: np.random.Generator) -> Iterator[Pair]:
    """Of a random combination of the outputs, by queries and keys, without ties."""
    import torch

    from espref.nn import functional

    n, m = rng.integers(2, 5, size=2)
    q, k, v, c = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)), rng.normal(size=(m, 2)), rng.normal(size=(n, 2))
    tau = float(rng.choice((0.03, 0.3, 3.0)))
    for sort in ("soft", "balanced"):
        tensors = [torch.tensor(array, requires_grad=True) for array in (q, k)]
        output = functional.esp_attention(*tensors, torch.tensor(v), tau=tau, beta=1.0, sort=sort).output
        found = torch.autograd.grad((output * torch.tensor(c)).sum(), tensors)
        both = np.concatenate([q, k])
        yield torch.cat(found).numpy(), difference_quotients(both, n, v, c, tau, sort)


def difference_quotients(both: np.ndarray, n: int, v, c, tau: float, sort: str) -> np.ndarray:
    """Central differences of step 1e-15 in 50 digits, an entry of q and k at a time."""
    step, weights = mp.mpf(10) ** -15, np.einsum("id,jd->ij", c, v)

    def value(points: np.ndarray) -> mp.mpf:
        matrix = oracles.esp_matrix(points[:n], points[n:], np.eye(2), tau, 1.0, 1, sort)
        return mp.fsum(matrix[i, j] * float(weights[i, j]) for i in range(n) for j in range(len(points) - n))

    exact = np.empty(both.shape)
    for place in np.ndindex(both.shape):
        sides = []
        for sign in (1, -1):
            moved = np.array([[mp.mpf(float(entry)) for entry in point] for point in both], dtype=object)
            moved[place] += sign * step
            sides.append(value(moved))
        exact[place] = float((sides[0] - sides[1]) / (2 * step))
    return exact


#: Chapter -> its measurement, the oracle, the error allowed.
CHAPTERS: dict[str, tuple[Callable[[np.random.Generator], Iterator[Pair]], str, float]] = {
    "line": (line, "plans in rational arithmetic", 1e-15),
    "lift": (lift, "plans in rational arithmetic, costs summed pair by pair", 1e-13),
    "expected": (expected, "the same, Gibbs weights in 50 digits", 1e-13),
    "circle": (circle, "every arc, its plan in rational arithmetic", 1e-12),
    "softsort": (softsort, "the definition in 50 digits, balanced by Newton's method", 1e-11),
    "softplan": (softplan, "the definition in 50 digits", 1e-11),
    "attention": (attention, "the definitions in 50 digits", 1e-11),
    "planfree": (planfree, "the definition in 50 digits", 1e-11),
    "nn": (nn, "the definition in 50 digits", 1e-11),
    "nn, gradients": (gradients, "difference quotients of step 1e-15 in 50 digits", 1e-9),
}


def worst(chapter: str, problems: int) -> float:
    """The largest error over so many problems."""
    measure, found = CHAPTERS[chapter][0], 0.0
    for seed in range(problems):
        for result, exact in measure(np.random.default_rng([seed, 7])):
            scale = np.abs(exact).max()
            found = max(found, float(np.abs(np.asarray(result) - exact).max() / (scale or 1)))
    return found


def main() -> None:
    """Write the record."""
    rows = []
    for chapter, (_, oracle, allowed) in CHAPTERS.items():
        count = 20 if chapter == "nn, gradients" else 100
        error = worst(chapter, count)
        detail = f"{oracle}; {count} problems"
        rows.append(records.row("oracles", chapter, error, "", f"<= {allowed:g}", error <= allowed, detail))
        print(f"{chapter:<16}{error:.1e}")
    records.write("oracles", rows)


if __name__ == "__main__":
    main()
