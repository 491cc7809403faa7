"""Finished runs side by side: a table with standard errors over seeds, and plots."""

from student_trainer.comparison.write import write_comparison

__all__ = ["write_comparison"]
