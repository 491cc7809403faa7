"""Settings of every test."""

from hypothesis import settings

# The same examples on every machine, and no verdict by the clock.
settings.register_profile("counterhint", deadline=None, derandomize=True)
settings.load_profile("counterhint")
