from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from counterhint.errors import EngineFailure
from counterhint.tensors import TokenIds
from student_trainer.models import Student
from student_trainer.rollouts.base import Sample, SamplingRequest
from student_trainer.rollouts.built_in import BuiltInSampler

PROMPTS = [np.array(ids, dtype=np.int32) for ids in ([3, 7, 9, 11], [3, 8], [3, 5, 6, 12, 20, 21])]
REQUEST = SamplingRequest(group_size=4, max_new_tokens=12, temperature=1.0, seed=0, max_rows=100)


def sample(
    student: Student, request: SamplingRequest, prompts: Sequence[TokenIds] = PROMPTS
) -> list[tuple[int, tuple[Sample, ...]]]:
    with BuiltInSampler(student) as sampler:
        return list(sampler.sample_groups(prompts, request))


@torch.no_grad()
def full_log_probs(student: Student, prompt: np.ndarray, response: np.ndarray) -> torch.Tensor:
    ids = torch.tensor(np.concatenate([prompt, response]))[None].long()
    return student.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("max_rows", [100, 4])
def test_figures_match_a_full_forward_pass(student: Student, max_rows: int) -> None:
    groups = sample(student, replace(REQUEST, max_rows=max_rows, top_k=5))
    assert sorted(index for index, _ in groups) == [0, 1, 2]
    for index, samples in groups:
        assert len(samples) == 4
        for drawn in samples:
            log_probs = full_log_probs(student, PROMPTS[index], drawn.token_ids)
            chosen = log_probs.gather(1, torch.tensor(drawn.token_ids)[:, None].long())[:, 0]
            np.testing.assert_allclose(drawn.log_probs, chosen, atol=1e-5)
            entropies = -(log_probs.exp() * log_probs).sum(-1)
            np.testing.assert_allclose(drawn.entropies, entropies, atol=1e-4)
            np.testing.assert_array_equal(drawn.top_k_ids, log_probs.topk(5).indices)


def test_rows_stop_at_the_end_token_and_not_before(student: Student) -> None:
    end = student.tokenizer.eos_token_id
    drawn = [
        s for _, samples in sample(student, replace(REQUEST, max_new_tokens=60)) for s in samples
    ]
    assert any(s.finished for s in drawn)
    for s in drawn:
        assert (end in s.token_ids) == s.finished
        assert end not in s.token_ids[:-1]
        assert s.finished or len(s.token_ids) == 60


def test_groups_come_as_they_finish(student: Student) -> None:
    groups = sample(student, replace(REQUEST, max_new_tokens=200, seed=2))
    longest = [max(len(s.token_ids) for s in samples) for _, samples in groups]
    assert longest == sorted(longest)


def test_the_seed_decides_every_draw(student: Student) -> None:
    def tokens(seed: int) -> list[list[int]]:
        request = replace(REQUEST, seed=seed)
        return [s.token_ids.tolist() for _, samples in sample(student, request) for s in samples]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_temperature_zero_takes_the_most_probable_tokens(student: Student) -> None:
    for index, samples in sample(student, replace(REQUEST, temperature=0.0)):
        best = full_log_probs(student, PROMPTS[index], samples[0].token_ids).argmax(-1)
        assert samples[0].token_ids.tolist() == best.tolist()
        assert all(np.array_equal(s.token_ids, samples[0].token_ids) for s in samples)


def test_samples_follow_the_models_distribution(student: Student) -> None:
    request = replace(REQUEST, group_size=4000, max_new_tokens=1, max_rows=4000)
    ((_, samples),) = sample(student, request, PROMPTS[:1])
    drawn = np.bincount([s.token_ids[0] for s in samples], minlength=len(student.tokenizer))
    expected = full_log_probs(student, PROMPTS[0], np.array([0]))[0].exp().numpy()
    np.testing.assert_allclose(drawn / 4000, expected, atol=0.03)


def test_asking_for_the_most_probable_tokens_changes_no_draw(student: Student) -> None:
    without, with_them = (sample(student, replace(REQUEST, top_k=k)) for k in (0, 3))
    for (_, ours), (_, theirs) in zip(without, with_them, strict=True):
        for plain, full in zip(ours, theirs, strict=True):
            assert plain.top_k_ids is None
            assert full.top_k_ids is not None
            assert full.top_k_ids.shape == (len(plain.token_ids), 3)
            np.testing.assert_array_equal(plain.token_ids, full.token_ids)


def test_samples_name_the_weights_that_drew_them(student: Student) -> None:
    with BuiltInSampler(student) as sampler:
        for revision in (0, 3):
            sampler.load_weights((), revision)
            for _, samples in sampler.sample_groups(PROMPTS, REQUEST):
                assert {s.revision for s in samples} == {revision}


def test_an_update_within_a_wave_is_refused(student: Student) -> None:
    with BuiltInSampler(student) as sampler:
        groups = sampler.sample_groups(PROMPTS, replace(REQUEST, max_new_tokens=200))
        next(groups)
        sampler.load_weights((), 1)
        with pytest.raises(EngineFailure, match="updated while groups were being sampled"):
            list(groups)


def test_truncation_draws_from_the_tokens_that_are_left(student: Student) -> None:
    request = replace(REQUEST, group_size=64, draw_top_k=6, draw_top_p=0.7)
    drawn_beyond_first = 0
    for index, samples in sample(student, request):
        for drawn in samples:
            full = full_log_probs(student, PROMPTS[index], drawn.token_ids).numpy()
            for position, token in enumerate(drawn.token_ids):
                best = np.argsort(-full[position], kind="stable")[:6]
                probs = np.exp(full[position][best])
                probs /= probs.sum()
                size = int(np.searchsorted(np.cumsum(probs), 0.7)) + 1
                kept, share = best[:size], probs[:size] / probs[:size].sum()
                assert token in kept
                place = int(np.flatnonzero(kept == token)[0])
                assert drawn.log_probs[position] == pytest.approx(np.log(share[place]), abs=1e-4)
                drawn_beyond_first += place > 0
    assert drawn_beyond_first


def test_the_single_most_probable_token_is_greedy(student: Student) -> None:
    greedy = sample(student, replace(REQUEST, temperature=0.0))
    for truncation in ({"draw_top_k": 1}, {"draw_top_p": 1e-6}):
        for (_, first), (_, second) in zip(
            sorted(greedy, key=lambda group: group[0]),
            sorted(sample(student, replace(REQUEST, **truncation)), key=lambda group: group[0]),
            strict=True,
        ):
            for a, b in zip(first, second, strict=True):
                np.testing.assert_array_equal(a.token_ids, b.token_ids)
