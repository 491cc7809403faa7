"""How the client treats servers that are lost, new or shared; these answer without a model."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from counterhint.errors import InvalidJob, Unavailable, WeightsUnavailable, error_to_status
from counterhint.v1 import sampling_pb2, sampling_pb2_grpc
from student_trainer.rollouts.sampling_client import MOST_PUSHES, SamplingServers

GROUP = sampling_pb2.SampleGroupRequest(prompt=b"\1\0\0\0", seeds=[1], max_new_tokens=1)


def weights(revision: int) -> sampling_pb2.LoadWeightsRequest:
    return sampling_pb2.LoadWeightsRequest(
        weights=sampling_pb2.StudentWeights(trainer="ours", revision=revision),
        file=f"{revision}.safetensors",
    )


class Servicer(sampling_pb2_grpc.SamplingServiceServicer):
    """Keeps the contract's rules about weights, and counts what it is asked for."""

    def __init__(self) -> None:
        self.loaded: sampling_pb2.StudentWeights | None = None
        self.pushes: list[int] = []
        self.groups = 0
        self.forgetful = False

    async def LoadWeights(  # noqa: N802
        self, request: sampling_pb2.LoadWeightsRequest, context: Any
    ) -> sampling_pb2.LoadWeightsResponse:
        self.pushes.append(request.weights.revision)
        self.loaded = None if self.forgetful else request.weights
        return sampling_pb2.LoadWeightsResponse()

    async def SampleGroup(  # noqa: N802
        self, request: sampling_pb2.SampleGroupRequest, context: Any
    ) -> sampling_pb2.SampleGroupResponse:
        if not request.max_new_tokens:
            await context.abort_with_status(
                error_to_status(InvalidJob("max_new_tokens is 0", reason="INVALID_GROUP"))
            )
        if self.loaded != request.weights:
            await context.abort_with_status(
                error_to_status(WeightsUnavailable("others are in place", reason="OTHER_WEIGHTS"))
            )
        self.groups += 1
        return sampling_pb2.SampleGroupResponse()


class Clock:
    """The client's, which stands still, or goes on by so many seconds whenever it looks at it."""

    def __init__(self) -> None:
        self.now = self.step = 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("student_trainer.rollouts.sampling_client.time", clock)
    return clock


class Farm:
    """Two servers, and a client of theirs."""

    def __init__(self, folder: Path) -> None:
        self.addresses = [f"unix://{folder}/{name}.sock" for name in "ab"]
        self.servicers = [Servicer(), Servicer()]
        self.client = SamplingServers(self.addresses, timeout=240, patience=60)
        self._servers: list[grpc.aio.Server | None] = [None, None]

    async def start(self, which: int) -> None:
        server = grpc.aio.server()
        sampling_pb2_grpc.add_SamplingServiceServicer_to_server(self.servicers[which], server)
        server.add_insecure_port(self.addresses[which])
        await server.start()
        self._servers[which] = server

    async def stop(self, which: int) -> None:
        if (server := self._servers[which]) is not None:
            await server.stop(None)
            self._servers[which] = None

    async def load(self, revision: int) -> None:
        await self.client.hold()
        loaded = None
        try:
            await self.client.push(weights(revision))
            loaded = weights(revision)
        finally:
            await self.client.release(loaded)


def with_farm(folder: Path, test: Callable[[Farm], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            farm = Farm(folder)
            stack.push_async_callback(farm.client.close)
            for which in (0, 1):
                await farm.start(which)
                stack.push_async_callback(farm.stop, which)
            await farm.load(1)
            await test(farm)

    asyncio.run(run())


def test_groups_go_to_the_servers_in_turn(tmp_path: Path) -> None:
    async def test(farm: Farm) -> None:
        revisions = [(await farm.client.sample(index, GROUP))[1] for index in range(6)]
        assert revisions == [1] * 6
        assert [servicer.groups for servicer in farm.servicers] == [3, 3]

    with_farm(tmp_path, test)


def test_the_groups_of_a_lost_server_go_to_the_other(tmp_path: Path) -> None:
    async def test(farm: Farm) -> None:
        await farm.stop(0)
        await farm.client.sample(0, GROUP)
        assert [servicer.groups for servicer in farm.servicers] == [0, 1]

    with_farm(tmp_path, test)


def test_a_lost_server_makes_a_push_fail_and_then_nothing_is_sampled(
    tmp_path: Path, clock: Clock
) -> None:
    async def test(farm: Farm) -> None:
        await farm.stop(0)
        clock.step = 25
        with pytest.raises(Unavailable, match=r"a\.sock has been out of reach for 60 s"):
            await farm.load(2)
        clock.step = 0  # as long as it takes to connect again
        assert farm.servicers[1].pushes == [1, 2]
        with pytest.raises(WeightsUnavailable, match="no weights are in place"):
            await farm.client.sample(1, GROUP)
        await farm.start(0)
        await farm.load(2)
        assert (await farm.client.sample(0, GROUP))[1] == 2

    with_farm(tmp_path, test)


def test_when_all_are_lost_the_error_names_the_remedy(tmp_path: Path, clock: Clock) -> None:
    async def test(farm: Farm) -> None:
        await farm.stop(0)
        await farm.stop(1)
        clock.step = 25
        with pytest.raises(Unavailable, match=r"\.sock has been .* `counterhint sampler serve`"):
            await farm.client.sample(0, GROUP)

    with_farm(tmp_path, test)


def test_a_server_started_anew_is_given_its_weights(tmp_path: Path) -> None:
    async def test(farm: Farm) -> None:
        farm.servicers[0].loaded = None
        assert (await farm.client.sample(0, GROUP))[1] == 1
        assert [servicer.pushes for servicer in farm.servicers] == [[1, 1], [1]]

    with_farm(tmp_path, test)


def test_a_server_that_never_keeps_its_weights_is_given_up(tmp_path: Path) -> None:
    async def test(farm: Farm) -> None:
        farm.servicers[0].loaded, farm.servicers[0].forgetful = None, True
        with pytest.raises(WeightsUnavailable, match="no other run names it"):
            await farm.client.sample(0, GROUP)
        assert farm.servicers[0].pushes == [1] * (1 + MOST_PUSHES)

    with_farm(tmp_path, test)


def test_groups_wait_for_a_push_and_want_the_new_weights(tmp_path: Path) -> None:
    async def test(farm: Farm) -> None:
        await farm.client.hold()
        group = asyncio.create_task(farm.client.sample(0, GROUP))
        await asyncio.sleep(0.05)
        assert farm.servicers[0].groups == 0
        await farm.client.push(weights(2))
        await farm.client.release(weights(2))
        assert (await group)[1] == 2

    with_farm(tmp_path, test)


def test_a_group_that_cannot_be_sampled_is_not_tried_again(tmp_path: Path) -> None:
    async def test(farm: Farm) -> None:
        impossible = sampling_pb2.SampleGroupRequest(prompt=b"\1\0\0\0", seeds=[1])
        with pytest.raises(InvalidJob, match=r"a\.sock: max_new_tokens is 0"):
            await farm.client.sample(0, impossible)

    with_farm(tmp_path, test)
