"""Batches of random numbers for every method, with all that a loss has to cope with: masks with
holes, tokens without the teacher's numbers, rollouts with fewer wrong hints than others."""

import dataclasses

import torch
from pydantic import TypeAdapter
from torch import Tensor

from student_trainer.losses import LossPiece, Method, MethodConfig, StudentLogProbs, Targets
from student_trainer.verify_losses import Batch

METHODS: dict[str, dict[str, object]] = {
    "grpo": {"kind": "grpo"},
    "rlcsd": {"kind": "rlcsd", "tau": 0.3, "delta": 0.1, "eta": 0.7},
    "opsd": {"kind": "opsd", "beta": 0.3},
    "opsd of sampled tokens": {"kind": "opsd", "full_logit_distill": False, "jsd_token_clip": 0.5},
    "opsd unclamped": {"kind": "opsd", "jsd_token_clip": 0},
    "sdpo": {"kind": "sdpo"},
    "sdpo of sampled tokens": {"kind": "sdpo", "alpha": 1, "full_logit_distill": False},
    "srpo": {"kind": "srpo", "distill_add_tail": False},
    "rlsd": {"kind": "rlsd", "epsilon_w": 0.4},
    "opsd_ectr": {"kind": "opsd_ectr", "alpha": 0.8, "cw_tau": 0.2, "log_w_floor": -1.5},
    "rlsd_ectr": {"kind": "rlsd_ectr", "lam": 1.0, "lam_decay_steps": 0},
    "opd": {"kind": "opd", "task_reward": 0.4, "min_log_prob": -2, "max_log_ratio": 1},
    "opd supervised": {"kind": "opd", "mode": "supervised"},
    "opd reverse_kl": {"kind": "opd", "mode": "reverse_kl", "distill_add_tail": False},
    "opd jsd": {"kind": "opd", "mode": "jsd", "jsd_mix": 0.2},
}
"""A method and its hyperparameters by a name for the test; `top_k_distill` plays no part in a loss,
which takes its support as it comes."""


def build(settings: dict[str, object]) -> Method:
    return TypeAdapter[MethodConfig](MethodConfig).validate_python(settings).build()


def make_batch(
    method: Method,
    seed: int,
    rows: int = 4,
    positions: int = 6,
    vocab: int = 9,
    support: int = 4,
    hints: int = 3,
) -> Batch:
    """A batch in float64, most of whose policy ratios are near 1 and some far from it."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def distributions(*shape: int) -> Tensor:
        return (4 * uniform(*shape, vocab)).log_softmax(-1)

    logits = 4 * uniform(rows, positions, vocab)
    ids = torch.randint(vocab, (rows, positions), generator=generator)
    log_probs = logits.log_softmax(-1)
    teacher = 0.5 * log_probs + 0.5 * distributions(rows, positions)
    teacher, wrong = teacher.log_softmax(-1), distributions(rows, hints, positions)
    support_ids = teacher.topk(support).indices
    sampled = log_probs.gather(-1, ids[..., None])[..., 0]
    wrong_ids = ids[:, None].expand(rows, hints, positions)
    wrong_valid = uniform(rows, hints) > 0.4
    wrong_valid[:, 0] = True
    targets = Targets(
        mask=uniform(rows, positions) > 0.25,
        advantages=2 * uniform(rows, 1).expand(rows, positions) - 1,
        old_log_probs=sampled + (uniform(rows, positions) - 0.5) ** 3 * 6,
        step=7,
        scored=(uniform(rows, positions) > 0.2) & (uniform(rows, 1) > 0.1),
        teacher=teacher.gather(-1, ids[..., None])[..., 0],
        wrong=wrong.gather(-1, wrong_ids[..., None])[..., 0],
        wrong_valid=wrong_valid,
        support_ids=support_ids,
        teacher_support=teacher.gather(-1, support_ids),
        wrong_support=wrong[:, 0].gather(-1, support_ids),
        teacher_entropy=-(teacher.exp() * teacher).sum(-1),
        importance=2 * uniform(rows, positions),
    )
    return Batch(method, logits.requires_grad_(), ids, targets)


def loss_of(batch: Batch) -> LossPiece:
    """The loss of a whole batch."""
    return batch.method.loss(batch.student(), batch.targets, batch.method.totals(batch.targets))


def gradient_of(batch: Batch) -> Tensor:
    """Its gradient, `[B, T, V]`."""
    (gradient,) = torch.autograd.grad(loss_of(batch).loss, batch.logits)
    return gradient


def with_targets(batch: Batch, **changes: object) -> Batch:
    """The batch with some of its targets replaced."""
    return dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, **changes))


def take(batch: Batch, rows: list[int]) -> tuple[StudentLogProbs, Targets]:
    """Some rows of a batch, with gradient to the whole batch's logits."""
    student = batch.student()
    return (
        StudentLogProbs(
            student.sampled[rows], None if student.support is None else student.support[rows]
        ),
        dataclasses.replace(
            batch.targets,
            **{
                field.name: value[rows]
                for field in dataclasses.fields(Targets)
                if isinstance(value := getattr(batch.targets, field.name), Tensor)
            },
        ),
    )
