"""Processes of this machine, which share the memory of tensors."""

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

import torch
import torch.multiprocessing

from qlib_ext import progress

LOST = (
    "a process that trained members was killed from outside, mostly by the system for lack of memory: set a smaller "
    "`processes` (each has its own network and batches), or give the machine more memory; with a `checkpoint` in the "
    "model's kwargs, finished members are not trained again"
)


class WorkerLost(RuntimeError):
    """A process that did a job was killed, and what it did is not done."""


class Processes:
    """So many processes at a time, gone with the one that started them.

    >>> Processes(2)
    Processes(2)
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __repr__(self) -> str:
        """How many."""
        return f"Processes({self.count})"

    def run(self, work: Callable[[Any, Any], Any], jobs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[int, Any]]:
        """Do `work(shared, job)` of each (shared, job); yield its number and what it returned, as they end.

        Raises: what a job raises, WorkerLost for a process that was killed.
        """
        every = list(jobs)
        count = min(self.count, len(every))
        threads = max(1, torch.get_num_threads() // count)
        context = torch.multiprocessing.get_context("spawn")
        watched, held = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(count, context, initializer=start_worker, initargs=(threads, watched))
        with watched, held, pool:
            try:
                running = {pool.submit(_do, work, shared, job): n for n, (shared, job) in enumerate(every)}
                for ended in as_completed(running):
                    yield running[ended], pickle.loads(ended.result())
            except BaseException as error:
                held.close()  # nobody waits for what is half done
                if isinstance(error, BrokenProcessPool):
                    raise WorkerLost(LOST) from error
                raise


def start_worker(threads: int, watched: Any) -> None:
    """Prepare a process: threads, log, and its end when the other end of `watched` is closed or its holder gone.

    Ctrl-C reaches it too: it leaves that to the process that started it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.install()
    torch.set_num_threads(threads)

    def watch() -> None:
        with suppress(EOFError, OSError):
            watched.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(work: Callable[[Any, Any], Any], shared: Any, job: Any) -> bytes:
    """Work in another process; bytes, since tensors would leave it as files of its own memory."""
    return pickle.dumps(work(shared, job))
