"""Which validation metric finds the epoch that earns most: rank correlations over seeds and epochs.

    python -m studies.epochs workflows/mlp_liq.yaml --seeds 0 1 2 --options '{"epochs": 8}'

Data come from the environment variables of the workflows. After each epoch the validation days are measured by every
metric, and the test days by the money that is left: the account of `NetExcess`, which begins with the mean portfolio,
with a forecast that is fitted on the validation days, after fees and impact, over the mean stock.
"""

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.bench_step import table
from qlib_ext.evaluate import METRICS, NetExcess, average, daily_metrics, metric_value
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import Forecast, market_of
from qlib_ext.training import Trainer
from studies.comparison import opened, parser

NAMES = [name for name in METRICS if not name.endswith("_buyable")]
BELIEF = 5e-4  # a day, of one standard deviation of the score
PLACES = (0.005, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.995)


class Believing(NetExcess):
    """Trades as if each score were worth the same: of the fit only decay, smoothing and persistence count."""

    def account(self, forecast: Forecast, *known: Any, **options: Any) -> Any:
        """See `NetExcess.account`."""
        levels = tuple(BELIEF * NormalDist().inv_cdf(place) for place in PLACES)
        return super().account(replace(forecast, places=PLACES, levels=levels, spread=BELIEF), *known, **options)


OWN = {
    "net_excess, top n": NetExcess(trade_participation=0.01, topn={"rank_buffer": 3.0, "score_halflife": 10.0}),
    "net_excess, believing": Believing(),
}


def epochs_of(dataset: Any, panel: DayPanel, model: Any, days: dict[str, Any]) -> pd.DataFrame:
    """Train a model; return a row an epoch: every metric of the validation days, and `test`, a fraction a day."""
    valid, test = dataset.rows("valid"), dataset.rows("test")
    trainer = Trainer(model.build(len(panel.features), 0), model.loss, **{**model.options, "patience": 10**6})
    rows = []

    def look(epoch: int, row: dict[str, float]) -> None:
        score = trainer.predict(panel, np.concatenate([valid, test])).astype(np.float64)
        grids = [grid[valid].numpy() for grid in (panel.label, panel.liquidity, panel.buyable)]
        columns = list(dict.fromkeys(METRICS[name] for name in NAMES))
        daily = daily_metrics(score[: len(valid)], *grids, names=columns, **trainer.money, trading=days["valid"])
        seen = {name: average(daily, name)[0] for name in NAMES} | {"minus loss": -row["valid_loss"]}
        money = trainer.money | {"trading": days["valid"]}
        seen |= {name: metric_value(own, score[: len(valid)], *grids, **money)[0] for name, own in OWN.items()}
        rows.append({"epoch": epoch, **seen, "test": _earned(score, days, len(valid), trainer.money["capital"])})

    trainer.fit(panel, dataset.rows("train"), valid, on_epoch=look)
    return pd.DataFrame(rows)


def _earned(score: Any, days: dict[str, Any], known: int, capital: float) -> float:
    """Mean daily excess over the test days, which follow the `known` validation days."""
    market = days["valid"]
    mask = market["universe"] & market["buyable"]
    forecast = Forecast.fit(score[:known], market["step_return"], mask=mask)
    return float(np.nanmean(NetExcess().account(forecast, score, days["both"], capital=capital, first=known)))


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Tell a row a metric: rank correlations with `test`, and what the epoch earns that it chooses, bp a day.

    `all`: over seeds and epochs; `within`: mean over seeds of those of its epochs; `chosen`: mean over seeds of `test`
    of the metric's best epoch, beside `best` and `mean` of all epochs.
    """
    rank = frame.rank()
    groups = [part for _, part in frame.groupby("seed")]
    out = {}
    for name in [*NAMES, *OWN, "minus loss"]:
        within = [part[name].corr(part["test"], method="spearman") for part in groups]
        chosen = [part.loc[part[name].idxmax(), "test"] for part in groups]
        out[name] = {
            "all": rank[name].corr(rank["test"]),
            "within": float(np.nanmean(within)),
            "chosen": 1e4 * float(np.mean(chosen)),
            "deviation": 1e4 * float(np.std(chosen, ddof=1)) if len(chosen) > 1 else np.nan,
        }
    result = pd.DataFrame(out).T.sort_values("all", ascending=False)
    best, mean = (1e4 * float(np.mean([getattr(part["test"], how)() for part in groups])) for how in ("max", "mean"))
    return result.assign(best=best, mean=mean)


def main() -> None:
    """Train all seeds; print each epoch, then the table."""
    asked = parser(__doc__)
    asked.add_argument("--out", help="a CSV file of all epochs")
    arguments = asked.parse_args()
    dataset, make = opened(arguments, ("seed",))
    panel = dataset.panel
    valid, test = dataset.rows("valid"), dataset.rows("test")
    days = {"valid": market_of(panel, valid), "both": market_of(panel, np.concatenate([valid, test]))}
    parts = []
    for seed in arguments.seeds:
        parts.append(epochs_of(dataset, panel, make(seed=seed), days).assign(seed=seed))
        print(parts[-1].round(5).to_string(), flush=True)
        frame = pd.concat(parts, ignore_index=True)
        if arguments.out:
            frame.to_csv(arguments.out, index=False)
    result = judged(frame)
    print(table(["metric", *result.columns], [[str(n), *(f"{x:.2f}" for x in row)] for n, row in result.iterrows()]))


if __name__ == "__main__":
    main()
