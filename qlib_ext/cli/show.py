"""`qlib-ext show`: what a recorded run says, on the terminal."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from qlib_ext.cli.arguments import number
from qlib_ext.cli.report import add_source, run_context
from qlib_ext.progress import ENVIRONMENT, RUN_LOG
from qlib_ext.runs import Run, find_run, load_artifacts, load_table, tables_of

if TYPE_CHECKING:
    import pandas as pd

_SHOW = """\
Show a recorded run: the lines that it ended with, and the names of its tables; with --table one of them, with what its
rows and columns mean. What qrun does not print stands here, on the run's page, and in its log (--log).

RUN is a run's id (or its first letters), the name of an experiment (its latest finished run), or "latest".
"""
ROWS = 60  # of a table that are printed
WIDTH = 100


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("show", help="a run's summary and tables, as text", description=_SHOW)
    parser.add_argument("run_name", metavar="RUN", help="id, experiment or latest")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", metavar="TABLE", help="print this table, such as headline or execution.performance")
    what.add_argument("--log", action="store_true", help=f"print the run's log, {RUN_LOG}")
    rows = number("[1, inf)", whole=True)
    parser.add_argument("--rows", type=rows, metavar="N", help=f"most rows of a table (default: {ROWS})")
    parser.add_argument("--csv", action="store_true", help="print the whole table as CSV")
    add_source(parser)
    parser.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    for option in ("csv", "rows"):
        if getattr(arguments, option) and arguments.table is None:
            raise ValueError(f"--{option} is of a table: name it with --table")
    if arguments.csv and arguments.rows:
        raise ValueError("--csv prints all rows: leave --rows out")
    run = find_run(arguments.run_name, uri=arguments.uri, experiment=arguments.experiment, trust=arguments.trust)
    if arguments.log:
        return _print_log(run)
    if arguments.table is not None:
        return _print_table(run, arguments.table, arguments.rows or ROWS, csv=arguments.csv)
    print("\n".join(_summary(run)))
    print(f"  {'run':<11} {run.id} of {run.experiment}, {run.status}, begun {run.started:%Y-%m-%d %H:%M} UTC")
    page = run.folder / "report.html"
    print(f"  {'page':<11} {page if page.is_file() else f'none; qlib-ext report {run.id[:8]} writes it'}")
    names = list(tables_of(run))
    print(f"\n{len(names)} tables; one of them: qlib-ext show {run.id[:8]} --table TABLE")
    print(textwrap.fill(", ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
    return 0


def _summary(run: Run) -> list[str]:
    """Lines of the run's `summary.json`; of a run without one, made anew from its artifacts."""
    from qlib_ext.report import SUMMARY, SUMMARY_ARTIFACTS, Summary, summarise

    kept = load_artifacts(run, [SUMMARY])
    if SUMMARY in kept:
        return Summary.from_dict(kept[SUMMARY]).lines()
    artifacts = load_artifacts(run, SUMMARY_ARTIFACTS)
    return summarise(artifacts, run_context(run, artifacts)).lines()


def _print_table(run: Run, name: str, rows: int, *, csv: bool) -> int:
    table, words = load_table(run, name)
    if csv:
        table.to_csv(sys.stdout)
        return 0
    print(_as_text(table, rows))
    if len(table) > rows:
        print(f"{len(table):,} rows; all of them: --csv, or --rows N")
    for key, text in words.items():
        print(textwrap.fill(f"{key}: {text}", WIDTH, initial_indent="  ", subsequent_indent="      "))
    return 0


def _as_text(table: pd.DataFrame, rows: int) -> str:
    return table.to_string(
        max_rows=rows,
        min_rows=rows,
        show_dimensions=False,
        float_format=lambda value: f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4f}",
    )


def _print_log(run: Run) -> int:
    file = run.folder / RUN_LOG
    if not file.is_file():
        raise FileNotFoundError(
            f"run {run.id} has no {RUN_LOG}: an older version recorded it, another recorder, or {ENVIRONMENT}=debug"
        )
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            sys.stdout.write(line)
    return 0
