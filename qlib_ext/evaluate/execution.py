"""What a backtest traded, what that cost, what it could not reach, and what each assumption takes: plain frames.

Every function is pure and takes the tables of `AShareExchange` (`fills`, `blocked`, `settled`), of qlib's report or of
`PolicyStrategy.daily_log`. `EXECUTION_DEFINITIONS` says in words what stands in each table.
Legend: `D` days, `N` stocks; yuan; shares and returns as fractions (0.01 = 1%).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.evaluate.benchmark import has_benchmark, known_benchmark
from qlib_ext.evaluate.headline import ACCOUNT_DEFINITIONS, DAYS_A_YEAR, DEFINITIONS, headline_table
from qlib_ext.options import check_number
from qlib_ext.portfolio import RULES, fill_top_n, held_through, sleeve_returns

Grid = npt.NDArray[np.float64]

PARTS = ("commission", "transfer", "stamp_duty", "impact")
EDGES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.25, 1.0)
HORIZONS = (1, 2, 5, 10)  # days
SLACK = 1e-5  # of a bin's edge: a trade at its cap belongs to the bin that ends there


# --- what was earned


PERFORMANCE = {
    "gross": "return of the account before costs, on its value at the previous close",
    "net": "gross less all costs of the day (impact too where the exchange charges it): the account's own growth",
    "benchmark": "return of the benchmark; 0 on a day that lacks it, of which a warning tells",
    "excess_gross": "gross less benchmark, day by day; summed and not compounded, in all columns but deck_ratio",
    "excess_net": "net less benchmark, day by day; summed and not compounded, in all columns but deck_ratio",
}


def performance(report: pd.DataFrame, *, year: float = DAYS_A_YEAR) -> pd.DataFrame:
    """Put the account's returns into the deck's table.

    Args:
        report: qlib's report, a row a day: `return` (before costs), `cost`, and `bench` (all NaN or 0: no benchmark).
        year: trading days of a year, see `days_a_year`.

    Returns: rows of `PERFORMANCE`, columns of `evaluate.ACCOUNT_DEFINITIONS`; without a benchmark, gross and net alone.
        In `attrs["definitions"]` what each means.

    Raises: ValueError for a missing column or no day, and as `known_benchmark`.

    >>> days = pd.bdate_range("2022-01-04", periods=2)
    >>> table = performance(pd.DataFrame({"return": [0.10, -0.05], "cost": [0.01, 0.0]}, days))
    >>> table["mean_return"].round(4).to_dict()
    {'gross': 0.045, 'net': 0.0355}
    """
    _need("report", report, ("return", "cost"))
    gross = report["return"].astype(float)
    net = gross - report["cost"].astype(float)
    rows = {"gross": gross, "net": net}
    if has_benchmark(report):
        bench = known_benchmark(report["bench"].astype(float))
        rows |= {"benchmark": bench, "excess_gross": gross - bench, "excess_net": net - bench}
    accounts = ("gross", "net", "benchmark")
    table = headline_table(rows, compounded=accounts, year=year).drop(columns="mean_ic")
    table.attrs["definitions"] = PERFORMANCE | {str(name): ACCOUNT_DEFINITIONS[str(name)] for name in table}
    return table


TURNOVER = {
    "buy": "yuan bought on the day",
    "sell": "yuan sold on the day, delisted holdings that were settled at their last price among it",
    "two_way": "(buy + sell) / value of the account at the previous close",
    "one_way": "smaller of buy and sell / value of the account at the previous close: what was exchanged, so that "
    "placing or withdrawing money is none",
}


def turnover(fills: pd.DataFrame, value: pd.Series, settled: pd.DataFrame | None = None) -> pd.DataFrame:
    """Measure what was traded each day, of the account.

    Args:
        fills: day, side ("buy" or "sell"), yuan.
        value: (D,) the account's value at the close before each day of the backtest, by day, yuan.
        settled: day, yuan received for delisted holdings, which counts as sold; None: there are none.

    Returns: (D, 4), columns of `TURNOVER`.

    Raises: ValueError for a missing column, or a fill or settlement on a day that `value` lacks.
    """
    _need("fills", fills, ("day", "side", "yuan"))
    _check_days("fills", fills["day"], value.index)
    yuan = fills.pivot_table(index="day", columns="side", values="yuan", aggfunc="sum")
    yuan = yuan.reindex(index=value.index, columns=["buy", "sell"]).fillna(0.0)
    yuan.columns.name = None
    if settled is not None:
        _need("settled", settled, ("day", "yuan"))
        _check_days("settled", settled["day"], value.index)
        yuan["sell"] += settled.groupby("day")["yuan"].sum().reindex(value.index).fillna(0.0).astype(float)
    smaller, both = yuan.min(axis=1), yuan.sum(axis=1)
    return yuan.assign(one_way=smaller / value, two_way=both / value)


COST_SPLIT = {
    "yuan": "paid over all days",
    "bp_of_traded": "in basis points (0.01%) of all yuan dealt: buys, sells, delisted holdings that were settled",
    "share_a_year": "of the account's mean value, over the trading days of a year",
    "impact": "an estimate charged as a cost: b * volatility * (share of the day's turnover) ** exponent",
    "delisting": "fees of the sales of delisted holdings, and what was written off",
}


def cost_split(
    fills: pd.DataFrame, value: pd.Series, settled: pd.DataFrame | None = None, *, year: float = DAYS_A_YEAR
) -> pd.DataFrame:
    """Split the cost into its parts.

    Args:
        fills: yuan and the parts commission, transfer, stamp_duty, impact (yuan).
        value: (D,) the account's value on each day of the backtest, yuan.
        settled: yuan received, cost and lost (yuan) of delisted holdings; None: there are none.
        year: trading days of a year, see `days_a_year`.

    Returns: rows: the parts, delisting, total; columns yuan, bp_of_traded (NaN where nothing was), share_a_year.

    Raises: ValueError for a missing column, or a value without days.
    """
    _need("fills", fills, ("yuan", *PARTS))
    if not len(value):
        raise ValueError("value has no day; give the account's value on each day of the backtest")
    yuan = {name: float(fills[name].sum()) for name in PARTS}
    yuan["delisting"] = 0.0 if settled is None else float(settled["cost"].sum() + settled["lost"].sum())
    yuan["total"] = sum(yuan.values())
    table = pd.DataFrame({"yuan": pd.Series(yuan)})
    traded = float(fills["yuan"].sum()) + (0.0 if settled is None else float(settled["yuan"].sum()))
    table["bp_of_traded"] = table["yuan"] / traded * 1e4 if traded > 0 else np.nan
    table["share_a_year"] = table["yuan"] / float(value.mean()) / len(value) * year
    return table


# --- liquidity


PARTICIPATION_BINS = {
    "low": "share of the stock's mean daily turnover (known at the previous close) dealt on one day, above this",
    "high": "and up to this; the last bin is open, and NaN stands for an unknown turnover",
    "trades": "pairs of stock and day; buys and sells of one stock on one day are one; the settlement of a "
    "delisted holding is none",
    "yuan": "dealt in them",
    "share": "of all yuan dealt",
}


def participation_histogram(fills: pd.DataFrame, edges: Sequence[float] = EDGES) -> pd.DataFrame:
    """Count the trades by the share of the stock's turnover that they took.

    Args:
        fills: day, code, yuan and used (yuan / liquidity).
        edges: increasing shares from 0; a bin is (low, high], the last one open to infinity.

    Returns: a row a bin, and one with low and high NaN where the share is not known; columns of `PARTICIPATION_BINS`.

    Raises: ValueError for a missing column or edges that do not increase.
    """
    _need("fills", fills, ("day", "code", "yuan", "used"))
    bounds = np.append(np.asarray(edges, dtype=float), np.inf)
    if bounds[0] != 0 or not (np.diff(bounds) > 0).all():
        raise ValueError(f"edges={list(edges)}; they must begin at 0 and increase, such as {list(EDGES)}")
    daily = fills.groupby(["day", "code"])[["yuan", "used"]].sum(min_count=1).astype(float)
    yuan, measured = daily["yuan"].to_numpy(), np.isfinite(daily["used"].to_numpy())
    place = np.searchsorted(bounds[1:-1] * (1.0 + SLACK), daily["used"].to_numpy()[measured], side="left")
    count = len(bounds) - 1
    trades, dealt = np.bincount(place, minlength=count), np.bincount(place, weights=yuan[measured], minlength=count)
    table = pd.DataFrame({"low": bounds[:-1], "high": bounds[1:], "trades": trades, "yuan": dealt})
    if not measured.all():
        table.loc[count] = [np.nan, np.nan, int((~measured).sum()), yuan[~measured].sum()]
    total = float(yuan.sum())
    return table.astype({"trades": int}).assign(share=table["yuan"] / total if total > 0 else np.nan)


LIQUIDATION = {
    "mean_days": "days to sell all at `participation` of each stock's mean daily turnover, weighted by yuan held; "
    "stocks whose turnover is not known are left out",
    "max_days": "the same, of the slowest stock; without end while a stock is held whose turnover is not known",
    "gone_1, gone_2, ...": "share of the book's value that is sold after so many days, all stocks at once",
    "unknown": "share of the book's value in stocks whose turnover is not known; it counts as never sold",
}


def days_to_liquidate(
    positions: pd.DataFrame, liquidity: pd.DataFrame, participation: float, horizons: Sequence[int] = HORIZONS
) -> pd.DataFrame:
    """Tell how long it takes to sell each day's book at a share of each stock's turnover.

    Args:
        positions: (D, N) yuan held at the close, by day and code; NaN and 0: not held.
        liquidity: yuan a day, by day and code, known at the close; days and codes it lacks are unknown.
        participation: share of the turnover that is sold a day.
        horizons: days after which the sold share is told.

    Returns: (D, ...) columns of `LIQUIDATION`, NaN on days without holdings (mean_days also where no holding's turnover
        is known). In `attrs["definitions"]` what each means.

    Raises: ValueError for a participation that is not above 0.
    """
    check_number("participation", participation, "(0, inf)", hint=", for example 0.05")
    yuan = positions.fillna(0.0).to_numpy(dtype=float)
    traded = liquidity.reindex(index=positions.index, columns=positions.columns).to_numpy(dtype=float)
    known = np.isfinite(traded) & (traded > 0)
    room = np.where(known, participation * traded, 0.0)
    held, seen = yuan.sum(axis=1), np.where(known, yuan, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        days = np.where(known, yuan / room, np.where(yuan > 0, np.inf, 0.0))
        out = {
            "mean_days": (seen * np.where(known, days, 0.0)).sum(axis=1) / seen.sum(axis=1),
            "max_days": np.where(held > 0, days.max(axis=1, initial=0.0), np.nan),
        }
        out |= {f"gone_{k}": np.minimum(yuan, k * room).sum(axis=1) / held for k in horizons}
        out["unknown"] = np.where(known, 0.0, yuan).sum(axis=1) / held
    table, words = pd.DataFrame(out, index=positions.index), LIQUIDATION
    share = f"{100.0 * participation:g}%"
    table.attrs["definitions"] = words | {"mean_days": words["mean_days"].replace("`participation`", share)}
    return table


BOOK = {
    "names": "stocks held at the close",
    "empty": "1 on a day without a holding, else 0: its mean is the share of such days",
    "largest": "largest holding / value of the account at the close, 0 without a holding",
}


def book(positions: pd.DataFrame, value: pd.Series | None = None) -> pd.DataFrame:
    """Count what is held: (D, ...) columns of `BOOK`, of the yuan held at the close, (D, N), NaN and 0: not held.

    `value` (D,): of the account at the close, yuan; without it `largest` is not told.

    >>> book(pd.DataFrame({"SH600000": [1e5, 0.0], "SZ000001": [2e5, np.nan]})).to_dict("list")
    {'names': [2, 0], 'empty': [0.0, 1.0]}
    >>> days = pd.bdate_range("2022-01-04", periods=2)
    >>> book(pd.DataFrame({"A": [1e5, np.nan], "B": 2e5}, days), pd.Series(4e5, days))["largest"].tolist()
    [0.5, 0.5]
    """
    names = (positions > 0).sum(axis=1)
    table = pd.DataFrame({"names": names, "empty": (names == 0).astype(float)})
    return table if value is None else table.assign(largest=positions.max(axis=1).fillna(0.0) / value)


# --- what was not reached


TARGET_REACHED = {
    "share_reached": "share of the previous step's target that the holdings had reached",
    "unreached": "target less holding, if all orders of the step fill, over the stocks below target / all target",
    "unreached_names": "number of these stocks",
    "cash": "cash / value of the account before the step's orders",
    "held": "yuan in stocks / value of the account before the step's orders",
    "names": "stocks with a target",
}


def target_reached(daily_log: pd.DataFrame) -> pd.DataFrame:
    """Sum up how far the orders got towards the targets.

    Args:
        daily_log: of a PolicyStrategy: a row a step with target, value, held, cash, unreached (yuan),
            unreached_names, share_reached, names.

    Returns: rows of `TARGET_REACHED`; columns mean, median, worst (the smallest of share_reached, held and names, the
        largest of the others), over the steps with a target.

    Raises: ValueError for a missing column.
    """
    _need("daily_log", daily_log, (*TARGET_REACHED, "target", "value"))
    log = daily_log[daily_log["target"] > 0]
    numbers = pd.DataFrame(
        {
            "share_reached": log["share_reached"],
            "unreached": log["unreached"] / log["target"],
            "unreached_names": log["unreached_names"],
            "cash": log["cash"] / log["value"],
            "held": log["held"] / log["value"],
            "names": log["names"],
        }
    ).astype(float)
    worst = numbers.max().where(~numbers.columns.isin(["share_reached", "held", "names"]), numbers.min())
    return pd.DataFrame({"mean": numbers.mean(), "median": numbers.median(), "worst": worst})


BLOCKED = {
    "cuts": "orders that the reason cut, in part or in full",
    "wanted": "yuan of these orders before the cut",
    "cut": "yuan cut; an order that is sent again on later days counts again",
    "share": "of all yuan cut",
}


def blocked_by_reason(blocked: pd.DataFrame) -> pd.DataFrame:
    """Sum up what each reason cut.

    Args:
        blocked: a row a cut: side, reason, wanted (yuan before it), dealt (yuan after it); wanted may be NaN where
            there is no price.

    Returns: by (reason, side), the largest cut first; columns of `BLOCKED`.

    Raises: ValueError for a missing column.
    """
    _need("blocked", blocked, ("side", "reason", "wanted", "dealt"))
    rows = blocked.assign(cut=blocked["wanted"] - blocked["dealt"], cuts=1)
    table = rows.groupby(["reason", "side"])[["cuts", "wanted", "cut"]].sum().sort_values("cut", ascending=False)
    total = float(table["cut"].sum())
    return table.astype({"cuts": int}).assign(share=table["cut"] / total if total > 0 else np.nan)


EXECUTION_DEFINITIONS: dict[str, dict[str, str]] = {
    "performance": PERFORMANCE,
    "turnover": TURNOVER,
    "cost_split": COST_SPLIT,
    "impact_rules": RULES,
    "participation": PARTICIPATION_BINS,
    "liquidation": LIQUIDATION,
    "book": BOOK,
    "target_reached": TARGET_REACHED,
    "blocked": BLOCKED,
}


# --- the waterfall

STAGES = {
    "paper": "the score's portfolio on every day at the label's entry price: all can be bought, nothing costs (the "
    "judge's capped_paper_gross, with top_n: topn_paper_gross)",
    "buyable": "and what is locked at the entry is neither sold nor bought anew (capped_buyable_gross)",
    "limits": "and a backtest at the label's entry price: price limits of both sides, suspensions, lots, T+1, "
    "delistings; no trade cap, no costs, no rank buffer, no smoothing, no minimum holding period",
    "price": "and the run's own deal price",
    "buffer": "and the run's rank buffer, smoothing and minimum holding period",
    "caps": "and the trade caps over days, of the strategy and of the exchange: what the run traded, before costs",
    "strategy": "and the run's own strategy: what it traded, before costs, with price limits of both sides, "
    "suspensions, lots, T+1, delistings and caps over days",
    "costs": "and commission, transfer fee, stamp duty, and what delistings cost",
    "impact": "and market impact: the run's own backtest",
    "deck": "beside it, the same score traded as the deck's judge does, after fees and impact: all of the capital "
    "placed anew each day down the ranking, at most 5% of a stock's liquidity",
}
STAGE_COLUMNS = {
    "annual_return": "mean daily return * trading days of a year, not compounded; a day's return is on the capital in "
    "use: the account at the close before, at most the strategy's capital (what an account has beyond it lies idle)",
    "mean_return": "sum of the daily returns on the capital in use",
    "change": "annual_return less that of the row above: what the one assumption takes; none of deck, which adds no "
    "assumption",
    "annual_volatility": DEFINITIONS["annual_volatility"],
    "max_drawdown": DEFINITIONS["max_drawdown"],
    "days": "trading days of the backtest, the same for all rows",
}


def paper_returns(
    score: Grid,
    liquidity: Grid,
    step_return: Grid,
    buyable: npt.NDArray[np.bool_],
    sellable: npt.NDArray[np.bool_] | None = None,
    **caps: Any,
) -> dict[str, npt.NDArray[np.float64]]:
    """Give the daily returns of the waterfall's first two stages, `paper` and `buyable`, (D,) each.

    Args:
        score: (D, N) NaN where there is none.
        liquidity: (D, N) yuan a day, known at the close of the signal day.
        step_return: (D, N) one-day return that follows the entry; NaN counts as 0.
        buyable: (D, N) bool, as in `held_through`.
        sellable: (D, N) bool, as in `held_through`.
        caps: capital, participation and top_n of `fill_top_n`.
    """
    yuan = fill_top_n(score, liquidity, **caps)
    order = score if caps.get("top_n") is None else None
    locked = held_through(yuan, step_return, buyable, sellable, capital=caps["capital"], score=order)
    held = {"paper": yuan, "buyable": locked}
    return {name: sleeve_returns(grid, step_return, 1, capital=caps["capital"]) for name, grid in held.items()}


def in_use(returns: pd.Series, report: pd.DataFrame, capital: float | None) -> pd.Series:
    """Bring an account's daily returns (D,) to the capital in use, at most `capital` of the account.

    Args:
        returns: on the account at the close before, by day.
        report: qlib's, with account, return, cost, by day.
        capital: yuan that the strategy places at most; None: all of the account.

    >>> days = pd.bdate_range("2022-01-04", periods=2)
    >>> report = pd.DataFrame({"account": [200.0, 210.0], "return": [1.0, 0.06], "cost": [0.0, 0.01]}, days)
    >>> in_use(report["return"] - report["cost"], report, 100.0).round(4).tolist()  # 10 of 200, of which 100 are in use
    [1.0, 0.1]
    """
    before = report["account"] / (1.0 + report["return"] - report["cost"])
    return returns if capital is None else returns * before / before.clip(upper=capital)


def cost_stages(report: pd.DataFrame, fills: pd.DataFrame, capital: float | None) -> dict[str, pd.Series]:
    """Take the costs off what a backtest traded: daily returns (D,) on the capital in use, by name.

    Args:
        report: qlib's, with account, return (before costs) and cost, by day.
        fills: day and impact (yuan).
        capital: as in `in_use`.

    Returns: before (costs), costs (after all but the impact) and impact (after all).
    """
    _need("fills", fills, ("day", "impact"))
    net = report["return"] - report["cost"]
    impact = fills.groupby("day")["impact"].sum().reindex(report.index).fillna(0.0).astype(float)
    moved = impact * (1.0 + net) / report["account"]
    stages = {"before": report["return"], "costs": net + moved, "impact": net}
    return {name: in_use(returns, report, capital) for name, returns in stages.items()}


def waterfall(
    returns: Mapping[str, pd.Series], skipped: Collection[str] = (), *, year: float = DAYS_A_YEAR
) -> pd.DataFrame:
    """Put the stages under each other: what each assumption takes from the return on the capital in use.

    Args:
        returns: stage, of `STAGES` and in their order -> daily returns (D,) over the same days, see `in_use`.
        skipped: stages that change nothing in this run (no buffer): they repeat the one above.
        year: trading days of a year, see `days_a_year`.

    Returns: by stage: annual_return, mean_return, change (NaN on the first, and on `deck`, which stands beside),
        annual_volatility, max_drawdown, days, see `STAGE_COLUMNS`; in `attrs["definitions"]` what each row and column
        means.

    Raises: ValueError for unknown stages, or days that differ.

    >>> days = pd.bdate_range("2022-01-04", periods=2)
    >>> stages = {"paper": pd.Series([0.02, 0.01], days), "buyable": pd.Series([0.0, 0.01], days)}
    >>> waterfall(stages, skipped=["buffer"])["mean_return"].round(4).to_dict()
    {'paper': 0.03, 'buyable': 0.01, 'buffer': 0.01}
    """
    names = [name for name in STAGES if name in returns or name in skipped]
    wrong = sorted(set(returns) - set(STAGES))
    if wrong or not names or names[0] in skipped:
        raise ValueError(f"stages are {list(STAGES)}; got {list(returns)}, skipped {list(skipped)}")
    first, filled = returns[names[0]], dict[str, pd.Series]()
    for above, name in zip([names[0], *names], names, strict=False):
        filled[name] = filled[above] if name in skipped else returns[name]
        if not filled[name].index.equals(first.index):
            raise ValueError(f"stage {name!r} has other days than {names[0]!r}: bring all to the backtest's days")
    table = headline_table(filled, year=year)
    change = table["annual_return"].diff()
    table["change"], table["days"] = change.where(change.index != "deck"), len(first)
    table = table[list(STAGE_COLUMNS)]
    told = {name: STAGES[name] + (" (changes nothing in this run)" if name in skipped else "") for name in names}
    table.attrs["definitions"] = told | STAGE_COLUMNS
    return table


# --- checks


def _need(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    lacks = [column for column in columns if column not in frame]
    if lacks:
        raise ValueError(f"{name} lacks {lacks}; it has {list(frame.columns)}")


def _check_days(name: str, days: pd.Series, known: pd.Index) -> None:
    wrong = set(days) - set(known)
    if wrong:
        raise ValueError(f"{name} has {len(wrong)} days, {min(wrong)} among them, that the backtest lacks")
