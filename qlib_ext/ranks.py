"""The processes that torchrun has started for one training: which of them this is, and what they tell each other.

They are known by the variables that torchrun sets (torch's `env://`: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). Of
one process, or without them, nothing is sent and everything is as it is alone. torch is imported where it sends.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(hours=1)  # that one waits for another: one may grow trees meanwhile, or read a slow disk


AGAIN = (
    "torchrun's report names the one that ended first, and its error stands above. Start the same command again: with "
    "a checkpoint in the model's kwargs it goes on after the last whole epoch, with as many ranks as you like"
)


class _Now:
    """The present state: whether anything was sent, and whether the first goes on alone."""

    spoke = parted = False


def launched() -> int:
    """Count the processes that torchrun has started, on all machines; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(os.environ.get(name) for name in NEEDED) else 1


def count() -> int:
    """Count the processes that train together now: those that were launched, until they part.

    >>> count(), rank(), own_share(0, 4)
    (1, 0, slice(0, 4, None))
    """
    return 1 if _Now.parted else launched()


def rank() -> int:
    """Tell the number of this process, from 0."""
    return int(os.environ["RANK"]) if launched() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that records, writes files and is seen."""
    return rank() == 0


def local() -> tuple[int, int]:
    """Tell the number of this process among those of its machine, and how many they are."""
    return (int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if count() > 1 else (0, 1)


def own_share(begin: int, end: int) -> slice:
    """Places of this process among those from `begin` to `end`: as many as of any other, or one more or less."""
    size = end - begin
    return slice(begin + size * rank() // count(), begin + size * (rank() + 1) // count())


def spoke() -> bool:
    """Whether the processes have told each other anything."""
    return _Now.spoke


def add(tensor: Any) -> Any:
    """Add a tensor of all processes, in place; return it."""
    if count() > 1:
        with _sending() as dist:
            dist.all_reduce(tensor)
    return tensor


def of_first(make: Callable[[], T]) -> T:
    """Let the first process make a value, and return it in all of them; tensors of it are best on the CPU."""
    if count() == 1:
        return make()
    box = [make() if is_first() else None]
    with _sending() as dist:
        dist.broadcast_object_list(box)
    return box[0]  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """Return the values of all processes, by rank."""
    every: list[Any] = [value] * count()
    if count() > 1:
        with _sending() as dist:
            dist.all_gather_object(every, value)
    return every


def part() -> None:
    """Let the first process go on alone; the others end here, with status 0."""
    if count() == 1:
        return
    _close()
    _Now.parted = True
    if not is_first():
        raise SystemExit(0)


@contextmanager
def _sending() -> Iterator[Any]:
    """Give torch.distributed, with a group of all processes: gloo on CPUs, nccl on GPUs.

    Raises: RuntimeError where another process has ended or cannot be reached.
    """
    import torch.distributed as dist

    try:
        if not dist.is_initialized():
            _open()
        _Now.spoke = True
        yield dist
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {rank()} of {count()} waits in vain, another one has ended or cannot be reached: {AGAIN} "
            f"({(str(error).splitlines() or [type(error).__name__])[0]})"
        ) from error


def _open() -> None:
    import torch.distributed as dist
    from torch import cuda

    store, *_ = next(dist.rendezvous("env://", timeout=PATIENCE))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # of torchrun: the one before has left its addresses
    backends = "cpu:gloo,cuda:nccl" if dist.is_nccl_available() and cuda.is_available() else "gloo"
    store = dist.PrefixStore(f"qlib_ext {attempt}", store)
    dist.init_process_group(backends, store=store, rank=rank(), world_size=count(), timeout=PATIENCE)
    atexit.register(_close)


def _close() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
