"""How sure a Sharpe ratio is, and what is left of it after many trials.

Sharpe ratios are those of a day, mean / standard deviation (days - 1 below), unless they are called annual. Sources:
Lo (2002), Bailey and Lopez de Prado (2012: the probabilistic Sharpe ratio; 2014: the deflated one).
"""

import json
import math
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from numpy.typing import ArrayLike, NDArray

from qlib_ext.beside import beside
from qlib_ext.evaluate.headline import headline
from qlib_ext.evaluate.newey_west import newey_west

EULER = 0.5772156649015329  # the constant of Euler and Mascheroni
FEWEST = 3  # days of a Sharpe ratio with an error
FLAT = 1e-12  # a deviation within such a share of the largest number is that of rounding
TRIALS = {  # columns of a file of trials, a row a trial; what `write_trials` writes and `read_trials` wants
    "name": "of the trial, each once",
    "configuration": "of the trial, as JSON",
    "sharpe": "of a day, not annualised: mean / standard deviation of the account's daily return after fees and "
    "impact less the mean stock's",
    "days": "number of them",
    "day": "list of these days (optional, with excess)",
    "excess": "list of the daily returns that sharpe is of, fractions (optional, of some or "
    "all trials): they tell how alike trials are",
    "correlation": "mean correlation of the daily excess with that of the other trials (optional, without excess)",
}
DEFLATED = {
    "trials": "number of the trials on file",
    "correlation": "mean correlation of the trials' daily excesses, pair by pair over their common days; 0 where it is "
    "negative, or where the file tells nothing of it",
    "independent": "independent trials that have the spread of so many with this correlation: correlation + (1 - "
    "correlation) * trials",
    "deviation": "standard deviation of the trials' Sharpe ratios, annual",
    "highest": "Sharpe ratio, annual, that the best of so many independent trials without any skill has on average: "
    "deviation * ((1 - g) Z(1 - 1 / n) + g Z(1 - 1 / (n e))), n = independent, g = 0.5772, Z the normal quantile",
    "sharpe": "annual Sharpe ratio of the account's daily excess over the mean stock after all costs",
    "sharpe_error": "its standard error, as among the ratios",
    "probability": "deflated Sharpe ratio: probability that the true Sharpe ratio is above `highest`, that is normal "
    "((sharpe - highest) / sharpe_error)",
    "days": "of the account",
}


# --- one Sharpe ratio


def sharpe_error(daily: ArrayLike, lags: int | None = None) -> float:
    """Give the standard error of a Sharpe ratio of a day, for returns that are skewed, fat-tailed, alike on near days.

    With z the returns in standard deviations from their mean and S their ratio, S moves with a day by z - S (z^2 - 1)
    / 2 (delta method, Lo 2002); the error is that of the mean of these, by `newey_west`. Without lags it is
    sqrt((1 - skewness S + (kurtosis - 1) / 4 S^2) / (days - 1)), that of Bailey and Lopez de Prado (2012).

    Args:
        daily: (D,) returns, finite.
        lags: of `newey_west`: 0 for days that are independent.

    Returns: NaN for fewer than `FEWEST` days, or returns that do not vary.

    >>> round(sharpe_error([0.02, -0.01, 0.01, 0.03], lags=0), 4)
    0.6907
    """
    values = np.asarray(daily, dtype=np.float64)
    if not _varies(values):
        return math.nan
    z = (values - values.mean()) / values.std()
    ratio = headline(values, year=1.0)["sharpe"]
    return newey_west(z - ratio * (z**2 - 1.0) / 2.0, lags)[1]


def sharpe_probability(daily: ArrayLike, above: float = 0.0, lags: int | None = None) -> float:
    """Probability that the true Sharpe ratio (of a day) exceeds `above`: normal((S - above) / `sharpe_error`).

    Bailey and Lopez de Prado (2012), equation 11; with lags its error allows for days that resemble each other.

    >>> round(sharpe_probability([0.02, -0.01, 0.01, 0.03], lags=0), 3)
    0.855
    """
    error = sharpe_error(daily, lags)
    return _normal((headline(daily, year=1.0)["sharpe"] - above) / error) if error > 0 else math.nan


def moments(daily: ArrayLike) -> dict[str, float]:
    """Skewness, kurtosis (3 for the normal) and lag-1 autocorrelation of daily returns; NaN where nothing varies.

    >>> {name: round(value, 2) for name, value in moments([0.02, -0.01, 0.01, 0.03]).items()}
    {'skewness': -0.43, 'kurtosis': 1.85, 'autocorrelation': -0.18}
    """
    values = np.asarray(daily, dtype=np.float64)
    if not _varies(values):
        return dict.fromkeys(("skewness", "kurtosis", "autocorrelation"), math.nan)
    z = (values - values.mean()) / values.std()
    return {
        "skewness": float((z**3).mean()),
        "kurtosis": float((z**4).mean()),
        "autocorrelation": float((z[1:] * z[:-1]).sum() / len(z)),
    }


def _varies(values: NDArray[np.float64]) -> bool:
    return len(values) >= FEWEST and bool(values.std() > FLAT * np.abs(values).max())


def _normal(value: float) -> float:
    return NormalDist().cdf(value)


# --- the best of many


def highest_by_chance(independent: float) -> float:
    """Give the expected largest of so many independent standard normal numbers: 0 for one.

    Bailey and Lopez de Prado (2014), equation 1.

    >>> round(highest_by_chance(100), 4), highest_by_chance(1)
    (2.5306, 0.0)
    """
    if independent <= 1.0:
        return 0.0
    first, second = (NormalDist().inv_cdf(1.0 - 1.0 / (independent * each)) for each in (1.0, math.e))
    return max((1.0 - EULER) * first + EULER * second, 0.0)


def independent_trials(trials: pd.DataFrame) -> tuple[float, float]:
    """Mean correlation of trials, and the number of independent ones with as much spread.

    Bailey and Lopez de Prado (2014), appendix 3. Trials without `excess` and `correlation` count as independent: the
    most there can be.

    Args:
        trials: of `read_trials`.

    Returns: (correlation, number).
    """
    count, mean = len(trials), math.nan
    if "excess" in trials and count > 1:
        lines = {row["name"]: pd.Series(row["excess"], pd.DatetimeIndex(row["day"])) for row in _kept(trials)}
        table = pd.DataFrame(lines).corr(min_periods=FEWEST).to_numpy()
        pairs = table[np.triu_indices(len(table), 1)]
        mean = float(np.nanmean(pairs)) if np.isfinite(pairs).any() else math.nan
    elif "correlation" in trials and count > 1:
        mean = float(trials["correlation"].mean())
    mean = min(max(mean, 0.0), 1.0) if math.isfinite(mean) else 0.0
    return mean, mean + (1.0 - mean) * count


def deflated_sharpe(
    daily: ArrayLike, trials: pd.DataFrame, *, year: float, lags: int | None = None
) -> dict[str, float]:
    """Deflate the Sharpe ratio of the configuration that was chosen from trials.

    Args:
        daily: (D,) its daily excess returns.
        trials: of `read_trials`, all that were looked at, the chosen one among them.
        year: trading days of a year, see `days_a_year`.
        lags: see `sharpe_error`.

    Returns: the keys of `DEFLATED`.
    """
    root = math.sqrt(year)
    correlation, independent = independent_trials(trials)
    deviation = float(trials["sharpe"].std(ddof=1)) if len(trials) > 1 else 0.0
    highest = deviation * highest_by_chance(independent)
    return {
        "trials": float(len(trials)),
        "correlation": correlation,
        "independent": independent,
        "deviation": deviation * root,
        "highest": highest * root,
        "sharpe": headline(daily, year=year)["sharpe"],
        "sharpe_error": sharpe_error(daily, lags) * root,
        "probability": sharpe_probability(daily, highest, lags),
        "days": float(len(np.asarray(daily))),
    }


# --- the file of trials


def trial_row(name: str, configuration: Any, excess: pd.Series, *, keep: bool = True) -> dict[str, Any]:
    """Make a row of `TRIALS` of a trial's daily excess.

    Args:
        name: of the trial.
        configuration: anything that JSON can hold.
        excess: (D,) daily returns of the account after fees and impact less the mean stock's, by day: the column
            `excess` of `portfolio_analysis/account_daily.pkl`.
        keep: keep the daily returns too, which tell how alike trials are.

    >>> row = trial_row("mlp", {"seed": 0}, pd.Series([0.01, 0.03], pd.bdate_range("2022-01-04", periods=2)))
    >>> row["configuration"], round(row["sharpe"], 3), row["days"], row["excess"]
    ('{"seed": 0}', 1.414, 2, [0.01, 0.03])
    """
    series = excess.astype(float)
    row = {
        "name": name,
        "configuration": json.dumps(configuration, ensure_ascii=False, sort_keys=True, default=str),
        "sharpe": headline(series, year=1.0)["sharpe"],
        "days": len(series),
    }
    return row | ({"day": [*pd.DatetimeIndex(series.index)], "excess": series.tolist()} if keep else {})


def write_trials(path: str | Path, trials: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of `trial_row` into a Parquet file, whole or not at all; what it held is gone.

    Raises: ValueError as `read_trials`.
    """
    frame = _checked(pd.DataFrame(list(trials)), str(path))
    with beside(path) as partial:
        frame.to_parquet(partial, index=False)


def read_trials(path: str | Path) -> pd.DataFrame:
    """Read a file of trials: a row a trial, the columns of `TRIALS`, others as they are.

    Raises: FileNotFoundError; ValueError for no such file, a column that is lacking, no row, a name twice, a Sharpe
        ratio that is none, that looks annual, or that is not the one of its daily excess.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"trials: there is no file {path}; evaluate.write_trials makes one")
    try:
        frame = pd.read_parquet(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"trials: {path} is no Parquet file ({error}); evaluate.write_trials makes one") from error
    return _checked(frame, str(path))


def _kept(frame: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Rows that keep their daily excess."""
    return [row for row in frame.to_dict("records") if np.ndim(row.get("excess", 0.0)) == 1]


def _checked(frame: pd.DataFrame, path: str) -> pd.DataFrame:
    lacks = [name for name in ("name", "configuration", "sharpe", "days") if name not in frame]
    lacks += [b for a, b in (("excess", "day"), ("day", "excess")) if a in frame and b not in frame]
    if lacks or not len(frame):
        what = f"the column {lacks[0]} is lacking" if lacks else "there is no trial"
        raise ValueError(f"trials {path}: {what}; wanted a row a trial and the columns {', '.join(TRIALS)}")
    if frame["name"].duplicated().any():
        raise ValueError(f"trials {path}: {frame['name'][frame['name'].duplicated()].iloc[0]!r} stands twice")
    sharpe = pd.to_numeric(frame["sharpe"], errors="coerce")
    for bad, why in (
        (~np.isfinite(sharpe), "is no number: leave a trial out that came to nothing"),
        (sharpe.abs() > 1.0, "is above 1 a day: give it not annualised, mean / standard deviation of the daily excess"),
    ):
        if bad.any():
            raise ValueError(f"trials {path}: sharpe of {frame['name'][bad].iloc[0]!r} {why}")
    for row in _kept(frame):
        if len(row["excess"]) != len(row["day"]) or len(row["excess"]) != row["days"]:
            raise ValueError(f"trials {path}: day, excess and days of {row['name']!r} are not of one length")
        own = headline(row["excess"], year=1.0)["sharpe"]
        if not math.isclose(own, row["sharpe"], rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(f"trials {path}: sharpe of {row['name']!r} is {row['sharpe']}, of its excess {own}")
    return frame.assign(sharpe=sharpe)
