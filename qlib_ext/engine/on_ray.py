"""Ray: workers of this machine or of a cluster, what they share once a node in its object store.

Ray does the rest: placing, retries where a worker or node is lost, nodes that come and go. It is imported when it is
first used.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from qlib_ext.beside import why_not
from qlib_ext.engine.packed import Packed, packed, refuse_written, unpacked
from qlib_ext.engine.processes import WorkerLost
from qlib_ext.options import argument_names, check_number, named_options, refuse_unknown, tell

LOST_ON_RAY = (
    "a worker of Ray was lost more often than `retries` allows ({retries}), mostly killed by the system or by Ray for "
    "lack of memory ({kind}): give each task more (`cpus`: fewer run side by side on a node), or take larger nodes; "
    "what was finished is kept as without Ray (checkpoints, runs that are FINISHED)"
)
LARGE = 2**30  # bytes shared from which the size of the object store is ours to say
SPARE = 256 * 2**20  # bytes of the object store beside what is shared: results
ADDRESS = "RAY_ADDRESS"  # of a cluster, in the environment


class Ray:
    """Workers of Ray.

    Args:
        address: of a cluster, "auto" (the one that runs on this machine) or "host:port"; "local": a Ray of this machine
            alone, which ends with what it was started for; None: that of the environment (`RAY_ADDRESS`), else "local".
        cpus, gpus: of a node, that one job takes; 0.25 GPUs: four jobs share one. `cpus` are its threads too, one
            where less than one is asked for.
        retries: how often a job is done again whose worker or node was lost; an error of its own is raised at once.
        workers: of the Ray of this machine; None: as many as it has processors. A cluster knows its own.

    >>> Ray(gpus=0.25)
    Ray(gpus=0.25)
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 3,
        workers: int | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("Ray", unknown, argument_names(Ray))
        if address is not None and (not isinstance(address, str) or not address):
            raise ValueError(f"Ray: address is {address!r}; write auto or host:port of a cluster, or leave it out")
        check_number("Ray: cpus", cpus, "(0, inf)")
        check_number("Ray: gpus", gpus, "[0, inf)")
        check_number("Ray: retries", retries, "[0, inf)", whole=True)
        if workers is not None:
            check_number("Ray: workers", workers, "[1, inf)", whole=True)
        self.address, self.cpus, self.gpus, self.retries, self.workers = address, cpus, gpus, retries, workers

    def __repr__(self) -> str:
        """Options that are not the defaults."""
        usual = vars(Ray())
        return f"Ray({named_options({name: value for name, value in vars(self).items() if value != usual[name]})})"

    def run(
        self,
        work: Callable[[Any, Any], Any],
        jobs: Iterable[tuple[Any, Any]],
        *,
        again: Callable[[Exception], bool] | None = None,
        keep: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        """Do `work(shared, job)` of each (shared, job); yield its number and what it returned, as they end.

        Args:
            work: by reference, so importable on the workers, or of the main program.
            jobs: what they share is put into the object store once where jobs with the same follow each other; it may
                be made as they are asked for, and is let go of then.
            again: tells errors of a job after which it is done again, as after the loss of its worker.
            keep: yield an error of a job in place of a result, and go on with the others.

        Raises: what a job raises; WorkerLost for workers lost too often, ImportError without Ray.
        """
        ray = _ray()
        with self._session(ray) as put:
            do = ray.remote(_do).options(
                num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries, retry_exceptions=[_Passing]
            )
            running, last, place = {}, object(), None
            try:
                for n, (shared, job) in enumerate(jobs):
                    if shared is not last:
                        last, place = shared, put(shared)
                    running[do.remote(sys.path, int(self.cpus), place, ray.cloudpickle.dumps((work, job, again)))] = n
                last = place = shared = None
                while running:
                    (ended,), _ = ray.wait(list(running))
                    yield running.pop(ended), self._result(ray, ended, keep)
                    del ended
            finally:
                for each in running:
                    ray.cancel(each, force=True)

    def _result(self, ray: Any, ended: Any, keep: bool) -> Any:
        """Get what a job returned, or raise what became of it."""
        try:
            return ray.cloudpickle.loads(ray.get(ended))
        except ray.exceptions.RayTaskError as error:
            failed: Exception = error.cause.args[0] if isinstance(error.cause, _Passing) else error.cause
            failed.__cause__ = error
        except ray.exceptions.RayError as error:
            failed = WorkerLost(LOST_ON_RAY.format(retries=self.retries, kind=type(error).__name__))
            failed.__cause__ = error
        if keep:
            return failed
        raise failed

    @contextmanager
    def _session(self, ray: Any) -> Iterator[Callable[[Any], Any]]:
        """Connect to Ray unless this process is; what is given puts an object into the store."""
        begun: list[bool] = []

        def put(shared: Any) -> Any:
            content = packed(shared, ray.cloudpickle.Pickler)
            if not begun:
                begun.append(self._begin(ray, sum(array.nbytes for array in content[1])))
                self._check_place(ray, own=begun[0] and not self._address)
            return ray.put(content)

        try:
            yield put
        finally:
            if begun and begun[0]:
                ray.shutdown()

    def _begin(self, ray: Any, size: int) -> bool:
        """Connect to Ray; tell whether this process was not yet."""
        if ray.is_initialized():
            if self.address not in (None, "auto", "local", ray.get_runtime_context().gcs_address):
                tell(f"Ray: address {self.address!r} has no effect: this process is connected to a Ray already")
            return False
        ended_by = signal.getsignal(signal.SIGTERM)
        try:
            self._connect(ray, size)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, ended_by)  # Ray would take it from a run, which would not be KILLED
        return True

    def _connect(self, ray: Any, size: int) -> None:
        """Connect to the cluster of the address, or start a Ray of this machine."""
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        address = self._address
        if not address:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
            count = {} if self.workers is None else {"num_cpus": max(1, round(self.workers * self.cpus))}
            store = {"object_store_memory": int(1.2 * size) + SPARE} if size > LARGE else {}  # else a third of all
            ray.init(address="local", include_dashboard=False, **store, **count, **quiet)
            return
        _reach(address)
        ray.init(address=address, **quiet)

    @property
    def _address(self) -> str | None:
        address = self.address or os.environ.get(ADDRESS)
        return None if address == "local" else address

    def _check_place(self, ray: Any, *, own: bool) -> None:
        """Raise ValueError where no node can ever do a job, and tell it where one may come: Ray would wait silently."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            return
        found = ", ".join(f"{node.get('CPU', 0):g} processors and {node.get('GPU', 0):g} GPUs" for node in nodes)
        lacks = f"a job takes cpus: {self.cpus:g} and gpus: {self.gpus:g} of one node, but Ray has nodes of {found}"
        if own:
            raise ValueError(f"{lacks}: ask for less")
        tell(f"{lacks}: it waits until a larger one comes")


class _Passing(Exception):
    """An error of a job after which it is done again."""


def _reach(address: str) -> None:
    """Raise ConnectionError where nobody listens at an address: Ray would wait for minutes, and crash."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray at {address!r} ({why_not(error)}): start one (`ray start --head`), correct the address, or leave "
            "it out for one of this machine alone"
        ) from error


def _ray() -> Any:
    """Import Ray, or say how it is installed."""
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ImportError("the engine ray needs Ray: pip install 'qlib_ext[ray]'") from error
    return ray


def _do(paths: list[str], threads: int, shared: Packed, raw: bytes) -> bytes:
    """Work on a worker: modules of one's own are found where the driver finds them."""
    import ray

    sys.path[:0] = [path for path in paths if path not in sys.path]
    torch.set_num_threads(max(1, threads))
    work, job, again = ray.cloudpickle.loads(raw)
    views: list[torch.Tensor] = []
    try:
        made = work(unpacked(shared, views), job)
        refuse_written(views)
    except Exception as error:
        told = _portable(ray, error)
        if again is not None and again(error):
            raise _Passing(told) from error
        if told is error:
            raise
        raise told from error
    return bytes(ray.cloudpickle.dumps(made))


def _portable(ray: Any, error: Exception) -> Exception:
    """Give an error as it is, or in words where it cannot be sent: Ray would take it for a lost worker."""
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001  its own __reduce__ and __init__ may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
