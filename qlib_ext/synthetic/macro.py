"""Invented macro series of the embedded market, and the regime that they show.

A two-state Markov chain (calm +1, stressed -1, REGIME_DAYS trading days a spell on average) moves `vix`, which is the
only series that shows it. All series come from a generator of their own: prices do not depend on them, unless the
market is built with `regime=True`.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.synthetic.listings import FloatArray

HISTORY = pd.Timedelta(days=365)  # before the first trading day
REGIME_DAYS = 12
STRESS = 0.35  # log vix moves by so much up or down
_SHOCKS = {  # start, daily standard deviation of log changes (levels: of differences), whether a level
    "usdcny": (6.9, 0.0022, False),
    "us10y": (2.1, 0.05, True),
    "brent": (62.0, 0.021, False),
    "gold": (1500.0, 0.009, False),
}


def foreign_days(first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    """Weekdays without some fixed American holidays."""
    days = pd.bdate_range(first, last)
    closed = {(1, 1), (7, 4), (11, 11), (12, 25)}
    return days[[(d.month, d.day) not in closed for d in days]]


def regime_path(days: npt.NDArray[np.datetime64], seed: int) -> pd.Series:
    """Regime (+1 calm, -1 stressed) of each foreign day, from HISTORY before the first to the last trading day."""
    first, last = pd.Timestamp(days[0]), pd.Timestamp(days[-1])
    dates = foreign_days(first - HISTORY, last)
    rng = np.random.default_rng([seed, 1])
    turns = rng.random(len(dates)) < 1.0 / REGIME_DAYS
    return pd.Series(np.where(np.cumsum(turns) % 2 == 0, 1.0, -1.0), dates)


def regime_at_close(days: npt.NDArray[np.datetime64], seed: int) -> FloatArray:
    """Regime as known at the close of each trading day, (D,): of the last foreign day **before** it."""
    path = regime_path(days, seed)
    at = path.index.searchsorted(pd.DatetimeIndex(days), side="left") - 1
    return path.to_numpy(dtype=np.float64)[at]


def macro_table(days: npt.NDArray[np.datetime64], seed: int) -> pd.DataFrame:
    """Series by date, missing where their market was closed.

    Foreign daily ones (`usdcny`, `us10y`, `brent`, `gold`, `vix`), `shibor_3m` on trading days (and on weekdays before
    the first), monthly `cpi` by the first day of its month, with the day of its release in `cpi_release`.
    """
    path = regime_path(days, seed)
    rng = np.random.default_rng([seed, 2])
    frames = {}
    for name, (start, size, level) in _SHOCKS.items():
        move = _reverting(size * rng.standard_normal(len(path)), 0.99)
        frames[name] = pd.Series(start + move if level else start * np.exp(move), path.index)
    noise = _reverting(0.05 * rng.standard_normal(len(path)), 0.9)
    frames["vix"] = pd.Series(18.0 * np.exp(noise - STRESS * path.to_numpy()), path.index)
    trading = pd.DatetimeIndex(days)
    home = pd.bdate_range(path.index[0], trading[0] - pd.Timedelta(days=1)).append(trading)
    frames["shibor_3m"] = pd.Series(2.6 + _reverting(0.015 * rng.standard_normal(len(home)), 0.99), home)
    months = pd.date_range(path.index[0], trading[-1], freq="MS")
    frames["cpi"] = pd.Series(2.0 + _reverting(0.3 * rng.standard_normal(len(months)), 0.9), months)
    released = months + pd.DateOffset(months=1) + pd.to_timedelta(8 + rng.integers(0, 4, len(months)), unit="D")
    table = pd.DataFrame(frames).round(4)
    table["cpi_release"] = pd.Series(released.strftime("%Y-%m-%d"), months)
    table.index.name = "date"
    return table


def _reverting(shocks: FloatArray, rho: float) -> FloatArray:
    """Path of an AR(1) that starts with the first shock, (D,)."""
    out = np.zeros(len(shocks))
    state = 0.0
    for i, shock in enumerate(shocks):
        state = rho * state + shock
        out[i] = state
    return out


def macro_text(table: pd.DataFrame) -> str:
    """Write the table as the text of `macro.csv`."""
    head = "# invented by qlib_ext.synthetic: a template for macro_state; every number is random\n"
    return head + table.to_csv(date_format="%Y-%m-%d", lineterminator="\n")
