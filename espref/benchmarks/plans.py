"""Expected sliced plans against POT's, and the memory that plans and slice costs need."""

from __future__ import annotations

import statistics

import numpy as np

from ..directions import sample_directions
from ..expected import expected_sliced_plan
from .measure import Row, peak_memory, row, seconds

#: (name, n, m, slices, weighted, how many times faster than POT it should be, repeats)
CASES = (
    ("n = m = 10^4, d = 64, L = 128, uniform", 10_000, 10_000, 128, False, 5.0, 7),
    ("n = m = 10^5, d = 64, L = 32, uniform", 100_000, 100_000, 32, False, 1.5, 5),
    ("n = 10^4, m = 8000, d = 64, L = 128, weighted", 10_000, 8_000, 128, True, 3.0, 7),
)


def _against_pot(name: str, n: int, m: int, size: int, weighted: bool, target: float, repeats: int) -> Row:
    """Median over repeats of POT's time divided by espref's, measured in turn."""
    import ot

    rng, dim = np.random.default_rng(0), 64
    x, y = rng.normal(size=(n, dim)), rng.normal(size=(m, dim))
    directions = sample_directions(size, dim, rng=rng)
    a, b = (rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))) if weighted else (None, None)
    columns = np.ascontiguousarray(directions.T)

    def pot() -> None:
        ot.sliced.expected_sliced_plan(x, y, a, b, projections=columns, beta=1.0, dense=False)

    def ours() -> None:
        expected_sliced_plan(x, y, directions, a, b, beta=1.0)

    pairs = [(seconds(pot), seconds(ours)) for _ in range(repeats + 1)][1:]  # the first round warms up
    ratio = statistics.median(theirs / mine for theirs, mine in pairs)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    detail = f"POT {medians[0]:.2f} s, espref {medians[1]:.2f} s, median of {repeats}, beta = 1"
    return row(f"expected plan, {name}", ratio, "times faster", f">= {target:g}", ratio >= target, detail)


def _memory(n: int, size: int, dim: int, call: str) -> dict[str, float]:
    """Seconds and memory of a call on two clouds of n points."""
    return peak_memory(
        "import numpy as np, espref\n"
        "rng = np.random.default_rng(0)\n"
        f"x, y = rng.normal(size=({n}, {dim})), rng.normal(size=({n}, {dim}))\n"
        f"directions = espref.sample_directions({size}, {dim}, rng=rng)\n"
        f"# measured\nespref.{call}\n"
    )


def run() -> list[Row]:
    """All rows of the suite."""
    rows = [_against_pot(*case) for case in CASES]
    peaks = []
    for n, size in ((50_000, 32), (100_000, 32), (100_000, 64)):
        peaks.append(_memory(n, size, 64, "expected_sliced_plan(x, y, directions, beta=1.0)")["peak_mb"])
    numbers = peaks[1] * 2**20 / (32 * 200_000 * 8)
    growth = max(peaks[1] / peaks[0], peaks[2] / peaks[1])
    detail = f"{peaks[1]:.0f} MB beyond the input at n = m = 10^5, L = 32: {numbers:.1f} x L (n + m) numbers"
    name = "memory of expected plan: growth as n = m or L doubles"
    rows.append(row(name, growth, "times", "<= 2.2: O(L (n + m))", growth <= 2.2, detail))
    costs = _memory(1_000_000, 16, 8, "slice_costs(x, y, directions)")
    detail = f"{costs['seconds']:.1f} s; {costs['peak_mb']:.0f} MB beyond the input"
    total = costs["total_mb"] / 1024
    rows.append(row("slice costs, n = 10^6, L = 16, d = 8", total, "GB in all", "< 4", total < 4, detail))
    return rows
