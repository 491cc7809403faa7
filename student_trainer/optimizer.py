"""The optimizer: AdamW, a learning-rate schedule with warm-up, gradient clipping."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from student_trainer.config import Config


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


class Optimizer:
    """AdamW over named parameters."""

    def __init__(
        self, config: OptimizerConfig, parameters: dict[str, Tensor], total_steps: int
    ) -> None:
        self.config = config
        self.parameters = parameters
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
            The norm of the gradient before clipping.
        """
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters.values(), self.config.grad_clip, error_if_nonfinite=True
        )
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate(step)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return float(norm)

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizer's state as named tensors: `parameter name/state name`."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.adamw.state[parameter].items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what `state_tensors` gave."""
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition("/")
            parameter = self.parameters[name]
            # AdamW keeps its step counter on the CPU.
            place = value if key == "step" else value.to(parameter.device)
            self.adamw.state[parameter][key] = place
