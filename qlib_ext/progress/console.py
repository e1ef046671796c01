"""What a person sees of qlib's log: the stages, warnings once, and at a terminal one line that lives."""

import logging
import os
import re
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, TextIO

ENVIRONMENT = "QLIB_EXT_LOG"
LEVELS = ("quiet", "info", "debug")
QLIB = "qlib"  # the logger above all of qlib's and ours
BRIEF = "brief"  # attribute of a record that is shown: what of it
WARNINGS = ".".join((QLIB, "qlib_ext", "warnings"))
_QLIBS_FORMAT = "[%(process)s:%(threadName)s]"  # how qlib's own format begins
_KEPT = 500  # lines before a run that are put into its log
_PACE = 0.1  # seconds between two drawings
_WIPE = "\r\x1b[K"  # back to the first column, and what follows is gone


def level() -> str:
    """How much is shown: `quiet` (warnings and the end), `info` (stages too) or `debug` (all, as qlib has it).

    Raises: ValueError for another value of the environment variable QLIB_EXT_LOG.
    """
    asked = os.environ.get(ENVIRONMENT, "").strip().lower() or "info"
    if asked not in LEVELS:
        raise ValueError(f"{ENVIRONMENT} is {asked!r}; allowed: {', '.join(LEVELS)}")
    return asked


def brief(text: str) -> dict[str, str]:
    """Mark a record of a log to be shown, as this text: `logger.info("...", extra=brief("..."))`."""
    return {BRIEF: text}


def put(stream: TextIO | None, text: str) -> None:
    """Write what a stream can take of a text; one that is closed, or whose reader is gone, ends no run."""
    with suppress(OSError, ValueError, AttributeError):  # no stream at all: None
        try:
            stream.write(text)  # type: ignore[union-attr]
        except UnicodeEncodeError as error:
            stream.write(text.encode(error.encoding, "replace").decode(error.encoding))  # type: ignore[union-attr]
        stream.flush()  # type: ignore[union-attr]


class Console(logging.Handler):
    """Stands in the place of qlib's handler: writes to stderr what a person needs, keeps the rest for the run's log.

    Args:
        level: see `level`.
        silent: what is never shown: names of loggers and patterns of their messages.
        first: whether this is the process that is seen, of several that are started for one run; of others errors are.
    """

    def __init__(self, level: str, silent: Iterable[tuple[str, str]] = (), *, first: bool = True) -> None:
        super().__init__()
        self.first = first
        self.silent = _Silent(silent)
        self.quiet = level == "quiet"
        self.earlier: deque[logging.LogRecord] = deque(maxlen=_KEPT)
        self.file: logging.Handler | None = None
        self.told: Counter[str] = Counter()
        self.open = False  # a run is going on
        self._drawn, self._last = "", 0.0
        self._showwarning: Any = None

    @property
    def alone(self) -> bool:
        """Whether this is the process that was started, the first of several, no worker of it, forked or spawned."""
        return self.first and parent_process() is None

    @property
    def live(self) -> bool:
        """Whether there is a line that lives: at a terminal, within a run, in the process that started it."""
        return self.open and not self.quiet and self.alone and _is_terminal(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, or do not; within a run it is kept in the run's log."""
        try:
            text = self._shown(record)
            if text is not None:
                self.say(text)
            if self.file is not None:
                self._keep(record)
            elif self.alone:
                self.earlier.append(record)
        except Exception:  # noqa: BLE001  as every handler of logging: what cannot be logged ends no run
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> None:
        """Write a record to the run's log; where it cannot be written, that is told once, and the run goes on."""
        try:
            self.file.emit(record)  # type: ignore[union-attr]
        except OSError as error:
            lost, self.file = self.file, logging.NullHandler()
            name = lost.baseFilename  # type: ignore[union-attr]
            self.say(f"warning: {name} cannot be written: {error.strerror or error}; the run goes on without its log")
            with suppress(OSError):
                lost.close()  # type: ignore[union-attr]

    def _shown(self, record: logging.LogRecord) -> str | None:
        message = record.getMessage()
        if record.levelno < logging.WARNING:
            text = getattr(record, BRIEF, None)
            if text is None or self.quiet or self.live or not self.alone:
                return None
            return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {text}"
        if not self.silent.filter(record):
            return None
        if self.open:
            self.told[message] += 1
            if self.told[message] > 1:
                return None
        text = f"{record.levelname.lower()}: {message}"
        return f"{text}\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else text

    def say(self, text: str) -> None:
        """Write a line to stderr, above the one that lives."""
        with self._turn():
            put(sys.stderr, f"{_WIPE if self._drawn else ''}{text}\n{self._drawn}")

    def draw(self, text: str, *, now: bool = False) -> None:
        """Draw the line that lives anew, where there is one; at most ten times a second unless `now`."""
        if not self.live or not (now or time.monotonic() - self._last >= _PACE):
            return
        with self._turn():
            before, self._drawn = self._drawn, text[: _width() - 1]
            put(sys.stderr, f"{_WIPE if before else ''}{self._drawn}")
            self._last = time.monotonic()

    def wipe(self) -> None:
        """Take the line away."""
        with self._turn():
            if self._drawn:
                put(sys.stderr, _WIPE)
            self._drawn = ""

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def begin(self, file: Path | None) -> None:
        """Let a run begin, whose log goes to a file; one that is open ends."""
        if self.open:
            self.close_run()
        self.told.clear()
        self.open = True
        if file is not None:
            self.file = _RunLog(file, encoding="utf-8", delay=True)
            self.file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            for record in self.earlier:
                self._keep(record)
        self.earlier.clear()
        self._showwarning, warnings.showwarning = warnings.showwarning, _show_warning
        if self.live and _is_terminal(sys.stdout):
            sys.stdout = _Above(sys.stdout, self)

    def close_run(self) -> None:
        """Let it end: tell what was repeated."""
        self.wipe()
        self.open = False
        if isinstance(sys.stdout, _Above):
            sys.stdout = sys.stdout.stream
        for text, count in self.told.items():
            if count > 1:
                self.say(f"{count} times: {text.splitlines()[0][:100]}")
        self.told.clear()
        if warnings.showwarning is _show_warning:
            warnings.showwarning = self._showwarning
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
            self.file = None


def install(silent: Iterable[tuple[str, str]] = (), *, first: bool = True) -> Console | None:
    """Put a Console into the place of qlib's own handler; None where the user's logging, or `debug`, is to be.

    Args:
        silent: see `Console`; in `debug` too.
        first: see `Console`.
    """
    asked, logger = level(), logging.getLogger(QLIB)
    if asked == "debug":
        for handler in logger.handlers:
            if _is_qlibs(handler):
                handler.addFilter(_Silent(silent))
        return None
    ours = next((one for one in logger.handlers if isinstance(one, Console)), None)
    for handler in list(logger.handlers):
        if _is_qlibs(handler):
            logger.removeHandler(handler)
            ours = ours or Console(asked, silent, first=first)
            ours.setLevel(handler.level if first else logging.ERROR)
            ours.filters = list(handler.filters)  # of what qlib does not want to be told itself
    if ours is not None:
        logger.addHandler(ours)
    return ours


class _RunLog(logging.FileHandler):
    """A file whose errors are its owner's to tell."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        """Let the error pass that is being handled."""
        raise


class _Silent(logging.Filter):
    """Knows what nobody needs."""

    def __init__(self, silent: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self.silent = [(name, re.compile(pattern)) for name, pattern in silent]

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        message = record.getMessage()
        return not any(record.name == name and pattern.match(message) for name, pattern in self.silent)


class _Above:
    """Stands for stdout while a line lives: what others print takes its place, and it is drawn anew below."""

    def __init__(self, stream: TextIO, console: Console) -> None:
        self.stream, self.console = stream, console

    def write(self, text: str) -> int:
        """Print a text."""
        self.console.wipe()
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's."""
        return getattr(self.stream, name)


def _is_qlibs(handler: logging.Handler) -> bool:
    own = getattr(handler.formatter, "_fmt", None) or ""
    return type(handler) is logging.StreamHandler and own.startswith(_QLIBS_FORMAT)


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """Log what `warnings` shows; the place only where it is not the user who is spoken to."""
    if file is not None:
        file.write(warnings.formatwarning(message, category, filename, lineno, line))
        return
    place = "" if category is UserWarning else f" ({category.__name__}, {filename}:{lineno})"
    logging.getLogger(WARNINGS).warning("%s%s", message, place)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def _width() -> int:
    """Columns of the terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80
