import random
from itertools import pairwise

import numpy as np
import torch

from student_trainer.hints import Hint
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.tasks.chain import ChainTaskConfig
from student_trainer.tiny.batches import Batch, token_batches
from student_trainer.tiny.config import ShapeConfig, WarmupConfig
from student_trainer.tiny.demonstrations import (
    Demonstration,
    Demonstrator,
    DemonstratorConfig,
    LessonConfig,
    demonstrations,
)
from student_trainer.tiny.tokenizer import build_tokenizer
from student_trainer.tiny.warmup import batch_loss, new_model, warm_up

TOKENIZER = build_tokenizer()
TASK = ChainTaskConfig(operations=2).build()
PROMPTS = Prompts(TOKENIZER, PromptConfig(hint_template="recipes/tiny/hint.txt"), "")
SHAPE = ShapeConfig(layers=1, width=32, mlp_width=32)
LESSON = LessonConfig(examples=300, hinted_share=0.5)
CONFIG = WarmupConfig(lessons=(LESSON,), batch_tokens=512)


def examples() -> list[Demonstration]:
    author = Demonstrator(DemonstratorConfig())
    return demonstrations(author, author, TASK, LESSON, seed=0)


def batches() -> list[Batch]:
    return token_batches(examples(), TOKENIZER, PROMPTS, CONFIG, seed=0)


def test_batches_hold_every_example_once_with_little_padding() -> None:
    written = batches()
    assert sum(len(batch.input_ids) for batch in written) == LESSON.examples
    assert all(batch.input_ids.numel() <= CONFIG.batch_tokens for batch in written)
    padding = sum(int((batch.input_ids == TOKENIZER.pad_token_id).sum()) for batch in written)
    assert padding < 0.05 * sum(batch.input_ids.numel() for batch in written)


def test_prompts_are_those_of_the_trainer_and_carry_no_weight() -> None:
    example = next(one for one in examples() if one.hint is not None)
    assert example.hint is not None
    [batch] = token_batches([example], TOKENIZER, PROMPTS, CONFIG, seed=0)
    hint = Hint(example.hint.text(), str(example.hint.answer))
    prompt = PROMPTS.hinted(example.problem, hint)
    assert np.array_equal(batch.input_ids[0, : len(prompt)].numpy(), prompt)
    learnt = TOKENIZER.decode(batch.targets[0, len(prompt) - 1 :])
    assert learnt == f"{example.solution.text()} <|end|>"
    assert not batch.weights[0, : len(prompt) - 1].any()


def test_values_weigh_more_and_forced_values_nothing() -> None:
    author = Demonstrator(DemonstratorConfig(check_rate=0, hinted_check_rate=0))
    problem = TASK.train_problem(0)
    hint = author.solve(problem, random.Random(0))
    solution = author.solve(problem, random.Random(1), hint=hint, wrong_steps=(0,))
    example = Demonstration(problem, hint, solution)
    [batch] = token_batches([example], TOKENIZER, PROMPTS, CONFIG, seed=0)
    heavy = CONFIG.working_weight
    opening = [1.0, heavy, 1.0, heavy]  # so 7 (1) +5
    answer = [1.0, heavy, 1.0]  # answer 2 <|end|>
    assert batch.weights[0, -15:].tolist() == [*opening, 0, 1, *opening, heavy, 1, *answer]


def test_loss_ignores_padding() -> None:
    [long] = token_batches([examples()[0]], TOKENIZER, PROMPTS, CONFIG, seed=0)
    pad = torch.nn.functional.pad
    padded = Batch(
        pad(long.input_ids, (0, 9)), pad(long.targets, (0, 9)), pad(long.weights, (0, 9))
    )
    model = new_model(SHAPE, TOKENIZER, seed=0)
    assert torch.allclose(batch_loss(model, long), batch_loss(model, padded))


def test_the_loss_falls_and_repeats_exactly() -> None:
    runs = []
    for _ in range(2):
        model = new_model(SHAPE, TOKENIZER, seed=0)
        runs.append(warm_up(model, batches(), CONFIG, label="test"))
    assert runs[0] == runs[1]
    first, last = (sum(part) for part in (runs[0][:5], runs[0][-5:]))
    assert last < 0.9 * first


def test_seeds_give_different_weights() -> None:
    weights = [new_model(SHAPE, TOKENIZER, seed).model.embed_tokens.weight for seed in (0, 0, 1)]
    assert [torch.equal(*pair) for pair in pairwise(weights)] == [True, False]
