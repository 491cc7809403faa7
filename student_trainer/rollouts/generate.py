"""Sampled and graded groups, for training and for evaluation alike."""

from collections.abc import Iterator, Sequence

import torch

from counterhint.errors import InputError
from student_trainer.groups import Group, Rollout
from student_trainer.models import Student
from student_trainer.prompts import Prompts
from student_trainer.rollouts.sampler import Sample, Sampler
from student_trainer.tasks.base import Problem, Task


class RolloutGenerator:
    """Samples a student's solutions to a task's problems and has them verified."""

    def __init__(self, student: Student, task: Task, prompts: Prompts) -> None:
        self._student = student
        self._task = task
        self._prompts = prompts
        end_ids = student.end_ids()
        self._sampler = Sampler(student.model, end_ids, pad_id=end_ids[0])

    def groups(
        self,
        problems: Sequence[Problem],
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        max_rows: int,
        seed: int,
    ) -> Iterator[tuple[int, Group]]:
        """Yields each problem's index and graded group, as soon as it is complete.

        The arguments are those of `Sampler.sample_groups`; `seed` decides every draw.

        Raises:
            InputError: a response could outgrow the student's context.
        """
        generator = torch.Generator(device=self._student.device).manual_seed(seed)
        prompts = [self._prompts.plain(problem) for problem in problems]
        longest = max(map(len, prompts)) + max_new_tokens
        limit = getattr(self._student.model.config, "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise InputError(
                f"the longest prompt and rollouts.max_new_tokens ({max_new_tokens}) make {longest} "
                f"tokens, but the student takes at most {limit}: lower rollouts.max_new_tokens"
            )
        with self._student.autocast():
            for index, samples in self._sampler.sample_groups(
                prompts,
                group_size=group_size,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                max_rows=max_rows,
                generator=generator,
            ):
                rollouts = tuple(self._grade(problems[index], sample) for sample in samples)
                yield index, Group(problems[index], prompts[index], rollouts)

    def _grade(self, problem: Problem, sample: Sample) -> Rollout:
        text = self._student.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        assert isinstance(text, str)  # one sequence, one text
        return Rollout(
            token_ids=sample.token_ids,
            log_probs=sample.log_probs,
            entropies=sample.entropies,
            finished=sample.finished,
            text=text,
            verdict=self._task.verify(problem, text),
        )
