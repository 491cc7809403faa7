import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterhint.command_line import run_command
from counterhint.errors import InputError
from student_trainer.cli import VerifyLosses
from student_trainer.verify_losses import Case, relative_error, verify_case, verify_losses
from tests.student_trainer.losses.random_batches import (
    METHODS,
    build,
    gradient_of,
    loss_of,
    make_batch,
    with_targets,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "reference_losses.json"
REFERENCE: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]


def case_of(method: str) -> dict[str, Any]:
    """The reference's first case of a method, to be changed at will."""
    return copy.deepcopy(next(case for case in REFERENCE if case["method"] == method))


def write(folder: Path, *cases: dict[str, Any]) -> Path:
    path = folder / "losses.json"
    path.write_text(json.dumps({"about": "a test", "cases": cases}))
    return path


def run(*arguments: object) -> int:
    return run_command(VerifyLosses, "counterhint verify-losses", [str(a) for a in arguments])


def test_a_line_a_case_and_the_largest_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(VECTORS) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [str(index), case["method"]] for index, case in enumerate(REFERENCE)
    ]
    assert last.startswith(f"Largest relative error of {len(REFERENCE)} cases: loss ")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(VECTORS, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] is True
    assert printed["loss_error"] == max(case["loss_error"] for case in printed["cases"])
    assert printed["gradient_error"] == max(case["gradient_error"] for case in printed["cases"])
    assert [case["method"] for case in printed["cases"]] == [c["method"] for c in REFERENCE]


def wrong_loss(case: dict[str, Any]) -> None:
    case["expected"]["loss"] *= 1 + 2e-6


def wrong_norm(case: dict[str, Any]) -> None:
    case["expected"]["grad_student_logits_l2"] *= 1 + 2e-6


def wrong_row(case: dict[str, Any]) -> None:
    case["expected"]["grad_student_logits_row_sums_abs"][-1] *= 1 + 2e-6


def nan_loss(case: dict[str, Any]) -> None:
    case["inputs"]["old_log_probs"][0][0] = math.nan


@pytest.mark.parametrize("change", [wrong_loss, wrong_norm, wrong_row, nan_loss])
def test_a_difference_ends_with_1(
    change: Callable[[dict[str, Any]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = case_of("rlsd")
    change(other)
    file = write(tmp_path, case_of("grpo"), other)
    assert run(file) == 1
    first, second, _ = capsys.readouterr().out.splitlines()
    assert "FAILED" not in first
    assert "FAILED" in second
    assert run(file, "--json") == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_a_number_that_is_not_finite_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = case_of("rlsd")
    nan_loss(case)
    assert run(write(tmp_path, case_of("grpo"), case)) == 1
    first, second, _ = capsys.readouterr().out.splitlines()
    assert "nan" not in first
    assert "FAILED  the loss here is nan" in second
    assert "expected" not in second


def test_errors_are_relative_down_to_a_smallest_scale() -> None:
    assert relative_error(1.1, 1.0) == pytest.approx(0.1)
    assert relative_error(0.0, 1e-17) < 1e-7
    assert relative_error(1e-6, 0.0) > 1
    assert relative_error(math.nan, 1.0) == math.inf
    assert relative_error(1.0, math.nan) == math.inf


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "method": (lambda c: c.update(method="dpo"), "'dpo'"),
    "hyperparameter": (lambda c: c["hyperparameters"].update(gamma=1), "gamma"),
    "value": (lambda c: c["hyperparameters"].update(rlcsd_tau=-1), "tau"),
    "key": (lambda c: c.update(loss_agg_mode="seq-mean"), "loss_agg_mode"),
    "unknown input": (lambda c: c["inputs"].update(rollout_is=[1]), "unknown input 'rollout_is'"),
    "missing input": (
        lambda c: c["inputs"].pop("teacher_correct_log_probs"),
        "input teacher_correct_log_probs is missing",
    ),
    "missing wrong hints": (
        lambda c: c["inputs"].pop("teacher_wrong_multi_log_probs"),
        "input teacher_wrong_multi_log_probs is missing",
    ),
    "missing logits": (lambda c: c["inputs"].pop("student_logits"), "student_logits is missing"),
    "missing expectation": (lambda c: c["expected"].pop("loss"), "expected.loss"),
    "dimensions": (
        lambda c: c["inputs"].update(advantages=[0.1, 0.2, 0.3, 0.4]),
        "input advantages has shape [4]; it must be [B, T]",
    ),
    "shape": (
        lambda c: c["inputs"]["advantages"].pop(),
        "input advantages has shape [3, 9]; it must be [B, T] (B=4, T=9",
    ),
    "ragged": (lambda c: c["inputs"]["advantages"][0].pop(), "advantages is not an array"),
    "text": (lambda c: c["inputs"].update(advantages=["a"]), "advantages is not an array"),
    "token id": (
        lambda c: c["inputs"]["sampled_token_ids"][0].__setitem__(0, 24),
        "token id 24 is not an integer from 0 to 23",
    ),
    "rows": (
        lambda c: c["expected"]["grad_student_logits_row_sums_abs"].pop(),
        "3 numbers for 4 rows",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, named = BAD[name]
    case = case_of("rlcsd")
    change(case)
    assert run(write(tmp_path, case)) == 2
    printed = capsys.readouterr().err
    assert "case" in printed
    assert named in printed


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"[]", "`cases`"), (b'{"cases": []}', "`cases`")],
)
def test_files_of_another_format_are_refused(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=named):
        verify_losses(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        verify_losses(tmp_path / "none.json")


def test_optional_inputs_may_be_absent_or_null(tmp_path: Path) -> None:
    case = case_of("rlcsd")
    case["inputs"]["rollout_is_weights"] = None
    del case["inputs"]["rewards"]
    valid = case["inputs"].pop("teacher_wrong_multi_valid_mask")
    (errors,) = verify_losses(write(tmp_path, case))
    assert not all(map(all, valid))
    assert not errors.passed  # all wrong hints count now
    case["inputs"]["teacher_wrong_multi_valid_mask"] = valid
    assert verify_losses(write(tmp_path, case))[0].passed


def test_settings_of_teacher_and_hints_are_not_of_the_loss(tmp_path: Path) -> None:
    case = case_of("rlcsd")
    case["hyperparameters"] |= {"rlcsd_k_max": 4, "teacher_mode": "snapshot", "rlcsd_eta": None}
    assert verify_losses(write(tmp_path, case))[0].passed
    clips = case_of("grpo")
    clips["hyperparameters"] |= {"clip_ratio": 0.2, "clip_ratio_c": 3.0}
    assert verify_losses(write(tmp_path, clips))[0].passed


def test_opsd_ectr_knows_no_estimate_from_sampled_tokens(tmp_path: Path) -> None:
    case = case_of("opsd_ectr")
    case["hyperparameters"]["full_logit_distill"] = False
    with pytest.raises(InputError, match="full_logit_distill must be true"):
        verify_losses(write(tmp_path, case))


@pytest.mark.parametrize("name", ["opsd of sampled tokens", "sdpo of sampled tokens", "opd jsd"])
def test_larger_batches_and_other_variants_can_be_read(name: str, tmp_path: Path) -> None:
    method = build(METHODS[name])
    batch = make_batch(method, seed=1, rows=11, positions=17, vocab=50, support=8)
    targets = batch.targets
    fields = {
        "response_mask": targets.mask.int(),
        "old_log_probs": targets.old_log_probs,
        "advantages": targets.advantages,
        "rollout_is_weights": targets.importance,
        "teacher_correct_log_probs": targets.teacher,
        "topk_token_ids": targets.support_ids,
        "teacher_correct_topk_log_probs": targets.teacher_support,
        "sampled_token_ids": batch.sampled_ids,
        "student_logits": batch.logits.detach(),
    }
    batch = with_targets(batch, scored=None, step=1)
    gradient = gradient_of(batch)
    settings = dict(METHODS[name])
    case = {
        "method": settings.pop("kind"),
        "hyperparameters": settings,
        "inputs": {field: tensor.tolist() for field, tensor in fields.items()},
        "expected": {
            "loss": loss_of(batch).loss.item(),
            "grad_student_logits_l2": gradient.norm().item(),
            "grad_student_logits_row_sums_abs": gradient.abs().sum((1, 2)).tolist(),
        },
    }
    errors = verify_case(0, Case.model_validate(case))
    assert errors.loss < 1e-12
    assert errors.gradient < 1e-12


@pytest.mark.parametrize(
    ("method", "name", "off"),
    [("opsd", "jsd_token_clip", 0.0), ("rlsd", "lam_decay_steps", 0), ("sdpo", "is_clip", 1e9)],
)
def test_null_turns_off_what_can_be_turned_off(method: str, name: str, off: float) -> None:
    def errors(value: float | None) -> tuple[float, float]:
        case = case_of(method)
        case["hyperparameters"][name] = value
        found = verify_case(0, Case.model_validate(case))
        return found.loss, found.gradient

    assert errors(None) == errors(off)
