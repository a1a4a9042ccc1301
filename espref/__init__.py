"""espref: the mathematical reference for expected sliced transport plans and ESPFormer attention.

The modules stand in the order of the mathematics, which :mod:`espref.chapters` writes down. Importing espref loads
NumPy and SciPy, never torch, POT or matplotlib; ``espref.solvers`` and ``espref.claims`` are loaded on first use.
"""

from types import ModuleType

from ._version import __version__

# 1 line
from .line import Potentials, line_cost, line_plan, line_potentials, line_quantile, rank_plan

# 2 directions
from .directions import direction_weights, sample_directions

# 3 lift
from .lift import marginal_defect, slice_costs, sliced_plans, transport_cost

# 4 expected
from .expected import (
    DenseSlicedPlan,
    SlicedPlan,
    est_distance,
    expected_sliced_plan,
    gibbs_weights,
    max_sliced_wasserstein,
    min_sliced_plan,
    sliced_wasserstein,
)

# 5 circle
from .circle import circle_plan

# 6 softsort
from .softsort import soft_permutation, soft_quantile, soft_rank, soft_sort, soft_top_k

# 7 softplan
from .softplan import expected_soft_plan, soft_line_plan

# 8 attention
from .attention import Attention, esp_attention, sinkhorn_attention, softmax_attention

# 9 planfree
from .planfree import planfree_attention

# what a plan does to points
from .maps import WeightedCloud, barycentric_map, displacement_interpolation, extend_map

# units of the coordinates
from .scales import Standardised, standardise

# citing
from .citation import cite

__all__ = [
    "__version__",
    "line_plan",
    "line_cost",
    "rank_plan",
    "Potentials",
    "line_potentials",
    "line_quantile",
    "sample_directions",
    "direction_weights",
    "sliced_plans",
    "slice_costs",
    "transport_cost",
    "marginal_defect",
    "SlicedPlan",
    "DenseSlicedPlan",
    "gibbs_weights",
    "expected_sliced_plan",
    "min_sliced_plan",
    "est_distance",
    "sliced_wasserstein",
    "max_sliced_wasserstein",
    "circle_plan",
    "soft_permutation",
    "soft_sort",
    "soft_rank",
    "soft_quantile",
    "soft_top_k",
    "soft_line_plan",
    "expected_soft_plan",
    "Attention",
    "softmax_attention",
    "sinkhorn_attention",
    "esp_attention",
    "planfree_attention",
    "WeightedCloud",
    "barycentric_map",
    "extend_map",
    "displacement_interpolation",
    "Standardised",
    "standardise",
    "cite",
]


def __getattr__(name: str) -> ModuleType:
    """Modules that take a while to load, or need an extra, on first use."""
    if name in ("solvers", "claims"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "claims", "solvers"})
