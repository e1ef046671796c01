"""A qlib provider folder read as day x stock grids, and what is trailing over them; imports without qlib."""

from qlib_ext.provider.files import fill_row, first_known, read_calendar, read_numbers, read_series
from qlib_ext.provider.storage import (
    ages,
    binary_folder,
    calendar,
    field_grid,
    first_closes,
    listed_days,
    read_days,
    read_fields,
    series_file,
    storage_of,
    wide,
)
from qlib_ext.provider.trailing import (
    last_known,
    load_liquidity,
    profiled_liquidity,
    trailing_mean,
    trailing_std,
    trailing_volatility,
    turnover_expression,
    unit_profile,
)

__all__ = [
    "ages",
    "binary_folder",
    "calendar",
    "field_grid",
    "fill_row",
    "first_closes",
    "first_known",
    "last_known",
    "listed_days",
    "load_liquidity",
    "profiled_liquidity",
    "read_calendar",
    "read_days",
    "read_fields",
    "read_numbers",
    "read_series",
    "series_file",
    "storage_of",
    "trailing_mean",
    "trailing_std",
    "trailing_volatility",
    "turnover_expression",
    "unit_profile",
    "wide",
]
