"""Where paper, released code, POT and espref differ, one row per point, and how to convert settings.

The released ESPFormer code is described by formulas written for this package, which contains none of that code.
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
        "N: rows sum to about 1; one model multiplies by N again",
        "1",
        "plans have mass 1, attention matrices are n times a plan",
        "test_mass",
    ),
    Deviation(
        "cost in the slice weights",
        "mean of squared distances under the plan",
        "sum of unsquared distances under a plan of mass N",
        "mean of |x - y|^p",
        "mean of |x - y|^p; attention uses p = 2",
        "test_cost_in_weights",
    ),
    Deviation(
        "inverse temperature over slices",
        "called tau",
        "called tau; equivalent to N times the paper's, since costs are summed, not averaged",
        "called beta",
        "called beta, in units of 1 / cost",
        "test_inverse_temperature",
    ),
    Deviation(
        "kernel of the soft sort",
        "SoftSort at temperature t, annealed",
        "Gauss kernel at a fixed temperature of 1e-3; queries and keys are scaled by d^(-1/2) first, which makes it "
        "1e-3 d on unscaled ones",
        "no soft sort",
        "kernel power = 1 (Laplace) or 2 (Gauss) at temperature tau; functions scale nothing, and EspAttention scales "
        "queries and keys by d^(-1/2) (settings = 'released' is the released layer)",
        "test_kernel_and_scaling",
    ),
    Deviation(
        "doubly stochastic",
        "claimed",
        "not at its default settings: the column sums of SoftSort are not 1",
        "exact (hard sort)",
        "exact for sort = 'balanced' and 'hard'; not for 'soft', whose deviation the ledger measures",
        "test_doubly_stochastic",
    ),
    Deviation(
        "unequal lengths",
        "N = M",
        "linear interpolation between ranks, which is not a plan",
        "exact plans, but wrong slice costs",
        "the monotone plan between ranks, which has exact marginals",
        "test_unequal_lengths",
    ),
    Deviation(
        "slicers",
        "the axes",
        "the axes",
        "random directions, or those given",
        "the directions given, from six schemes of sampling; in attention the axes by default",
        "test_slicers",
    ),
    Deviation(
        "slice costs, n != m or weighted",
        "-",
        "-",
        "wrong in 0.9.7, and so are the plans with beta > 0",
        "the cost <C, G> of the slice plan G",
        "test_pot_slice_costs",
    ),
    Deviation(
        "ties",
        "not treated",
        "hard = True repeats a row, so the matrix is not a permutation",
        "tied points are matched in some order",
        "tied points share their mass; ties = 'first' keeps the input order instead",
        "test_ties",
    ),
    Deviation(
        "padding",
        "-",
        "padded queries and keys are set to 1e18, which is infinite in half precision; masks of related modules have "
        "opposite meanings",
        "-",
        "masks; the plan is between the tokens that are not padding",
        "test_padding_sentinel",
    ),
    Deviation(
        "causal masks",
        "not offered",
        "not offered",
        "-",
        "refused: the only triangular doubly stochastic matrix is the identity",
        "test_causal",
    ),
    Deviation(
        "time for L slices, N tokens, d coordinates",
        "O(L N (N + d)) for training, as stated there",
        "O(L N^3), since it computes P^T Q",
        "O(L N (log N + d)) with the hard sort",
        "O(L N (log N + d)) for all sorts, with power = 1",
        "test_complexity",
    ),
)


def deviation_table() -> str:
    """The table in Markdown, one row per point."""
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

    The released code scales queries and keys by $d^{-1/2}$, sorts with a Gauss kernel at temperature t, and weights
    slices by $\mathrm{softmax}_l(-\tau \sum_{ij} |q_i - k_j| U_{l,ij})$ with plans $U_l$ of mass N. Without the
    scaling, therefore,

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
        tau, beta, p, power. N times the plan of
        ``expected_soft_plan(q, k, np.eye(d), tau, beta=beta, p=p, power=power)`` is the released attention matrix.
        (``esp_attention`` follows the paper and has p = 2 in the slice weights.)

    Raises
    ------
    ValueError
        Unless both counts are positive and both temperatures are nonnegative.

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
