"""The command `qlib-ext`. Each subcommand is a pair: `_add_<name>` declares it, `_<name>` runs it.

Errors end with one line on stderr and exit status 2 (QLIB_EXT_DEBUG=1 shows where they come from); a reader of the
output that goes (`| head`) ends it with 141, and Ctrl-C with 130, as a shell tells of these signals.
"""

import argparse
import contextlib
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qlib_ext import __version__
from qlib_ext.beside import why_not
from qlib_ext.cli import daily as _cli_daily
from qlib_ext.cli import data as _cli_data
from qlib_ext.cli import executions as _cli_executions
from qlib_ext.cli import ingest as _cli_ingest
from qlib_ext.cli import orders as _cli_orders
from qlib_ext.cli import report as _cli_report
from qlib_ext.cli import show as _cli_show
from qlib_ext.cli import tune as _cli_tune
from qlib_ext.cli.arguments import Parser, add_seed, number
from qlib_ext.cli.help import dress
from qlib_ext.synthetic import DEFAULT_PATH, VERSION, ensure_market, make_market, read_oracle

_DEMO_DATA = """\
Build the embedded market: synthetic A shares with planted signals, as a qlib provider folder.

It comes in the units of the community's data set (volume in adjusted lots, amount in thousand yuan); the same
arguments give the same files. DIR/README.md and DIR/oracle.json tell what is in it and what the best possible
score would reach. A folder that holds anything else is never touched.
"""

_CHECK_LEAK = """\
Check a workflow for leaks, on its own data and configuration (rendered as qrun does).

overlap: every pair of days of train, valid and test, or of each fold: no training label or window may meet a
validation label. future: everything after a day is perturbed, files of your own (frames, macro_state) too; nothing up
to it may change, from features to orders. A feature with an IC that is too good to be true is named.
shuffled: each day's returns are dealt out at random; the IC must be 0 within its error. The model is trained three
times, and the data set is built three times. Exit status: 0 all passed, 1 a leak, 2 it could not be checked, wholly or
in part: what proves nothing either way is marked ?.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; `argv` defaults to the process's arguments."""
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:  # it is None where the shell closed it
                sys.stdout.flush()  # a closed pipe is told here, not when the interpreter ends
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # what is left to write goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser: argparse.ArgumentParser = Parser(prog="qlib-ext")
    parser.add_argument("--version", action="version", version=f"qlib-ext {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo_data(commands)
    _cli_data.add(commands)
    _cli_ingest.add(commands)
    _add_check_leak(commands)
    _cli_tune.add(commands)
    _cli_report.add(commands)
    _cli_show.add(commands)
    _cli_orders.add(commands)
    _cli_daily.add(commands)
    _cli_executions.add(commands)
    dress(parser, commands.choices)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = build_parser().parse_args(argv)
        status: int = arguments.run(arguments)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  the last door: whatever it is, the user is told in one line
        if os.environ.get("QLIB_EXT_DEBUG"):
            traceback.print_exc()
        print(f"qlib-ext: error: {_told(error)}", file=sys.stderr)
        return 2
    return status


def _told(error: Exception) -> str:
    """Say in one line what went wrong; what is no error of the user's is said to be a fault of the package's."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{'' if error.filename is None else f'{error.filename}: '}{why_not(error)}"
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = isinstance(error, TypeError) and Path(last).is_relative_to(Path(__file__).parents[1])
    if isinstance(error, ValueError | OSError) or ours:
        return text or type(error).__name__
    if isinstance(error, MemoryError):
        return f"the memory does not suffice ({text}); close other programs, or take fewer stocks or days"
    return (
        f"{type(error).__name__}: {text}. This is a fault of qlib_ext, not of yours: please report it with what "
        "QLIB_EXT_DEBUG=1 qlib-ext ... prints"
    )


def _add_demo_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "build the embedded market (synthetic data for a first run)"
    parser = commands.add_parser("demo-data", help=about, description=_DEMO_DATA)
    add = parser.add_argument
    add("dir", metavar="DIR", nargs="?", type=Path, default=DEFAULT_PATH, help=f"default: {DEFAULT_PATH}")
    add(
        "--stocks",
        dest="n_stocks",
        type=number(whole=True),
        default=300,
        metavar="N",
        help="stocks, 10 to 5500 (default: 300)",
    )
    add("--years", type=number("(0, 100]"), default=3.0, metavar="Y", help="length in years (default: 3)")
    add("--start", default="2020-01-02", metavar="DATE", help="first day, ISO (default: 2020-01-02)")
    add_seed(parser, "all randomness", 7)
    planted = "standard deviation of the planted mean return a day; 0 plants nothing (default: 0.003)"
    add("--signal", type=number("[0, inf)"), default=0.003, metavar="X", help=planted)
    add("--regime", action="store_true", help="plant two signals; the macro state decides which of them works")
    add("--force", action="store_true", help="rebuild, also over a market built otherwise")
    parser.set_defaults(run=_demo_data)


def _demo_data(arguments: argparse.Namespace) -> int:
    wanted = {name: getattr(arguments, name) for name in ("n_stocks", "start", "years", "seed", "signal", "regime")}
    path: Path = arguments.dir.expanduser().resolve()
    if read_oracle(path).get("version") == VERSION and not arguments.force:
        print(f"Already there: {ensure_market(path, **wanted)}")
    else:
        begin = time.perf_counter()
        make_market(path, **wanted, say=_cli_data.speaker())
        print(f"Built {path} in {time.perf_counter() - begin:.1f} s")
    _show_market(path)
    return 0


def _show_market(path: Path) -> None:
    """Print what a market holds and how to use it."""
    from qlib_ext.workflow import survey

    market = read_oracle(path)
    oracle = market["oracle"]
    print(f"Synthetic: {market['parameters']['n_stocks']} stocks, {market['first']} to {market['last']}.")
    if oracle["ic"] is None:
        print("No signal in it, or too few stocks to judge one.")
    else:
        print(
            f"The best possible score reaches a mean daily IC of {oracle['ic']:.4f} "
            f"(RankIC {oracle['rank_ic']:.4f}, {oracle['days']} days); see oracle.json."
        )
    try:
        survey(path)
    except ValueError as error:  # nothing that `init` refuses is recommended
        print(f"Too small for a workflow of its own: {error}")
    else:
        print(f"Use it:\n\n    qlib-ext init --provider-uri {shlex.quote(str(path))}\n    qrun workflow.yaml")


def _add_check_leak(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "prove that a workflow uses nothing of the future"
    parser = commands.add_parser("check-leak", help=about, description=_CHECK_LEAK)
    add = parser.add_argument
    add("workflow", metavar="WORKFLOW", type=Path, help="YAML file, as for qrun")
    add("--after", metavar="DATE", help="last day left as it is (default: the middle of test)")
    most = "most epochs of training; 0: as configured (default: 1)"
    add("--epochs", type=number("[0, inf)", whole=True), default=1, metavar="N", help=most)
    add(
        "--stocks",
        type=number("[1, inf)", whole=True),
        metavar="N",
        help="perturb N stocks drawn at random (default: all)",
    )
    which = "overlap, future or shuffled; may be repeated (default: all)"
    add("--only", action="append", metavar="CHECK", help=which)
    add_seed(parser, "perturbation and shuffle")
    add("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=_check_leak)


def _check_leak(arguments: argparse.Namespace) -> int:
    from qlib_ext import leak  # needs qlib, which the other commands do without

    begin = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - begin:6.1f} s] {line}", file=sys.stderr, flush=True)

    chosen = {name: getattr(arguments, name) for name in ("after", "stocks", "only", "seed")}
    table = leak.check_leak(arguments.workflow, epochs=arguments.epochs or None, say=say, **chosen)
    passed, leaks = bool(table["passed"].all()), int((~table["passed"] & table["proves"]).sum())
    if arguments.json:
        facts = {"workflow": str(arguments.workflow), "passed": passed, "leaks": leaks}
        print(json.dumps(facts | {"rows": table.to_dict("records")}))
    else:
        _show_leaks(table)
    return 0 if passed else 1 if leaks else 2


def _show_leaks(table: Any) -> None:
    """Print a line for each comparison, its detail below it."""
    print(f"{'':5}{'check':10}{'item':24}{'compared':>14}{'changed':>12}")
    for row in table.to_dict("records"):
        mark = "ok" if row["passed"] else "LEAK" if row["proves"] else "?"
        print(f"{mark:5}{row['check']:10}{row['item']:24}{row['compared']:14,}{row['changed']:12,}")
        if row["detail"]:
            print(f"{'':15}{row['detail']}")
    leaks, unproved = (int((~table["passed"] & of).sum()) for of in (table["proves"], ~table["proves"]))
    told = f"{leaks} of {len(table)} comparisons failed." if leaks else "" if unproved else "No leak found."
    more = f"{unproved} of {len(table)} comparisons prove nothing." if unproved else ""
    print(f"{told} {more}".strip())


if __name__ == "__main__":
    sys.exit(main())
