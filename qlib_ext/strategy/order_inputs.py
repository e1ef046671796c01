"""What an order list is made from: a recorded run, the holdings, the market at the close."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.exchange import LEAD
from qlib_ext.provider import calendar, last_known, listed_days, load_liquidity, read_fields, trailing_volatility
from qlib_ext.rules import NEW_DAYS, is_index, limit_down_price, limit_up_price, lot_rule, price_limit, st_mask
from qlib_ext.runs import DEFAULT_URI, LATEST, PLAN, Task, find_run, list_runs, load_artifacts

# --- the run


@dataclass(frozen=True)
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

    @property
    def recorded_task(self) -> Task:
        """The task as it was run."""
        return Task(self.task, recorded=True, plan=self.plan)

    def score(self, day: str | None) -> tuple[pd.Timestamp, pd.Series]:
        """Return a day, the last scored one by default, and its scores (N,).

        Raises: ValueError where the day has none.
        """
        days = self.scores.index.get_level_values("datetime").unique()
        wanted = days[-1] if day is None else pd.to_datetime(day, errors="coerce")
        if pd.isna(wanted):
            raise ValueError(f"--date {day!r} is no date; write it as {days[-1]:%Y-%m-%d}")
        if wanted not in days:
            raise ValueError(
                f"run {self.identifier} has no scores for {wanted:%Y-%m-%d}; it has {len(days)} days, "
                f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}"
            )
        return wanted, self.scores.xs(wanted, level="datetime")


def read_run(name: str, uri: str = DEFAULT_URI, experiment: str | None = None) -> ScoredRun:
    """Read a run: scores, task, and how qlib was started.

    Args:
        name: as for `runs.find_run`: a run's id or the first letters of it, an experiment's name (its latest finished
            run), or "latest": the last finished run of the experiment.
        uri: sqlite:///FILE of the runs.
        experiment: look only there; needed by "latest" where several have finished runs.

    Raises:
        ValueError: no such run, or several, one without scores, or an artifact that cannot be read.
        FileNotFoundError: the file of `uri` is not there.
    """
    if name == LATEST and experiment is None:
        _refuse_several(uri)
    run = find_run(name, uri=uri, experiment=experiment)
    kept = load_artifacts(run, ["pred.pkl", "task", "config", PLAN])
    if "pred.pkl" not in kept or "task" not in kept:
        raise ValueError(f"run {run.id} has no pred.pkl and task: it needs a SignalRecord, and an end")
    scores, config = kept["pred.pkl"], kept.get("config", {})  # qrun writes it; a run made in Python has none
    if isinstance(scores, pd.DataFrame):
        scores = scores.iloc[:, 0]
    codes = scores.index.get_level_values("instrument")
    scores = scores[~codes.map(lambda code: is_index(str(code))).to_numpy(dtype=bool)].sort_index()
    if not len(scores):
        raise ValueError(f"run {run.id} has no scores of stocks in pred.pkl")
    return ScoredRun(run.id, scores, kept["task"], dict(config.get("qlib_init", {})), kept.get(PLAN))


def _refuse_several(uri: str) -> None:
    """Raise ValueError where finished runs of several experiments could be the latest: orders cost money."""
    names = sorted({run.experiment for run in list_runs(uri=uri) if run.status == "FINISHED"})
    if len(names) > 1:
        raise ValueError(f"{LATEST} of which experiment? Add --experiment with one of {', '.join(names)}")


# --- the holdings


def read_holdings(path: str | Path | None) -> pd.DataFrame:
    """Read holdings: columns code (the index), shares (raw shares) and, where the file has it, bought (date).

    None: nothing is held. Raises: ValueError for a file that is no such table.
    """
    if path is None:
        return pd.DataFrame({"shares": []}, index=pd.Index([], name="code"), dtype=float)
    try:
        table = pd.read_csv(path, dtype={"code": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file with the columns code,shares: {error}") from error
    missing = {"code", "shares"} - set(table.columns)
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(sorted(missing))}; wanted are code,shares, it has {list(table)}"
        )
    table["code"] = table["code"].str.strip().str.upper()
    shares = pd.to_numeric(table["shares"], errors="coerce")
    if table["code"].isna().any() or shares.isna().any():
        row = int(np.argmax(table["code"].isna() | shares.isna()))
        raise ValueError(f"{path}: row {row + 1} has no code, or shares that are no number: {dict(table.iloc[row])}")
    table["shares"] = shares
    return table.set_index("code")


def check_holdings(holdings: pd.DataFrame, priced: pd.Index) -> pd.DataFrame:
    """Return the holdings of more than no shares; the others need no price.

    Raises: ValueError for a code that is repeated, an index or without a price, and shares that cannot be.
    """
    shares = holdings["shares"].to_numpy(dtype=float)
    wrong = ~(np.isfinite(shares) & (shares >= 0) & (shares == np.floor(shares)))
    if wrong.any():
        code, number = holdings.index[wrong][0], shares[wrong][0]
        raise ValueError(f"holdings: {code} has {number:g} shares; allowed are whole numbers from 0 on (raw shares)")
    held = holdings[shares > 0]
    codes = held.index
    if codes.has_duplicates:
        raise ValueError(f"holdings: {codes[codes.duplicated()][0]} stands twice; add its rows up")
    for code in codes:
        if is_index(str(code)):
            raise ValueError(f"holdings: {code} is an index; only stocks can be held")
        if code not in priced:
            form = re.fullmatch(r"(\d{6})\.?(SH|SZ|BJ)", str(code))
            hint = f"write {form[2]}{form[1]}" if form else "correct the code, or leave it out and trade it yourself"
            raise ValueError(
                f"holdings: no price of {code}: not in the provider, or no trade in the last {LEAD} trading days; "
                f"{hint}"
            )
    return held


# --- the market


def next_day(day: pd.Timestamp) -> tuple[pd.Timestamp, bool]:
    """Return the trading day after a day, and whether the calendar tells it; else it is the next weekday."""
    after = calendar()[calendar() > day]
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
) -> pd.DataFrame:
    """Read what is known of N stocks at the close of `day`, and the rules for `date`, the day after.

    `profile`, `window`: of `load_liquidity`; `volatility_window`: days of the trailing standard deviation; `st`: as in
    `rules.st_mask`, None: not known.

    Returns:
        By code: `price` (yuan, last close over today's factor), `suspended` (no trade on `day`), `liquidity` (yuan a
        day, NaN where not known that day), `known_liquidity` (the last one known), `volatility` (of daily
        returns, the last one known), `limit_up` and `limit_down` (yuan; inf and 0 without a limit), `least` and `step`
        (shares: smallest buy order, and step above it).

    Raises: ValueError without raw prices, for wrong units, and codes that are no A shares.
    """
    raw = read_fields(codes, ["$close", "$factor", "$volume"], day, day, lead=LEAD)
    close, factor, volume = (raw[name].astype(np.float64) for name in ("$close", "$factor", "$volume"))
    if not np.isfinite(factor.to_numpy()).any():
        raise ValueError("the provider has no $factor: raw prices, which an order needs, are not known")
    price = (close.ffill().iloc[-1] / factor.ffill().iloc[-1]).round(2)
    dealt = (volume.iloc[-1] > 0) if np.isfinite(volume.to_numpy()).any() else True
    liquidity = load_liquidity(codes, day, day, profile=profile, window=window, past=True)
    up, down = _limits(codes, day, date, st)
    lots = lot_rule(codes, [date])
    return pd.DataFrame(
        {
            "price": price,
            "suspended": ~(close.iloc[-1].notna() & dealt),
            "liquidity": liquidity.loc[day],
            "known_liquidity": last_known(liquidity).iloc[-1],
            "volatility": trailing_volatility(close, volatility_window).ffill().iloc[-1],
            "limit_up": limit_up_price(price.to_numpy(), up),
            "limit_down": limit_down_price(price.to_numpy(), down),
            "least": lots.minimum[0],
            "step": lots.step[0],
        },
        index=pd.Index(codes, name="code"),
    )


def _limits(codes: list[str], day: pd.Timestamp, date: pd.Timestamp, st: Any) -> list[npt.NDArray[np.float64]]:
    """Price limits of `date` up and down, (N,) each: those of the first days after listing and of ST among them."""
    days = calendar()
    days = days[days <= day][-NEW_DAYS:]
    age = listed_days(codes, days)
    dates = days.append(pd.DatetimeIndex([date]))
    rules = {"listed_days": np.vstack([age, age[-1:] + 1]), "st": None if st is None else st_mask(st, codes, dates)}
    return [price_limit(codes, dates, **rules, side=side)[-1] for side in ("up", "down")]
