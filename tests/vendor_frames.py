"""The embedded market as the frames that each vendor would deliver of it."""

import numpy as np
import pandas as pd

from qlib_ext.provider import read_calendar, read_series
from qlib_ext.rules import is_index

FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor", "change")


def provider_frame(folder, fields=FIELDS):
    """All series of a provider, long and by its own units: (date, code) and the fields; suspended days are NaN."""
    days, parts = read_calendar(folder), []
    for place in sorted((folder / "features").iterdir()):
        series = {name: read_series(place / f"{name}.day.bin") for name in fields}
        first, values = series["close"]
        columns = {name: values.astype(float) for name, (_, values) in series.items()}
        dates = days[first : first + len(values)]
        parts.append(pd.DataFrame({"date": dates, "code": place.name.upper()} | columns))
    return pd.concat(parts, ignore_index=True)


def raw_frame(folder):
    """Bars as the exchange tells them: raw prices in whole cents, shares, yuan, the close before."""
    frame = provider_frame(folder)
    out = frame[["date", "code"]].copy()
    stock = ~frame["code"].map(is_index)
    for name in ("open", "high", "low", "close"):
        raw = frame[name] / frame["factor"]
        out[name] = np.where(stock, raw.round(2), raw)
    before = out["close"] / (1 + frame["change"])
    out["pre_close"] = np.where(stock, before.round(2), before)
    out["shares"] = (frame["volume"] * frame["factor"] * 100).round()
    out["yuan"] = frame["amount"] * 1000
    out["factor"] = frame["factor"]
    return out


def dotted(codes):
    return codes.str[:2].str.lower() + "." + codes.str[2:]


def baostock(raw):
    """query_history_k_data_plus, adjustflag 3: suspended days have a row with the price before."""
    out = raw.sort_values(["code", "date"]).copy()
    idle = out["close"].isna()
    last = out.groupby("code")["close"].ffill()
    out["pre_close"] = out["pre_close"].where(~idle, last)
    for name in ("open", "high", "low", "close"):
        out[name] = out[name].where(~idle, last)
    prices = {name: out[name] for name in ("open", "high", "low", "close")}
    columns = {"date": out["date"].dt.strftime("%Y-%m-%d"), "code": dotted(out["code"])} | prices
    columns |= {"preclose": out["pre_close"], "volume": out["shares"].fillna(0), "amount": out["yuan"].fillna(0)}
    columns |= {"adjustflag": 3, "turn": np.nan, "tradestatus": (~idle).astype(int)}
    return pd.DataFrame(columns | {"pctChg": (out["close"] / out["pre_close"] - 1) * 100, "isST": 0})


def akshare(raw):
    """stock_zh_a_hist: no row of suspended days; lots, of STAR shares; no indices."""
    out = raw[raw["close"].notna() & ~raw["code"].map(is_index)]
    star = out["code"].str.startswith("SH688")
    columns = {"日期": out["date"].dt.strftime("%Y-%m-%d"), "股票代码": out["code"].str[2:], "开盘": out["open"]}
    columns |= {"收盘": out["close"], "最高": out["high"], "最低": out["low"]}
    columns |= {"成交量": (out["shares"] / np.where(star, 1, 100)).round(), "成交额": out["yuan"], "振幅": 1.0}
    rise = out["close"] - out["pre_close"]
    return pd.DataFrame(columns | {"涨跌幅": rise / out["pre_close"] * 100, "涨跌额": rise.round(2), "换手率": 1.0})


def tushare(raw):
    """daily with adj_factor: dotted codes behind, lots, thousand yuan."""
    out = raw[raw["close"].notna()]
    columns = {"ts_code": out["code"].str[2:] + "." + out["code"].str[:2]}
    columns |= {"trade_date": out["date"].dt.strftime("%Y%m%d")}
    columns |= {name: out[name] for name in ("open", "high", "low", "close", "pre_close")}
    columns |= {"change": out["close"] - out["pre_close"], "pct_chg": (out["close"] / out["pre_close"] - 1) * 100}
    first = out.groupby("code")["factor"].transform("first")
    return pd.DataFrame(
        columns | {"vol": out["shares"] / 100, "amount": out["yuan"] / 1000, "adj_factor": 3.7 * out["factor"] / first}
    )


def community(folder):
    """The fields of a provider as `D.features` gives them."""
    frame = provider_frame(folder)
    return frame.set_axis(["datetime", "instrument", *(f"${name}" for name in FIELDS)], axis=1)
