"""Methods by name: the union that a recipe's `method` is read with."""

from typing import Annotated

from pydantic import Field

from student_trainer.losses.base import LossPiece, Method, StudentLogProbs, Targets, TeacherNeeds
from student_trainer.losses.grpo import GrpoConfig
from student_trainer.losses.opd import OpdConfig
from student_trainer.losses.opsd import OpsdConfig
from student_trainer.losses.opsd_ectr import OpsdEctrConfig
from student_trainer.losses.rlcsd import RlcsdConfig
from student_trainer.losses.rlsd import RlsdConfig
from student_trainer.losses.rlsd_ectr import RlsdEctrConfig
from student_trainer.losses.sdpo import SdpoConfig
from student_trainer.losses.srpo import SrpoConfig

MethodConfig = Annotated[
    GrpoConfig
    | RlcsdConfig
    | OpsdConfig
    | SdpoConfig
    | SrpoConfig
    | RlsdConfig
    | OpsdEctrConfig
    | RlsdEctrConfig
    | OpdConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "GrpoConfig",
    "LossPiece",
    "Method",
    "MethodConfig",
    "OpdConfig",
    "OpsdConfig",
    "OpsdEctrConfig",
    "RlcsdConfig",
    "RlsdConfig",
    "RlsdEctrConfig",
    "SdpoConfig",
    "SrpoConfig",
    "StudentLogProbs",
    "Targets",
    "TeacherNeeds",
]
