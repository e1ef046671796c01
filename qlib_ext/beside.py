"""Files and folders written beside the old one and put in its place: there is the old one or the new, never half of it.

What several processes would make at the same time is made by one of them, `alone`.
"""

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_ROOM = ": make room, then do it again"
_RIGHT = ": give yourself the right to, or name a folder of your own"
_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHT),
    errno.EFBIG: ": files may not be so large here (ulimit -f), or on this disk",
}


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
        raise OSError(f"{path} cannot be written: {why_not(error)}{kept}") from error
    finally:
        if partial is not None:
            with suppress(OSError):  # it took its place, or there is no such folder
                partial.unlink()


def why_not(error: OSError) -> str:
    """Say why something cannot be written, and what to do where that is known.

    >>> why_not(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device: make room, then do it again'
    """
    return f"{error.strerror or error}{_CURES.get(error.errno or 0, '')}"


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
        raise OSError(f"{place} cannot be written: {why_not(error)}") from error
    try:
        yield
        with suppress(OSError):  # whoever waits finds it made; after an error the lock stays for the next one
            Path(lock.lock_file).unlink()
    finally:
        lock.release()


def take_place(build: str | Path, target: str | Path) -> None:
    """Put a folder in the place of another, in one step: who looks finds the old one or the new; the old is at `build`.

    Where nothing is at `target`, `build` is renamed. Both must be of one file system.

    Raises: OSError where it cannot be done, or the system cannot exchange two folders in one step.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("old", "new"):
    ...     (folder / name).mkdir()
    ...     _ = (folder / name / "which").write_text(name)
    >>> take_place(folder / "new", folder / "old")
    >>> [(folder / name / "which").read_text() for name in ("old", "new")]
    ['new', 'old']
    """
    one, other = Path(build), Path(target)
    if not other.exists():
        one.rename(other)
        return
    libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = (os.fsencode(one), os.fsencode(other))
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, 2)  # RENAME_SWAP
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(-100, names[0], -100, names[1], 2)  # AT_FDCWD, RENAME_EXCHANGE
    else:
        failed, _ = -1, ctypes.set_errno(errno.ENOSYS)
    if failed:
        why = os.strerror(ctypes.get_errno())
        raise OSError(
            f"{other} and the new folder beside it cannot be exchanged in one step ({why}); put the data on a disk of "
            "this machine (ext4, xfs, btrfs, APFS), into a folder of its own"
        )
