"""What an order list is made from: a recorded run, the holdings, the market at the close."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext import rules
from qlib_ext.exchange import LEAD
from qlib_ext.options import day_span
from qlib_ext.panel import check_scores
from qlib_ext.provider import (
    calendar,
    future_days,
    last_known,
    listed_days,
    load_liquidity,
    read_traded,
    sessions_after,
    trailing_volatility,
)
from qlib_ext.runs import (
    DEFAULT_URI,
    LATEST,
    PLAN,
    Task,
    experiment_names,
    find_run,
    load_artifacts,
    plain_init,
    refuse_code,
)
from qlib_ext.spelling import is_nothing, read_csv, read_day, read_number

# --- the run


@dataclass(frozen=True, repr=False)
class ScoredRun:
    """A recorded run's scores, and how they were made.

    Attributes:
        identifier: of the recorder.
        scores: by (datetime, instrument), sorted, without indices.
        task: configuration of the task (model, dataset, record).
        qlib_init: the workflow's options of `qlib.init`, empty where they are not recorded.
        plan: the complete backtest that the run kept; None where it kept none.
    """

    identifier: str
    scores: pd.Series
    task: dict[str, Any]
    qlib_init: dict[str, Any]
    plan: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Id and days."""
        return f"ScoredRun({self.identifier}, {day_span(self.scores.index.unique('datetime'))})"

    @property
    def recorded_task(self) -> Task:
        """The task as it was run."""
        return Task(self.task, recorded=True, plan=self.plan)

    def score(self, day: str | None) -> tuple[pd.Timestamp, pd.Series]:
        """Return a day, the last scored one by default, and its scores (N,).

        Raises: ValueError where the day has none.
        """
        days = self.scores.index.get_level_values("datetime").unique()
        wanted = days[-1] if day is None else read_day("--date", day)
        if wanted not in days:
            raise ValueError(
                f"run {self.identifier} has no scores for {wanted:%Y-%m-%d}; it has {len(days)} days, "
                f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}"
            )
        return wanted, self.scores.xs(wanted, level="datetime")


def read_run(name: str, uri: str = DEFAULT_URI, experiment: str | None = None, *, trust: bool = False) -> ScoredRun:
    """Read a run: scores, task, and how qlib was started.

    Args:
        name: as for `runs.find_run`: a run's id or the first letters of it, an experiment's name (its latest finished
            run), or "latest": the last finished run of the experiment.
        uri: where the runs are, as for `runs.find_run`.
        experiment: look only there; needed by "latest" where several have finished runs.
        trust: whether the run's pickles may be read, and classes that it names be used, as code of its author runs.

    Raises:
        ValueError: no such run, or several, one without scores, or an artifact that cannot be read, or not
            without trust.
        FileNotFoundError: the file of `uri` is not there.
    """
    if name == LATEST and experiment is None:
        _refuse_several(uri)
    run = find_run(name, uri=uri, experiment=experiment, trust=trust)
    kept = load_artifacts(run, ["pred.pkl", "task", "config", PLAN])
    if "pred.pkl" not in kept or "task" not in kept:
        raise ValueError(f"run {run.id} has no pred.pkl and task: it needs a SignalRecord, and an end")
    scores, config = kept["pred.pkl"], kept.get("config", {})  # qrun writes it; a run made in Python has none
    scores = check_scores(scores, f"run {run.id}: pred.pkl")
    codes = scores.index.get_level_values("instrument")
    scores = scores[~codes.map(lambda code: rules.is_index(str(code))).to_numpy(dtype=bool)]
    if not len(scores):
        raise ValueError(f"run {run.id} has no scores of stocks in pred.pkl")
    init = dict(config.get("qlib_init", {}))
    scored = ScoredRun(run.id, scores, kept["task"], init if trust else plain_init(init), kept.get(PLAN))
    task = scored.recorded_task
    if not trust:
        refuse_code(strategy=task.liquidity if task.strategy is None else task.strategy, exchange=task.exchange)
    return scored


def _refuse_several(uri: str) -> None:
    """Raise ValueError where finished runs of several experiments could be the latest: orders cost money."""
    names = experiment_names(uri=uri, finished=True)
    if len(names) > 1:
        raise ValueError(f"{LATEST} of which experiment? Add --experiment with one of {', '.join(names)}")


# --- the holdings

MOST_SHARES = 1e12  # of a stock: no company has as many
_TRADE_YOURSELF = "; correct the code, or leave the row out and trade it yourself"


def read_holdings(source: str | Path | pd.DataFrame | None) -> pd.DataFrame:
    """Read holdings: code (the index), shares (raw shares) and, where there is such a column, bought (date).

    A CSV file, or a frame whose column or index is the code, in any form of `qlib_ext.spelling`, with the usual headers
    of brokers (证券代码, 股份余额); None: nothing is held. Rows of 0 shares are left out.

    Raises:
        ValueError: no such table, a code of no A share or twice, shares or a day that are not surely understood; the
            line of the file (the row of the frame, from 0) is named.
        OSError: the file cannot be opened.
    """
    if source is None:
        return pd.DataFrame({"shares": []}, index=pd.Index([], name="code"), dtype=float)
    if isinstance(source, pd.DataFrame):
        frame = source if "code" in source else source.assign(code=source.index)
        table, where = frame.set_axis(range(len(frame))), "holdings: row"
    else:
        table, where = read_csv(source, ["code", "shares"], optional=["bought", "available"]), f"{source}, line"
    if list(table).count("code") != 1 or list(table).count("shares") != 1:
        raise ValueError(f"holdings: wanted are the columns code, shares, once each; there are {list(table)}")
    held: dict[str, dict[str, Any]] = {}
    for row, cells in zip(table.index, table.to_dict("records"), strict=True):
        shares = _read_shares(f"{where} {row}: shares of {cells['code']!r}", cells["shares"])
        if shares == 0:
            continue
        code = rules.read_share(f"{where} {row}: code", cells["code"], hint=_TRADE_YOURSELF)
        if code in held:
            raise ValueError(f"{where} {row}: {code} stands twice; add its rows up")
        if not is_nothing(free := cells.get("available")) and _read_shares(f"{where} {row}: available", free) > shares:
            raise ValueError(f"{where} {row}: {free} shares of {code} are available, but {shares:g} held; correct it")
        held[code] = {"shares": shares}
        if "bought" in table:
            day = cells["bought"]
            held[code]["bought"] = pd.NaT if is_nothing(day) else read_day(f"{where} {row}: bought", day)
    columns = ["shares", "bought"] if "bought" in table else ["shares"]
    out = pd.DataFrame.from_dict(held, orient="index", columns=columns).rename_axis("code")
    return out.astype({"shares": float})


def _read_shares(what: str, value: Any) -> float:
    """Read a number of shares: whole, written out (a spreadsheet's 1.23E+06 has lost digits)."""
    number = read_number(what, value)
    if not 0 <= number <= MOST_SHARES or number != math.floor(number) or "e" in str(value).lower():
        raise ValueError(f"{what} is {value!r}; allowed are whole numbers from 0 on (raw shares), written out")
    return number


def check_holdings(holdings: pd.DataFrame, priced: pd.Index) -> pd.DataFrame:
    """Read holdings as `read_holdings` does. Raises: ValueError as it does, and for a code without a price."""
    held = read_holdings(holdings)
    for code in held.index.difference(priced):
        raise ValueError(
            f"holdings: no price of {code}: not in the provider, or no trade in the last {LEAD} trading days"
            f"{_TRADE_YOURSELF}"
        )
    return held


# --- the market


def next_day(day: pd.Timestamp) -> tuple[pd.Timestamp, bool]:
    """Return the trading day after a day, and whether a calendar tells it; else it is the next weekday.

    The provider's calendar goes first, then that of Shanghai's exchange where `exchange_calendars` is installed.
    """
    after = future_days(day)
    after = after if len(after) else sessions_after(day)
    return (after[0], True) if len(after) else (day + pd.offsets.BDay(1), False)


def read_market(
    codes: list[str],
    day: pd.Timestamp,
    date: pd.Timestamp,
    *,
    profile: str,
    window: int,
    volatility_window: int = 20,
    st: Any = None,
    market_orders: bool = False,
) -> pd.DataFrame:
    """Read what is known of N stocks at the close of `day`, and the rules for `date`, the day after.

    `profile`, `window`: of `load_liquidity`; `volatility_window`: days of the trailing standard deviation; `st`: as in
    `rules.st_mask`, None: not known; `market_orders`: `largest` is that of market orders, else of limit orders.

    Returns:
        By code: `price` (yuan, last close over today's factor), `suspended` (no trade on `day`), `liquidity` (yuan a
        day, NaN where not known that day), `known_liquidity` (the last one known), `volatility` (of daily
        returns, the last one known), `limit_up` and `limit_down` (yuan; inf and 0 without a limit), `least`, `step`
        and `largest` (shares: smallest buy order, step above it, largest order).

    Raises: ValueError without raw prices, for wrong units, and codes that are no A shares.
    """
    close, price = _closes(codes, day)
    liquidity = load_liquidity(codes, day, day, profile=profile, window=window, past=True)
    up, down = _limits(codes, day, date, st)
    lots = rules.lot_rule(codes, [date])
    return pd.DataFrame(
        {
            "price": price,
            "suspended": close.iloc[-1].isna(),
            "liquidity": liquidity.loc[day],
            "known_liquidity": last_known(liquidity).iloc[-1],
            "volatility": trailing_volatility(close, volatility_window).ffill().iloc[-1],
            "limit_up": rules.limit_up_price(price.to_numpy(), up),
            "limit_down": rules.limit_down_price(price.to_numpy(), down),
            "least": lots.minimum[0],
            "step": lots.step[0],
            "largest": rules.largest_order(codes, [date], market=market_orders)[0],
        },
        index=pd.Index(codes, name="code"),
    )


def last_prices(codes: list[str], day: pd.Timestamp) -> pd.Series:
    """Read the last close (N,) of stocks at the close of a day, raw yuan, NaN where there is none; `read_market`'s.

    Raises: ValueError without raw prices.
    """
    return _closes(codes, day)[1]


def _closes(codes: list[str], day: pd.Timestamp) -> tuple[pd.DataFrame, pd.Series]:
    """Read adjusted closes of the last days up to `day`, NaN without trade, and the last raw one."""
    raw = read_traded(codes, ["$close", "$factor"], day, day, lead=LEAD)
    close, factor = (raw[name].astype(np.float64) for name in ("$close", "$factor"))
    if not np.isfinite(factor.to_numpy()).any():
        raise ValueError("the provider has no $factor: raw prices, which an order needs, are not known")
    return close, (close.ffill().iloc[-1] / factor.ffill().iloc[-1]).round(2)


def _limits(codes: list[str], day: pd.Timestamp, date: pd.Timestamp, st: Any) -> list[npt.NDArray[np.float64]]:
    """Price limits of `date` up and down, (N,) each: those of the first days after listing and of ST among them."""
    days = calendar()
    days = days[days <= day][-rules.NEW_DAYS :]
    age = listed_days(codes, days)
    dates = days.append(pd.DatetimeIndex([date]))
    flags = None if st is None else rules.st_mask(st, codes, dates)
    known = {"listed_days": np.vstack([age, age[-1:] + 1]), "st": flags}
    return [rules.price_limit(codes, dates, **known, side=side)[-1] for side in ("up", "down")]
