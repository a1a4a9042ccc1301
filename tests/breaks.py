"""Ways of breaking the library, each of which at least one claim must notice.

``BREAKS`` are for the exact chapters, ``SOFT_BREAKS`` for the soft ones, ``MORE`` for claims that none of those
touches. ``noticed.json`` names, for each claim, the breaks that it is tested with (``test_every_claim.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.sparse import coo_array

from espref import _costs as costs
from espref import _quanta as whole
from espref import _ties as tied
from espref import attention, circle, directions, expected, lift, line, maps, planfree, softplan, softsort, solvers


def break_library(monkeypatch: pytest.MonkeyPatch, original: object, replacement: object) -> None:
    """Replace a function wherever a module of the package refers to it."""
    found = 0
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == "espref":
            for attribute, value in list(vars(module).items()):
                if value is original:
                    monkeypatch.setattr(module, attribute, replacement)
                    found += 1
    assert found


def _reversed_target(u, v, quanta, ties, match=line.match):
    return match(u, -v, quanta, ties)


def _drop_variances(matching, x, y, a, b):
    offsets = [costs._class_moments(x, a, matching.source)[0], costs._class_moments(y, b, matching.target)[0]]
    first = [side.order[side.starts] for side in (matching.source, matching.target)]
    return costs.paired_cost(x[first[0]] + offsets[0], y[first[1]] + offsets[1], *matching.pieces, 2)


def _all_arcs_equal(x, y, sweep=circle._sweep):
    arcs = sweep(x, y)
    return arcs._replace(lengths=np.full_like(arcs.lengths, np.pi / len(arcs.lengths)))


def _target_stays_in_order(x, y, sweep=circle._sweep):
    arcs = sweep(x, y)
    above, below, first = arcs.target
    return arcs._replace(target=(above, below, np.full_like(first, len(arcs.lengths))))


def _orthogonal_without_signs(n, dim, rng):
    q = np.linalg.qr(rng.standard_normal((-(-n // dim), dim, dim)))[0]
    return np.swapaxes(q, 1, 2).reshape(-1, dim)[:n]


def _wrong_exponent(ordered, tau, power=1, kernel=softsort.sort_kernel):
    return kernel(ordered, tau, 3 - power)


def _half_tau(ordered, tau, power=1, kernel=softsort.sort_kernel):
    return kernel(ordered, tau / 2, power)


def _stopped_early(apply, d):
    for _ in range(20):
        d = np.sqrt(d / apply(d))
    return d


def _not_renormalised(s, weights, tau, power, sort, permutation=softsort.weighted_soft_permutation):
    if sort == "balanced":
        return permutation(s, weights, tau, power, sort)
    order = s.argsort(kind="stable")
    matrix = np.empty((len(s), len(s)))
    matrix[:, order] = softsort.sort_kernel(s[order], tau, power) / len(s)
    return matrix


def _columns_left_in_order(s, weights, tau, power, sort, permutation=softsort.weighted_soft_permutation):
    return permutation(s, weights, tau, power, sort)[:, s.argsort(kind="stable")]


def _softmax_of_columns(q, k, v, *, softmax=attention.softmax_attention):
    other = softmax(k, q, q).matrix.T
    return attention.Attention(other @ np.asarray(v), other)


def _sinkhorn_of_scaled(factor):
    def broken(q, k, v, *, n_iter, sinkhorn=attention.sinkhorn_attention):
        return sinkhorn(factor(np.shape(q)[1]) * np.asarray(q), k, v, n_iter=n_iter)

    return broken


def _columns_to_one(q, k, v, *, n_iter, sinkhorn=attention.sinkhorn_attention):
    matrix = sinkhorn(q, k, v, n_iter=n_iter).matrix * len(k) / len(q)
    return attention.Attention(matrix @ np.asarray(v), matrix)


def _interpolated_ranks(a, b):
    """The released code's: linear interpolation from m ranks to n, of mass 1, not a coupling."""
    places = np.linspace(0, len(b) - 1, len(a))
    return coo_array(np.maximum(0, 1 - abs(places[:, None] - np.arange(len(b)))) / len(a))


def _summed_costs(x, y, directions, tau, a=None, b=None, *, beta=0.0, plan=softplan.expected_soft_plan, **settings):
    slices = plan(x, y, directions, tau, a, b, beta=len(x) * beta, **settings)
    return slices._replace(cost=len(x) * slices.cost, costs=len(x) * slices.costs)


def _esp(change):
    """ESP attention with some of its settings changed."""

    def broken(q, k, v, *, esp=attention.esp_attention, **settings):
        return esp(q, k, v, **{**settings, **change(len(q), settings)})

    return broken


def _esp_of_m(q, k, v, *, esp=attention.esp_attention, **settings):
    output, matrix = esp(q, k, v, **settings)
    return attention.Attention(output * len(k) / len(q), matrix * len(k) / len(q))


def _without_column_sums(source, target, ranks, q, k, shift, cost=planfree._squared_cost):
    sums = (source.transpose(np.full((1, q.shape[1]), 1 / q.shape[1]))[0],
            target.transpose(np.full((1, k.shape[1]), 1 / k.shape[1]))[0])  # fmt: skip
    wrong = sum(np.einsum("n,dn,dn->", c - 1 / len(c), x, x) for c, x in zip(sums, (q, k), strict=True))
    return cost(source, target, ranks, q, k, shift) - wrong


#: What is broken -> (the function, its broken form).
BREAKS: dict[str, tuple[Callable, Callable]] = {
    "the target sorted downwards": (line.match, _reversed_target),
    "all weights taken for uniform": (
        whole.quantise,
        lambda a, b, quantise=whole.quantise: quantise(np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))),
    ),
    "ties never seen": (tied.classes, lambda values, ties, classes=tied.classes: classes(values, "first")),
    "ties shared equally, not by weight": (
        tied.split_ties,
        lambda matching, a, b, split=tied.split_ties: split(matching, np.full_like(a, 1.0), np.full_like(b, 1.0)),
    ),
    "a rounding error of 1e-9 in every mass": (
        tied.split_ties,
        lambda *arguments, split=tied.split_ties: (p := split(*arguments))._replace(mass=p.mass * (1 + 1e-9)),
    ),
    "Lebedev weights forgotten": (
        directions.direction_weights,
        lambda n, dim, method="random": np.full(n, 1 / n),
    ),
    "directions not uniform on the sphere": (
        directions._random,
        lambda n, dim, rng: directions._normalised(rng.uniform(-1, 1, (n, dim)) * np.arange(1, dim + 1)),
    ),
    "QR without signs": (directions._orthogonal, _orthogonal_without_signs),
    "directions not normalised": (directions._normalised, lambda rows: rows),
    "a matrix product that rounds by place": (
        lift.project,
        lambda points, dirs, project=lift.project: project(points, dirs) * (1 + 1e-16 * np.arange(len(points)) % 3e-16),
    ),
    "projections on absolute coordinates": (
        lift.project,
        lambda points, dirs, project=lift.project: project(np.abs(points), dirs),
    ),
    "the exponent p ignored": (costs.powers, lambda d, p, scale=1.0: np.einsum("kd,kd->k", d, d)),
    "the spread of tied classes forgotten": (costs._tied_squared_cost, _drop_variances),
    "the wrong sign of beta": (
        expected.gibbs_weights,
        lambda costs, beta, prior=None, gibbs=expected.gibbs_weights: gibbs(np.negative(costs), beta, prior),
    ),
    "the prior ignored": (
        expected.gibbs_weights,
        lambda costs, beta, prior=None, gibbs=expected.gibbs_weights: gibbs(costs, beta),
    ),
    "the plan averaged without weights": (
        expected.average,
        lambda matchings, w, a, b, average=expected.average: average(matchings, np.full(len(w), 1 / len(w)), a, b),
    ),
    "the dearest slice for the cheapest": (
        expected.min_sliced_plan,
        lambda x, y, d, a=None, b=None, p=2: expected.expected_sliced_plan(
            x, y, d[np.argmax(lift.slice_costs(x, y, d, a, b, p=p))][None], a, b, p=p
        ),
    ),
    "the p-th root forgotten": (
        expected.est_distance,
        lambda x, y, d, a=None, b=None, beta=0.0, p=2: (
            expected.expected_sliced_plan(x, y, d, a, b, beta=beta, p=p).cost
        ),
    ),
    "arcs of equal length": (circle._sweep, _all_arcs_equal),
    "breakpoints of the source only": (circle._sweep, _target_stays_in_order),
    "the independent coupling called optimal": (
        solvers.exact_plan,
        lambda x, y, a=None, b=None, p=2: solvers.SolverPlan(g := np.outer(a, b), lift.transport_cost(g, x, y, p=p)),
    ),
    "the first power of a distance for its square": (
        lift.transport_cost,
        lambda plan, x, y, p=2, cost=lift.transport_cost: cost(plan, x, y, p=max(p - 1, 1)),
    ),
}


#: The same for the soft chapters.
SOFT_BREAKS: dict[str, tuple[Callable, Callable]] = {
    "the other kernel": (softsort.sort_kernel, _wrong_exponent),
    "tau twice too small": (softsort.sort_kernel, _half_tau),
    "P transposed": (
        softsort.weighted_soft_permutation,
        lambda *arguments, sort=softsort.weighted_soft_permutation: sort(*arguments).T,
    ),
    "rows not renormalised": (softsort.weighted_soft_permutation, _not_renormalised),
    "columns left in sorted order": (softsort.weighted_soft_permutation, _columns_left_in_order),
    "sorted downwards": (
        softsort.weighted_soft_permutation,
        lambda *arguments, sort=softsort.weighted_soft_permutation: sort(*arguments)[::-1],
    ),
    "the weights forgotten by the sort": (
        softsort.weighted_soft_permutation,
        lambda s, a, *rest, sort=softsort.weighted_soft_permutation: sort(s, np.ones(len(s)), *rest),
    ),
    "balanced scaling stopped early": (softsort.fixed_point, _stopped_early),
    "balanced scaling stopped at 1e-8": (
        softsort.fixed_point,
        lambda apply, d, solve=softsort.fixed_point: solve(apply, d) * (1 + 1e-8 * np.arange(len(d)) / len(d)),
    ),
    "one target sort for both sides": (
        softplan.soft_plan,
        lambda u, v, a, b, *rest, plan=softplan.soft_plan: (
            plan(u, u, a, a, *rest) if len(u) == len(v) else plan(u, v, a, b, *rest)
        ),
    ),
    "ranks coupled downwards": (
        line.rank_plan,
        lambda a, b, ranks=line.rank_plan: coo_array(ranks(a, b[::-1]).toarray()[:, ::-1]),
    ),
    "ranks coupled by interpolation": (line.rank_plan, _interpolated_ranks),
    "the plan transposed": (
        softplan.soft_plan,
        lambda u, v, a, b, *rest, plan=softplan.soft_plan: (
            plan(v, u, b, a, *rest).T if len(u) != len(v) else plan(u, v, a, b, *rest).T
        ),
    ),
    "costs summed over a plan of mass n": (softplan.expected_soft_plan, _summed_costs),
    "softmax over queries": (attention.softmax_attention, _softmax_of_columns),
    "logits not divided by sqrt d": (attention.sinkhorn_attention, _sinkhorn_of_scaled(np.sqrt)),
    "logits divided by d": (attention.sinkhorn_attention, _sinkhorn_of_scaled(lambda d: d**-0.5)),
    "columns normalised to 1, not n / m": (attention.sinkhorn_attention, _columns_to_one),
    "costs of a plan of mass n": (attention.esp_attention, _esp(lambda n, s: {"beta": n * s["beta"]})),
    "the Gibbs weights forgotten": (attention.esp_attention, _esp(lambda n, s: {"beta": 0.0})),
    "tau scaled by the number of tokens": (attention.esp_attention, _esp(lambda n, s: {"tau": s["tau"] / n})),
    "m times the plan, not n": (attention.esp_attention, _esp_of_m),
    "recurrences one link late": (
        planfree.link_factors,
        lambda ordered, tau, links=planfree.link_factors: np.roll(links(ordered, tau), 1),
    ),
    "the diagonal counted twice": (
        planfree.apply_kernel,
        lambda factors, x, apply=planfree.apply_kernel: apply(factors, x) + x,
    ),
    "only the forward recurrence": (
        planfree.apply_kernel,
        lambda factors, x, apply=planfree.apply_kernel: np.tril(apply(factors, np.eye(x.shape[1]))).dot(x.T).T,
    ),
    "column sums taken for 1 in the cost": (planfree._squared_cost, _without_column_sums),
    "rank to rank, the nearest, when n != m": (
        line.rank_plan,
        lambda a, b: coo_array((a, (np.arange(n := len(a)), np.arange(n) * len(b) // n)), shape=(n, len(b))),
    ),
}


def _full_plan(matching, a, b):
    rows, cols = np.indices((len(a), len(b)))
    return tied.Pieces(rows.ravel(), cols.ravel(), np.full(rows.size, 1 / rows.size))


def _random_whatever_is_asked(n_directions, dim, *, method="random", rng=None):
    return directions._random(n_directions, dim, np.random.default_rng())


def _tilted(x, y, sweep=circle._sweep):
    arcs = sweep(x, y)
    middles = arcs.lengths.cumsum() - arcs.lengths / 2
    lengths = arcs.lengths * (1 + 0.5 * np.cos(2 * middles))
    return arcs._replace(lengths=lengths / lengths.sum() * np.pi)


def _target_weighs_less(x, y, theta, a=None, b=None, *, plan=expected.expected_sliced_plan, **settings):
    result = plan(x, y, theta, a, b, **settings)
    return result._replace(cost=result.cost * (1 + 1e-9 * x.ravel()[0] - 1e-9 * y.ravel()[0]))


def _one_direction_chosen_by_the_points(x, y, *weights, beta=0.0, p=2, plan=expected.expected_sliced_plan):
    angle = 1e4 * np.sum(x)
    return plan(x, y, [[np.cos(angle), np.sin(angle)]], *weights, beta=beta, p=p)


def _iterations(change):
    def broken(q, k, v, *, n_iter, sinkhorn=attention.sinkhorn_attention):
        return sinkhorn(q, k, v, n_iter=change(n_iter))

    return broken


def _louder(q, k, v, *, esp=attention.esp_attention, **settings):
    output, matrix = esp(q, k, v, **settings)
    return attention.Attention(3 * output, matrix)


#: What is broken -> (the function, its broken form, the claims that must fail).
MORE: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    "every point sends to all": (tied.split_ties, _full_plan, ("line.few-entries",)),
    "values rounded before they are sorted": (
        line.match,
        lambda u, v, quanta, ties, match=line.match: match(np.round(u, 1), v, quanta, ties),
        ("line.depends-on-order-only",),
    ),
    "random directions whatever is asked": (
        directions.sample_directions,
        _random_whatever_is_asked,
        ("directions.orthogonal-blocks", "directions.second-moment", "directions.same-seed-same-bits"),
    ),
    "some angles of the circle count more": (circle._sweep, _tilted, ("circle.rotation",)),
    "the cost depends on which cloud is the source": (
        expected.expected_sliced_plan,
        _target_weighs_less,
        ("expected.symmetry",),
    ),
    "the last slice replaced by the first": (
        expected.average,
        lambda matchings, w, a, b, average=expected.average: average([*matchings[:-1], matchings[0]], w, a, b),
        ("expected.beta-zero-is-the-mean",),
    ),
    "the distance cubed": (
        expected.est_distance,
        lambda *clouds, p=2, distance=expected.est_distance, **settings: distance(*clouds, p=p, **settings) ** 3,
        ("expected.triangle-inequality",),
    ),
    "a plan as dense as Sinkhorn's": (
        expected.expected_sliced_plan,
        lambda x, y, *rest, plan=expected.expected_sliced_plan, **settings: plan(x, y, *rest, **settings)._replace(
            plan=coo_array(np.full((len(x), len(y)), 1 / (len(x) * len(y))))
        ),
        ("solvers.sliced-plan-is-sparser-than-sinkhorn",),
    ),
    "a kernel that is not positive definite": (
        softsort.sort_kernel,
        lambda ordered, tau, power=1: np.exp(-((ordered[:, None] - ordered) ** 4)),
        ("softsort.kernel-is-positive-definite",),
    ),
    "balanced scaling not begun": (
        softsort.fixed_point,
        lambda apply, d: d,
        ("softsort.balanced-jacobian",),
    ),
    "balanced scaling off by a thousandth": (
        softsort.fixed_point,
        lambda apply, d, solve=softsort.fixed_point: solve(apply, d) * (1 + 1e-3 * np.arange(len(d)) / len(d)),
        ("softsort.balanced-rate",),
    ),
    "outputs three times as large": (attention.esp_attention, _louder, ("attention.contracts-the-variance",)),
    "the plan of one direction for that of the circle": (
        circle.circle_plan,
        _one_direction_chosen_by_the_points,
        ("circle.stability",),
    ),
    "the cheapest slice a hundred times too cheap": (
        expected.min_sliced_plan,
        lambda *clouds, p=2, cheapest=expected.min_sliced_plan: (found := cheapest(*clouds, p=p))._replace(
            cost=found.cost / 100
        ),
        ("expected.samples-do-not-approach",),
    ),
    "half the inverse temperature on the circle": (
        circle.circle_plan,
        lambda x, y, *weights, beta=0.0, p=2, plan=circle.circle_plan: plan(x, y, *weights, beta=beta / 2, p=p),
        ("circle.gibbs-bias",),
    ),
    "Sinkhorn stops where it starts": (
        attention.sinkhorn_attention,
        _iterations(lambda n: 13 - n),
        ("attention.sinkhorn-needs-iterations",),
    ),
    "Sinkhorn goes on until it has converged": (
        attention.sinkhorn_attention,
        _iterations(lambda n: 250),
        ("attention.three-sinkhorn-iterations-suffice",),
    ),
    "later than it is": (
        maps.displacement_interpolation,
        lambda plan, x, y, t, interpolate=maps.displacement_interpolation: interpolate(plan, x, y, t**3),
        ("solvers.interpolation-of-an-optimal-plan-is-a-geodesic",),
    ),
    "images of other points": (
        maps.barycentric_map,
        lambda plan, y, images=maps.barycentric_map: images(plan, y)[::-1],
        ("solvers.map-of-an-optimal-plan-is-optimal",),
    ),
    "one direction for all": (
        directions.sample_directions,
        lambda n, dim, *, method="random", rng=None: np.tile(np.eye(dim)[0], (n, 1)),
        ("circle.monte-carlo-rate", "circle.equispaced-rate", "circle.sobol-rate"),
    ),
}

ALL = BREAKS | SOFT_BREAKS | MORE
