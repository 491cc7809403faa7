"""Teachers and intakes: whether they answer, what they are, whether they score a token."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np

from counterhint import (
    AsyncScoringClient,
    CounterhintError,
    Outputs,
    ScoringJob,
    TeacherInfo,
    pairs_array,
    tokenizer_fingerprint,
)
from counterhint.credentials import Credentials
from counterhint.errors import InputError, PermissionDenied
from services.doctor.finding import Finding

ANSWER_SECONDS = 10.0
"""How long a server may take to say what it is."""
CONNECT_SECONDS = 2.0
"""How long a connection may take to be made."""
SCORE_SECONDS = 60.0
"""How long one token may take: behind a queue, others come first."""


async def look_at_teachers(
    addresses: Sequence[str], tokenizer: Path | None, credentials: Credentials
) -> AsyncIterator[Finding]:
    """What answers at these addresses, and whether all of it is one teacher.

    Args:
        addresses: of teachers and of intakes.
        tokenizer: a folder whose tokenizer they should share; None to leave that open.
        credentials: what is shown to them.
    """
    found: dict[str, TeacherInfo] = {}
    for address in addresses:
        try:
            async with AsyncScoringClient(address, credentials=credentials) as client:
                teacher = await client.get_teacher(ANSWER_SECONDS)
                found[address] = teacher
                yield _identity(address, teacher)
                yield await _one_token(client, address, teacher, "doctor")
        except PermissionDenied as error:  # the token is a run's, and speaks for that run alone
            run = str(error.details.get("token"))
            async with AsyncScoringClient(address, credentials=credentials) as client:
                yield await _one_token(client, address, found[address], run)
        except (CounterhintError, InputError) as error:
            remedy = await _remedy(address, credentials)
            yield Finding(f"teacher {address}", "problem", str(error), remedy)
    if len({(one.model_id, one.tokenizer_fingerprint) for one in found.values()}) > 1:
        yield Finding(
            "teachers",
            "warning",
            "; ".join(f"{address}: {one.model_id}" for address, one in found.items()),
            "behind one queue all teachers must serve the same model",
        )
    if tokenizer is not None:
        for address, teacher in found.items():
            yield _tokenizer(address, teacher, tokenizer)


async def _remedy(address: str, credentials: Credentials) -> str:
    """What to do about a server that gives no answer."""
    if not await _listens(address):
        return (
            "start it (counterhint teacher serve, counterhint services run), or give its address; "
            "see its log"
        )
    if credentials.tls_ca is None:
        return (
            "something listens there: if it serves with TLS (--tls-cert), set COUNTERHINT_TLS_CA "
            "to its authority's certificate; see its log"
        )
    if credentials.tls_cert is None:
        return (
            "something listens there: if it asks clients for certificates (--tls-client-ca), set "
            "COUNTERHINT_TLS_CERT and COUNTERHINT_TLS_KEY; see its log"
        )
    return (
        "something listens there: see whether its certificate is for this host and of "
        "COUNTERHINT_TLS_CA, and whether ours is of its --tls-client-ca; see its log"
    )


async def _listens(address: str) -> bool:
    """Whether anything takes connections there, whatever it speaks."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.startswith("unix:"):
                path = address.removeprefix("unix:").removeprefix("//")
                _, writer = await asyncio.open_unix_connection(path)
            else:
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, ValueError):  # a time-out is an OSError, a wrong port a ValueError
        return False
    writer.close()
    return True


def _identity(address: str, teacher: TeacherInfo) -> Finding:
    return Finding(
        f"teacher {address}",
        "ok",
        f"{teacher.model_id} revision {teacher.weights_revision}, {teacher.engine} "
        f"{teacher.engine_version}, up to {teacher.max_model_len} tokens, tokenizer "
        f"{teacher.tokenizer_fingerprint[:12]}…, gives {', '.join(teacher.outputs) or 'nothing'}",
    )


async def _one_token(
    client: AsyncScoringClient, address: str, teacher: TeacherInfo, run: str
) -> Finding:
    """Scores one token; a job of its own each time, so that no cache answers."""
    random = np.random.default_rng()
    context = random.integers(0, teacher.vocab_size, 1, dtype=np.int32)
    job = ScoringJob(
        id=f"doctor-{random.integers(2**62)}",
        run_id=run,
        contexts=(context,),
        responses=(random.integers(0, teacher.vocab_size, 1, dtype=np.int32),),
        pairs=pairs_array([(0, 0)]),
        tokenizer_fingerprint=teacher.tokenizer_fingerprint,
        outputs=Outputs(),
    )
    start = time.perf_counter()
    result = await client.score(job, SCORE_SECONDS)
    seconds = time.perf_counter() - start
    assert result.scores.sampled is not None  # it is what was asked for
    log_prob = float(result.scores.sampled[0])
    if not math.isfinite(log_prob) or log_prob > 1e-4:
        return Finding(
            f"teacher {address}", "problem", f"a token's log prob is {log_prob}", "see its weights"
        )
    return Finding(f"teacher {address}", "ok", f"scored a token in {1000 * seconds:.0f} ms")


def _tokenizer(address: str, teacher: TeacherInfo, folder: Path) -> Finding:
    from transformers import AutoTokenizer

    check = f"tokenizer {folder}"
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        return Finding(check, "problem", f"cannot be loaded: {error}", "give a model's folder")
    fingerprint = tokenizer_fingerprint(loaded)
    if fingerprint != teacher.tokenizer_fingerprint:
        return Finding(
            check,
            "problem",
            f"its fingerprint is {fingerprint[:12]}…, that of the teacher at {address} "
            f"{teacher.tokenizer_fingerprint[:12]}…",
            "use a teacher with the student's tokenizer, or scoring.teacher_tokenizer",
        )
    return Finding(check, "ok", f"the same as that of the teacher at {address}")
