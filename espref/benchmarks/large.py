"""Large inputs and long runs: a million points, 131072 tokens, a thousand calls in a row, one thread and two."""

from __future__ import annotations

import json
import os

from .measure import MEMORY, Row, last_line, peak_memory, row

POINTS = 1_000_000
TOKENS = 131_072

#: What is called on a million points, and what must vanish but for rounding: (name, call, deviation).
CALLS = (
    ("line plan, n = m, uniform", "espref.line_plan(x[:, 0], y[:, 0])", "result.sum(axis=1) * n - 1"),
    ("line plan, n != m, weighted", "espref.line_plan(x[:, 0], y[:-9, 0], a)", "result.sum(axis=1) / a - 1"),
    (
        "slice costs, L = 16",
        "espref.slice_costs(x, y, directions)",
        "result[0] / np.square(x[order(x)] - y[order(y)]).sum(1).mean() - 1",
    ),
    (
        "expected plan, L = 4, beta = 1",
        "espref.expected_sliced_plan(x, y, directions[:4], beta=1.0)",
        "result.plan.sum(axis=1) * n - 1",
    ),
    (
        "plan-free attention, balanced, d = 4",
        "espref.planfree_attention(y[:, :4], x[:, :4], np.ones((n, 1)), tau=0.1, beta=1.0, sort='balanced')",
        "result - 1",
    ),
)
_CLOUDS = (
    "import numpy as np, espref\n"
    "rng, n = np.random.default_rng(0), {n}\n"
    "x, y, a = rng.normal(size=(n, 8)), rng.normal(size=(n, 8)), rng.uniform(0.5, 1.5, n)\n"
    "a, directions = a / a.sum(), espref.sample_directions(16, 8, rng=rng)\n"
    "order = lambda points: (points @ directions[0]).argsort()\n"
)
_TOKENS = (
    "import torch\nfrom espref.nn import functional as F\n"
    "torch.manual_seed(0)\n"
    "q, k, v = (torch.randn(1, {heads}, {n}, 32, requires_grad=True) for _ in range(3))\n"
    "def step():\n"
    "    F.esp_attention(q, k, v, tau=0.1, beta=1.0, sort={sort!r}).output.square().sum().backward()\n"
)


def _million(name: str, call: str, deviation: str) -> Row:
    """One call on a million points: seconds, memory, and how far its sums are off."""
    code = _CLOUDS.format(n=POINTS) + f"# measured\nresult = {call}\n"
    figures = peak_memory(code, then=f"float(abs({deviation}).max())")
    detail = f"{figures['peak_mb']:.0f} MB beyond the input; sums off by {figures['then']:.1e}"
    return row(f"n = 10^6: {name}", figures["seconds"], "s", "sums to 1e-9", figures["then"] < 1e-9, detail)


def _long_attention(sort: str) -> Row:
    """Memory of a forward and backward pass at many tokens, and whether its gradients are finite."""
    figures = peak_memory(
        _TOKENS.format(heads=1, n=TOKENS, sort=sort) + "# measured\nstep()\n",
        then="float(torch.stack([x.grad.isfinite().all() for x in (q, k, v)]).all())",
    )
    total = figures["total_mb"] / 1024
    name = f"torch, N = {TOKENS}, one head, d = L = 32, {sort}, forward and backward"
    detail = f"{figures['seconds']:.0f} s; gradients {'' if figures['then'] else 'not '}finite"
    return row(name, total, "GB in all", "< 24", total < 24 and figures["then"] == 1, detail)


#: Python that reads how much memory a process holds after the C library has returned to the system what it keeps for
#: reuse, which varies.
_HELD = """
import ctypes, gc
trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)  # of glibc
def held():
    gc.collect()
    trim(0)
    return memory("VmRSS")
"""


def _growth(name: str, setup: str, call: str) -> Row:
    """Memory held after 1000 calls minus that after 100."""
    loops = f"sizes = []\nfor _ in range(10):\n    for _ in range(100): {call}\n    sizes.append(held())\n"
    sizes = json.loads(last_line(f"{MEMORY}{_HELD}\n{setup}\n{loops}print(json.dumps(sizes))\n"))
    grown = sizes[-1] - sizes[0]
    detail = "MB held after each hundred: " + ", ".join(f"{size:.1f}" for size in sizes)
    return row(f"1000 calls: {name}", grown, "MB more", "<= 1", grown <= 1, detail)


def _threads(name: str, setup: str, call: str) -> Row:
    """How many different results, bit for bit, one thread and two threads give."""
    script = (
        "import hashlib, os, sys\nthreads = int(os.environ['OMP_NUM_THREADS'])\n"
        f"{setup}\n"
        "from espref import _threads\n_threads.MOST_THREADS = threads\n"
        "if 'torch' in sys.modules: torch.set_num_threads(threads)\n"
        f"print(hashlib.sha256({call}.tobytes()).hexdigest())\n"
    )
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    results = {last_line(script, {**os.environ, **dict.fromkeys(variables, threads)}) for threads in "12"}
    return row(f"one thread and two: {name}", len(results), "results", "1: the same bits", len(results) == 1, "")


def run() -> list[Row]:
    """All rows of the suite; needs the extra ``torch``."""
    rows = [_million(*case) for case in CALLS]
    rows += [_long_attention(sort) for sort in ("soft", "balanced", "hard")]
    small, tokens = _CLOUDS.format(n=500), _TOKENS.format(heads=2, n=256, sort="balanced")
    expected = "espref.expected_sliced_plan(x, y, directions, beta=1.0)"
    free = "espref.planfree_attention(x, y, y, tau=0.1, beta=1.0, sort='balanced')"
    rows += [
        _growth("expected plan, n = 500", small, expected),
        _growth("plan-free attention, n = 500", small, free),
        _growth("torch, N = 256, balanced, forward and backward", tokens, "step()"),
    ]
    large, tokens = _CLOUDS.format(n=20_000), _TOKENS.format(heads=2, n=5000, sort="soft")
    forward = "F.esp_attention(q, k, v, tau=0.1, beta=1.0).output.detach().numpy()"
    rows += [
        _threads("expected plan, n = 20000", large, f"{expected}.plan.data"),
        _threads("slice costs, n = 20000", large, "espref.slice_costs(x, y, directions)"),
        _threads("plan-free attention, n = 20000", large, free),
        _threads("torch, N = 5000, forward", tokens, forward),
        _threads("torch, N = 5000, gradient of the queries", tokens, "(step(), q.grad.numpy())[1]"),
    ]
    return rows
