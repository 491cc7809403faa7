"""Estimates of what a run takes: memory, disk, and how its batches divide."""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from student_trainer.dry_run.checklist import Checklist
from student_trainer.log_probs import CHUNK_BYTES
from student_trainer.models import Student
from student_trainer.ranks import Ranks
from student_trainer.recipe import Recipe
from student_trainer.rollouts.built_in import BuiltInSamplerConfig

_FLOAT32 = 4
_WEIGHT_COPIES_TRAINED = 4  # the weight, its gradient, Adam's two moments
_CHUNKS = 3  # logits of one chunk, what is computed from them, and their gradient


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a rank takes at its peak, about."""

    weights: int
    """Weights, gradients and optimizer state in float32, and the average of an EMA teacher."""
    activations: int
    """What one micro-batch keeps for the backward pass, copies of weights in half precision
    included."""
    logits: int
    """Logits of one chunk of positions."""
    sampling: int
    """Keys and values of the built-in sampler, and of several ranks the whole model, which it needs
    on each; 0 with other samplers."""

    @property
    def peak(self) -> int:
        """The largest sum: a run samples and updates by turns."""
        return self.weights + max(self.activations + self.logits, self.sampling)


def estimate_memory(recipe: Recipe, student: Student, longest_prompt: int, ranks: int) -> Memory:
    """What training takes on each of several ranks.

    Args:
        recipe: the recipe.
        student: with shapes only.
        longest_prompt: tokens of the longest prompt.
        ranks: processes that the weights are divided over.
    """
    parameters = sum(parameter.numel() for parameter in student.model.parameters())
    trained = sum(parameter.numel() for parameter in student.trainable().values())
    copies = _WEIGHT_COPIES_TRAINED + (recipe.teacher_refresh.kind == "ema")
    weights = _FLOAT32 * (parameters - trained + copies * trained) // ranks
    row = longest_prompt + recipe.rollouts.max_new_tokens
    activations = activation_bytes(recipe, student, max(recipe.batch.micro_batch_tokens, row))
    width = _width(recipe)
    if width < _FLOAT32 and ranks == 1:  # autocast keeps what it has cast
        activations += width * parameters
    sampling = 0
    if isinstance(recipe.rollouts.sampler, BuiltInSamplerConfig):
        groups = math.ceil(recipe.rollouts.prompts_per_step / ranks)
        rows = min(groups * recipe.rollouts.group_size, recipe.rollouts.max_rows)
        shape = _Shape.of(student)
        sampling = rows * row * shape.layers * 2 * shape.keys * width
        sampling += width * parameters if ranks > 1 else 0
    vocabulary = student.model.get_output_embeddings().weight.shape[0]
    chunk = min(CHUNK_BYTES, _FLOAT32 * row * vocabulary)
    return Memory(weights, activations, _CHUNKS * chunk, sampling)


def activation_bytes(recipe: Recipe, student: Student, tokens: int) -> int:
    """Bytes that a pass over that many tokens keeps for its backward pass, about.

    With checkpointing one hidden state a layer and all of one layer's, otherwise all of every
    layer's. Attention is assumed not to keep its `[T, T]` scores.
    """
    shape = _Shape.of(student)
    # Of a token in a layer. In float32 also under autocast: inputs and outputs of two norms, two
    # residuals. In the precision of the pass: inputs of queries and MLP, queries and the
    # attention's output, keys and values, and the MLP's gate, activation, up and product.
    layer = _FLOAT32 * 6 * shape.hidden + _width(recipe) * (
        2 * shape.hidden + 2 * shape.queries + 2 * shape.keys + 4 * shape.intermediate
    )
    if recipe.student.gradient_checkpointing:
        return tokens * (shape.layers * _FLOAT32 * shape.hidden + layer)
    return tokens * shape.layers * layer


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes of a model: values a token, and layers."""

    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int

    @classmethod
    def of(cls, student: Student) -> "_Shape":
        config = student.model.config.get_text_config()
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            heads * head,
            keys * head,
        )


def _width(recipe: Recipe) -> int:
    return 2 if recipe.student.dtype == "bfloat16" else _FLOAT32


def check_memory(
    recipe: Recipe, student: Student, longest_prompt: int, device: torch.device, checks: Checklist
) -> None:
    """Compares the estimate with what the device has; it may be meant for another machine."""
    ranks = Ranks().count
    memory = estimate_memory(recipe, student, longest_prompt, ranks)
    parts = [
        f"weights, gradients and Adam {_bytes(memory.weights)}",
        f"activations {_bytes(memory.activations)}",
        f"logits {_bytes(memory.logits)}",
    ]
    if memory.sampling:
        parts.append(f"instead of these two while sampling {_bytes(memory.sampling)}")
    text = (
        f"about {_bytes(memory.peak)} on each of {ranks} process(es): {', '.join(parts)}; "
        f"{device} has {_bytes(has := _memory_of(device))}"
    )
    if memory.peak <= has:
        checks.ok("memory", text)
        return
    ways = []
    if memory.weights > has // 2:
        ways.append("more processes (torchrun) or student.lora")
    if memory.sampling > memory.activations:
        ways.append("a lower rollouts.max_rows, or a vllm sampler")
    elif not recipe.student.gradient_checkpointing:
        ways.append("student.gradient_checkpointing=true")
    else:
        ways.append("a lower batch.micro_batch_tokens")
    checks.warn("memory", f"{text}; what helps: {', '.join(ways)}")


def check_disk(recipe: Recipe, student: Student, checks: Checklist) -> None:
    """Compares the space of all checkpoints and published weights with what is free."""
    parameters = sum(parameter.numel() for parameter in student.model.parameters())
    trained = sum(parameter.numel() for parameter in student.trainable().values())
    stored = trained if recipe.student.lora is not None else parameters
    copies = 3 + (recipe.teacher_refresh.kind == "ema")
    checkpoint = _FLOAT32 * (stored + (copies - 1) * trained)
    published = 0 if recipe.teacher_refresh.kind == "fixed" else _FLOAT32 * stored
    # The new one is written before the oldest goes; each names published weights that stay.
    count = recipe.checkpoint.keep + 1
    needed = count * (checkpoint + published) + published
    free = shutil.disk_usage(_existing(recipe.run_dir)).free
    text = (
        f"about {_bytes(needed)} in {recipe.run_dir} for {count} checkpoints"
        f"{' and published weights' if published else ''}; {_bytes(free)} are free"
    )
    if needed <= free:
        checks.ok("disk", text)
    else:
        checks.warn("disk", f"{text}: name a run_dir with more, or lower checkpoint.keep")


def check_batches(recipe: Recipe, longest_prompt: int, checks: Checklist) -> None:
    """How a step's rollouts divide into updates and micro-batches."""
    rows = recipe.rollouts.prompts_per_step * recipe.rollouts.group_size
    updates, ranks = recipe.batch.updates_per_step, Ranks().count
    longest = longest_prompt + recipe.rollouts.max_new_tokens
    fitting = max(1, recipe.batch.micro_batch_tokens // longest)
    text = (
        f"{rows} rollouts a step, {updates} update(s) of {rows / updates:g}; on each of {ranks} "
        f"process(es) at most {math.ceil(rows / updates / ranks / fitting)} micro-batches an update"
    )
    if recipe.batch.micro_batch_tokens < longest:
        checks.warn(
            "batch",
            f"{text}; the longest row has {longest:,} tokens and stands alone, above "
            f"batch.micro_batch_tokens ({recipe.batch.micro_batch_tokens:,})",
        )
    else:
        checks.ok("batch", text)


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
