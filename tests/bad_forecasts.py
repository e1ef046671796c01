"""Forecasts as a file may hold them."""

from qlib_ext.strategy.cost_aware import read_forecast


def give(text, place, market):
    """Write the file and read it as CostAwareStrategy does."""
    (place / "own.json").write_text(text)
    return read_forecast(place / "own.json")
