"""Rollouts → the teacher's scores of them."""

from student_trainer.scoring.config import ScoringConfig
from student_trainer.scoring.connection import credentials_of, find_teacher, open_client
from student_trainer.scoring.counts import ScoringCounts
from student_trainer.scoring.group_scoring import GroupScoring, PendingGroup, ScoredGroup
from student_trainer.scoring.scores import TeacherScores
from student_trainer.scoring.tokenizers import StudentTokens

__all__ = [
    "GroupScoring",
    "PendingGroup",
    "ScoredGroup",
    "ScoringConfig",
    "ScoringCounts",
    "StudentTokens",
    "TeacherScores",
    "credentials_of",
    "find_teacher",
    "open_client",
]
