"""The command `qlib-ext`; the door is `main`."""

from qlib_ext.cli.commands import build_parser, main
from qlib_ext.cli.help import CLOSING, DESCRIPTION, EXAMPLES
from qlib_ext.cli.report import run_context

__all__ = ["CLOSING", "DESCRIPTION", "EXAMPLES", "build_parser", "main", "run_context"]
