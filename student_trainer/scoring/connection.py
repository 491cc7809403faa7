"""The way from a run to its teacher."""

import logging

from counterhint import CounterhintError, ScoringClient, TeacherInfo
from counterhint.errors import InputError, Unavailable
from student_trainer.scoring.config import ScoringConfig

log = logging.getLogger(__name__)


def open_client(config: ScoringConfig) -> ScoringClient:
    """A client that tells why it waits, each reason once."""
    told: set[str] = set()

    def on_retry(error: CounterhintError) -> None:
        if error.message not in told:
            told.add(error.message)
            log.warning("scoring waits: %s", error.message)

    return ScoringClient(config.address, timeout=config.timeout, on_retry=on_retry)


def find_teacher(client: ScoringClient, config: ScoringConfig) -> TeacherInfo:
    """What the teacher is; waits for it as long as the configuration says.

    Raises:
        InputError: none answered.
    """
    try:
        return client.get_teacher(config.connect_timeout)
    except Unavailable as error:
        raise InputError(
            f"scoring.address: no teacher or intake answered at {config.address} within "
            f"{config.connect_timeout:g} s ({error.message}); start one with `counterhint "
            "teacher serve` or `counterhint services run`"
        ) from error
