"""Several processes as torchrun starts them, forked from one that has imported everything; what each returns."""

import multiprocessing
import os
import pickle
import signal
import socket
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "mlflow", "qlib_ext.model", "qlib_ext.recorder"])
LIMIT = 200  # seconds


def together(of, job, *args, kill=None, each=None, **options):
    """Run a function in so many ranks: what it returned, or the error that it raised, by rank.

    A rank that ends without a word has None; `kill` (rank, path) kills one as soon as the path is there; `each`: options
    of some ranks alone.
    """
    with TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        own = [options | (each or {}).get(rank, {}) for rank in range(of)]
        ranks = [CONTEXT.Process(target=_rank, args=(rank, of, port, folder, job, args, own[rank])) for rank in range(of)]
        for process in ranks:
            process.start()
        if kill is not None:
            while not Path(kill[1]).exists():
                ranks[kill[0]].join(0.01)
                assert ranks[kill[0]].exitcode is None
            os.kill(ranks[kill[0]].pid, signal.SIGKILL)
        for process in ranks:
            process.join(LIMIT)
        late = [process for process in ranks if process.is_alive()]
        for process in late:
            process.kill()
        assert not late, "ranks hang"
        files = [Path(folder, str(rank)) for rank in range(of)]
        return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]


def _rank(rank, of, port, folder, job, args, options):
    import torch

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(of), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(of)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        result = job(*args, **options)
    except Exception as error:
        error.__cause__ = None
        result = error
        traceback.print_exc()
    Path(folder, str(rank)).write_bytes(pickle.dumps(result))
