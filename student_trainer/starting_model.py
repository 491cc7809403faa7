"""A frozen copy of the model that a run started from, to see how far the student has moved."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from student_trainer.batches import BatchConfig, Row
from student_trainer.forward import StudentForward
from student_trainer.models import StudentConfig, load_student
from student_trainer.progress import Progress
from student_trainer.ranks import Ranks
from student_trainer.sharding import shard
from student_trainer.update import response_log_probs


class StartingModel:
    """The student as it was before step 1, in evaluation only; takes its memory once more.

    Args:
        config: the student's; adapters and checkpointing are left away.
        temperature: the sampler's.
        ranks: the processes of the run, over which it is sharded like the student.
    """

    def __init__(self, config: StudentConfig, temperature: float, ranks: Ranks) -> None:
        plain = config.model_copy(update={"lora": None, "gradient_checkpointing": False})
        self._student = load_student(plain, ranks)
        self._student.model.requires_grad_(False)
        self._forward = StudentForward(self._student.model, temperature)
        shard(self._forward, self._student, ranks)
        self._ranks = ranks

    def log_probs(
        self, rows: Sequence[Row], batch: BatchConfig, progress: Progress
    ) -> list[NDArray[np.float32]]:
        """Its log probs of each row's response, `[T]` each."""
        return response_log_probs(self._student, self._forward, rows, batch, self._ranks, progress)
