"""ESP attention in PyTorch (extra ``torch``): exact, without ever building a plan.

:mod:`espref.nn.functional` holds the pure functions, :mod:`espref.nn.attention` the modules, and
:mod:`espref.nn.transformer` models built of them. The NumPy chapters
:mod:`espref.attention` and :mod:`espref.planfree` are their specification.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("espref.nn needs PyTorch: pip install 'espref[torch]'") from error

from . import functional, transformer
from .attention import DifferentialAttention, EspAttention, SinkhornAttention, SoftmaxAttention
from .exchange import register_with_transformers, swap_attention

__all__ = [
    "DifferentialAttention",
    "EspAttention",
    "SinkhornAttention",
    "SoftmaxAttention",
    "functional",
    "register_with_transformers",
    "swap_attention",
    "transformer",
]
