"""Paper, released code, POT, espref: where they differ, one row a point, and how to convert settings.

The released ESPFormer code is described by formulas written here afresh; none of its code stands in this package.
``DEVIATIONS`` is data: the command line and the documentation print the same table. Each row names the test that
computes both sides.
"""

from __future__ import annotations

from typing import NamedTuple

from ._checks import as_count, as_real


class Deviation(NamedTuple):
    """One point on which the four differ."""

    point: str
    paper: str
    released: str
    pot: str
    espref: str
    test: str  # the test of tests/test_deviations.py that computes it


DEVIATIONS = (
    Deviation(
        "mass of a plan",
        "1: the factor 1/N",
        "N: rows sum to about 1; one model multiplies by N once more",
        "1",
        "plans have mass 1, attention matrices are n times a plan",
        "test_mass",
    ),
    Deviation(
        "cost in the slice weights",
        "mean of squared distances under the plan",
        "sum of unsquared distances under a plan of mass N",
        "mean of |x - y|^p",
        "mean of |x - y|^p; the square in attention",
        "test_cost_in_weights",
    ),
    Deviation(
        "inverse temperature over slices",
        "called tau",
        "called tau; acts as N times the paper's, since costs are summed",
        "called beta",
        "beta, in units of 1 / cost",
        "test_inverse_temperature",
    ),
    Deviation(
        "kernel of the soft sort",
        "SoftSort at temperature t, annealed",
        "Gauss kernel at 1e-3, fixed; queries and keys scaled by d^(-1/2) first, so 1e-3 d on unscaled ones",
        "no soft sort",
        "tau; power = 1 (Laplace) or 2 (Gauss); no hidden scaling",
        "test_kernel_and_scaling",
    ),
    Deviation(
        "doubly stochastic",
        "claimed",
        "not at its defaults: SoftSort has column sums other than 1",
        "exact (hard sort)",
        "exact for sort = 'balanced' and 'hard'; the defect of 'soft' is stated",
        "test_doubly_stochastic",
    ),
    Deviation(
        "unequal lengths",
        "N = M",
        "linear interpolation between P and Q: no coupling",
        "exact plans; slice costs wrong",
        "the monotone plan between ranks: exact marginals",
        "test_unequal_lengths",
    ),
    Deviation(
        "slicers",
        "the axes",
        "the axes",
        "as many random directions as asked for, or given ones",
        "given directions: six schemes of sampling; in attention the axes unless others are given",
        "test_slicers",
    ),
    Deviation(
        "slice costs, n != m or weighted",
        "-",
        "-",
        "wrong in 0.9.7, so plans with beta > 0 are wrong too",
        "<C, G> of the very plan",
        "test_pot_slice_costs",
    ),
    Deviation(
        "ties",
        "not treated",
        "hard = True repeats a row: no permutation",
        "one permutation of the tied points",
        "mass is split; ties = 'first' on request",
        "test_ties",
    ),
    Deviation(
        "padding",
        "-",
        "a sentinel of 1e18 in queries and keys: half precision fails; masks have opposite meanings in sibling modules",
        "-",
        "the plan between real tokens only",
        "test_padding_sentinel",
    ),
    Deviation(
        "causal masks",
        "not offered",
        "not offered",
        "-",
        "refused: triangular and doubly stochastic is the identity",
        "test_causal",
    ),
    Deviation(
        "time for L slices, N tokens, d coordinates",
        "O(L N (N + d)) stated for training",
        "O(L N^3): builds P^T Q",
        "O(L N (log N + d)), hard sort",
        "O(L N (log N + d)), soft, balanced and hard, power = 1",
        "test_complexity",
    ),
)


def deviation_table() -> str:
    """The table in Markdown, one row a point."""
    head = ("point", "paper", "released code", "POT 0.9.7", "espref")
    rows = [head, ("---",) * 5, *(deviation[:5] for deviation in DEVIATIONS)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows)


class Settings(NamedTuple):
    """Arguments of :func:`espref.esp_attention` and of :func:`espref.expected_soft_plan`."""

    tau: float
    beta: float
    p: float
    power: int


def released_settings(
    n_tokens: int, head_dim: int, *, inverse_temperature: float = 10.0, sort_temperature: float = 1e-3
) -> Settings:
    r"""The settings that reproduce the released code on *unscaled* queries and keys.

    The released code scales queries and keys by $d^{-1/2}$, sorts with a Gauss kernel at t, and weighs slices by
    $\mathrm{softmax}_l(-\tau \sum_{ij} |q_i - k_j| U_{l,ij})$ with U of mass N. So, without the scaling,

    $$\tau_{\mathrm{espref}} = d\, t, \qquad \beta = \tau_{\mathrm{released}}\, N / \sqrt d, \quad p = 1, \; q = 2 .$$

    Parameters
    ----------
    n_tokens, head_dim : int
        N and d.
    inverse_temperature, sort_temperature : float
        The released code's tau and t.

    Returns
    -------
    Settings
        tau, beta, p, power, for ``expected_soft_plan(q, k, np.eye(d), tau, beta=beta, p=p, power=power)``; times N the
        plan is the released attention matrix. (``esp_attention`` follows the paper: p = 2 in the weights.)

    Raises
    ------
    ValueError
        For malformed input.

    Examples
    --------
    >>> from espref.deviations import released_settings
    >>> released_settings(128, 16)
    Settings(tau=0.016, beta=320.0, p=1.0, power=2)

    References
    ----------
    shahbazi2025espformer
    """
    n, d = as_count(n_tokens, "n_tokens"), as_count(head_dim, "head_dim")
    over_slices = as_real(inverse_temperature, "inverse_temperature", least=0)
    of_sort = as_real(sort_temperature, "sort_temperature", least=0)
    return Settings(d * of_sort, over_slices * n / d**0.5, 1.0, 2)
