"""Pictures of the refutations in the ledger, drawn with the package at each build.

A function decorated with :func:`picture` draws the picture of one claim into an empty figure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

import espref as es
from espref.claims import circle as circle_claims
from espref.claims import expected as expected_claims
from espref.plot import MASS, SOURCE, TARGET

Drawing = Callable[[Figure], None]
#: Claim -> alternative text, function that draws.
PICTURES: dict[str, tuple[str, Drawing]] = {}


def picture(identifier: str, description: str) -> Callable[[Drawing], Drawing]:
    """Register the decorated function as the picture of a claim."""

    def register(draw: Drawing) -> Drawing:
        PICTURES[identifier] = (description, draw)
        return draw

    return register


def write(folder: Path) -> None:
    """Write every picture to ``<claim>.svg``, in colours for the light and the dark theme."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context("espref.figures"):
        for identifier, (_, draw) in PICTURES.items():
            figure = Figure(figsize=(6.4, 2.6), layout="constrained")
            draw(figure)
            figure.savefig(folder / f"{identifier.replace('.', '-')}.svg", metadata={"Date": None})


def _first_seed() -> np.random.Generator:
    """The random generator that the ledger uses for the first seed."""
    return np.random.default_rng([0, 271828])


def _lines(ax, plan, x, y) -> None:
    plan = plan.toarray()
    for i, j in zip(*np.nonzero(plan), strict=True):
        ax.plot(*zip(x[i], y[j], strict=True), color=MASS, lw=6 * plan[i, j] / plan.max(), alpha=0.6)


@picture(
    "expected.ties-break-the-identity",
    "Two panels with one point above another. On the first axis each point sends half its mass to the other; on the "
    "second each keeps its own.",
)
def _ties(figure: Figure) -> None:
    points = np.array([[0.0, 0.0], [0.0, 1.0]])
    beside = points + [0.5, 0]  # the target is the source, drawn a little to the right
    axes = figure.subplots(1, 2)
    plans = es.sliced_plans(points, points, np.eye(2))
    costs = es.slice_costs(points, points, np.eye(2))
    for ax, plan, cost, name in zip(axes, plans, costs, ("first axis: tied", "second axis"), strict=True):
        _lines(ax, plan, points, beside)
        ax.plot(*points.T, "o", color=SOURCE)
        ax.plot(*beside.T, "s", color=TARGET)
        ax.set(title=f"{name}, cost {cost:g}", xticks=[], yticks=[], xlim=(-0.4, 0.9), ylim=(-0.3, 1.3))
        ax.spines[:].set_visible(False)


@picture(
    "expected.no-metric-for-positive-beta",
    "Curve of the direct distance minus the detour against beta: negative for small beta, then above zero, where the "
    "triangle inequality fails.",
)
def _triangle(figure: Figure) -> None:
    betas = np.logspace(-3, 1, 161)
    gaps = [expected_claims._triangle_gap(beta) for beta in betas]
    ax = figure.subplots()
    ax.axhline(0, color="gray", lw=1)
    ax.semilogx(betas, gaps)
    ax.fill_between(betas, 0, np.maximum(gaps, 0), color=TARGET, alpha=0.4, lw=0)
    ax.set(xlabel="$\\beta$", ylabel="$d(x, z) - d(x, y) - d(y, z)$", xlim=(1e-3, 10))


@picture(
    "circle.can-cost-more-than-independence",
    "Costs of single slices against their angle as a staircase, with the mean over the circle slightly above the cost "
    "of the independent coupling.",
)
def _independent(figure: Figure) -> None:
    x, y = (cloud - cloud.mean(axis=0) for cloud in (circle_claims.WORSE_X, circle_claims.WORSE_Y))
    plan = es.circle_plan(x, y)
    independent = (x**2).sum(axis=1).mean() + (y**2).sum(axis=1).mean()
    ax = figure.subplots()
    ends = np.append(0, plan.weights.cumsum())
    ax.stairs(plan.costs, 180 * ends, baseline=None, color=SOURCE, lw=1.8, label="slices, by size of their arc")
    ax.axhline(plan.cost, color=MASS, label="their mean: the expected plan")
    ax.axhline(independent, color=TARGET, ls="--", label="independent coupling")
    ax.set(xlabel="degrees of the half circle", ylabel="cost", xlim=(0, 180), xticks=range(0, 181, 45))
    ax.legend(fontsize=8)


@picture(
    "solvers.pot-slice-costs-are-wrong",
    "Relative error of POT's slice cost against the number of points: zero at many sizes, far from zero at some.",
)
def _pot(figure: Figure) -> None:
    from ot import sliced

    sizes, errors = range(2, 33), []
    rng = np.random.default_rng(0)
    for n in sizes:
        x, y = rng.normal(size=(2, n, 2))
        plan, cost = sliced.expected_sliced_plan(x, y, projections=np.array([[1.0], [0.0]]), beta=1.0, dense=True)
        true = es.transport_cost(plan, x, y)
        errors.append(abs(cost - true) / true)
    ax = figure.subplots()
    ax.plot(sizes, errors, "o")
    ax.set(xlabel="points on each side", ylabel="relative error of the cost")


@picture(
    "solvers.pot-simplex-has-no-scale",
    "Excess cost of POT's plan against the size of the clouds: none down to a ten-millionth, more than the optimum "
    "itself below.",
)
def _pot_scale(figure: Figure) -> None:
    from ot import emd
    from scipy.optimize import linear_sum_assignment

    sizes, excess = np.logspace(-9, 0, 28), []
    x, y = np.random.default_rng(0).normal(size=(2, 20, 2))
    for size in sizes:
        ground = es.solvers.ground_cost(size * x, size * y)
        best = ground[linear_sum_assignment(ground)].mean()
        excess.append((emd([], [], ground) * ground).sum() / best - 1)
    ax = figure.subplots()
    ax.semilogx(sizes, excess, "o")
    ax.set(xlabel="size of the clouds", ylabel="cost above the optimum, relative")


@picture(
    "softsort.is-doubly-stochastic",
    "Column sums of a soft sort against the score: scattered well below and well above one, where all should be.",
)
def _columns(figure: Figure) -> None:
    scores = np.sort(_first_seed().normal(size=128))
    ax = figure.subplots()
    ax.axhline(1, color="gray", lw=1)
    for sort, marker, size, name in (("soft", "o", 4, "SoftSort"), ("balanced", "s", 3, "balanced")):
        sums = es.soft_permutation(scores, 0.032, power=2, sort=sort).sum(axis=0)
        ax.plot(scores, sums, marker, ms=size, label=name)
    ax.set(xlabel="score", ylabel="column sum")
    ax.legend(fontsize=8)


@picture(
    "softplan.soft-plans-are-plans",
    "Largest deviation of the marginals against tau: near zero at both ends, largest in between; the balanced form "
    "stays at rounding error.",
)
def _defect(figure: Figure) -> None:
    u, v = _first_seed().normal(size=(2, 64))
    taus = np.logspace(-5, 3, 49)
    ax = figure.subplots()
    for sort, name in (("soft", "SoftSort"), ("balanced", "balanced")):
        defects = [es.marginal_defect(es.soft_line_plan(u, v, tau, sort=sort)) for tau in taus]
        ax.semilogx(taus, defects, label=name)
    ax.set(xlabel="$\\tau$", ylabel="deviation of the marginals")
    ax.legend(fontsize=8)


@picture(
    "attention.released-softness",
    "Histograms of row sums and of column sums of an attention matrix, spread around one.",
)
def _released(figure: Figure) -> None:
    q, k = _first_seed().normal(size=(2, 128, 16)) / np.sqrt(16)
    matrix = 128 * es.expected_soft_plan(q, k, np.eye(16), 1e-3, beta=1280.0, p=1, power=2).plan
    ax = figure.subplots()
    for axis, name in ((1, "row sums"), (0, "column sums")):
        ax.hist(matrix.sum(axis=axis), bins=20, alpha=0.6, lw=0, label=name)
    ax.axvline(1, color="gray", lw=1)
    ax.set(xlabel="sum", ylabel="tokens")
    ax.legend(fontsize=8)


@picture(
    "attention.three-sinkhorn-iterations-suffice",
    "Deviation of the marginals against the number of iterations on a logarithmic scale, falling slowly; three is "
    "marked, far above rounding.",
)
def _sinkhorn(figure: Figure) -> None:
    q, k, v = 2 * np.random.default_rng(0).normal(size=(3, 32, 8))
    counts = range(1, 21)
    defects = [es.marginal_defect(es.sinkhorn_attention(q, k, v, n_iter=n).matrix / 32) for n in counts]
    ax = figure.subplots()
    ax.semilogy(counts, defects, "o-", ms=4)
    ax.semilogy(3, defects[2], "s", color=TARGET, ms=9)
    ax.set(xlabel="iterations", ylabel="deviation of the marginals", xticks=[1, 3, 5, 10, 15, 20])


@picture(
    "nn.esp-decoder-does-not-see-the-future",
    "Change of the output at each of twenty target tokens when only the last token changes: with softmax cross "
    "attention zero before the last, with ESP cross attention not.",
)
def _future(figure: Figure) -> None:
    rng = _first_seed()
    target, source, values = rng.normal(size=(20, 4)), rng.normal(size=(24, 4)), rng.normal(size=(24, 4))
    other = target.copy()
    other[-1] += 1.0
    ax = figure.subplots()
    for name, compute in (
        ("softmax", lambda q: es.softmax_attention(q, source, values).output),
        ("ESP", lambda q: es.esp_attention(q, source, values, tau=0.1, beta=1.0).output),
    ):
        ax.plot(range(1, 21), np.linalg.norm(compute(other) - compute(target), axis=1), "o-", ms=4, label=name)
    ax.set(xlabel="target token", ylabel="change of the output")
    ax.legend(fontsize=8)


@picture(
    "circle.cheapest-slice-can-lose",
    "Costs of all slices against their angle as a staircase that stays above the dashed cost of the independent "
    "coupling.",
)
def _losing(figure: Figure) -> None:
    plan = es.circle_plan(circle_claims.LOSING_X, circle_claims.LOSING_Y)
    independent = es.transport_cost(np.full((12, 12), 1 / 144), circle_claims.LOSING_X, circle_claims.LOSING_Y)
    ax = figure.subplots()
    ax.stairs(plan.costs, 180 * np.append(0, plan.weights.cumsum()), baseline=None, color=SOURCE, label="slices")
    ax.axhline(independent, color=TARGET, ls="--", label="independent coupling")
    ax.set(xlabel="degrees of the half circle", ylabel="cost", xlim=(0, 180), xticks=range(0, 181, 45))
    ax.legend(fontsize=8)


@picture(
    "circle.no-metric-for-positive-beta",
    "Curve of the direct distance minus the detour over the whole circle against beta: negative for small beta, then "
    "above zero, where the triangle inequality fails.",
)
def _detour(figure: Figure) -> None:
    betas = np.logspace(-2, 2, 121)
    gaps = [circle_claims._detour_gap(beta) for beta in betas]
    ax = figure.subplots()
    ax.axhline(0, color="gray", lw=1)
    ax.semilogx(betas, gaps)
    ax.fill_between(betas, 0, np.maximum(gaps, 0), color=TARGET, alpha=0.4, lw=0)
    ax.set(xlabel="$\\beta$", ylabel="$d(x, z) - d(x, y) - d(y, z)$", xlim=(1e-2, 100))


@picture(
    "expected.samples-do-not-approach",
    "Distances between two samples against their size: the Wasserstein distance falls, those of the mean and of the "
    "cheapest of sixteen slices stay near the square root of two.",
)
def _samples(figure: Figure) -> None:
    rng, sizes = _first_seed(), (10, 20, 50, 100, 200, 500, 1000)
    directions = es.sample_directions(16, 2, rng=rng)
    rows = []
    for n in sizes:
        x, y = rng.normal(size=(2, n, 2))
        costs = es.slice_costs(x, y, directions)
        rows.append(np.sqrt([costs.mean(), costs.min(), expected_claims._best_assignment(x, y)]))
    ax = figure.subplots()
    ax.axhline(np.sqrt(2), color="gray", lw=1)
    for values, name in zip(np.transpose(rows), ("mean of 16 slices", "cheapest slice", "$W_2$"), strict=True):
        ax.semilogx(sizes, values, "o-", ms=4, label=name)
    ax.set(xlabel="points of each sample", ylabel="distance", ylim=0)
    ax.legend(fontsize=8)


@picture(
    "expected.is-continuous",
    "Distances against epsilon on logarithmic axes: the Wasserstein distance falls with epsilon, the distance by "
    "slices along the first axis stays at the square root of one half.",
)
def _jump(figure: Figure) -> None:
    sizes = np.logspace(-6, 0, 49)
    far = [es.est_distance([[0, 0], [0, 1]], [[e, 0], [-e, 1]], [[1.0, 0.0]]) for e in sizes]
    ax = figure.subplots()
    ax.loglog(sizes, far, color=MASS, label="EST along the first axis")
    ax.loglog(sizes, sizes, color=SOURCE, label="$W_2$")
    ax.set(xlabel="$\\varepsilon$", ylabel="distance")
    ax.legend(fontsize=8)


@picture(
    "softsort.balanced-gauss-is-unimodal",
    "The four rows of a balanced soft permutation as lines over the columns: the third row is higher at the fourth "
    "column than at the third.",
)
def _gauss(figure: Figure) -> None:
    matrix = es.soft_permutation([0.0, 0.0, 1.0, 2.0], 5.0, power=2, sort="balanced")
    ax = figure.subplots()
    for i, row in enumerate(matrix):
        ax.plot(range(1, 5), row, "o-", ms=4, lw=2.5 if i == 2 else 1, label=f"row {i + 1}")
    ax.set(xlabel="column", ylabel="entry", xticks=range(1, 5))
    ax.legend(fontsize=8)
