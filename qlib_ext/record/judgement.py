"""The one judge of a score: what it would have earned with real money, in the rows of one table.

Sizes: d days judged, N stocks; grids (d, N), yuan, returns as fractions.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.data import D

from qlib_ext.data import LabelSpan, is_series, own_series
from qlib_ext.evaluate import (
    CAPITALS,
    DAYS_A_YEAR,
    capacity_curve,
    daily_metrics,
    headline_table,
    known_benchmark,
    last_known,
    mean_return,
    money_returns,
    newey_west,
    rank_correlation,
)
from qlib_ext.options import SHARE, check_number, day_span, tell
from qlib_ext.panel import DayPanel, check_grid, grid_of
from qlib_ext.portfolio import CAPITAL, PARTICIPATION, fill_top_n, held_through
from qlib_ext.rules import fee_rates

Grid = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Series1 = npt.NDArray[np.float64]  # (d,)

# daily returns by how the capital is placed and what could be bought: before costs, after fees, after impact too; of
# what could be bought also ..._over_market, ..._over_buyable and, with a benchmark, ..._over_<its code>
ROWS = {
    ("capped", "buyable"): ("capped_buyable_gross", "capped_buyable_net", "capped_buyable_net_impact"),
    ("capped", "paper"): ("capped_paper_gross", "capped_paper_net", "capped_paper_net_impact"),
    ("topn", "buyable"): ("topn_buyable_gross", "topn_buyable_net", "topn_buyable_net_impact"),
    ("topn", "paper"): ("topn_paper_gross", "topn_paper_net", "topn_paper_net_impact"),
}
SERIES = {  # of `table_row`
    "gross": "capped_buyable_gross",
    "net": "capped_buyable_net",
    "net_over_market": "capped_buyable_net_over_market",
}
MONEY_KEYS = ("mean_return", "annual_return", "annual_volatility", "sharpe", "deck_ratio", "max_drawdown")
TABLE_DEFINITIONS = {
    "gross": (
        "capital placed in full under the caps, made up to its sum every day, no costs; what is locked at the entry is "
        "neither sold nor bought anew: at limit-up a holding stays up to its target, at limit-down all of it, to be "
        "topped up, suspended all of it; what stays uses up the capital first"
    ),
    "net": "gross less commission, transfer fee and stamp duty of daily rebalancing, from cash on the first day",
    "net_over_market": "net less the mean return of all stocks with a score, whether they could be bought or not",
    "mean_ic": "mean over days of the correlation of score and label across stocks",
    "ic_error": "Newey-West standard error of mean_ic; of the mean over folds: deviation of the folds / sqrt(folds)",
    "rank_ic": "mean over days of the correlation of the ranks of score and label across stocks",
    "rank_ic_error": "Newey-West standard error of rank_ic; of the mean over folds as ic_error",
    "volatility_exposure": "mean over days of the rank correlation of score and trailing volatility",
    "mean over folds": "each column's mean over the folds; of ..._mean_return it is the deck's 'mean return'",
    "selected": "what was chosen by looking at the days of the row",
}
ROW_DEFINITIONS = {  # of the rows of `Judgement.table`, by the part of their names
    "gross": TABLE_DEFINITIONS["gross"],
    "net": TABLE_DEFINITIONS["net"],
    "net_impact": "net less impact: b * volatility * sqrt(share of the day's turnover), a trade; where turnover or "
    "volatility is not known yet, the day's median, or the first known one, stands for it",
    "net_over_market": TABLE_DEFINITIONS["net_over_market"],
    "net_over_buyable": "net less the mean return of those that traded at the entry and were not locked at limit-up",
}


@dataclass(frozen=True)
class Money:
    """How the capital is placed and what trading costs.

    Attributes:
        capital: yuan.
        participation: largest share of a stock's liquidity.
        top_n: names of the fixed-n variant.
        max_weight: largest share of the capital in a stock; None: no cap, as the deck has it.
        commission: of both sides; transfer fee and stamp duty are those in force on the day.
        impact: b of `portfolio.impact_cost` in the rows `..._net_impact`: a trade of share s of a day's turnover pays
            impact * volatility * sqrt(s); 0: none, and no volatility is asked for.
        buy_rate: fees as a share of what is bought, in place of those by date (for days before 2015-08, whose fees are
            not on record); needs `sell_rate` too.
        sell_rate: the same of what is sold.

    Raises: ValueError for a number out of bounds.

    >>> Money(capital=1e7, impact=0.0).capital
    10000000.0
    """

    capital: float = CAPITAL
    participation: float = PARTICIPATION
    top_n: int = 30
    commission: float = 0.0003
    impact: float = 1.0
    buy_rate: float | None = None
    sell_rate: float | None = None
    max_weight: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers before anything is judged."""
        check_number("capital", self.capital, "(0, inf)", hint=" (yuan, such as 150e6)")
        check_number("participation", self.participation, "(0, 1]", hint=SHARE)
        check_number("top_n", self.top_n, "[1, inf)", whole=True)
        if self.max_weight is not None:
            check_number("max_weight", self.max_weight, "(0, 1]", hint=" (a share of the capital), or null")
        check_number("commission", self.commission, "[0, 0.003]", hint=" (a fraction: 0.0003 is 0.03%)")
        check_number("impact", self.impact, "[0, inf)")
        if self.buy_rate is not None and self.commission != Money.commission:
            tell("commission has no effect beside buy_rate and sell_rate")
        if (self.buy_rate is None) != (self.sell_rate is None):
            raise ValueError("give both buy_rate and sell_rate, or neither")
        for name in ("buy_rate", "sell_rate") if self.buy_rate is not None else ():
            check_number(name, getattr(self, name), "[0, inf)")

    def rates(self, days: pd.DatetimeIndex) -> tuple[Series1, Series1]:
        """Fees of buying and selling on each day, (d,) each."""
        if self.buy_rate is not None and self.sell_rate is not None:
            return np.full(len(days), self.buy_rate), np.full(len(days), self.sell_rate)
        fees = fee_rates(days, commission=self.commission)
        return fees["buy"].to_numpy(), fees["sell"].to_numpy()

    @property
    def caps(self) -> dict[str, Any]:
        """Options of `daily_metrics`."""
        names = ("capital", "participation", "top_n", "max_weight")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, repr=False)
class Judgement:
    """What `judge` found.

    Attributes:
        daily: metrics of each day asked for, see `evaluate.daily_metrics`, and volatility_exposure; names_held,
            cash_share, unpriced (not on paper) and largest_weight are those of the capital that is carried from day to
            day, locked holdings among it, where the other columns know each day alone.
        returns: daily returns by name, over the days with a known outcome.
        table: `headline_table` of the returns.
        positions: by (datetime, instrument): yuan, weight of the capital, liquidity in yuan (capped, buyable).
        days: those with a known outcome.
        horizon: days of the label.
    """

    daily: pd.DataFrame
    returns: dict[str, pd.Series]
    table: pd.DataFrame
    positions: pd.DataFrame
    days: pd.DatetimeIndex
    horizon: int

    def __repr__(self) -> str:
        """Days, the label's, and the IC."""
        return f"Judgement({day_span(self.days)}, horizon={self.horizon}, mean IC {self.daily['ic'].mean():.4f})"


def judge(
    panel: DayPanel,
    rows: Rows,
    score: Grid | pd.Series | pd.DataFrame,
    money: Money,
    span: LabelSpan,
    benchmark: pd.Series | None = None,
    *,
    year: float = DAYS_A_YEAR,
) -> Judgement:
    """Place the capital by a score under liquidity limits, and measure score and money day by day.

    Args:
        panel: the market, with liquidity, volatility and buyable; without sellable all could be sold.
        rows: (d,) increasing rows of the panel, the days to judge; they count as following each other.
        score: (d, N) of these days, NaN where there is none; or by (datetime, instrument), see `panel.grid_of`.
        money: how it is placed.
        span: of the label.
        benchmark: returns by day of an index from entry to entry, named by its code; missing days count as 0, see
            `known_benchmark`.
        year: trading days of a year, see `evaluate.days_a_year`.

    Raises: ValueError for scores of another shape, infinite ones or none at all (see `panel.check_grid`), where the
        panel lacks a grid, where no day has a known outcome, and where the benchmark lacks
        more than 5% of the days that have one.

    >>> rows = dataset.rows("test")
    >>> score = panel.x[rows, :, 0].numpy()  # the first feature
    >>> judgement = judge(panel, rows, score, Money(capital=1e7), dataset.span)
    >>> list(judgement.table.index[:3]), judgement.returns["capped_buyable_net"].shape
    (['capped_buyable_gross', 'capped_buyable_net', 'capped_buyable_net_impact'], (16,))
    """
    days = pd.DatetimeIndex(panel.days[rows])
    if isinstance(score, pd.Series | pd.DataFrame):
        score = grid_of(score, days, panel.stocks, calendar=panel.days)
    check_grid(score, days, panel.stocks)
    label, liquidity, volatility = (grid_rows(g, rows) for g in (panel.label, panel.liquidity, panel.volatility))
    can_buy, can_sell = traded_at_entry(panel, rows)
    daily = daily_metrics(score, label, liquidity, can_buy, **money.caps).set_index(days)
    daily["volatility_exposure"] = rank_correlation(score, volatility)
    step = grid_rows(entry_return(panel), rows)
    closed = np.flatnonzero(np.isfinite(step).any(axis=1))  # days with a known outcome
    if not len(closed):
        raise ValueError(
            f"no return is known on the {len(days)} days from {days[0].date()}: end the test period earlier"
        )
    returns: dict[str, Grid] = {}
    holdings: dict[str, Grid] = {}
    carried = last_known(liquidity), last_known(volatility)
    costs: dict[str, Any] = {"rates": money.rates(entry_days(panel, rows, span)), "impact": money.impact}
    for kind, count in (("capped", None), ("topn", money.top_n)):
        yuan: Grid = fill_top_n(score, liquidity, **money.caps | {"top_n": count})
        flags: dict[str, Any] = {"score": score if count is None else None, "horizon": span.horizon}
        holdings[kind] = held_through(yuan, step, can_buy, can_sell, capital=money.capital, **flags)
        daily = daily.assign(**_of_holdings(kind, holdings[kind], label, money.capital))
        for basis, held in (("buyable", holdings[kind]), ("paper", yuan)):
            earned, _ = money_returns(held, step, *carried, capital=money.capital, horizon=span.horizon, **costs)
            returns |= dict(zip(ROWS[kind, basis], earned.values(), strict=True))
    bases = {"market": mean_return(score, step), "buyable": mean_return(score, step, can_buy)}
    if benchmark is not None:
        index = known_benchmark(benchmark.reindex(days[closed])).reindex(days)
        bases[str(benchmark.name)] = index.to_numpy(dtype=np.float64)
    for name in [*ROWS["capped", "buyable"], *ROWS["topn", "buyable"]]:
        returns |= {f"{name}_over_{base}": returns[name] - other for base, other in bases.items()}
    series = {name: pd.Series(value[closed], index=days[closed]) for name, value in (returns | bases).items()}
    return Judgement(
        daily=daily,
        returns=series,
        table=headline_table(series, ic=daily["ic"].to_numpy()[closed], unscored=list(bases), year=year),
        positions=_long(holdings["capped"], liquidity, days, panel.stocks, money.capital),
        days=days[closed],
        horizon=span.horizon,
    )


def capacity(
    panel: DayPanel,
    rows: Rows,
    score: Grid,
    money: Money,
    span: LabelSpan,
    *,
    top_n: int | None = None,
    year: float = DAYS_A_YEAR,
) -> pd.DataFrame:
    """Draw the capacity curve of a score on the days that `judge` takes, over the universe's mean.

    That is `capacity_curve` at `CAPITALS` and at the capital of `money`, where it says what the rows capped_buyable of
    `judge` say (with `top_n`, capped or topn_buyable). Other arguments as for `judge`.
    """
    can_buy, can_sell = traded_at_entry(panel, rows)
    buy_rate, sell_rate = money.rates(entry_days(panel, rows, span))
    return capacity_curve(
        score,
        *(grid_rows(grid, rows) for grid in (panel.liquidity, entry_return(panel), panel.volatility)),
        buy_rate=buy_rate,
        sell_rate=sell_rate,
        buyable=can_buy,
        sellable=can_sell,
        capitals=[*CAPITALS, money.capital],
        participation=money.participation,
        top_n=top_n,
        max_weight=money.max_weight,
        impact=money.impact,
        horizon=span.horizon,
        year=year,
    )


def table_row(judged: Judgement) -> dict[str, Any]:
    """Put a judgement into one row: days, IC and RankIC with errors, exposure, and the deck's numbers for `SERIES`."""
    daily = judged.daily.loc[judged.days]
    row: dict[str, Any] = {"days": len(judged.days), "first": judged.days[0], "last": judged.days[-1]}
    for name, column in (("mean_ic", "ic"), ("rank_ic", "rank_ic")):
        value, error, _ = newey_west(daily[column], horizon=judged.horizon)
        row |= {name: value, f"{name.removeprefix('mean_')}_error": error}
    row["volatility_exposure"] = float(daily["volatility_exposure"].mean())
    for short, series in SERIES.items():
        line = judged.table.T[series]
        row |= {f"{short}_{key}": float(line[key]) for key in MONEY_KEYS}
    return row


def fold_table(folds: Sequence[Judgement], rest: Mapping[str, Judgement], selected: Mapping[str, str]) -> pd.DataFrame:
    """Put blocks under each other, their mean, and other judgements.

    Args:
        folds: of each block; rows "fold 0", "fold 1", ...
        rest: rows below "mean over folds", by name.
        selected: by row, what was chosen on its days ("fold" and "mean over folds" for the blocks and their mean).

    Returns:
        Columns of `table_row`, and `selected`; see `TABLE_DEFINITIONS`.
    """
    rows = {f"fold {i}": table_row(block) | {"selected": selected["fold"]} for i, block in enumerate(folds)}
    blocks = pd.DataFrame.from_dict(rows, orient="index")
    numbers = blocks.drop(columns=["first", "last", "selected"])
    mean: dict[str, Any] = {str(name): value for name, value in numbers.mean().items()}
    mean |= {"days": int(blocks["days"].sum()), "first": blocks["first"].min(), "last": blocks["last"].max()}
    for name, error in (("mean_ic", "ic_error"), ("rank_ic", "rank_ic_error")):
        mean[error] = float(blocks[name].std(ddof=1)) / math.sqrt(len(blocks))
    rows["mean over folds"] = mean | {"selected": selected["mean over folds"]}
    rows |= {name: table_row(judged) | {"selected": selected[name]} for name, judged in rest.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def index_returns(code: str | None, span: LabelSpan, days: pd.DatetimeIndex, *, field: str) -> pd.Series | None:
    """Daily returns of an index from the entry of each day to that of the next, by day; None without a code.

    Args:
        code: of the index, or a CSV file of one's own, see `data.own_series` (closes).
        span: of the label.
        days: (D,) of the signal.
        field: price of the label's entry, `DayDatasetH.entry_field`: close, open, ... Where the index has no such
            price, its close, with a warning.

    Raises: ValueError where the provider does not have it.
    """
    if code is None:
        return None
    if is_series(code):  # the return of the day d + entry + 1, which begins at the entry's close
        own, every = own_series(code), pd.DatetimeIndex(D.calendar())
        later = every.get_indexer(days) + span.entry + 1
        known = own.reindex(every).to_numpy()
        values = np.where(later < len(every), known[later.clip(max=len(every) - 1)], np.nan)
        return pd.Series(values, days, name=own.name)

    def step(price: str) -> str:  # of a lag of 0 qlib would take the first day of all
        now, then = (f"Ref(${price}, -{lag})" if lag else f"${price}" for lag in (span.entry, span.entry + 1))
        return f"{then}/{now} - 1"

    index = D.features([code], [step(field), step("close")], days[0], days[-1])
    if index.empty:
        raise ValueError(f"benchmark {code!r} is not in the provider: name another or set null")
    own, close = (index.iloc[:, n].droplevel("instrument").rename(code) for n in (0, 1))
    if own.isna().all() and close.notna().any():
        warnings.warn(f"the benchmark {code} has no ${field}, the label's entry: its close is taken", stacklevel=2)
        return close
    return own


# --- arithmetic


def entry_days(panel: DayPanel, rows: Rows, span: LabelSpan) -> pd.DatetimeIndex:
    """Days of the entries, (d,), whose fees are charged."""
    return pd.DatetimeIndex(panel.days[np.minimum(rows + span.entry, len(panel.days) - 1)])


def entry_return(panel: DayPanel) -> torch.Tensor:
    """Return of each day from its entry to the next day's, (D, N): the panel's own, or the label where it is that."""
    return panel.label if panel.step_return is None else panel.step_return


def traded_at_entry(panel: DayPanel, rows: Rows) -> tuple[Any, Any]:
    """Tell (d, N) what could be bought at the entry, and what could be sold: None where the panel does not say."""
    return grid_rows(panel.buyable, rows) > 0, None if panel.sellable is None else grid_rows(panel.sellable, rows) > 0


def _of_holdings(kind: str, held: Grid, label: Grid, capital: float) -> dict[str, Any]:
    """Count what is held on each day, locked holdings among it: in place of what each day alone would hold."""
    return {
        f"{kind}_names_held": (held > 0).sum(axis=1),
        f"{kind}_cash_share": np.maximum(1.0 - held.sum(axis=1) / capital, 0.0),
        f"{kind}_unpriced": ((held > 0) & ~np.isfinite(label)).sum(axis=1),
        f"{kind}_largest_weight": held.max(axis=1) / capital,
    }


def grid_rows(grid: torch.Tensor | None, rows: Rows) -> Grid:
    """Rows of a grid of the panel, (d, N); ValueError where the panel lacks it."""
    if grid is None:
        raise ValueError("the panel lacks a grid that the record needs: use DayDatasetH with liquidity")
    return np.asarray(grid[torch.as_tensor(rows)].numpy(), dtype=np.float64)


def _long(
    yuan: Grid, liquidity: Grid, days: pd.DatetimeIndex, stocks: npt.NDArray[np.object_], capital: float
) -> pd.DataFrame:
    """List the holdings: yuan, weight and liquidity by (datetime, instrument)."""
    day, stock = np.nonzero(yuan)
    index = pd.MultiIndex.from_arrays([days[day], stocks[stock]], names=["datetime", "instrument"])
    held = yuan[day, stock]
    return pd.DataFrame({"yuan": held, "weight": held / capital, "liquidity": liquidity[day, stock]}, index=index)
