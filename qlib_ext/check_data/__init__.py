"""Check a provider folder of A shares before training on it; the door is `check_data`."""

from qlib_ext.check_data.check import check_data, stocks_of
from qlib_ext.check_data.folder import Provider, Span, open_provider, read_block
from qlib_ext.check_data.lists import check_calendar
from qlib_ext.check_data.table import CHECKS, Tally
from qlib_ext.check_data.units import Market

__all__ = [
    "CHECKS",
    "Market",
    "Provider",
    "Span",
    "Tally",
    "check_calendar",
    "check_data",
    "open_provider",
    "read_block",
    "stocks_of",
]
