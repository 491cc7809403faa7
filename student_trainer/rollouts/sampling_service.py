"""A vLLM engine behind gRPC: `counterhint sampler serve`, for trainers on this or other machines.

Trainers push their weights as safetensors files in a folder that both sides see. A group is sampled
from one set of weights: a push waits for the groups under way, and those that come meanwhile wait
for it.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from counterhint.addresses import bound_address, check_address
from counterhint.channel import SERVER_OPTIONS
from counterhint.errors import (
    CounterhintError,
    EngineFailure,
    InputError,
    InvalidJob,
    Unavailable,
    WeightsUnavailable,
    error_to_status,
)
from counterhint.grpc_server import make_server
from counterhint.tensors import TokenIds, encode_sequences, encode_tensor
from counterhint.v1 import sampling_pb2, sampling_pb2_grpc
from student_trainer.rollouts.vllm_requests import (
    LOWEST_TEMPERATURE,
    Response,
    engine_arguments,
    engine_prompt,
    read_response,
    sampling_params,
    vllm_version,
)

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

LAST_REPLIES = 2.0
"""Seconds that replies have to reach their clients before the process ends."""

Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SamplingServerOptions:
    """How the process serves."""

    model: Path
    """Folder of the student's model; only its shape is read."""
    listen: str
    """`host:port` (port 0: any free one) or `unix:///path`."""
    weights_dir: Path
    """Folder that pushed weights are read from."""
    engine_args: dict[str, Any]
    """vLLM's engine arguments, by their names in Python."""
    insecure: bool = False
    """Whether plaintext may leave this machine."""


class WeightsLock:
    """Any number of groups at a time, or one push; a push that waits goes before new groups."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._groups = 0
        self._pushes = 0
        self._pushing = False

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Within it no weights are replaced."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pushes == 0)
            self._groups += 1
        try:
            yield
        finally:
            async with self._changed:
                self._groups -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def pushing(self) -> AsyncIterator[None]:
        """Within it nothing is sampled."""
        self._pushes += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._groups and not self._pushing)
                self._pushing = True
            try:
                yield
            finally:
                self._pushing = False
        finally:
            self._pushes -= 1
            async with self._changed:
                self._changed.notify_all()


class SamplingService(sampling_pb2_grpc.SamplingServiceServicer):
    """The gRPC handlers.

    Args:
        engine: without any weights of use yet.
        weights_dir: where pushed weights are.
        on_death: told when the engine cannot go on.
    """

    def __init__(self, engine: "AsyncLLM", weights_dir: Path, on_death: Callable[[], None]) -> None:
        self._engine = engine
        self._weights_dir = weights_dir
        self._on_death = on_death
        self._lock = WeightsLock()
        self._weights: sampling_pb2.StudentWeights | None = None
        self._request_ids = map(str, itertools.count())

    async def GetSampler(  # noqa: N802
        self, request: sampling_pb2.GetSamplerRequest, context: Context
    ) -> sampling_pb2.GetSamplerResponse:
        """What this server runs."""
        config = self._engine.model_config
        return sampling_pb2.GetSamplerResponse(
            max_model_len=config.max_model_len,
            vocab_size=config.get_vocab_size(),
            engine="vllm",
            engine_version=vllm_version(),
            weights=self._weights,
        )

    async def LoadWeights(  # noqa: N802
        self, request: sampling_pb2.LoadWeightsRequest, context: Context
    ) -> sampling_pb2.LoadWeightsResponse:
        """Replaces the weights."""
        async with self._answering(context), self._lock.pushing():
            if self._weights != request.weights:
                await self._load(request)
            return sampling_pb2.LoadWeightsResponse()

    async def SampleGroup(  # noqa: N802
        self, request: sampling_pb2.SampleGroupRequest, context: Context
    ) -> sampling_pb2.SampleGroupResponse:
        """Samples one group; gRPC cancels it when the client goes."""
        async with self._answering(context), self._lock.sampling():
            if self._weights != request.weights:
                raise WeightsUnavailable(
                    f"the weights in place are {_name(self._weights)}, not "
                    f"{_name(request.weights)}: push those first",
                    reason="OTHER_WEIGHTS",
                )
            prompt = np.frombuffer(request.prompt, dtype="<i4")
            self._check(request, prompt)
            params = [
                sampling_params(
                    max_new_tokens=request.max_new_tokens,
                    temperature=request.temperature,
                    top_k=request.top_k,
                    draw_top_k=request.draw_top_k,
                    draw_top_p=request.draw_top_p or 1.0,
                    end_ids=list(request.end_ids),
                    seed=seed,
                )
                for seed in request.seeds
            ]
            rows = await self._sample(prompt, params, request.top_k)
            return _reply(rows, request.top_k)

    def _check(self, request: sampling_pb2.SampleGroupRequest, prompt: TokenIds) -> None:
        config = self._engine.model_config
        temperature = request.temperature
        problem = None
        if not len(prompt) or not request.seeds or not request.max_new_tokens:
            problem = "a group needs a prompt, seeds and max_new_tokens"
        elif len(prompt) + request.max_new_tokens > config.max_model_len:
            problem = (
                f"prompt ({len(prompt)}) and max_new_tokens ({request.max_new_tokens}) exceed the "
                f"server's max_model_len ({config.max_model_len})"
            )
        elif prompt.min() < 0 or prompt.max() >= config.get_vocab_size():
            problem = f"token ids must lie within 0 and {config.get_vocab_size() - 1}"
        elif temperature < 0 or 0 < temperature < LOWEST_TEMPERATURE:
            problem = f"temperature {temperature:g} is neither 0 nor {LOWEST_TEMPERATURE} or more"
        if problem:
            raise InvalidJob(problem, reason="INVALID_GROUP")

    async def _sample(
        self, prompt: TokenIds, params: "Sequence[SamplingParams]", top_k: int
    ) -> list[Response]:
        """One response for each of the parameters; when one fails, the others are ended too."""
        try:
            async with asyncio.TaskGroup() as tasks:
                rows = [tasks.create_task(self._respond(prompt, each, top_k)) for each in params]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [row.result() for row in rows]

    async def _respond(self, prompt: TokenIds, params: "SamplingParams", top_k: int) -> Response:
        final = None
        async for output in self._engine.generate(
            engine_prompt(prompt), params, next(self._request_ids)
        ):
            final = output
        if final is None:
            raise EngineFailure("vLLM gave no response", reason="NOT_SAMPLED")
        return read_response(final.outputs[0], top_k)

    async def _load(self, request: sampling_pb2.LoadWeightsRequest) -> None:
        file = self._weights_dir / request.file
        if Path(request.file).name != request.file or file.suffix != ".safetensors":
            raise InvalidJob(
                f"file {request.file!r} is no name of a .safetensors file", reason="INVALID_FILE"
            )
        if not file.is_file():
            raise WeightsUnavailable(
                f"there is no {request.file} in the server's --weights-dir {self._weights_dir}: it "
                "must be the folder of the trainer's rollouts.sampler.weights_dir",
                reason="WEIGHTS_NOT_FOUND",
            )
        self._weights = None  # whatever fails below, the old weights are not sampled from again
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._engine.collective_rpc("load_student_weights_file", args=(str(file),))
        except EngineDeadError:
            raise
        except Exception as error:  # of whatever kind the worker's was: it came through a pipe
            raise WeightsUnavailable(
                f"{request.file} could not be loaded: {error}", reason="WEIGHTS_NOT_LOADED"
            ) from error
        if not await self._engine.reset_prefix_cache():
            raise EngineFailure(
                "vLLM kept keys and values of the old weights", reason="WEIGHTS_NOT_LOADED"
            )
        self._weights = request.weights
        log.info("weights %s are in place", _name(request.weights))

    @asynccontextmanager
    async def _answering(self, context: Context) -> AsyncIterator[None]:
        """Answers errors with their rich status, and reports the engine's death."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError:
            self._on_death()
            dead = Unavailable("the vLLM engine has died", reason="ENGINE_DEAD")
            await context.abort_with_status(error_to_status(dead))
        except CounterhintError as error:
            await context.abort_with_status(error_to_status(error))


def _reply(rows: Sequence[Response], top_k: int) -> sampling_pb2.SampleGroupResponse:
    reply = sampling_pb2.SampleGroupResponse(
        responses=encode_sequences([row.token_ids for row in rows]),
        log_probs=encode_tensor(np.concatenate([row.log_probs for row in rows])),
        finished=encode_tensor(np.array([row.finished for row in rows])),
    )
    if top_k:
        ids = [row.top_k_ids for row in rows if row.top_k_ids is not None]
        reply.top_k_ids.CopyFrom(encode_tensor(np.concatenate(ids)))
    return reply


def _name(weights: sampling_pb2.StudentWeights | None) -> str:
    return "none" if weights is None else f"revision {weights.revision} of {weights.trainer}"


async def serve(options: SamplingServerOptions, announce: Callable[[str], None] = print) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        options: model, address, engine.
        announce: told one line when the server is ready for weights.

    Raises:
        InputError: address, model or arguments cannot be used.
        Unavailable: the engine died while serving.
    """
    check_address(options.listen, options.insecure)
    options.weights_dir.mkdir(parents=True, exist_ok=True)
    engine = _start(options)
    stop, died = asyncio.Event(), asyncio.Event()

    def on_death() -> None:
        died.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await engine.collective_rpc("end_with", args=(socket.gethostname(), os.getpid()))
        await _serve_engine(options, engine, stop, on_death, announce)
    finally:
        engine.shutdown()
    if died.is_set():
        raise Unavailable("the vLLM engine has died; start the server again", reason="ENGINE_DEAD")


async def _serve_engine(
    options: SamplingServerOptions,
    engine: "AsyncLLM",
    stop: asyncio.Event,
    on_death: Callable[[], None],
    announce: Callable[[str], None],
) -> None:
    server = make_server(SERVER_OPTIONS)
    service = SamplingService(engine, options.weights_dir, on_death)
    sampling_pb2_grpc.add_SamplingServiceServicer_to_server(service, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    try:
        port = server.add_insecure_port(options.listen)
    except RuntimeError as error:
        raise InputError(f"--listen {options.listen}: the address cannot be bound") from error
    await server.start()
    try:
        await status.set("", health_pb2.HealthCheckResponse.SERVING)
        announce(
            f"sampler of {options.model} (vLLM {vllm_version()}) ready for weights on "
            f"{bound_address(options.listen, port)}"
        )
        await stop.wait()
    finally:
        await server.stop(LAST_REPLIES)


def _start(options: SamplingServerOptions) -> "AsyncLLM":
    arguments = engine_arguments(options.model, options.engine_args, "engine argument ")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, disable_log_stats=True))
    except ValueError as error:
        raise InputError(f"vLLM cannot start with these engine arguments: {error}") from error
