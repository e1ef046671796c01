"""The backtest of a run, whole: what its record leaves out is filled in, for record, page and orders alike."""

from collections.abc import Mapping
from typing import Any

BENCHMARK = "SH000300"  # where a record names none


def default_backtest() -> dict[str, Any]:
    """Strategy, executor, account, benchmark and exchange of a PortAnaRecord that names none."""
    from qlib_ext.portfolio import CAPITAL, MAX_WEIGHT, PARTICIPATION

    caps = {"participation": PARTICIPATION, "trade_participation": PARTICIPATION, "max_weight": MAX_WEIGHT}
    strategy = {"signal": "<PRED>", **caps}
    steps = {"time_per_step": "day", "generate_portfolio_metrics": True}
    exchange = {"deal_price": "close", "participation": PARTICIPATION}
    return {
        "strategy": {"class": "CostAwareStrategy", "module_path": "qlib_ext.strategy", "kwargs": strategy},
        "executor": {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": steps},
        "backtest": {
            "account": CAPITAL,
            "benchmark": BENCHMARK,
            "pos_type": "qlib_ext.exchange.SortedPosition",
            "exchange_kwargs": {
                "exchange": {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": exchange}
            },
        },
    }


def complete_backtest(config: Mapping[str, Any] | None, segments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fill in what a PortAnaRecord's `config` leaves out; what it says is never changed.

    What names a `class` is taken whole, with that class's own defaults; without one, its `kwargs` change those of the
    default. `exchange_kwargs` without `exchange` are those of qlib's Exchange, and taken whole too.

    Args:
        config: strategy, executor and backtest, each as far as it differs from `default_backtest`; None: nothing does.
        segments: of the dataset; its test segment gives start_time and end_time where `backtest` does not have them.

    >>> own = {"strategy": {"kwargs": {"max_weight": 0.02}}}
    >>> config = complete_backtest(own, segments={"test": ["2022-01-04", "2022-12-23"]})
    >>> config["strategy"]["class"], config["strategy"]["kwargs"]["max_weight"], config["backtest"]["end_time"]
    ('CostAwareStrategy', 0.02, '2022-12-23')
    """
    default, own = default_backtest(), dict(config or {})
    test = (segments or {}).get("test")
    first, last = test if isinstance(test, list | tuple) and len(test) == 2 else (None, None)
    default["backtest"] |= {"start_time": first, "end_time": last}
    options = (own.get("backtest") or {}).get("exchange_kwargs")
    if options is not None and "exchange" not in options:
        del default["backtest"]["exchange_kwargs"]
    complete: dict[str, Any] = _over(default, own)
    return complete


def _over(default: Any, own: Any) -> Any:
    """Put options over the default ones, key by key."""
    if isinstance(default, Mapping) and own is None:
        return default
    if not isinstance(default, Mapping) or not isinstance(own, Mapping) or "class" in own:
        return own
    return {**default, **{key: _over(default.get(key), value) for key, value in own.items()}}
