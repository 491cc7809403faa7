"""The report: one HTML page that shows what runs did, to be opened anywhere, without a network."""

from student_trainer.report.build import report_styles, write_report

__all__ = ["report_styles", "write_report"]
