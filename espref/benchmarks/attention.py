"""ESP attention in PyTorch against the released algorithm, Sinkhorn attention and fused softmax attention.

One forward and backward pass with d = L = 32 in float32: four heads on a CPU; with CUDA 32 heads, up to N = 262144, and
in bfloat16 too. Times are medians, measured in turn within one process; memory is the peak of a process of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from .measure import Row, peak_memory, row, seconds

DIM, TAU, BETA = 32, 0.1, 1.0
Step = Callable[[], None]


def released(q: Any, k: Any, v: Any) -> Any:
    """Algorithm 1 of ESPFormer with the Gauss kernel: dense soft permutations, and a dense plan P^T Q per slice."""
    import torch

    def soft_permutation(x: Any) -> Any:
        s = x.mT  # (1, H, L, N)
        return torch.softmax(-(s.sort(dim=-1).values[..., :, None] - s[..., None, :]).square() / TAU, dim=-1)

    n = q.shape[-2]
    plans = soft_permutation(q).mT @ soft_permutation(k) / n  # (1, H, L, N, N)
    costs = (torch.cdist(q, k).square()[:, :, None] * plans).sum((-2, -1))  # (1, H, L)
    weights = torch.softmax(-BETA * costs, dim=-1)
    return n * (weights[..., None, None] * plans).sum(2) @ v


def sinkhorn(q: Any, k: Any, v: Any) -> Any:
    """Dense Sinkhorn attention in the log domain: five iterations, each of rows and columns."""
    from ..nn.functional import sinkhorn_attention

    return sinkhorn_attention(q, k, v, n_iter=5).output


def esp(q: Any, k: Any, v: Any) -> Any:
    """ESP attention of :mod:`espref.nn`."""
    from ..nn.functional import esp_attention

    return esp_attention(q, k, v, tau=TAU, beta=BETA).output


def softmax(q: Any, k: Any, v: Any) -> Any:
    """PyTorch's fused softmax attention."""
    import torch

    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


KINDS = {"esp": esp, "released": released, "sinkhorn": sinkhorn, "softmax": softmax}


def device_name() -> str:
    """CUDA where PyTorch finds it, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def step(kind: str, n: int, *, heads: int = 4, narrow: bool = False) -> Step:
    """One forward and backward pass at n tokens, ready to be called; ``narrow`` is bfloat16."""
    import torch

    generator, device = torch.Generator().manual_seed(0), device_name()
    tokens = torch.randn(3, 1, heads, n, DIM, generator=generator).to(device, torch.bfloat16 if narrow else None)
    q, k, v = (x.clone().requires_grad_() for x in tokens)
    g = torch.ones_like(q)

    def run() -> None:
        torch.autograd.grad(KINDS[kind](q, k, v), (q, k, v), g)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _median(kinds: tuple[str, ...], n: int, repeats: int, **options: Any) -> dict[str, float]:
    """Median seconds of each kind, measured in turn; with several repeats a first round warms up."""
    steps = {kind: step(kind, n, **options) for kind in kinds}
    rounds = [{kind: seconds(run) for kind, run in steps.items()} for _ in range(repeats + 1)][repeats > 1 :]
    return {kind: statistics.median(times[kind] for times in rounds) for kind in kinds}


def peak_mb(prepare: Callable[[], Step], code: str) -> float:
    """Peak memory in MB of a step beyond what was held before: on CUDA of the allocator, else of a process of its own.

    On CUDA ``prepare`` makes the step, and its second call is measured. Elsewhere ``code`` makes and calls it; see
    :func:`espref.benchmarks.measure.peak_memory`.
    """
    if device_name() == "cuda":
        import torch

        run = prepare()
        run()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return float(torch.cuda.max_memory_allocated() - held) / 2**20
    return peak_memory(code)["peak_mb"]


def _memory(kind: str, n: int, heads: int = 4) -> float:
    """Peak memory in MB of one step."""
    module = "espref.benchmarks.attention"
    code = f"from {module} import step\nstep('{kind}', 64)()\nrun = step('{kind}', {n})\n# measured\nrun()\n"
    return peak_mb(lambda: step(kind, n, heads=heads), code)


def _crossing(sizes: list[int], ratios: list[float]) -> float:
    """The n from which on the ratio is above 1, by log-log interpolation; infinite if it ends below."""
    for (n, low), (m, high) in reversed(list(pairwise(zip(sizes, ratios, strict=True)))):
        if high < 1:
            return math.inf
        if low < 1:
            return float(n * (m / n) ** (math.log(1 / low) / math.log(high / low)))
    return sizes[0] if ratios[-1] >= 1 else math.inf


def _against_released() -> list[Row]:
    n = 1024
    times = {"esp": _median(("esp",), n, 5)["esp"], "released": seconds(step("released", n))}
    peaks = {kind: _memory(kind, n) for kind in times}
    speed, memory = times["released"] / times["esp"], peaks["released"] / peaks["esp"]
    detail = f"released {times['released']:.2f} s, espref {times['esp']:.3f} s"
    peak_detail = f"released {peaks['released']:.0f} MB, espref {peaks['esp']:.0f} MB"
    return [
        row(f"released algorithm, dense, N = {n}", speed, "times faster", ">= 20", speed >= 20, detail),
        row(f"released algorithm, dense, N = {n}", memory, "times less memory", ">= 15", memory >= 15, peak_detail),
    ]


def _against_sinkhorn() -> list[Row]:
    sizes, rows = [256, 512, 1024, 2048, 4096], []
    times = [_median(("esp", "sinkhorn"), n, 5 if n < 4096 else 3) for n in sizes]
    ratios = [t["sinkhorn"] / t["esp"] for t in times]
    peaks = {kind: _memory(kind, 4096) for kind in ("sinkhorn", "esp")}
    memory = peaks["sinkhorn"] / peaks["esp"]
    detail = f"Sinkhorn {times[-1]['sinkhorn']:.2f} s, espref {times[-1]['esp']:.2f} s"
    name = "Sinkhorn attention, 5 iterations"
    rows.append(row(f"{name}, N = 4096", ratios[-1], "times faster", ">= 3", ratios[-1] >= 3, detail))
    detail = f"Sinkhorn {peaks['sinkhorn']:.0f} MB, espref {peaks['esp']:.0f} MB"
    rows.append(row(f"{name}, N = 4096", memory, "times less memory", ">= 5", memory >= 5, detail))
    worst, crossing = min(ratios[2:]), _crossing(sizes, ratios)
    detail = ", ".join(f"N = {n}: {ratio:.2f}" for n, ratio in zip(sizes, ratios, strict=True))
    detail += f"; as fast from N = {crossing:.0f}"
    rows.append(row(f"{name}, slowest of N >= 1024", worst, "times faster", ">= 1", worst >= 1, detail))
    return rows


def _growth() -> list[Row]:
    sizes = [4096, 8192, 16384, 32768]
    times = [_median(("esp",), n, 3)["esp"] for n in sizes]
    memory = [_memory("esp", n) for n in sizes]
    slopes = [float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) for values in (times, memory)]
    details = [
        ", ".join(f"N = {n}: {value:.{digits}f} {unit}" for n, value in zip(sizes, values, strict=True))
        for values, unit, digits in ((times, "s", 2), (memory, "MB", 0))
    ]
    name = "growth, N = 4096 to 32768"
    return [
        row(f"{name}, time", slopes[0], "log-log slope", "<= 1.15", slopes[0] <= 1.15, details[0]),
        row(f"{name}, memory", slopes[1], "log-log slope", "<= 1.1", slopes[1] <= 1.1, details[1]),
    ]


def _against_softmax() -> list[Row]:
    cuda = device_name() == "cuda"
    heads, sizes = (32, [2**e for e in range(8, 19)]) if cuda else (4, [2**e for e in range(8, 17)])
    rows = []
    for narrow in (False, True)[: 2 if cuda else 1]:
        times = [_median(("esp", "softmax"), n, 5 if n <= 4096 else 1, heads=heads, narrow=narrow) for n in sizes]
        ratios = [t["softmax"] / t["esp"] for t in times]
        crossing = _crossing(sizes, ratios)
        detail = "softmax over espref: " + ", ".join(f"{n}: {r:.3f}" for n, r in zip(sizes, ratios, strict=True))
        name = f"fused softmax attention, {'bfloat16' if narrow else 'float32'}, as fast from"
        rows.append(row(name, crossing, "tokens", "<= 32768", crossing <= 32768, detail))
    return rows


def run() -> list[Row]:
    """All rows of the suite; needs the extra ``torch``."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError("the suite attention needs PyTorch: pip install 'espref[torch]'") from error
    return [*_against_released(), *_against_sinkhorn(), *_growth(), *_against_softmax()]
