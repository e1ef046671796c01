"""`qlib-ext daily`: a run's new days scored, tomorrow's orders, the journal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qlib_ext.cli.arguments import number
from qlib_ext.cli.orders import start_qlib
from qlib_ext.cli.report import add_source

_DAILY = """\
Do what every evening asks for, after the provider has the day's bars: check them, score the days since the last scored
one with the run's own model, write the next trading day's orders, add the scores to the run, continue the journal.

Into DIR go orders-DATE.csv, as of `orders`, and journal.csv, a line for each day of data. A day that is run again gives
the same files; days that were missed are scored, their orders are not written; a bar of the last days that the provider
has issued again is told, and what was scored by it is scored anew. The model is the run's pickle: reading it runs code
of the run, as qrun does.

The next trading day is the provider's (calendars/day_future.txt), or that of Shanghai's exchange by the package
exchange_calendars (pip install 'qlib_ext[daily]'); else the next weekday is taken, and holidays are not known.

Exit status: 0 done, 1 an alarm (a bar issued again, the IC or the features away from those of the test, late data, a
walk-forward to train anew), 2 an error, nothing was written, 3 no new day, such as on a holiday. One line on stdout
says what was done, and each alarm.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("daily", help="score the new day, write tomorrow's orders", description=_DAILY)
    parser.add_argument("recorder", metavar="RUN", help="id, experiment or latest, as for `report`")
    parser.add_argument("--holdings", type=Path, metavar="FILE", help="CSV of code,shares (default: nothing is held)")
    parser.add_argument("--cash", type=number("[0, inf)"), metavar="YUAN", help="at hand")
    parser.add_argument(
        "--capital", type=number("(0, inf)"), metavar="YUAN", help="to place in all (default: holdings and cash)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the lists and the journal")
    parser.add_argument("--fills", type=Path, metavar="FILE", help="executions as for `fit-impact`, for the journal")
    parser.add_argument(
        "--force", action="store_true", help="go on where the data have errors, or lack the newest bars"
    )
    parser.add_argument("--today", metavar="DATE", help="evening from which it is looked at (default: now)")
    add_source(parser, own=True)
    parser.add_argument("--provider-uri", metavar="DIR", help="qlib data folder (default: the run's)")
    parser.set_defaults(run=_daily)


def _daily(arguments: argparse.Namespace) -> int:
    import pandas as pd

    from qlib_ext import daily, progress, strategy  # they need qlib, which other commands do without
    from qlib_ext.spelling import read_day

    now = pd.Timestamp.now("Asia/Shanghai").tz_localize(None)
    if arguments.today is not None:
        now = read_day("--today", arguments.today) + pd.Timedelta(hours=23)
    holdings = strategy.read_holdings(arguments.holdings)
    fills = None if arguments.fills is None else strategy.read_executions(arguments.fills)
    run = strategy.read_run(arguments.recorder, arguments.uri, arguments.experiment, trust=True)
    start_qlib(run.qlib_init, arguments.provider_uri, arguments.uri, "SqliteExpManager", "qlib_ext.recorder")
    progress.begin()  # a warning is told once, as a run tells it
    try:
        done = daily.run_day(
            run, arguments.uri, arguments.out, holdings,
            capital=arguments.capital, cash=arguments.cash, fills=fills, force=arguments.force, now=now,
            say=lambda line: sys.stderr.write(f"{line}\n"),
        )  # fmt: skip
    finally:
        progress.close()
    sys.stdout.write(f"{done.line}\n")
    if not strategy.next_day(done.entry["data_day"])[1]:
        sys.stderr.write(f"{done.entry['date']:%Y-%m-%d} is the next weekday: no calendar tells the holidays\n")
    return done.status
