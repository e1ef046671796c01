"""`qlib-ext check-data` and `qlib-ext init`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.beside import write_text
from qlib_ext.synthetic import DEFAULT_PATH, ensure_market, is_market

_CHECK = """\
Check a provider folder of A shares before training on it: units of $volume and $amount, suspended days, indices among
the instruments, survivorship, returns beyond the limits of board and date, $change, $factor, duplicates, broken files.

Each finding has a severity, a count, an example and a cure. Exit status: 0 no error (there may be warnings), 1 at least
one error, 2 it could not be checked.
"""

_INIT = """\
Write a workflow for a provider folder: units, fields, universes, dates and the benchmark are looked up in it.

What is learnt, by which loss, from which features, and how it is traded is what was measured as best; the slide deck's
forms stand beside it as comments. Of at most six years half is learnt from, a sixth chooses the epoch, a third tests;
the label of no day reaches into the next part or beyond the calendar. What was found, chosen and left out, and why, is
printed with the command to run.
"""

_DEFAULT = "default: QLIB_EXT_PROVIDER_URI, else the embedded market"
_PATIENCE = 2.0  # seconds without a word


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommands."""
    check = _parser(commands, "check-data", "look for what is wrong with a data folder", _CHECK)
    check.add_argument("--universe", metavar="NAME", help="a list in instruments/ (default: every stock with data)")
    check.add_argument("--start", metavar="DATE", help="first day to check (default: the calendar's)")
    check.add_argument("--end", metavar="DATE", help="last day to check (default: the calendar's)")
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.set_defaults(run=_check)
    init = _parser(commands, "init", "write a workflow for a data folder", _INIT)
    init.add_argument("--out", type=Path, default=Path("workflow.yaml"), metavar="FILE", help="default: workflow.yaml")
    told = "best (default): trees and networks, as docs/study.md found; mlp, master: one network alone"
    init.add_argument("--model", choices=("best", "mlp", "master"), default="best", help=told)
    init.add_argument("--universe", metavar="NAME", help="a list in instruments/ (default: chosen by its size)")
    init.add_argument("--force", action="store_true", help="overwrite FILE")
    init.set_defaults(run=_init)


def _parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str, description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words, description=description)
    parser.add_argument("--provider-uri", metavar="DIR", help=f"qlib provider folder ({_DEFAULT})")
    return parser


def _check(arguments: argparse.Namespace) -> int:
    from qlib_ext.check_data import check_data

    folder = _folder(arguments.provider_uri)
    table = check_data(
        folder,
        universe=arguments.universe,
        start=arguments.start,
        end=arguments.end,
        today=pd.Timestamp.now(),
        say=speaker(),
    )
    errors = int((table["severity"] == "error").sum())
    if arguments.json:
        facts = {"provider_uri": str(folder), "universe": arguments.universe, "errors": errors} | table.attrs
        text = json.dumps(facts | {"findings": table.to_dict("records")})
    else:
        text = _words(table, folder, arguments.universe)
    sys.stdout.write(text + "\n")
    return 1 if errors else 0


def _words(table: pd.DataFrame, folder: Path, universe: str | None) -> str:
    """Lay the findings out for a terminal: a line of numbers, then the example and the cure."""
    facts = table.attrs
    lines = [
        f"{folder}, {universe or 'every stock with data'}: {facts['stocks']:,} stocks, {facts['days']:,} days, "
        f"{facts['first']} to {facts['last']}",
        f"{'severity':9}{'check':20}{'count':>12}{'of':>14}",
    ]
    for row in table.to_dict("records"):
        lines.append(f"{row['severity']:9}{row['check']:20}{row['count']:12,}{row['of']:14,}")
        lines.append(f"{'':9}for example: {row['example']}" if row["example"] else "")
        lines.append(f"{'':9}what to do: {row['cure']}" if row["severity"] != "info" else "")
    counts = {name: int((table["severity"] == name).sum()) for name in ("error", "warning")}
    counted = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
    lines.append(f"{counted}; {len(facts['quiet'])} checks found nothing.")
    return "\n".join(line for line in lines if line)


def _init(arguments: argparse.Namespace) -> int:
    from qlib_ext.workflow import describe, survey, workflow_text

    out: Path = arguments.out.expanduser()
    if out.exists() and not arguments.force:
        raise ValueError(f"{out} exists: add --force to overwrite it, or name another file by --out")
    looked = survey(_folder(arguments.provider_uri), universe=arguments.universe, model=arguments.model, say=speaker())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, workflow_text(looked, arguments.model))
    advice = f"Check the data first: qlib-ext check-data --provider-uri {looked.folder}"
    sys.stdout.write(f"{describe(looked)}\n\nWrote {out}. Run it:\n\n    qrun {out}\n\n{advice}\n")
    return 0


def _folder(named: str | None) -> Path:
    """Find the provider folder, absolute; the embedded market is built where it is asked for and absent."""
    folder = Path(named or os.environ.get("QLIB_EXT_PROVIDER_URI") or DEFAULT_PATH).expanduser().resolve()
    if folder == DEFAULT_PATH.resolve() and not is_market(folder):
        sys.stderr.write(f"writing the embedded market to {folder} (once, under a minute)\n")
        ensure_market(folder, say=speaker())
    return folder


def speaker() -> Callable[[str], Any]:
    """Make what says a line on stderr at most every two seconds, and none before."""
    begin = last = time.perf_counter()

    def say(line: str) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= _PATIENCE:
            sys.stderr.write(f"[{now - begin:6.1f} s] {line}\n")
            sys.stderr.flush()
            last = now

    return say
