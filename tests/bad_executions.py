"""Texts of files of executions."""

from bad_files import written

from qlib_ext.strategy import read_executions


def give(text, place, market):
    """Write the file and read it as `qlib-ext fit-impact` does: a list of each order's cells."""
    orders = read_executions(written(place / "own.csv", text))
    return [[str(cell) for cell in row] for row in orders.assign(day=orders["day"].dt.date).to_numpy()]
