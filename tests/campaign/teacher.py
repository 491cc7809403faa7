"""The scripted teacher of a campaign: it takes its time, and its scores tell contexts apart."""

import asyncio

from counterhint.errors import Overloaded
from counterhint.messages import job_from_message
from counterhint.v1 import scoring_pb2
from tests.campaign.contents import scripted_scores, scripted_seconds
from tests.services.scripted_teacher import ScriptedTeacher, serving


class CampaignTeacher(ScriptedTeacher):
    """Takes up to 0.2 s a job, then misbehaves as the id says.

    `full` is one word more: the job is refused once, whole or in whichever parts it comes.
    """

    scores = staticmethod(scripted_scores)

    def __init__(self) -> None:
        super().__init__()
        self._refused: set[str] = set()

    async def _score(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        await asyncio.sleep(scripted_seconds(job_from_message(request)))
        whole = request.id.partition("/delivery-")[0]
        if whole.startswith("full ") and whole not in self._refused:
            self._refused.add(whole)
            raise Overloaded("full", reason="TEACHER_BUSY", retry_after=0.1)
        return await super()._score(request)


async def serve(address: str) -> None:
    """Serves it until the process ends."""
    async with serving(CampaignTeacher(), address):
        await asyncio.Event().wait()
