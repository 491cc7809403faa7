"""Methods by name: the union that a recipe's `method` is read with."""

from typing import Annotated

from pydantic import Field

from student_trainer.losses.base import LossPiece, Method, StudentLogProbs, Targets, TeacherNeeds
from student_trainer.losses.grpo import GrpoConfig
from student_trainer.losses.rlcsd import RlcsdConfig

MethodConfig = Annotated[GrpoConfig | RlcsdConfig, Field(discriminator="kind")]

__all__ = [
    "GrpoConfig",
    "LossPiece",
    "Method",
    "MethodConfig",
    "RlcsdConfig",
    "StudentLogProbs",
    "Targets",
    "TeacherNeeds",
]
