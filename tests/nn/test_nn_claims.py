"""The torch chapter of the ledger notices when the module is broken."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
from espref.claims import LEDGER, run_claim  # noqa: E402
from espref.nn import attention, functional, operators, scan, slices, sorting  # noqa: E402

decay, scores, slope, carries = scan.decay, slices.scores, scan._slope, scan._carries
valid_count, rank_plan, sort_tokens = slices.valid_count, slices.rank_plan, slices.sort_tokens
sinkhorn, esp, apply = functional.sinkhorn_attention, functional.esp_attention, operators.apply

BREAKS: dict[str, tuple[ModuleType, str, Callable]] = {
    "tau twice too small": (scan, "decay", lambda d, tau: decay(d, None if tau is None else tau / 2)),
    "scores of the negative directions, for the keys' side too": (
        slices,
        "scores",
        lambda x, directions: scores(x, directions) * (1 + 1e-6 * torch.arange(x.shape[1])),
    ),
    "ranks put back in the wrong order": (sorting, "inverse", lambda order: order),
    "nothing carried from chunk to chunk": (
        scan,
        "_carries",
        lambda *arguments: None if (c := carries(*arguments)) is None else torch.zeros_like(c),
    ),
    "no gradient through the kernel": (scan, "_slope", lambda *arguments: torch.zeros_like(slope(*arguments))),
    "the gradient through the kernel twice": (scan, "_slope", lambda *arguments: 2 * slope(*arguments)),
    "padded tokens counted": (slices, "valid_count", lambda x, valid: valid_count(x, None)),
    "rank to rank when n != m": (
        slices,
        "rank_plan",
        lambda q, k, query_valid, key_valid: rank_plan(q, k, None, None),
    ),
    "the sort not normalised": (
        slices,
        "sort_tokens",
        lambda *arguments: (s := sort_tokens(*arguments))._replace(left=torch.ones_like(s.left)),
    ),
    "balanced scaling stopped early": (
        sorting,
        "balanced_scaling",
        lambda sort: sort.mask / sort.mask.sum(-1, True).sqrt(),
    ),
    "slices weighed alike": (
        operators,
        "apply",
        lambda q, k, v, directions, tau, beta, *options: apply(q, k, v, directions, tau, 0 * beta, *options),
    ),
    "a matrix on the way": (
        functional,
        "esp_attention",
        lambda q, k, v, **settings: esp(q, k, v, **{**settings, "need_weights": True}),
    ),
    "one iteration too few": (
        functional,
        "sinkhorn_attention",
        lambda q, k, v, *, n_iter=5, **masks: sinkhorn(q, k, v, n_iter=max(n_iter - 1, 1), **masks),
    ),
    "keys for queries in a swapped model": (
        attention,
        "softmax_attention",
        lambda q, k, v, **settings: functional.softmax_attention(k, q, v, **settings),
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_claim_fails_when_the_module_is_broken(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one function broken, at least one claim of the chapter fails by its own residual."""
    module, name, replacement = BREAKS[broken]
    monkeypatch.setattr(module, name, replacement)
    notes = []
    for entry in LEDGER.values():
        if entry.chapter == "nn":
            outcome = run_claim(entry, [], seeds=1)
            if outcome.verdict == "fails" and outcome.note.startswith("worst on"):
                return
            notes.append(outcome.note)
    pytest.fail(f"every claim holds: {notes}")
