"""A vLLM engine inside the trainer's process; updated weights are handed over in memory."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from counterhint.errors import EngineFailure, InputError
from counterhint.tensors import TokenIds
from student_trainer.config import Config
from student_trainer.models import Student
from student_trainer.ranks import Ranks
from student_trainer.rollouts.base import Sample, Sampler, SamplingRequest
from student_trainer.rollouts.vllm_requests import (
    Response,
    check_lengths,
    check_temperature,
    engine_arguments,
    engine_prompt,
    read_response,
    sampling_params,
    with_tied,
)
from student_trainer.seeds import derive_seed

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

_KEY = "rollouts.sampler.engine_args"


class VllmSamplerConfig(Config):
    """vLLM in the trainer's process, on the same device; for a run of one process."""

    kind: Literal["vllm"]
    """The sampler's name."""
    engine_args: dict[str, Any] = Field({})
    """vLLM's engine arguments by their names in Python. `dtype` is the student's unless given here;
    on a GPU, `gpu_memory_utilization` must leave room for training."""

    def build(self, student: Student) -> "VllmSampler":
        """The sampler of a student.

        Raises:
            InputError: vLLM is not installed, or does not take the arguments or the model.
        """
        return VllmSampler(student, self.engine_args)


class VllmSampler(Sampler):
    """Samples with a vLLM engine in this process.

    Each response has a seed of its own. In one process vLLM schedules requests in a fixed order, so
    the same calls give the same samples on the same hardware with the same release.

    Args:
        student: whose model it is.
        engine_args: vLLM's arguments, by their names.
    """

    overlaps: ClassVar[bool] = False

    def __init__(self, student: Student, engine_args: dict[str, Any]) -> None:
        if Ranks().count > 1:
            raise InputError(
                "rollouts.sampler.kind: vllm samples within one process, but torchrun started "
                f"{Ranks().count}: use vllm_server, or built_in"
            )
        given = {"dtype": str(student.dtype).removeprefix("torch."), **engine_args}
        self._engine = _start(
            engine_arguments(Path(student.tokenizer.name_or_path), given, f"{_KEY}.")
        )
        self._student = student
        self._end_ids = student.end_ids()
        self._revision: int | None = None
        self._request_ids = map(str, itertools.count())

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], revision: int) -> None:
        """See `Sampler.load_weights`; not while groups are under way."""
        if self._engine.has_unfinished_requests():
            raise EngineFailure(
                "weights were to be loaded while groups were under way", reason="WEIGHTS_NOT_LOADED"
            )
        self._revision = None
        tensors = (
            (name, value.detach()) for name, value in with_tied(weights, self._student.model)
        )
        try:
            self._engine.collective_rpc("load_student_weights", args=(tensors,))
        except (ValueError, KeyError, RuntimeError, AssertionError) as error:
            raise EngineFailure(
                f"vLLM could not load the weights of revision {revision}: {error}",
                reason="WEIGHTS_NOT_LOADED",
            ) from error
        if not self._engine.reset_prefix_cache():
            raise EngineFailure(
                "vLLM kept keys and values of the old weights", reason="WEIGHTS_NOT_LOADED"
            )
        self._revision = revision

    def sample_groups(
        self, prompts: Sequence[TokenIds], request: SamplingRequest
    ) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """See `Sampler.sample_groups`."""
        check_temperature(request.temperature)
        check_lengths(prompts, request.max_new_tokens, self._engine.model_config.max_model_len)
        most_rows = max(request.max_rows, request.group_size)
        waiting = iter(enumerate(prompts))
        groups: dict[int, _Group] = {}
        places: dict[str, tuple[int, int]] = {}  # prompt and row of each request under way
        try:
            while True:
                for index, prompt in itertools.islice(
                    waiting, (most_rows - len(places)) // request.group_size
                ):
                    groups[index] = _Group(self._current_revision())
                    for row in range(request.group_size):
                        places[self._add(prompt, request, index, row)] = index, row
                if not places:
                    return
                for output in self._engine.step():
                    index, row = places.pop(output.request_id)
                    group = groups[index]
                    group.responses[row] = read_response(output.outputs[0], request.top_k)
                    if len(group.responses) == request.group_size:
                        yield index, groups.pop(index).samples()
        finally:
            self._engine.abort_request(list(places))

    def _current_revision(self) -> int:
        if self._revision is None:
            raise EngineFailure("no weights have been loaded", reason="WEIGHTS_NOT_LOADED")
        return self._revision

    def _add(self, prompt: TokenIds, request: SamplingRequest, index: int, row: int) -> str:
        name = next(self._request_ids)
        params = sampling_params(
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            draw_top_k=request.draw_top_k,
            draw_top_p=request.draw_top_p,
            end_ids=self._end_ids,
            seed=derive_seed(request.seed, index, row),
        )
        self._engine.add_request(name, engine_prompt(prompt), params)
        return name

    def close(self) -> None:
        """Frees the engine's memory."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        del self._engine
        cleanup_dist_env_and_memory()


@dataclass(slots=True)
class _Group:
    """A group under way."""

    revision: int
    responses: dict[int, Response] = field(default_factory=dict)

    def samples(self) -> tuple[Sample, ...]:
        return tuple(self.responses[row].sample(self.revision) for row in sorted(self.responses))


def _start(arguments: dict[str, Any]) -> "LLMEngine":
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if arguments.get(name, 1) != 1:
            raise InputError(
                f"{_KEY}.{name}: vLLM in the trainer's process runs on one device (got "
                f"{arguments[name]}); use rollouts.sampler.kind=vllm_server"
            )
    # Engine and model in this process, so that tensors can be handed over; and on a CPU its
    # threads, the trainer's among them, not pinned to cores.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        return LLMEngine.from_engine_args(EngineArgs(**arguments, disable_log_stats=True))
    except ValueError as error:
        raise InputError(f"{_KEY}: vLLM cannot start with them: {error}") from error
