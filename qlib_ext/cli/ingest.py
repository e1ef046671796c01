"""`qlib-ext import`: frames of vendors into a provider folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qlib_ext.cli.arguments import number
from qlib_ext.cli.data import speaker

_IMPORT = """\
Write frames of bars into a qlib provider folder: a new one, or new days behind those that are there.

FRAME: CSV or Parquet files of one vendor, or folders of them, a row a stock and day, with open, high, low, close,
volume, amount and what tells the adjustment: a factor, or the close before (pre_close). Frames of Baostock, AKShare,
Tushare and of qlib's fields are known by their columns. The units are told by each row's amount / (close * volume);
what fits none is refused with its stock, day and cure. Suspended days become missing bars.

New folders are in the community's units: volume in adjusted lots, amount in thousand yuan, prices adjusted, the first
close 1. What is there stays as it is: new prices are put on its scale by a day that both have, or by the close before.
The new folder is built beside the old one, checked (check-data) and takes its place in one step.
"""
_SHARES = {"shares": 1.0, "lots": 100.0}
_YUAN = {"yuan": 1.0, "thousand": 1000.0}


class _Unit:
    """Read a unit by its name or as a number."""

    def __init__(self, names: dict[str, float]) -> None:
        self.names = names

    def __call__(self, text: str) -> float:
        value = self.names[text] if text in self.names else float(number()(text))
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: {', '.join(self.names)} or a number above 0")
        return value


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("import", help="frames of a data vendor into a data folder", description=_IMPORT)
    add = parser.add_argument
    add("frames", metavar="FRAME", nargs="+", type=Path, help="CSV or Parquet file, or a folder of them")
    add("--provider-uri", metavar="DIR", required=True, help="the data folder: new, empty, or a qlib provider's")
    add("--correct", action="store_true", help="replace old bars that differ from the frame's, and those behind them")
    add(
        "--volume",
        type=_Unit(_SHARES),
        metavar="UNIT",
        help="shares, lots or a number of shares (default: by the rows)",
    )
    add("--amount", type=_Unit(_YUAN), metavar="UNIT", help="yuan, thousand or a number of yuan (default: by the rows)")
    add("--prices", choices=("raw", "adjusted"), help="of the frame (default: by the cents)")
    add("--field", action="append", default=[], metavar="COLUMN", help="becomes a field as it stands; may be repeated")
    add("--names", type=Path, metavar="FILE", help="CSV of code,name: for order lists and the page")
    add("--st", type=Path, metavar="FILE", help="CSV of code,start,end: spells of special treatment, for the limits")
    add("--industry", type=Path, metavar="FILE", help="CSV of code,industry[,start]: an exposure")
    add(
        "--listed",
        type=Path,
        metavar="FILE",
        help="CSV of code,start,end: when stocks were listed (default: by the bars)",
    )
    add(
        "--members",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="CSV of code,start,end that becomes the list NAME; may be repeated",
    )
    parser.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from qlib_ext.ingest import import_frames

    universes = {}
    for text in arguments.members:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--members is {text!r}; wanted is NAME=FILE, such as csi300=members.csv")
        universes[name] = Path(file)
    chosen = ("correct", "volume", "amount", "prices", "names", "st", "industry", "listed")
    done = import_frames(
        arguments.frames,
        arguments.provider_uri,
        fields=arguments.field,
        universes=universes,
        say=speaker(),
        **{name: getattr(arguments, name) for name in chosen},
    )
    sys.stdout.write("\n".join(done.lines()) + "\n")
    return 0
