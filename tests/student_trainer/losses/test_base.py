"""What holds for every method: who has a say in its loss, and who has none."""

import dataclasses

import pytest
import torch
from torch import Tensor

from student_trainer.losses import GrpoConfig, Targets, TeacherNeeds
from student_trainer.verify_losses import Batch
from tests.student_trainer.losses.random_batches import (
    METHODS,
    build,
    gradient_of,
    loss_of,
    make_batch,
    with_targets,
)

TAUGHT = [name for name in METHODS if name != "grpo"]
FIELDS_BY_TOKEN = (
    "old_log_probs",
    "advantages",
    "teacher",
    "wrong",
    "teacher_support",
    "wrong_support",
    "teacher_entropy",
    "importance",
)
"""Floating-point targets with a value for each token."""


def filled(targets: Targets, where: Tensor, value: float, *names: str) -> dict[str, Tensor]:
    """Those targets with `value` in place of what stands at `where`, `[B, T]`."""
    places = {"wrong": where[:, None], "teacher_support": where[..., None]}
    places["wrong_support"] = places["teacher_support"]
    return {
        name: getattr(targets, name).masked_fill(places.get(name, where), value) for name in names
    }


def assert_same(batch: Batch, other: Batch) -> None:
    assert torch.equal(loss_of(batch).loss, loss_of(other).loss)
    torch.testing.assert_close(gradient_of(batch), gradient_of(other), rtol=0, atol=0)


@pytest.mark.parametrize("name", TAUGHT)
def test_the_gradient_depends_on_the_teacher(name: str) -> None:
    # A loss whose expectation holds the teacher need not hold it in the gradient.
    batch = make_batch(build(METHODS[name]), seed=3)
    targets = batch.targets
    assert targets.teacher is not None
    assert targets.teacher_support is not None
    other = with_targets(
        batch,
        teacher=targets.teacher + 0.1 * targets.teacher.sin(),
        teacher_support=targets.teacher_support + 0.1 * targets.teacher_support.sin() - 0.2,
    )
    difference = (gradient_of(batch) - gradient_of(other)).abs().max()
    assert difference > 1e-4 * gradient_of(batch).abs().max()


@pytest.mark.parametrize("name", METHODS)
def test_masked_positions_have_no_say_even_as_nan(name: str) -> None:
    batch = make_batch(build(METHODS[name]), seed=4)
    broken = filled(batch.targets, ~batch.targets.mask, torch.nan, *FIELDS_BY_TOKEN)
    assert_same(batch, with_targets(batch, **broken))


@pytest.mark.parametrize("value", [0.0, -100.0, torch.nan])
@pytest.mark.parametrize("name", TAUGHT)
def test_missing_numbers_of_the_teacher_are_not_read(name: str, value: float) -> None:
    # A log prob of 0 in their place would be certainty.
    batch = make_batch(build(METHODS[name]), seed=5)
    assert batch.targets.scored is not None
    own = {"old_log_probs", "advantages", "importance"}
    names = [field for field in FIELDS_BY_TOKEN if field not in own]
    broken = filled(batch.targets, ~batch.targets.scored, value, *names)
    assert_same(batch, with_targets(batch, **broken))


@pytest.mark.parametrize("name", METHODS)
def test_holes_in_the_mask_shift_nothing(name: str) -> None:
    # The same tokens without the holes: each row's tokens moved to its beginning.
    batch = make_batch(build(METHODS[name]), seed=6)
    mask = batch.targets.mask
    assert any(not row[: row.nonzero().max()].all() for row in mask)
    order = (~mask).int().argsort(dim=1, stable=True)

    def moved(values: Tensor, dim: int = 1) -> Tensor:
        return torch.stack(
            [row.index_select(dim - 1, o) for row, o in zip(values, order, strict=True)]
        )

    changes = {
        field.name: moved(value, dim=2 if field.name == "wrong" else 1)
        for field in dataclasses.fields(Targets)
        if isinstance(value := getattr(batch.targets, field.name), Tensor)
        and field.name != "wrong_valid"
    }
    compact = dataclasses.replace(
        with_targets(batch, **changes),
        logits=moved(batch.logits.detach()).requires_grad_(),
        sampled_ids=moved(batch.sampled_ids),
    )
    torch.testing.assert_close(loss_of(compact).loss, loss_of(batch).loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient_of(compact), moved(gradient_of(batch)), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("name", [name for name in TAUGHT if METHODS[name]["kind"] != "opd"])
def test_without_the_teachers_numbers_the_reward_alone_trains(name: str) -> None:
    batch = make_batch(build(METHODS[name]), seed=7)
    ratio = 3.1  # beyond the dual clip, which methods with a surrogate of their own do without
    old = batch.student().sampled.detach() - torch.tensor(ratio).log()
    alone = with_targets(batch, scored=torch.zeros_like(batch.targets.mask), old_log_probs=old)
    dual_clip = 1e9 if METHODS[name]["kind"] in ("rlcsd", "rlsd", "rlsd_ectr") else 3.0
    grpo = dataclasses.replace(alone, method=GrpoConfig(dual_clip=dual_clip).build())
    torch.testing.assert_close(loss_of(alone).loss, loss_of(grpo).loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(alone), gradient_of(grpo), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_response_tokens_has_loss_0(name: str) -> None:
    batch = make_batch(build(METHODS[name]), seed=8)
    empty = with_targets(batch, mask=torch.zeros_like(batch.targets.mask))
    assert loss_of(empty).loss == 0
    assert (gradient_of(empty) == 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_float32_gives_the_loss_of_float64(name: str) -> None:
    batch = make_batch(build(METHODS[name]), seed=9)
    single = {
        field.name: value.float()
        for field in dataclasses.fields(Targets)
        if isinstance(value := getattr(batch.targets, field.name), Tensor)
        and value.dtype == torch.float64
    }
    narrow = dataclasses.replace(
        with_targets(batch, **single), logits=batch.logits.detach().float().requires_grad_()
    )
    assert loss_of(narrow).loss.dtype == torch.float32
    torch.testing.assert_close(
        loss_of(narrow).loss.double(), loss_of(batch).loss, rtol=2e-4, atol=1e-6
    )
    torch.testing.assert_close(
        gradient_of(narrow).double(), gradient_of(batch), rtol=2e-3, atol=2e-6
    )


def test_each_method_asks_the_teacher_for_what_it_reads_and_no_more() -> None:
    correct = TeacherNeeds(reads="correct_hint")
    both = TeacherNeeds(reads="both_hints")
    problem = TeacherNeeds(reads="problem")
    expected = {
        "grpo": TeacherNeeds(),
        "rlcsd": dataclasses.replace(both, sampled=True),
        "opsd": dataclasses.replace(correct, teacher_top_k=100),
        "opsd of sampled tokens": dataclasses.replace(correct, sampled=True),
        "opsd unclamped": dataclasses.replace(correct, teacher_top_k=100),
        "sdpo": dataclasses.replace(correct, student_top_k=100),
        "sdpo of sampled tokens": dataclasses.replace(correct, sampled=True),
        "srpo": dataclasses.replace(correct, student_top_k=100, entropy=True),
        "rlsd": dataclasses.replace(correct, sampled=True),
        "opsd_ectr": dataclasses.replace(both, wrong_hints=1, teacher_top_k=100),
        "rlsd_ectr": dataclasses.replace(both, wrong_hints=1, sampled=True),
        "opd": dataclasses.replace(problem, sampled=True),
        "opd supervised": dataclasses.replace(problem, teacher_top_k=64),
        "opd reverse_kl": dataclasses.replace(problem, student_top_k=64),
        "opd jsd": dataclasses.replace(problem, student_top_k=64),
    }
    assert {name: build(METHODS[name]).needs for name in METHODS} == expected


NEEDED = {
    "reads_wrong_sampled": ("wrong", "wrong_valid"),
    "sampled": ("teacher",),
    "support": ("support_ids", "teacher_support"),
    "reads_wrong_support": ("wrong_support",),
    "entropy": ("teacher_entropy",),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_does_not_ask_for_it_does_not_read(name: str) -> None:
    batch = make_batch(build(METHODS[name]), seed=10)
    needs = batch.method.needs
    both, support = needs.reads == "both_hints", bool(needs.teacher_top_k or needs.student_top_k)
    asked = {
        "reads_wrong_sampled": both and needs.sampled,
        "sampled": needs.sampled,
        "support": support,
        "reads_wrong_support": both and support,
        "entropy": needs.entropy,
    }
    absent = {field: None for need, fields in NEEDED.items() if not asked[need] for field in fields}
    assert_same(batch, with_targets(batch, **absent))
