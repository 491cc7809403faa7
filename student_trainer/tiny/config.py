"""The `models` section of a recipe: how its tiny models are made."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from student_trainer.config import Config
from student_trainer.tiny.demonstrations import DemonstratorConfig, LessonConfig


class ShapeConfig(Config):
    """Size of a Llama model with tied embeddings."""

    layers: int = Field(ge=1)
    """Transformer layers."""
    width: int = Field(ge=1)
    """Width of the residual stream."""
    mlp_width: int = Field(ge=1)
    """Width inside the MLP."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""
    kv_heads: int = Field(default=2, ge=1)
    """Key-value heads, each shared by `heads` / `kv_heads` attention heads."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"width ({self.width}) must be an even multiple of heads ({self.heads})"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        return self


class WarmupConfig(Config):
    """Supervised training from scratch on demonstrations."""

    lessons: tuple[LessonConfig, ...] = Field(
        default=(
            LessonConfig(examples=4000),
            LessonConfig(examples=13_000, hinted_share=0.6),
            LessonConfig(examples=5000, hinted_share=0.25),
        ),
        min_length=1,
    )
    """What is learnt, one lesson after the other: the facts, then the use of hints, then both with
    the facts in front. Hints right away would leave little reason to know the facts."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Tokens of an optimizer step. Small batches learn the facts from fewer examples."""
    working_weight: float = Field(default=4.0, gt=0)
    """Weight in the loss of digits and operations; wording has 1."""
    matrix_lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of the weight matrices (Muon)."""
    lr: float = Field(default=5e-3, gt=0)
    """Peak learning rate of the embeddings and norms (AdamW)."""
    rise_share: float = Field(default=0.05, gt=0, lt=1)
    """Share of the steps over which the learning rates rise, at the beginning."""
    fall_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the steps over which they fall to 0, at the end."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""


class GateConfig(Config):
    """What a model must show after the warm-up, or its making ends with an error."""

    problems: int = Field(default=512, ge=1)
    """Held-out problems that each figure is measured on."""
    min_accuracy: float = Field(ge=0, le=1)
    """Least share of problems solved without a hint, at temperature 1."""
    max_accuracy: float = Field(ge=0, le=1)
    """Largest such share."""
    max_blind_copy: float = Field(default=0.15, ge=0, le=1)
    """Largest probability given to the hint's value once the solution has left the hint's path. A
    model that copies blindly makes every signal from hints worthless."""
    min_hint_trust: float = Field(default=0.6, ge=0, le=1)
    """Least probability given to the hint's value where operands agree; without trust in hints
    there is no signal at all."""


class TinyModelConfig(Config):
    """One model."""

    shape: ShapeConfig
    """Its size."""
    author: DemonstratorConfig = DemonstratorConfig()
    """Who writes its demonstrations."""
    warmup: WarmupConfig = WarmupConfig()
    """How it is trained on them."""
    gate: GateConfig
    """What it must show after."""
    seed: int = 0
    """Seed of its weights and demonstrations."""


class ShippedModelConfig(Config):
    """A model that comes ready made."""

    folder: Path
    """Its folder, relative to the working directory."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of its `model.safetensors`."""


class TinyModelsConfig(Config):
    """The models that a recipe starts from. Both share one tokenizer."""

    kind: Literal["tiny"] = "tiny"
    """Made from scratch."""
    student: TinyModelConfig
    """The student."""
    teacher: TinyModelConfig | None = None
    """The larger teacher, where there is one. Its hints are written by the student's author."""
    shipped_teacher: ShippedModelConfig | None = None
    """The teacher made earlier by these settings, to be copied instead of made again."""
