"""A qlib provider folder read as day x stock grids, and what is trailing over them."""

from qlib_ext.provider.storage import (
    ages,
    binary_folder,
    field_grid,
    first_closes,
    read_days,
    read_fields,
    read_series,
    wide,
)
from qlib_ext.provider.trailing import (
    load_liquidity,
    profiled_liquidity,
    turnover_expression,
    turnover_of,
    unit_profile,
)

__all__ = [
    "ages",
    "binary_folder",
    "field_grid",
    "first_closes",
    "load_liquidity",
    "profiled_liquidity",
    "read_days",
    "read_fields",
    "read_series",
    "turnover_expression",
    "turnover_of",
    "unit_profile",
    "wide",
]
