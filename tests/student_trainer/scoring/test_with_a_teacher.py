"""Groups scored by a real teacher, against the model's own forward passes."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from counterhint import ScoringClient, tokenizer_fingerprint
from student_trainer.groups import Group, Rollout
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.losses import TeacherNeeds
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.scoring import GroupScoring, ScoredGroup, ScoringConfig, StudentTokens
from student_trainer.tasks.base import Problem, Verdict
from tests.byte_level_model import write_byte_level_llama
from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer
from tests.teacher_process import serve_teacher

PROBLEM = Problem("p", "What is 3 + 4?", "7")
TEXTS = {
    "So né 3 + 4 = 7 🙂": True,
    "We add 4 + 3: it is 7": True,
    "So 3 + 4 = 8!": False,
    "It is 9": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("teacher")
    made = write_byte_level_llama(folder)
    made.name_or_path = str(folder)
    return made


@pytest.fixture(scope="module")
def client(
    model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScoringClient]:
    folder = Path(model.name_or_path)
    with (
        serve_teacher(folder, tmp_path_factory.mktemp("socket"), ["--device", "cpu"]) as address,
        ScoringClient(address) as connected,
    ):
        yield connected


def make_group(tokenizer: PreTrainedTokenizerBase) -> Group:
    rollouts = []
    for text, correct in TEXTS.items():
        ids = tokenizer.encode(text, add_special_tokens=False)
        token_ids = np.array([*ids, tokenizer.eos_token_id], dtype=np.int32)
        zeros = np.zeros(len(token_ids), dtype=np.float32)
        verdict = Verdict(correct, text[-1])
        rollouts.append(Rollout(token_ids, zeros, zeros, None, True, 0, text, verdict))
    return Group(PROBLEM, np.array([1], dtype=np.int32), tuple(rollouts))


def score(
    client: ScoringClient,
    tokenizer: PreTrainedTokenizerBase,
    needs: TeacherNeeds,
    group: Group,
    **config: object,
) -> ScoredGroup:
    hints = HintConfig()
    scoring = GroupScoring(
        client,
        client.get_teacher(),
        Prompts(tokenizer, PromptConfig(), "Say it."),
        needs,
        hints,
        ScoringConfig.model_validate(config),
        StudentTokens(tokenizer, tokenizer_fingerprint(tokenizer), [tokenizer.eos_token_id]),
        "a method",
    )
    chosen = choose_hints(group, hints, needs, random.Random(0))
    return scoring.submit(
        run_id="run", name="group", group=group, hints=chosen, weights=None
    ).result()


@torch.no_grad()
def log_probs(model: PreTrainedModel, context: np.ndarray, response: np.ndarray) -> torch.Tensor:
    """The model's log probs at each position of a response, `[T, V]`."""
    ids = torch.tensor(np.concatenate([context, response])[None], dtype=torch.long)
    return model(ids).logits[0, len(context) - 1 : -1].float().log_softmax(-1)


def test_distributions_under_both_hints(client: ScoringClient, model: PreTrainedModel) -> None:
    tokenizer = byte_level_tokenizer()
    needs = TeacherNeeds(
        reads="both_hints", wrong_hints=1, sampled=True, teacher_top_k=6, entropy=True
    )
    group, prompts = make_group(tokenizer), Prompts(tokenizer, PromptConfig(), "Say it.")
    scored = score(client, tokenizer, needs, group)
    assert sorted(scored.scores) == [0, 1, 2, 3]
    for index, found in scored.scores.items():
        response, hints = group.rollouts[index].token_ids, scored.hints[index]
        assert hints is not None
        right, wrong = (
            log_probs(model, prompts.hinted(PROBLEM, hint), response)
            for hint in (hints.correct, hints.wrong[0])
        )
        places = torch.arange(len(response))
        ids = torch.tensor(response).long()
        top, top_ids = right.topk(6)
        assert np.array_equal(found.support_ids, top_ids)
        expected = {
            "sampled": right[places, ids],
            "wrong": wrong[places, ids][None],
            "support": top,
            "wrong_support": wrong.gather(1, top_ids),
            "entropy": -(right.exp() * right).sum(-1),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(found, name), values, atol=2e-4, err_msg=name)


def test_a_student_with_another_tokenizer(client: ScoringClient, model: PreTrainedModel) -> None:
    student, teacher = sentencepiece_tokenizer(), byte_level_tokenizer()
    needs = TeacherNeeds(reads="both_hints", sampled=True)
    group = make_group(student)
    scored = score(client, student, needs, group, teacher_tokenizer=model.name_or_path)
    prompts = Prompts(teacher, PromptConfig(), "Say it.")
    for index, (text, found) in enumerate(zip(TEXTS, scored.scores.values(), strict=True)):
        # The teacher spells single bytes, so all tokens of the student's end where its own do.
        assert found.scored.all()
        hints = scored.hints[index]
        assert hints is not None
        assert found.wrong is not None
        ids = np.array([*teacher.encode(text), teacher.eos_token_id])
        for hint, values in zip(
            (hints.correct, *hints.wrong), (found.sampled, *found.wrong), strict=True
        ):
            whole = log_probs(model, prompts.hinted(PROBLEM, hint), ids)
            sampled = whole[torch.arange(len(ids)), torch.tensor(ids)]
            assert values.sum() == pytest.approx(float(sampled.sum()), rel=1e-4)
            assert values[-1] == pytest.approx(float(sampled[-1]), abs=2e-4)
    assert scored.counts.tokens_aligned == scored.counts.tokens_scored == scored.counts.tokens
