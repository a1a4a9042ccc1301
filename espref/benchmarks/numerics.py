"""Rounding errors of ESP attention in PyTorch: narrow floats, extreme temperatures, long sequences, against float64.

Float64 itself is measured against the NumPy specification.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..planfree import planfree_attention
from .measure import Row, row

TAUS = tuple(10.0 ** np.arange(-6, 7, 3))
BETAS = (0.0, 1.0, 1e3, 1e6)


def _tokens(n: int, dim: int = 8) -> Any:
    """Gaussian queries, keys and values in float64, shape (3, n, dim)."""
    import torch

    return torch.randn(3, n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _errors(kind: str, sort: str, n: int, taus: tuple[float, ...], betas: tuple[float, ...]) -> tuple[float, float]:
    """Largest error of an output and largest deviation of a column sum, over all temperatures.

    The error is relative to the largest output. It is that against float64 on the same rounded tokens, or against NumPy
    where ``kind`` is float64. Both numbers are infinite where anything is not finite.
    """
    import torch

    from ..nn.functional import esp_attention

    q, k, v = (x.to(getattr(torch, kind)) for x in _tokens(n))
    worst, defect = 0.0, 0.0
    ones = torch.ones(n, 1, dtype=q.dtype)
    for tau in taus:
        for beta in betas:
            narrow = esp_attention(q, k, v, tau=tau, beta=beta, sort=sort).output.double()
            if kind == "float64":
                exact = torch.tensor(planfree_attention(q, k, v, tau=tau, beta=beta, sort=sort))
            else:
                exact = esp_attention(q.double(), k.double(), v.double(), tau=tau, beta=beta, sort=sort).output
            # with queries and keys exchanged, row sums are the column sums of the transposed plan
            sums = esp_attention(k, q, ones, tau=tau, beta=beta, sort=sort).output.double()
            if not (torch.isfinite(narrow).all() and torch.isfinite(sums).all()):
                return float("inf"), float("inf")
            worst = max(worst, float((narrow - exact).abs().max() / exact.abs().max()))
            defect = max(defect, float((sums - 1).abs().max()))
    return worst, defect


def _gradients(n: int, tau: float) -> Row:
    """Gradient of the queries against float64, on the same tokens and on tokens not rounded to float32."""
    import torch

    from ..nn.functional import esp_attention

    def gradient(tokens: Any, kind: Any) -> Any:
        q, k, v = (x.to(kind).requires_grad_() for x in tokens)
        output = esp_attention(q, k, v, tau=tau, beta=1.0).output
        return torch.autograd.grad(output.square().sum(), q)[0].double()

    exact = _tokens(n, 32)
    rounded = exact.float()
    narrow = gradient(rounded, torch.float32)
    references = (gradient(rounded, torch.float64), gradient(exact, torch.float64))
    error, drift = ((narrow - reference).abs() / reference.abs().max() for reference in references)
    far = 100 * float((drift > 1e-3).double().mean())
    detail = f"on unrounded tokens {far:.2g} % of the entries are off by more than 1e-3, at most by {drift.max():.1e}"
    name = f"float32, soft, N = {n}, tau = {tau:g}: gradient of the queries against float64"
    return row(name, float(error.max()), "of its largest entry", "<= 1e-4", float(error.max()) <= 1e-4, detail)


def run() -> list[Row]:
    """All rows of the suite; needs the extra ``torch``."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("the suite numerics needs PyTorch: pip install 'espref[torch]'") from error
    rows = []
    for kind in ("float16", "bfloat16", "float32", "float64"):
        unit = torch.finfo(getattr(torch, kind)).eps
        for sort in ("soft", "balanced", "hard"):
            worst, defect = _errors(kind, sort, 256, TAUS, BETAS[:2])
            detail = f"tau from 1e-6 to 1e6, beta 0 and 1, N = 256; column sums off by {defect:.1e}"
            name = f"{kind}, {sort}: error against {'NumPy' if kind == 'float64' else 'float64'}"
            most = 512 if (kind, sort) == ("float64", "balanced") else 64  # there two scalings, both stopped at 1e-13
            rows.append(row(name, worst / unit, "rounding units", f"<= {most}", worst <= most * unit, detail))
    for beta in BETAS[2:]:
        worst, _ = _errors("float32", "soft", 256, (0.1,), (beta,))
        detail = "slice weights depend on the last digits of nearly equal costs"
        name = f"float32, soft, beta = {beta:g}: error against float64"
        rows.append(row(name, worst, "of the output", "", None, detail))
    for n in (1000, 10_000, 100_000):
        worst, defect = _errors("float32", "balanced", n, (0.1,), (1.0,))
        detail = f"column sums off by {defect:.1e}"
        name = f"float32, balanced, N = {n}: error against float64"
        rows.append(row(name, worst, "of the output", "", None, detail))
    return rows + [_gradients(2048, tau) for tau in (0.1, 1e-3)]
