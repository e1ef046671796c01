"""Scores in the place of good ones, as judge, strategy and order list come by them."""

import numpy as np
import pandas as pd
import torch

from qlib_ext.data import LabelSpan
from qlib_ext.panel import DayPanel, check_scores, grid_of
from qlib_ext.record import Money, judge
from qlib_ext.strategy import LiquidityTopNStrategy

DAYS = pd.to_datetime(["2022-01-04", "2022-01-05", "2022-01-06", "2022-01-07", "2022-01-10"])
CODES = ["SH600000", "SH600004", "SZ000001"]
INDEX = pd.MultiIndex.from_product([DAYS, CODES], names=["datetime", "instrument"])
S = pd.Series(np.arange(15.0), INDEX, name="score")
WORDS = {"s": S, "np": np, "pd": pd, "inf": np.inf, "nan": np.nan, "days": DAYS, "codes": CODES, "index": INDEX}


def give(text, place, market):
    """Evaluate an expression of `s` and judge it; `grid: ...` goes to the judge as it is, (5, 3)."""
    if text.startswith("grid: "):
        return judged(eval(text.removeprefix("grid: "), dict(WORDS)))
    scores = eval(text, dict(WORDS))
    LiquidityTopNStrategy(signal=scores)
    judged(grid_of(scores, DAYS, CODES, calendar=DAYS))
    read = check_scores(scores)
    return "all of s" if read.index.tolist() == INDEX.tolist() and read.tolist() == S.tolist() else read


def judged(grid):
    ones = torch.ones(len(DAYS), len(CODES))
    grids = {"liquidity": ones * 1e8, "volatility": ones * 0.02, "buyable": ones > 0}
    features = {"x": ones[:, :, None], "features": ["x"], "present": ones > 0, "label": ones * 0.01 * torch.arange(3)}
    panel = DayPanel(days=DAYS.to_numpy(), stocks=np.array(CODES, dtype=object), **features, **grids)
    return judge(panel, np.arange(len(DAYS)), grid, Money(capital=1e6), LabelSpan(entry=1, reach=2))


def series(days=DAYS, codes=CODES, names=("datetime", "instrument")):
    """The values of s by other labels."""
    return S.set_axis(pd.MultiIndex.from_product([days, codes], names=names))


WORDS |= {"series": series}
