"""The report: one HTML page that shows what a run did, to be opened anywhere, without a network."""

from student_trainer.report.build import write_report

__all__ = ["write_report"]
