"""Forecasts as a file may hold them."""

from bad_files import written
from bad_scores import S

from qlib_ext.strategy import CostAwareStrategy


def give(text, place, market):
    """Write the file and read it as CostAwareStrategy does."""
    return CostAwareStrategy(signal=S, forecast=written(place / "own.json", text)).forecast
