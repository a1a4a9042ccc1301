"""One Hypothesis profile for all tests: the same examples in every run, none timed."""

import os

from hypothesis import settings

os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")  # POT would load torch, which takes seconds

settings.register_profile("espref", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("espref")
