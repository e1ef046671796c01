"""Check a provider folder of A shares before training on it; imports without qlib."""

from qlib_ext.check_data.check import CHECKS, check_data, check_start, spread, stocks_of
from qlib_ext.check_data.folder import Provider, Span, open_provider, read_block
from qlib_ext.check_data.lists import LEAST_STOCKS, members, thin_days
from qlib_ext.check_data.table import Check, Tally
from qlib_ext.check_data.units import Market

__all__ = [
    "CHECKS",
    "LEAST_STOCKS",
    "Check",
    "Market",
    "Provider",
    "Span",
    "Tally",
    "check_data",
    "check_start",
    "members",
    "open_provider",
    "read_block",
    "spread",
    "stocks_of",
    "thin_days",
]
