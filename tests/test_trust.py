"""What a run keeps comes back without unpickling, exactly; and what a stranger's run names is not run."""

import datetime
import os
import pickle

import numpy as np
import pandas as pd
import pytest

from qlib_ext import cli
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import CURE, PLAN, find_run, load_artifacts
from qlib_ext.strategy import read_run

DAYS = pd.bdate_range("2022-01-04", periods=3, name="datetime")
PAIRS = pd.MultiIndex.from_product([DAYS, ["SH600000", "SZ000001"]], names=["datetime", "instrument"])
TABLES = {
    "scores": pd.DataFrame({"score": np.arange(6, dtype="float32")}, PAIRS),
    "holes": pd.DataFrame({"a": [1.0, np.nan, -np.inf], "n": [1, 2, 3], "yes": [True, False, True]}, DAYS),
    "numbered columns": pd.DataFrame(np.eye(3), DAYS, [1, 2, 3]),
    "columns of two levels": pd.DataFrame(np.eye(2), columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
    "columns of days": pd.DataFrame(np.eye(3), columns=DAYS),
    "categories": pd.DataFrame({"part": pd.Categorical(["valid", "train"], ["train", "valid", "test"], ordered=True)}),
    "texts": pd.DataFrame({"a": ["x", None, "z"], "b": pd.Series(["x", "y", "z"], dtype=object)}),
    "anything": pd.DataFrame({"what": pd.Series([1, "a", None, (1, 2), {"b": DAYS[0]}], dtype=object)}),
    "times": pd.DataFrame({"ns": DAYS.astype("datetime64[ns]"), "zone": DAYS.tz_localize("Asia/Shanghai")}),
    "no rows": pd.DataFrame({"day": pd.Series([], dtype="datetime64[ns]"), "code": pd.Series([], dtype=object)}),
    "no rows of two levels": pd.DataFrame(columns=["cut"], index=pd.MultiIndex.from_arrays([[], []], names=["a", "b"])),
    "nothing": pd.DataFrame(),
}
SERIES = {"named": pd.Series([0.1, 0.2, 0.3], DAYS, name="score"), "nameless": pd.Series(["a", "b"])}
FACTS = {
    "days": {"train": ("2020-01-02", "2021-12-31", 480)},
    "seeds": [np.int64(3), 4],
    "zero": {1e7: float("nan"), "never": float("inf"), "$kind": None},
    "when": [pd.Timestamp("2022-01-04 15:00"), datetime.date(2022, 1, 4), pd.NaT, pd.Timedelta("2D")],
}


class Own:
    """An object of a user's own."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(uri, folder) of a finished run with all of the above."""
    place = tmp_path_factory.mktemp("kept")
    uri = f"sqlite:///{place}/mlruns.db"
    recorder = SqliteExpManager(uri, "kept").get_exp(experiment_name="kept", create=True).create_recorder("kept")
    recorder.start_run()
    for name, table in TABLES.items():
        table.attrs = {"definitions": {"mean": "over days"}, "unsent": True}
        recorder.save_objects(artifact_path="tables", **{f"{name}.pkl": table})
    recorder.save_objects(**{f"{name}.pkl": series for name, series in SERIES.items()})
    frames = {name: TABLES[name] for name in ("scores", "no rows")}
    recorder.save_objects(**{"facts.pkl": FACTS, "execution.pkl": frames, "text.pkl": "nothing was selected"})
    task = {"model": {"kwargs": {"loss": Own(), "metric": Own}}, "dataset": {"class": "DayDatasetH"}}
    recorder.save_objects(**{"task": task, "params.pkl": Own(), "objects.pkl": {"a": Own()}})
    recorder.end_run("FINISHED")
    return uri, place / "mlruns" / "kept" / recorder.id / "artifacts"


def same(there, back):
    if isinstance(there, pd.DataFrame):
        pd.testing.assert_frame_equal(back, there, check_freq=False, check_column_type="equiv")
    else:
        pd.testing.assert_series_equal(back, there, check_freq=False)
    assert back.attrs == there.attrs


@pytest.mark.parametrize("name", TABLES)
def test_a_table_comes_back_as_it_was(kept, name):
    path = f"tables/{name}.pkl"
    same(TABLES[name], load_artifacts(find_run("latest", uri=kept[0]), [path])[path])


@pytest.mark.parametrize("name", SERIES)
def test_a_series_comes_back_as_it_was(kept, name):
    same(SERIES[name], load_artifacts(find_run("latest", uri=kept[0]), [f"{name}.pkl"])[f"{name}.pkl"])


def test_facts_texts_and_dicts_of_tables_come_back_as_they_were(kept):
    back = load_artifacts(find_run("latest", uri=kept[0]), ["facts.pkl", "execution.pkl", "text.pkl", "none.pkl"])
    assert repr(back["facts.pkl"]) == repr({**FACTS, "seeds": [3, 4]}) and back["text.pkl"] == "nothing was selected"
    assert list(back) == ["facts.pkl", "execution.pkl", "text.pkl"]
    for name, table in back["execution.pkl"].items():
        same(TABLES[name], table)


def test_a_task_tells_objects_by_their_class(kept):
    model = load_artifacts(find_run("latest", uri=kept[0]), ["task"])["task"]["model"]["kwargs"]
    assert model["metric"] == f"{__name__}.Own" and f"<{__name__}.Own: an object, only in the pickle" in repr(model)


@pytest.mark.parametrize("path", ["params.pkl", "objects.pkl"])
def test_an_object_has_no_twin(kept, path):
    with pytest.raises(ValueError, match=rf"{path} is a pickle without a twin .* add --trust \(trust=True\)"):
        load_artifacts(find_run("latest", uri=kept[0]), [path])


def test_a_pickle_that_was_written_anew_is_not_taken_for_its_twin(kept):
    uri, folder = kept
    file = folder / "named.pkl"
    whole = file.read_bytes()
    try:
        file.write_bytes(pickle.dumps(SERIES["named"] * 2))
        with pytest.raises(ValueError, match=r"named\.pkl is a pickle that named\.parquet is not of"):
            load_artifacts(find_run("latest", uri=uri), ["named.pkl"])
    finally:
        file.write_bytes(whole)


def test_a_damaged_twin_is_named(kept, tmp_path):
    run = find_run("latest", uri=kept[0])
    for name in ("nameless.parquet", "facts.json"):
        file = kept[1] / name
        whole = file.read_bytes()
        for broken in (whole[:-9], b"", b"{}", b"[1, 2]", whole.replace(b"$time", b"$thyme"), b"PAR1" * 9):
            if broken == whole:
                continue
            file.write_bytes(broken)
            with pytest.raises(ValueError, match=f"{name} cannot be read|is not of"):
                load_artifacts(run, [name.partition(".")[0] + ".pkl"])
        file.write_bytes(whole)


# --- strangers


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


EVIL = {"class": "mkdir", "module_path": "os", "kwargs": {"path": "evil"}}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Keep a run of a stranger in the folder to stand in."""
    monkeypatch.chdir(tmp_path)
    experiment = SqliteExpManager("sqlite:///mlruns.db", "sent").get_exp(experiment_name="sent", create=True)

    def send(**artifacts):
        recorder = experiment.create_recorder("sent")
        recorder.start_run()
        recorder.save_objects(**{"pred.pkl": TABLES["scores"], "task": {}, **artifacts})
        recorder.save_objects(
            artifact_path="liquidity_analysis", **{"quantiles.pkl": pd.DataFrame(np.eye(3), DAYS, [1, 2, 3])}
        )
        recorder.end_run("FINISHED")
        return find_run(recorder.id).folder

    return send


@pytest.mark.parametrize("path", ["task", "config", "pred.pkl", "liquidity_analysis/daily.pkl", PLAN])
def test_a_pickle_that_runs_code_is_not_read(stranger, tmp_path, path, capsys):
    file = stranger() / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(Evil()))
    for command in (
        ["report", "latest"],
        ["compare", "a=latest", "b=latest"],
        ["orders", "latest", "--capital", "1e6"],
    ):
        cli.main(command)
        said = capsys.readouterr().err
        assert "Traceback" not in said and ("is a pickle" in said or path not in said)
    assert not (tmp_path / "evil").exists()
    with pytest.raises(ValueError, match="is a pickle"):
        load_artifacts(find_run("latest"), [path])
    load_artifacts(find_run("latest", trust=True), [path])
    assert (tmp_path / "evil").exists()


def test_sections_of_a_strangers_page_are_left_out(stranger, tmp_path, capsys):
    pytest.importorskip("plotly")
    folder = stranger(task={"record": [{"class": "ReportRecord", "kwargs": {"sections": [EVIL]}}]})
    assert cli.main(["report", "latest"]) == 0
    assert "1 sections of the run's own are left out" in capsys.readouterr().err
    assert (folder / "report.html").is_file() and not (tmp_path / "evil").exists()


def test_a_strangers_handler_is_not_imported(stranger, tmp_path):
    (tmp_path / "stolen.py").write_text("import os\nos.mkdir('evil')\n")
    for handler in (
        {"class": "A", "module_path": "stolen.py"},
        {"class": "stolen.A", "module_path": "qlib.data"},
        {"func": "stolen.A"},
        {"class": "A", "module_path": f"qlib_ext./../{tmp_path}/stolen.py"},
    ):
        stranger(task={"dataset": {"class": "DayDatasetH", "kwargs": {"handler": handler}}})
        assert cli.main(["report", "latest"]) == 0 and not (tmp_path / "evil").exists()


def traded(exchange=None, **strategy):
    """A task whose record trades."""
    dealt = {"exchange": {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": exchange or {}}}
    chosen = {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy", "kwargs": strategy}
    config = {"strategy": chosen, "backtest": {"exchange_kwargs": dealt}}
    return {"record": [{"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"config": config}}]}


@pytest.mark.parametrize(
    ("artifacts", "place"),
    [
        ({"config": {"qlib_init": {"custom_ops": [EVIL]}}}, "custom_ops"),
        ({"config": {"qlib_init": {"calendar_provider": EVIL}}}, "calendar_provider"),
        ({"config": {"qlib_init": {"provider": "stolen.Provider"}}}, "provider"),
        ({"task": traded({"impact": EVIL})}, "exchange.impact"),
        ({"task": traded({"impact": Own()})}, "exchange.impact"),
        ({"task": traded(liquidity="Mean($amount, 5)")}, "strategy.liquidity"),
        ({"task": traded(liquidity="__import__('os').mkdir('evil') or $amount")}, "strategy.liquidity"),
    ],
)
def test_orders_run_no_code_that_a_run_names(stranger, artifacts, place):
    stranger(**artifacts)
    with pytest.raises(ValueError, match=f"the run's .*{place} ?.*, code that it would run: ") as caught:
        read_run("latest")
    assert CURE in str(caught.value)


def test_orders_take_what_is_plain(stranger):
    ours = {"class": "DemoCalendarProvider", "module_path": "qlib_ext.recorder"}
    options = {
        "provider_uri": "~/data",
        "region": "cn",
        "calendar_provider": ours,
        "logging_config": {"()": "os.mkdir"},
    }
    stranger(
        config={"qlib_init": options | {"exp_manager": EVIL}},
        task=traded({"impact": 0.5}, liquidity="$close / $factor * $volume * 1.0e0"),
    )
    run = read_run("latest")
    assert run.qlib_init == {name: options[name] for name in ("provider_uri", "region", "calendar_provider")}
    assert run.recorded_task.strategy["liquidity"].startswith("$close") and len(run.scores) == 6
