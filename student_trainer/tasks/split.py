"""On which side of the train/held-out split a problem falls, decided by its text alone.

So the two sides have no problem in common whatever the seed, the order of the data or the number
of copies of a problem in it.
"""

import hashlib


def problem_digest(text: str) -> str:
    """16 hexadecimal digits that name a problem by its text; white space makes no difference."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def is_heldout(text: str, fraction: float) -> bool:
    """Whether a problem belongs to the held-out `fraction` (0 to 1) of all problems."""
    return int(problem_digest(text), 16) < fraction * 2**64
