"""Words and shape of the help of `qlib-ext`: groups of commands, examples, paragraphs."""

import argparse
import textwrap

DESCRIPTION = """\
Tools around qlib_ext: stock selection among A shares with qlib, judged by what 150 million yuan could have earned.

The usual order:

  data    demo-data, import             a market, or your vendor's data
          check-data, init              its defects, a workflow for it
  judge   check-leak                    does the workflow use the future?
  train   qrun workflow.yaml            qlib's own command
          tune                          search its values, on validation days
  see     show, report, compare         a run as text, as a page; several
  trade   orders, fit-impact            the next day's list, your own costs
  live    daily                         every evening: score, orders, journal
"""

CLOSING = """\
Each command tells more: qlib-ext COMMAND --help. Without a data folder of your own:

  qlib-ext demo-data
  qlib-ext init
  qrun workflow.yaml
  qlib-ext show latest

Exit status: 0 done, 1 something was found (check-data: an error in the data, check-leak: a leak, daily: an alarm), 2 an
error, told in one line, or nothing proved (check-leak), 3 no new day (daily). QLIB_EXT_DEBUG=1 shows where an error
comes from.
"""

EXAMPLES = {
    "demo-data": (
        "qlib-ext demo-data",
        "qlib-ext demo-data ~/market --stocks 1000 --years 2 --seed 1",
        "qlib-ext demo-data ~/nothing-to-find --signal 0",
    ),
    "check-data": (
        "qlib-ext check-data --provider-uri ~/.qlib/qlib_data/cn_data",
        "qlib-ext check-data --universe csi300 --start 2018-01-01",
        "qlib-ext check-data --provider-uri ~/.qlib/qlib_data/cn_data --json",
    ),
    "import": (
        "qlib-ext import bars/ --provider-uri ~/market",
        "qlib-ext import 2026-01-05.parquet --provider-uri ~/market",
        "qlib-ext import bars.csv --provider-uri ~/market --names stocks.csv --members csi300=members.csv",
    ),
    "init": (
        "qlib-ext init --provider-uri ~/.qlib/qlib_data/cn_data",
        "qlib-ext init --universe csi300 --model mlp --out csi300.yaml",
    ),
    "check-leak": (
        "qlib-ext check-leak workflow.yaml",
        "qlib-ext check-leak workflow.yaml --only overlap --only future",
        "qlib-ext check-leak workflow.yaml --stocks 50 --epochs 2 --json",
    ),
    "tune": (
        "qlib-ext tune workflow.yaml space.yaml",
        "qlib-ext tune workflow.yaml space.yaml --trials 100 --jobs 4 --seed 7",
        "qlib-ext tune workflow.yaml space.yaml --study second --storage sqlite:///desk.db --out second.yaml",
    ),
    "show": (
        "qlib-ext show latest",
        "qlib-ext show 6db642 --table headline",
        "qlib-ext show 6db642 --table positions --csv",
    ),
    "report": (
        "qlib-ext report latest",
        "qlib-ext report 6db642 --out page.html --title 'CSI300, MASTER'",
    ),
    "compare": (
        "qlib-ext compare liq=6db642 mse=fd15da",
        "qlib-ext compare 6db642 fd15da 81c0aa --out compare.html",
    ),
    "orders": (
        "qlib-ext orders latest --capital 150e6 --out orders.csv",
        "qlib-ext orders latest --capital 150e6 --holdings held.csv",
        "qlib-ext orders 6db642 --capital 1e7 --date 2022-12-28",
    ),
    "daily": (
        "qlib-ext daily latest --holdings held.csv --cash 1.2e6 --out desk",
        "qlib-ext daily 6db642 --holdings held.csv --cash 1.2e6 --fills trades.csv --out desk",
    ),
    "fit-impact": (
        "qlib-ext fit-impact executions.csv --provider-uri ~/.qlib/qlib_data/cn_data",
        "qlib-ext fit-impact trades-of-2023.csv",
    ),
}


class Help(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal; a paragraph that begins with a space stays as it is."""

    def add_argument(self, action: argparse.Action) -> None:
        """Measure an argument; argparse forgets that the names of commands are indented."""
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            length = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = (part.strip("\n") for part in text.split("\n\n"))
        filled = (part if part.startswith(" ") else textwrap.fill(part, width) for part in parts if part.strip())
        return textwrap.indent("\n\n".join(filled), indent)


def dress(parser: argparse.ArgumentParser, commands: dict[str, argparse.ArgumentParser]) -> None:
    """Give the parser of the whole and those of the commands their examples and their shape."""
    parser.formatter_class, parser.description, parser.epilog = Help, DESCRIPTION, CLOSING
    for name, command in commands.items():
        lines = "\n".join(f"  {line}" for line in EXAMPLES[name])
        command.formatter_class, command.epilog = Help, f"examples:\n\n{lines}"
