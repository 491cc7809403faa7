"""What one check found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "problem"]
"""`note`: a fact, neither good nor bad; `warning`: works, with a risk; `problem`: will not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    """What was looked at: `redis`, `teacher 127.0.0.1:50051`."""
    state: State
    """How it is."""
    found: str
    """What was found, with the numbers."""
    remedy: str = ""
    """What to do about it."""
