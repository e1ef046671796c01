"""Compare ways to trade the same scores: the table "What it brings on real data" of docs/trading.md.

    python -m benchmarks.compare_trading SCORES --provider-uri DIR --universe all --years 2019 2020 2021 --make

SCORES is a folder of files YEAR_SEED.parquet: scores by (datetime, instrument) of a test year and of the days before
it, by a model that learnt from neither; `--make` trains those that are missing: on three years but their last 120 days,
which select the epoch, a plain MLP on the ranks of ten-day returns. The forecast is fitted on the days before the test
year. An account begins its year with the universe's mean portfolio, so that no ramp-up from cash is measured. What was
run stands in SCORES/trading.csv, a line for each year, seed, way and b, and is not run again. No return is read that
ends after `--last`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import qlib

from benchmarks.bench_step import table
from qlib_ext.data import DayDatasetH
from qlib_ext.model import MLPModel
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import CAPITAL, CostAwarePolicy, Day, Forecast, TopNPolicy, exposures, market_of, simulate
from qlib_ext.provider import calendar

YEAR = 242  # trading days
VALID = 120
LABEL = "Ref($close, -11)/Ref($close, -1) - 1"
KEY = ["year", "seed", "way", "b"]
KINDS = ("volatility", "liquidity", "beta")
SHOWN = {  # column of the table: column of the lines, factor, digits
    "gross": ("gross_excess", 100, 1), "fees": ("fees", 100, 1), "impact": ("impact", 100, 1), "net": ("net", 100, 1),
    "net excess": ("excess", 100, 1), "tracking error": ("tracking_error", 100, 1), "turnover": ("turnover", 100, 1),
    "cash": ("cash", 100, 0), "names": ("names", 1, 0), "effective": ("effective_names", 1, 0),
    "on volatility": ("on_volatility", 1, 2), "on liquidity": ("on_liquidity", 1, 2),
}  # fmt: skip
BOUNDS = dict.fromkeys(KINDS, (-0.2, 0.2))
WAYS: dict[str, tuple[Callable[[Forecast, float], Any], float]] = {  # policy of forecast and b; share of a day's trade
    "today: 5% caps, rank_buffer 2": (lambda f, b: TopNPolicy(CAPITAL, rank_buffer=2.0), 0.05),
    "smoothed 10 days": (lambda f, b: TopNPolicy(CAPITAL, score_halflife=10), 0.05),
    "buffer 200, 1000": (lambda f, b: TopNPolicy(CAPITAL, rank_buffer=(200, 1000)), 0.05),
    "both, 1% traded": (lambda f, b: TopNPolicy(CAPITAL, rank_buffer=(200, 1000), score_halflife=10), 0.01),
    "both, 1% held and traded": (lambda f, b: TopNPolicy(CAPITAL, 0.01, None, (200, 1000), 10), 0.01),
    "cost-aware, no bounds": (lambda f, b: CostAwarePolicy(f, impact=b), 0.05),
    "cost-aware": (lambda f, b: CostAwarePolicy(f, impact=b, bounds=BOUNDS), 0.05),
}
for k in (3, 10, 30, 100, 300):
    WAYS[f"risk_aversion {k}"] = (lambda f, b, k=k: CostAwarePolicy(f, impact=b, bounds=BOUNDS, risk_aversion=k), 0.05)
for x in (0.1, 0.3, 0.5):
    WAYS[f"bounds {x}"] = (lambda f, b, x=x: CostAwarePolicy(f, impact=b, bounds=dict.fromkeys(KINDS, (-x, x))), 0.05)


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


def days_of(year: int, years: int) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Trading days of a year, and of `years` years before it."""
    every = pd.DatetimeIndex(calendar())
    return every[every.year == year], every[(every.year < year) & (every.year >= year - years)]


def make_scores(folder: Path, year: int, seeds: list[int], universe: str) -> None:
    """Train the year's missing models; write what they say of validation days and year."""
    missing = [seed for seed in seeds if not (folder / f"{year}_{seed}.parquet").exists()]
    if not missing:
        return
    test, before = days_of(year, 3)
    segments = {"train": before[:-VALID], "valid": before[-VALID:], "test": test}
    own = [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}]
    options = {"instruments": universe, "label": ([LABEL], ["LABEL0"]), "infer_processors": own, "learn_processors": []}
    handler = {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": {**options, "drop_raw": True}}
    dataset = DayDatasetH(handler, {name: (days[0], days[-1]) for name, days in segments.items()}, step_len=1)
    for seed in missing:
        model = MLPModel(
            loss="ic", target="rank", metric="rank_ic", dropout=0.3, lr=5e-4, epochs=4, patience=2, seed=seed
        )
        model.fit(dataset)
        score = model.predict(dataset, slice(before[-VALID], test[-1]))
        score.to_frame().to_parquet(folder / f"{year}_{seed}.parquet")


def outcomes(universe: str, start: Any, end: Any) -> DayPanel:
    """Build what trades meet on the days; its one feature is nothing."""
    config = {"feature": (["$factor"], ["factor"]), "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "kwargs": {"config": config}}
    options = {"instruments": universe, "start_time": start, "end_time": end, "data_loader": loader}
    handler = {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": options}
    return DayDatasetH(handler, {"test": (start, end)}, step_len=1).panel


class Year:
    """Scores of a test year and of the days before it, and what trades meet on them; no step ends after `last`."""

    def __init__(self, panel: DayPanel, file: Path, year: int, last: pd.Timestamp) -> None:
        every, days = pd.DatetimeIndex(calendar()), pd.DatetimeIndex(panel.days)
        end = every[np.minimum(every.searchsorted(days) + 2, len(every) - 1)]  # of the step that follows a signal
        score = pd.read_parquet(file)["score"].unstack().reindex(columns=panel.stocks)
        rows = np.flatnonzero(days.isin(score.index) & (days.year <= year) & (end <= last))
        self.year, self.first = year, int(np.searchsorted(days[rows].year, year))
        self.score = score.reindex(days[rows]).to_numpy(dtype=np.float64)
        market = self.market = market_of(panel, rows)
        learnt = end[rows] < every[every.year == year][0]
        inside = (market["universe"] & market["buyable"])[learnt]
        self.forecast = Forecast.fit(self.score[learnt], market["step_return"][learnt], mask=inside)
        kinds = {"volatility": market["volatility"], "liquidity": market["liquidity"], "beta": market["risk"].beta}
        self.exposures = np.stack(list(exposures(market["universe"], **kinds).values()), axis=-1)

    def traded(self, way: str, b: float) -> dict[str, Any]:
        """Let an account trade in a way: shares of the account, a year or (turnover) a day."""
        make, share = WAYS[way]
        watched = Watched(make(self.forecast, b))
        options = {"first": self.first, "start": "mean", "participation": share, "impact": b}
        daily = simulate(watched, self.score, **self.market, exposures=self.exposures, **options).daily
        line = {"year": self.year, "way": way, "b": b, "days": len(daily)}
        line |= {name: YEAR * daily[name].mean() for name in ("gross", "fees", "impact", "net", "market", "excess")}
        line["gross_excess"] = line["gross"] - line["market"]
        line["tracking_error"] = np.sqrt(YEAR) * daily["excess"].std()
        line |= {"turnover": daily["turnover"].mean(), "names": daily["names"].median()}
        line["cash"] = (daily["cash"] / daily["value"]).mean()
        told_by = {name: getattr(self.forecast, name) for name in ("smoothing", "half_life", "t", "significant")}
        seen = pd.DataFrame(watched.seen)
        seen = seen.mean().to_dict() | {"effective_names": float(seen["effective_names"].median())}
        return line | seen | told_by


def summary(lines: pd.DataFrame) -> str:
    """Write a table for each b and year: means over seeds, of the excess also their deviation."""
    parts = []
    header = ["way", *SHOWN]
    for (b, year), part in lines.groupby(["b", "year"]):
        mean, spread = (getattr(part.groupby("way", sort=False), of)(numeric_only=True) for of in ("mean", "std"))
        rows = []
        for way in mean.index:
            row = [f"{scale * mean.loc[way, name]:.{digits}f}" for name, scale, digits in SHOWN.values()]
            rows.append([way, *row])
            rows[-1][1 + list(SHOWN).index("net excess")] += f" ({100 * spread.loc[way, 'excess']:.1f})"
        days, seeds = int(part["days"].max()), part["seed"].nunique()
        parts.append(
            f"{year}, b = {b:.2g}: {days} days, {seeds} seeds; % a year but for turnover (% a day)\n\n"
            + table(header, rows)
        )
    return "\n\n".join(parts)


def main() -> None:
    """Train what is missing, run what was not run, print the table."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    asked.add_argument("scores", type=Path, help="folder of YEAR_SEED.parquet; trading.csv is kept beside them")
    asked.add_argument("--provider-uri", required=True)
    asked.add_argument("--universe", default="all")
    asked.add_argument("--years", type=int, nargs="+", required=True)
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    asked.add_argument("--b", type=float, nargs="+", default=[1.0], help="of the impact that is charged and expected")
    asked.add_argument(
        "--last", type=pd.Timestamp, default=pd.Timestamp.max, metavar="DAY", help="no return after it is read"
    )
    asked.add_argument("--make", action="store_true", help="train the scores that are missing")
    wanted = asked.parse_args()
    qlib.init(provider_uri=wanted.provider_uri, region="cn")
    wanted.scores.mkdir(parents=True, exist_ok=True)
    kept = wanted.scores / "trading.csv"
    lines = pd.read_csv(kept) if kept.exists() else pd.DataFrame(columns=KEY)
    for year in wanted.years:
        if wanted.make:
            make_scores(wanted.scores, year, wanted.seeds, wanted.universe)
        test, before = days_of(year, 1)
        panel = None
        for seed in wanted.seeds:
            done = lines[(lines["year"] == year) & (lines["seed"] == seed)]
            seen = set(done[["way", "b"]].itertuples(index=False, name=None))
            todo = [cell for cell in product(wanted.ways, wanted.b) if cell not in seen]
            if not todo:
                continue
            if panel is None:
                panel = outcomes(wanted.universe, before[-VALID], test[-1])
            scored = Year(panel, wanted.scores / f"{year}_{seed}.parquet", year, wanted.last)
            for way, b in todo:
                line = {"seed": seed, **scored.traded(way, b)}
                lines = pd.concat([lines, pd.DataFrame([line])], ignore_index=True)
                lines.to_csv(kept, index=False)
                print({name: round(x, 4) if isinstance(x, float) else x for name, x in line.items()}, flush=True)
    shown = lines["year"].isin(wanted.years) & lines["way"].isin(wanted.ways) & lines["b"].isin(wanted.b)
    print(summary(lines[shown & lines["seed"].isin(wanted.seeds)]))


if __name__ == "__main__":
    main()
