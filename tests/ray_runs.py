"""What tests/test_ray_cluster.py kills: a list of tasks, or folds, on a simulated cluster of two nodes.

    python ray_runs.py list|folds FOLDER MARKET

The pids of its parts go to FOLDER/parts.json, what it found to FOLDER/found.pkl.
"""

import json
import os
import sys
from pathlib import Path

import pandas as pd
import qlib
from qlib.model.trainer import task_train
from qlib.workflow import R
from ray.cluster_utils import Cluster
from test_ensemble import QUICK
from test_ray import rolling

from qlib_ext.beside import write_text
from qlib_ext.model import RayTrainer

SIZE = {"object_store_memory": 2**27, "include_dashboard": False}
OPTIONS = {"epochs": 30, "patience": 30, "dropout": 0.1}


def start():
    """A head without a worker, and two nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SIZE})
    nodes = [cluster.add_node(num_cpus=1, **SIZE) for _ in range(2)]
    return cluster, nodes


def pid_of(node):
    return node.all_processes["raylet"][0].process.pid


def tasks(kind, folder):
    """Four windows, each with a checkpoint; or one task of four folds with three seeds."""
    every = rolling(**OPTIONS)
    for number, task in enumerate(every):
        task["model"]["kwargs"]["checkpoint"] = str(folder / f"task{number}.pt")
    if kind == "list":
        return every
    member = every[0]["model"] | {"kwargs": QUICK | OPTIONS | {"checkpoint": str(folder / "fold.pt")}}
    kwargs = {"model": member, "n_splits": 4, "seeds": [0, 1, 2], "engine": "ray"}
    return [every[0] | {"model": {"class": "FoldEnsemble", "module_path": "qlib_ext.model", "kwargs": kwargs}}]


def main(kind, folder, market):
    """Train, and keep scores and metrics of each run."""
    cluster, nodes = start()
    os.environ["RAY_ADDRESS"] = cluster.address
    write_text(folder / "parts.json", json.dumps({"driver": os.getpid(), "nodes": [pid_of(node) for node in nodes]}))
    manager = {"uri": f"sqlite:///{folder / 'mlruns.db'}", "default_exp_name": "none"}
    exp_manager = {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder", "kwargs": manager}
    qlib.init(provider_uri=market, region="cn", exp_manager=exp_manager)
    listed = tasks(kind, folder)
    runs = RayTrainer("killed")(listed) if kind == "list" else [task_train(listed[0], "killed")]
    found = [(run.load_object("pred.pkl"), run.list_metrics()) for run in runs]
    left = [run.id for run in R.get_exp(experiment_name="killed").list_recorders(rtype="list", status="RUNNING")]
    pd.to_pickle((found, left), folder / "found.pkl")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
