"""Arguments read strictly: one line for a wrong one, numbers by interval, nothing empty, no option twice."""

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from qlib_ext.options import check_number
from qlib_ext.spelling import read_number


class _Once(argparse.Action):
    """Store a value; an option that is given twice is an error, not overwritten without a word."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = vars(namespace).setdefault("given", set())
        if option_string is not None and self.dest in given:
            raise argparse.ArgumentError(self, "given twice; leave one out")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that tells what is wrong in one line, with exit status 2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "allow_abbrev": False})
        for name in (None, "store"):
            self.register("action", name, _Once)

    def error(self, message: str) -> NoReturn:
        """Print one line and leave."""
        text = re.sub(r"^argument (\S+): is ", r"\1 is ", message)
        self.exit(2, f"qlib-ext: error: {text} (see {self.prog} --help)\n")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string.strip() and action.nargs != argparse.PARSER:
            raise argparse.ArgumentError(action, f"is {arg_string!r}, which is empty; leave it out or say what")
        return super()._get_value(action, arg_string)


def number(within: str, *, whole: bool = False) -> Callable[[str], Any]:
    """Make what reads a number of an interval, which is told as by `options.check_number`."""

    def read(text: str) -> Any:
        try:
            value: Any = read_number("", text)
            if whole and value == value // 1:
                value = int(value)
            check_number("", value, within, whole=whole)
        except (ValueError, OverflowError) as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from error
        return value

    return read
