"""SqliteExpManager and DemoCalendarProvider by the path that workflows name."""

from qlib_ext.runs.qlib_init import DemoCalendarProvider, SqliteExpManager, check_folder

__all__ = ["DemoCalendarProvider", "SqliteExpManager", "check_folder"]
