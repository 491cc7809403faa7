import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterhint import Scores, ScoringResult, Weights
from counterhint.jobs import Cost
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.scoring import GroupJob, build_group_job
from tests.student_trainer.rollouts_of import make_group
from tests.tiny_models import write_tokenizer


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    tokenizer = write_tokenizer(tmp_path)
    tokenizer.chat_template = "{{ messages[0].content }}"
    template = tmp_path / "hint.txt"
    template.write_text("{{problem}} w60 {{hint}} w61")
    return Prompts(tokenizer, PromptConfig(hint_template=str(template)), "")


def make_job(prompts: Prompts, verdicts: str = "rrwwn", **settings: Any) -> GroupJob | None:
    group = make_group(verdicts)
    hints = choose_hints(group, HintConfig(), random.Random(0))
    fields = {"run_id": "run", "name": "step-0/group-0", "fingerprint": "f", "weights": None}
    return build_group_job(group, hints, prompts, **(fields | settings))


def test_each_context_and_response_is_there_once(prompts: Prompts) -> None:
    made = make_job(prompts)
    assert made is not None
    job = made.job
    # Two right and two wrong siblings can be hints; all five rollouts are scored.
    assert len(job.contexts) == 4
    assert len({context.tobytes() for context in job.contexts}) == 4
    assert len(job.responses) == 5
    # 1 correct + 2 wrong hints for right ones and the one without an answer, 1 + 1 for wrong ones.
    assert [len(made.pairs_of[index]) for index in range(5)] == [3, 3, 2, 2, 3]
    assert len(job.pairs) == 13
    assert job.tokens_computed < job.tokens_naive


def test_a_rollout_is_not_scored_under_itself(prompts: Prompts) -> None:
    group = make_group("rrwwn")
    made = make_job(prompts)
    assert made is not None
    hints = choose_hints(group, HintConfig(), random.Random(0))
    for rollout, pairs in made.pairs_of.items():
        chosen = hints[rollout]
        assert chosen is not None
        expected = [prompts.hinted(group.problem, h) for h in (chosen.correct, *chosen.wrong)]
        found = [made.job.contexts[made.job.pairs[pair, 0]] for pair in pairs]
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        responses = {int(made.job.pairs[pair, 1]) for pair in pairs}
        assert len(responses) == 1
        assert np.array_equal(
            made.job.responses[responses.pop()], group.rollouts[rollout].token_ids
        )


@pytest.mark.parametrize("verdicts", ["rrr", "www", "rnn"])
def test_no_job_without_hints(prompts: Prompts, verdicts: str) -> None:
    assert make_job(prompts, verdicts) is None


def test_the_id_follows_the_content(prompts: Prompts) -> None:
    weights = Weights("run", "1", "file:///w", "00")
    ids = [
        made.job.id
        for made in (
            make_job(prompts),
            make_job(prompts),
            make_job(prompts, "rrwww"),
            make_job(prompts, weights=weights),
        )
        if made is not None
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_scores_go_to_their_rollouts(prompts: Prompts) -> None:
    made = make_job(prompts, "rww")
    assert made is not None
    lengths = made.job.pair_lengths
    values = np.repeat(-np.arange(1, len(lengths) + 1, dtype=np.float32), lengths)

    def result(scores: Scores) -> ScoringResult:
        return ScoringResult(made.job.id, lengths, scores, "", "", "", "", "", Cost(0, 0))

    scores = made.read(result(Scores(sampled=values)))
    assert sorted(scores) == sorted(made.pairs_of) == [1, 2]
    for rollout, pairs in made.pairs_of.items():
        branches = np.stack([scores[rollout].correct, *scores[rollout].wrong])
        assert branches[:, 0].tolist() == [-(pair + 1.0) for pair in pairs]
    holes = np.ones(len(values), dtype=bool)
    holes[0] = False
    with pytest.raises(ValueError, match="missing"):
        made.read(result(Scores(sampled=values, valid=holes)))
