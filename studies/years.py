"""Walk-forward by years on real data, shared by comparisons: days, models' features, what trades meet, an account."""

import argparse
import json
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.config import C
from qlib.data import D

from qlib_ext.data import DayDatasetH, PanelExposures
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import CAPITAL, Day, Forecast, Policy, exposures, market_of, simulate
from qlib_ext.provider import calendar
from qlib_ext.rules import fee_rates, is_index

YEAR = 242  # trading days
VALID = 120  # days that select the epoch, the last ones before a test year
TRAINED = 3  # years before a test year, the last days of which select
LABEL = "Ref($close, -11)/Ref($close, -1) - 1"
GRIDS = ("present", "label", "liquidity", "volatility", "buyable", "sellable", "step_return")
KINDS = ("volatility", "liquidity", "beta")
BOUNDS = dict.fromkeys(KINDS, (-0.2, 0.2))
MLP: dict[str, Any] = {
    **{"loss": "ic", "target": "rank", "metric": "rank_ic"},
    **{"dropout": 0.3, "lr": 5e-4, "epochs": 4, "patience": 2},
}

FEES_KNOWN = pd.Timestamp("2015-08-03")

Grid = npt.NDArray[np.float64]


def parser(doc: str | None, folder: str) -> argparse.ArgumentParser:
    """Parser of what comparisons by years have in common; `folder` says what the folder of results holds."""
    asked = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    asked.add_argument("folder", type=Path, help=folder)
    asked.add_argument("--provider-uri", required=True)
    asked.add_argument("--universe", default="all")
    asked.add_argument("--years", type=int, nargs="+", required=True)
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked.add_argument(
        "--last", type=pd.Timestamp, default=pd.Timestamp.max, metavar="DAY", help="no return after it is read"
    )
    return asked


def days_of(year: int, years: int) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Trading days of a year, and of `years` years before it."""
    every = pd.DatetimeIndex(calendar())
    return every[every.year == year], every[(every.year < year) & (every.year >= year - years)]


def dataset_of(universe: str, handler: str, segments: dict[str, pd.DatetimeIndex], **options: Any) -> DayDatasetH:
    """Build features and ten-day label of the segments' days; options are the handler's."""
    own = [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}]
    kwargs = {"instruments": universe, "label": ([LABEL], ["LABEL0"]), "infer_processors": own, "learn_processors": []}
    config = {"class": handler, "module_path": "qlib_ext.handler", "kwargs": {**kwargs, **options, "drop_raw": True}}
    return DayDatasetH(config, {name: (days[0], days[-1]) for name, days in segments.items()}, step_len=1)


class Features:
    """Features, ten-day label and grids of many years in files: made once a year, mapped and not loaded.

    Args:
        folder: of the files, some GB a year.
        universe: qlib's name of the stocks.
        handler: of `qlib_ext.handler`.
        options: of the handler.
    """

    def __init__(self, folder: Path, universe: str, handler: str, **options: Any) -> None:
        self.folder, self.universe, self.handler, self.options = folder, universe, handler, options
        self._check_source()
        self.days = pd.DatetimeIndex(calendar())
        codes = D.list_instruments(D.instruments(universe), as_list=True)
        self.stocks = np.array(sorted(code for code in codes if not is_index(code)), dtype=object)

    def panel(self, first: int, last: int, features: slice = slice(None)) -> DayPanel:  # noqa: B008
        """Give the years from first to last, all stocks, some of the features; `x` is read as it is asked for."""
        parts = [self._part(year) for year in range(first, last + 1)]
        days = np.flatnonzero((self.days.year >= first) & (self.days.year <= last))
        grids = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in GRIDS}
        names = [str(name) for name in parts[0]["features"]]
        x = torch.from_numpy(self._file(len(names), "c")[days[0] : days[-1] + 1])[..., features]
        named: dict[str, Any] = {"days": self.days[days].to_numpy(), "stocks": self.stocks}
        return DayPanel(**named, features=names[features], x=x, **grids, source=PanelExposures())

    def _check_source(self) -> None:
        """Write what the files are made of, or compare: ValueError where they are of another market."""
        own = {"provider": str(C.dpm.get_data_uri()), "universe": self.universe, "options": self.options}
        file = self.folder / f"{self.handler}.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(own), "utf-8")
        elif json.loads(file.read_text("utf-8")) != own:
            raise ValueError(
                f"{file} tells of {file.read_text('utf-8')}; asked is {json.dumps(own)}: take another folder"
            )

    def _part(self, year: int) -> Any:
        """Load a year's grids and names; make the year where it is not there."""
        kept = self.folder / f"{self.handler}_{year}.npz"
        if not kept.exists():
            days = self.days[self.days.year == year]
            made = dataset_of(self.universe, self.handler, {"test": days}, **self.options).panel
            row, column = self.days.get_indexer(made.days), pd.Index(self.stocks).get_indexer(made.stocks)
            self.folder.mkdir(parents=True, exist_ok=True)
            x = self._file(len(made.features), "r+")
            for own, day in enumerate(row):
                x[day, column] = made.x[own].numpy()
            x.flush()
            grids = {}
            for name in GRIDS:
                own = getattr(made, name).numpy()
                grids[name] = np.full((len(days), len(self.stocks)), False if own.dtype == bool else np.nan, own.dtype)
                grids[name][np.ix_(row - row[0], column)] = own
            part = kept.with_name(f"{kept.stem}.{os.getpid()}.npz")  # whole, or not there
            np.savez(part, features=np.array(made.features), **grids)
            part.replace(kept)
        return np.load(kept)

    def _file(self, features: int, mode: str) -> npt.NDArray[np.float32]:
        """Map (days, stocks, features), zeros where nothing was written: the file takes no room there."""
        path = self.folder / f"{self.handler}.x"
        if not path.exists():
            mode = "w+"
        return np.memmap(path, np.float32, mode, shape=(len(self.days), len(self.stocks), features))


def outcomes(universe: str, start: Any, end: Any) -> DayPanel:
    """Build what trades meet on the days; its one feature is nothing."""
    config = {"feature": (["$factor"], ["factor"]), "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "kwargs": {"config": config}}
    options = {"instruments": universe, "start_time": start, "end_time": end, "data_loader": loader}
    handler = {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": options}
    return DayDatasetH(handler, {"test": (start, end)}, step_len=1).panel


def fees_of(days: pd.DatetimeIndex, rows: npt.NDArray[np.int64]) -> dict[str, Grid]:
    """Rates (D,) of buys and sells at the entry of each row; before 2015-08 those of that month.

    The transfer fee was then 0.03% of a Shanghai share's par value, which comes to much the same 0.002% of its price.
    """
    entry = days[np.minimum(rows + 1, len(days) - 1)]
    rates = fee_rates(entry.where(entry >= FEES_KNOWN, FEES_KNOWN))
    return {f"{side}_rate": rates[side].to_numpy() for side in ("buy", "sell")}


class Watched:
    """A policy whose holdings are noted: effective names, active exposures in standard deviations of the universe."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.seen = policy, []

    def __getattr__(self, name: str) -> Any:
        """Pass on what the policy is."""
        return getattr(self.policy, name)

    def target(self, day: Day) -> npt.NDArray[np.float64]:
        """Note the day, and ask the policy about it with the exposures that it bounds."""
        share = day.held / max(day.held.sum(), 1.0)
        active = (share - day.universe / day.universe.sum()) @ day.exposures
        names = {"effective_names": 1.0 / max(float((share**2).sum()), 1e-9)}
        self.seen.append(names | {f"on_{kind}": float(on) for kind, on in zip(KINDS, active, strict=True)})
        bounded = [KINDS.index(kind) for kind in getattr(self.policy, "bounds", {})]
        return self.policy.target(replace(day, exposures=day.exposures[:, bounded]))


class Year:
    """What trades meet in a test year and on the days before it that models did not learn from.

    No step that counts ends after `last`.

    Attributes:
        days, stocks: (D,), (N,); the test year's are those from row `first` on.
        market: of `portfolio.market_of`, grids (D, N).
        step: (D + later days of the panel, N) one-day return after the entry, NaN where it is not to be known.
        exposures: (D, N, K), in deviations of the day's universe.
    """

    def __init__(self, panel: DayPanel, year: int, last: pd.Timestamp) -> None:
        every, days = pd.DatetimeIndex(calendar()), pd.DatetimeIndex(panel.days)
        end = every[np.minimum(every.searchsorted(days) + 2, len(every) - 1)]  # of the step that follows a signal
        rows = np.flatnonzero((days.year <= year) & (end <= last))
        self.year, self.first = year, int(np.searchsorted(days[rows].year, year))
        self.days, self.stocks, self.learnt = days[rows], panel.stocks, end[rows] < every[every.year == year][0]
        self.market = market_of(panel, rows, **fees_of(days, rows))
        self.step = panel.step_return.numpy()[(end <= last)].astype(np.float64)

    @cached_property
    def exposures(self) -> Grid:
        """Put the exposures of `KINDS` beside each other."""
        market = self.market
        kinds = {"volatility": market["volatility"], "liquidity": market["liquidity"], "beta": market["risk"].beta}
        return np.stack(list(exposures(market["universe"], **kinds).values()), axis=-1)

    def grid(self, score: pd.DataFrame) -> Grid:
        """Bring scores, day x code, to (D, N)."""
        return score.reindex(index=self.days, columns=self.stocks).to_numpy(dtype=np.float64)

    def forecast(self, score: Grid) -> Forecast:
        """Learn what scores (D, N) are worth, from the days before the test year."""
        inside = (self.market["universe"] & self.market["buyable"])[self.learnt]
        return Forecast.fit(score[self.learnt], self.market["step_return"][self.learnt], mask=inside)

    def traded(
        self, policy: Policy, score: Grid, share: float, b: float, account: float = CAPITAL
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Let an account that begins with the mean portfolio trade through the test year.

        Args:
            policy: asked each day.
            score: (D, N).
            share: largest share of a stock's liquidity to trade in a day.
            b: of the impact.
            account: yuan at the start of the year.

        Returns: the account day by day with what it held (effective names, active exposures), and means over the days
            as shares of it, a year or (turnover) a day.
        """
        watched = Watched(policy)
        options = {"first": self.first, "start": "mean", "participation": share, "impact": b}
        options["account"] = account
        daily = simulate(watched, score, **self.market, exposures=self.exposures, **options).daily
        line = {name: YEAR * daily[name].mean() for name in ("gross", "fees", "impact", "net", "market", "excess")}
        line["gross_excess"] = line["gross"] - line["market"]
        line["tracking_error"] = np.sqrt(YEAR) * daily["excess"].std()
        line |= {"turnover": daily["turnover"].mean(), "names": daily["names"].median()}
        line["cash"] = (daily["cash"] / daily["value"]).mean()
        seen = pd.DataFrame(watched.seen)
        seen.index = daily.index[-len(seen) :]
        return daily.join(seen), line | seen.mean().to_dict() | {
            "effective_names": float(seen["effective_names"].median())
        }
