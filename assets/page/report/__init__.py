"""The report: one HTML file with what a run did, made from a root's tables and what is remembered of its pictures."""

from assets.page.report.prints import write_pictures
from assets.page.report.provenance import Provenance
from assets.page.report.write import Report, write_report

__all__ = ["Provenance", "Report", "write_pictures", "write_report"]
