import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel

from counterhint.errors import InputError
from student_trainer.batches import BatchConfig, MicroBatch, Row, micro_batches
from student_trainer.forward import StudentForward
from tests.student_trainer.rollouts_of import make_rollout
from tests.student_trainer.tiny_configs import ATTENTION, LLAMA, MIXING, SIZE
from tests.tiny_models import write_model

LENGTHS = [(3, 9), (7, 2), (1, 6), (5, 5)]
"""Tokens of prompt and response of each row."""
TEMPERATURE = 0.8


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[[PreTrainedConfig], PreTrainedModel]:
    return lambda config: write_model(tmp_path, config)


def make_rows() -> list[Row]:
    source = np.random.default_rng(0)

    def ids(count: int) -> np.ndarray:
        return source.integers(3, 64, count).astype(np.int32)

    rollouts = [
        (ids(prompt), make_rollout(True, tokens=ids(response))) for prompt, response in LENGTHS
    ]
    return [Row(prompt, rollout, 0.5, None, rollout.log_probs) for prompt, rollout in rollouts]


def one_batch(rows: list[Row], packing: bool) -> MicroBatch:
    config = BatchConfig(packing=packing)
    (piece,) = micro_batches(rows, config, torch.device("cpu"), step=1)
    return piece


def gradients_of(model: torch.nn.Module, per_row: list[Tensor]) -> list[Tensor]:
    """Gradients of a sum in which every token has its own weight; rows in order of length."""
    flat = torch.cat(per_row)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad((flat * torch.linspace(-1, 1, len(flat))).sum(), parameters))


def row_by_row(model: torch.nn.Module, rows: list[Row]) -> list[Tensor]:
    """Log probs by the ordinary way: one pass a row, the whole softmax."""
    found = []
    for row in rows:
        ids = torch.from_numpy(np.concatenate([row.prompt, row.rollout.token_ids])).long()[None]
        log_probs = (model(input_ids=ids).logits[0] / TEMPERATURE).log_softmax(-1)
        start = len(row.prompt)
        found.append(log_probs[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0])
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", ATTENTION.values(), ids=ATTENTION)
def test_packed_padded_and_row_by_row_are_the_same(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel],
    config: PreTrainedConfig,
    attention: str,
) -> None:
    model = make_model(config)
    model.set_attn_implementation(attention)
    forward = StudentForward(model, TEMPERATURE)
    results = []
    for packing in (False, True):
        piece = one_batch(make_rows(), packing)
        results.append([forward(piece.tokens).sampled])
    results.append(row_by_row(model, list(piece.rows)))
    padded, packed, expected = (torch.cat(result) for result in results)
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)
    gradients = [gradients_of(model, result) for result in results]
    for ours, also_ours, theirs in zip(*gradients, strict=True):
        tolerance = 1e-5 * float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
        torch.testing.assert_close(also_ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("config", MIXING.values(), ids=MIXING)
def test_padded_rows_are_right_where_packing_is_not(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel], config: PreTrainedConfig
) -> None:
    model = make_model(config)
    piece = one_batch(make_rows(), packing=False)
    found = StudentForward(model, TEMPERATURE)(piece.tokens).sampled
    expected = torch.cat(row_by_row(model, list(piece.rows)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_support_and_entropy_come_with_the_same_pass(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel],
) -> None:
    model = make_model(LLAMA)
    piece = one_batch(make_rows(), packing=True)
    support = torch.stack([piece.tokens.targets, (piece.tokens.targets + 1) % 64], dim=1)
    scores = StudentForward(model)(piece.tokens, support, entropy=True)
    assert scores.support is not None
    assert scores.entropy is not None
    torch.testing.assert_close(scores.support[:, 0], scores.sampled)
    assert scores.entropy.shape == scores.sampled.shape
    assert piece.to_rows(scores.support).shape == (*piece.targets.mask.shape, 2)


def kept_bytes(forward: StudentForward, piece: MicroBatch) -> tuple[Tensor, int]:
    """Log probs, and the bytes that autograd keeps for the backward pass beside the weights (the
    inputs of checkpointed layers, `[B, S, H]` each, are not among them)."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in forward.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = forward(piece.tokens).sampled
    return found, sum(kept.values())


def test_checkpointing_keeps_less_and_gives_the_same_gradients(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel],
) -> None:
    # Dropout, which must stay off: the model is in evaluation mode.
    config = LlamaConfig(**SIZE | {"num_hidden_layers": 6}, attention_dropout=0.5)
    plain = make_model(config)
    checkpointed = copy.deepcopy(plain)
    piece = one_batch(make_rows() * 20, packing=False)
    results = []
    for model, flag in ((plain, False), (checkpointed, True)):
        forward = StudentForward(model, gradient_checkpointing=flag)
        found, kept = kept_bytes(forward, piece)
        results.append((found, gradients_of(model, [found]), kept))
        assert not model.training
    (found, gradients, kept), (also_found, also_gradients, kept_less) = results
    assert torch.equal(found, also_found)
    assert all(map(torch.equal, gradients, also_gradients))
    assert kept_less < kept / 4


def test_a_copy_of_a_checkpointed_model_runs_its_own_layers(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel],
) -> None:
    forward = StudentForward(make_model(LLAMA), gradient_checkpointing=True)
    changed = copy.deepcopy(forward)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    tokens = one_batch(make_rows(), packing=False).tokens
    changed(tokens).sampled.sum().backward()
    assert all(parameter.grad is None for parameter in forward.parameters())
    assert any(parameter.grad is not None for parameter in changed.parameters())


def with_lora(model: PreTrainedModel, targets: list[str]) -> torch.nn.Module:
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return adapted.eval()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_are_trained_and_nothing_else(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel], checkpointing: bool
) -> None:
    model = with_lora(make_model(LLAMA), ["q_proj", "down_proj"])
    piece = one_batch(make_rows(), packing=True)
    expected = row_by_row(model, list(piece.rows))
    forward = StudentForward(model, TEMPERATURE, gradient_checkpointing=checkpointing)
    found = forward(piece.tokens).sampled
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=0)
    found.sum().backward()
    got_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert got_gradient == {name for name, _ in model.named_parameters() if "lora_" in name}


def test_adapters_on_the_head_are_refused(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel],
) -> None:
    with pytest.raises(InputError, match="leave the head out of the adapter's target modules"):
        StudentForward(with_lora(make_model(LLAMA), ["q_proj", "lm_head"]))


def test_models_whose_layers_cannot_be_checkpointed_are_refused(
    make_model: Callable[[PreTrainedConfig], PreTrainedModel],
) -> None:
    model = make_model(LLAMA)
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(InputError, match="set gradient_checkpointing to false"):
        StudentForward(model, gradient_checkpointing=True)
