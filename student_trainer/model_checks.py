"""What a model must be like for the student's pass to be right, found out by short passes."""

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from counterhint.errors import InputError
from student_trainer.batches import TokenBatch
from student_trainer.forward import hidden_states
from student_trainer.log_probs import LogitMap
from student_trainer.model_parts import causal_model, decoder_of, head_of


def check_model(model: nn.Module, *, packing: bool) -> None:
    """Refuses models whose log probs the trainer would compute wrongly.

    Args:
        model: the model, whole on this rank.
        packing: whether rows are to be packed.

    Raises:
        InputError: what the model does, and the remedy.
    """
    check_head(model)
    if packing:
        check_packing(model)


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Refuses models whose logits are more than `LogitMap` of a linear map of the hidden state.

    Raises:
        InputError: the model's logits are otherwise.
    """
    inner = causal_model(model)
    probe = torch.tensor([[0, 1]], device=inner.device)
    with _probing(inner):
        hidden = decoder_of(model)(input_ids=probe, use_cache=False).last_hidden_state
        ours = LogitMap.of(inner, 1.0).apply_(head_of(model)(hidden).float())
        theirs = inner(input_ids=probe, use_cache=False).logits.float()
    # In half precision, scaled logits are rounded by up to 0.4 %.
    if not (ours - theirs).abs().max() <= 0.01 * theirs.abs().max():
        raise InputError(
            f"{type(inner).__name__} does more to its logits than scaling and soft-capping them, "
            "which the trainer does not know: use another model"
        )


@torch.no_grad()
def check_packing(model: nn.Module) -> None:
    """Refuses models that let packed rows see each other, or that number their positions wrongly.

    Two rows are packed and compared with the second row behind another first row, and alone.

    Raises:
        InputError: the model cannot be trained with `batch.packing`.
    """
    inner = causal_model(model)
    refusal = InputError(
        f"batch.packing is true, but {type(inner).__name__} does not keep the rows of one sequence "
        "apart: set batch.packing to false"
    )
    parameters = inspect.signature(decoder_of(model).forward).parameters
    if "position_ids" not in parameters:
        raise refusal
    generator = torch.Generator().manual_seed(0)
    vocab = inner.config.get_text_config().vocab_size
    first, other, second = torch.randint(vocab, (3, 1, 12), generator=generator)
    positions = torch.arange(12)[None]

    def last_row(*rows: Tensor) -> Tensor:
        none = torch.zeros(0, dtype=torch.long)
        batch = TokenBatch(
            torch.cat(rows, dim=1).to(inner.device),
            torch.cat([positions] * len(rows), dim=1).to(inner.device),
            None,
            none,
            none,
        )
        with _probing(inner):
            return hidden_states(model, batch)[:, -12:].float()

    packed = last_row(first, second)
    scale = packed.abs().max()
    # The same shapes give the same numbers; alone, the kernels and so the rounding may differ.
    mixed = (packed - last_row(other, second)).abs().max()
    moved = (packed - last_row(second)).abs().max()
    if not (mixed <= 1e-5 * scale and moved <= 0.05 * scale):
        raise refusal


def _probing(model: PreTrainedModel) -> torch.autocast:
    """The context of a pass that looks at a model's ways: flash attention needs half precision."""
    half = str(model.config._attn_implementation).startswith("flash")
    return torch.autocast(model.device.type, torch.bfloat16, enabled=half)
