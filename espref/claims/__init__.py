"""The ledger of claims, in the order of the mathematics.

``LEDGER`` maps identifiers to claims, and :func:`run` measures them on problems; see ``espref.claims.ledger``.
Importing this package enters the claims about the mathematics. Importing ``espref.train.claims`` enters those about
training.
"""

from importlib import import_module
from pkgutil import iter_modules

from ..chapters import CHAPTERS, in_order
from .ledger import LEDGER, Claim, Companion, Outcome, claim, run, run_claim
from .problems import Problem, real_problems, synthetic_problems, user_problem

for _chapter in in_order(module.name for module in iter_modules(__path__) if module.name in CHAPTERS):
    import_module(f".{_chapter}", __name__)  # enters its claims

__all__ = [
    "LEDGER",
    "Claim",
    "Companion",
    "Outcome",
    "Problem",
    "claim",
    "real_problems",
    "run",
    "run_claim",
    "synthetic_problems",
    "user_problem",
]
