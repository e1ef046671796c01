"""Files written beside the old one and renamed: at any time there is the old file or the new one, never half of it.

What several processes would make at the same time is made by one of them, `alone`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """Give a file to write into; afterwards it takes the place of `path`, or goes where writing it failed.

    A link keeps pointing at the file, which keeps its mode; what is no file (/dev/stdout, a pipe) is written itself.

    Raises: OSError that names `path`, for a full disk, a folder that is not there or may not be written, and the like.

    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "table.csv"
    >>> with beside(table) as partial:
    ...     _ = partial.write_text("code,shares")
    >>> table.read_text(), len(list(table.parent.iterdir()))
    ('code,shares', 1)
    """
    partial, kept = None, ""
    try:
        target = Path(path).expanduser().resolve()
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        if target.exists() and not target.is_file():
            yield target
            return
        kept = "; what was there is as it was" if target.exists() else ""
        partial = target.with_name(f".{target.name[:60]}.{os.getpid()}.part")
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if kept:
            partial.chmod(target.stat().st_mode & 0o777)
        partial.replace(target)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}{kept}") from error
    finally:
        if partial is not None:
            with suppress(OSError):  # it took its place, or there is no such folder
                partial.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, beside and renamed (see `beside`)."""
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def alone(path: str | Path, say: Callable[[str], object]) -> Iterator[None]:
    """Let one process at a time do what is within for `path`; the lock goes with the process, however it ends.

    Args:
        path: what is made; its folder must be there.
        say: called with a line where another process has to be waited for.

    Raises: OSError that names `path`, where its folder may not be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with alone(folder / "market", print):
    ...     [file.name for file in folder.iterdir()]
    ['.market.lock']
    """
    from filelock import FileLock, Timeout

    place = Path(path)
    lock = FileLock(place.with_name(f".{place.name[:60]}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is writing {place}: waiting for it")
        lock.acquire()
    except OSError as error:
        raise OSError(f"{place} cannot be written: {error.strerror or error}") from error
    try:
        yield
        with suppress(OSError):  # whoever waits finds it made; after an error the lock stays for the next one
            Path(lock.lock_file).unlink()
    finally:
        lock.release()
