"""What DayDatasetH makes of a label: the steps that mark positions, locked entries, the age of a stock; its options."""

import shutil

import numpy as np
import pandas as pd
import pytest
from qlib.data import D
from qlib.data.dataset import DatasetH
from test_data import SEGMENTS, SIZE, make_handler, start_qlib

from qlib_ext.data import DayDatasetH, load_liquidity, locked_up, own_series, panel_of, unit_profile
from qlib_ext.exchange import AShareExchange, clear_cache
from qlib_ext.provider import listed_days, listings, read_days, read_fields
from qlib_ext.synthetic import make_market

FEW = {"start": "2020-03-02", "end": "2020-06-30"}
SHORT = {"train": ("2020-03-02", "2020-04-30"), "test": ("2020-05-06", "2020-06-30")}
NAN = np.nan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outcomes")


@pytest.fixture(scope="module")
def market(folder):
    path = make_market(folder / "market", **SIZE)
    start_qlib(path, folder)
    return path


@pytest.fixture
def warned(monkeypatch):
    lines = []
    for module in ("dataset", "outcomes"):
        monkeypatch.setattr(f"qlib_ext.data.{module}.logger.warning", lines.append)
    return lines


def panel_for(label, **options):
    return DayDatasetH(make_handler(label=label, **FEW), SHORT, step_len=1, **options)


def rewritten(market, folder, name, change):
    """Copy a market and change series: change(code, field, first, values) -> (first, values)."""
    copy = shutil.copytree(market, folder / name)
    for file in sorted((copy / "features").glob("*/*.day.bin")):
        raw = np.fromfile(file, "<f4")
        first, values = change(file.parent.name, file.name.split(".")[0], int(raw[0]), raw[1:].copy())
        np.concatenate([[first], values]).astype("<f4").tofile(file)
    return copy


# --- steps


@pytest.mark.parametrize(
    ("field", "entry", "reach"), [("open", 1, 6), ("close", 1, 6), ("vwap", 0, 3), ("close", 0, 2), ("open", 2, 4)]
)
def test_the_product_of_the_steps_is_the_label(field, entry, reach, market, warned):
    bottom = f"Ref(${field}, -{entry})" if entry else f"${field}"
    dataset = panel_for(f"Ref(${field}, -{reach})/{bottom} - 1")
    assert (dataset.entry_field, dataset.span.horizon) == (field, reach - entry) and not warned
    step, label = (grid.double().numpy() for grid in (dataset.panel.step_return, dataset.panel.label))
    h = reach - entry
    product = np.prod([1 + step[k : len(step) - h + k] for k in range(h)], axis=0)
    known = np.isfinite(label[: len(step) - h])
    assert known.mean() > 0.8
    np.testing.assert_allclose(product[known], 1 + label[: len(step) - h][known], rtol=1e-5)


def test_a_label_from_open_to_close_is_marked_from_open_to_open(market, warned):
    dataset = panel_for("Ref($close, -2)/Ref($open, -1) - 1")
    assert dataset.entry_field == "open" and dataset.span.horizon == 1
    panel = dataset.panel
    assert len(warned) == 1 and "from $open to $close" in warned[0] and "from $open to $open" in warned[0]
    price = read_fields(list(panel.stocks), ["$open"], FEW["start"], "2020-07-10")["$open"].ffill()
    wanted = (price.shift(-2) / price.shift(-1) - 1).loc[pd.DatetimeIndex(panel.days)]
    np.testing.assert_allclose(panel.step_return.numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_one_day_in_one_field_is_its_own_step(market, warned):
    for field in ("close", "open"):
        dataset = panel_for(f"Ref(${field}, -2)/Ref(${field}, -1) - 1")
        panel = dataset.panel
        assert dataset.entry_field == field and not warned
        known = np.isfinite(panel.label.numpy())
        np.testing.assert_allclose(panel.step_return.numpy()[known], panel.label.numpy()[known], rtol=1e-4, atol=1e-6)


def test_sellable_is_what_trades_at_the_entry_and_is_not_locked_at_limit_down(market, warned):
    panel = panel_for("Ref($close, -2)/Ref($close, -1) - 1").panel
    read = read_fields(list(panel.stocks), ["$close", "$factor", "$high", "$low"], FEW["start"], "2020-07-10")
    bars = {name: frame.astype(float) for name, frame in read.items()}
    close, days = bars["$close"], pd.DatetimeIndex(panel.days)
    raw = (close / bars["$factor"]).round(2)
    before = (close.ffill().shift(1) / bars["$factor"].ffill()).round(2)
    low = before * np.where([code.startswith(("SH68", "SZ30")) for code in panel.stocks], 0.8, 0.9)
    stuck = (bars["$high"] == bars["$low"]) & (raw == (np.floor(before * 95 + 0.5) / 100).round(2))  # 5% all day
    at_the_low = ((raw <= np.floor(low * 100 + 0.5) / 100 + 1e-6) | stuck).shift(-1)
    trades = close.shift(-1).notna().loc[days]
    sellable = pd.DataFrame(panel.sellable.numpy(), days, panel.stocks)
    old = (close.notna().cumsum() > 10).loc[days]  # past the first days without a limit
    main = old.loc[:, [code.startswith(("SH60", "SZ00")) for code in panel.stocks]]
    wanted = (trades & ~at_the_low.loc[days].eq(True))[main.columns]
    pd.testing.assert_frame_equal(sellable[main.columns].where(main), wanted.where(main))
    assert not sellable.to_numpy()[~trades.to_numpy()].any()


# --- labels that are no raw returns


def test_a_label_that_is_no_raw_return_needs_a_plain_dataset(market, warned):
    handler = make_handler(label="Log(Ref($close, -6)/Ref($close, -1))", **FEW)
    with pytest.raises(ValueError, match="no raw simple return.*label_days"):
        _ = DayDatasetH(handler, SHORT).panel
    _, _, rows = panel_of(DatasetH(handler, SHORT))
    assert "no money can be reckoned" in warned[-1] and rows("train")[-1] == rows("test")[0] - 7


@pytest.mark.parametrize("label", ["Ref($close, -2)/Ref($close, -1)", "100*(Ref($close, -2)/Ref($close, -1) - 1)"])
def test_label_days_do_not_make_a_return_of_other_numbers(label, market):
    with pytest.raises(ValueError, match="do not look like raw simple returns of 1 days"):
        _ = panel_for(label, label_days=[1, 2]).panel


def test_label_days_enter_at_a_close_and_do_not_contradict_the_label(market):
    dataset = panel_for("($close/Ref($close, 0)) * Ref($close, -6)/Ref($close, -1) - 1", label_days=[1, 6])
    assert dataset.entry_field == "close" and dataset.span.reach == 6
    for label in ("Ref($open, -6)/Ref($open, -1) - 1", "Ref($close, -2)/Ref($close, -1) - 1"):
        with pytest.raises(ValueError, match=r"label_days=\[1, 6\], closes, but the label is .*drop label_days"):
            _ = panel_for(label, label_days=[1, 6]).span
    assert panel_for("Ref($close, -6)/Ref($close, -1) - 1", label_days=[1, 6]).span.horizon == 5


# --- locked entries


def frames(close, factor, *, first="2021-03-01"):
    days = pd.bdate_range(first, periods=len(close))
    codes = ["SH600000", "SH600001"][: np.shape(close)[1]]
    return pd.DataFrame(close, days, codes), pd.DataFrame(factor, days, codes)


def test_a_gap_of_the_factor_is_filled_and_a_stock_without_one_judged_by_its_return(warned):
    # both close at the limit on the last day: 10.00 -> 11.00; adjusted prices are a half of that
    close, factor = frames([[5.0, 5.0], [5.0, 5.0], [5.5, 5.5]], [[0.5, NAN], [0.5, NAN], [NAN, NAN]])
    old = np.full(close.shape, np.inf)
    assert locked_up(close, factor, old).tolist() == [[False, False], [False, False], [True, True]]
    assert len(warned) == 1 and "1 of 2 stocks" in warned[0] and "SH600001" in warned[0]
    close.iloc[2] = 5.48  # 9.6%: below the limit price, and further than 0.3% from the limit
    assert not locked_up(close, factor, old).any()


def test_a_stock_under_special_treatment_is_locked_at_its_own_limit():
    close, factor = frames([[10.0, 10.0], [10.5, 10.5]], np.ones((2, 2)))
    spells = pd.DataFrame({"code": ["SH600001"], "start": ["2021-01-01"], "end": [""]})
    old = np.full(close.shape, np.inf)
    assert not locked_up(close, factor, old).any()
    assert locked_up(close, factor, old, st=spells).tolist() == [[False, False], [False, True]]


def test_buyable_knows_special_treatment_as_the_backtest_does(market, folder, tmp_path):
    codes = sorted(D.list_instruments(D.instruments("all"), as_list=True))
    path = tmp_path / "st.csv"
    pd.DataFrame({"code": codes, "start": "2020-01-01", "end": "9999-12-31"}).to_csv(path, index=False)
    label = "Ref($close, -2)/Ref($close, -1) - 1"
    panel, plain = panel_for(label, st=str(path)).panel, panel_for(label).panel
    raw = read_fields(list(panel.stocks), ["$close"], FEW["start"], "2020-07-10")["$close"]
    rise = (raw / raw.ffill().shift(1) - 1).shift(-1).loc[pd.DatetimeIndex(panel.days)].to_numpy()
    main = ~np.array([code.startswith(("SH688", "SZ30")) for code in panel.stocks])
    above = (rise > 0.055)[:, main] & plain.buyable.numpy()[:, main]
    assert above.any() and not panel.buyable.numpy()[:, main][above].any()


# --- the age of a stock


@pytest.fixture
def padded(market, folder):
    """A market whose series all begin on the calendar's first day, filled with NaN before the listing."""
    path = folder / "padded"
    if not path.is_dir():
        rewritten(market, folder, "padded", lambda _c, _f, first, values: (0, np.r_[np.full(first, NAN), values]))
    start_qlib(path, folder)
    clear_cache()
    yield path
    start_qlib(market, folder)
    clear_cache()


def test_padding_does_not_make_a_stock_old(market, padded, folder):
    codes = sorted(D.list_instruments(D.instruments("all"), as_list=True))
    calendar = pd.DatetimeIndex(D.calendar())
    age = listed_days(codes, calendar)
    panel = panel_for("Ref($close, -2)/Ref($close, -1) - 1").panel
    bars = AShareExchange(start_time=calendar[70], end_time=calendar[-2]).day_rules
    start_qlib(market, folder)
    clear_cache()
    first, _ = listings(codes)
    assert 0 < (first > 0).sum() < len(codes)
    np.testing.assert_array_equal(listed_days(codes, calendar), age)
    late = int(first.argmax())
    assert age[first[late], late] == 1 and age[first[late] + 4, late] == 5
    other = panel_for("Ref($close, -2)/Ref($close, -1) - 1").panel
    np.testing.assert_array_equal(panel.present.numpy(), other.present.numpy())
    same = AShareExchange(start_time=calendar[70], end_time=calendar[-2]).day_rules
    np.testing.assert_array_equal(bars.listed, same.listed)
    for name in ("limit_buy", "limit_sell"):
        np.testing.assert_array_equal(bars.data[name], same.data[name])


# --- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(({"step_len": value}, "step_len is .*a whole number in .1, inf") for value in (2.5, "8", 0, True)),
        ({"liquidity_window": 0}, "liquidity_window is 0; .*whole number in .1"),
        ({"volatility_window": 1}, "volatility_window is 1; .*whole number in .2"),
        ({"listing_age": -5}, "listing_age is -5; .*whole number in .0"),
        *(
            ({"label_days": value}, r"label_days is .*must be \[entry, reach\]")
            for value in ([1, 2.5], [1], 5, "12", [2, 2], [1, 2, 3], [True, 2])
        ),
        ({"label": 5}, "label is 5"),
        ({"st": 5}, "st is 5; it must be a CSV file"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, words):
    with pytest.raises(ValueError, match=f"DayDatasetH: {words}"):
        DayDatasetH(None, SHORT, **options)


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        *(
            (value, "is no pair of days; wanted .first day, last day")
            for value in (None, "2020-01-02", 5, ["2020-01-02"])
        ),
        *(
            (["2020-01-02", value], f"{value!r}, no day that is surely understood.*; wanted")
            for value in ("2020-02-30", "later", 2020, [])
        ),
        (["2020-01-02", "2020-01-02T00:00Z"], "with a time zone"),
        (["2020-03-01", "2020-01-02"], "ends before it starts"),
    ],
)
def test_a_segment_that_cannot_be_is_named(segment, words):
    with pytest.raises(ValueError, match=rf"segment 'train': .*{words.replace('[', '.').replace(']', '.')}"):
        DayDatasetH(None, {"test": ("2021-01-02", "2021-02-02"), "train": segment})


@pytest.mark.parametrize("segments", [None, [["2020-01-02", "2020-02-03"]]])
def test_segments_that_are_none(segments):
    with pytest.raises(ValueError, match="segments is .*wanted names and days"):
        DayDatasetH(None, segments)


# --- what is read


def test_the_unit_profile_reads_five_days(market, monkeypatch):
    codes = sorted(D.list_instruments(D.instruments("all"), as_list=True))
    days = pd.DatetimeIndex(D.calendar())[[3, 50, 200]]
    some = read_days(codes, ["$close", "$amount"], days)
    whole = read_fields(codes, ["$close", "$amount"], days[0], days[-1])
    for field, frame in some.items():
        pd.testing.assert_frame_equal(frame, whole[field].loc[days])
    seen = []
    counted = lambda *a: seen.append(len(a[2])) or read_days(*a)  # noqa: E731
    monkeypatch.setattr("qlib_ext.provider.trailing.read_days", counted)
    monkeypatch.setattr("qlib_ext.provider.trailing.read_fields", None)
    assert unit_profile(codes, SEGMENTS["train"][0], SEGMENTS["test"][1]) == "community" and seen == [5]


def test_no_field_is_read_twice(market, monkeypatch):
    read = []

    def counted(codes, fields, *args, **kwargs):
        read.extend(fields)
        return read_fields(codes, fields, *args, **kwargs)

    monkeypatch.setattr("qlib_ext.data.dataset.read_fields", counted)
    monkeypatch.setattr("qlib_ext.provider.trailing.read_fields", counted)
    panel = panel_for("Ref($open, -2)/Ref($open, -1) - 1").panel
    assert sorted(read) == ["$amount", "$close", "$factor", "$high", "$low", "$open", "$volume"]
    read.clear()
    monkeypatch.setattr("qlib_ext.provider.trailing.check_turnover", lambda *_a, **_k: None)
    own = panel_for("Ref($close, -2)/Ref($close, -1) - 1", liquidity="adjusted_shares").panel
    assert sorted(read) == ["$close", "$factor", "$high", "$low", "$volume"]
    for made, profile in ((panel, "community"), (own, "adjusted_shares")):
        wanted = load_liquidity(list(made.stocks), made.days[0], made.days[-1], profile=profile)
        np.testing.assert_allclose(made.liquidity.numpy(), wanted.to_numpy(), rtol=1e-6)


def test_auto_settled_by_amount_only_warns_of_an_unusual_turnover(market, folder):
    def small(code, field, first, values):
        return first, values / 100 if field in ("amount", "volume") and not code.startswith("sh000") else values

    path = rewritten(market, folder, "small", small)
    codes = sorted(D.list_instruments(D.instruments("all"), as_list=True))
    span = (SEGMENTS["train"][0], SEGMENTS["test"][1])
    try:
        start_qlib(path, folder)
        with pytest.warns(UserWarning, match="averages .*Beijing stocks"):
            load_liquidity(codes, *span)
        clear_cache()
        with pytest.warns(UserWarning, match="averages .*Beijing stocks"):
            AShareExchange(start_time=span[0], end_time=span[1])
        for file in path.glob("features/*/amount.day.bin"):
            file.unlink()
        with pytest.raises(ValueError, match="no .amount to tell by"):
            load_liquidity(codes, *span)
        clear_cache()
        with pytest.raises(ValueError, match="no .amount to tell by"):
            AShareExchange(start_time=span[0], end_time=span[1])
        with pytest.raises(ValueError, match="wrong units"):  # lots, whatever the user says
            load_liquidity(codes, *span, profile="adjusted_shares")
    finally:
        start_qlib(market, folder)
        clear_cache()


@pytest.mark.parametrize("rows", ["2022-01-04,101", "2022-01-03,101", "2022-01-05,0"])
def test_a_benchmark_of_ones_own_names_the_line_that_is_wrong(market, tmp_path, rows):
    file = tmp_path / "own.csv"
    file.write_text(f"date,close\n2022-01-04,100\n{rows}\n")
    with pytest.raises(ValueError, match=r"own.csv, line 3: wanted are levels above 0, each day once and in order"):
        own_series(str(file))
    file.write_text("date,close\n2022-01-04,100\n2022-01-05,101\n")
    assert own_series(str(file)).to_dict() == {pd.Timestamp("2022-01-05"): pytest.approx(0.01)}
