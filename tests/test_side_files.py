"""Names, spells of special treatment and industries beside the bars: picked up where they are, told, and overruled."""

import shutil

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.data.dataset.handler import DataHandlerLP
from report_page import embedded

from qlib_ext.data import DayDatasetH
from qlib_ext.exchange import AShareExchange
from qlib_ext.portfolio import Forecast
from qlib_ext.provider import own_names, own_side_file, side_file
from qlib_ext.record import context_of, run_facts
from qlib_ext.report import report_html
from qlib_ext.strategy import CostAwareStrategy, ScoredRun, plan_orders, read_holdings
from qlib_ext.synthetic import make_market

SEGMENTS = {
    "train": ("2020-03-02", "2020-06-30"),
    "valid": ("2020-07-01", "2020-08-31"),
    "test": ("2020-09-01", "2020-11-30"),
}
FORECAST = Forecast(places=(0.02, 0.98), levels=(-0.004, 0.004), half_lives=(10.0,), significant=True, days=100)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Two twins, of which one has side files."""
    folder = tmp_path_factory.mktemp("side")
    return [make_market(folder / name, n_stocks=40, years=1) for name in ("bare", "rich")]


@pytest.fixture
def rich(market):
    """All stocks but two are under special treatment for half a year; qlib is started on them."""
    side, codes = market[1] / "qlib_ext", codes_of(market[1])
    side.mkdir(exist_ok=True)
    (side / "st.csv").write_text("code,start,end\n" + "".join(f"{code},2020-06-01,\n" for code in codes[2:]))
    (side / "names.csv").write_text("code,name\n" + "".join(f"{code},股票{n}\n" for n, code in enumerate(codes)))
    (side / "industry.csv").write_text(
        "code,industry\n" + "".join(f"{c},{'银行' if n % 2 else '电子'}\n" for n, c in enumerate(codes))
    )
    start(market[1])
    return market[1]


def start(folder):
    qlib.init(provider_uri=str(folder), region="cn", kernels=1)


def codes_of(folder):
    return sorted({line.split("\t")[0] for line in (folder / "instruments/all.txt").read_text().splitlines()})


def made(**options):
    config = {"feature": (["$high/$low - 1"], ["RANGE"]), "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["L"])}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": config}}
    handler = DataHandlerLP(instruments="all", start_time="2020-03-02", end_time="2020-11-30", data_loader=loader)
    return DayDatasetH(handler, SEGMENTS, **options)


def exchange(**options):
    return AShareExchange(start_time="2020-07-01", end_time="2020-08-31", codes="all", **options)


def locked(dealer):
    return dealer.quote_df["limit_buy"].to_numpy(dtype=bool)


def test_without_them_nothing_changes(market):
    start(market[0])
    assert own_side_file("st") is None and own_names() == {} and side_file(market[0], "names") is None
    dataset = made()
    assert dataset.spells is None and "industry" not in dataset.exposure_source().names
    assert not {"side_files", "names"} & set(run_facts(dataset, None))
    with pytest.raises(ValueError, match="no 'ST'; allowed: names, st, industry"):
        side_file(market[0], "ST")


def test_data_set_and_exchange_know_the_spells(rich):
    file = rich / "qlib_ext/st.csv"
    found, named, none = made(), made(st=str(file)), made(st=False)
    assert (found.panel.buyable == named.panel.buyable).all()
    assert (found.panel.buyable != none.panel.buyable).any()
    assert found.spells == file and none.spells is None
    by_itself, by_name, without = exchange(), exchange(st=str(file)), exchange(st=False)
    assert np.array_equal(locked(by_itself), locked(by_name)) and (locked(by_itself) != locked(without)).any()
    own = pd.DataFrame({"code": [codes_of(rich)[0]], "start": ["2020-01-02"], "end": [None]})
    assert exchange(st=own).options.spells is own  # an explicit one wins


def test_the_log_tells_of_them_once(rich, tmp_path, capfd):
    twin = shutil.copytree(rich, tmp_path / "twin")
    start(twin)
    for _ in range(2):
        made(), exchange()
    told = sorted(line.split("] - ")[-1] for line in capfd.readouterr().err.splitlines() if "lies beside" in line)
    assert told == [f"{twin}/qlib_ext/{name}.csv is used, which lies beside the bars" for name in ("industry", "st")]


def test_industry_is_an_exposure(rich):
    dataset = made()
    assert "industry" in dataset.exposure_source().names
    source = dataset.exposure_source()(dataset.panel, ["industry"])["industry"]
    assert source.categories == ("电子", "银行") and dataset.panel.exposures(["industry"]).shape[2] == 2
    own = pd.DataFrame({"industry": ["x"] * 40}, index=codes_of(rich))
    assert made(exposures=own).exposure_source()(dataset.panel, ["industry"])["industry"].categories == ("x",)
    index = pd.MultiIndex.from_product([dataset.panel.days[-3:], codes_of(rich)], names=["datetime", "instrument"])
    strategy = CostAwareStrategy(signal=pd.Series(0.0, index), forecast=FORECAST, exposures={"industry": 0.02})
    assert set(strategy.bounds) == {"industry"}
    (rich / "qlib_ext/industry.csv").write_text(
        "code,industry,start\nSH600000,银行,2020-01-01\nSH600000,电子,2020-07-01\n"
    )
    grid = made().exposure_source().columns["industry"]["SH600000"]
    assert grid.loc["2020-01-01"] == "银行" and grid.loc["2020-07-01"] == "电子"


def test_orders_and_page_have_the_names(rich):
    dataset = made()
    index = pd.MultiIndex.from_product(
        [dataset.panel.days[-3:], dataset.panel.stocks], names=["datetime", "instrument"]
    )
    run = ScoredRun("demo", pd.Series(np.arange(len(index)), index, dtype=float), task={}, qlib_init={})
    orders = plan_orders(run, read_holdings(None), capital=1e6)
    assert list(orders.columns[:4]) == ["date", "signal_date", "code", "name"]
    assert orders["name"].tolist() == [own_names()[code] for code in orders["code"]]
    facts = run_facts(dataset, None)
    assert facts["side_files"] == {name: str(rich / f"qlib_ext/{name}.csv") for name in ("names", "st", "industry")}
    context = context_of({}, {}, {"experiment": "x"}, provider=str(rich), facts=facts)
    assert "names, st, industry" in [value for _, value in context.facts]
    code = codes_of(rich)[3]
    held = pd.DataFrame(
        {"yuan": [1e6], "weight": [0.1], "participation": [0.01]},
        pd.MultiIndex.from_tuples([(dataset.panel.days[5], code)], names=["datetime", "instrument"]),
    )
    page = report_html({"liquidity_analysis/positions.pkl": held}, context)
    assert embedded(page, "json-holdings")["codes"] == [f"{code} 股票3"]
