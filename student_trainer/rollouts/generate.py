"""Sampled and graded groups, for training and for evaluation alike."""

from collections.abc import Iterator, Sequence

from counterhint.errors import InputError
from counterhint.tensors import TokenIds
from student_trainer.groups import Group, Rollout
from student_trainer.models import Student
from student_trainer.prompts import Prompts
from student_trainer.rollouts.base import Sample, Sampler, SamplingRequest
from student_trainer.tasks.base import Problem, Task


class RolloutGenerator:
    """Has a student's solutions to a task's problems sampled, and verifies them.

    Args:
        student: whose solutions they are.
        sampler: draws them.
        task: verifies them.
        prompts: makes the prompts.
    """

    def __init__(self, student: Student, sampler: Sampler, task: Task, prompts: Prompts) -> None:
        self._student = student
        self._sampler = sampler
        self._task = task
        self._prompts = prompts

    def groups(
        self, problems: Sequence[Problem], request: SamplingRequest
    ) -> Iterator[tuple[int, Group]]:
        """Yields each problem's index and graded group, as soon as it is complete.

        Raises:
            InputError: a response could outgrow the student's context, or more of its most
                probable tokens are asked for than it has.
            CounterhintError: the sampler failed.
        """
        prompts = [self._prompts.plain(problem) for problem in problems]
        self._check(prompts, request)
        for index, samples in self._sampler.sample_groups(prompts, request):
            rollouts = tuple(self._grade(problems[index], sample) for sample in samples)
            yield index, Group(problems[index], prompts[index], rollouts)

    def _check(self, prompts: Sequence[TokenIds], request: SamplingRequest) -> None:
        config = self._student.model.config
        longest = max(map(len, prompts)) + request.max_new_tokens
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise InputError(
                f"the longest prompt and rollouts.max_new_tokens ({request.max_new_tokens}) make "
                f"{longest} tokens, but the student takes at most {limit}: lower "
                "rollouts.max_new_tokens"
            )
        vocabulary = self._student.model.get_output_embeddings().weight.shape[0]
        if request.top_k > vocabulary:
            raise InputError(
                f"the method asks for the {request.top_k} most probable tokens of the student, "
                f"whose vocabulary has {vocabulary}: set method.top_k_distill={vocabulary} or less"
            )

    def _grade(self, problem: Problem, sample: Sample) -> Rollout:
        text = self._student.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        assert isinstance(text, str)  # one sequence, one text
        return Rollout(
            token_ids=sample.token_ids,
            log_probs=sample.log_probs,
            entropies=sample.entropies,
            top_k_ids=sample.top_k_ids,
            finished=sample.finished,
            revision=sample.revision,
            text=text,
            verdict=self._task.verify(problem, text),
        )
