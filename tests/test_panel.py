import numpy as np
import pandas as pd
import pytest
import torch

from qlib_ext.nets import MASTER, MLP
from qlib_ext.panel import DayPanel

D, N, F = 20, 7, 3
DAYS = pd.date_range("2024-01-01", periods=D, freq="B")
STOCKS = [f"SH60000{i}" for i in range(N)]


def golden_frame():
    """Return two days of three stocks; B is missing on the second day."""
    index = pd.MultiIndex.from_tuples(
        [("2024-01-02", "A"), ("2024-01-02", "B"), ("2024-01-02", "C"), ("2024-01-03", "A"), ("2024-01-03", "C")],
        names=["datetime", "instrument"],
    )
    index = index.set_levels(pd.to_datetime(index.levels[0]), level=0)
    feature = pd.DataFrame({"f": [1.0, 2.0, 3.0, 4.0, 5.0], "g": [10.0, 20.0, 30.0, 40.0, 50.0]}, index=index)
    label = pd.Series([0.01, 0.02, np.nan, 0.04, 0.05], index=index)
    return feature, label


def wide(values):
    return pd.DataFrame(values, index=pd.to_datetime(["2024-01-02", "2024-01-03"]), columns=["A", "B", "C"])


def make_panel(seed=0, absent=0.3, **grids):
    """Build a panel through from_frame, with stocks that come and go, one in every day."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([DAYS, STOCKS], names=["datetime", "instrument"])
    present = rng.random((D, N)) >= absent
    present[:, 2] = True
    feature = pd.DataFrame(rng.normal(size=(D * N, F)), index=index, columns=["a", "b", "c"])
    label = pd.Series(rng.normal(size=D * N) * 0.02, index=index)
    frame = pd.DataFrame(present, index=DAYS, columns=STOCKS)
    return DayPanel.from_frame(feature, label, present=frame, **grids)


def wide_grid():
    return pd.DataFrame(np.arange(1.0, D * N + 1).reshape(D, N), index=DAYS, columns=STOCKS)


def same_panels(a, b):
    pairs = [(getattr(a, k), getattr(b, k)) for k in ("x", "present", "label")]
    equal = all(torch.equal(p.nan_to_num(-99.0), q.nan_to_num(-99.0)) for p, q in pairs)
    return equal and list(a.days) == list(b.days) and list(a.stocks) == list(b.stocks)


def test_from_frame_golden():
    panel = DayPanel.from_frame(*golden_frame())
    assert [str(d)[:10] for d in panel.days] == ["2024-01-02", "2024-01-03"]
    assert list(panel.stocks) == ["A", "B", "C"]
    assert panel.features == ["f", "g"]
    assert panel.x.tolist() == [[[1, 10], [2, 20], [3, 30]], [[4, 40], [0, 0], [5, 50]]]
    assert panel.x.dtype == panel.label.dtype == torch.float32
    assert panel.present.tolist() == [[True, True, True], [True, False, True]]
    wanted = np.array([[0.01, 0.02, np.nan], [0.04, np.nan, 0.05]], dtype=np.float32)
    np.testing.assert_array_equal(panel.label.numpy(), wanted)
    assert panel.filled == 0.0
    assert panel.liquidity is None and panel.market is None


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [2, 4, 0, 3, 1]])
def test_unsorted_frame_gives_the_same_panel(order):
    feature, label = golden_frame()
    wanted = DayPanel.from_frame(feature, label)
    assert same_panels(DayPanel.from_frame(feature.iloc[order], label.iloc[order]), wanted)
    assert same_panels(DayPanel.from_frame(feature.iloc[order], label), wanted)  # the label in another order


def test_label_is_aligned_by_index_not_by_position():
    feature, label = golden_frame()
    panel = DayPanel.from_frame(feature, label.drop(label.index[0]))
    assert torch.isnan(panel.label[0, 0])
    assert panel.label[1, 2] == np.float32(0.05)


def test_infinite_label_counts_as_unknown():
    feature, label = golden_frame()
    label.iloc[0] = np.inf
    assert torch.isnan(DayPanel.from_frame(feature, label).label[0, 0])


def test_duplicates_are_an_error():
    feature, label = golden_frame()
    with pytest.raises(ValueError, match=r"1 rows of the feature frame stand twice.*'A'"):
        DayPanel.from_frame(pd.concat([feature, feature.iloc[:1]]), label)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_feature_is_an_error_that_names_it(value):
    feature, label = golden_frame()
    feature.iloc[3, 1] = value
    with pytest.raises(ValueError, match=r"infinite values.*'g \(1\)'") as error:
        DayPanel.from_frame(feature, label)
    assert "'f" not in str(error.value)


def test_nan_becomes_zero_and_is_counted():
    feature, label = golden_frame()
    feature.iloc[1, 0] = feature.iloc[4, 1] = np.nan
    panel = DayPanel.from_frame(feature, label)
    assert panel.x[0, 1].tolist() == [0, 20] and panel.x[1, 2].tolist() == [5, 0]
    assert panel.filled == pytest.approx(2 / 10)
    assert bool(panel.present[0, 1])


def test_filled_counts_present_stocks_only():
    feature, label = golden_frame()
    feature.iloc[1, 0] = feature.iloc[4, 1] = np.nan
    panel = DayPanel.from_frame(feature, label, present=wide([[True, False, True], [True, True, True]]))
    assert panel.filled == pytest.approx(1 / 8)


def test_empty_frame_is_an_error():
    feature, label = golden_frame()
    with pytest.raises(ValueError, match="has no rows"):
        DayPanel.from_frame(feature.iloc[:0], label)


def test_wrong_index_and_unknown_grid_are_errors():
    feature, label = golden_frame()
    with pytest.raises(ValueError, match="wanted \\(datetime, instrument\\)"):
        DayPanel.from_frame(feature.swaplevel(), label)
    with pytest.raises(ValueError, match="unknown grids \\['liquidty'\\]"):
        DayPanel.from_frame(feature, label, liquidty=wide(1.0))


def test_present_masks_and_does_not_drop():
    present = wide([[True, False, True], [False, True, True]])
    panel = DayPanel.from_frame(*golden_frame(), present=present)
    assert list(panel.stocks) == ["A", "B", "C"] and len(panel.days) == 2
    # B of the second day is called present, but has no row
    assert panel.present.tolist() == [[True, False, True], [False, False, True]]


def test_present_without_a_day_or_stock_masks_it():
    present = wide(True).iloc[:1, :2]
    panel = DayPanel.from_frame(*golden_frame(), present=present)
    assert panel.present.tolist() == [[True, True, False], [False, False, False]]


@pytest.mark.parametrize("garbage", [1e30, np.inf, np.nan, -7.0])
def test_garbage_under_the_mask_is_zeroed(garbage):
    feature, label = golden_frame()
    feature.loc[(pd.Timestamp("2024-01-02"), "B")] = garbage
    panel = DayPanel.from_frame(feature, label, present=wide([[True, False, True], [True, True, True]]))
    assert panel.x[0, 1].tolist() == [0, 0]
    assert panel.filled == 0.0
    assert bool(torch.isfinite(panel.x).all())


def test_grids_are_aligned():
    shuffled = wide([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).iloc[::-1, [2, 0, 1]]
    market = pd.DataFrame({"m": [8.0, 7.0]}, index=pd.to_datetime(["2024-01-03", "2024-01-02"]))
    buyable = wide([[True, False, True], [False, True, True]])
    panel = DayPanel.from_frame(*golden_frame(), liquidity=shuffled, buyable=buyable, market=market)
    assert panel.liquidity.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert panel.market.tolist() == [[7], [8]]
    assert panel.buyable.dtype == torch.bool and panel.buyable.tolist() == buyable.to_numpy().tolist()


def test_what_is_not_known_to_be_buyable_is_not():
    feature, label = golden_frame()
    known = wide([[True, np.nan, True], [True, None, True]]).iloc[:1]  # a gap, and a whole day that is missing
    panel = DayPanel.from_frame(feature, label, buyable=known)
    assert panel.buyable.tolist() == [[True, False, True], [False, False, False]]
    floats = wide([[1.0, np.nan, 0.0], [np.nan, 1.0, 1.0]])
    assert DayPanel.from_frame(feature, label, buyable=floats).buyable.tolist() == [
        [True, False, False],
        [False, True, True],
    ]


def test_the_labels_index_is_checked_as_the_features():
    feature, label = golden_frame()
    with pytest.raises(ValueError, match=r"label frame is indexed by \['instrument', 'datetime'\]; wanted"):
        DayPanel.from_frame(feature, label.swaplevel())
    with pytest.raises(ValueError, match=r"1 rows of the label frame stand twice.*'A'"):
        DayPanel.from_frame(feature, pd.concat([label, label.iloc[:1]]))
    with pytest.raises(ValueError, match="the label frame has no rows"):
        DayPanel.from_frame(feature, label.iloc[:0])


@pytest.mark.parametrize("name", ["present", "liquidity", "volatility", "buyable", "step_return"])
def test_a_transposed_grid_is_an_error(name):
    grid = wide([[True, True, True], [False, True, True]])
    DayPanel.from_frame(*golden_frame(), **{name: grid})
    with pytest.raises(ValueError, match=f"grid {name} shares no day with the features: its rows are .'A'.*transpose"):
        DayPanel.from_frame(*golden_frame(), **{name: grid.T})
    with pytest.raises(ValueError, match=f"grid {name} shares no stock with the features: its columns are .'X'"):
        DayPanel.from_frame(*golden_frame(), **{name: grid.set_axis(["X", "Y", "Z"], axis=1)})
    with pytest.raises(ValueError, match=f"grid {name} shares no day .* its rows are .Timestamp.'2023"):
        DayPanel.from_frame(*golden_frame(), **{name: grid.shift(-365, freq="D")})


def test_a_panel_that_lies_there_already_is_not_copied():
    panel = make_panel()
    panel.batch([1])
    assert panel.to(torch.device("cpu")) is panel and "_places" in vars(panel)
    moved = panel.to(torch.device("meta"))
    assert moved is not panel and moved.x.device.type == "meta" and "_places" not in vars(moved)


def test_rows_include_both_ends():
    panel = make_panel()
    assert panel.rows(DAYS[3], DAYS[5]).tolist() == [3, 4, 5]
    assert panel.rows(None, "2024-01-06").tolist() == [0, 1, 2, 3, 4]  # a Saturday
    assert panel.rows(DAYS[D - 2], None).tolist() == [D - 2, D - 1]


def slow_batch(panel, rows, step_len):
    """Per day and present stock: its column, its window and its mask, by loops."""
    out = []
    for d in rows:
        day = []
        for column in [n for n in range(N) if panel.present[d, n]]:
            window = []
            for t in range(d - step_len + 1, d + 1):
                here = t >= 0 and bool(panel.present[t, column])
                window.append((here, panel.x[t, column].tolist() if here else None))
            day.append((column, window))
        out.append(day)
    return out


@pytest.mark.parametrize("step_len", [1, 4, D])
def test_batch_equals_a_slow_loop(step_len):
    liquidity = pd.DataFrame(np.arange(D * N).reshape(D, N), index=DAYS, columns=STOCKS)
    panel = make_panel(liquidity=liquidity)
    rows = [11, 2, 0, 19]
    batch = panel.batch(rows, step_len=step_len)
    slow = slow_batch(panel, rows, step_len)
    width = max(len(day) for day in slow)
    assert batch.x.shape == (4, step_len, width, F)
    assert batch.days.tolist() == rows
    for b, day in enumerate(slow):
        assert batch.mask[b].tolist() == [i < len(day) for i in range(width)]
        assert not batch.present[b, :, len(day) :].any()
        assert torch.isnan(batch.label[b, len(day) :]).all()
        for i, (column, window) in enumerate(day):
            assert batch.stock[b, i] == column
            assert batch.label[b, i] == panel.label[rows[b], column]
            assert batch.liquidity[b, i] == rows[b] * N + column
            assert batch.present[b, :, i].tolist() == [here for here, _ in window]
            for t, (here, value) in enumerate(window):
                assert not here or batch.x[b, t, i].tolist() == value
    assert torch.equal(batch.present[:, -1], batch.mask)


def test_window_is_oldest_first():
    panel = make_panel(absent=0.0)
    panel.x[:, :, 0] = torch.arange(D, dtype=torch.float32)[:, None]
    batch = panel.batch([5, 9], step_len=3)
    assert batch.x[:, :, 0, 0].tolist() == [[3, 4, 5], [7, 8, 9]]


def test_steps_before_the_panel_are_masked():
    batch = make_panel(absent=0.0).batch([0, 1, 4], step_len=4)
    wanted = [[False, False, False, True], [False, False, True, True], [True, True, True, True]]
    assert batch.present[:, :, 0].tolist() == wanted
    assert bool((batch.present == batch.present[:, :, :1]).all())


def test_a_day_without_stocks_is_an_error():
    panel = make_panel()
    panel.present[6] = False
    with pytest.raises(ValueError, match=str(DAYS[6].date())):
        panel.batch([5, 6])
    assert panel.with_stocks(np.array([5, 6, 7])).tolist() == [5, 7]
    assert panel.batch([5, 7]).days.tolist() == [5, 7]


@pytest.mark.parametrize("step_len", [0, D + 1])
def test_step_len_outside_the_history_is_an_error(step_len):
    with pytest.raises(ValueError, match=f"step_len={step_len} but the panel has {D} days"):
        make_panel().batch([D - 1], step_len=step_len)


@pytest.mark.parametrize("d", [0, 6, D - 2])
def test_no_look_ahead(d):
    grid = {"liquidity": wide_grid(), "volatility": wide_grid() / 1e3}
    state = pd.DataFrame({"m": np.arange(float(D))}, index=DAYS)
    panel, later = (make_panel(**grid, market=state) for _ in range(2))
    later.x[d + 1 :] = 1e6
    later.present[d + 1 :, 4:] = ~later.present[d + 1 :, 4:]  # three stocks: their number changes too
    for name in ("label", "liquidity", "volatility", "market"):
        getattr(later, name)[d + 1 :] = 9.0
    names = ("x", "present", "mask", "stock", "label", "liquidity", "volatility", "market")
    a, b = panel.batch([d], step_len=5), later.batch([d], step_len=5)
    for name in names:
        assert torch.equal(getattr(a, name).nan_to_num(-1), getattr(b, name).nan_to_num(-1)), name
    a, b = panel.batch([d + 1], step_len=5, multiple=N), later.batch([d + 1], step_len=5, multiple=N)
    for name in names:  # each of them does show on the day from which it changed
        assert not torch.equal(getattr(a, name).nan_to_num(-1), getattr(b, name).nan_to_num(-1)), name


def nets():
    torch.manual_seed(3)
    return {"mlp": MLP(F, (8,)).eval(), "master": MASTER(F, 8, 2, 2, dropout=0.5).eval()}


@pytest.mark.parametrize("name", ["mlp", "master"])
def test_padded_batch_equals_single_days(name):
    panel, net = make_panel(absent=0.5), nets()[name]
    rows = [0, 1, 7, 13, 19]
    with torch.no_grad():
        batch = panel.batch(rows, step_len=4)
        assert len(set(batch.mask.sum(1).tolist())) > 1, "no day is padded"
        together = net(batch.x, batch.present)
        for b, d in enumerate(rows):
            one = panel.batch([d], step_len=4)
            assert bool(one.mask.all())
            alone = net(one.x, one.present)[0]
            torch.testing.assert_close(together[b][batch.mask[b]], alone, rtol=1e-5, atol=1e-6)
            assert alone.std() > 1e-4


def test_a_width_rounded_up_changes_nothing_but_the_padding():
    rng = np.random.default_rng(0)
    present = torch.from_numpy(rng.random((6, 20)) < 0.5)
    panel = DayPanel(
        days=pd.date_range("2024-01-01", periods=6).to_numpy(),
        stocks=np.array([f"S{i:02d}" for i in range(20)], dtype=object),
        features=["a", "b"],
        x=torch.from_numpy(rng.normal(size=(6, 20, 2)).astype(np.float32)),
        present=present,
        label=torch.from_numpy(rng.normal(size=(6, 20)).astype(np.float32)),
    )
    plain, wide = panel.batch([2, 4], step_len=3), panel.batch([2, 4], step_len=3, multiple=8)
    width = plain.mask.shape[1]
    assert wide.mask.shape[1] == min(-(-width // 8) * 8, 20)
    assert panel.batch([2, 4], multiple=64).mask.shape[1] == 20  # no wider than the panel
    assert not wide.mask[:, width:].any() and not wide.present[:, :, width:].any()
    assert wide.label[:, width:].isnan().all()
    for name in ("stock", "mask", "label"):
        assert torch.equal(getattr(plain, name).nan_to_num(9), getattr(wide, name)[:, :width].nan_to_num(9))
    assert torch.equal(plain.x, wide.x[:, :, :width]) and torch.equal(plain.present, wide.present[:, :, :width])
