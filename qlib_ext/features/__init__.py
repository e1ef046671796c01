"""Factors of daily bars. The qlib classes stand in `qlib_ext.handler` and `qlib_ext.processor`."""

from qlib_ext.features.factors import ALPHA158_NAMES, ALPHA360_NAMES, TOLERANCE, alpha158, alpha360

__all__ = ["ALPHA158_NAMES", "ALPHA360_NAMES", "TOLERANCE", "alpha158", "alpha360"]
