"""Arguments read strictly: one line for a wrong one, numbers by interval, nothing empty, no option twice."""

import argparse
import re
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
        if isinstance(self.type, number):  # ValueError, which is not argparse's: `main` tells it
            check_number(str(option_string), values, self.type.within, whole=self.type.whole)
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


class number:  # noqa: N801  stands where argparse has int and float
    """Read a number; whether it is of the interval, as for `options.check_number`, is asked when it is stored."""

    def __init__(self, within: str = "(-inf, inf)", *, whole: bool = False) -> None:
        self.within, self.whole = within, whole

    def __call__(self, text: str) -> Any:
        """Read it."""
        try:
            value = read_number("", text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from error
        return int(value) if self.whole and value % 1 == 0 else value


def add_seed(parser: argparse.ArgumentParser, of: str, default: int = 0) -> None:
    """Declare --seed, of what is drawn."""
    read = number("[0, 4294967295]", whole=True)
    parser.add_argument("--seed", type=read, default=default, metavar="S", help=f"of {of} (default: {default})")
