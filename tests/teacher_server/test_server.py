import asyncio
import os
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from counterhint.channel import SERVICE_NAME, open_channel
from counterhint.errors import Unavailable
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from teacher_server.engines.base import Engine, Scored
from teacher_server.server import ServerOptions, serve
from tests.teacher_server.jobs import SMALL, random_job
from tests.teacher_server.running import HeldEngine, refusal, running_teacher, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def small_job(engine: Engine, id: str):
    fingerprint = engine.info.tokenizer_fingerprint
    return random_job(**SMALL, id=id, tokenizer_fingerprint=fingerprint)


async def health(channel: grpc.aio.Channel, service: str = SERVICE_NAME) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


def test_not_serving_until_the_engine_has_scored_a_token(engine, tmp_path):
    class Slow(HeldEngine):
        async def score(self, job) -> Scored:
            await self.release.wait()
            return await super().score(job)

    async def run() -> None:
        slow, address, lines = Slow(engine), f"unix://{tmp_path}/t.sock", []
        serving = asyncio.create_task(serve(ServerOptions(address), lambda: slow, lines.append))
        async with open_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 240)
            assert [await health(channel, name) for name in ("", SERVICE_NAME)] == [NOT_SERVING] * 2
            assert not lines
            slow.release.set()
            await until(lambda: lines)
            assert [await health(channel, name) for name in ("", SERVICE_NAME)] == [SERVING] * 2
            assert lines == [
                f"teacher tiny (weights {engine.info.weights_revision}, transformers "
                f"{engine.info.engine_version}) ready on {address}"
            ]
        serving.cancel()
        await asyncio.wait({serving})

    asyncio.run(run())


def test_reflection_lists_the_services(engine):
    async def run() -> None:
        async with (
            running_teacher(engine) as teacher,
            open_channel(teacher.address) as channel,
        ):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await call.done_writing()
            (answer,) = [answer async for answer in call]
            names = {service.name for service in answer.list_services_response.service}
            assert names >= {"counterhint.v1.ScoringService", "grpc.health.v1.Health"}

    asyncio.run(run())


def test_a_drain_ends_what_runs_and_refuses_what_comes(engine):
    async def run() -> None:
        held = HeldEngine(engine, concurrent_jobs=2)
        async with (
            running_teacher(held, drain_seconds=240) as teacher,
            open_channel(teacher.address) as channel,
        ):
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            running = stub.Score(job_to_message(small_job(engine, "running")))
            idle, busy = stub.ScoreStream(), stub.ScoreStream()
            streamed = small_job(engine, "streamed")
            await busy.write(scoring_pb2.ScoreStreamRequest(job=job_to_message(streamed)))
            await until(lambda: len(held.started) == 2)
            teacher.terminate()
            while await health(channel) == SERVING:  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.005)

            refused = await refusal(stub, small_job(engine, "new"))
            assert isinstance(refused, Unavailable)
            assert refused.reason == "DRAINING"
            assert refused.retry_after > 0
            held.release.set()
            assert (await running).id == "running"
            assert (await busy.read()).response.id == "streamed"
            for stream in (idle, busy):
                assert await stream.code() == grpc.StatusCode.UNAVAILABLE
            await asyncio.wait_for(teacher.ended, 240)
            assert sorted(held.started) == ["running", "streamed"]

    asyncio.run(run())


def test_a_signal_while_the_engine_starts_ends_the_teacher(engine, tmp_path):
    starting = asyncio.Event()

    class Slow(HeldEngine):
        async def start(self) -> None:
            starting.set()
            await self.release.wait()

    async def run() -> None:
        options = ServerOptions(f"unix://{tmp_path}/t.sock")
        serving = asyncio.create_task(serve(options, lambda: Slow(engine)))
        await starting.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 240)

    asyncio.run(run())


def test_a_job_that_outlasts_the_drain_is_told_to_come_again(engine):
    async def run() -> None:
        held = HeldEngine(engine, concurrent_jobs=2)
        async with running_teacher(held, drain_seconds=0.1) as teacher:
            job = small_job(engine, "endless")
            message = scoring_pb2.ScoreStreamRequest(job=job_to_message(job))
            async with open_channel(teacher.address) as channel:
                stub = scoring_pb2_grpc.ScoringServiceStub(channel)
                unary, stream = stub.Score(message.job), stub.ScoreStream()
                await stream.write(message)
                await until(lambda: len(held.started) == 2)
                teacher.terminate()
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await unary
                assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
                assert (await stream.read()).failure.reason == "DRAINING"
            await asyncio.wait_for(teacher.ended, 240)
            assert sorted(held.cancelled) == ["endless", "endless"]

    asyncio.run(run())


def test_an_engine_that_cannot_be_watched_is_not_served(engine):
    held = HeldEngine(engine)

    async def run() -> None:
        async with running_teacher(held, check_seconds=0.02) as teacher:
            held.progress = lambda: 1 // 0
            await asyncio.wait({teacher.ended})

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
