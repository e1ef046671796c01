"""ReportRecord by the path that workflows name."""

from qlib_ext.record import ReportRecord

__all__ = ["ReportRecord"]
