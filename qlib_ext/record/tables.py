"""Tables of a backtest, filled from qlib's objects, and how they are logged. Private to `backtest.py`."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from qlib.backtest.decision import Order, OrderDir
from qlib.log import get_module_logger

from qlib_ext import evaluate
from qlib_ext.exchange import AShareExchange
from qlib_ext.portfolio import PARTICIPATION, rules_table
from qlib_ext.provider import last_known, load_liquidity
from qlib_ext.record.facts import market_year
from qlib_ext.runs import log_finite
from qlib_ext.strategy import PolicyStrategy

logger = get_module_logger("qlib_ext.backtest")

REPORT = "report_normal_1day.pkl"
_REFUSED = ("blocked_buy", "blocked_sell", "unknown_liquidity", "unknown_volatility")  # reasons of the strategy


def holdings(positions: Mapping[Any, Any]) -> pd.DataFrame:
    """Yuan held at the close, (D, N) by day and code, NaN where a stock is not held; of qlib's positions by day."""
    rows = {
        day: {
            code: position.get_stock_amount(code) * position.get_stock_price(code) for code in position.get_stock_list()
        }
        for day, position in positions.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", dtype=float).reindex(index=pd.DatetimeIndex(list(rows)))
    return frame.sort_index(axis=1)


def book_liquidity(days: pd.Index, exchange: AShareExchange, strategy: Any) -> pd.DataFrame:
    """Liquidity of what the run traded, yuan by day and code: the strategy's, else by the exchange's definition.

    A frame of the user's need only reach the last signal day; days that it lacks are empty here.
    """
    if isinstance(strategy, PolicyStrategy) and (frame := strategy.liquidity_frame) is not None:
        return frame.reindex(frame.index.union(days))
    codes, window = sorted(exchange.quote.get_all_stock()), exchange.options.liquidity_window
    return load_liquidity(codes, days[0], days[-1], profile=exchange.turnover_profile, window=window, past=True)


def make_tables(
    artifacts: Mapping[str, Any], exchange: Any, strategy: Any, liquidity: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """Fill the tables of `execution` that the run's parts allow."""
    report = artifacts[REPORT]
    book, year = holdings(artifacts["positions_normal_1day.pkl"]), market_year()
    tables = {"performance": evaluate.performance(report, year=year), "book": evaluate.book(book, report["account"])}
    if "daily_log.pkl" in artifacts:
        tables["target_reached"] = evaluate.target_reached(artifacts["daily_log.pkl"])
    if not isinstance(exchange, AShareExchange) or liquidity is None:
        return tables
    fills = artifacts["fills.pkl"]
    before = report["account"] / (1.0 + report["return"] - report["cost"])
    tables |= {
        "turnover": evaluate.turnover(fills, before, artifacts["settled.pkl"]),
        "cost_split": evaluate.cost_split(fills, report["account"], artifacts["settled.pkl"], year=year),
        "impact_rules": rules_table(fills),
        "participation": evaluate.participation_histogram(fills),
        "blocked": evaluate.blocked_by_reason(artifacts["blocked.pkl"]),
    }
    caps = (getattr(strategy, "trade_participation", None), exchange.options.participation)
    share = min((cap for cap in caps if cap is not None), default=PARTICIPATION)
    return tables | {"liquidation": evaluate.days_to_liquidate(book, last_known(liquidity), share)}


def all_blocked(blocked: pd.DataFrame, targets: pd.DataFrame, exchange: AShareExchange) -> pd.DataFrame:
    """Rows of the exchange's `blocked`, and of the orders that the strategy, which asks first, did not send.

    `attrs["unsent"]` tells a page that the latter are in it.

    Args:
        blocked: of the exchange.
        targets: `daily_targets` of the strategy.
        exchange: which says why it would have refused them; of an unknown turnover or volatility the strategy says.
    """
    rows = []
    for row in targets[targets["reason"].isin(_REFUSED)].to_dict("records"):
        code, reason, more = str(row["code"]), str(row["reason"]), float(row["target"]) - float(row["held"])
        day = pd.Timestamp(row["date"]).normalize()
        if reason.startswith("blocked"):
            reason = exchange.refusal(Order(code, 1.0, OrderDir.BUY if more > 0 else OrderDir.SELL, day, day))
        if reason:
            rows.append((day, code, "buy" if more > 0 else "sell", abs(more), 0.0, reason))
    unsent = pd.DataFrame(rows, columns=list(blocked.columns))
    both = pd.concat([part for part in (blocked, unsent) if len(part)] or [blocked], ignore_index=True)
    both = both.sort_values("day", kind="stable", ignore_index=True)
    both.attrs["unsent"] = True
    return both


def log_tables(recorder: Any, tables: Mapping[str, pd.DataFrame]) -> None:
    """Log the numbers as metrics, days by their mean, and show the short tables."""
    said = []
    for name, table in tables.items():
        known = table.attrs.setdefault("definitions", evaluate.EXECUTION_DEFINITIONS[name])
        daily = name in ("turnover", "liquidation", "book")
        brief = table.mean().to_frame("mean").T if daily else table
        if name != "participation":
            log_table(recorder, brief, f"execution.{name}")
        title = f"{name} (mean over days)" if daily else name
        words = "\n".join(f"  {key}: {text}" for key, text in known.items())
        said.append(f"{title}\n{as_text(brief) if len(brief) else 'nothing'}\n{words}")
    logger.info("the backtest\n" + "\n".join(said))


def log_table(recorder: Any, table: pd.DataFrame, prefix: str = "") -> None:
    """Log the finite numbers of a table as metrics, by prefix, row and column."""
    metrics = {
        ".".join([*filter(None, [prefix]), *(row if isinstance(row, tuple) else (str(row),)), str(column)]): float(
            value
        )
        for row, line in zip(table.index, table.to_dict("records"), strict=True)
        for column, value in line.items()
    }
    log_finite(recorder, metrics)


def as_text(table: pd.DataFrame) -> str:
    """Write a table as text."""
    return table.to_string(float_format=lambda v: f"{v:,.0f}" if abs(v) >= 1e4 else f"{v:.4f}")


def flat(definitions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Definitions of several tables by table.key."""
    return {f"{table}.{key}": text for table, words in definitions.items() for key, text in words.items()}
