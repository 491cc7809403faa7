"""What holds for every sampler."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterhint.tensors import TokenIds
from student_trainer.models import Student
from student_trainer.rollouts.base import Sample, Sampler, SamplingRequest
from student_trainer.rollouts.built_in import BuiltInSampler
from student_trainer.rollouts.vllm_engine import VllmSamplerConfig
from tests.student_trainer.rollouts.vllm_processes import (
    CPU_ENVIRONMENT,
    ENGINE_ARGS,
    add_noise,
    full_log_probs,
    read_student,
    write_student,
)

END = 2
PROMPTS: list[TokenIds] = [
    np.array(ids, dtype=np.int32)
    # The last is longer than a block of vLLM's prefix cache.
    for ids in ([3, 7, 9, 11], [3, 8], [3, *range(10, 60)])
]
REQUEST = SamplingRequest(
    group_size=4, max_new_tokens=24, temperature=1.0, seed=1, max_rows=8, top_k=3
)
KINDS = [
    pytest.param(f"{kind}/{family}", marks=[pytest.mark.vllm] * (kind != "built_in"))
    for kind, family in (
        ("built_in", "llama"),
        ("built_in", "qwen3"),
        ("vllm", "llama"),
        ("vllm", "qwen3"),
        ("vllm_server", "llama"),
    )
]


@dataclass(frozen=True)
class Rig:
    student: Student
    sampler: Sampler

    def push(self, revision: int) -> None:
        self.sampler.load_weights(self.student.model.named_parameters(), revision)

    def sample(
        self, request: SamplingRequest = REQUEST, prompts: Sequence[TokenIds] = PROMPTS
    ) -> dict[int, tuple[Sample, ...]]:
        return dict(self.sampler.sample_groups(prompts, request))


@pytest.fixture(scope="module", params=KINDS)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    kind, family = request.param.split("/")
    if family == "llama":
        folder: Path = request.getfixturevalue("llama_folder")
    else:
        folder = tmp_path_factory.mktemp(family)
        write_student(folder, family)
    student = read_student(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CPU_ENVIRONMENT.items():
            patch.setenv(name, value)
        if kind == "built_in":
            sampler: Sampler = BuiltInSampler(student)
        elif kind == "vllm":
            sampler = VllmSamplerConfig(kind="vllm", engine_args=ENGINE_ARGS).build(student)
        else:
            sampler = request.getfixturevalue("llama_server").sampler(student)
        with sampler:
            yield Rig(student, sampler)


@pytest.fixture(autouse=True)
def _weights_in_place(rig: Rig) -> None:
    rig.push(0)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_figures_are_those_of_the_student(rig: Rig, temperature: float) -> None:
    groups = rig.sample(replace(REQUEST, temperature=temperature))
    assert sorted(groups) == [0, 1, 2]
    for index, samples in groups.items():
        assert len(samples) == REQUEST.group_size
        for drawn in samples:
            ours = full_log_probs(rig.student, PROMPTS[index], drawn.token_ids, temperature or 1.0)
            chosen = ours.gather(1, torch.tensor(drawn.token_ids)[:, None].long())[:, 0]
            assert drawn.log_probs.dtype == np.float32
            np.testing.assert_allclose(drawn.log_probs, chosen, atol=1e-3)
            assert drawn.top_k_ids is not None
            np.testing.assert_array_equal(drawn.top_k_ids, ours.topk(REQUEST.top_k).indices)
            if drawn.entropies is not None:
                np.testing.assert_allclose(drawn.entropies, -(ours.exp() * ours).sum(-1), atol=1e-3)


def test_responses_stop_at_the_end_token_and_not_before(rig: Rig) -> None:
    groups = rig.sample(replace(REQUEST, group_size=40, max_rows=120))
    drawn = [s for samples in groups.values() for s in samples]
    assert {s.finished for s in drawn} == {True, False}
    for s in drawn:
        assert (END in s.token_ids) == s.finished
        assert END not in s.token_ids[:-1]
        assert s.finished or len(s.token_ids) == REQUEST.max_new_tokens


def test_greedy_tokens_are_those_of_the_built_in_sampler(rig: Rig) -> None:
    request = replace(REQUEST, temperature=0.0, top_k=0)
    expected = dict(BuiltInSampler(rig.student).sample_groups(PROMPTS, request))
    for index, samples in rig.sample(request).items():
        for ours, theirs in zip(samples, expected[index], strict=True):
            np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
            assert ours.finished == theirs.finished
            assert ours.top_k_ids is None


def test_draws_follow_the_distribution(rig: Rig) -> None:
    request = replace(REQUEST, group_size=2000, max_new_tokens=1, temperature=0.7, top_k=0)
    (samples,) = rig.sample(request, PROMPTS[:1]).values()
    drawn = np.bincount([s.token_ids[0] for s in samples], minlength=64) / 2000
    expected = full_log_probs(rig.student, PROMPTS[0], np.array([3]), 0.7)[0].exp()
    np.testing.assert_allclose(drawn, expected, atol=0.05)


def test_truncated_draws_come_from_the_tokens_that_are_left(rig: Rig) -> None:
    request = replace(
        REQUEST, group_size=300, max_new_tokens=1, top_k=0, draw_top_k=5, draw_top_p=0.8
    )
    (samples,) = rig.sample(request, PROMPTS[:1]).values()
    probs = full_log_probs(rig.student, PROMPTS[0], np.array([3]), 1.0)[0].exp().numpy()
    best = np.argsort(-probs)[:5]
    within = np.cumsum(probs[best]) / probs[best].sum()
    left = best[: int(np.searchsorted(within, 0.8)) + 1]
    assert {int(s.token_ids[0]) for s in samples} == set(left.tolist())


def test_the_seed_decides_the_draws(rig: Rig) -> None:
    def tokens(seed: int) -> list[list[list[int]]]:
        groups = rig.sample(replace(REQUEST, seed=seed))
        return [[s.token_ids.tolist() for s in groups[index]] for index in sorted(groups)]

    first = tokens(1)
    assert tokens(1) == first
    assert tokens(2) != first
    assert all(len({tuple(row) for row in group}) > 1 for group in first)


def test_later_samples_are_drawn_from_the_weights_loaded_last(rig: Rig) -> None:
    before = {name: value.clone() for name, value in rig.student.model.state_dict().items()}
    for revision in (1, 2):
        add_noise(rig.student, seed=revision)
        rig.push(revision)
        for index, samples in rig.sample().items():
            for drawn in samples:
                assert drawn.revision == revision
                ours = full_log_probs(rig.student, PROMPTS[index], drawn.token_ids)
                chosen = ours.gather(1, torch.tensor(drawn.token_ids)[:, None].long())[:, 0]
                np.testing.assert_allclose(drawn.log_probs, chosen, atol=1e-3)
    rig.student.model.load_state_dict(before)


def test_a_sampling_that_is_broken_off_leaves_nothing_behind(rig: Rig) -> None:
    groups = rig.sampler.sample_groups(PROMPTS, replace(REQUEST, max_new_tokens=150))
    next(iter(groups))
    assert isinstance(groups, Generator)
    groups.close()
    rig.push(1)
    assert sorted(rig.sample()) == [0, 1, 2]
