"""The `rollouts` section of a recipe."""

from typing import Annotated

from pydantic import Field

from student_trainer.config import Config
from student_trainer.rollouts.base import SamplingRequest
from student_trainer.rollouts.built_in import BuiltInSamplerConfig
from student_trainer.rollouts.vllm_engine import VllmSamplerConfig
from student_trainer.rollouts.vllm_server import VllmServerSamplerConfig

SamplerConfig = Annotated[
    BuiltInSamplerConfig | VllmSamplerConfig | VllmServerSamplerConfig, Field(discriminator="kind")
]
"""The `rollouts.sampler` section of a recipe; its `kind` says which of these it is."""


class RolloutConfig(Config):
    """How rollouts are sampled for training."""

    prompts_per_step: int = Field(8, ge=1)
    """Problems in a step."""
    group_size: int = Field(8, ge=2)
    """G: rollouts a problem."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest response; one that reaches it counts as truncated."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; the student's log probs are taken at the same one, the teacher's always
    at 1. So at other temperatures the one-sided signal of metrics and report shows the difference
    in temperature as well; the contrast does not."""
    max_rows: int = Field(256, ge=1)
    """Most rollouts that are sampled at the same time."""
    max_staleness: int = Field(0, ge=0)
    """Steps that sampling may run ahead of training: with s, the groups of a step are sampled by
    weights s updates older, while the groups before them are scored. 0 is the synchronous run.
    `rollout_is` corrects for the difference. Sampling does not run ahead over a checkpoint."""
    sampler: SamplerConfig = BuiltInSamplerConfig()
    """What samples them."""

    def request(self, seed: int, top_k: int = 0) -> SamplingRequest:
        """The request that samples a step's groups, with the student's `top_k` at each position."""
        return SamplingRequest(
            group_size=self.group_size,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=seed,
            max_rows=self.max_rows,
            top_k=top_k,
        )
