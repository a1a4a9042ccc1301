"""The ledger of claims, in the order of the mathematics.

``LEDGER`` maps identifiers to claims; :func:`run` measures them on problems; see :mod:`espref.claims.ledger`.
"""

from . import line  # isort: skip
from . import directions  # isort: skip
from . import lift  # isort: skip
from . import expected  # isort: skip
from . import circle  # isort: skip
from . import solvers  # isort: skip
from . import softsort  # isort: skip
from . import softplan  # isort: skip
from . import attention  # isort: skip
from . import nn  # isort: skip
from . import train  # isort: skip
from .ledger import LEDGER, Claim, Companion, Outcome, claim, run, run_claim
from .problems import Problem, real_problems, synthetic_problems, user_problem

__all__ = [
    "LEDGER",
    "Claim",
    "Companion",
    "Outcome",
    "Problem",
    "attention",
    "circle",
    "claim",
    "directions",
    "expected",
    "lift",
    "line",
    "nn",
    "real_problems",
    "run",
    "run_claim",
    "softplan",
    "softsort",
    "solvers",
    "synthetic_problems",
    "train",
    "user_problem",
]
