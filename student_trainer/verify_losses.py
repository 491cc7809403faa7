"""The losses against numbers of another implementation: `counterhint verify-losses`.

A file of reference losses is JSON with a list `cases`. Each case has

- `method`, `hyperparameters` and `global_step` (null: the first), named as in the authors'
  implementation of arXiv 2606.11709;
- `inputs`: nested lists; `SHAPES` names them all, `read_targets` says which a method needs;
- `expected`: the loss, the L2 norm of its gradient with respect to the student's logits, and the
  sum of that gradient's absolute values over each row.

All is computed in float64 and by the code that trains: the student's log probs of sampled and
support tokens, `Targets`, `totals` and `loss`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from counterhint.errors import InputError
from student_trainer.losses import Method, MethodConfig, StudentLogProbs, Targets

TOLERANCE = 1e-6
"""Largest relative error of a loss or a gradient that passes."""
SMALLEST_SCALE = 1e-9
"""Errors are relative to the expected number, or to this where that is smaller in size."""

SHAPES = {
    "student_logits": "BTV",
    "sampled_token_ids": "BT",
    "response_mask": "BT",
    "old_log_probs": "BT",
    "advantages": "BT",
    "rewards": "B",
    "rollout_log_probs": "BT",
    "rollout_is_weights": "BT",
    "teacher_correct_log_probs": "BT",
    "teacher_wrong_log_probs": "BT",
    "teacher_wrong_multi_log_probs": "BKT",
    "teacher_wrong_multi_valid_mask": "BK",
    "topk_token_ids": "BTk",
    "teacher_correct_topk_log_probs": "BTk",
    "teacher_wrong_topk_log_probs": "BTk",
    "teacher_entropy": "BT",
}
"""The inputs and their dimensions: B rollouts, T positions, V tokens of the vocabulary, K wrong
hints, k tokens of the support."""

PREFIXES = {"rlcsd": "rlcsd_", "srpo": "srpo_", "opsd_ectr": "opsd_ectr_"}
"""What the reference puts before some hyperparameters of a method."""
RENAMED = {"clip_ratio": "epsilon", "clip_ratio_c": "dual_clip"}
"""Hyperparameters that have another name here."""
NOT_OF_THE_LOSS = {"rlcsd_k_max", "teacher_mode", "ema_decay", "teacher_sync_interval"}
"""Settings of the reference that say which hints and which teacher, not what the loss is."""

_CONFIGS: TypeAdapter[MethodConfig] = TypeAdapter(MethodConfig)


class Expected(BaseModel):
    """What the other implementation computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: float
    grad_student_logits_l2: float
    grad_student_logits_row_sums_abs: list[float]
    metrics: dict[str, float | None] = {}


class Case(BaseModel):
    """One loss on one batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    seed: int | None = None
    method: str
    hyperparameters: dict[str, bool | int | float | str | None]
    global_step: int | None = Field(None, ge=0)
    inputs: dict[str, list[Any] | None]
    expected: Expected


@dataclass(frozen=True, slots=True)
class CaseErrors:
    """How far a case is from what was expected."""

    case: int
    """Its place in the file, from 0."""
    method: str
    """The method."""
    loss: float
    """Relative error of the loss; infinite where either number is not finite."""
    gradient: float
    """Largest relative error of the gradient's norm and row sums; likewise."""
    not_finite: tuple[str, ...] = ()
    """Which of the numbers are not finite: `the loss here is nan`, `expected.loss is inf`."""

    @property
    def passed(self) -> bool:
        """Whether both are within the tolerance."""
        return self.loss <= TOLERANCE and self.gradient <= TOLERANCE


@dataclass(frozen=True, slots=True)
class Batch:
    """A case as tensors."""

    method: Method
    """The method with the case's hyperparameters."""
    logits: Tensor
    """float64 `[B, T, V]`: the student's, with gradient."""
    sampled_ids: Tensor
    """int64 `[B, T]`; 0 at masked positions."""
    targets: Targets
    """What the loss compares with."""

    def student(self) -> StudentLogProbs:
        """The student's log probs of the sampled tokens and of the support."""
        log_probs = self.logits.log_softmax(-1)
        support = self.targets.support_ids
        return StudentLogProbs(
            log_probs.gather(-1, self.sampled_ids[..., None])[..., 0],
            None if support is None else log_probs.gather(-1, support),
        )


def verify_losses(file: Path) -> list[CaseErrors]:
    """The errors of each case of a file.

    Raises:
        InputError: the file cannot be read or is not of the format; a method or hyperparameter is
            unknown; an input is missing or does not fit the others.
    """
    return [verify_case(index, case) for index, case in enumerate(read_cases(file))]


def summarize(cases: Sequence[CaseErrors]) -> dict[str, Any]:
    """The errors of each case and the largest, for JSON: infinite errors are None."""

    def errors(loss: float, gradient: float) -> dict[str, float | None]:
        return {
            "loss_error": loss if math.isfinite(loss) else None,
            "gradient_error": gradient if math.isfinite(gradient) else None,
        }

    return {
        "passed": all(case.passed for case in cases),
        "tolerance": TOLERANCE,
        **errors(max(case.loss for case in cases), max(case.gradient for case in cases)),
        "cases": [
            {"case": case.case, "method": case.method, **errors(case.loss, case.gradient)}
            for case in cases
        ],
    }


def read_cases(file: Path) -> list[Case]:
    """The cases of a file; at least one.

    Raises:
        InputError: the file cannot be read or is not of the format.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file} is not JSON in UTF-8: {error}") from error
    cases = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(cases, list) or not cases:
        raise InputError(f"{file} must hold an object with a list `cases` that is not empty")
    try:
        return TypeAdapter(list[Case]).validate_python(cases)
    except ValidationError as error:
        raise InputError(f"{file}: {_describe(error, 'case ')}") from error


def verify_case(index: int, case: Case) -> CaseErrors:
    """Computes a case's loss and gradient and compares them.

    Raises:
        InputError: as `verify_losses`.
    """
    try:
        batch = read_batch(case)
    except InputError as error:
        raise InputError(f"case {index} ({case.method}): {error}") from error
    totals = batch.method.totals(batch.targets)
    piece = batch.method.loss(batch.student(), batch.targets, totals)
    (gradient,) = torch.autograd.grad(piece.loss, batch.logits)
    expected = case.expected
    norms = [gradient.norm().item(), *gradient.abs().sum((1, 2)).tolist()]
    references = [expected.grad_student_logits_l2, *expected.grad_student_logits_row_sums_abs]
    if len(norms) != len(references):
        raise InputError(
            f"case {index} ({case.method}): expected.grad_student_logits_row_sums_abs has "
            f"{len(references) - 1} numbers for {len(gradient)} rows"
        )
    return CaseErrors(
        index,
        case.method,
        relative_error(piece.loss.item(), expected.loss),
        max(map(relative_error, norms, references)),
        tuple(
            f"{name} is {value}"
            for name, value in (
                ("the loss here", piece.loss.item()),
                ("expected.loss", expected.loss),
                ("the gradient's norm here", norms[0]),
                ("expected.grad_student_logits_l2", expected.grad_student_logits_l2),
            )
            if not math.isfinite(value)
        ),
    )


def read_batch(case: Case) -> Batch:
    """A case as tensors.

    Raises:
        InputError: as `verify_losses`.
    """
    method, inputs = build_method(case), read_inputs(case)
    mask = required(inputs, "response_mask").bool()
    logits = required(inputs, "student_logits").requires_grad_()
    return Batch(
        method,
        logits,
        token_ids(required(inputs, "sampled_token_ids"), mask, logits.shape[-1]),
        read_targets(method, inputs, mask, logits.shape[-1], max(case.global_step or 1, 1)),
    )


SWITCHED_OFF = {"jsd_token_clip": 0.0, "is_clip": 1e9, "cw_tau": 0.0, "lam_decay_steps": 0}
"""What null stands for where it turns something off; elsewhere null is the default."""


def build_method(case: Case) -> Method:
    """The method of a case with its hyperparameters.

    Raises:
        InputError: the method or a hyperparameter is unknown, or a value is not allowed.
    """
    prefix = PREFIXES.get(case.method, "")
    settings: dict[str, object] = {}
    for name, value in case.hyperparameters.items():
        own = name.removeprefix(prefix)
        if name not in NOT_OF_THE_LOSS and (value is not None or own in SWITCHED_OFF):
            settings[RENAMED.get(own, own)] = SWITCHED_OFF[own] if value is None else value
    if case.method == "opsd_ectr" and settings.pop("full_logit_distill", True) is not True:
        raise InputError("opsd_ectr compares distributions: full_logit_distill must be true")
    try:
        return _CONFIGS.validate_python({"kind": case.method, **settings}).build()
    except ValidationError as error:
        raise InputError(_describe(error)) from error


def read_inputs(case: Case) -> dict[str, Tensor]:
    """The inputs as float64 tensors whose dimensions agree.

    Raises:
        InputError: an input is unknown, is not an array of numbers, or does not fit the others.
    """
    sizes: dict[str, int] = {}
    tensors = {}
    for name, values in case.inputs.items():
        if name not in SHAPES:
            raise InputError(f"unknown input {name!r}; known are {', '.join(SHAPES)}")
        if values is None:
            continue
        try:
            tensor = torch.tensor(values, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"input {name} is not an array of numbers: {error}") from error
        letters = SHAPES[name]
        if tensor.dim() != len(letters) or any(
            sizes.setdefault(letter, size) != size
            for letter, size in zip(letters, tensor.shape, strict=True)
        ):
            found = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
            raise InputError(
                f"input {name} has shape {list(tensor.shape)}; "
                f"it must be [{', '.join(letters)}] ({found} so far)"
            )
        tensors[name] = tensor
    return tensors


def read_targets(
    method: Method, inputs: dict[str, Tensor], mask: Tensor, vocab: int, step: int
) -> Targets:
    """What the loss compares with, as far as the method needs it.

    Raises:
        InputError: an input that the method needs is missing.
    """
    needs = method.needs
    both = needs.reads == "both_hints"
    wrong = wrong_valid = support_ids = teacher_support = wrong_support = None
    if needs.sampled and both:
        if needs.wrong_hints == 1:
            wrong = required(inputs, "teacher_wrong_log_probs")[:, None]
        else:
            wrong = required(inputs, "teacher_wrong_multi_log_probs")
            wrong_valid = inputs.get("teacher_wrong_multi_valid_mask")
        everywhere = torch.ones(wrong.shape[:2], dtype=torch.bool)
        wrong_valid = everywhere if wrong_valid is None else wrong_valid.bool()
    if needs.teacher_top_k or needs.student_top_k:
        support_ids = token_ids(required(inputs, "topk_token_ids"), mask[..., None], vocab)
        teacher_support = required(inputs, "teacher_correct_topk_log_probs")
        wrong_support = required(inputs, "teacher_wrong_topk_log_probs") if both else None
    return Targets(
        mask=mask,
        advantages=required(inputs, "advantages"),
        old_log_probs=required(inputs, "old_log_probs"),
        step=step,
        teacher=required(inputs, "teacher_correct_log_probs") if needs.sampled else None,
        wrong=wrong,
        wrong_valid=wrong_valid,
        support_ids=support_ids,
        teacher_support=teacher_support,
        wrong_support=wrong_support,
        teacher_entropy=required(inputs, "teacher_entropy") if needs.entropy else None,
        importance=inputs.get("rollout_is_weights"),
    )


def required(inputs: dict[str, Tensor], name: str) -> Tensor:
    """An input that must be there.

    Raises:
        InputError: it is not.
    """
    if name not in inputs:
        raise InputError(f"input {name} is missing")
    return inputs[name]


def token_ids(values: Tensor, mask: Tensor, vocab: int) -> Tensor:
    """Token ids as int64; 0 at masked positions.

    Raises:
        InputError: one is not an integer from 0 to `vocab` − 1.
    """
    ids = torch.where(mask, values, 0.0)
    wrong = ids[(ids < 0) | (ids >= vocab) | (ids != ids.round())]
    if len(wrong):
        raise InputError(f"token id {wrong[0].item():g} is not an integer from 0 to {vocab - 1}")
    return ids.long()


def relative_error(value: float, expected: float) -> float:
    """|value − expected| / |expected|, see `SMALLEST_SCALE`; infinite if either is not finite."""
    if not (math.isfinite(value) and math.isfinite(expected)):
        return math.inf
    return abs(value - expected) / max(abs(expected), SMALLEST_SCALE)


def _describe(error: ValidationError, prefix: str = "") -> str:
    return "; ".join(
        f"{prefix}{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")
        for problem in error.errors(include_input=False)
    )
