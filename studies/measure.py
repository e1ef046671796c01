"""Measure a cell: its scores by day, and an account that trades them."""

import os

import numpy as np
import pandas as pd

from qlib_ext.evaluate import daily_metrics, rank_correlation
from studies.cells import MEMBERS, WAYS, Config, mean_of_scores, score
from studies.delistings import delisted
from studies.run import ALL, Cell
from studies.scores import HORIZON, NEUTRAL, Bench, correlation, forward, mean_of, residual, top, unit
from studies.years import KINDS, Grid, Year

HORIZONS = (1, 5, 10, 20)
ACCOUNT = ("gross", "fees", "impact", "net", "turnover", "names", *(f"on_{kind}" for kind in KINDS))  # by day


def scores_of(bench: Bench, config: Config, seed: int) -> Grid:
    """Scores (D, N) of a seed, or of all of them."""
    if seed == ALL:
        return bench.year.grid(mean_of_scores([score(bench, config, n) for n in range(MEMBERS)]))
    return bench.year.grid(score(bench, config, seed))


def measure(bench: Bench, cell: Cell) -> None:
    """Write the files of a cell that are not there."""
    made = scores_of(bench, cell.config, cell.seed)
    for what, measured in (("days", by_day), ("accounts", account)):
        file = cell.file(bench.folder, what)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            measured(bench.year, made, cell).to_parquet(part)
            part.replace(file)


def by_day(year: Year, score: Grid, cell: Cell) -> pd.DataFrame:  # noqa: ARG001
    """Measure a cell's scores (D, N) on the days of the test year; what ends after the last day is NaN.

    Columns: `ic`, `rank_ic` with the number of days of the return behind them; `neutral_ic`, `neutral_rank_ic` of ten
    days, score and return off volatility and liquidity; `top1`, `top10`: the best twentieth over the mean stock, a day,
    both of those that could be bought; `on_volatility`, `on_liquidity`: rank correlations.
    """
    rows, days = slice(year.first, None), len(year.days)
    score = np.where(year.market["universe"], score, np.nan)
    traded = year.market["buyable"] | year.market["sellable"]
    out: dict[str, Grid] = {}
    for horizon in HORIZONS:
        label = np.where(traded, forward(year.step, horizon)[:days], np.nan)
        plain = daily_metrics(score[rows], label[rows], names=["ic", "rank_ic"])
        out |= {f"{name}{horizon}": plain[name].to_numpy() for name in ("ic", "rank_ic")}
    label = np.where(traded, forward(year.step, HORIZON)[:days], np.nan)
    inside, loads = np.isfinite(score) & np.isfinite(label), year.exposures[rows, :, :NEUTRAL]
    for name, both in {"neutral_ic": (score, label), "neutral_rank_ic": (unit(score), unit(label))}.items():
        out[name] = correlation(*(residual(value[rows], loads, inside[rows]) for value in both))
    out |= {"top1": top(year, score, year.step[:days])[rows], "top10": top(year, score, label)[rows] / HORIZON}
    for number, kind in enumerate(("volatility", "liquidity")):
        out[f"on_{kind}"] = rank_correlation(score[rows], year.exposures[rows, :, number])
    return pd.DataFrame(out, index=year.days[rows])


def account(year: Year, score: Grid, cell: Cell) -> pd.DataFrame:
    """Let an account trade scores (D, N) through the test year as a cell says: shares of it by day.

    Beside the columns `ACCOUNT`: `excess` over the mean stock that could be bought, `over_all` over the mean of all
    stocks of the universe, `held_*`: active exposures in deviations of a stock, `forecast_t` of what it trades by.
    """
    score = np.where(year.market["universe"], score, np.nan)
    forecast, own = year.forecast(score), WAYS[cell.way]
    if cell.market != "real":
        year, score = delisted(year, score, cell.market)
    daily, _ = year.traded(own.policy(forecast, cell.b), score, own.share, cell.b, cell.capital)
    out = daily[[*ACCOUNT, "excess"]].rename(columns={f"on_{kind}": f"held_{kind}" for kind in KINDS})
    out["cash"] = daily["cash"] / daily["value"]
    market = mean_of(year.step[: len(year.days)], year.market["universe"])[year.first :]
    out["over_all"] = daily["net"].to_numpy() - market
    out.index = year.days[year.first :]
    return out.assign(market=market, forecast_t=forecast.t)
