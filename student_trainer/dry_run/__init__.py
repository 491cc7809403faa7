"""`counterhint train --dry-run`: all that can be checked without loading weights."""

from student_trainer.dry_run.checklist import Check, Checklist
from student_trainer.dry_run.run import dry_run

__all__ = ["Check", "Checklist", "dry_run"]
