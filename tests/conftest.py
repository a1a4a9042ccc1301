"""One Hypothesis profile for all tests: the same examples in every run, none timed."""

from hypothesis import settings

settings.register_profile("espref", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("espref")
