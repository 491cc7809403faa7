"""A trainer of a campaign: sends its submissions in time and logs all that it is told.

One that is started again after a kill sends everything again, by the same ids.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from counterhint.client import AsyncScoringClient
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    InvalidJob,
    JobCancelled,
    JobConflict,
    JobDeadLettered,
)
from tests.campaign.contents import make_content
from tests.campaign.history import Told
from tests.campaign.schedule import Submission

OUTCOMES: dict[type[CounterhintError], Told] = {
    JobCancelled: Told.CANCELLED,
    DeadlinePassed: Told.EXPIRED,
    JobDeadLettered: Told.DEAD,
    JobConflict: Told.CONFLICT,
    InvalidJob: Told.INVALID,
    EngineFailure: Told.FAILED,
}
TEACHER_SECONDS = 60.0
"""How long the first call may take, that asks what the teacher is."""


async def run_trainer(
    name: str, submissions: Sequence[Submission], intake: str, origin: float, log: Path
) -> None:
    """Sends the submissions and returns when each has been answered.

    Args:
        name: of this life of the trainer.
        submissions: what it sends, at seconds after `origin`.
        intake: address.
        origin: the run's beginning by `time.monotonic`.
        log: gets a JSON line for each thing that happens.
    """
    with log.open("a", encoding="utf-8", buffering=1) as lines:

        def note(kind: str, **facts: Any) -> None:
            at = time.monotonic() - origin
            lines.write(json.dumps({"at": at, "kind": kind, **facts}) + "\n")

        def note_retry(error: CounterhintError) -> None:
            task = asyncio.current_task()
            if task is not None and task.get_name().startswith(name):
                note("resent", call=task.get_name(), reason=error.reason)

        async with AsyncScoringClient(intake, on_retry=note_retry) as client:
            teacher = await client.get_teacher(timeout=TEACHER_SECONDS)

            async def send(call: str, submission: Submission) -> None:
                await asyncio.sleep(max(0.0, submission.at - (time.monotonic() - origin)))
                job = make_content(
                    submission.job,
                    submission.run,
                    submission.content,
                    teacher.tokenizer_fingerprint,
                )
                note(
                    "sent",
                    call=call,
                    job=submission.job,
                    content=submission.content,
                    timeout=submission.timeout,
                )
                try:
                    result = await client.score(job, submission.timeout)
                except CounterhintError as error:
                    told = OUTCOMES.get(type(error), Told.OTHER)
                    note("told", call=call, outcome=told, reason=error.reason)
                else:
                    assert result.scores.sampled is not None
                    scores = result.scores.sampled.tolist()
                    note("told", call=call, outcome=Told.RESULT, reason="", scores=scores)

            async with asyncio.TaskGroup() as calls:
                for number, submission in enumerate(submissions):
                    call = f"{name}/{number}"
                    calls.create_task(send(call, submission), name=call)


def train(plan: str) -> None:
    """Runs the trainer that a JSON text describes: the arguments of `run_trainer` by name."""
    facts = json.loads(plan)
    facts["submissions"] = [Submission(**one) for one in facts["submissions"]]
    facts["log"] = Path(facts["log"])
    asyncio.run(run_trainer(**facts))
