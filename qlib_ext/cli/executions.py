"""`qlib-ext fit-impact`: the coefficient b of the impact by the user's own executions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qlib_ext.synthetic import DEFAULT_PATH

if TYPE_CHECKING:
    import pandas as pd

_FIT = """\
Fit b of the impact b * volatility * sqrt(order / turnover) to your own executions, with its standard error.

FILE: a CSV file, a row an order: date,code,side,yuan,arrival,average (arrival: the price when it was decided), in the
usual spellings and with the usual headers of brokers. Turnover and volatility are the provider's, as known at the close
before. The fit is robust; its error is that of days. Give b to AShareExchange as its `impact`: the backtest then pays
what you pay, and a strategy that looks at its costs knows them.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("fit-impact", help="the impact's b by your own executions", description=_FIT)
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV of date,code,side,yuan,arrival,average")
    parser.add_argument(
        "--provider-uri", default=DEFAULT_PATH, metavar="DIR", help="qlib data folder (default: %(default)s)"
    )
    parser.set_defaults(run=_fit)


def _fit(arguments: argparse.Namespace) -> int:
    import qlib

    from qlib_ext import portfolio, strategy

    orders = strategy.read_executions(arguments.file)
    if orders.empty:
        raise ValueError(f"{arguments.file} has no order below its header; give a row an order")
    folder = Path(arguments.provider_uri).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--provider-uri {folder}: there is no such folder; give a qlib data folder")
    qlib.init(provider_uri=str(folder), region="cn")
    try:
        known = strategy.with_market(orders)
    except ValueError as reason:
        raise ValueError(f"{arguments.file}, {reason}") from None
    b, error = portfolio.fit_impact(known)
    share, count = known["yuan"] / known["liquidity"], {name: known[name].nunique() for name in ("day", "code")}
    for line in _doubts(known, share):
        sys.stderr.write(f"note: {line}\n")
    sys.stdout.write(f"b = {b:.3f} +- {error:.3f} (standard error)\n")
    sys.stderr.write(
        f"{len(known)} orders of {count['day']} days, {count['code']} stocks, median {share.median():.2%} of a day's "
        f"turnover; left out, their turnover or volatility not known: {known.attrs['left_out']}\n"
    )
    return 0


def _doubts(known: pd.DataFrame, share: pd.Series) -> Iterator[str]:
    """Tell what looks like something else than a row an order."""
    same = known.duplicated(["day", "code", "side"], keep=False)
    if same.any():
        yield (
            f"{int(same.sum())} orders share day, stock and side with another (line {known.index[same][0]} is "
            "the first): add the fills of one order up, strike repeated rows"
        )
    if (share > 1).any():
        yield (
            f"{int((share > 1).sum())} orders are above a whole day's turnover, the largest {share.max():.3g} times "
            f"(line {share.idxmax()}): is its yuan right? One such row outweighs all others"
        )
