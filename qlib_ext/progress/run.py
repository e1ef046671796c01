"""The run of this process: what code calls as it goes on. Without a run, or a Console, most of it does nothing."""

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from qlib_ext.progress import console as _console
from qlib_ext.progress.console import QLIB, Console, brief, put
from qlib_ext.progress.way import Way, as_time

RUN_LOG = "run.log"  # artifact of a run: what its log holds beside what was shown

logger = logging.getLogger(f"{QLIB}.qlib_ext.progress")


class _Now:
    """What is going on in this process."""

    console: Console | None = None
    way = Way()
    began = 0.0
    lines: Sequence[str] = ()


def install(silent: Iterable[tuple[str, str]] = (), *, first: bool = True) -> None:
    """Show qlib's log as `Console` does from now on, unless QLIB_EXT_LOG=debug or the user's own logging.

    Args:
        silent: what is never shown: names of loggers and patterns of the beginnings of their messages.
        first: see `Console`.
    """
    _Now.console = _console.install(silent, first=first)


def begin(folder: Path | None = None) -> None:
    """Let a run begin; its log goes to `run.log` of a folder."""
    _Now.way, _Now.began, _Now.lines = Way(), time.monotonic(), ()
    if _Now.console is not None:
        _Now.console.begin(None if folder is None else folder / RUN_LOG)


def plan(stages: Sequence[str]) -> None:
    """Name the stages that the run will go through."""
    _Now.way = Way(list(stages))


def note(text: str) -> None:
    """Say a line in passing: what a person has to know while it goes on."""
    logger.info(text, extra=brief(text))


def stage(name: str) -> None:
    """Enter a stage: a line of the log, or the line that lives; nothing where it is the present one."""
    if _Now.way.enter(name):
        logger.info(_Now.way.title, extra=brief(_Now.way.title))
        _draw(now=True)


def part(about: str) -> None:
    """Say with what the stage goes on; it is only in the line that lives."""
    _Now.way.do(about)
    _draw(now=True)


def step(unit: str, number: int, total: int) -> None:
    """Count a step of the stage, from 1, such as a day of a backtest; those within an outer unit after it."""
    _Now.way.step(unit, number, total)
    _draw()


def _draw(*, now: bool = False) -> None:
    if _Now.console is not None and _Now.console.live:
        _Now.console.draw(_Now.way.words(), now=now)


def conclude(lines: Sequence[str]) -> None:
    """Keep the lines that the run shall end with."""
    _Now.lines = list(lines)


def close(last: str = "") -> None:
    """Let the run end: its concluding lines and a last one, on stdout; with "" nothing but what was told repeatedly.

    A run that a terminal saw and that ends without a last line, since it failed, says in which stage.
    """
    lines = [*_Now.lines, f"{last} {as_time(time.monotonic() - _Now.began)}"] if last else []
    if _Now.console is not None:
        if not last and planned() and _Now.console.live:
            _Now.console.say(f"ended in {_Now.way.title}")  # the line that told it is wiped
        _Now.console.close_run()
    _Now.way, _Now.lines = Way(), ()
    if lines:
        put(sys.stdout, "\n".join(lines) + "\n")


def planned() -> bool:
    """Whether the stages of the present run are known."""
    return bool(_Now.way.plan)
