"""Several runs on the same days: differences with intervals, from resampled blocks of days.

A difference between two runs is smaller than the error of each where both earn and lose on the same days; so the runs
are paired by day, and blocks of days are drawn for all of them together (circular block bootstrap, Politis and Romano
1992): a block keeps what neighbouring days share. Sizes: D days, R draws, S seeds. Imports no qlib.

Several runs of one model, which differ in their seed, can stand for it together: its daily numbers are then the mean
over them (as if the capital were split evenly), and each draw takes seeds anew, for each model on its own, so that the
interval holds for the model and not for the seeds that happened to be run. S - 1 seeds are drawn with replacement: the
variance of their mean is then that of the mean of S seeds, s^2 / S (Rao and Wu 1988); S would give (S - 1) / S of it.
Fewer seeds also make a draw more volatile than their mean is: what that shifts (a Sharpe ratio) is put back.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.evaluate.headline import DAYS_A_YEAR
from qlib_ext.options import check_number

Array = npt.NDArray[np.float64]

DRAWS = 5000
LEVEL = 0.95
LEAST_DAYS = 20
SERIES = ("capped_buyable_gross", "capped_buyable_net", "capped_buyable_net_impact", "capped_buyable_net_over_market")
QUALITY = ("ic", "rank_ic", "top20_ic")
COMPARE_DEFINITIONS = {
    "value": "the number of the run on the common days",
    "against": "the same number of the run it is compared with",
    "difference": "the run's number less that of the run it is compared with, on the same days",
    "standard_error": "standard deviation of the difference over the draws of the circular block bootstrap",
    "low": f"lower end of the interval: the {(1 - LEVEL) / 2:.1%} quantile of the difference over the draws",
    "high": f"upper end of the interval: the {(1 + LEVEL) / 2:.1%} quantile of the difference over the draws",
    "share_below_zero": "share of the draws in which the difference is 0 or below",
}


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        table: one row a (run, number): value, against (value of the other run), difference, standard_error, low, high,
            share_below_zero, days.
        daily: columns of every run over the common days, by run; of several seeds their mean.
        seeds: how many runs each name stands for.
        left_out: days that not all runs have.
        against: name of the run that the others are compared with.
        block: days of a block.
        draws, seed: of the bootstrap.
        year: trading days of a year.
    """

    table: pd.DataFrame
    daily: dict[str, pd.DataFrame]
    seeds: dict[str, int]
    left_out: pd.DatetimeIndex
    against: str
    block: int
    draws: int
    seed: int
    year: float = DAYS_A_YEAR


def compare(
    daily: Mapping[str, pd.DataFrame | Sequence[pd.DataFrame]],
    *,
    against: str | None = None,
    block: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    horizon: int = 1,
    year: float = DAYS_A_YEAR,
) -> Comparison:
    """Compare runs on the days that all of them have.

    Args:
        daily: by run, frames by day with some of the columns `QUALITY` and `SERIES` (`liquidity_analysis/daily.pkl`);
            columns that all of them have are compared. Days on which a column is NaN in a run count for none. A
            sequence of frames: one a seed of the same model.
        against: the run that the others are compared with; None: the first.
        block: days of a block; None: `block_length`.
        draws: of the bootstrap.
        seed: of the draws.
        horizon: days of the label, the least length of a block.
        year: trading days of a year, see `evaluate.days_a_year`.

    Returns:
        A Comparison; rows as `numbers` names them.

    Raises:
        ValueError: fewer than two runs, an unknown `against`, too few common days, no common column, bad numbers.

    >>> days = pd.bdate_range("2022-01-04", periods=60)
    >>> ic = np.sin(np.arange(60.0)) / 50
    >>> runs = {"mse": pd.DataFrame({"ic": ic}, days), "wpcc": pd.DataFrame({"ic": ic + 0.01}, days)}
    >>> float(compare(runs, draws=100).table.loc[("wpcc", "ic.mean"), "difference"].round(4))
    0.01
    """
    if len(daily) < 2:
        raise ValueError(f"{len(daily)} run given; a comparison needs two or more")
    first = next(iter(daily)) if against is None else against
    if first not in daily:
        raise ValueError(f"no run {first!r} to compare with; there are {', '.join(daily)}")
    runs = {run: [of] if isinstance(of, pd.DataFrame) else list(of) for run, of in daily.items()}
    every = [frame for frames in runs.values() for frame in frames]
    if not all(runs.values()):
        raise ValueError("a name without a run; give one frame a seed")
    columns = [
        name for name in (*QUALITY, *SERIES) if all(name in frame and frame[name].notna().any() for frame in every)
    ]
    if not columns:
        raise ValueError(
            f"the runs share none of the columns {', '.join((*QUALITY, *SERIES))}: run LiquidityRecord in each"
        )
    runs = {run: [frame[columns].dropna() for frame in frames] for run, frames in runs.items()}
    days, left = _common(
        {run if len(of) == 1 else f"{run} {i + 1}": f for run, of in runs.items() for i, f in enumerate(of)}
    )
    most = len(days) // 2
    if horizon > most:
        raise ValueError(f"the label's {horizon} days are too many for {len(days)} common days, allowed: up to {most}")
    length = block_length(len(days), horizon) if block is None else block
    check_number("block", length, f"[{horizon}, {most}]", whole=True, hint=", days from the label's on")
    check_number("draws", draws, "[100, inf)", whole=True)
    check_number("seed", seed, "[0, inf)", whole=True)
    rows = circular_blocks(len(days), int(length), draws, seed)
    base, paired = {}, {}
    for place, (run, frames) in enumerate(runs.items()):
        values = np.stack([frame.loc[days].to_numpy(dtype=np.float64) for frame in frames])  # (S, D, columns)
        shares = seed_shares(len(frames), draws, (seed, place))
        base[run] = _both(values, columns, rows, shares, year)
        paired[run] = pd.DataFrame(values.mean(axis=0), days, columns)
    lines = {
        (run, key): _line(base[run][key], base[first][key], len(days))
        for run in paired
        if run != first
        for key in base[run]
    }
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(lines), names=["run", "number"])
    seeds = {run: len(frames) for run, frames in runs.items()}
    return Comparison(table, paired, seeds, left, first, int(length), draws, seed, year)


def block_length(days: int, horizon: int = 1) -> int:
    """Days of a block: 2 * D^(1/3), rounded up (the rate that is best for a standard error), at least the label's."""
    return max(math.ceil(2.0 * days ** (1.0 / 3.0)), horizon, 1)


def circular_blocks(days: int, block: int, draws: int, seed: int) -> npt.NDArray[np.int32]:
    """Rows of resampled days, (R, D): blocks of successive days from uniform starts, the end joined to the start."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, days, size=(draws, -(-days // block), 1))
    rows = (starts + np.arange(block)).reshape(draws, -1)[:, :days] % days
    return rows.astype(np.int32)


def seed_shares(seeds: int, draws: int, seed: tuple[int, int]) -> Array:
    """Weights of the seeds in each draw, (R, S), each row 1 in sum: S - 1 are taken with replacement; one is itself."""
    if seeds == 1:
        return np.ones((draws, 1))
    taken = np.random.default_rng(seed).integers(0, seeds, size=(draws, seeds - 1))
    return np.asarray((taken[:, :, None] == np.arange(seeds)).mean(axis=1))


def numbers(columns: Iterable[str], year: float = DAYS_A_YEAR) -> dict[str, Callable[[Array], Array]]:
    """List the numbers compared: key -> function of a column's values (..., D), named by "column.number".

    `mean` of the correlations; of the returns `mean` (a day), `annual_return` and `sharpe` as `evaluate.headline` has
    them for a capital that is made up every day.
    """
    of_returns = {
        "mean": _mean,
        "annual_return": lambda values: _mean(values) * year,
        "sharpe": lambda values: _ratio(values) * math.sqrt(year),
    }
    return {
        f"{name}.{number}": function
        for name in columns
        for number, function in ({"mean": _mean} if name in QUALITY else of_returns).items()
    }


# --- arithmetic


def _common(runs: Mapping[str, pd.DataFrame]) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Days that all runs have, and those that only some do."""
    frames = list(runs.values())
    days = every = pd.DatetimeIndex(frames[0].index)
    for frame in frames[1:]:
        own = pd.DatetimeIndex(frame.index)
        days, every = days.intersection(own), every.union(own)
    if len(days) < LEAST_DAYS:
        spans = "; ".join(f"{run}: {_span(frame)}" for run, frame in runs.items())
        raise ValueError(
            f"{len(days)} common days, at least {LEAST_DAYS} are needed: test the runs on the same days ({spans})"
        )
    return days.sort_values(), every.difference(days)


def _span(frame: pd.DataFrame) -> str:
    return f"{str(frame.index.min())[:10]} to {str(frame.index.max())[:10]}" if len(frame) else "no day"


def _both(
    values: Array, columns: Sequence[str], rows: npt.NDArray[np.int32], shares: Array, year: float
) -> dict[str, tuple[float, Array]]:
    """Each number of (S, D, columns) on the days as they were, and on every draw (R,).

    Draws of seeds keep the middle that the same draws of days have with all seeds.
    """
    both: dict[str, tuple[float, Array]] = {}
    cuts = np.array_split(np.arange(len(rows)), max(1, len(rows) // 1000))
    for key, number in numbers(columns, year).items():
        own = values[:, :, columns.index(key.partition(".")[0])]
        mean = own.mean(axis=0)
        draws = np.concatenate([number(_drawn(own, rows[cut], shares[cut])) for cut in cuts])
        if len(own) > 1:
            draws += np.nanmean(np.concatenate([number(mean[rows[cut]]) for cut in cuts])) - np.nanmean(draws)
        both[key] = (float(number(mean)), draws)
    return both


def _drawn(values: Array, rows: npt.NDArray[np.int32], shares: Array) -> Array:
    """Daily mean over the seeds of each draw, (R, D), of (S, D) values."""
    if len(values) == 1:
        return values[0][rows]
    return np.asarray(sum(share[:, None] * own[rows] for share, own in zip(shares.T, values, strict=True)))


def _line(run: tuple[float, Array], other: tuple[float, Array], days: int) -> dict[str, float]:
    gap = run[1] - other[1]
    gap = gap[np.isfinite(gap)] if np.isfinite(gap).sum() > 1 else np.full(2, np.nan)  # a Sharpe without volatility
    low, high = np.quantile(gap, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return {
        "value": run[0],
        "against": other[0],
        "difference": run[0] - other[0],
        "standard_error": float(np.std(gap, ddof=1)),
        "low": float(low),
        "high": float(high),
        "share_below_zero": float(np.where(np.isnan(gap), np.nan, gap <= 0).mean()),
        "days": days,
    }


def _mean(values: Array) -> Array:
    return np.asarray(values.mean(axis=-1))


def _ratio(values: Array) -> Array:
    spread = values.std(axis=-1, ddof=1)
    return np.asarray(_mean(values) / np.where(spread > 0, spread, np.nan))
