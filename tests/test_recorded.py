"""Runs recorded by version 0.1.0, before its modules moved, open in `report`, `compare` and `orders`.

`recorded/runs_of_0_1_0.tar.xz` holds what that version left in a folder: `mlruns.db`, the artifacts of a FoldEnsemble
of MASTER and of an MLPModel (`a.yaml`, `b.yaml`), and what its `compare` and `orders` then printed (`expected/`). The
market is made anew from its seed.
"""

import io
import sqlite3
import tarfile
import warnings
from pathlib import Path

import pandas as pd
import pytest
import qlib

from qlib_ext import cli
from qlib_ext.runs import find_run, load_artifacts
from qlib_ext.synthetic import make_market

ARCHIVE = Path(__file__).parent / "recorded" / "runs_of_0_1_0.tar.xz"
HOME = "/tmp/recorded"  # where they were recorded
pytestmark = pytest.mark.skipif(
    pd.__version__ < "3", reason="the runs were recorded with pandas 3: pandas 2 reads no pickle of it"
)
REDEFINED = (".annual_return", ".sharpe")  # sums of daily returns now, and mean over deviation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of that day: database, artifacts and market."""
    folder = tmp_path_factory.mktemp("recorded")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    with sqlite3.connect(folder / "mlruns.db") as database:
        database.execute("update runs set artifact_uri = replace(artifact_uri, ?, ?)", (HOME, str(folder)))
        database.execute(
            "update experiments set artifact_location = replace(artifact_location, ?, ?)", (HOME, str(folder))
        )
    with pytest.MonkeyPatch.context() as patch:  # the market of that version had no slow signal
        for constant in ("SLOW_SHARE", "TRACE_VOLUME"):
            patch.setattr(f"qlib_ext.synthetic.process.{constant}", 0.0)
        make_market(folder / "market", n_stocks=20, start="2020-01-02", years=0.6, seed=3)
    return folder


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_compare_says_what_it_said(there, capsys):
    assert cli.main(["compare", "master_liq_hvkfold", "mlp_liq", "--trust"]) == 0
    said, expected = (
        [line for line in text.splitlines() if not any(name in line for name in REDEFINED)]
        for text in (capsys.readouterr().out, (there / "expected" / "compare.txt").read_text())
    )
    assert said == expected and len(said) > 10


@pytest.mark.parametrize("run", ["master_liq_hvkfold", "mlp_liq"])
def test_the_page_is_written_anew(there, run):
    assert cli.main(["report", run, "--out", f"{run}.html", "--trust"]) == 0
    page = (there / f"{run}.html").read_text()
    assert "0.1.0" in page and len(page) > 2_000_000
    sections = ("headline", "quantiles", "backtest", "waterfall", "capacity", *(["folds"] if "fold" in run else []))
    assert all(f'id="{name}"' in page for name in sections)
    of_then = (
        "annual_return / annual_volatility, as the deck has it",
        "年化收益 / 年化波动率，按幻灯片口径",
        "252 / 天数",
    )
    assert all(words in page for words in of_then)  # what the numbers meant that were recorded, in both languages


def test_orders_are_those_of_that_day(there):
    qlib.init(provider_uri=str(there / "market"), region="cn")
    order = ["orders", "mlp_liq", "--capital", "1500000", "--provider-uri", "market"]
    assert cli.main([*order, "--out", "o.csv", "--trust"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv("o.csv"), pd.read_csv("expected/orders.csv"), rtol=1e-9)


@pytest.mark.parametrize(
    "command",
    [
        ["report"],
        ["show"],
        ["show", "--table", "headline"],
        ["compare", "master_liq_hvkfold"],
        ["orders", "--capital", "1e6"],
    ],
)
def test_without_trust_their_pickles_are_not_read(there, capsys, command):
    assert cli.main([command[0], "mlp_liq", *command[1:]]) == 2
    said = capsys.readouterr().err
    assert "--trust" in said


def test_show_sums_up_and_prints_tables(there, capsys):
    assert cli.main(["show", "mlp_liq", "--trust"]) == 0
    said = capsys.readouterr().out
    assert "After all costs" in said or "What the money made" in said
    assert "  IC  " in said and "headline" in said and "execution.performance" in said
    assert cli.main(["show", "mlp_liq", "--table", "headline", "--trust"]) == 0
    said = capsys.readouterr().out
    assert "capped_buyable_net_impact" in said and "\n  annual_return: " in said
    assert cli.main(["show", "mlp_liq", "--table", "headline", "--csv", "--trust"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), index_col=0)
    kept = load_artifacts(find_run("mlp_liq"), ["liquidity_analysis/headline.pkl"], trust=True)
    pd.testing.assert_frame_equal(table, kept["liquidity_analysis/headline.pkl"], check_names=False)
    assert cli.main(["show", "mlp_liq", "--log"]) == 2 and "has no run.log" in capsys.readouterr().err


def test_models_and_datasets_come_out_of_their_pickles(there):
    run = find_run("master_liq_hvkfold")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = load_artifacts(run, ["params.pkl", "dataset"], trust=True)
    assert type(found["params.pkl"]).__name__ == "FoldEnsemble" and len(found["params.pkl"].models) == 2
    assert type(found["dataset"]).__name__ == "DayDatasetH"
