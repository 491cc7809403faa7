"""Tasks: where the problems come from and how responses are graded."""

from typing import Annotated

from pydantic import Field

from student_trainer.tasks.chain import ChainTaskConfig
from student_trainer.tasks.files import FileTaskConfig
from student_trainer.tasks.reasoning_gym import ReasoningGymTaskConfig

TaskConfig = Annotated[
    ChainTaskConfig | ReasoningGymTaskConfig | FileTaskConfig, Field(discriminator="kind")
]
"""The `task` section of a recipe; its `kind` says which of these it is."""

__all__ = ["ChainTaskConfig", "FileTaskConfig", "ReasoningGymTaskConfig", "TaskConfig"]
