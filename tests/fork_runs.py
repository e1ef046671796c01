"""A process that has imported everything, and forks a run of qrun for each line it is told: a second instead of ten.

A line is JSON: [workflow, folder to run in], or in place of the workflow the words of a `qlib-ext` command; it answers
with the number of the process, and then with its exit status.
"""

import json
import os
import sys
from typing import Any

import lightgbm  # noqa: F401
import plotly.graph_objects  # noqa: F401
import torch  # noqa: F401
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: F401
from qlib.cli.run import workflow

import qlib_ext.exchange  # noqa: F401
import qlib_ext.handler  # noqa: F401
import qlib_ext.model  # noqa: F401
import qlib_ext.processor  # noqa: F401
import qlib_ext.record
import qlib_ext.recorder
import qlib_ext.strategy  # noqa: F401
from qlib_ext import cli


def main() -> Any:
    """Fork until the input ends; returns the workflow, or the words, in the process that is to run it."""
    for line in sys.stdin:
        config, folder = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.chdir(folder)
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return config
        print(pid, flush=True)  # noqa: T201  the answer
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201
    return ""


if __name__ == "__main__" and (asked := main()):
    if isinstance(asked, str):
        workflow(asked)
    else:
        status = cli.main(asked)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # pyarrow 14 would wait for threads that a fork does not have
