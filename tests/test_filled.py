"""Suspended days that a provider fills with the last price and volume 0 are as those that are NaN, everywhere."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.data.cache import H
from qlib.data.dataset.handler import DataHandlerLP

from qlib_ext.check_data import check_data
from qlib_ext.data import DayDatasetH, load_liquidity
from qlib_ext.exchange import AShareExchange, clear_cache
from qlib_ext.handler import FastDaily
from qlib_ext.provider import calendar, filled_days, only_traded
from qlib_ext.strategy import read_market
from qlib_ext.synthetic import make_market

PRICES, DEALT = ("open", "high", "low", "close", "vwap"), ("volume", "amount", "change")
LABELS = ("Ref($close, -2)/Ref($close, -1) - 1", "Ref($open, -4)/Ref($open, -1) - 1")
NAN = np.nan


def suspend(folder, fill):
    """Suspend every third stock on ten days, some to the last; NaN, or filled. Returns how many stock days it is."""
    count = 0
    for n, place in enumerate(sorted(p for p in (folder / "features").iterdir() if not p.name.startswith("sh000"))):
        series = {name: np.fromfile(place / f"{name}.day.bin", "<f4") for name in (*PRICES, *DEALT)}
        close = series["close"][1:]
        gap = np.isnan(close)
        if n % 3 == 0 and len(gap) > 160:
            gap[120 + n : 130 + n], gap[len(gap) - n % 2 :] = True, True
        gap[: n % 4 * 10] = True  # the fill reaches before the first trade
        count += int(gap.sum())
        last = pd.Series(np.where(gap, NAN, close)).ffill().bfill().to_numpy()
        for name, numbers in series.items():
            numbers[1:][gap] = (
                NAN if not fill else last[gap] if name in PRICES else 0.0 if n % 2 or name != "volume" else NAN
            )
            numbers.astype("<f4").tofile(place / f"{name}.day.bin")
    return count


def looked_at(folder):
    """All that is read of a market."""
    qlib.init(provider_uri=str(folder), region="cn", kernels=1)
    H.clear()
    clear_cache()
    days = calendar()
    out = SimpleNamespace(panels=[])
    for label in LABELS:
        handler = FastDaily(
            instruments="all", start_time=days[70], end_time=days[-6], infer_processors=[], learn_processors=[],
            label=([label], ["LABEL0"]), with_alpha158=True,
        )  # fmt: skip
        segments = {"train": [days[70], days[150]], "test": [days[160], days[-6]]}
        out.panels.append(DayDatasetH(handler, segments, step_len=4, listing_age=20).panel)
    config = {"feature": (["$close / Ref($close, 1)"], ["MOVE"]), "label": ([LABELS[0]], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "kwargs": {"config": config}}
    plain = DataHandlerLP("all", days[70], days[-6], data_loader=loader)  # qlib reads the filled prices itself
    out.plain = DayDatasetH(plain, segments, step_len=4, listing_age=20).panel
    codes = list(out.panels[0].stocks)
    out.liquidity = {p: load_liquidity(codes, days[60], days[-1], profile=p) for p in ("auto", "$amount * 1000")}
    out.rules = AShareExchange(start_time=days[100], end_time=days[-1], deal_price="open").day_rules
    out.market = read_market(codes, days[-1], days[-1] + pd.offsets.BDay(1), profile="auto", window=20)
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    base = make_market(tmp_path_factory.mktemp("filled") / "nan", n_stocks=30, years=1)
    filled = shutil.copytree(base, base.with_name("filled"))
    assert suspend(base, False) == (count := suspend(filled, True))
    return base, filled, count


@pytest.fixture(scope="module")
def seen(both):
    return looked_at(both[0]), looked_at(both[1])


def test_the_panels_are_equal_to_the_bit(seen):
    for wanted, made in zip(seen[0].panels, seen[1].panels, strict=True):
        assert (wanted.days == made.days).all() and (wanted.stocks == made.stocks).all()
        for name in ("x", "present", "label", "liquidity", "volatility", "buyable", "step_return"):
            left, right = getattr(wanted, name), getattr(made, name)
            assert (left is None) == (right is None), name
            if left is not None:
                np.testing.assert_array_equal(left.numpy(), right.numpy(), err_msg=name)


def test_labels_of_another_handler_are_equal(seen):
    for name in ("present", "label", "buyable"):
        np.testing.assert_array_equal(*(getattr(side.plain, name).numpy() for side in seen), err_msg=name)


def test_liquidity_exchange_and_orders_are_equal(seen):
    wanted, made = seen
    for profile in wanted.liquidity:
        pd.testing.assert_frame_equal(wanted.liquidity[profile], made.liquidity[profile])
    for name in ("suspended", "unknown_limit", "reference", "liquidity", "sigma", "last_close", "listed", "gone"):
        np.testing.assert_array_equal(getattr(wanted.rules, name), getattr(made.rules, name), err_msg=name)
    for name, grid in wanted.rules.data.items():
        np.testing.assert_array_equal(grid, made.rules.data[name], err_msg=name)
    pd.testing.assert_frame_equal(wanted.market, made.market)
    assert made.market["suspended"].any()


def test_the_run_and_check_data_tell_the_count(both, monkeypatch):
    _, filled, count = both
    told = []
    monkeypatch.setattr("qlib_ext.data.dataset.logger.warning", told.append)
    looked_at(filled)
    told = [line for line in told if "have a price but no volume: they count as suspended" in line]
    assert len(told) == len(LABELS) + 1 and 100 < int(told[0].split()[0]) <= count
    table = check_data(filled).set_index("check")
    assert table.loc["zero_volume", ["severity", "count"]].tolist() == ["warning", count]
    assert "NaN in all fields but $factor" in table.loc["zero_volume", "cure"]
    assert check_data(both[0]).set_index("check").loc["suspended", "count"] == table.loc["suspended", "count"]


@pytest.mark.parametrize(
    ("close", "volume", "filled"),
    [
        ([1.0, 1.0, NAN, 1.0], [5.0, 0.0, NAN, NAN], [False, True, False, True]),
        ([1.0, 1.0], [0.0, 0.0], [True, True]),  # suspended throughout
        ([1.0, 1.0], [NAN, NAN], [False, False]),  # no volume is known: the close tells
        ([1.0, 1.0], [NAN, -1.0], [True, True]),
    ],
)
def test_traded_by_hand(close, volume, filled):
    fields = {"$close": close, "$volume": volume, "$factor": [2.0] * len(close), "$open": close}
    frames = {name: pd.DataFrame({"SH600000": values}) for name, values in fields.items()}
    assert filled_days(frames["$close"], frames["$volume"])[:, 0].tolist() == filled
    traded = only_traded(frames)
    assert traded["$open"].isna()["SH600000"].tolist() == [f or np.isnan(c) for f, c in zip(filled, close, strict=True)]
    assert traded["$factor"].notna().all(axis=None)
