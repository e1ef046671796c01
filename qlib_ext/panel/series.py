"""Series by (datetime, instrument) where grids are wanted: laid out as (D, N) on the days and stocks of the first."""

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from qlib_ext.panel.scores import check_scores

P = ParamSpec("P")
T = TypeVar("T")
FLAGS = ("buyable", "mask")  # grids of bool: what a Series does not tell is False
ALONE = ("exposures", "trading")  # of a panel: they have no form as a Series


def takes_series(*names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function of grids (D, N) take Series by (datetime, instrument) for the arguments named, or none of them.

    The days and stocks are those of the first argument; the others are looked up there by day and code (read as
    `check_scores` reads them), NaN where they tell nothing, and a frame of days x codes likewise. A frame of D rows
    that comes back is indexed by the days, (D,) becomes a Series by day, (D, N) one by (datetime, instrument).

    Raises: TypeError where Series and grids are mixed, ValueError where two share no day and stock, and as
        `check_scores`.

    >>> @takes_series("score", "label")
    ... def hits(score, label):
    ...     return ((score > 0) == (label > 0)).mean(axis=1)
    >>> index = pd.MultiIndex.from_product([["2022-01-04"], ["SH600000", "SZ000001"]], names=["datetime", "instrument"])
    >>> score, label = pd.Series([1.0, -1.0], index), pd.Series([-0.01, 0.02], index[::-1])
    >>> hits(score, label).to_dict()
    {Timestamp('2022-01-04 00:00:00'): 1.0}
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @wraps(function)
        def taken(*args: P.args, **options: P.kwargs) -> T:
            if not any(_is_long(value) for value in (*args, *options.values())):
                return function(*args, **options)
            bound = signature.bind(*args, **options)
            given = {name: value for name, value in bound.arguments.items() if name in names and value is not None}
            if strange := [name for name in ALONE if bound.arguments.get(name) is not None]:
                raise TypeError(f"{strange[0]} beside Series: give grids (D, N), such as a DayPanel's, for all")
            score = _read(given.pop(names[0]), names[0])
            table = score.unstack("instrument").sort_index(axis=1)
            bound.arguments[names[0]] = np.ascontiguousarray(table, dtype=np.float64)
            for name, value in given.items():
                bound.arguments[name] = _laid_out(value, name, table)
            return _labelled(function(*bound.args, **bound.kwargs), score, table)

        return taken

    return decorate


def _is_long(value: Any) -> bool:
    return isinstance(value, pd.Series | pd.DataFrame) and value.index.nlevels == 2


def _read(value: Any, name: str) -> pd.Series:
    """Read a Series, of flags too."""
    if not _is_long(value):
        raise TypeError(
            f"{name} is a {type(value).__name__} beside a Series by (datetime, instrument): give Series for all, or "
            "grids (D, N) for all"
        )
    return check_scores(value.astype(np.float64) if _is_flags(value) else value, name)


def _is_flags(value: Any) -> bool:
    return isinstance(value, pd.Series) and pd.api.types.is_bool_dtype(value.dtype)


def _laid_out(value: Any, name: str, table: pd.DataFrame) -> Any:
    """Lay another argument out on the days and stocks of the first."""
    wide = isinstance(value, pd.DataFrame) and isinstance(value.index, pd.DatetimeIndex)
    with warnings.catch_warnings():  # what ranks nothing among scores is well among the others
        warnings.filterwarnings("ignore", message=".* they rank nothing")
        frame = value if wide else _read(value, name).unstack("instrument")
    days, stocks = frame.index.intersection(table.index), frame.columns.intersection(table.columns)
    if not len(days) or not len(stocks):
        own, other = (f"{t.index[0].date()} to {t.index[-1].date()}, {t.columns[0]}, ..." for t in (frame, table))
        raise ValueError(f"{name} has no day and stock in common with the first: {own} against {other}")
    grid = frame.reindex(index=table.index, columns=table.columns)
    return np.ascontiguousarray(grid.eq(True) if name in FLAGS else grid.astype(np.float64))  # sums go by layout


def _labelled(result: Any, score: pd.Series, table: pd.DataFrame) -> Any:
    """Put days and stocks to what a function of grids returns, where it is of them."""
    if isinstance(result, pd.DataFrame):
        return result.set_axis(table.index) if isinstance(result.index, pd.RangeIndex) else result
    if isinstance(result, np.ndarray) and result.shape == (len(table),):
        return pd.Series(result, table.index)
    if isinstance(result, np.ndarray) and result.shape == table.shape:
        return pd.DataFrame(result, table.index, table.columns).stack().reindex(score.index)
    return result
