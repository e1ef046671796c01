"""`qlib-ext orders`: tomorrow's order list of a recorded run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from qlib_ext.beside import write_text
from qlib_ext.cli.arguments import number
from qlib_ext.cli.report import add_source

_ORDERS = """\
List the next day's orders of a recorded run, as CSV: code, side, shares, yuan, cap used, limits, rank, reason.

The run tells the scores (pred.pkl), the provider, the settings of its strategy, and the cap, fees and ST
list of its AShareExchange; the targets are those of the backtest. RUN is a run's id (or its first letters), the name of
an experiment (its latest finished run), or "latest". Holdings: a CSV file with the columns code,shares (raw shares; a
column bought, the day of the first buy, where the run has a min_holding), in the usual spellings and with the usual
headers of brokers; what is not surely understood is refused. Prices are the last close: it is a plan for the morning,
not an execution. An order above the exchange's largest one is split into several rows. Rows with side none have 0
shares and say why a holding or a target is not traded. Without an ST list (`st` of the exchange) an ST stock's limits
are those of its board. The list goes to stdout, its summary to stderr, and warnings where scores or data are not of the
newest day; a day without bars is refused.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "orders",
        help="the next day's order list of a recorded run",
        description=_ORDERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recorder", metavar="RUN", help="id, experiment or latest, as for `report`")
    parser.add_argument("--capital", type=number("(0, inf)"), required=True, metavar="YUAN", help="to place in all")
    parser.add_argument("--holdings", type=Path, metavar="FILE", help="CSV of code,shares (default: nothing is held)")
    parser.add_argument(
        "--cash", type=number("[0, inf)"), metavar="YUAN", help="at hand (default: capital less the holdings)"
    )
    parser.add_argument("--date", metavar="DATE", help="day of the scores (default: the last scored one)")
    parser.add_argument(
        "--fresh", action="store_true", help="for a daily job: an error where scores or data are not of the newest day"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the CSV there (default: stdout)")
    add_source(parser)
    parser.add_argument("--provider-uri", metavar="DIR", help="qlib data folder (default: the run's)")
    parser.add_argument(
        "--participation",
        type=number("(0, inf)"),
        metavar="X",
        help="position cap (default: the run's)",
    )
    parser.add_argument(
        "--trade-participation",
        type=number("(0, inf)"),
        metavar="X",
        help="cap of a day's trade (default: the run's; the run's exchange may have a smaller one)",
    )
    parser.add_argument(
        "--commission",
        type=number("[0, 1)"),
        metavar="X",
        help="each way (default: the run's, or 0.0003)",
    )
    parser.add_argument(
        "--market-orders",
        action="store_true",
        help="split at the largest market order (STAR 50,000, ChiNext 150,000 shares), not at the largest limit order",
    )
    parser.set_defaults(run=_orders)


def _orders(arguments: argparse.Namespace) -> int:
    from qlib_ext import strategy  # needs qlib, which other commands do without

    holdings = strategy.read_holdings(arguments.holdings)
    run = strategy.read_run(arguments.recorder, arguments.uri, arguments.experiment, trust=arguments.trust)
    start_qlib(run.qlib_init, arguments.provider_uri, arguments.uri)
    changed = {name: getattr(arguments, name) for name in ("participation", "trade_participation")}
    try:
        table = strategy.plan_orders(
            run,
            holdings,
            capital=arguments.capital,
            cash=arguments.cash,
            day=arguments.date,
            fresh=arguments.fresh,
            commission=arguments.commission,
            market_orders=arguments.market_orders,
            **{name: value for name, value in changed.items() if value is not None},
        )
    except TypeError as error:  # an option of the recorded strategy that this version does not know
        raise ValueError(f"run {run.identifier}: {error}") from error
    listed = table.to_csv(index=False, float_format="%.10g")
    if arguments.out is None:
        sys.stdout.write(listed)
    else:
        write_text(arguments.out, listed)
    _show(table, run)
    return 0


def start_qlib(
    options: dict[str, Any],
    provider: str | None,
    uri: str,
    manager: str = "MLflowExpManager",
    home: str = "qlib.workflow.expm",
) -> None:
    """Start qlib as the run did, on another provider where one is named, with a manager of the runs of `uri`."""
    import qlib

    if provider is None and "provider_uri" not in options:
        raise ValueError("the run does not record its provider (it was not made by qrun): give --provider-uri")
    there = Path(provider if provider is not None else str(options["provider_uri"])).expanduser()
    if (provider is not None or isinstance(options["provider_uri"], str)) and not there.is_dir():
        whose = "--provider-uri" if provider is not None else "the run's provider"
        raise ValueError(f"{whose} {there}: there is no such folder; give a qlib data folder by --provider-uri")
    kept = {"class": manager, "module_path": home, "kwargs": {"uri": uri, "default_exp_name": "Experiment"}}
    chosen = options | {"exp_manager": kept} | ({} if provider is None else {"provider_uri": provider})
    qlib.init(**({"region": "cn"} | chosen))


def _show(table: Any, run: Any) -> None:
    """Sum up on stderr."""
    sums = table.groupby("side")["yuan"].agg(["size", "sum"])
    parts = [f"{name} {sums['size'].get(name, 0)} ({sums['sum'].get(name, 0.0):,.0f} yuan)" for name in ("sell", "buy")]
    idle = int(sums["size"].get("none", 0))
    first = table.iloc[0] if len(table) else None
    when = "" if first is None else f"for {first['date']:%Y-%m-%d}, scores of {first['signal_date']:%Y-%m-%d}: "
    lines = [f"run {run.identifier}, {when}{', '.join(parts)}, not traded {idle}"]
    from qlib_ext import strategy

    if run.recorded_task.strategy is None:
        lines.append("the run records no strategy of ours: the defaults of LiquidityTopNStrategy are used")
    if first is not None and not strategy.next_day(first["signal_date"])[1]:
        lines.append(
            "the calendar ends with the scores: the next weekday is taken, holidays are not known (calendars/"
            "day_future.txt, which qlib has too, would tell)"
        )
    sys.stderr.write("\n".join(lines) + "\n")
