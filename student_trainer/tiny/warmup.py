"""The warm-up: supervised training from scratch on demonstrations.

Muon (Jordan et al., 2024) on the weight matrices learns the arithmetic facts in about a third of
AdamW's steps; embeddings and norms stay with AdamW.
"""

from collections.abc import Sequence

import torch
from rich.progress import Progress
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from student_trainer.tiny.batches import Batch
from student_trainer.tiny.config import ShapeConfig, WarmupConfig


def new_model(
    shape: ShapeConfig, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    """A model with random weights for the tokenizer's vocabulary."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def warm_up(
    model: LlamaForCausalLM, batches: Sequence[Batch], config: WarmupConfig, *, label: str
) -> list[float]:
    """Train the model on each batch once, with a progress bar.

    Args:
        model: The model, changed in place.
        batches: One optimizer step each.
        config: Optimizer settings.
        label: What the progress bar says.

    Returns:
        The weighted mean loss of each step, in nats a token.
    """
    matrices = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and "embed_tokens" not in name
    ]
    matrix_ids = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in matrix_ids]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=0.0),
        torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    rise, fall = config.rise_share * len(batches), config.fall_share * len(batches)

    def share(step: int) -> float:
        """Share of the peak learning rate."""
        return min(1.0, (step + 1) / rise, (len(batches) - step) / fall)

    schedules = [LambdaLR(optimizer, share) for optimizer in optimizers]
    losses = []
    model.train()
    with Progress(transient=True) as progress:
        task = progress.add_task(label, total=len(batches))
        for batch in batches:
            loss = batch_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            losses.append(loss.item())
            progress.update(task, advance=1, description=f"{label} (loss {losses[-1]:.2f})")
    model.eval()
    return losses


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean cross entropy of a batch, a scalar in nats a token."""
    # Padding stands on the right and nothing is learnt there, so the causal mask alone will do.
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    losses = functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="none"
    )
    weights = batch.weights.flatten()
    return (losses * weights).sum() / weights.sum()
