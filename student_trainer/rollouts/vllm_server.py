"""vLLM in processes of its own (`counterhint sampler serve`), on this or other machines.

Updated weights are written as a safetensors file where the servers can read it.
"""

import asyncio
import secrets
import threading
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from counterhint.errors import (
    CounterhintError,
    EngineFailure,
    InputError,
    Unavailable,
    WeightsUnavailable,
)
from counterhint.tensors import TokenIds, decode_sequences, decode_tensor
from counterhint.v1 import sampling_pb2
from student_trainer.config import Config
from student_trainer.models import Student
from student_trainer.ranks import Ranks
from student_trainer.rollouts.base import Sample, Sampler, SamplingRequest
from student_trainer.rollouts.sampling_client import SamplingServers
from student_trainer.rollouts.vllm_requests import (
    Response,
    check_lengths,
    check_temperature,
    with_tied,
)
from student_trainer.seeds import derive_seed

T = TypeVar("T")


class VllmServerSamplerConfig(Config):
    """vLLM servers, which sample while the trainer updates."""

    kind: Literal["vllm_server"]
    """The sampler's name."""
    addresses: tuple[str, ...] = Field(min_length=1)
    """host:port or unix:///path of each `counterhint sampler serve`; groups go to them in turn."""
    weights_dir: Path
    """Folder for pushed weights, the servers' `--weights-dir`; servers on other machines must mount
    it. It holds one copy of the model, and a second while that one is being pushed."""
    patience: float = Field(300.0, gt=0)
    """Seconds that a server may be out of reach, when the run starts and later."""
    timeout: float = Field(1800.0, gt=0)
    """Seconds that sampling a group or loading weights may take."""

    def build(self, student: Student) -> "VllmServerSampler":
        """The sampler of a student.

        Raises:
            InputError: a server does not answer, or runs a model of another shape.
        """
        return VllmServerSampler(student, self)


class VllmServerSampler(Sampler):
    """Has vLLM servers sample. Of several ranks each asks for its own groups, and the first pushes
    the weights.

    Each response has a seed of its own, whichever server draws. Still vLLM promises the same
    samples again in its batch-invariant mode only (`VLLM_BATCH_INVARIANT=1`, on GPUs): the last
    digits of a logit depend on which requests happen to be computed together.

    Args:
        student: whose model it is.
        config: where the servers are.
    """

    overlaps: ClassVar[bool] = True

    def __init__(self, student: Student, config: VllmServerSamplerConfig) -> None:
        self._student = student
        self._folder = config.weights_dir
        self._ranks = Ranks()
        self._end_ids = student.end_ids()
        self._trainer: str = self._ranks.from_first(secrets.token_hex(8))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="sampling-client", daemon=True
        )
        self._thread.start()
        self._servers = self._start(_connect(config)).result()
        try:
            self._max_model_len = self._check_servers()
        except BaseException:
            self.close()
            raise

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], revision: int) -> None:
        """See `Sampler.load_weights`. Collective; while groups are under way, too."""
        request = sampling_pb2.LoadWeightsRequest(
            weights=sampling_pb2.StudentWeights(trainer=self._trainer, revision=revision),
            file=f"{self._trainer}-{revision}.safetensors",
        )
        loaded = None
        self._start(self._servers.hold()).result()
        try:
            stored = self._gather(weights)
            self._ranks.wait()  # no rank may want the old weights once the first pushes new ones
            failure = self._push(stored, request) if self._ranks.first else None
            message = self._ranks.from_first(None if failure is None else failure.message)
            if message is not None:
                raise failure or WeightsUnavailable(message, reason="WEIGHTS_NOT_LOADED")
            loaded = request
        finally:
            self._start(self._servers.release(loaded)).result()

    def sample_groups(
        self, prompts: Sequence[TokenIds], request: SamplingRequest
    ) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """See `Sampler.sample_groups`; groups of one call may be of different revisions."""
        check_temperature(request.temperature)
        check_lengths(prompts, request.max_new_tokens, self._max_model_len)
        slots = asyncio.Semaphore(max(1, request.max_rows // request.group_size))
        groups = {
            self._start(self._sample(index, prompt, request, slots)): index
            for index, prompt in enumerate(prompts)
        }
        try:
            for done in as_completed(groups):
                yield groups[done], done.result()
        finally:
            for group in groups:
                group.cancel()

    def close(self) -> None:
        """Ends calls under way and connections, and removes the pushed weights."""
        self._start(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._ranks.first:
            self._remove_files_but(None)

    def _check_servers(self) -> int:
        """The longest sequence that all servers take."""
        rows = self._student.model.get_output_embeddings().weight.shape[0]
        lengths = []
        try:
            described = self._start(self._servers.describe()).result()
        except Unavailable as error:
            raise InputError(f"rollouts.sampler.addresses: {error}") from error
        for address, server in described:
            if server.vocab_size != rows:
                raise InputError(
                    f"rollouts.sampler.addresses: the model at {address} has a vocabulary of "
                    f"{server.vocab_size}, the student one of {rows}: start that server with the "
                    "student's model"
                )
            lengths.append(server.max_model_len)
        return min(lengths)

    def _gather(self, weights: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors to store, on the first rank; the others only take part in gathering them."""
        stored = {}
        for name, value in with_tied(weights, self._student.model):
            if self._ranks.first:
                # Copies, since tensors of a file may not share memory, and tied ones do.
                stored[name] = value.detach().to("cpu", self._student.dtype, copy=True).contiguous()
        return stored

    def _push(
        self, stored: dict[str, Tensor], request: sampling_pb2.LoadWeightsRequest
    ) -> CounterhintError | None:
        """Writes the file and has the servers load it; what this failed with, for all ranks."""
        file = self._folder / request.file
        unfinished = file.with_suffix(".unfinished")
        save_file(stored, unfinished)
        unfinished.rename(file)
        try:
            self._start(self._servers.push(request)).result()
        except CounterhintError as error:
            return error
        self._remove_files_but(file)
        return None

    def _remove_files_but(self, kept: Path | None) -> None:
        for file in self._folder.glob(f"{self._trainer}-*"):
            if file != kept:
                file.unlink()

    async def _sample(
        self, index: int, prompt: TokenIds, request: SamplingRequest, slots: asyncio.Semaphore
    ) -> tuple[Sample, ...]:
        message = sampling_pb2.SampleGroupRequest(
            prompt=prompt.astype("<i4").tobytes(),
            seeds=[derive_seed(request.seed, index, row) for row in range(request.group_size)],
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            draw_top_k=request.draw_top_k,
            draw_top_p=request.draw_top_p,
            end_ids=self._end_ids,
        )
        async with slots:
            reply, revision = await self._servers.sample(index, message)
        return _read(reply, request, revision)

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._servers.close()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


async def _connect(config: VllmServerSamplerConfig) -> SamplingServers:
    return SamplingServers(config.addresses, timeout=config.timeout, patience=config.patience)


def _read(
    reply: sampling_pb2.SampleGroupResponse, request: SamplingRequest, revision: int
) -> tuple[Sample, ...]:
    """The samples of a reply.

    Raises:
        EngineFailure: it is not what was asked for.
    """
    responses = decode_sequences(reply.responses, "responses")
    lengths = [len(response) for response in responses]
    log_probs = decode_tensor(reply.log_probs, "log_probs")
    finished = decode_tensor(reply.finished, "finished")
    top_k_ids = decode_tensor(reply.top_k_ids, "top_k_ids") if request.top_k else None
    if (
        len(responses) != request.group_size
        or log_probs.shape != (sum(lengths),)
        or finished.shape != (request.group_size,)
        or (top_k_ids is not None and top_k_ids.shape != (sum(lengths), request.top_k))
    ):
        raise EngineFailure("a sampling server's reply does not fit the group", reason="BAD_REPLY")
    # Copies: what was decoded is a read-only view of the whole reply.
    ends = np.cumsum(lengths)
    return tuple(
        Response(
            token_ids.copy(),
            log_probs[end - len(token_ids) : end].copy(),
            None if top_k_ids is None else top_k_ids[end - len(token_ids) : end].copy(),
            bool(ended),
        ).sample(revision)
        for token_ids, end, ended in zip(responses, ends, finished, strict=True)
    )
