"""ESP attention in PyTorch (extra ``torch``): exact, without ever building a plan.

:mod:`espref.nn.functional` holds the pure function, :mod:`espref.nn.attention` the modules. The NumPy chapters
:mod:`espref.attention` and :mod:`espref.planfree` are their specification.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("espref.nn needs PyTorch: pip install 'espref[torch]'") from error

from . import functional
from .attention import EspAttention, SoftmaxAttention, swap_attention

__all__ = ["EspAttention", "SoftmaxAttention", "functional", "swap_attention"]
