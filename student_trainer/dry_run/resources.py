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
    """What one micro-batch keeps for the backward pass."""
    logits: int
    """Logits of one chunk of positions."""
    cache: int
    """Keys and values of the built-in sampler; 0 with others."""

    @property
    def peak(self) -> int:
        """The largest sum: activations and the sampler's cache are not there at the same time."""
        return self.weights + max(self.activations + self.logits, self.cache)


def estimate_memory(recipe: Recipe, student: Student, longest_prompt: int, ranks: int) -> Memory:
    """What training takes on each of several ranks.

    Activations are counted by the layer: with checkpointing one hidden state a layer and all of one
    layer's, otherwise all of every layer. Attention is assumed not to keep its `[T, T]` scores.

    Args:
        recipe: the recipe.
        student: with shapes only.
        longest_prompt: tokens of the longest prompt.
        ranks: processes that the weights are divided over.
    """
    config = student.model.config.get_text_config()
    parameters = sum(parameter.numel() for parameter in student.model.parameters())
    trained = sum(parameter.numel() for parameter in student.trainable().values())
    copies = _WEIGHT_COPIES_TRAINED + (recipe.teacher_refresh.kind == "ema")
    weights = _FLOAT32 * (parameters - trained + copies * trained) // ranks
    width = 2 if recipe.student.dtype == "bfloat16" else _FLOAT32
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    keys = head * (getattr(config, "num_key_value_heads", None) or heads)
    # Of a token in a layer: two norms' inputs and outputs and two residuals, queries and the
    # attention's output, keys and values, and the MLP's gate, activation, up and product.
    layer = 6 * hidden + 2 * heads * head + 2 * keys + 4 * config.intermediate_size
    row = longest_prompt + recipe.rollouts.max_new_tokens
    tokens = max(recipe.batch.micro_batch_tokens, row)
    kept = layers * hidden + layer if recipe.student.gradient_checkpointing else layers * layer
    cache = 0
    if isinstance(recipe.rollouts.sampler, BuiltInSamplerConfig):
        groups = math.ceil(recipe.rollouts.prompts_per_step / ranks)
        rows = min(groups * recipe.rollouts.group_size, recipe.rollouts.max_rows)
        cache = rows * row * layers * 2 * keys * width
    return Memory(weights, tokens * kept * width, _CHUNKS * CHUNK_BYTES, cache)


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
    if memory.cache:
        parts.append(f"the sampler's cache {_bytes(memory.cache)} instead")
    text = (
        f"about {_bytes(memory.peak)} on each of {ranks} process(es): {', '.join(parts)}; "
        f"this {device.type} has {_bytes(has := _memory_of(device))}"
    )
    if memory.peak <= has:
        checks.ok("memory", text)
        return
    ways = []
    if memory.weights > has // 2:
        ways.append("more processes (torchrun) or student.lora")
    if memory.cache > memory.activations:
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
    if rows < updates:
        checks.problem("batch", f"{text}: batch.updates_per_step must be at most {rows}")
    elif recipe.batch.micro_batch_tokens < longest:
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
    return f"{count / 2**30:,.1f} GiB"
