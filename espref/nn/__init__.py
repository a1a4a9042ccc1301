"""ESP attention in PyTorch (extra ``torch``): exact, in linear time, without forming a plan.

Read :mod:`espref.nn.dense` first: the same attention as its definition reads. :mod:`espref.nn.functional` holds the
pure functions, the classes here are modules with the call signature of :class:`torch.nn.MultiheadAttention`, and
:mod:`espref.nn.transformer` holds models made of them. The NumPy chapters :mod:`espref.attention` and
:mod:`espref.planfree` specify what is computed.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("espref.nn needs PyTorch: pip install 'espref[torch]'") from error

from . import blocks, dense, functional, transformer
from .attention import DifferentialAttention, SinkhornAttention, SoftmaxAttention
from .esp import EspAttention
from .exchange import SwapReport, swap_attention, swap_report
from .huggingface import register_with_transformers, set_encoder_attention

__all__ = [
    "DifferentialAttention",
    "EspAttention",
    "SinkhornAttention",
    "SoftmaxAttention",
    "SwapReport",
    "blocks",
    "dense",
    "functional",
    "register_with_transformers",
    "set_encoder_attention",
    "swap_attention",
    "swap_report",
    "transformer",
]
