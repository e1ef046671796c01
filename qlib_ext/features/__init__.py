"""Factors of daily bars. The qlib classes stand in `qlib_ext.handler` and `qlib_ext.processor`."""

from qlib_ext.features.factors import ALPHA158_NAMES, ALPHA360_NAMES, TOLERANCE, alpha158, alpha360, fill, require_numba
from qlib_ext.features.kernels import LEAD

__all__ = ["ALPHA158_NAMES", "ALPHA360_NAMES", "LEAD", "TOLERANCE", "alpha158", "alpha360", "fill", "require_numba"]
