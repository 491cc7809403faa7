"""The way from a run to its teacher."""

import logging
from dataclasses import replace
from typing import Any

from prometheus_client import Counter

from counterhint import CounterhintError, Credentials, ScoringClient, TeacherInfo
from counterhint.certificates import check_client_certificates
from counterhint.errors import InputError, Unavailable
from student_trainer.scoring.config import ScoringConfig

log = logging.getLogger(__name__)

RETRIES = Counter(
    "counterhint_trainer_scoring_retries",
    "Tries to score or to find the teacher that were repeated, by reason",
    ["reason"],
)


def credentials_of(config: ScoringConfig) -> Credentials:
    """The run's token and certificates: those of the recipe, the others from the environment.

    Raises:
        InputError: a file of them cannot be used, or the token must not be sent to the address.
    """
    names = ("token_file", "tls_ca", "tls_cert", "tls_key")
    given: dict[str, Any] = {name: path for name in names if (path := getattr(config, name))}
    of_environment = Credentials.from_environment()

    def named(field: str) -> str:
        if field in given or getattr(of_environment, field) is None:
            return f"scoring.{field}"
        return of_environment.named(field)

    if config.token_file is not None:
        given["token"] = None
    given["insecure"] = config.insecure or of_environment.insecure
    credentials = replace(of_environment, **given, named=named)
    check_client_certificates(credentials)
    credentials.check(config.address)
    return credentials


def open_client(config: ScoringConfig) -> ScoringClient:
    """A client that tells why it waits, each reason once.

    Raises:
        InputError: see `credentials_of`.
    """
    credentials = credentials_of(config)
    told: set[str] = set()

    def on_retry(error: CounterhintError) -> None:
        RETRIES.labels(error.reason).inc()
        if error.message not in told:
            told.add(error.message)
            log.warning("scoring waits: %s", error.message)

    return ScoringClient(
        config.address, timeout=config.timeout, on_retry=on_retry, credentials=credentials
    )


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
