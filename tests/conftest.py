"""Settings of the whole test run."""

from __future__ import annotations

from hypothesis import settings

# The machines that run the tests are noisy: how long one example takes says nothing.
settings.register_profile("tdxstack", deadline=None)
settings.load_profile("tdxstack")
