import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from counterhint import ScoringClient, ScoringJob, Weights, tokenizer_fingerprint
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    InputError,
    TokenizerMismatch,
    Unavailable,
)
from student_trainer.groups import Group
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.losses import TeacherNeeds
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.scoring import GroupScoring, ScoredGroup, ScoringConfig, StudentTokens
from tests.student_trainer.rollouts_of import NEEDS, make_group
from tests.student_trainer.scoring.teacher_in_thread import INFO, Teacher, number, serve, top_k_of
from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer

Score = Callable[..., list[ScoredGroup]]
CORRECT = TeacherNeeds(reads="correct_hint", sampled=True)


def with_student_top_k(group: Group, k: int) -> Group:
    """The group as a sampler gives it that records the student's top k."""
    rollouts = tuple(
        replace(rollout, top_k_ids=(rollout.token_ids[:, None] + np.arange(k, dtype=np.int32)) % 64)
        for rollout in group.rollouts
    )
    return replace(group, rollouts=rollouts)


def expected_contexts(group: Group, prompts: Prompts, needs: TeacherNeeds) -> dict[int, list]:  # type: ignore[type-arg]
    chosen = choose_hints(group, HintConfig(), needs, random.Random(0))
    return {
        index: [prompts.hinted(group.problem, hint) for hint in (hints.correct, *hints.wrong)]
        for index, hints in enumerate(chosen)
        if hints is not None
    }


def test_numbers_go_to_their_rollouts(score: Score, prompts: Prompts) -> None:
    group, teacher = make_group("rrwwn"), Teacher()
    (scored,) = score(teacher, NEEDS, [group])
    contexts = expected_contexts(group, prompts, NEEDS)
    assert sorted(scored.scores) == sorted(contexts) == [0, 1, 2, 3, 4]
    for index, (correct, *wrong) in contexts.items():
        scores, tokens = scored.scores[index], group.rollouts[index].token_ids
        assert scores.scored.all()
        assert np.array_equal(scores.sampled, number(correct, tokens))
        assert np.array_equal(scores.wrong, [number(context, tokens) for context in wrong])
        assert scores.support_ids is None
        assert scores.entropy is None
    assert scored.counts.unhinted == 0
    assert scored.counts.tokens == scored.counts.tokens_scored == 15


def test_each_context_and_response_is_sent_once(score: Score) -> None:
    teacher = Teacher()
    (scored,) = score(teacher, NEEDS, [make_group("rrwwn")])
    (job,) = teacher.jobs
    # Two right and two wrong siblings can be hints; all five rollouts are scored.
    assert len(job.contexts) == 4
    assert len({context.tobytes() for context in job.contexts}) == 4
    assert len(job.responses) == 5
    # 1 correct + 2 wrong hints for right ones and the one without an answer, 1 + 1 for wrong ones.
    assert len(job.pairs) == 13
    assert (scored.counts.jobs, scored.counts.tokens_naive) == (1, job.tokens_naive)
    assert scored.counts.tokens_computed == job.tokens_computed < job.tokens_naive


@pytest.mark.parametrize("verdicts", ["rrr", "www", "rnn"])
def test_no_job_without_hints(score: Score, verdicts: str) -> None:
    teacher = Teacher()
    (scored,) = score(teacher, NEEDS, [make_group(verdicts)])
    assert teacher.jobs == []
    assert scored.scores == {}
    assert (scored.counts.unhinted, scored.counts.groups) == (3, 0)


@pytest.mark.parametrize(
    ("needs", "asked"),
    [
        (NEEDS, {"sampled"}),
        (CORRECT, {"sampled"}),
        (TeacherNeeds(reads="problem", sampled=True), {"sampled"}),
        (TeacherNeeds(reads="correct_hint", teacher_top_k=3), {"top_k"}),
        (TeacherNeeds(reads="correct_hint", student_top_k=3), {"given"}),
        (TeacherNeeds(reads="correct_hint", student_top_k=3, entropy=True), {"given", "entropy"}),
        (TeacherNeeds(reads="problem", sampled=True, student_top_k=3), {"sampled", "given"}),
        (TeacherNeeds(reads="problem", teacher_top_k=3), {"top_k"}),
    ],
)
def test_only_what_the_method_needs_is_asked_for(
    score: Score, needs: TeacherNeeds, asked: set[str]
) -> None:
    teacher, group = Teacher(), with_student_top_k(make_group("rrww"), 5)
    (scored,) = score(teacher, needs, [group])
    (job,) = teacher.jobs
    names = ("sampled", "top_k", "given", "entropy")
    assert {name for name in names if getattr(job.outputs, name)} == asked
    assert sorted(scored.scores) == [0, 1, 2, 3]
    for scores in scored.scores.values():
        assert (scores.sampled is not None) == needs.sampled
        assert (scores.entropy is not None) == needs.entropy
        assert (scores.wrong is not None) == (needs.reads == "both_hints")
        assert (scores.support is not None) == ("top_k" in asked or "given" in asked)
        if scores.support is not None and scores.support_ids is not None:
            assert scores.support.shape == scores.support_ids.shape == (3, 3)


def test_a_method_without_wrong_hints_needs_no_wrong_sibling(score: Score) -> None:
    (scored,) = score(Teacher(), CORRECT, [make_group("rrn")])
    assert sorted(scored.scores) == [0, 1, 2]
    assert scored.counts.unhinted == 0


def test_the_problem_alone_is_read_by_a_method_without_hints(
    score: Score, prompts: Prompts
) -> None:
    group, teacher = make_group("nnn"), Teacher()
    (scored,) = score(teacher, TeacherNeeds(reads="problem", sampled=True), [group])
    context = prompts.teacher_plain(group.problem)
    assert [c.tolist() for c in teacher.jobs[0].contexts] == [context.tolist()]
    for index, rollout in enumerate(group.rollouts):
        assert np.array_equal(scored.scores[index].sampled, number(context, rollout.token_ids))


def test_the_students_top_k_is_scored(score: Score, prompts: Prompts) -> None:
    group = with_student_top_k(make_group("rrww"), 5)
    needs = TeacherNeeds(reads="both_hints", student_top_k=3)
    (scored,) = score(Teacher(), needs, [group])
    for index, (correct, wrong, *_) in expected_contexts(group, prompts, needs).items():
        scores, recorded = scored.scores[index], group.rollouts[index].top_k_ids
        assert recorded is not None
        assert np.array_equal(scores.support_ids, recorded[:, :3])
        assert np.array_equal(scores.support, number(correct, recorded[:, :3]))
        assert np.array_equal(scores.wrong_support, number(wrong, recorded[:, :3]))
        assert scores.wrong is None


def test_wrong_hints_are_scored_on_the_top_k_of_the_correct_one(
    score: Score, prompts: Prompts
) -> None:
    group, teacher = make_group("rrwww"), Teacher()
    needs = TeacherNeeds(reads="both_hints", wrong_hints=1, teacher_top_k=4)
    (scored,) = score(teacher, needs, [group])
    first, second = teacher.jobs
    assert (first.outputs.sampled, first.outputs.top_k, first.outputs.given) == (False, 4, False)
    assert (second.outputs.sampled, second.outputs.top_k, second.outputs.given) == (False, 0, True)
    assert scored.counts.jobs == 2
    for index, (correct, wrong) in expected_contexts(group, prompts, needs).items():
        scores, top = scored.scores[index], top_k_of(group.rollouts[index].token_ids, 4)
        assert np.array_equal(scores.support_ids, top)
        assert np.array_equal(scores.support, number(correct, top))
        assert np.array_equal(scores.wrong_support, number(wrong, top))


def test_every_wrong_hint_is_scored_beside_the_first_ones_support(score: Score) -> None:
    needs = TeacherNeeds(reads="both_hints", sampled=True, teacher_top_k=4)
    (scored,) = score(Teacher(), needs, [make_group("rrwww")])
    right = scored.scores[0]
    assert right.wrong is not None
    assert right.wrong.shape == (3, 3)
    assert right.wrong_support is not None
    assert right.wrong_support.shape == (3, 4)


def test_a_missing_token_is_not_scored_and_never_a_number(score: Score) -> None:
    def missing(job: ScoringJob, pair: int) -> np.ndarray | None:  # type: ignore[type-arg]
        of_first = np.array_equal(job.responses[job.pairs[pair, 1]], [5, 10, 4])
        return np.array([False, True, False]) if of_first and job.pairs[pair, 0] == 1 else None

    (scored,) = score(Teacher(missing=missing), NEEDS, [make_group("rwwr")])
    holes = scored.scores[0]
    assert holes.scored.tolist() == [True, False, True]
    assert holes.sampled is not None
    assert holes.wrong is not None
    assert np.isnan(holes.sampled).tolist() == [False, True, False]
    assert np.isnan(holes.wrong).tolist() == [[False, True, False]] * 2
    assert all(scored.scores[index].scored.all() for index in (1, 2, 3))
    assert scored.counts.tokens == 12
    assert scored.counts.tokens_scored == 11
    assert scored.counts.rollouts_missing == 0


@pytest.mark.parametrize("pair", [0, 1])
@pytest.mark.parametrize(
    "needs", [NEEDS, TeacherNeeds(reads="both_hints", wrong_hints=1, teacher_top_k=2)]
)
def test_a_rollout_with_a_missing_pair_is_left_out(
    score: Score, needs: TeacherNeeds, pair: int
) -> None:
    gone: list[bytes] = []

    def missing(job: ScoringJob, at: int) -> np.ndarray | None:  # type: ignore[type-arg]
        if at != pair or gone:
            return None
        gone.append(job.responses[job.pairs[at, 1]].tobytes())
        return np.ones(3, bool)

    group = make_group("rrww")
    (scored,) = score(Teacher(missing=missing), needs, [group])
    (left_out,) = set(range(4)) - set(scored.scores)
    assert group.rollouts[left_out].token_ids.tobytes() == gone[0]
    assert scored.counts.rollouts_missing == 1
    assert scored.counts.tokens_scored == 9


def test_a_large_group_is_divided_between_contexts_and_put_together(score: Score) -> None:
    group = make_group("rrrwwwww")
    (whole,) = score(Teacher(), NEEDS, [group])
    small = Teacher().limited(max_job_tokens=50)
    (divided,) = score(small, NEEDS, [group])
    assert len(small.jobs) == divided.counts.jobs > 3
    assert len({job.id for job in small.jobs}) == len(small.jobs)
    contexts = [context.tobytes() for job in small.jobs for context in job.contexts]
    assert len(contexts) == len(set(contexts))
    assert divided.counts.tokens_computed == whole.counts.tokens_computed
    for index, scores in whole.scores.items():
        assert np.array_equal(divided.scores[index].sampled, scores.sampled)
        assert np.array_equal(divided.scores[index].wrong, scores.wrong)


def test_a_context_with_more_pairs_than_a_job_takes_is_sent_again(score: Score) -> None:
    needs = TeacherNeeds(reads="problem", sampled=True)
    small, group = Teacher().limited(max_job_tokens=9), make_group("rrrwwwww")
    (divided,) = score(small, needs, [group])
    assert [len(job.responses) for job in small.jobs] == [2] * 4
    assert sorted(divided.scores) == list(range(8))


def test_a_pair_that_no_job_takes_is_bad_input(score: Score) -> None:
    with pytest.raises(InputError, match=r"context of 2 tokens and a response of 3.*--max-job"):
        score(
            Teacher().limited(max_job_tokens=4),
            TeacherNeeds(reads="problem", sampled=True),
            [make_group("rw")],
        )


def test_a_group_of_two_revisions_is_scored_again(score: Score) -> None:
    teacher = Teacher(revision_of=lambda count, job: "old" if count == 0 else "new").limited(
        max_job_tokens=50
    )
    group = make_group("rrrwwwww")
    (scored,) = score(teacher, NEEDS, [group])
    assert scored.counts.rescored == 1
    assert scored.counts.jobs == len(teacher.jobs)
    # New names, or a queue would answer with what it has.
    assert len({job.id for job in teacher.jobs}) == len(teacher.jobs)
    assert sorted(scored.scores) == list(range(8))


def test_both_phases_are_of_one_revision(score: Score) -> None:
    teacher = Teacher(revision_of=lambda count, job: "old" if count == 0 else "new")
    needs = TeacherNeeds(reads="both_hints", wrong_hints=1, teacher_top_k=2)
    (scored,) = score(teacher, needs, [make_group("rrww")])
    assert [job.outputs.given for job in teacher.jobs] == [False, True, False, True]
    assert (scored.counts.rescored, scored.counts.jobs) == (1, 4)


def test_scores_of_other_weights_than_named_are_not_taken(score: Score) -> None:
    weights = Weights("run", "step-10", "file:///w.safetensors", "00")
    late = Teacher(revision_of=lambda count, job: "step-0" if count < 2 else "step-10")
    (scored,) = score(late, NEEDS, [make_group("rw" * 2)], weights=weights)
    assert scored.counts.rescored == 2


def test_a_group_that_never_comes_back_under_one_revision_ends_the_run(score: Score) -> None:
    weights = Weights("run", "step-10", "file:///w.safetensors", "00")
    teacher = Teacher(revision_of=lambda count, job: "step-0")
    with pytest.raises(EngineFailure, match=r"in 3 tries.*step-0, step-10") as raised:
        score(teacher, NEEDS, [make_group("rrww")], weights=weights, max_rescores=2)
    assert raised.value.reason == "MIXED_REVISIONS"
    assert len(teacher.jobs) == 3


def test_ids_follow_the_content(score: Score) -> None:
    def ids(**changes: object) -> list[str]:
        teacher = Teacher()
        score(teacher, changes.pop("needs", NEEDS), [make_group("rrww")], **changes)
        return [job.id for job in teacher.jobs]

    assert ids() == ids()
    assert ids()[0].startswith("run/group-0/")
    others = [
        ids(),
        ids(weights=Weights("run", "1", "file:///w", "00")),
        ids(hints=HintConfig(max_wrong=1)),
        ids(needs=CORRECT),
    ]
    assert len({job for jobs in others for job in jobs}) == 4


def test_identical_rollouts_are_scored_once(score: Score) -> None:
    group = make_group("rrww")
    twins = replace(group, rollouts=(*group.rollouts, group.rollouts[0]))
    teacher = Teacher()
    (scored,) = score(teacher, TeacherNeeds(reads="problem", sampled=True), [twins])
    assert len(teacher.jobs[0].responses) == 4
    assert np.array_equal(scored.scores[0].sampled, scored.scores[4].sampled)


def test_a_failed_job_fails_its_group_alone(score: Score, prompts: Prompts, tmp_path: Path) -> None:
    def failing(count: int, job: ScoringJob) -> str:
        if "/bad/" in job.id:
            raise EngineFailure("broken", reason="ENGINE_FAILED")
        return "r0"

    group = make_group("rrww")
    hints = choose_hints(group, HintConfig(), NEEDS, random.Random(0))
    with (
        serve(Teacher(revision_of=failing), tmp_path) as address,
        ScoringClient(address, timeout=240) as client,
    ):
        scoring = GroupScoring(
            client,
            client.get_teacher(),
            prompts,
            NEEDS,
            HintConfig(),
            ScoringConfig(),
            StudentTokens(prompts.tokenizer, "f" * 64, [2]),
            "rlcsd",
        )
        bad, good = (
            scoring.submit(run_id="run", name=name, group=group, hints=hints, weights=None)
            for name in ("bad", "good")
        )
        assert sorted(good.result().scores) == [0, 1, 2, 3]
        with pytest.raises(CounterhintError, match="broken"):
            bad.result()


def test_a_top_k_above_the_teachers_is_bad_input(score: Score) -> None:
    needs = TeacherNeeds(reads="correct_hint", teacher_top_k=100)
    with pytest.raises(InputError, match=r"100 most probable.*at most 8.*=8 or less.*--max-top-k"):
        score(Teacher(), needs, [])
    with pytest.raises(InputError, match=r"at most 64: set method.top_k_distill=64 or less$"):
        score(Teacher().limited(max_top_k=64), needs, [])  # its whole vocabulary


def test_an_output_that_the_teacher_cannot_give_is_bad_input(score: Score) -> None:
    teacher = Teacher(replace(INFO, outputs=("sampled", "top_k")))
    on_support = TeacherNeeds(reads="both_hints", wrong_hints=1, teacher_top_k=2, entropy=True)
    with pytest.raises(InputError, match=r"needs entropy, given of .*gives sampled, top_k"):
        score(teacher, on_support, [])
    score(teacher, TeacherNeeds(reads="correct_hint", teacher_top_k=2), [])
    score(teacher, TeacherNeeds(reads="both_hints", sampled=True), [])


def test_a_lost_teacher_is_named_with_what_can_be_done(
    prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Teacher(), tmp_path) as address:
        client = ScoringClient(address, timeout=250)
        teacher = client.get_teacher()
    group = make_group("rrww")
    # From here on every look at the client's clock takes 100 s: there is time for one try.
    clock = SimpleNamespace(monotonic=count(0, 100).__next__)
    monkeypatch.setattr("counterhint.client.time", clock)
    with client:
        scoring = GroupScoring(
            client,
            teacher,
            prompts,
            NEEDS,
            HintConfig(),
            ScoringConfig(address=address, timeout=250),
            StudentTokens(prompts.tokenizer, "f" * 64, [2]),
            "rlcsd",
        )
        hints = choose_hints(group, HintConfig(), NEEDS, random.Random(0))
        pending = scoring.submit(run_id="run", name="g", group=group, hints=hints, weights=None)
        with pytest.raises(Unavailable) as raised:
            pending.result()
    assert f"scoring.address {address} did not score a job within" in str(raised.value)
    assert "scoring.timeout=250 s" in str(raised.value)
    assert "start it again, then resume=true goes on" in str(raised.value)


def test_a_job_that_takes_too_long_is_an_error_of_its_own_class(score: Score) -> None:
    def late(count: int, job: ScoringJob) -> str:
        raise DeadlinePassed("its time is over", reason="EXPIRED")

    with pytest.raises(
        DeadlinePassed, match=r"its time is over\).*raise scoring.timeout"
    ) as raised:
        score(Teacher(revision_of=late), NEEDS, [make_group("rrww")])
    assert raised.value.reason == "EXPIRED"


def test_another_tokenizer_is_refused_with_both_fingerprints(score: Score) -> None:
    teacher = Teacher()
    teacher.info = replace(teacher.info, tokenizer_fingerprint="e" * 64)
    with pytest.raises(TokenizerMismatch, match=f"{'f' * 64}.*{'e' * 64}"):
        score(teacher, NEEDS, [])


def test_a_problem_that_does_not_fit_is_bad_input(score: Score) -> None:
    teacher = Teacher().limited(max_model_len=5)
    with pytest.raises(InputError, match=r"problem p: its prompt takes 2 tokens.*room for 1 "):
        score(teacher, TeacherNeeds(reads="problem", sampled=True), [make_group("rw")])


def test_a_teacher_with_another_tokenizer(tmp_path: Path) -> None:
    ours, theirs = byte_level_tokenizer.__wrapped__(), byte_level_tokenizer.__wrapped__()
    ours.add_special_tokens({"pad_token": "<|pad|>"})
    theirs.add_tokens(["=?"])
    theirs.save_pretrained(tmp_path / "teacher")
    end = ours.eos_token_id
    # The last one holds nothing that the teacher could read: it is cut off behind a special token.
    pad = ours.convert_tokens_to_ids("<|pad|>")
    responses = [[*ours.encode("a =? b"), end], [*ours.encode("b"), end], ours.encode("cc"), [pad]]
    group = replace(
        make_group("rrwr"),
        rollouts=tuple(
            replace(rollout, token_ids=np.array(ids, dtype=np.int32))
            for rollout, ids in zip(make_group("rrwr").rollouts, responses, strict=True)
        ),
    )

    def missing(job: ScoringJob, pair: int) -> np.ndarray | None:  # type: ignore[type-arg]
        tokens = job.responses[job.pairs[pair, 1]]
        return tokens == ours.encode("b")[0] if len(tokens) == 2 else None

    teacher = Teacher(missing=missing)
    fingerprint = tokenizer_fingerprint(theirs)
    teacher.info = replace(teacher.info, tokenizer_fingerprint=fingerprint, vocab_size=300)
    needs = TeacherNeeds(reads="problem", sampled=True)
    with serve(teacher, tmp_path) as address, ScoringClient(address, timeout=240) as client:
        scoring = GroupScoring(
            client,
            client.get_teacher(),
            Prompts(ours, PromptConfig(), ""),
            needs,
            HintConfig(),
            ScoringConfig(teacher_tokenizer=tmp_path / "teacher"),
            StudentTokens(ours, "f" * 64, [end]),
            "opd",
        )
        scored = scoring.submit(
            run_id="run", name="group", group=group, hints=[None] * 4, weights=None
        ).result()
    assert teacher.jobs[0].tokenizer_fingerprint == fingerprint
    assert {index: one.scored.tolist() for index, one in scored.scores.items()} == {
        0: [True, True, False, False, True, True, True],  # "=?" is one token of the teacher's
        1: [False, True],
        2: [True, True],
    }
    assert (scored.counts.tokens, scored.counts.tokens_aligned) == (12, 9)
    assert (scored.counts.tokens_scored, scored.counts.rollouts_missing) == (8, 1)
