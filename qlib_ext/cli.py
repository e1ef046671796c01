"""The command `qlib-ext`. Each subcommand is a pair: `_add_<name>` declares it, `_<name>` runs it.

Errors of the user (ValueError, OSError) end with one line on stderr and exit status 2.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .synthetic import DEFAULT_PATH, is_market, make_market, read_oracle

_DEMO_DATA = """\
Build the embedded market: synthetic A shares with a planted signal, as a qlib provider folder.

It comes in the units of the community's data set (volume in adjusted lots, amount in thousand yuan); the same
arguments give the same files. DIR/README.md and DIR/oracle.json tell what is in it and what the best possible
score would reach. A folder that holds anything else is never touched.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; `argv` defaults to the process's arguments."""
    parser = argparse.ArgumentParser(
        prog="qlib-ext", description="Tools around qlib_ext: data for a first run, and checks."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo_data(commands)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"qlib-ext: error: {error}", file=sys.stderr)
        return 2
    return status


def _add_demo_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo-data",
        help="build the embedded market (synthetic data for a first run)",
        description=_DEMO_DATA,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dir", metavar="DIR", nargs="?", type=Path, default=DEFAULT_PATH, help=f"default: {DEFAULT_PATH}"
    )
    parser.add_argument("--stocks", type=int, default=300, metavar="N", help="stocks, 10 to 5500 (default: 300)")
    parser.add_argument("--years", type=float, default=3.0, metavar="Y", help="length in years (default: 3)")
    parser.add_argument("--start", default="2020-01-02", metavar="DATE", help="first day, ISO (default: 2020-01-02)")
    parser.add_argument("--seed", type=int, default=7, metavar="S", help="of all randomness (default: 7)")
    parser.add_argument(
        "--signal",
        type=float,
        default=0.003,
        metavar="X",
        help="standard deviation of the planted mean return a day; 0 plants nothing (default: 0.003)",
    )
    parser.add_argument("--force", action="store_true", help="rebuild, also over a market built otherwise")
    parser.set_defaults(run=_demo_data)


def _demo_data(arguments: argparse.Namespace) -> int:
    wanted = {
        "n_stocks": arguments.stocks,
        "start": arguments.start,
        "years": arguments.years,
        "seed": arguments.seed,
        "signal": arguments.signal,
    }
    path: Path = arguments.dir.expanduser().resolve()
    if is_market(path) and not arguments.force:
        there = read_oracle(path)["parameters"]
        differs = {name: there[name] for name, value in wanted.items() if there[name] != value}
        if differs:
            raise ValueError(
                f"{path} holds an embedded market built with {differs}; add --force to replace it, "
                "or give another folder."
            )
        print(f"Already there: {path}")
    else:
        begin = time.perf_counter()
        make_market(path, **wanted)
        print(f"Built {path} in {time.perf_counter() - begin:.1f} s")
    _show_market(path)
    return 0


def _show_market(path: Path) -> None:
    """Print what a market holds and how to use it."""
    found = read_oracle(path)
    parameters, oracle = found["parameters"], found["oracle"]
    print(f"Synthetic: {parameters['n_stocks']} stocks, {found['first']} to {found['last']}.")
    if oracle["ic"] is None:
        print("No signal in it, or too few stocks to judge one.")
    else:
        print(
            f"The best possible score reaches a mean daily IC of {oracle['ic']:.4f} "
            f"(RankIC {oracle['rank_ic']:.4f}, {oracle['days']} days); see oracle.json."
        )
    print(f"Use it: QLIB_EXT_PROVIDER_URI={path} qrun workflows/master_liq.yaml")


if __name__ == "__main__":
    sys.exit(main())
