"""A teacher that breaks on demand (`broken_teacher`) as a child process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc

from counterhint.channel import open_channel
from counterhint.errors import error_from_rpc, failure_from_message
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from tests.teacher_server.jobs import SMALL, random_job


class BrokenTeacher:
    """The process, which is ready or has ended."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.address = f"unix://{folder}/t.sock"
        self.log = folder / "log"
        command = [sys.executable, "-m", "tests.teacher_server.broken_teacher"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, self.address, *options],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().decode()

    def exit_code(self) -> int:
        return self.process.wait(240)

    def errors(self) -> str:
        return self.log.read_text(encoding="utf-8")


async def fingerprint(channel: grpc.aio.Channel) -> str:
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    return str((await stub.GetTeacher(scoring_pb2.GetTeacherRequest())).tokenizer_fingerprint)


async def reasons(teacher: BrokenTeacher, *ids: str, until_lost: bool) -> dict[str, str]:
    """How the jobs of one stream end, and, as `stream`, how the stream itself when it breaks."""
    async with open_channel(teacher.address) as channel:
        stream: Any = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()
        known = await fingerprint(channel)
        for id in ids:
            job = random_job(**SMALL, id=id, tokenizer_fingerprint=known)
            await stream.write(scoring_pb2.ScoreStreamRequest(job=job_to_message(job)))
        if not until_lost:
            await stream.done_writing()
        found = {}
        try:
            async for reply in stream:
                scored = reply.HasField("response")
                found[reply.id] = "OK" if scored else failure_from_message(reply.failure).reason
        except grpc.aio.AioRpcError as error:
            found["stream"] = error_from_rpc(error).reason
        return found
