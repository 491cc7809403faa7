"""Seeds: every random draw of a run has its own, so resuming repeats and skips none."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose, such as `derive_seed(0, "rollouts", step)`."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
