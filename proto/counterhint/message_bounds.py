"""Bounds on what a message may hold, whichever teacher it is for.

A message of 64 MiB can say things that take far more memory or time than its bytes: lengths, shapes
and texts that come back in errors. These are looked at before anything is made of them.
"""

import math

from counterhint.errors import InvalidJob
from counterhint.v1 import scoring_pb2

LONGEST_ID, LONGEST_TEXT = 1024, 4096
"""Most bytes (UTF-8) of the ids of a job and its run, and of every other text."""
MOST_SEQUENCES = 65_536
"""Most token sequences in one field."""
MOST_AXES = 8
"""Most axes of a tensor."""
LONGEST_TIMEOUT = 1e9
"""Seconds, some 30 years: beyond, milliseconds leave the integers that Redis counts with."""


def check_texts(message: scoring_pb2.ScoreRequest) -> None:
    """Refuses texts that are too long.

    Raises:
        InvalidJob: `TEXT_TOO_LONG`, naming the field.
    """
    weights = message.weights
    for name, text, bound in (
        ("id", message.id, LONGEST_ID),
        ("run_id", message.run_id, LONGEST_ID),
        ("tokenizer_fingerprint", message.tokenizer_fingerprint, LONGEST_TEXT),
        ("weights.name", weights.name, LONGEST_TEXT),
        ("weights.revision", weights.revision, LONGEST_TEXT),
        ("weights.uri", weights.uri, LONGEST_TEXT),
        ("weights.sha256", weights.sha256, LONGEST_TEXT),
    ):
        if (size := len(text.encode())) > bound:
            raise InvalidJob(
                f"{name} has {size} bytes, at most {bound} are taken",
                reason="TEXT_TOO_LONG",
                details={"field": name, "bytes": size, "max_bytes": bound},
            )


def timeout_of(message: scoring_pb2.ScoreStreamRequest) -> float | None:
    """How long a streamed job may take, in seconds; None for no bound.

    Raises:
        InvalidJob: `TIMEOUT_OUT_OF_RANGE` for a number that is none, below 0 or too large.
    """
    seconds = message.timeout_seconds
    if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST_TIMEOUT):
        raise InvalidJob(
            f"timeout_seconds is {seconds:g}; give 0 (no bound) to {LONGEST_TIMEOUT:g}",
            reason="TIMEOUT_OUT_OF_RANGE",
            details={"timeout_seconds": seconds},
        )
    return seconds or None


def id_to_answer(message: scoring_pb2.ScoreStreamRequest) -> str:
    """The id under which a streamed job is answered: one that is too long is refused, and cut."""
    return message.job.id[:LONGEST_ID]
