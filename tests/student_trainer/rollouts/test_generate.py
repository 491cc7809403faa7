"""What is refused before anything is sampled."""

import pytest

from counterhint.errors import InputError
from student_trainer.models import Student
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.rollouts.base import SamplingRequest
from student_trainer.rollouts.built_in import BuiltInSampler
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.tasks import ChainTaskConfig


def test_a_top_k_above_the_vocabulary_names_the_largest(student: Student) -> None:
    task = ChainTaskConfig(operations=1).build()
    prompts = Prompts(student.tokenizer, PromptConfig(), task.answer_format)
    generator = RolloutGenerator(student, BuiltInSampler(student), task, prompts)
    vocabulary = student.model.get_output_embeddings().weight.shape[0]
    request = SamplingRequest(
        group_size=2, max_new_tokens=4, temperature=1.0, seed=0, top_k=vocabulary + 1
    )
    with pytest.raises(InputError, match=rf"method\.top_k_distill={vocabulary} or less"):
        next(generator.groups([task.train_problem(0)], request))
