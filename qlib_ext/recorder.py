"""SqliteExpManager and DemoCalendarProvider by the path that workflows name."""

from qlib_ext.runs.qlib_init import DemoCalendarProvider, SqliteExpManager, check_folder
from qlib_ext.runs.quiet import Silence, quieten
from qlib_ext.runs.start import check_task, check_workflow

__all__ = [
    "DemoCalendarProvider",
    "Silence",
    "SqliteExpManager",
    "check_folder",
    "check_task",
    "check_workflow",
    "quieten",
]
