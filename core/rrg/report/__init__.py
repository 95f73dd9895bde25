"""`rrg report`: a run as one HTML page: its scores, its findings, its cases, what its modules saw."""

from rrg.report.page import write_page

__all__ = ["write_page"]
