"""Time a year's backtest: AShareExchange with LiquidityTopNStrategy beside qlib's Exchange with TopkDropoutStrategy.

    python -m benchmarks.bench_backtest [PROVIDER] [--market all] [--start 2022-01-04] [--end 2022-12-23]

Both trade the same scores, the reversal of the last five days, in one process, one after the other; creation of the
exchange (which loads the data) and the loop are timed apart, in wall clock and in CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.synthetic import ensure_market

CAPITAL = 150e6
EXECUTOR = {
    "class": "SimulatorExecutor",
    "module_path": "qlib.backtest.executor",
    "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True},
}


def stocks(market: str, start: str, end: str) -> list[str]:
    """Codes of a market without indices."""
    from qlib.data import D

    from qlib_ext.rules import is_index

    codes = D.list_instruments(D.instruments(market), start_time=start, end_time=end, as_list=True)
    return sorted(code for code in codes if not is_index(code))


def reversal(market: str, start: str, end: str) -> pd.DataFrame:
    """Score each stock by minus its return of the last five days, from the day before `start` on."""
    from qlib.data import D

    from qlib_ext.provider import read_fields

    calendar = D.calendar()
    first = calendar[max(int(calendar.searchsorted(pd.Timestamp(start))) - 1, 0)]
    close = read_fields(stocks(market, start, end), ["$close"], first, end, lead=5)["$close"].astype(float)
    score = -(close / close.shift(5) - 1).loc[first:]
    index = ["datetime", "instrument"]
    return score.stack().dropna().rename("score").rename_axis(index).to_frame()


def trade(exchange: Any, strategy: Any, start: str, end: str) -> pd.DataFrame:
    """Run a backtest and return qlib's report."""
    from qlib.backtest import backtest

    money = {"account": CAPITAL, "benchmark": "SH000300", "exchange_kwargs": {"exchange": exchange}}
    portfolio, _ = backtest(start, end, strategy, EXECUTOR, **money)
    return portfolio["1day"][0]


def run_ours(pred: pd.DataFrame, market: str, start: str, end: str) -> tuple[Any, pd.DataFrame, list[float]]:
    """Return our exchange, the report and the seconds: creation, loop (wall), creation, loop (CPU)."""
    from qlib_ext.exchange import AShareExchange, clear_cache
    from qlib_ext.strategy import LiquidityTopNStrategy

    clear_cache()
    clocks = [(time.perf_counter(), time.process_time())]
    exchange = AShareExchange(start_time=start, end_time=end, codes=market, participation=0.05)
    clocks.append((time.perf_counter(), time.process_time()))
    units = exchange.turnover_profile  # decided once, as PortAnaRecord does
    strategy = LiquidityTopNStrategy(signal=pred, capital=CAPITAL, rank_buffer=2.0, liquidity=units)
    report = trade(exchange, strategy, start, end)
    clocks.append((time.perf_counter(), time.process_time()))
    return exchange, report, _seconds(clocks)


def run_qlibs(pred: pd.DataFrame, market: str, start: str, end: str) -> tuple[Any, pd.DataFrame, list[float]]:
    """Return qlib's exchange, the report and the seconds, as `run_ours`."""
    from qlib.backtest.exchange import Exchange
    from qlib.contrib.strategy import TopkDropoutStrategy

    options = {"limit_threshold": 0.095, "deal_price": "close", "open_cost": 0.0005, "close_cost": 0.0015}
    codes, clocks = stocks(market, start, end), [(time.perf_counter(), time.process_time())]
    exchange = Exchange(start_time=start, end_time=end, codes=codes, **options)
    clocks.append((time.perf_counter(), time.process_time()))
    report = trade(exchange, TopkDropoutStrategy(signal=pred, topk=50, n_drop=5), start, end)
    clocks.append((time.perf_counter(), time.process_time()))
    return exchange, report, _seconds(clocks)


def _seconds(clocks: list[tuple[float, float]]) -> list[float]:
    return [after[i] - before[i] for i in (0, 1) for before, after in zip(clocks, clocks[1:], strict=False)]


def main() -> None:
    """Time both and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("provider", nargs="?", help="qlib provider folder; by default the embedded market")
    parser.add_argument("--market", default="all")
    parser.add_argument("--start", default="2022-01-04")
    parser.add_argument("--end", default="2022-12-23")
    options = parser.parse_args()
    import qlib

    provider = str(Path(options.provider).expanduser()) if options.provider else str(ensure_market())
    qlib.init(provider_uri=provider, region="cn", kernels=1)
    span = options.market, options.start, options.end
    pred = reversal(*span)
    count, days = pred.index.get_level_values(1).nunique(), pred.index.get_level_values(0).nunique() - 1
    print(f"{count} stocks, {days} days; seconds, CPU seconds in brackets\n")
    print("| exchange and strategy | creation | loop | both | orders dealt |\n|---|---|---|---|---|")
    for name, run in (("qlib's Exchange, TopkDropoutStrategy(50, 5)", run_qlibs),
                      ("AShareExchange, LiquidityTopNStrategy", run_ours)):  # fmt: skip
        exchange, _, (created, looped, created_cpu, looped_cpu) = run(pred, *span)
        dealt = len(exchange.fills) if hasattr(exchange, "fills") else "-"
        print(
            f"| {name} | {created:.1f} ({created_cpu:.1f}) | {looped:.1f} ({looped_cpu:.1f}) | "
            f"{created + looped:.1f} ({created_cpu + looped_cpu:.1f}) | {dealt} |"
        )


if __name__ == "__main__":
    main()
