"""Fuzzing of the torch function: hostile tensors give finite results near the specification, others an error."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter

import numpy as np
import pytest
import records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref import esp_attention as specification  # noqa: E402
from espref.nn import functional as F  # noqa: E402

EXAMPLES = int(os.environ.get("ESPREF_FUZZ", "0")) // 5  # one function here, twenty there
OUTCOMES: Counter[str] = Counter()
JUNK = [
    None,
    "text",
    -1,
    float("nan"),
    [[1.0]],
    np.ones((2, 2)),
    torch.ones(2),
    torch.ones(2, 0),
    torch.ones(0, 2),
    torch.ones(2, 2, dtype=torch.long),
    torch.ones(2, 2, dtype=torch.bool),
    torch.ones(2, 2, dtype=torch.complex64),
    torch.ones(3, 2, 9),
    torch.ones(2, 2, device="meta"),
    object(),
]


@st.composite
def hostile(draw: st.DrawFn, n: int, dim: int) -> torch.Tensor:
    """Tokens: ties, all equal, one outlier, denormals, large and small; any floating type and layout."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["general", "grid", "equal", "outlier", "denormal"]))
    x = rng.normal(size=(n, dim))
    x = {"grid": np.round(x), "equal": np.ones_like(x), "denormal": x * 1e-310}.get(kind, x)
    if kind == "outlier":
        x[0] = 1e3
    dtype = draw(st.sampled_from([torch.float64, torch.float64, torch.float32, torch.float16, torch.bfloat16]))
    tensor = torch.tensor(x * draw(st.sampled_from([1e-3, 1.0, 10.0]))).to(dtype)
    return draw(st.sampled_from([tensor, tensor.T.contiguous().T, tensor.repeat_interleave(2, 0)[::2]]))


@st.composite
def calls(draw: st.DrawFn) -> dict:
    n, m, dim = draw(st.integers(1, 20)), draw(st.integers(1, 20)), draw(st.integers(1, 4))
    slicers = torch.tensor(np.random.default_rng(draw(st.integers(0, 99))).normal(size=(draw(st.integers(1, 5)), dim)))
    arguments = {
        "query": draw(hostile(n, dim)),
        "key": draw(hostile(m, dim)),
        "value": draw(hostile(m, 2)),
        "tau": draw(st.sampled_from([1e-30, 1e-6, 0.1, 1.0, 1e6, 1e30])),
        "beta": draw(st.sampled_from([0.0, 0.5, 1e6])),
        "directions": draw(st.sampled_from([None, slicers])),
        "sort": draw(st.sampled_from(["soft", "balanced", "hard"])),
        "power": draw(st.sampled_from([1, 1, 2])),
        "key_padding_mask": draw(st.sampled_from([None, torch.arange(m) >= draw(st.integers(0, m))])),
        "query_padding_mask": draw(st.sampled_from([None, torch.arange(n) >= draw(st.integers(0, n))])),
    }
    if draw(st.integers(0, 3)) == 0:
        arguments[draw(st.sampled_from(list(arguments)))] = draw(
            st.sampled_from(range(len(JUNK))).map(JUNK.__getitem__)
        )
    return arguments


@settings(
    max_examples=EXAMPLES or 500,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(calls())
def test_fuzz(arguments: dict) -> None:
    """Finite output of the right shape and type, equal to NumPy in float64; inputs unchanged; else a named argument."""
    before = {
        name: x.clone() for name, x in arguments.items() if isinstance(x, torch.Tensor) and x.device.type == "cpu"
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            output = F.esp_attention(**arguments).output
        except (ValueError, TypeError) as error:
            assert set(re.findall(r"\w+", str(error).split("expected")[0])) & set(arguments), error
            OUTCOMES["refused"] += 1
        except RuntimeError as error:
            assert "no convergence" in str(error), error
            OUTCOMES["did not converge, and said so"] += 1
        else:
            OUTCOMES["sound results"] += 1
            q, k, v = (arguments[name] for name in ("query", "key", "value"))
            assert output.shape == (len(q), v.shape[1]) and output.dtype == v.dtype and torch.isfinite(output).all()
            masked = arguments["key_padding_mask"] is not None or arguments["query_padding_mask"] is not None
            if {q.dtype, k.dtype, v.dtype} == {torch.float64} and not masked and abs(k).max() < 1e3 > abs(q).max():
                slicers = arguments["directions"]
                plain = specification(
                    *(x.contiguous().numpy() for x in (q, k, v)),
                    tau=arguments["tau"],
                    beta=arguments["beta"],
                    directions=None if slicers is None else slicers.numpy(),
                    sort=arguments["sort"],
                    power=arguments["power"],
                )
                if arguments["beta"] < 1:  # a large beta magnifies the rounding of nearly equal costs
                    np.testing.assert_allclose(output, plain.output, rtol=0, atol=1e-9 * (1 + abs(v).max().item()))
    for name, value in before.items():
        assert torch.equal(value, arguments[name]) or value.isnan().any(), name


@pytest.mark.skipif(not EXAMPLES, reason="make fuzz writes the record")
def test_record() -> None:
    """How many calls there were, and how they ended."""
    detail = ", ".join(f"{count} {outcome}" for outcome, count in OUTCOMES.most_common())
    total = OUTCOMES.total()
    assert total >= EXAMPLES
    title = "espref.nn.functional.esp_attention"
    records.write("fuzz", [records.row("fuzz", title, total, "calls", ">= 20000", total >= 2e4, detail)])
