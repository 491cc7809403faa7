"""The losses against numbers of the authors' implementation of arXiv 2606.11709."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from student_trainer.losses import GrpoConfig, Method, RlcsdConfig, Targets

VECTORS = Path(__file__).parents[2] / "vectors" / "reference_losses.json"
CASES = [
    case for case in json.loads(VECTORS.read_text())["cases"] if case["method"] in ("grpo", "rlcsd")
]


def build_method(case: dict[str, Any]) -> Method:
    settings = {
        name.removeprefix("rlcsd_"): value for name, value in case["hyperparameters"].items()
    }
    config = GrpoConfig if case["method"] == "grpo" else RlcsdConfig
    return config.model_validate(settings).build()


def read_targets(inputs: dict[str, Any]) -> Targets:
    def tensor(name: str) -> torch.Tensor | None:
        return torch.tensor(inputs[name], dtype=torch.float64) if name in inputs else None

    valid = tensor("teacher_wrong_multi_valid_mask")
    advantages, old = tensor("advantages"), tensor("old_log_probs")
    assert advantages is not None
    assert old is not None
    return Targets(
        mask=torch.tensor(inputs["response_mask"]).bool(),
        advantages=advantages,
        old_log_probs=old,
        teacher=tensor("teacher_correct_log_probs"),
        wrong=tensor("teacher_wrong_multi_log_probs"),
        wrong_valid=None if valid is None else valid.bool(),
        importance=tensor("rollout_is_weights"),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["method"])
def test_loss_and_gradient_match_the_reference(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    logits = torch.tensor(inputs["student_logits"], dtype=torch.float64, requires_grad=True)
    ids = torch.tensor(inputs["sampled_token_ids"])
    log_probs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    method, targets = build_method(case), read_targets(inputs)
    piece = method.loss(log_probs, targets, method.totals(targets))
    piece.loss.backward()
    assert logits.grad is not None
    assert piece.loss.item() == pytest.approx(expected["loss"], rel=1e-6)
    assert logits.grad.norm().item() == pytest.approx(expected["grad_student_logits_l2"], rel=1e-6)
    rows = logits.grad.abs().sum((1, 2)).tolist()
    assert rows == pytest.approx(expected["grad_student_logits_row_sums_abs"], rel=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["method"])
def test_cutting_the_batch_changes_nothing(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    logits = torch.tensor(inputs["student_logits"], dtype=torch.float64, requires_grad=True)
    ids = torch.tensor(inputs["sampled_token_ids"])
    method, targets = build_method(case), read_targets(inputs)
    counts = method.totals(targets)

    def part(rows: slice) -> torch.Tensor:
        log_probs = logits[rows].log_softmax(-1).gather(-1, ids[rows][..., None])[..., 0]
        fields = {
            name: None if (value := getattr(targets, name)) is None else value[rows]
            for name in Targets.__dataclass_fields__
        }
        return method.loss(log_probs, Targets(**fields), counts).loss

    whole = part(slice(None))
    cut = part(slice(0, 1)) + part(slice(1, 3)) + part(slice(3, None))
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        torch.autograd.grad(cut, logits), torch.autograd.grad(whole, logits), rtol=1e-12, atol=1e-14
    )
