"""Plan-free NumPy attention against the plain form, its growth and its memory."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from ..attention import esp_attention
from ..planfree import planfree_attention
from .plans import peak_memory, row, seconds

SIZES = (1_000, 4_000, 16_000, 64_000)


def _tokens(n: int, dim: int = 32) -> tuple[np.ndarray, ...]:
    q, k, v = np.random.default_rng(0).normal(size=(3, n, dim))
    return q, k, v


def _fast(n: int, repeats: int) -> float:
    """Median seconds of the plan-free form."""
    q, k, v = _tokens(n)
    return statistics.median(seconds(lambda: planfree_attention(q, k, v, tau=0.1, beta=1.0)) for _ in range(repeats))


def run() -> list[dict[str, Any]]:
    """All rows of the suite."""
    q, k, v = _tokens(2048)
    plain = seconds(lambda: esp_attention(q, k, v, tau=0.1, beta=1.0))
    fast = _fast(2048, 5)
    detail = f"plain {plain:.1f} s, plan-free {fast:.2f} s"
    rows = [row("plan-free, n = 2048, d = 32", plain / fast, "times faster", ">= 20", plain / fast >= 20, detail)]
    times = [_fast(n, 3) for n in SIZES]
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
