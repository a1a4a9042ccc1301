"""Attention without plans, in NumPy: how much faster it is than with plans, how its time and its memory grow."""

from __future__ import annotations

import statistics

import numpy as np

from .._checks import Array
from ..attention import esp_attention
from ..planfree import planfree_attention
from .measure import Row, peak_memory, row, seconds

SIZES = (1_000, 4_000, 16_000, 64_000)


def _tokens(n: int, dim: int = 32) -> tuple[Array, Array, Array]:
    """Gaussian queries, keys and values."""
    q, k, v = np.random.default_rng(0).normal(size=(3, n, dim))
    return q, k, v


def _planfree_seconds(n: int, repeats: int) -> float:
    """Median seconds of attention without plans."""
    q, k, v = _tokens(n)
    return statistics.median(seconds(lambda: planfree_attention(q, k, v, tau=0.1, beta=1.0)) for _ in range(repeats))


def run() -> list[Row]:
    """All rows of the suite."""
    q, k, v = _tokens(2048)
    dense, planfree = seconds(lambda: esp_attention(q, k, v, tau=0.1, beta=1.0)), _planfree_seconds(2048, 5)
    detail = f"with plans {dense:.1f} s, without {planfree:.2f} s"
    ratio = dense / planfree
    rows = [row("plan-free, n = 2048, d = 32", ratio, "times faster", ">= 20", ratio >= 20, detail)]
    times = [_planfree_seconds(n, 3) for n in SIZES]
    slope = float(np.polyfit(np.log(SIZES), np.log(times), 1)[0])
    detail = ", ".join(f"n = {n}: {time:.2f} s" for n, time in zip(SIZES, times, strict=True))
    rows.append(row("growth of time, n = 1000 to 64000", slope, "log-log slope", "<= 1.2", slope <= 1.2, detail))
    peak = peak_memory(
        "import numpy as np, espref\n"
        "q, k, v = np.random.default_rng(0).normal(size=(3, 64000, 32))\n"
        "# measured\nespref.planfree_attention(q, k, v, tau=0.1, beta=1.0)\n"
    )["peak_mb"]
    numbers = peak * 2**20 / (64_000 * 32 * 8)
    detail = f"{peak:.0f} MB beyond the input, n = 64000, d = 32"
    rows.append(row("memory of plan-free attention", numbers, "x n d numbers", "O(n d)", None, detail))
    return rows
