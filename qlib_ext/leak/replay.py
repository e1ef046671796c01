"""One side of a leak check: a workflow built, trained, scored and traded on a provider; and two sides compared.

Private to `leak.py`. A side runs in a fresh process, since qlib keeps its configuration and caches per process, and
leaves its results in a folder.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import qlib
import torch
from qlib.backtest import backtest
from qlib.data import D
from qlib.data.dataset import Dataset
from qlib.model.base import BaseModel
from qlib.utils import auto_filter_kwargs, fill_placeholder, get_callable_kwargs, init_instance_by_config

from qlib_ext.data import DayDatasetH, panel_of
from qlib_ext.evaluate import daily_metrics
from qlib_ext.leak.compare import Finding, Grid, changed_share, compare, feature_ic
from qlib_ext.model import DayModel
from qlib_ext.panel import DayPanel, grid_of
from qlib_ext.portfolio import fill_top_n
from qlib_ext.runs import Task

BEYOND = 5  # trading days after `after` that are kept, to see that the perturbation arrived
SCORE_TOLERANCE = 1e-4  # of a score and of the mean size of scores: rounding of another batch width
EPOCH_NAMES = ("epochs", "n_epochs", "max_epochs")
GRIDS = {"x": 0.0, "present": 0.0, "liquidity": np.nan, "volatility": np.nan, "market": np.nan, "label": np.nan}

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """What a side does, and where it leaves its results; `known` is the folder of the side it is compared with."""

    config: dict[str, Any]
    provider: str
    folder: str
    kind: str
    after: str
    epochs: int | None
    reach: int
    known: str | None = None


def run_side(job: Job, isolated: bool) -> None:
    """Run a side; a failure of it is a ValueError with its last line (the whole log as a note)."""
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    if not isolated:
        try:
            _work(job)
        except TypeError as misspelt:
            raise ValueError(f"the workflow fails on {job.provider}: {misspelt}") from misspelt
        return
    (folder / "job.pkl").write_bytes(pickle.dumps(job))
    setup = "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    code = setup + "from qlib_ext.leak.replay import _main; _main(sys.argv[1])"
    paths = json.dumps([str(Path(p).absolute()) for p in sys.path])
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8")}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-c", code, str(folder / "job.pkl"), paths]
        status = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    if status:
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        why = lines[-1] if lines else "no output"
        if status < 0:
            why = f"killed by signal {-status} (out of memory?)"
        error = ValueError(f"the workflow fails on {job.provider}: {why}")
        error.add_note("\n".join(lines[-60:]))
        raise error


def _main(path: str) -> None:
    """Run the job in a fresh process, repeatably."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    _work(pickle.loads(Path(path).read_bytes()))


def _work(job: Job) -> None:
    """Build, train and score a workflow on the job's provider, and leave in its folder what is to be compared."""
    folder = Path(job.folder)
    init = copy.deepcopy(job.config["qlib_init"])
    uri = init.get("provider_uri")
    init["provider_uri"] = dict.fromkeys(uri, job.provider) if isinstance(uri, dict) else job.provider
    init["exp_manager"] = {
        "class": "SqliteExpManager",
        "module_path": "qlib_ext.recorder",
        "kwargs": {"uri": f"sqlite:///{folder}/mlruns.db", "default_exp_name": "check_leak"},
    }
    qlib.init(**init | {"expression_cache": None, "dataset_cache": None})
    task = copy.deepcopy(job.config["task"])
    dataset = init_instance_by_config(task["dataset"], accept_types=Dataset)
    panel, _, rows = panel_of(dataset)
    if isinstance(dataset, DayDatasetH) and dataset.span.reach != job.reach:
        raise ValueError(
            f"the label reaches {dataset.span.reach} days, read from the configuration was {job.reach}: "
            "give the dataset's kwargs a label (its expression)"
        )
    if job.kind == "future":
        _save_panel(panel, pd.Timestamp(job.after), folder)
    model = init_instance_by_config(_shortened(task["model"], job.epochs), accept_types=BaseModel)
    auto_filter_kwargs(model.fit)(dataset, reweighter=task.get("reweighter"))
    score = _as_series(model.predict(dataset))
    if job.kind == "shuffled":
        used = [rows(name) for name in dataset.segments if name in ("train", "valid", "test")]
        _save_ic(panel, np.unique(np.concatenate(used)), rows("test"), score, folder)
        return
    score.to_pickle(folder / "score.pkl")
    if job.known is not None:
        score = _steady(score, Side(Path(job.known)).score)
    orders = _trade(task, model, dataset, score, pd.Timestamp(job.after))
    (folder / "trade.pkl").write_bytes(pickle.dumps(orders))


def _shortened(model: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    """Return a model configuration with at most `epochs` epochs, in float32, members of an ensemble included."""
    out = copy.deepcopy(model)
    kwargs = out["kwargs"] = dict(out.get("kwargs") or {})
    for name, value in kwargs.items():
        if isinstance(value, dict) and "class" in value:
            kwargs[name] = _shortened(value, epochs)
    day_model = issubclass(get_callable_kwargs(out)[0], DayModel)
    if day_model:
        kwargs["precision"] = "float32"
        kwargs.pop("checkpoint", None)  # the user's own, of another training
    for name in EPOCH_NAMES:
        if epochs and (name in kwargs or (day_model and name == "epochs")):
            kwargs[name] = min(int(kwargs.get(name, epochs)), epochs)
    return out


def _as_series(score: Any) -> pd.Series:
    """Return scores as a series by (datetime, instrument), sorted."""
    series = score.iloc[:, 0] if isinstance(score, pd.DataFrame) else score
    if not isinstance(series, pd.Series) or set(series.index.names) != {"datetime", "instrument"}:
        raise ValueError(f"the model predicts a {type(score).__name__}; wanted scores by (datetime, instrument)")
    ordered = series if series.index.names[0] == "datetime" else series.swaplevel()
    return ordered.sort_index().rename("score").astype(np.float64)


def _save_panel(panel: DayPanel, after: pd.Timestamp, folder: Path) -> None:
    """Save the grids up to BEYOND days after `after`."""
    last = int(pd.DatetimeIndex(panel.days).searchsorted(after, side="right")) + BEYOND
    for name in GRIDS:
        value = getattr(panel, name)
        if value is not None:
            np.save(folder / f"{name}.npy", value[:last].cpu().numpy())
    facts = {"days": panel.days[:last], "stocks": panel.stocks, "features": panel.features}
    (folder / "facts.pkl").write_bytes(pickle.dumps(facts))


def _save_ic(panel: DayPanel, rows: Rows, test: Rows, score: pd.Series, folder: Path) -> None:
    """Save the daily IC of the scores over `test` and of each feature over `rows`."""
    label = panel.label[torch.as_tensor(test)].numpy()
    daily = daily_metrics(grid_of(score, panel.days[test], panel.stocks), label, names=["ic"])
    grids = (grid[torch.as_tensor(rows)].numpy() for grid in (panel.x, panel.label, panel.present))
    found = {"scores": daily["ic"].to_numpy(), "features": feature_ic(*grids), "names": panel.features}
    (folder / "ic.pkl").write_bytes(pickle.dumps(found))


def _steady(score: pd.Series, known: pd.Series) -> pd.Series:
    """Return the scores with the known ones wherever both agree but for rounding."""
    other = known.reindex(score.index)
    near = (score - other).abs() <= SCORE_TOLERANCE * (known.abs().mean() + other.abs())
    return score.where(~near, other)


def _trade(task: dict[str, Any], model: Any, dataset: Any, score: pd.Series, after: pd.Timestamp) -> Any:
    """Run the workflow's backtest to some days past `after`; return orders and positions up to it, or None."""
    records = Task(task).trading_records
    if not records:
        return None
    parts = {"model": model, "dataset": dataset}
    made = init_instance_by_config(
        records[0], default_module="qlib.workflow.record_temp", try_kwargs=parts, recorder=None
    )
    objects = {"<PRED>": score.to_frame("score"), "<MODEL>": model, "<DATASET>": dataset}
    strategy, executor = (fill_placeholder(part, objects) for part in (made.strategy_config, made.executor_config))
    options = dict(made.backtest_config)
    calendar = pd.DatetimeIndex(D.calendar())
    turn = int(calendar.searchsorted(after, side="right")) - 1
    end = min(calendar[min(turn + BEYOND, len(calendar) - 2)], pd.Timestamp(options["end_time"] or calendar[-1]))
    start = pd.Timestamp(options["start_time"] or score.index[0][0])
    if start > after:
        return None
    options |= {"start_time": start, "end_time": end}
    portfolio, indicators = backtest(strategy=strategy, executor=executor, **options)
    orders = {
        (day, code): float(amount)
        for _, every in indicators.values()
        for day, of_day in every.order_indicator_his.items()
        if day <= after
        for code, amount in _ordered(of_day)
    }
    held = {
        (day, code): float(amount)
        for _, positions in portfolio.values()
        for day, position in positions.items()
        if day <= after
        for code, amount in {**position.get_stock_amount_dict(), "cash": position.get_cash()}.items()
    }
    return {"orders": _long(orders), "positions": _long(held)}


def _ordered(indicator: Any) -> list[tuple[str, float]]:
    """List a day's ordered amounts by stock, sells negative (qlib's own series fails on pandas 3)."""
    amount = indicator.get_index_data("amount")
    return list(zip(amount.index.tolist(), np.atleast_1d(amount.data).tolist(), strict=True))


def _long(values: dict[tuple[Any, str], float]) -> pd.Series:
    index = pd.MultiIndex.from_tuples(list(values), names=["datetime", "instrument"]) if values else None
    return pd.Series(list(values.values()), index=index, dtype=np.float64)


# --- both sides


class Side:
    """The results that a side left in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def score(self) -> pd.Series:
        """Scores by (datetime, instrument)."""
        return pd.read_pickle(self.folder / "score.pkl")

    def trade(self) -> dict[str, pd.Series] | None:
        """Orders and positions, None without a backtest."""
        return pickle.loads((self.folder / "trade.pkl").read_bytes())

    def grid(self, name: str, last: pd.Timestamp | None, first: pd.Timestamp | None = None) -> Grid | None:
        """Return a grid of the panel, days after `first` up to `last` (None: open); None where the panel has none."""
        file = self.folder / f"{name}.npy"
        if not file.is_file():
            return None
        facts = pickle.loads((self.folder / "facts.pkl").read_bytes())
        days = pd.DatetimeIndex(facts["days"])
        begin = 0 if first is None else int(days.searchsorted(first, side="right"))
        at = slice(begin, None if last is None else int(days.searchsorted(last, side="right")))
        values = np.load(file, mmap_mode="r")[at]
        if name == "market":
            names = [f"market {i}" for i in range(values.shape[1])]
            return Grid(values[:, None, :], days[at].to_numpy(), np.array(["(all)"], dtype=object), names)
        return Grid(values, days[at].to_numpy(), facts["stocks"], facts["features"] if name == "x" else [name])


def compare_sides(
    old: Side, new: Side, turn: pd.Timestamp, known: pd.DatetimeIndex, reach: int, config: dict[str, Any]
) -> list[Finding]:
    """Compare all that two sides left, up to `turn`; `known` are the calendar's days up to it."""
    findings = []
    for name, fill in GRIDS.items():
        last = known[-1 - reach] if name == "label" else turn
        a, b = old.grid(name, last), new.grid(name, last)
        item = {"x": "features", "present": "present stocks", "label": "labels"}.get(name, name)
        if a is not None and b is not None:
            findings.append(compare("future", item, a, b, fill=fill, note=f"up to {last.date()}"))
        elif (a is None) != (b is None):
            findings.append(Finding("future", item, 0, 1, False, "there on one side only"))
    findings.append(_reached(old, new, turn))
    scores = [side.score for side in (old, new)]
    a, b = (Grid.of_series(score[score.index.get_level_values(0) <= turn], "score") for score in scores)
    findings.append(compare("future", "scores", a, b, tolerance=SCORE_TOLERANCE))
    findings += _compare_yuan(old, new, turn, config)
    trades = old.trade(), new.trade()
    for name in ("orders", "positions"):
        if trades[0] is None or trades[1] is None:
            why = "not checked: the workflow has no PortAnaRecord whose backtest starts by then"
            findings.append(Finding("future", name, 0, 0, True, why))
        else:
            grids = [Grid.of_series(trade[name], name) for trade in trades if trade is not None]
            findings.append(compare("future", name, *grids, fill=0.0, note="none" if not len(grids[0].days) else ""))
    return findings


def _reached(old: Side, new: Side, turn: pd.Timestamp) -> Finding:
    """Judge whether the features of the days after `turn` changed at all; without that nothing is proved."""
    a, b = (side.grid("x", None, turn) for side in (old, new))
    share = changed_share(a, b) if a is not None and b is not None else 0.0
    cells = 0 if a is None else int(np.prod(a.values.shape))
    text = f"{share:.1%} of the features of the next days changed, as they should"
    if not share:
        text = "nothing after the day changed either: the features do not come from the provider, nothing is proved"
    return Finding("future", "perturbation arrives", cells, 0, share > 0, text, proves=share > 0)


def _compare_yuan(old: Side, new: Side, turn: pd.Timestamp, config: dict[str, Any]) -> list[Finding]:
    """Compare the yuan that `fill_top_n` places by the scores of both sides, with the strategy's options."""
    liquidity = old.grid("liquidity", turn), new.grid("liquidity", turn)
    if liquidity[0] is None or liquidity[1] is None:
        return [Finding("future", "target yuan", 0, 0, True, "not checked: the dataset has no liquidity")]
    chosen = Task(config["task"]).strategy or {}
    options = {"capital": chosen.get("capital") or 150e6, "participation": chosen.get("participation") or 0.05}
    scores = old.score, _steady(new.score, old.score)
    placed = []
    for score, grid in zip(scores, [grid for grid in liquidity if grid is not None], strict=True):
        own = Grid.of_series(score[score.index.get_level_values(0) <= turn], "score")
        yuan = pd.DataFrame(grid.values, pd.DatetimeIndex(grid.days), grid.stocks).reindex(own.days, columns=own.stocks)
        target = fill_top_n(own.values, np.nan_to_num(yuan.to_numpy(float)), top_n=chosen.get("top_n"), **options)
        placed.append(Grid(np.asarray(target), own.days, own.stocks, ["yuan"]))
    return [compare("future", "target yuan", *placed, fill=0.0, note=f"{options['capital']:,.0f} yuan a day")]
