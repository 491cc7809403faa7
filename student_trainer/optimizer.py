"""The optimizer: AdamW, a learning-rate schedule with warm-up, gradient clipping.

Parameters may be sharded over ranks: then so is the optimizer's state, and its methods are
collective.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from counterhint import CounterhintError
from student_trainer.config import Config
from student_trainer.shards import whole


class OptimizerConfig(Config):
    """How the student's weights are updated."""

    lr: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the learning rate does after the warm-up; linear and cosine end at `final_lr_share`."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    final_lr_share: float = Field(0.0, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's ε."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""


class GradientNotFinite(CounterhintError):
    """The gradient holds infinities or NaN; the weights are as they were before the step."""

    def __init__(self, step: int, norm: float) -> None:
        super().__init__(
            f"step {step + 1}: the norm of the gradient is {norm}: lower optimizer.lr, train with "
            "student.dtype=float32, or go on from the last checkpoint with resume=true",
            reason="GRADIENT_NOT_FINITE",
            details={"step": step + 1, "norm": norm},
        )


class Optimizer:
    """AdamW over named parameters."""

    def __init__(
        self, config: OptimizerConfig, parameters: Mapping[str, Tensor], total_steps: int
    ) -> None:
        self.config = config
        self.parameters = dict(parameters)
        self._total_steps = total_steps
        self.adamw = torch.optim.AdamW(
            list(parameters.values()),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of step 0, 1, …"""
        config = self.config
        if step < config.warmup_steps:
            return config.lr * (step + 1) / config.warmup_steps
        done = (step - config.warmup_steps) / max(1, self._total_steps - config.warmup_steps)
        if config.schedule == "constant":
            share = 1.0
        elif config.schedule == "linear":
            share = 1.0 - done
        else:
            share = 0.5 * (1.0 + math.cos(math.pi * done))
        return config.lr * (config.final_lr_share + (1 - config.final_lr_share) * share)

    def update(self, step: int) -> float:
        """Clips the gradients, updates the weights and clears the gradients.

        Returns:
            The norm of the whole gradient before clipping.

        Raises:
            GradientNotFinite: nothing was updated.
        """
        parameters = [p for p in self.parameters.values() if p.grad is not None]
        total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = whole(total)
        if not torch.isfinite(norm):
            raise GradientNotFinite(step, float(norm))
        torch.nn.utils.clip_grads_with_norm_(parameters, self.config.grad_clip, total)
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate(step)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return float(norm)

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizer's own state, `parameter name/state name`, sharded like the parameters:
        what is copied into them is its state from then on. Zeros before the first step, as AdamW
        itself begins."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            state = self.adamw.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)  # AdamW keeps it on the CPU
                state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
                state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
            tensors |= {f"{name}/{key}": value for key, value in state.items()}
        return tensors
