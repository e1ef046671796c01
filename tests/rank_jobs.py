"""Several processes as torchrun starts them, forked from one that has imported everything; what they are told to do."""

import multiprocessing
import os
import pickle
import signal
import socket
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch._dynamo  # the first optimiser does
from test_ensemble import make_dataset
from torch import nn

from qlib_ext.evaluate import LightGBM
from qlib_ext.losses import DayLoss
from qlib_ext.model import FoldEnsemble, LightGBMModel, ModelEnsemble, WalkForwardModel
from qlib_ext.nets import MASTER, MLP
from qlib_ext.panel import DayPanel
from qlib_ext.training import Trainer, fit_together, seeded

D, N, F = 60, 12, 3
TRAIN, VALID, FRESH = np.arange(31), np.arange(31, 42), np.arange(42, D)
LIMIT = 240  # seconds


def together(of, *jobs, kill=None, each=None, **variables):
    """Do jobs, each a function and its options, one after the other in so many ranks.

    Args:
        of: number of ranks.
        jobs: (function, options).
        kill: (rank, path): the rank that is killed as soon as the path is there.
        each: of a rank, options of all jobs that are its own.
        variables: of the environment.

    Returns: by rank what its jobs returned, the error that ended it, or None of the one that was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rank_jobs"])
    with TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"PYTHONPATH": _path()}):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])} | variables
        own = [[(job, options | (each or {}).get(rank, {})) for job, options in jobs] for rank in range(of)]
        ranks = [context.Process(target=_rank, args=(rank, of, variables, folder, own[rank])) for rank in range(of)]
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


def _path():
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


def _rank(rank, of, variables, folder, jobs):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(of), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(of)}
    os.environ |= variables
    try:
        result = [job(**options) for job, options in jobs]
    except Exception as error:  # noqa: BLE001  whatever ends a rank is what its test asks for
        traceback.print_exc()
        result = type(error)(str(error))
    Path(folder, str(rank)).write_bytes(pickle.dumps(result))


# --- jobs


def make_panel(seed=0, *, noise=0.01, heads=1):
    """A panel whose label is 0.02 x_0 plus noise; the 5 days from 10 on have one label for all, as 3 of 31 to 41 have.

    The label of a second head is of x_1, unknown on every third day.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(D, N, F)).astype(np.float32)
    label = (0.02 * x[..., 0] + noise * rng.normal(size=(D, N))).astype(np.float32)
    label[[*range(10, 15), 33, 38, 41]] = 0.01
    present = rng.random((D, N)) > 0.1
    x[~present] = 0
    panel = DayPanel(
        days=pd.date_range("2024-01-01", periods=D, freq="B").to_numpy(),
        stocks=np.array([f"S{i:02d}" for i in range(N)], dtype=object),
        features=[f"f{i}" for i in range(F)],
        x=torch.from_numpy(x),
        present=torch.from_numpy(present),
        label=torch.from_numpy(label),
        liquidity=torch.from_numpy(rng.uniform(1e7, 1e9, size=(D, N)).astype(np.float32)),
    )
    if heads == 1:
        return panel
    other = 0.02 * panel.x[..., 1] + 0.01 * panel.x[..., 2]
    other[::3] = torch.nan
    return replace(panel, labels=torch.stack([panel.label, other], dim=2), horizons=(1, 3), step_return=panel.label)


NETS = {
    "mlp": lambda: MLP(F, (8,)),
    "dropout": lambda: MLP(F, (8,), dropout=0.3),
    "master": lambda: MASTER(F, 8, 2, 2, dropout=0.0),
    "heads": lambda: MLP(F, (8,), heads=2),
    "draws": lambda: Draws(F),
}


class Draws(nn.Module):
    """Notes the random numbers that it meets."""

    def __init__(self, d_feat):
        super().__init__()
        self.head, self.met = nn.Linear(d_feat, 1), []

    def forward(self, x, present, market):
        if self.training:
            self.met.append(torch.rand(1).item())
        return self.head(x[:, -1])[..., 0]


def trainer_of(net, *, seed=0, **options):
    own = {"epochs": 3, "patience": 3, "lr": 1e-2, "weight_decay": 0.01, "metric": "ic", "device": "cpu"}
    options = own | {"step_len": 3 if net == "master" else 1, "precision": "float32"} | options
    loss = DayLoss(options.pop("loss", "mse"), target=options.pop("target", "rank"))
    with seeded(seed):
        return Trainer(NETS[net](), loss, seed=seed, **options)


def fit(net="mlp", *, panel=0, noise=0.01, poor=False, odd=False, stop=0, train=TRAIN, **options):
    """Train; return the state, the history, scores of fresh days, what was told and the random numbers.

    `poor`: where memory suffices for one day; `odd`: where the metric always rises; `stop`: after which epoch.
    """
    trainer = trainer_of(net, **options)
    market = make_panel(panel, noise=noise, heads=2 if net == "heads" else 1)
    forward, judge = trainer._forward, trainer._judge
    if poor:
        trainer._forward = lambda batch: forward(batch) if len(batch.days) == 1 else _no_memory()
    if odd:
        trainer._judge = lambda *args: judge(*args) | {"ic": float(rising.pop(0))}
    rising = list(range(100))

    def on_epoch(epoch, row):
        if epoch == stop:
            raise KeyError("stop")

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = trainer.fit(market, train, VALID, on_epoch=on_epoch)
    words = [str(each.message) for each in told]
    return trainer.net.state_dict(), history, trainer.predict(market, FRESH), words, getattr(trainer.net, "met", [])


def cut(**options):
    """Train until an epoch's end and break off."""
    try:
        fit(**options)
    except KeyError:
        return "cut"
    raise AssertionError


def _no_memory():
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


def one_pass(*, batch_days, rows):
    """Learn once from rows in their order, among them days that cannot be learnt from, and score them."""
    trainer, panel = trainer_of("mlp", batch_days=batch_days), make_panel()
    optimiser = torch.optim.SGD(trainer.net.parameters(), lr=0.1)
    learnt, _ = trainer.run_epoch(panel, rows, optimiser)
    judged, score = trainer.run_epoch(panel, rows)
    return trainer.net.state_dict(), learnt, judged, score


def in_one_pass(*, batch_days):
    """Three seeds in one pass over the days; the states and histories, and those of one by one."""
    options = {"order_seed": 5, "batch_days": batch_days, "net": "dropout"}
    several, alone = ([trainer_of(seed=seed, **options) for seed in (3, 0, 7)] for _ in range(2))
    panel = make_panel()
    histories = fit_together(several, panel, TRAIN, VALID, on_epochs=[lambda epoch, row: None] * 3)
    single = [one.fit(panel, TRAIN, VALID) for one in alone]
    return [(one.net.state_dict(), history) for one, history in zip(several + alone, histories + single, strict=True)]


QUICK = {"hidden": [6, 4], "loss": "mse", "target": "rank", "metric": "ic", "epochs": 1, "lr": 0.01}
QUICK |= {"device": "cpu", "precision": "float32"}


def ensembles(*, batch_days):
    """Scores of folds, of seeds in one pass, of a walk-forward that begins warm, of a network with trees."""
    mlp = {"class": "MLPModel", "kwargs": QUICK | {"batch_days": batch_days}}
    ordered = {"class": "MLPModel", "kwargs": mlp["kwargs"] | {"order_seed": 3}}
    small = {"rounds": 6, "parameters": {"num_leaves": 4, "lambda_l1": 0.0, "lambda_l2": 0.0}}
    models = {
        "folds": FoldEnsemble(model=mlp, n_splits=2),
        "one pass": FoldEnsemble(model=ordered, n_splits=1, seeds=[0, 1]),
        "warm": WalkForwardModel(model=mlp, step=20, warm_start={"epochs": 1}),
        "kinds": ModelEnsemble(members=[mlp, {"class": "LightGBMModel", "kwargs": small}]),
    }
    scores = {}
    for name, model in models.items():
        dataset = make_dataset()
        model.fit(dataset)
        scores[name] = model.predict(dataset)
    return scores


def trees(*, folder, checkpoint):
    """Trees beside a network; text and scores of the trees, and who has grown them."""
    grow, panel = LightGBM.fit, make_panel()

    def noted(*args):
        Path(folder, os.environ["RANK"]).touch()
        return grow(*args)

    small = {"num_leaves": 4, "min_data_in_leaf": 5, "lambda_l1": 0.0, "lambda_l2": 0.0}
    model = LightGBMModel(rounds=6, parameters=small, checkpoint=checkpoint)
    with mock.patch.object(LightGBM, "fit", noted):
        model.fit_rows(panel, 1, TRAIN, VALID, keep_checkpoint=True)
    return model.booster.model_to_string(), model.booster.best_iteration, model.score_rows(panel, FRESH)


def refused():
    """What an ensemble with processes says."""
    member = {"class": "MLPModel", "kwargs": QUICK}
    try:
        FoldEnsemble(model=member, processes=2)
    except ValueError as error:
        return str(error)
    return ""
