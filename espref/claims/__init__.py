"""The ledger of claims, in the order of the mathematics.

``LEDGER`` maps identifiers to claims, and :func:`run_ledger` measures them; see ``espref.claims.ledger`` and, for the
document of a run, ``espref.claims.measurements``.
Importing this package enters the claims about the mathematics. Importing ``espref.train.claims`` enters those about
training.
"""

from importlib import import_module
from pkgutil import iter_modules

from ..chapters import CHAPTERS, in_order
from .citing import cite_claim
from .ledger import LEDGER, Claim, Companion, Outcome, claim, run, run_claim
from .measurements import Run, default_problems, run_ledger
from .problems import SEEDS, Problem, real_problems, synthetic_problems, user_problem

for _chapter in in_order(module.name for module in iter_modules(__path__) if module.name in CHAPTERS):
    import_module(f".{_chapter}", __name__)  # enters its claims

__all__ = [
    "LEDGER",
    "SEEDS",
    "Claim",
    "Companion",
    "Outcome",
    "Problem",
    "Run",
    "cite_claim",
    "claim",
    "default_problems",
    "real_problems",
    "run",
    "run_claim",
    "run_ledger",
    "synthetic_problems",
    "user_problem",
]
