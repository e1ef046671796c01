"""Compare ways to trade the same scores: the table "What it brings on real data" of docs/trading.md.

    python -m studies.trading SCORES --provider-uri DIR --universe all --years 2019 2020 2021 --make

SCORES is a folder of files YEAR_SEED.parquet: scores by (datetime, instrument) of a test year and of the days before
it, by a model that learnt from neither; `--make` trains those that are missing: on three years but their last 120 days,
which select the epoch, a plain MLP on the ranks of ten-day returns. The forecast is fitted on the days before the test
year. An account begins its year with the universe's mean portfolio, so that no ramp-up from cash is measured. What was
run stands in SCORES/trading.csv, a line for each year, seed, way and b, and is not run again. No return is read that
ends after `--last`.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import qlib

from benchmarks.bench_step import table
from qlib_ext.model import MLPModel
from qlib_ext.portfolio import CAPITAL, CostAwarePolicy, Forecast, TopNPolicy
from studies.years import BOUNDS, KINDS, MLP, TRAINED, VALID, Year, dataset_of, days_of, outcomes, parser

KEY = ["year", "seed", "way", "b"]
SHOWN = {  # column of the table: column of the lines, factor, digits
    "gross": ("gross_excess", 100, 1), "fees": ("fees", 100, 1), "impact": ("impact", 100, 1), "net": ("net", 100, 1),
    "net excess": ("excess", 100, 1), "tracking error": ("tracking_error", 100, 1), "turnover": ("turnover", 100, 1),
    "cash": ("cash", 100, 0), "names": ("names", 1, 0), "effective": ("effective_names", 1, 0),
    "on volatility": ("on_volatility", 1, 2), "on liquidity": ("on_liquidity", 1, 2),
}  # fmt: skip
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


def make_scores(folder: Path, year: int, seeds: list[int], universe: str) -> None:
    """Train the year's missing models; write what they say of validation days and year."""
    missing = [seed for seed in seeds if not (folder / f"{year}_{seed}.parquet").exists()]
    if not missing:
        return
    test, before = days_of(year, TRAINED)
    segments = {"train": before[:-VALID], "valid": before[-VALID:], "test": test}
    dataset = dataset_of(universe, "FastAlpha158", segments)
    for seed in missing:
        model = MLPModel(**MLP, seed=seed)
        model.fit(dataset)
        score = model.predict(dataset, slice(before[-VALID], test[-1]))
        score.to_frame().to_parquet(folder / f"{year}_{seed}.parquet")


def traded(year: Year, score: npt.NDArray[np.float64], forecast: Forecast, way: str, b: float) -> dict[str, Any]:
    """Let an account trade scores (D, N) in a way: shares of the account, a year or (turnover) a day."""
    make, share = WAYS[way]
    daily, line = year.traded(make(forecast, b), score, share, b)
    told_by = {name: getattr(forecast, name) for name in ("smoothing", "half_life", "t", "significant")}
    return {"year": year.year, "way": way, "b": b, "days": len(daily)} | line | told_by


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
    asked = parser(__doc__, "of YEAR_SEED.parquet; trading.csv is kept beside them")
    asked.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    asked.add_argument("--b", type=float, nargs="+", default=[1.0], help="of the impact that is charged and expected")
    asked.add_argument("--make", action="store_true", help="train the scores that are missing")
    wanted = asked.parse_args()
    qlib.init(provider_uri=wanted.provider_uri, region="cn")
    wanted.folder.mkdir(parents=True, exist_ok=True)
    kept = wanted.folder / "trading.csv"
    lines = pd.read_csv(kept) if kept.exists() else pd.DataFrame(columns=KEY)
    for year in wanted.years:
        if wanted.make:
            make_scores(wanted.folder, year, wanted.seeds, wanted.universe)
        test, before = days_of(year, 1)
        held = None
        for seed in wanted.seeds:
            done = lines[(lines["year"] == year) & (lines["seed"] == seed)]
            seen = set(done[["way", "b"]].itertuples(index=False, name=None))
            todo = [cell for cell in product(wanted.ways, wanted.b) if cell not in seen]
            if not todo:
                continue
            if held is None:
                held = Year(outcomes(wanted.universe, before[-VALID], test[-1]), year, wanted.last)
            score = held.grid(pd.read_parquet(wanted.folder / f"{year}_{seed}.parquet")["score"].unstack())
            forecast = held.forecast(score)
            for way, b in todo:
                line = {"seed": seed, **traded(held, score, forecast, way, b)}
                lines = pd.concat([lines, pd.DataFrame([line])], ignore_index=True)
                lines.to_csv(kept, index=False)
                print({name: round(x, 4) if isinstance(x, float) else x for name, x in line.items()}, flush=True)
    shown = lines["year"].isin(wanted.years) & lines["way"].isin(wanted.ways) & lines["b"].isin(wanted.b)
    print(summary(lines[shown & lines["seed"].isin(wanted.seeds)]))


if __name__ == "__main__":
    main()
