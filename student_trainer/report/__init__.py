"""The report: one HTML page that shows what a run did, to be opened anywhere, without a network."""

from student_trainer.report.build import STYLE_SHEET, write_report

__all__ = ["STYLE_SHEET", "write_report"]
