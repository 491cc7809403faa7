"""The client of sampling servers: several of them, on one event loop.

Every call names the weights that it wants. A server that holds others refuses; one that has been
started anew is given them again.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc

from counterhint.channel import open_channel
from counterhint.client import FIRST_PAUSE, LONGEST_PAUSE
from counterhint.errors import (
    JobCancelled,
    Unavailable,
    WeightsUnavailable,
    error_from_rpc,
)
from counterhint.v1 import sampling_pb2, sampling_pb2_grpc

MOST_PUSHES = 3
"""How often a server is given its weights again for one group. More of it means that somebody else
pushes weights to it too."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class SamplingServers:
    """Servers that all sample for one trainer.

    Args:
        addresses: `host:port` or `unix:///path` of each.
        timeout: seconds that one call may take.
        patience: seconds that a server may be out of reach; calls are repeated as long.
    """

    def __init__(self, addresses: Sequence[str], *, timeout: float, patience: float) -> None:
        self._servers = [_Server(address, timeout) for address in addresses]
        self._patience = patience
        self._loaded: sampling_pb2.LoadWeightsRequest | None = None
        self._pushing = asyncio.Lock()

    async def describe(self) -> list[tuple[str, sampling_pb2.GetSamplerResponse]]:
        """Each server's address, and what it runs.

        Raises:
            Unavailable: one did not answer in time.
        """
        return [
            (server.address, await self._patiently([server], _Server.describe))
            for server in self._servers
        ]

    async def hold(self) -> None:
        """Lets no further group begin until `release`; those under way go on."""
        await self._pushing.acquire()

    async def push(self, request: sampling_pb2.LoadWeightsRequest) -> None:
        """Has all servers load weights.

        Raises:
            CounterhintError: a server could not.
        """
        await asyncio.gather(
            *(
                self._patiently([server], lambda server: server.load(request))
                for server in self._servers
            )
        )

    async def release(self, loaded: sampling_pb2.LoadWeightsRequest | None) -> None:
        """Lets groups begin again.

        Args:
            loaded: the weights that they want; None when none are in place, and they must fail.
        """
        self._loaded = loaded
        self._pushing.release()

    async def sample(
        self, index: int, request: sampling_pb2.SampleGroupRequest
    ) -> tuple[sampling_pb2.SampleGroupResponse, int]:
        """Has one group sampled, by the server whose turn it is or, when it is lost, by the next.

        Args:
            index: of the group; says whose turn it is.
            request: the group, without the weights wanted.

        Returns:
            The group, and the revision of the weights that it was sampled from.

        Raises:
            Unavailable: no server could be reached.
            CounterhintError: the group cannot be sampled.
        """
        first = index % len(self._servers)
        turns = self._servers[first:] + self._servers[:first]
        return await self._patiently(turns, lambda server: self._sample_on(server, request))

    async def close(self) -> None:
        """Closes the connections."""
        for server in self._servers:
            await server.close()

    async def _sample_on(
        self, server: "_Server", request: sampling_pb2.SampleGroupRequest
    ) -> tuple[sampling_pb2.SampleGroupResponse, int]:
        for _ in range(MOST_PUSHES):
            wanted = await self._wanted()
            request.weights.CopyFrom(wanted.weights)
            try:
                return await server.sample(request), wanted.weights.revision
            except WeightsUnavailable as error:
                if error.reason != "OTHER_WEIGHTS":
                    raise
                async with self._pushing:
                    if self._loaded is wanted:
                        log.warning("%s is given its weights again: %s", server.address, error)
                        await server.load(wanted)
        raise WeightsUnavailable(
            f"the sampling server at {server.address} keeps losing its weights: check that no "
            "other run names it in rollouts.sampler.addresses",
            reason="OTHER_WEIGHTS",
        )

    async def _wanted(self) -> sampling_pb2.LoadWeightsRequest:
        async with self._pushing:
            if self._loaded is None:
                raise WeightsUnavailable(
                    "no weights are in place on the sampling servers", reason="WEIGHTS_NOT_LOADED"
                )
            return self._loaded

    async def _patiently(
        self, servers: "Sequence[_Server]", call: "Callable[[_Server], Awaitable[T]]"
    ) -> T:
        """Repeats a call, on one server after the other, while they are out of reach."""
        began = time.monotonic()
        pause = FIRST_PAUSE
        told: set[str] = set()
        for server in itertools.cycle(servers):
            try:
                return await call(server)
            except (Unavailable, JobCancelled) as error:
                if time.monotonic() - began > self._patience:
                    raise Unavailable(
                        f"the sampling server at {server.address} has been out of reach for "
                        f"{self._patience:g} s ({error.message}): start it again with `counterhint "
                        "sampler serve`, or take it out of rollouts.sampler.addresses",
                        reason="SAMPLER_UNAVAILABLE",
                        details={"address": server.address},
                    ) from error
                if server.address not in told:
                    told.add(server.address)
                    log.warning("sampling waits: %s", error.message)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("a cycle has no end")


class _Server:
    """One server, whose errors are typed."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._channel = open_channel(address)
        self._stub = sampling_pb2_grpc.SamplingServiceStub(self._channel)

    async def describe(self) -> sampling_pb2.GetSamplerResponse:
        return await self._typed(
            self._stub.GetSampler(sampling_pb2.GetSamplerRequest(), timeout=self._timeout)
        )

    async def load(self, request: sampling_pb2.LoadWeightsRequest) -> None:
        await self._typed(self._stub.LoadWeights(request, timeout=self._timeout))

    async def sample(
        self, request: sampling_pb2.SampleGroupRequest
    ) -> sampling_pb2.SampleGroupResponse:
        return await self._typed(self._stub.SampleGroup(request, timeout=self._timeout))

    async def close(self) -> None:
        await self._channel.close()

    async def _typed(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            failure = error_from_rpc(error)
            failure.message = f"{self.address}: {failure.message}"
            failure.args = (failure.message,)
            raise failure from error
