"""How old an order list is: the day of its scores and prices, beside the last days with bars and of the calendar."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qlib_ext.provider import calendar, read_traded

FEW = 0.1  # of the stocks that trade on the fullest day: a day with fewer has no bars
MANY = 0.05  # of the stocks that traded the day before: so many suspensions do not begin on one day


def check_age(codes: Sequence[str], day: pd.Timestamp, date: pd.Timestamp, *, asked: bool, fresh: bool) -> list[str]:
    """Tell what makes an order list an old one: sentences, none where its scores are of the last day of the data.

    Args:
        codes: N stocks, scored or held.
        day: of the scores.
        date: of the trade.
        asked: whether the user named the day.
        fresh: whether an old list is an error.

    Raises: ValueError where the calendar lacks the day, or hardly a stock has a bar on it; where the data of the days
        after it are missing, and the day was not asked for; and for whatever is told where `fresh`.
    """
    if day not in (trading := calendar()):
        raise ValueError(
            f"the scores are of {day:%Y-%m-%d}, which the provider's calendar ({trading[0]:%Y-%m-%d} to "
            f"{trading[-1]:%Y-%m-%d}) does not have: update the data, or name the run's own provider"
        )
    close = read_traded(codes, [], day, trading[-1], lead=1)["$close"]
    dealt = close.notna().to_numpy()
    days, count = close.index, dealt.sum(axis=1)
    at, end = int(days.searchsorted(day)), len(days) - 1
    bars = int(np.flatnonzero(count >= max(1.0, FEW * count.max()))[-1]) if count.any() else -1
    last = f"the last day with bars is {days[bars]:%Y-%m-%d}" if bars >= 0 else "nor on the days about it"
    if count[at] < FEW * count.max() or bars < 0:
        raise ValueError(
            f"{count[at]} of {len(codes)} stocks have a bar on {day:%Y-%m-%d}, the day of the scores; {last}: there "
            "are no prices to order by. Update the data, or give --date with a scored day that has bars"
        )
    told = []
    if bars > at:
        told.append(
            f"the scores are OLD: of {day:%Y-%m-%d}, {_trading_days(bars - at)} before {days[bars]:%Y-%m-%d}, the last "
            f"day with bars. These orders are for {date:%Y-%m-%d}, which has been: `qlib-ext daily RUN` scores the "
            "newest day"
        )
    if end > bars:
        missing = (
            f"the calendar goes on to {days[end]:%Y-%m-%d}, {_trading_days(end - bars)} after {days[bars]:%Y-%m-%d}, "
            f"the last day with bars: the newest data are MISSING. Orders for {date:%Y-%m-%d} would go by scores and "
            f"prices of {day:%Y-%m-%d}"
        )
        if bars == at and not asked:
            raise ValueError(f"{missing}. Update the data and predict, or say --date {day:%Y-%m-%d} to have these")
        told.append(missing)
    eve = max(at - 1, 0)
    lost = int((dealt[eve] & ~dealt[at]).sum())
    if lost > MANY * count[eve]:
        told.append(
            f"{lost} of {count[eve]} stocks that traded on {days[eve]:%Y-%m-%d} have NO BAR on {day:%Y-%m-%d}: "
            "nothing of them is ordered; their data may be missing"
        )
    if told and fresh:
        raise ValueError(f"--fresh: {'; '.join(told)}")
    return told


def _trading_days(count: int) -> str:
    return f"{count} trading day{'s' if count > 1 else ''}"
