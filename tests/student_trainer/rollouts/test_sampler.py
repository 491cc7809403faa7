import numpy as np
import pytest
import torch

from student_trainer.models import Student
from student_trainer.rollouts.sampler import Sample, Sampler

PROMPTS = [np.array(ids, dtype=np.int32) for ids in ([3, 7, 9, 11], [3, 8], [3, 5, 6, 12, 20, 21])]


def sample(
    student: Student, temperature: float = 1.0, seed: int = 0, max_rows: int = 100, length: int = 12
) -> list[tuple[int, tuple[Sample, ...]]]:
    sampler = Sampler(student.model, student.end_ids(), pad_id=0)
    return list(
        sampler.sample_groups(
            PROMPTS,
            group_size=4,
            max_new_tokens=length,
            temperature=temperature,
            max_rows=max_rows,
            generator=torch.Generator().manual_seed(seed),
        )
    )


@torch.no_grad()
def full_log_probs(student: Student, prompt: np.ndarray, response: np.ndarray) -> torch.Tensor:
    ids = torch.tensor(np.concatenate([prompt, response]))[None].long()
    return student.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("max_rows", [100, 4])
def test_log_probs_and_entropies_match_a_full_forward_pass(student: Student, max_rows: int) -> None:
    groups = sample(student, max_rows=max_rows)
    assert sorted(index for index, _ in groups) == [0, 1, 2]
    for index, samples in groups:
        assert len(samples) == 4
        for drawn in samples:
            log_probs = full_log_probs(student, PROMPTS[index], drawn.token_ids)
            chosen = log_probs.gather(1, torch.tensor(drawn.token_ids)[:, None].long())[:, 0]
            np.testing.assert_allclose(drawn.log_probs, chosen, atol=1e-5)
            entropies = -(log_probs.exp() * log_probs).sum(-1)
            np.testing.assert_allclose(drawn.entropies, entropies, atol=1e-4)


def test_rows_stop_at_the_end_token_and_not_before(student: Student) -> None:
    end = student.tokenizer.eos_token_id
    drawn = [s for _, samples in sample(student, length=60) for s in samples]
    assert any(s.finished for s in drawn)
    for s in drawn:
        assert (end in s.token_ids) == s.finished
        assert end not in s.token_ids[:-1]
        assert s.finished or len(s.token_ids) == 60


def test_groups_come_as_they_finish(student: Student) -> None:
    groups = sample(student, length=200, seed=2)
    longest = [max(len(s.token_ids) for s in samples) for _, samples in groups]
    assert longest == sorted(longest)


def test_the_seed_decides_every_draw(student: Student) -> None:
    def tokens(seed: int) -> list[list[int]]:
        return [s.token_ids.tolist() for _, samples in sample(student, seed=seed) for s in samples]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_temperature_zero_takes_the_most_probable_tokens(student: Student) -> None:
    for index, samples in sample(student, temperature=0.0):
        best = full_log_probs(student, PROMPTS[index], samples[0].token_ids).argmax(-1)
        assert samples[0].token_ids.tolist() == best.tolist()
        assert all(np.array_equal(s.token_ids, samples[0].token_ids) for s in samples)


def test_samples_follow_the_models_distribution(student: Student) -> None:
    sampler = Sampler(student.model, student.end_ids(), pad_id=0)
    ((_, samples),) = sampler.sample_groups(
        PROMPTS[:1],
        group_size=4000,
        max_new_tokens=1,
        temperature=1.0,
        max_rows=4000,
        generator=torch.Generator().manual_seed(0),
    )
    drawn = np.bincount([s.token_ids[0] for s in samples], minlength=len(student.tokenizer))
    expected = full_log_probs(student, PROMPTS[0], np.array([0]))[0].exp().numpy()
    np.testing.assert_allclose(drawn / 4000, expected, atol=0.03)
