"""What is particular to vLLM in the trainer's process."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterhint.errors import EngineFailure, InputError
from student_trainer.models import Student
from student_trainer.rollouts.base import SamplingRequest
from student_trainer.rollouts.vllm_engine import VllmSampler, VllmSamplerConfig
from tests.student_trainer.rollouts.vllm_processes import (
    CPU_ENVIRONMENT,
    ENGINE_ARGS,
    read_student,
)

pytestmark = pytest.mark.vllm

PROMPT = np.array([3, 7, 9, 11], dtype=np.int32)
REQUEST = SamplingRequest(group_size=2, max_new_tokens=10, temperature=1.0, seed=0)


@pytest.fixture(scope="module")
def own_student(llama_folder: Path) -> Student:
    return read_student(llama_folder)


@pytest.fixture(scope="module")
def sampler(own_student: Student) -> Iterator[VllmSampler]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CPU_ENVIRONMENT.items():
            patch.setenv(name, value)
        config = VllmSamplerConfig(kind="vllm", engine_args={**ENGINE_ARGS, "max_model_len": 64})
        with config.build(own_student) as sampler:
            yield sampler


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ({"max_modle_len": 64}, r"engine_args\.max_modle_len: vLLM .* has no such engine argument"),
        ({"logprobs_mode": "raw_logits"}, r"engine_args\.logprobs_mode: .*remove it"),
        ({"tensor_parallel_size": 2}, r"engine_args\.tensor_parallel_size: .*vllm_server"),
        ({"block_size": -1}, r"engine_args: vLLM cannot start with them"),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    own_student: Student, engine_args: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        VllmSamplerConfig(kind="vllm", engine_args=engine_args).build(own_student)


def test_weights_that_lack_some_are_refused_and_nothing_is_sampled(
    sampler: VllmSampler, own_student: Student
) -> None:
    with pytest.raises(EngineFailure, match=r"no weights came for model\.norm\.weight"):
        sampler.load_weights(list(own_student.model.named_parameters())[:-1], 1)
    with pytest.raises(EngineFailure, match="no weights have been loaded"):
        list(sampler.sample_groups([PROMPT], REQUEST))


def test_weights_may_be_replaced_between_groups_and_not_under_them(
    sampler: VllmSampler, own_student: Student
) -> None:
    sampler.load_weights(own_student.model.named_parameters(), 0)
    groups = sampler.sample_groups([PROMPT] * 4, replace(REQUEST, max_rows=2))
    next(groups)
    next(groups)
    sampler.load_weights(own_student.model.named_parameters(), 1)
    assert [samples[0].revision for _, samples in groups] == [1, 1]
    long = replace(REQUEST, max_new_tokens=60)
    groups = sampler.sample_groups([PROMPT] * 4, long)
    next(groups)
    with pytest.raises(EngineFailure, match="while groups were under way"):
        sampler.load_weights(own_student.model.named_parameters(), 2)
    assert [samples[0].revision for _, samples in groups] == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.001}, "vLLM samples at 0.01 or above"),
        ({"max_new_tokens": 61}, "max_model_len is 64"),
    ],
)
def test_what_vllm_would_change_in_silence_is_refused(
    sampler: VllmSampler, own_student: Student, change: dict[str, Any], message: str
) -> None:
    sampler.load_weights(own_student.model.named_parameters(), 0)
    with pytest.raises(InputError, match=message):
        list(sampler.sample_groups([PROMPT], replace(REQUEST, **change)))
