"""espref: the mathematical reference for expected sliced transport plans and ESPFormer attention.

The modules stand in the order of the mathematics: ``line``, ``directions``, ``lift``, ``expected``, ``circle``,
``softsort``, ``softplan``, ``attention``. Importing espref loads NumPy and SciPy, never torch, POT or matplotlib.
"""

from ._version import __version__

# 1 line
# 2 directions
# 3 lift
# 4 expected
# 5 circle
# 6 softsort
# 7 softplan
# 8 attention

__all__ = ["__version__"]
