"""The `metrics` section of a recipe."""

from pathlib import Path

from pydantic import Field

from counterhint.token_classes import DEFAULT_TOKEN_CLASSES
from student_trainer.config import Config


class MetricsConfig(Config):
    """What is measured beyond what costs nothing."""

    token_classes: Path = DEFAULT_TOKEN_CLASSES
    """YAML file that says which tokens are `style` and which `task`, to average the signals by. The
    one that comes with Counterhint fits English reasoning about mathematics and logic."""
    signals: bool = False
    """Asks the teacher for the sampled tokens' log probs even where the method does without them
    (4 bytes a token and pair), so that the one-sided signal is measured for every method that has a
    teacher."""
    kl_to_start_every: int | None = Field(None, ge=1)
    """Steps between two measurements of the divergence from the weights that the run began with;
    None measures none. Takes the memory of the student's weights once more, and a forward pass over
    the rollouts of such a step."""
    peak_tflops: float | None = Field(None, gt=0)
    """Peak of one GPU in dense bfloat16, in 10¹² FLOPs a second, for the model FLOPs utilisation;
    None takes it from a table of GPUs, and measures nothing on one that the table lacks."""
