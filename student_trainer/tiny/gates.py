"""What a tiny model must show before use: a pass rate that can rise, and sound use of hints."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from counterhint import tokenizer_fingerprint
from counterhint.errors import InputError
from student_trainer.models import Student
from student_trainer.prompts import Prompts
from student_trainer.rollouts.base import SamplingRequest
from student_trainer.rollouts.built_in import BuiltInSampler
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.tasks.chain import ChainTask, apply
from student_trainer.tiny.batches import prompt_ids
from student_trainer.tiny.config import GateConfig
from student_trainer.tiny.demonstrations import Demonstration, Demonstrator

_LONGEST_STEP = 10  # tokens, with a check
_STEP_VALUE = 4  # place of a step's value among its tokens
_FORCED_STEP = 6  # tokens of a step without a check


class WarmupGateError(InputError):
    """A model came out of the warm-up unfit for use."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """What a model showed."""

    accuracy: float
    """Share of held-out problems solved without a hint, at temperature 1."""
    hint_trust: float
    """Mean probability of the hint's value at the first step, where the operands agree and that
    value is wrong, so that knowledge alone would not write it."""
    blind_copy: float | None
    """Mean probability of the hint's value right after a forced step has left the hint's path; None
    for sheets, where a hint speaks of every step."""
    own_knowledge: float | None
    """Mean probability of the true value at the same place."""

    def __str__(self) -> str:
        text = f"accuracy {self.accuracy:.3f}, trust in hints {self.hint_trust:.3f}"
        if self.blind_copy is None:
            return text
        return (
            f"{text}, blind copies {self.blind_copy:.3f} "
            f"(true value instead: {self.own_knowledge:.3f})"
        )


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    task: ChainTask,
    prompts: Prompts,
    hint_author: Demonstrator,
    problems: int,
) -> Fitness:
    """Measure a model on held-out problems.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: The task, with two operations or more.
        prompts: Makes its prompts.
        hint_author: Who writes the hints.
        problems: How many problems each figure is measured on.
    """
    accuracy = _accuracy(model, tokenizer, task, prompts, problems)
    at_first, after_leaving = _hint_probes(task, hint_author, problems)
    trust = _probabilities(model, tokenizer, prompts, at_first)[:, 0].mean().item()
    if not after_leaving:
        return Fitness(accuracy, trust, None, None)
    blind_copy, own_knowledge = (
        _probabilities(model, tokenizer, prompts, after_leaving).mean(dim=0).tolist()
    )
    return Fitness(accuracy, trust, blind_copy, own_knowledge)


def check(fitness: Fitness, gate: GateConfig, name: str) -> None:
    """Refuse a model that is unfit.

    Raises:
        WarmupGateError: a figure is out of its bounds.
    """
    complaint = None
    if not gate.min_accuracy <= fitness.accuracy <= gate.max_accuracy:
        remedy = (
            f"give models.{name}.warmup.lessons more examples or lower task.operations"
            if fitness.accuracy < gate.min_accuracy
            else f"raise task.operations or models.{name}.author.misconception_share"
        )
        complaint = (
            f"its accuracy is not between {gate.min_accuracy} and {gate.max_accuracy}: {remedy}"
        )
    elif fitness.blind_copy is not None and fitness.blind_copy > gate.max_blind_copy:
        complaint = (
            f"it copies hints blindly (limit {gate.max_blind_copy}): raise "
            f"wrong_step_share or examples in models.{name}.warmup.lessons"
        )
    elif fitness.hint_trust < gate.min_hint_trust:
        complaint = (
            f"it does not use hints (limit {gate.min_hint_trust}): raise "
            f"hinted_share or garbled_share in models.{name}.warmup.lessons"
        )
    if complaint is not None:
        raise WarmupGateError(f"the {name} is unfit after its warm-up ({fitness}); {complaint}")


@dataclass(frozen=True, slots=True)
class _Probe:
    """A place where the model must write a value, and the two values of interest there."""

    example: Demonstration
    written: int
    """Tokens of the solution that stand before the place."""
    hinted: int
    true: int


def _accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    task: ChainTask,
    prompts: Prompts,
    problems: int,
) -> float:
    fingerprint = tokenizer_fingerprint(tokenizer)
    student = Student(model, tokenizer, fingerprint, torch.float32, model.device)
    request = SamplingRequest(
        group_size=1,
        max_new_tokens=_LONGEST_STEP * task.config.operations + 3,
        temperature=1.0,
        seed=0,
    )
    generator = RolloutGenerator(student, BuiltInSampler(student), task, prompts)
    groups = generator.groups(task.heldout_problems(problems), request)
    return sum(group.rollouts[0].verdict.correct for _, group in groups) / problems


def _hint_probes(
    task: ChainTask, hint_author: Demonstrator, problems: int
) -> tuple[list[_Probe], list[_Probe]]:
    """Probes at the first step of a misleading hint, and at the step after a forced first."""
    at_first, after_leaving = [], []
    for index, problem in enumerate(task.heldout_problems(problems)):
        draws = random.Random(f"probe/{index}")
        misleading = hint_author.solve(problem, draws, wrong_steps=(0,))
        solution = hint_author.solve(problem, draws, hint=misleading)
        first = solution.steps[0]
        at_first.append(
            _Probe(
                Demonstration(problem, misleading, solution),
                _STEP_VALUE,
                hinted=misleading.steps[0].value,
                true=apply(first.operator, first.left, first.operand),
            )
        )
        hint = hint_author.solve(problem, draws)
        solution = hint_author.solve(problem, draws, hint=hint, wrong_steps=(0,))
        example = Demonstration(problem, hint, solution)
        second = solution.steps[1]
        hinted = hint.steps[1].result
        true = apply(second.operator, second.left, second.operand)
        if second.left != hint.steps[1].left and hinted != true:
            after_leaving.append(_Probe(example, _FORCED_STEP + _STEP_VALUE, hinted, true))
    return at_first, after_leaving


@torch.no_grad()
def _probabilities(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    probes: Sequence[_Probe],
) -> torch.Tensor:
    """The probabilities of each probe's hinted and true value, `[N, 2]`."""
    vocabulary = tokenizer.get_vocab()
    rows = []
    for probe in probes:
        words = [word for word, _ in probe.example.solution.tokens()[: probe.written]]
        row = [*prompt_ids(probe.example, prompts), *(vocabulary[word] for word in words)]
        rows.append(torch.tensor(row))
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    last = torch.tensor([len(row) - 1 for row in rows])
    values = [[vocabulary[f"={probe.hinted}"], vocabulary[f"={probe.true}"]] for probe in probes]
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[torch.arange(len(rows)), last].softmax(dim=-1).gather(1, torch.tensor(values))
