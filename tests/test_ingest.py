"""Frames of vendors become a provider: the market's own numbers again, day by day as at once, whole at any moment."""

import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import vendor_frames

from qlib_ext.check_data import check_data
from qlib_ext.cli import main
from qlib_ext.ingest import import_frames, read_bars
from qlib_ext.provider import read_calendar, read_series, side_file
from qlib_ext.synthetic import make_market

VENDORS = ("baostock", "akshare", "tushare")


@pytest.fixture
def tmp_path(tmp_path_factory):
    """A folder in memory where there is one: an import writes and deletes a file for each stock and field."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path_factory.mktemp("import")
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Files need not be on the disk when the machine loses its power within a test."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("ingest") / "market", n_stocks=60, years=1)


@pytest.fixture(scope="module")
def raw(market):
    return vendor_frames.raw_frame(market)


def frame_of(vendor, raw):
    frame = getattr(vendor_frames, vendor)(raw)
    return frame, pd.to_datetime(frame["trade_date" if vendor == "tushare" else frame.columns[0]], format="mixed")


def saved(frame, place):
    frame.to_parquet(place, index=False) if place.suffix == ".parquet" else frame.to_csv(place, index=False)
    return place


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def grid(folder):
    return vendor_frames.provider_frame(folder).set_index(["code", "date"])


# --- the market's own numbers again


@pytest.mark.parametrize("vendor", [*VENDORS, "community"])
def test_a_vendors_frame_gives_the_market_again(vendor, market, raw, tmp_path):
    frame = vendor_frames.community(market) if vendor == "community" else frame_of(vendor, raw)[0]
    done = import_frames(saved(frame, tmp_path / "bars.parquet"), tmp_path / "data")
    was, now = grid(market), grid(tmp_path / "data")
    if vendor == "akshare":  # has no indices
        was = was.drop(index="SH000300")
    bars = was["close"].notna()
    assert now["close"].notna().sum() == bars.sum() == done.bars
    was, now = was[bars], now.loc[was.index[bars]]
    for name in vendor_frames.FIELDS:
        if name == "change":
            first = now[name].isna()  # the community's frame has no close before the first day
            assert first.sum() <= (61 if vendor == "community" else 0)
            np.testing.assert_allclose(now[name][~first], was[name][~first], atol=2e-7)
        else:
            np.testing.assert_allclose(now[name], was[name], rtol=5e-7, err_msg=name)
    table = check_data(tmp_path / "data")
    assert "error" not in set(table["severity"]) and table.attrs["profile"] == "community"
    assert set(table.loc[table["severity"] == "warning", "check"]) <= {"stale_stock"}


def test_listings_are_those_of_the_market(market, raw, tmp_path):
    import_frames(saved(vendor_frames.baostock(raw), tmp_path / "bars.parquet"), tmp_path / "data")
    lines = [set((folder / "instruments/all.txt").read_text().split("\n")) for folder in (market, tmp_path / "data")]
    assert lines[0] == lines[1]  # one that is suspended at the end is listed, one that left is not
    assert (tmp_path / "data/instruments/index.txt").read_text().startswith("SH000300\t2020-01-02\t")
    import_frames(saved(vendor_frames.akshare(raw), tmp_path / "ak.parquet"), tmp_path / "ak")
    gone = [line for line in lines[0] if line and not line.endswith("\t2020-12-31")]
    told = "code,start,end\n" + "".join(line.replace("\t", ",") + "\n" for line in gone)
    (tmp_path / "listed.csv").write_text(told)
    import_frames(tmp_path / "ak.parquet", tmp_path / "ak", listed=tmp_path / "listed.csv")
    assert set((tmp_path / "ak/instruments/all.txt").read_text().split("\n")) == lines[0] and gone


@pytest.mark.parametrize("vendor", VENDORS)
def test_day_by_day_is_at_once_bit_for_bit(vendor, raw, tmp_path):
    frame, date = frame_of(vendor, raw)
    days = sorted(raw["date"].unique())
    split = [date <= days[115], date == days[116], date == days[117], (date >= days[117]) & (date <= days[128])]
    import_frames(saved(frame[(date <= days[128]).values], tmp_path / "bars.csv"), tmp_path / "once")
    for rows in split:
        done = import_frames(saved(frame[rows.values], tmp_path / "bars.csv"), tmp_path / "data")
        assert not len(done.corrections)
    assert tree(tmp_path / "data") == tree(tmp_path / "once")
    events = raw.groupby("code")["factor"].apply(
        lambda f: (f.to_numpy()[116:129] / f.to_numpy()[115:128] > 1.001).any()
    )
    assert events.any()  # ex-rights days among the appended ones
    before = tree(tmp_path / "data")
    done = import_frames(tmp_path / "bars.csv", tmp_path / "data")
    assert not done.written and tree(tmp_path / "data") == before and "nothing is new" in done.lines()[0]


# --- by hand


def rows(days, closes, *, code="sh.600000", before=None, first=0, **columns):
    """Rows of one stock: 10, 11, 12, ... million shares at the close, the only price of the day."""
    close = np.array(closes, dtype=float)
    prior = np.r_[close[0] if before is None else before, close[:-1]]
    frame = {"date": days, "code": code, "open": close, "high": close, "low": close, "close": close}
    volume = 1e7 + 1e6 * (first + np.arange(len(close)))
    frame |= {"volume": volume, "amount": close * volume, "pre_close": prior}
    return pd.DataFrame(frame | columns)


def field(folder, name, code="sh600000"):
    first, values = read_series(folder / "features" / code / f"{name}.day.bin")
    return first, values.tolist()


DAYS = ["2020-01-02", "2020-01-03", "2020-01-06"]


def test_a_split_by_hand(tmp_path):
    # 20 yuan, then two shares for one: the close before is told as 10, the close is 11. 2020-01-06 is suspended.
    frame = rows([*DAYS, "2020-01-07"], [20.0, 11.0, 11.0, 12.1], pre_close=[20.0, 10.0, 11.0, 11.0])
    frame.loc[2, "volume"] = 0
    other = rows([*DAYS, "2020-01-07"], [5.0] * 4, code="sz.000001")  # of which no day is suspended
    import_frames(saved(pd.concat([frame, other]), tmp_path / "a.csv"), tmp_path / "data")
    nan = pytest.approx([1.0, 1.1, np.nan, 1.21], nan_ok=True)
    assert field(tmp_path / "data", "close") == (0, nan)  # 20 * 0.05, 11 * 0.1, 12.1 * 0.1
    assert field(tmp_path / "data", "factor")[1] == pytest.approx([0.05, 0.1, 0.1, 0.1])
    assert field(tmp_path / "data", "volume")[1] == pytest.approx(
        [2e6, 1.1e6, np.nan, 1.3e6], nan_ok=True
    )  # lots / factor
    assert field(tmp_path / "data", "amount")[1] == pytest.approx([2e5, 1.21e5, np.nan, 1.573e5], nan_ok=True)
    assert field(tmp_path / "data", "change")[1] == pytest.approx([0.0, 0.1, np.nan, 0.1], nan_ok=True, abs=1e-7)


def test_a_factor_of_another_base_is_put_on_ours(tmp_path):
    """Forward-adjusted factors: the vendor's last one is 1, and with a dividend all before are new."""
    first = rows(DAYS[:2], [10.0, 10.0], factor=[1.0, 1.0]).drop(columns="pre_close")
    import_frames(saved(first, tmp_path / "a.csv"), tmp_path / "data")
    later = rows(DAYS[1:], [10.0, 9.0], first=1, factor=[0.9, 1.0]).drop(columns="pre_close")
    done = import_frames(saved(later, tmp_path / "b.csv"), tmp_path / "data")
    assert not len(done.corrections)
    assert field(tmp_path / "data", "factor")[1] == pytest.approx([0.1, 0.1, 1 / 9])
    assert field(tmp_path / "data", "close")[1] == pytest.approx(
        [1.0, 1.0, 1.0]
    )  # 9 / 10 less a dividend of 1: nothing
    assert field(tmp_path / "data", "change")[1][2] == pytest.approx(0.0, abs=1e-6)
    alone = later[later["date"] == DAYS[2]].assign(date="2020-01-07")
    with pytest.raises(ValueError, match=r"SH600000 2020-01-07: .*begin the frame on 2020-01-06"):
        import_frames(saved(alone, tmp_path / "c.csv"), tmp_path / "data")


def test_a_missing_day_before_the_frame_is_seen(tmp_path):
    import_frames(saved(rows(DAYS, [10.0, 10.1, 10.2]), tmp_path / "a.csv"), tmp_path / "data")
    before = tree(tmp_path / "data")
    gap = rows(["2020-01-08"], [10.5], before=10.4)
    with pytest.raises(ValueError, match=r"2020-01-08, is not the last close .*begin the frame on 2020-01-06"):
        import_frames(saved(gap, tmp_path / "b.csv"), tmp_path / "data")
    with pytest.raises(ValueError, match="2019-12-31 is no day of .* behind it"):
        import_frames(saved(rows(["2019-12-31"], [10.5]), tmp_path / "b.csv"), tmp_path / "data")
    assert tree(tmp_path / "data") == before


def test_half_a_market_is_refused(raw, tmp_path):
    frame, date = frame_of("akshare", raw)
    days = sorted(raw["date"].unique())
    import_frames(saved(frame[(date <= days[99]).values], tmp_path / "a.csv"), tmp_path / "data")
    few = frame[(date == days[100]).values].head(8)
    with pytest.raises(ValueError, match="has 8 stocks, the day before 5.: the frame is not complete"):
        import_frames(saved(few, tmp_path / "b.csv"), tmp_path / "data")


# --- corrections


def test_corrections_are_told_and_applied_when_asked_for(tmp_path):
    import_frames(
        saved(rows(DAYS, [10.0, 10.9, 10.2], pre_close=[10.0, 10.0, 10.9]), tmp_path / "a.csv"), tmp_path / "data"
    )
    right = rows([*DAYS, "2020-01-07"], [10.0, 10.1, 10.2, 10.3])
    before = tree(tmp_path / "data")
    done = import_frames(saved(right, tmp_path / "b.csv"), tmp_path / "data")
    assert list(done.corrections["what"][:2]) == ["open 10.9, the frame 10.1", "high 10.9, the frame 10.1"]
    assert "NOT applied: add --correct" in done.lines()[1] and not done.corrected
    assert field(tmp_path / "data", "close")[1] == pytest.approx([1.0, 1.09, 1.02, 1.03])
    done = import_frames(tmp_path / "b.csv", tmp_path / "data", correct=True)
    assert done.corrected and field(tmp_path / "data", "close")[1] == pytest.approx([1.0, 1.01, 1.02, 1.03])
    assert not import_frames(tmp_path / "b.csv", tmp_path / "data", correct=True).written
    short = saved(rows(DAYS[:2], [10.0, 10.05]), tmp_path / "c.csv")
    with pytest.raises(ValueError, match="SH600000 2020-01-06 is not in the frame: one that corrects must have all"):
        import_frames(short, tmp_path / "data", correct=True)
    assert before.keys() == tree(tmp_path / "data").keys()


def test_a_corrected_dividend_moves_what_is_behind_it(tmp_path):
    """A dividend of 1 that the first frame did not know: closes 10, 9, 9; it fell by nothing."""
    import_frames(saved(rows(DAYS, [10.0, 9.0, 9.0]), tmp_path / "a.csv"), tmp_path / "data")
    assert field(tmp_path / "data", "close")[1] == pytest.approx([1.0, 0.9, 0.9])
    frame = saved(rows(DAYS, [10.0, 9.0, 9.0], pre_close=[10.0, 9.0, 9.0]), tmp_path / "b.csv")
    done = import_frames(frame, tmp_path / "data")
    assert list(done.corrections["what"]) == ["factor off by -10.00%"] and not done.written
    import_frames(frame, tmp_path / "data", correct=True)
    assert field(tmp_path / "data", "close")[1] == pytest.approx([1.0, 1.0, 1.0])
    assert field(tmp_path / "data", "change")[1] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


# --- units


def test_star_in_shares_beside_lots_is_seen_row_by_row(raw, tmp_path):
    bars = read_bars([saved(vendor_frames.akshare(raw), tmp_path / "a.parquet")])
    assert any("volume in lots, amount in yuan" in line for line in bars.told)
    assert any("volume in shares, amount in yuan" in line and "SH688" in line for line in bars.told)


def test_units_that_fit_none_are_refused_and_may_be_named(tmp_path):
    frame = rows(DAYS, [10.0, 10.1, 10.2])
    frame["amount"] /= 1e4  # ten thousand yuan over shares
    place = saved(frame, tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"SH600000 2020-01-02 .*fits no units.*--amount"):
        import_frames(place, tmp_path / "data")
    import_frames(place, tmp_path / "data", volume=1, amount=1e4)
    assert field(tmp_path / "data", "amount")[1] == pytest.approx([1e5, 1.111e5, 1.224e5])


def test_adjusted_prices_are_refused(tmp_path):
    frame = rows(DAYS, [10.0, 10.1, 10.2], adjustflag=2).drop(columns="pre_close").assign(preclose=10.0)
    with pytest.raises(ValueError, match=r"SH600000 2020-01-02 .*adjustflag is not 3.*adjustflag='3'"):
        read_bars([saved(frame, tmp_path / "a.csv")])
    away = rows(DAYS, [10.0, 10.1, 10.2])
    away[["open", "high", "low", "close", "pre_close"]] *= 0.8  # in cents, but amount / volume tells the raw price
    with pytest.raises(ValueError, match="beyond low and high: prices are adjusted"):
        read_bars([saved(away.round(2), tmp_path / "a.csv")])
    odd = rows(DAYS, [10.0123, 10.1456, 10.2789])
    with pytest.raises(ValueError, match="not in whole cents"):
        read_bars([saved(odd, tmp_path / "a.csv")])


def test_a_frame_without_what_is_needed_is_refused(tmp_path):
    frame = rows(DAYS, [10.0, 10.1, 10.2])
    with pytest.raises(ValueError, match=r"no column amount \(amount, .amount, 成交额"):
        read_bars([saved(frame.drop(columns="amount"), tmp_path / "a.csv")])
    with pytest.raises(ValueError, match="neither a factor nor the close before"):
        import_frames(saved(frame.drop(columns="pre_close"), tmp_path / "a.csv"), tmp_path / "data")
    with pytest.raises(ValueError, match="both mean close"):
        read_bars([saved(frame.assign(收盘=1.0), tmp_path / "a.csv")])
    assert not (tmp_path / "data").exists()


def test_wrong_data_are_refused_before_the_switch(tmp_path):
    import_frames(saved(rows(DAYS, [10.0, 10.1, 10.2]), tmp_path / "a.csv"), tmp_path / "data")
    before = tree(tmp_path / "data")
    wrong = rows(["2020-01-07"], [10.3], before=10.2)
    wrong["low"] = -1.0
    with pytest.raises(ValueError, match=r"nothing was imported, the data are wrong:\nprice_not_positive"):
        import_frames(saved(wrong, tmp_path / "b.csv"), tmp_path / "data")
    assert tree(tmp_path / "data") == before and not list(tmp_path.glob(".data.*.import"))


def test_another_providers_units_are_gone_on_with(market, raw, tmp_path):
    """A folder of adjusted shares without amount, such as qlib's Yahoo data, stays one."""
    frame, date = frame_of("tushare", raw)
    days = sorted(raw["date"].unique())
    data = tmp_path / "data"
    import_frames(saved(frame[(date <= days[150]).values], tmp_path / "a.csv"), data)
    for place in (data / "features").iterdir():
        for name in ("amount", "vwap", "change"):
            (place / f"{name}.day.bin").unlink()
        numbers = np.fromfile(place / "volume.day.bin", dtype="<f4")
        numbers[1:] *= 100
        numbers.tofile(place / "volume.day.bin")
    shutil.rmtree(data / "qlib_ext")
    import_frames(saved(frame[((date >= days[150]) & (date <= days[160])).values], tmp_path / "b.csv"), data)
    was = grid(market)
    fields = ("open", "close", "volume", "factor")
    now = vendor_frames.provider_frame(data, fields).set_index(["code", "date"])
    assert not any((place / "amount.day.bin").exists() for place in (data / "features").iterdir())
    both = now.index[now["close"].notna()]
    np.testing.assert_allclose(now.loc[both, "volume"], 100 * was.loc[both, "volume"], rtol=1e-6)
    np.testing.assert_allclose(now.loc[both, "close"], was.loc[both, "close"], rtol=1e-6)
    assert both.get_level_values("date").max() == days[160]


# --- side files and universes


def test_side_files_come_from_columns_and_files(tmp_path):
    frame = rows(DAYS, [10.0, 10.1, 10.2], isST=[0, 1, 1], name=["浦发银行", "浦发银行", "ST 浦发"], industry="银行")
    data = tmp_path / "data"
    import_frames(saved(frame, tmp_path / "a.csv"), data)
    assert side_file(data, "names").read_text() == "code,name\nSH600000,ST 浦发\n"
    assert side_file(data, "industry").read_text() == "code,industry\nSH600000,银行\n"
    assert side_file(data, "st").read_text() == "code,start,end\nSH600000,2020-01-03,\n"
    more = rows(["2020-01-07", "2020-01-08"], [10.3, 10.4], before=10.2, isST=[1, 0])
    import_frames(saved(more, tmp_path / "b.csv"), data)
    assert side_file(data, "st").read_text() == "code,start,end\nSH600000,2020-01-03,2020-01-07\n"
    assert side_file(data, "names").read_text() == "code,name\nSH600000,ST 浦发\n"  # as it was
    (tmp_path / "names.csv").write_text('ts_code,name\n600000.SH,"A, B"\n')
    (tmp_path / "members.csv").write_text("code,start,end\n600000,2020-01-03,\n")
    line = ["import", str(tmp_path / "b.csv"), "--provider-uri", str(data), "--names", str(tmp_path / "names.csv")]
    assert main([*line, "--members", f"csi300={tmp_path / 'members.csv'}"]) == 0
    assert side_file(data, "names").read_text() == 'code,name\nSH600000,"A, B"\n'
    assert (data / "instruments/csi300.txt").read_text() == "SH600000\t2020-01-03\t2020-01-08\n"
    last = saved(rows(["2020-01-09"], [10.4], before=10.4), tmp_path / "c.csv")
    done = import_frames(last, data)
    assert (data / "instruments/csi300.txt").read_text() == "SH600000\t2020-01-03\t2020-01-09\n"
    assert any("csi300: 1 spans that ended with the calendar go on" in line for line in done.told)


# --- whole at any moment


def old_or_new(folder, old, new):
    now = tree(folder)
    return "old" if now == old else "new" if now == new else "neither"


@pytest.fixture
def pair(raw, tmp_path):
    """A provider, the frame of the next days, and what is there after it."""
    frame, date = frame_of("baostock", raw)
    days = sorted(raw["date"].unique())
    import_frames(saved(frame[(date <= days[200]).values], tmp_path / "a.parquet"), tmp_path / "data")
    more = saved(frame[((date >= days[200]) & (date <= days[210])).values], tmp_path / "b.parquet")
    old = tree(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "twin")
    begin = time.perf_counter()
    import_frames(more, tmp_path / "twin")
    return tmp_path / "data", more, old, tree(tmp_path / "twin"), time.perf_counter() - begin


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(pair):
    folder, more, old, new, seconds = pair
    seen = set()
    for after in np.linspace(0.02, 1.2, 8) * seconds:
        if (child := os.fork()) == 0:
            import_frames(more, folder)
            os._exit(0)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen.add(old_or_new(folder, old, new))
        assert seen <= {"old", "new"}
    import_frames(more, folder)
    assert old_or_new(folder, old, new) == "new" and "old" in seen
    assert not list(folder.parent.glob(".data.*.import"))  # what was killed is cleared away


@pytest.mark.parametrize("step", ["write", "finish", "_check", "take_place"])
def test_an_error_at_any_step_leaves_the_old(step, pair, monkeypatch):
    folder, more, old, new, _ = pair

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    owner = {"_check": "", "take_place": "Build."}.get(step, "_Work.")
    monkeypatch.setattr(f"qlib_ext.ingest.importing.{owner}{step}", full)
    with pytest.raises(OSError, match="No space"):
        import_frames(more, folder)
    assert old_or_new(folder, old, new) == "old" and not list(folder.parent.glob(".data.*.import"))


def test_readers_see_the_old_days_as_they_were_while_it_grows(pair):
    folder, more, *_ = pair
    days = read_calendar(folder)
    codes = sorted(place.name for place in (folder / "features").iterdir())
    seen, wrong, stop = [0], [], threading.Event()

    def look():
        series = {code: read_series(folder / f"features/{code}/close.day.bin") for code in codes}
        while not stop.is_set():
            for code in codes:
                first, values = read_series(folder / f"features/{code}/close.day.bin")
                was = series[code]
                if (first, values[: len(was[1])].tobytes()) != (was[0], was[1].tobytes()):
                    wrong.append(code)
            count = len(read_calendar(folder))  # the calendar and then the series: never shorter than it says
            longest = max(
                sum(map(len, ([0] * s[0], s[1])))
                for s in (read_series(folder / f"features/{c}/close.day.bin") for c in codes)
            )
            if longest < count:
                wrong.append(count)
            seen[0] += 1

    reader = threading.Thread(target=look)
    reader.start()
    import_frames(more, folder)
    stop.set()
    reader.join()
    assert not wrong and seen[0] > 0 and len(read_calendar(folder)) == len(days) + 10


def test_two_imports_at_once_are_one_after_the_other(pair):
    folder, more, old, new, _ = pair
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            import_frames(more, folder)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert old_or_new(folder, old, new) == "new"


def test_files_of_ones_own_stay(pair):
    folder, more, *_ = pair
    (folder / "macro.csv").write_text("date,vix\n")
    (folder / "dataset_cache").mkdir()
    (folder / "dataset_cache" / "x").write_text("of the old calendar")
    import_frames(more, folder)
    assert (folder / "macro.csv").read_text() == "date,vix\n" and not (folder / "dataset_cache").exists()
    with pytest.raises(ValueError, match="has no calendars/day.txt"):
        import_frames(more, Path(more).parent)
