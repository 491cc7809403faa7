"""`counterhint eval`: a model or checkpoint evaluated by a recipe, without training."""

import json
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path

from counterhint.errors import InputError
from student_trainer.checkpoints import load_model, read_state
from student_trainer.evaluation.config import DEFAULT_SET
from student_trainer.evaluation.evaluator import Evaluator, open_set
from student_trainer.evaluation.results import Evaluations, changes, comparable
from student_trainer.evaluation.tables import print_evaluations
from student_trainer.forward import StudentForward
from student_trainer.models import load_student
from student_trainer.progress import Progress, progress_bar
from student_trainer.prompts import Prompts
from student_trainer.ranks import Ranks
from student_trainer.recipe import Recipe
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.seeds import derive_seed
from student_trainer.sharding import gathered, shard
from student_trainer.tasks.base import Task


def evaluate(
    recipe: Recipe, checkpoint: Path | None, ranks: Ranks, progress: Progress | None = None
) -> Evaluations:
    """Evaluates as a run of the recipe does, with the same problems and the same seed. Collective.

    Args:
        recipe: whose task, prompts, sampler and `evaluation` section are used.
        checkpoint: a checkpoint, or another folder with a model or an adapter of `student.model`;
            None evaluates `student.model` itself.
        ranks: the processes to share the problems over.
        progress: told how many problems of a set are done.

    Raises:
        InputError: something in the recipe or the checkpoint cannot be used.
        CounterhintError: the sampler failed.
    """
    config, adapter = recipe.student, None
    if checkpoint is not None and (checkpoint / "adapter_config.json").is_file():
        if config.lora is None:
            raise InputError(
                f"{checkpoint} holds an adapter, but the recipe has no student.lora: give the "
                "recipe of its run"
            )
        adapter = checkpoint
    elif checkpoint is not None:
        config = config.model_copy(update={"model": checkpoint, "lora": None})
    task = recipe.task.build()
    student = load_student(config, ranks)
    forward = StudentForward(student.model, recipe.rollouts.temperature)
    shard(forward, student, ranks)
    if adapter is not None:
        load_model(adapter, student, ranks)
    with ExitStack() as resources:
        sampler = resources.enter_context(recipe.rollouts.sampler.build(student))
        sampler.load_weights(student.full_tensors(), 0)

        def generator_for(task: Task) -> RolloutGenerator:
            prompts = Prompts(student.tokenizer, recipe.prompts, task.answer_format)
            return RolloutGenerator(student, sampler, task, prompts)

        evaluator = Evaluator(
            recipe.evaluation,
            task,
            generator_for,
            max_new_tokens=recipe.rollouts.max_new_tokens,
            max_rows=recipe.rollouts.max_rows,
            ranks=ranks,
        )
        sharded = ranks.count > 1 and sampler.reads_student
        with gathered(forward) if sharded else nullcontext():
            return evaluator.run(derive_seed(recipe.seed, "evaluation"), progress)


def evaluate_and_show(
    recipe: Recipe,
    checkpoint: Path | None,
    *,
    before: Evaluations | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Evaluates and prints the outcome, and writes it where that is asked for.

    A progress bar goes to standard error where that is a terminal. Under `torchrun` the first rank
    prints and writes.

    Args:
        recipe: as for `evaluate`.
        checkpoint: as for `evaluate`.
        before: an earlier evaluation to compare with.
        out: file for one line of JSON, as in a run's `evaluations.jsonl`.
        as_json: print JSON instead of a table.

    Raises:
        InputError: `out` is a folder, no set of `before` has the recipe's problems, or as for
            `evaluate`.
        CounterhintError: as for `evaluate`.
    """
    if out is not None and out.is_dir():
        raise InputError(f"--out {out} is a folder: give a file, such as {out / 'eval.jsonl'}")
    if before is not None:
        _check_comparable(recipe, before)
    ranks = Ranks()
    try:
        with progress_bar(shown=ranks.first) as progress:
            evaluations = evaluate(recipe, checkpoint, ranks, progress)
        if not ranks.first:
            return
        record = {"step": _steps_of(checkpoint), **evaluations.record()}
        if out is not None:
            out.write_text(json.dumps(record) + "\n")
        if not as_json:
            print_evaluations(evaluations, before)
            return
        if before is not None:
            record["changes"] = {
                name: {figure: asdict(change) for figure, change in figures.items()}
                for name, figures in changes(before, evaluations).items()
            }
        print(json.dumps(record, indent=2))
    finally:
        ranks.close()


def _check_comparable(recipe: Recipe, before: Evaluations) -> None:
    config, task = recipe.evaluation, recipe.task.build()
    ids = {name: [p.id for p in open_set(config, name, task)[1]] for name in config.names}
    if comparable(before, ids):
        return
    earlier = before.problem_ids.get(DEFAULT_SET, [])
    there, here = len(earlier), len(ids[DEFAULT_SET])
    remedy = "give the recipe of that evaluation"
    if there not in (0, here):
        remedy = f"give evaluation.problems={there}"
    raise InputError(
        f"--against has other problems ({there} in {DEFAULT_SET}, here {here}), and changes are of "
        f"the same ones: {remedy}, or leave --against out"
    )


def _steps_of(checkpoint: Path | None) -> int:
    """Training steps behind a checkpoint; 0 for a model that no run has saved."""
    if checkpoint is None or not (checkpoint / "state.json").is_file():
        return 0
    return read_state(checkpoint).steps_done
