"""Texts of files of exposures."""

from bad_files import written

from qlib_ext.strategy.cost_aware import read_exposures


def give(text, place, market):
    """Write the file and read it as CostAwareStrategy does: {column: {code: its last value}}."""
    columns = read_exposures(written(place / "own.csv", text))
    return {name: grid.iloc[-1].to_dict() for name, grid in columns.items()}
