"""Makes the tiny models of a recipe: `OUT/student` and `OUT/teacher`, in transformers format."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from counterhint.errors import InputError
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.seeds import derive_seed
from student_trainer.tasks.chain import ChainTask
from student_trainer.tiny.batches import Batch, token_batches
from student_trainer.tiny.config import ShippedModelConfig, TinyModelConfig, TinyModelsConfig
from student_trainer.tiny.demonstrations import Demonstrator, demonstrations
from student_trainer.tiny.gates import Fitness, check, measure
from student_trainer.tiny.tokenizer import build_tokenizer
from student_trainer.tiny.warmup import new_model, warm_up

Which = Literal["student", "teacher"]


def make_tiny_models(
    config: TinyModelsConfig,
    task: ChainTask,
    prompt_config: PromptConfig,
    out: Path,
    *,
    which: Sequence[Which] = ("student", "teacher"),
    retrain: bool = False,
    console: Console | None = None,
) -> dict[str, Fitness]:
    """Make the models and save each in its folder under `out`.

    Args:
        config: How they are made.
        task: What they are to solve.
        prompt_config: How prompts are made, in the warm-up as in the training that follows.
        out: Folder for the models.
        which: Which of the two.
        retrain: Make the teacher again even though one is shipped.
        console: Where a line on each model is printed.

    Returns:
        What each model that was trained here showed; a copied teacher is not in it.

    Raises:
        WarmupGateError: a model is unfit for use; nothing of it is saved.
        InputError: the task cannot be used, there is no teacher to make, or the shipped one is not
            what it should be.
    """
    if not isinstance(task, ChainTask) or task.config.operations < 2:
        raise InputError(
            "tiny models can be made for `task.kind: chain` with `task.operations` of 2 or more"
        )
    console = console or Console()
    fitness: dict[str, Fitness] = {}
    for name in which:
        if name == "teacher" and config.shipped_teacher is not None and not retrain:
            copy_shipped(config.shipped_teacher, out / name)
            console.print(f"teacher: copied from {config.shipped_teacher.folder}")
            continue
        model_config = config.student if name == "student" else config.teacher
        if model_config is None:
            raise InputError("models.teacher: the recipe has none: make the student only")
        fitness[name] = _make_model(
            name, model_config, config.student, task, prompt_config, out / name
        )
        console.print(f"{name}: {fitness[name]}")
    return fitness


def _make_model(
    name: str,
    config: TinyModelConfig,
    student: TinyModelConfig,
    task: ChainTask,
    prompt_config: PromptConfig,
    folder: Path,
) -> Fitness:
    tokenizer = build_tokenizer()
    prompts = Prompts(tokenizer, prompt_config, task.answer_format)
    author = Demonstrator(config.author)
    hint_author = Demonstrator(student.author)
    batches: list[Batch] = []
    for number, lesson in enumerate(config.warmup.lessons):
        seed = derive_seed(config.seed, "lesson", number)
        examples = demonstrations(author, hint_author, task, lesson, seed=seed)
        batches += token_batches(examples, tokenizer, prompts, config.warmup, seed=seed)
    model = new_model(config.shape, tokenizer, config.seed)
    warm_up(model, batches, config.warmup, label=f"warming up the {name}")
    fitness = measure(model, tokenizer, task, prompts, hint_author, config.gate.problems)
    check(fitness, config.gate, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return fitness


def copy_shipped(shipped: ShippedModelConfig, folder: Path) -> None:
    """Copy a shipped model after checking its weights.

    Raises:
        InputError: it is missing or its hash differs.
    """
    weights = shipped.folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"models.shipped_teacher.folder: {weights} does not exist: run from the repository's "
            "folder, or make the teacher with `counterhint models make RECIPE --out DIR --retrain`"
        )
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != shipped.sha256:
        raise InputError(
            f"models.shipped_teacher.sha256: {weights} has the SHA-256 {digest}, not "
            f"{shipped.sha256}: restore the file, or make the teacher again with "
            "`counterhint models make RECIPE --out DIR --retrain`"
        )
    shutil.copytree(shipped.folder, folder, dirs_exist_ok=True)
