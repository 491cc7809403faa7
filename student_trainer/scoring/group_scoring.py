"""Scores whole groups: asks a teacher for what the method needs, and for nothing else."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from counterhint import AsyncScoringClient, Scores, ScoringClient, TeacherInfo, Weights
from counterhint.errors import DeadlinePassed, EngineFailure, InputError, Unavailable
from counterhint.tensors import TokenIds
from student_trainer.groups import Group
from student_trainer.hints import HintConfig, RolloutHints
from student_trainer.losses import TeacherNeeds
from student_trainer.prompts import Prompts
from student_trainer.scoring.alignment import AlignedResponse
from student_trainer.scoring.config import ScoringConfig
from student_trainer.scoring.counts import ScoringCounts
from student_trainer.scoring.jobs import JobFields, Pair, build_jobs
from student_trainer.scoring.pairs import (
    Key,
    outputs_by_place,
    pairs_to_score,
    read_scores,
    with_support,
)
from student_trainer.scoring.scores import TeacherScores
from student_trainer.scoring.shortening import HintedContexts, hinted_contexts
from student_trainer.scoring.tokenizers import StudentTokens, teacher_side


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group's scores and what they took."""

    scores: dict[int, TeacherScores]
    """By the rollout's index in the group; rollouts without hints or without numbers are absent."""
    hints: tuple[RolloutHints | None, ...]
    """The hints of each rollout as the teacher was shown them, shortened ones included."""
    counts: ScoringCounts
    """What it took, and what is missing."""
    weights_revision: str | None
    """Of the weights behind every score; None where there was nothing to score."""


@dataclass(slots=True)
class _Answers:
    """The scores of a group's pairs, of one weights revision, and what all tries for them cost."""

    scores: dict[Key, Scores] = field(default_factory=dict)
    revisions: set[str] = field(default_factory=set)
    cost: ScoringCounts = field(default_factory=ScoringCounts)


class PendingGroup:
    """A group that is being scored."""

    def __init__(
        self,
        needs: TeacherNeeds,
        group: Group,
        aligned: Sequence[AlignedResponse] | None,
        contexts: HintedContexts,
        pairs: Mapping[Key, Pair],
        answers: Future[_Answers],
    ) -> None:
        self._needs = needs
        self._group = group
        self._aligned = aligned
        self._contexts = contexts
        self._pairs = pairs
        self._answers = answers

    def result(self) -> ScoredGroup:
        """The scores; waits for them.

        Raises:
            Unavailable, DeadlinePassed: a job was not scored within `scoring.timeout`.
            CounterhintError: what else a job ended with, or EngineFailure (MIXED_REVISIONS) when
                the group kept coming back under different weights.
            InputError: a single context and response are too large for a job.
        """
        answers = self._answers.result()
        scores = read_scores(self._needs, self._group, self._pairs, answers.scores)
        rollouts, contexts = self._group.rollouts, self._contexts
        hinted = self._needs.reads != "problem"
        asked = [index for index, hints in enumerate(contexts.hints) if hints or not hinted]
        tokens = aligned_tokens = sum(len(rollouts[index].token_ids) for index in asked)
        if self._aligned is not None:
            aligned_tokens = sum(int(self._aligned[index].aligned.sum()) for index in asked)
            ours = {index: self._aligned[index].to_student(one) for index, one in scores.items()}
            scores = {index: one for index, one in ours.items() if one.scored.any()}
        counts = replace(
            answers.cost,
            groups=int(bool(self._pairs)),
            hints=contexts.shown,
            hints_cut=contexts.cut,
            hint_tokens=contexts.tokens,
            hint_tokens_cut=contexts.tokens_cut,
            hints_too_long=contexts.dropped,
            unhinted=len(rollouts) - len(asked),
            tokens=tokens,
            tokens_aligned=aligned_tokens,
            tokens_scored=sum(int(one.scored.sum()) for one in scores.values()),
            rollouts_missing=len(asked) - len(scores),
        )
        revision = next(iter(answers.revisions), None)  # there is one, or nothing was scored
        return ScoredGroup(scores, contexts.hints, counts, revision)


class GroupScoring:
    """Scores the groups of one run by one teacher.

    Args:
        client: of the teacher, or of the intake in front of it.
        teacher: what the teacher is.
        prompts: makes the contexts.
        needs: what the method needs; `reads` must not be "nothing".
        hints: what happens to hints that are too long.
        config: the recipe's `scoring` section.
        student: the student's tokenizer, its fingerprint, and the tokens that end a response.
        method: the method's name, for what is said about its needs.

    Raises:
        InputError: the teacher cannot give what the method needs, or fewer top-k entries, or has
            another tokenizer and the method needs more than log probs of sampled tokens, or the
            folder in `scoring.teacher_tokenizer` cannot be used.
        TokenizerMismatch: the teacher has another tokenizer, which is not given, or not the one
            that is given.
    """

    def __init__(
        self,
        client: ScoringClient,
        teacher: TeacherInfo,
        prompts: Prompts,
        needs: TeacherNeeds,
        hints: HintConfig,
        config: ScoringConfig,
        student: StudentTokens,
        method: str,
    ) -> None:
        if needs.reads == "nothing":
            raise ValueError("the method needs no teacher, so there is nothing to score")
        if needs.teacher_top_k and needs.student_top_k:
            raise ValueError("a method compares distributions on one support, not on two")
        needed = {name for outputs in outputs_by_place(needs) for name in outputs.names}
        if lacking := sorted(needed - set(teacher.outputs)):
            raise InputError(
                f"{method} needs {', '.join(lacking)} of the teacher, but {teacher.model_id} "
                f"({teacher.engine}) gives {', '.join(teacher.outputs) or 'nothing'}: serve it "
                "with an engine that gives them, or choose another method"
            )
        if needs.teacher_top_k > (limit := teacher.max_top_k):
            remedies = [f"set method.top_k_distill={limit} or less"] if limit else []
            if limit < teacher.vocab_size:
                remedies.append("start the teacher with a larger --max-top-k")
            raise InputError(
                f"{method} needs the teacher's {needs.teacher_top_k} most probable tokens, but "
                f"the teacher gives at most {limit}: {', or '.join(remedies)}"
            )
        self._client = client
        self._teacher = teacher
        self.prompts, self._aligner = teacher_side(config, teacher, prompts, needs, student, method)
        """Makes what the teacher reads, with its tokenizer."""
        self._needs = needs
        self._hints = hints
        self._config = config

    def submit(
        self,
        *,
        run_id: str,
        name: str,
        group: Group,
        hints: Sequence[RolloutHints | None],
        weights: Weights | None,
    ) -> PendingGroup:
        """Sends a group at once; does not wait for its scores.

        Args:
            run_id: the training run.
            name: which group of the run it is.
            group: the group.
            hints: of each rollout; all None where the method reads none.
            weights: the teacher weights wanted; None for the server's own.

        Raises:
            InputError: a context and the longest response are longer than the teacher takes.
        """
        aligned = None
        responses = [rollout.token_ids for rollout in group.rollouts]
        if self._aligner is not None:
            aligned = [self._aligner.align(response) for response in responses]
            responses = [response.token_ids for response in aligned]
        longest = max(len(response) for response in responses)
        room = self._teacher.max_model_len - longest - 1
        hinted = hinted_contexts(group.problem, hints, self.prompts, self._hints, room)
        contexts: dict[int, Sequence[TokenIds]]
        if self._needs.reads == "problem":
            plain = self._plain(group, room)
            contexts = {index: [plain] for index in range(len(group.rollouts))}
        else:
            contexts = {
                index: [hinted.contexts[hint] for hint in (chosen.correct, *chosen.wrong)]
                for index, chosen in enumerate(hinted.hints)
                if chosen is not None
            }
        pairs = pairs_to_score(self._needs, group, contexts, responses)
        fields = JobFields(run_id, name, self._teacher.tokenizer_fingerprint, weights)

        async def work(client: AsyncScoringClient) -> _Answers:
            return await self._score(client, pairs, fields)

        answers = self._client.start(work)
        return PendingGroup(self._needs, group, aligned, hinted, pairs, answers)

    def _plain(self, group: Group, room: int) -> TokenIds:
        context = self.prompts.teacher_plain(group.problem)
        if len(context) > room:
            raise InputError(
                f"problem {group.problem.id}: its prompt takes {len(context)} tokens, but the "
                f"teacher has room for {room} beside the response; lower rollouts.max_new_tokens, "
                "leave out such problems, or serve a teacher that takes more"
            )
        return context

    async def _score(
        self, client: AsyncScoringClient, pairs: Mapping[Key, Pair], fields: JobFields
    ) -> _Answers:
        """Scores all pairs, and all of them again when they are not of one weights revision."""
        cost = ScoringCounts()
        while True:
            # A new name: under the old one the intake would answer with what it has.
            name = f"{fields.name}/again-{cost.rescored}" if cost.rescored else fields.name
            answers = await self._score_once(client, pairs, replace(fields, name=name))
            cost = ScoringCounts.total([cost, answers.cost])
            wanted = set() if fields.weights is None else {fields.weights.revision}
            revisions = sorted(answers.revisions | wanted)
            if len(revisions) <= 1:
                return replace(answers, cost=cost)
            if cost.rescored == self._config.max_rescores:
                raise EngineFailure(
                    f"{fields.run_id}/{fields.name}: in {cost.rescored + 1} tries its scores were "
                    f"never of one weights revision (last of {', '.join(revisions)}), and those of "
                    "two must not be compared; see that all teachers behind the address serve the "
                    "same weights, or raise scoring.max_rescores",
                    reason="MIXED_REVISIONS",
                    details={"group": fields.name, "revisions": ", ".join(revisions)},
                )
            cost = replace(cost, rescored=cost.rescored + 1)

    async def _score_once(
        self, client: AsyncScoringClient, pairs: Mapping[Key, Pair], fields: JobFields
    ) -> _Answers:
        """Scores all pairs; those on the teacher's own top-k after those that this comes from."""
        answers = _Answers()
        waiting = {
            key: pair
            for key, pair in pairs.items()
            if pair.outputs.given and pair.token_ids is None
        }
        ready = {key: pair for key, pair in pairs.items() if key not in waiting}
        await self._ask(client, ready, fields, answers)
        await self._ask(client, with_support(waiting, answers.scores), fields, answers)
        return answers

    async def _ask(
        self,
        client: AsyncScoringClient,
        pairs: Mapping[Key, Pair],
        fields: JobFields,
        answers: _Answers,
    ) -> None:
        """Sends the jobs of some pairs, all at once, and adds their scores to the answers."""
        keys = list(pairs)
        parts = list(
            build_jobs(list(pairs.values()), fields, max_job_tokens=self._teacher.max_job_tokens)
        )
        calls = [asyncio.ensure_future(client.score(part.job)) for part in parts]
        try:
            results = await asyncio.gather(*calls)
        except (Unavailable, DeadlinePassed) as error:
            raise type(error)(
                f"scoring.address {self._config.address} did not score a job within "
                f"scoring.timeout={self._config.timeout:g} s ({error.message}): start it again, "
                "then resume=true goes on from the last checkpoint, or raise scoring.timeout",
                reason=error.reason,
                details=error.details,
                retry_after=error.retry_after,
            ) from error
        finally:
            for call in calls:  # when one has failed, the others are of no use
                call.cancel()
        for part, result in zip(parts, results, strict=True):
            answers.scores.update((keys[index], found) for index, found in part.read(result))
            answers.revisions.add(result.weights_revision)
            cost = ScoringCounts(
                jobs=1,
                tokens_naive=result.cost.tokens_naive,
                tokens_computed=result.cost.tokens_computed,
            )
            answers.cost = ScoringCounts.total([answers.cost, cost])
