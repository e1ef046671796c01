"""Replay: a workflow built, trained, scored and traded on a provider; and two replays compared.

A replay runs in a fresh process, since qlib keeps its configuration and caches per process, and leaves its results in a
folder.
"""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
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
from qlib_ext.leak.compare import TOLERANCE, Finding, Grid, changed_share, compare, feature_ic, judge_good
from qlib_ext.leak.own_files import OwnFiles
from qlib_ext.model import DayModel
from qlib_ext.panel import DayPanel, check_scores, grid_of
from qlib_ext.portfolio import CAPITAL, PARTICIPATION, ForecastSchedule, fill_top_n
from qlib_ext.runs import MEMBERS, Task, class_name, names_class

BEYOND = 5  # trading days after the cutoff that are kept, to see that the perturbation arrived
SCORE_TOLERANCE = 1e-4  # of a score and of the mean size of scores: rounding of another batch width
EPOCH_NAMES = ("epochs", "n_epochs", "max_epochs")
GRIDS = {  # of the panel: what the report calls it, and what stands for a cell that is not there
    "x": ("features", 0.0),
    "present": ("present stocks", 0.0),
    "liquidity": ("liquidity", np.nan),
    "volatility": ("volatility", np.nan),
    "market": ("market", np.nan),
    "label": ("labels", np.nan),
    "labels": ("labels of several horizons", np.nan),
    "exposures": ("exposures", 0.0),
}

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Replay:
    """A workflow run on a provider, and the results that it left in its folder.

    Attributes:
        config: the workflow's.
        provider: folder of the data.
        folder: of the results; `run` makes it.
        reach: days after t that the label of t touches, as read from the configuration.
        epochs: most epochs of the training; None: as configured.
        cutoff: last day compared; None: the IC of scores and features is all that is wanted (a shuffled market).
        like: folder of the replay to be compared with: scores that agree but for rounding are traded as its own.
        past: folder of the replay whose scores of past days the forecast is learnt from, and nothing else done; None: a
            whole replay.
    """

    config: dict[str, Any]
    provider: Path
    folder: Path
    reach: int
    epochs: int | None
    cutoff: pd.Timestamp | None = None
    like: Path | None = None
    past: Path | None = None

    def run(self, isolated: bool) -> None:
        """Run it; a failure is a ValueError with its last line (the whole log as a note)."""
        self.folder.mkdir(parents=True)
        if not isolated:
            try:
                _work(self)
            except TypeError as misspelt:
                raise ValueError(f"the workflow fails on {self.provider}: {misspelt}") from misspelt
            return
        (self.folder / "replay.pkl").write_bytes(pickle.dumps(self))
        setup = "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
        code = setup + "from qlib_ext.leak.replay import work_alone; work_alone(sys.argv[1])"
        paths = json.dumps([str(Path(p).absolute()) for p in sys.path])
        environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8")}
        log = self.folder / "log.txt"
        with log.open("w", encoding="utf-8") as file:
            command = [sys.executable, "-c", code, str(self.folder / "replay.pkl"), paths]
            status = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False).returncode
        if status:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            why = f"killed by signal {-status} (out of memory?)" if status < 0 else (lines or ["no output"])[-1]
            error = ValueError(f"the workflow fails on {self.provider}: {why}")
            error.add_note("\n".join(lines[-60:]))
            raise error

    def result(self, name: str) -> Any:
        """Read `score`, `past` (by datetime and instrument), `forecast`, `trade` (orders and positions) or `ic`.

        None: the workflow has no backtest (`trade`), no ForecastRecord (`past`, `forecast`).
        """
        return pd.read_pickle(self.folder / f"{name}.pkl")

    def early_score(self) -> pd.Series:
        """Scores up to the cutoff."""
        score = self.result("score")
        return score[score.index.get_level_values(0) <= self.cutoff]

    def grid(self, name: str, last: pd.Timestamp | None, first: pd.Timestamp | None = None) -> Grid | None:
        """Return a grid of the panel, days after `first` up to `last` (None: open); None where the panel has none."""
        file = self.folder / f"{name}.npy"
        if not file.is_file():
            return None
        axes = self.result("axes")
        days = pd.DatetimeIndex(axes["days"])
        begin = 0 if first is None else int(days.searchsorted(first, side="right"))
        at = slice(begin, None if last is None else int(days.searchsorted(last, side="right")))
        values = np.load(file, mmap_mode="r")[at]
        if name == "market":
            names = [f"market {i}" for i in range(values.shape[1])]
            return Grid(values[:, None, :], days[at].to_numpy(), np.array(["(all)"], dtype=object), names)
        if name == "exposures":
            return Grid(values, days[at].to_numpy(), axes["stocks"], self.result("exposures"))
        names = {"x": axes["features"], "labels": axes["horizons"]}.get(name, [name])
        return Grid(values, days[at].to_numpy(), axes["stocks"], names)


# --- one replay


def work_alone(path: str) -> None:
    """Run a pickled replay in a fresh process, repeatably."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    _work(pd.read_pickle(path))


def _work(replay: Replay) -> None:
    """Build, train and score a workflow on the replay's provider, and leave in its folder what is to be compared."""
    folder, uri = replay.folder, str(replay.provider)
    init = copy.deepcopy(replay.config["qlib_init"])
    own = init.get("provider_uri")
    init["provider_uri"] = dict.fromkeys(own, uri) if isinstance(own, dict) else uri
    init["exp_manager"] = {
        "class": "SqliteExpManager",
        "module_path": "qlib_ext.recorder",
        "kwargs": {"uri": f"sqlite:///{folder}/mlruns.db", "default_exp_name": "check_leak"},
    }
    qlib.init(**init | {"expression_cache": None, "dataset_cache": None})
    task = copy.deepcopy(replay.config["task"])
    dataset = init_instance_by_config(task["dataset"], accept_types=Dataset)
    panel, _, rows = panel_of(dataset)
    if isinstance(dataset, DayDatasetH) and dataset.span.reach != replay.reach:
        raise ValueError(
            f"the label reaches {dataset.span.reach} days, read from the configuration was {replay.reach}: "
            "give the dataset's kwargs a label (its expression)"
        )
    if replay.past is not None:
        _, forecast = _forecast(task, dataset, past=pd.read_pickle(replay.past / "past.pkl"))
        (folder / "forecast.pkl").write_bytes(pickle.dumps(forecast))
        return
    if replay.cutoff is not None:
        _save_panel(panel, replay.cutoff, folder)
        if replay.like is None:
            entry = dataset.span.entry if isinstance(dataset, DayDatasetH) else 0
            (folder / "good.pkl").write_bytes(pickle.dumps(_good(panel, rows("train"), entry)))
    model = init_instance_by_config(_shortened(task["model"], replay.epochs), accept_types=BaseModel)
    auto_filter_kwargs(model.fit)(dataset, reweighter=task.get("reweighter"))
    score = _as_series(model.predict(dataset))
    if replay.cutoff is None:
        used = [rows(name) for name in dataset.segments if name in ("train", "valid", "test")]
        (folder / "ic.pkl").write_bytes(pickle.dumps(_ic(panel, np.unique(np.concatenate(used)), rows("test"), score)))
        return
    _save_exposures(panel, replay.cutoff, folder)
    like = None if replay.like is None else pd.read_pickle(replay.like / "past.pkl")
    past, forecast = _forecast(task, dataset, model=model, like=like)
    for name, value in (("score", score), ("past", past), ("forecast", forecast)):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    if replay.like is not None:
        score = _steady(score, pd.read_pickle(replay.like / "score.pkl"))
    (folder / "trade.pkl").write_bytes(pickle.dumps(_trade(task, model, dataset, score, forecast, replay.cutoff)))


def _forecast(
    task: dict[str, Any],
    dataset: Any,
    *,
    past: pd.Series | None = None,
    model: Any = None,
    like: pd.Series | None = None,
) -> Any:
    """Scores of past days, and the forecasts that the workflow's ForecastRecord learns of them; None where it has none.

    Args:
        task: the workflow's.
        dataset: built.
        past: the scores; None: those of the record and its model.
        model: trained.
        like: scores of another replay, which stand for those that agree with them but for rounding.
    """
    records = [record for record in Task(task).records if class_name(record) == "ForecastRecord"]
    if not records:
        return None, None
    objects = {"model": model, "dataset": dataset}
    record = init_instance_by_config(records[0], try_kwargs=objects, recorder=None)
    past = record.past() if past is None else past
    past = past if past is None or like is None else _steady(past, like)
    return past, ForecastSchedule.read(record.learn(past)).to_list()


def _shortened(model: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    """Return a model configuration with at most `epochs` epochs, in float32, members of an ensemble included."""
    out = copy.deepcopy(model)
    kwargs = out["kwargs"] = dict(out.get("kwargs") or {})
    for name, value in kwargs.items():
        if isinstance(value, dict) and "class" in value:
            kwargs[name] = _shortened(value, epochs)
        elif name == "members":
            kwargs[name] = [_shortened(one, epochs) if isinstance(one, dict) else one for one in value]
    kind = get_callable_kwargs({"module_path": MEMBERS, **out})[0]
    day_model = issubclass(kind, DayModel)
    if hasattr(kind, "checkpoint"):
        kwargs.pop("checkpoint", None)  # the user's own, of another training
    if day_model:
        kwargs["precision"] = "float32"
    for name in EPOCH_NAMES:
        if epochs and (name in kwargs or (day_model and name == "epochs")):
            kwargs[name] = min(int(kwargs.get(name, epochs)), epochs)
    return out


def _as_series(score: Any) -> pd.Series:
    """Return scores as a series by (datetime, instrument), sorted."""
    return check_scores(score, "the model's prediction").rename("score").astype(np.float64)


def _save_panel(panel: DayPanel, cutoff: pd.Timestamp, folder: Path) -> None:
    """Save the grids up to BEYOND days after the cutoff."""
    last = int(pd.DatetimeIndex(panel.days).searchsorted(cutoff, side="right")) + BEYOND
    for name in GRIDS:
        value = getattr(panel, name)
        if isinstance(value, torch.Tensor):
            np.save(folder / f"{name}.npy", value[:last].cpu().numpy())
    axes = {"days": panel.days[:last], "stocks": panel.stocks, "features": panel.features}
    axes["horizons"] = [f"{days} days" for days in panel.horizons]
    (folder / "axes.pkl").write_bytes(pickle.dumps(axes))


def _save_exposures(panel: DayPanel, cutoff: pd.Timestamp, folder: Path) -> None:
    """Save the exposures that training and scores asked for, and the user's own, as `_save_panel` does the grids."""
    wanted = [*dict.fromkeys([*panel.loads, *getattr(panel.source, "columns", ())])]
    if not wanted:
        return
    last = int(pd.DatetimeIndex(panel.days).searchsorted(cutoff, side="right")) + BEYOND
    np.save(folder / "exposures.npy", panel.exposures(wanted, range(min(last, len(panel.days)))).cpu().numpy())
    names = [f"{name}={kind}" if kind else name for name in wanted for kind in panel.loads[name].categories or ("",)]
    (folder / "exposures.pkl").write_bytes(pickle.dumps(names))


def _ic(panel: DayPanel, rows: Rows, test: Rows, score: pd.Series) -> dict[str, Any]:
    """Daily IC of the scores over `test` and of each feature over `rows`."""
    label = panel.label[torch.as_tensor(test)].numpy()
    daily = daily_metrics(grid_of(score, panel.days[test], panel.stocks), label, names=["ic"])
    grids = (grid[torch.as_tensor(rows)].numpy() for grid in (panel.x, panel.label, panel.present))
    return {"scores": daily["ic"].to_numpy(), "features": feature_ic(*grids), "names": panel.features}


def _good(panel: DayPanel, rows: Rows, entry: int) -> dict[str, Any]:
    """Daily IC (D, F) of each feature over training days, with the label and with the return of the next day."""
    label = panel.label.numpy()
    later = {"the label": label[rows]}
    if panel.step_return is not None and entry:
        next_day = np.full(label.shape, np.nan)
        next_day[entry:] = panel.step_return[:-entry].numpy()
        later["the return of the next day"] = next_day[rows]
    x, present = panel.x[torch.as_tensor(rows)].numpy(), panel.present[torch.as_tensor(rows)].numpy()
    return {what: feature_ic(x, returns, present) for what, returns in later.items()}


def _steady(score: pd.Series, like: pd.Series) -> pd.Series:
    """Return the scores with those of another replay wherever both agree but for rounding."""
    other = like.reindex(score.index)
    near = (score - other).abs() <= SCORE_TOLERANCE * (like.abs().mean() + other.abs())
    return score.where(~near, other)


def _trade(
    task: dict[str, Any], model: Any, dataset: Any, score: pd.Series, forecast: Any, cutoff: pd.Timestamp
) -> Any:
    """Run the workflow's backtest to some days past the cutoff; return orders and positions up to it, or None."""
    records = Task(task).trading_records
    if not records:
        return None
    objects = {"model": model, "dataset": dataset}
    config, home = records[0], "qlib.workflow.record_temp"
    record = init_instance_by_config(config, default_module=home, try_kwargs=objects, recorder=None)
    filled = {"<PRED>": score.to_frame("score"), "<MODEL>": model, "<DATASET>": dataset}
    if names_class(record.strategy_config, "CostAwareStrategy"):
        options = record.strategy_config["kwargs"]
        if options.get("forecast") in (None, "<FORECAST>"):
            options["forecast"] = forecast
    strategy, executor = (fill_placeholder(c, filled) for c in (record.strategy_config, record.executor_config))
    options = dict(record.backtest_config)
    calendar = pd.DatetimeIndex(D.calendar())
    place = int(calendar.searchsorted(cutoff, side="right")) - 1
    end = min(calendar[min(place + BEYOND, len(calendar) - 2)], pd.Timestamp(options["end_time"] or calendar[-1]))
    start = pd.Timestamp(options["start_time"] or score.index[0][0])
    if start > cutoff:
        return None
    options |= {"start_time": start, "end_time": end}
    portfolio, indicators = backtest(strategy=strategy, executor=executor, **options)
    orders = [by_day for _, every in indicators.values() for by_day in every.order_indicator_his.items()]
    held = [by_day for _, positions in portfolio.values() for by_day in positions.items()]
    return {"orders": _until(cutoff, orders, _ordered), "positions": _until(cutoff, held, _held)}


def _ordered(indicator: Any) -> dict[str, float]:
    """Ordered amounts of a day by stock, sells negative (qlib's own series fails on pandas 3)."""
    amount = indicator.get_index_data("amount")
    return dict(zip(amount.index.tolist(), np.atleast_1d(amount.data).tolist(), strict=True))


def _held(position: Any) -> dict[str, float]:
    return {**position.get_stock_amount_dict(), "cash": position.get_cash()}


def _until(cutoff: pd.Timestamp, days: list[tuple[Any, Any]], amounts: Callable[[Any], dict[str, float]]) -> pd.Series:
    """Amounts by (datetime, instrument) of the days up to the cutoff."""
    values = {(day, code): x for day, of_day in days if day <= cutoff for code, x in amounts(of_day).items()}
    index = pd.MultiIndex.from_tuples(list(values), names=["datetime", "instrument"]) if values else None
    return pd.Series(list(values.values()), index=index, dtype=np.float64)


# --- two replays


def compare_replays(
    old: Replay,
    new: Replay,
    cutoff: pd.Timestamp,
    days: pd.DatetimeIndex,
    known: Replay | None = None,
    files: OwnFiles | None = None,
    horizon: int = 1,
) -> list[Finding]:
    """Compare all that two replays left up to their cutoff.

    Args:
        old: before the perturbation.
        new: after it.
        cutoff: last day that is as it was.
        days: the calendar's days up to it.
        known: forecast on a market that is perturbed from the first test day on; None: the workflow has none.
        files: of the user's own that were changed too; None: none.
        horizon: days of a label.
    """
    findings = []
    for name, (item, fill) in GRIDS.items():
        last = days[-1 - old.reach] if name in ("label", "labels") else cutoff
        a, b = old.grid(name, last), new.grid(name, last)
        if a is not None and b is not None:
            if name == "exposures":  # a category may be of one side only
                every = list(dict.fromkeys([*a.names, *b.names]))
                a, b = a.columns(every), b.columns(every)
            findings.append(compare("future", item, a, b, fill=fill, note=f"up to {last.date()}"))
        elif (a is None) != (b is None):
            findings.append(Finding("future", item, 0, 1, False, "there on one side only"))
    findings += [_reached(old, new), *_own_files(old, new, files or OwnFiles(old.config))]
    findings.append(judge_good(old.result("good"), old.result("axes")["features"], horizon))
    a, b = (Grid.of_series(replay.early_score(), "score") for replay in (old, new))
    findings.append(compare("future", "scores", a, b, tolerance=SCORE_TOLERANCE))
    findings.append(_compare_yuan(old, new))
    findings.append(_compare_forecasts(old, new, known, cutoff))
    trades = [replay.result("trade") for replay in (old, new)]
    for name in ("orders", "positions"):
        if trades[0] is None or trades[1] is None:
            why = "not checked: the workflow has no PortAnaRecord whose backtest starts by then"
            findings.append(Finding("future", name, 0, 0, True, why))
        else:
            grids = [Grid.of_series(trade[name], name) for trade in trades]
            findings.append(compare("future", name, *grids, fill=0.0, note="none" if not len(grids[0].days) else ""))
    return findings


def _compare_forecasts(old: Replay, new: Replay, known: Replay | None, cutoff: pd.Timestamp) -> Finding:
    """Compare the forecast with that of the same scores on a market perturbed from the first test day on.

    Those of a walk-forward's later blocks that begin by the day after the cutoff, with those of the other replay.
    """
    if known is None:
        return Finding(
            "future",
            "forecast",
            0,
            0,
            True,
            "not checked: the workflow has no ForecastRecord, or no scores of past days",
        )
    own, other, early = (replay.result("forecast") for replay in (old, new, known))
    later = [n for n, entry in enumerate(own) if n and pd.Timestamp(entry["from"]) <= cutoff + pd.Timedelta(days=1)]
    pairs = [("", own[0], early[0]), *((f"from {own[n]['from']}: ", own[n], other[n]) for n in later)]
    named = [(block + name, a[name], b[name]) for block, a, b in pairs for name in a if name != "from"]
    differ = [name for name, a, b in named if not _same(a, b)]
    ends = ", ".join(entry["last"] for entry in (own[n] for n in (0, *later)) if entry["last"])
    last = f"its last return ends on {ends}" if ends else "it knows no return"
    where = "the test segment" if len(own) == 1 else "days for which it holds"
    text = f"{', '.join(differ)} changed: a return that ends in {where} is known" if differ else last
    return Finding("future", "forecast", len(named), len(differ), not differ, text)


def _same(value: Any, other: Any) -> bool:
    """Whether two values of a forecast agree but for the rounding of sums."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE**2)
    return bool(value == other)


def _reached(
    old: Replay, new: Replay, item: str = "perturbation arrives", names: Collection[str] | None = None, grid: str = "x"
) -> Finding:
    """Judge whether the features of the days after the cutoff changed at all; without that nothing is proved.

    `names`: of the features that are looked at (of the grid "market": the last so many); None: all.
    """
    a, b = (replay.grid(grid, None, replay.cutoff) for replay in (old, new))
    if a is not None and b is not None and names is not None:
        of = a.names[-len(names) :] if grid == "market" else [n for n in a.names if n.partition("=")[0] in names]
        a, b = a.columns(of), b.columns(of)
    share = changed_share(a, b) if a is not None and b is not None else 0.0
    cells = 0 if a is None else int(np.prod(a.values.shape))
    text = f"{share:.1%} of the features of the next days changed, as they should"
    if not share:
        why = "the features do not come from the provider" if names is None else "its values end before"
        text = f"nothing after the day changed either: {why}, nothing is proved"
    return Finding("future", item, cells, 0, share > 0, text, proves=share > 0)


def _own_files(old: Replay, new: Replay, files: OwnFiles) -> list[Finding]:
    """Judge whether the changed copies of the user's own files arrived, and tell the lags that they are taken with."""
    out = []
    if files.lags:
        same = [name for name, lag in files.lags.items() if lag == 0]
        told = ", ".join(f"{name} {lag}" for name, lag in files.lags.items())
        told += (
            f"; lag 0 is for what is computed of bars up to the close of its date: {', '.join(same)}" if same else ""
        )
        one = _reached(old, new, "factor files", files.lags)
        out.append(replace(one, detail=f"{one.detail}. Lags, which no file proves: {told}"))
    if files.exposures:
        dated = [name for name, has_dates in files.exposures.items() if has_dates]
        undated = ", ".join(name for name in files.exposures if name not in dated)
        text = f"taken as known on all days, as without dates: {undated}; is it what was known then?" if undated else ""
        one = Finding("future", "exposure files", 0, 0, True, text)
        if dated:
            one = _reached(old, new, "exposure files", dated, "exposures")
        out.append(replace(one, detail=f"{one.detail}. {text}" if dated and text else one.detail))
    if files.macro:
        out.append(_reached(old, new, "macro files", files.macro, "market"))
    return out


def _compare_yuan(old: Replay, new: Replay) -> Finding:
    """Compare the yuan that `fill_top_n` places by the scores of both replays, with the strategy's options."""
    liquidity = [grid for replay in (old, new) if (grid := replay.grid("liquidity", replay.cutoff)) is not None]
    if len(liquidity) < 2:
        return Finding("future", "target yuan", 0, 0, True, "not checked: the dataset has no liquidity")
    chosen = Task(old.config["task"]).strategy or {}
    capital, share = chosen.get("capital") or CAPITAL, chosen.get("participation") or PARTICIPATION
    placed = []
    for score, grid in zip(
        (old.early_score(), _steady(new.early_score(), old.result("score"))), liquidity, strict=True
    ):
        own = Grid.of_series(score, "score")
        yuan = pd.DataFrame(grid.values, pd.DatetimeIndex(grid.days), grid.stocks).reindex(own.days, columns=own.stocks)
        caps = np.nan_to_num(yuan.to_numpy(float))
        target = fill_top_n(own.values, caps, top_n=chosen.get("top_n"), capital=capital, participation=share)
        placed.append(Grid(np.asarray(target), own.days, own.stocks, ["yuan"]))
    return compare("future", "target yuan", *placed, fill=0.0, note=f"{capital:,.0f} yuan a day")
