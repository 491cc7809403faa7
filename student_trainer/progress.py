"""How far a stage of the work is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Is told a stage, how many of its parts are done, and how many there are."""
