"""What each claim does, call by call, against ``sensitivity.json`` (``make trust``).

These tests notice a claim that was weakened: one that asks less, or that no longer sees a wrong answer it used to see.
They change with the spelling of a call, so they are not among the tests of ``make test``. After a change that is meant,
write the file anew with ``python tests/sensitivity.py`` and read the difference.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import sensitivity
from breaks import break_library
from scipy.sparse import coo_array

from espref import line, softsort
from espref.chapters import NUMPY_CHAPTERS
from espref.claims import LEDGER, synthetic_problems
from espref.claims import line as line_claims

pytestmark = pytest.mark.trust

#: Claim -> what it reads; see ``sensitivity.py``.
READS: dict[str, dict] = json.loads(sensitivity.FILE.read_text(encoding="utf-8"))


def test_every_claim_is_read() -> None:
    """All claims of the NumPy chapters are in the file."""
    assert set(READS) == {name for name, entry in LEDGER.items() if entry.chapter in NUMPY_CHAPTERS}


@pytest.mark.parametrize("name", READS)
def test_what_a_claim_reads(name: str) -> None:
    """It asks the library the same questions as when the file was written, as often, notices every wrong answer that
    it noticed then, and returns the same number when it is run again."""
    if (remedy := LEDGER[name].missing()) is not None:
        pytest.skip(remedy)
    known, reading = READS[name], sensitivity.read(LEDGER[name], len(READS[name]["noticed"]))
    assert all(getattr(reading, part) == known[part] for part in ("calls", "asked", "reads"))
    noticed = zip(reading.noticed, known["noticed"], strict=True)
    assert all(now >= before for now, before in noticed), reading.noticed
    assert reading.residuals == sensitivity.read(LEDGER[name], 0).residuals


@pytest.mark.parametrize("name", [name for name, known in READS.items() if any(known["values"])])
def test_value_of_a_measurement(name: str) -> None:
    """Counterexamples and measurements return the value in the file, within what their conditioning allows."""
    if (remedy := LEDGER[name].missing()) is not None:
        pytest.skip(remedy)
    values = sensitivity.values(sensitivity.residuals(LEDGER[name]))
    stored = READS[name]["values"]
    assert [value is None for value in values] == [value is None for value in stored]
    for value, before in zip(values, stored, strict=True):
        if value is not None:
            assert value == pytest.approx(before, rel=sensitivity.relative_tolerance(name), abs=0)


def test_optimal_for_one_cost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is optimal for |u - v| and crosses wherever it may costs too much for the other exponents."""
    emd = pytest.importorskip("ot").emd

    def crossing(u, v, a, b):
        return coo_array(emd(a, b, (ground := np.abs(u[:, None] - v)) + 1e-6 * np.sqrt(ground)))

    claim, problem = LEDGER["line.sorted-is-optimal"], next(p for p in synthetic_problems(0) if p.dim == 1)
    break_library(monkeypatch, line.line_plan, crossing)
    assert line_claims._excess(problem, np.abs) <= claim.tolerance
    for p in line_claims.EXPONENTS[1:]:
        assert line_claims._excess(problem, lambda t, p=p: np.abs(t) ** p) > 1e-3
    assert claim.check(problem) == max(line_claims._excess(problem, lambda t, p=p: np.abs(t) ** p) for p in (1.5, 2, 3))


@pytest.mark.parametrize(("above", "fails"), [(-1e-3, False), (1e-3, True)])
def test_the_bound_of_small_tau(above: float, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft sort just inside (n - 1) e^{-g^q / tau} of the permutation is right, one just outside is not."""

    def nearly(s, tau, *, power):
        matrix = np.eye(len(s))[np.argsort(s)]
        matrix[0, 0] += (1 + above) * (len(s) - 1) * np.exp(-(np.diff(np.sort(s)).min() ** power) / tau)
        return matrix

    monkeypatch.setattr(softsort, "soft_permutation", nearly)
    claim = LEDGER["softsort.small-tau"]
    assert (claim.check(np.random.default_rng(0)) > claim.tolerance) == fails


def test_almost_triangular(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one diagonal more allowed, all the mass of a doubly stochastic matrix can leave the diagonal."""
    monkeypatch.setattr(np, "tril", lambda matrix, k=0, tril=np.tril: tril(matrix, k + 1))
    assert LEDGER["attention.no-causal-form"].check() == pytest.approx(6)
