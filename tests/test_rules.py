"""Trading rules against goldens by hand (market-facts.md, section 2)."""

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pandas as pd
import pytest

from qlib_ext.rules import (
    Fees,
    board_of,
    citations,
    commission_minimum,
    fee_rates,
    is_a_share,
    is_index,
    largest_order,
    limit_down_price,
    limit_up_price,
    lot_rule,
    one_price_limit,
    price_limit,
    read_share,
    scope_of,
    settles_next_day,
    st_mask,
)

CODES = ["SH600519", "SZ000001", "SZ300750", "SH688981", "SH689009", "BJ430047"]


@pytest.mark.parametrize(
    ("code", "board"),
    [
        ("SH600000", "main"),
        ("SH605599", "main"),
        ("SZ000001", "main"),
        ("SZ002594", "main"),
        ("SZ300750", "chinext"),
        ("SZ301499", "chinext"),
        ("SH688981", "star"),
        ("SH689009", "star"),
        ("BJ430047", "beijing"),
        ("BJ920002", "beijing"),
        ("sh600000", "main"),
    ],
)
def test_board_of(code, board):
    assert board_of(code) == board


@pytest.mark.parametrize("code", ["SH000300", "SZ399001", "BJ899050", "SH900901", "SZ200012", "600000", "SH60", ""])
def test_board_of_rejects_what_is_no_a_share(code):
    with pytest.raises(ValueError, match="allowed are SH60"):
        board_of(code)


def test_is_index():
    assert all(map(is_index, ["SH000300", "sz399006", "BJ899050"]))
    assert not any(map(is_index, CODES))


def test_price_limit_before_and_after_each_change():
    days = ["2019-07-19", "2019-07-22", "2020-08-21", "2020-08-24", "2021-11-12", "2021-11-15", "2026-10-09"]
    nan = np.nan
    expected = [  # SH60  SZ00  SZ30  SH688 SH689 BJ
        [0.10, 0.10, 0.10, nan, nan, nan],
        [0.10, 0.10, 0.10, 0.20, 0.20, nan],
        [0.10, 0.10, 0.10, 0.20, 0.20, nan],
        [0.10, 0.10, 0.20, 0.20, 0.20, nan],
        [0.10, 0.10, 0.20, 0.20, 0.20, nan],
        [0.10, 0.10, 0.20, 0.20, 0.20, 0.30],
        [0.10, 0.10, 0.20, 0.20, 0.20, 0.30],
    ]
    np.testing.assert_array_equal(price_limit(CODES, days), expected)
    np.testing.assert_array_equal(price_limit(CODES, days, side="down"), expected)


def _listing(code, first, n_days=7, *, side="up"):
    """Limits of a stock's first days when it is listed on `first`."""
    days = pd.bdate_range(first, periods=n_days)
    age = np.arange(1.0, n_days + 1)[:, None]
    return price_limit([code], days, listed_days=age, side=side)[:, 0].tolist()


@pytest.mark.parametrize(
    ("code", "first", "expected"),
    [
        ("SH601000", "2023-03-20", [0.44] + [0.1] * 6),
        ("SZ001300", "2023-03-20", [0.44] + [0.1] * 6),
        ("SH601000", "2023-04-10", [np.inf] * 5 + [0.1] * 2),
        ("SZ001300", "2023-04-10", [np.inf] * 5 + [0.1] * 2),
        ("SZ300800", "2020-07-20", [0.44] + [0.1] * 6),
        ("SZ300900", "2020-08-24", [np.inf] * 5 + [0.2] * 2),
        ("SH688001", "2019-07-22", [np.inf] * 5 + [0.2] * 2),
        ("BJ430047", "2021-11-15", [np.inf] + [0.3] * 6),
    ],
)
def test_first_days_after_listing(code, first, expected):
    assert _listing(code, first) == expected


def test_first_day_down_limit_and_regime_of_the_listing_day():
    assert _listing("SH601000", "2023-03-20", side="down")[:2] == [0.36, 0.1]
    # listed on the Thursday before the reform: day 3 falls on 2020-08-24, where only new listings are free
    assert _listing("SZ300900", "2020-08-20") == [0.44, 0.1] + [0.2] * 5
    # unknown and not yet listed: the board's limit
    days = pd.bdate_range("2020-09-01", periods=3)
    age = np.array([[np.nan], [0.0], [-5.0]])
    assert price_limit(["SZ300900"], days, listed_days=age)[:, 0].tolist() == [0.2] * 3


def test_dates_that_begin_within_the_first_days_know_the_day_of_the_listing():
    days = pd.bdate_range("2020-08-24", periods=3)  # the reform's first day

    def limits(code, ages, days=days):
        return price_limit([code], days, listed_days=np.array(ages, dtype=float)[:, None])[:, 0].tolist()

    assert limits("SZ300900", [3, 4, 5]) == [0.2] * 3  # listed 2020-08-20, before it
    assert limits("SZ300900", [1, 2, 3]) == [np.inf] * 3
    assert limits("SZ300900", [2, 3, 4], days[1:].append(days[-1:] + pd.Timedelta(days=1))) == [np.inf] * 3
    for first in ("2023-04-10", "2020-08-24", "2020-08-20", "2022-01-04"):  # as when they begin on the day itself
        for code in ("SH601000", "SZ300900", "SH688001"):
            for skip in range(1, 6):
                days = pd.bdate_range(first, periods=7)[skip:]
                assert limits(code, range(skip + 1, 8), days) == _listing(code, first)[skip:]


def test_price_limit_says_what_is_wrong():
    days = pd.bdate_range("2022-01-03", periods=3)
    for name in ("st", "listed_days"):
        with pytest.raises(ValueError, match=rf"{name} has shape \(2, 1\).*\(days, stocks\) = \(3, 1\)"):
            price_limit(["SH600000"], days, **{name: np.ones((2, 1))})
    with pytest.raises(ValueError, match="side 'both'"):
        price_limit(["SH600000"], days, side="both")
    with pytest.raises(ValueError, match="consecutive trading days"):
        price_limit(["SH600000"], days[::-1], listed_days=np.ones((3, 1)))
    with pytest.raises(ValueError, match="'SH000300' is an index"):
        price_limit(["SH600000", "SH000300"], days)


def test_limit_prices_by_hand():
    # 10.05 * 1.1 = 11.055 -> 11.06; 10.05 * 0.9 = 9.045 -> 9.05; 9.95 * 1.1 = 10.945 -> 10.95
    assert limit_up_price(10.05, 0.1) == 11.06
    assert limit_down_price(10.05, 0.1) == 9.05
    assert limit_up_price(9.95, 0.1) == 10.95
    np.testing.assert_array_equal(limit_up_price(np.float32([9.95, 10.05, np.nan]), 0.1), [10.95, 11.06, np.nan])
    np.testing.assert_array_equal(limit_up_price(10.0, [0.1, 0.2, 0.3, 0.44, np.inf]), [11, 12, 13, 14.4, np.inf])
    np.testing.assert_array_equal(limit_down_price(10.0, [0.2, 0.36, np.inf, np.nan]), [8, 6.4, 0.0, np.nan])
    assert limit_up_price(np.nan, np.inf) != limit_up_price(np.nan, np.inf)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("limit", ["0.05", "0.1", "0.2", "0.3", "0.44"])
def test_limit_prices_equal_decimal_arithmetic(dtype, limit):
    cents = np.arange(1, 60_000, 7)
    prices = (cents / 100).astype(dtype)

    def exact(factor):
        tick = Decimal("0.01")
        return [float((Decimal(int(c)) / 100 * factor).quantize(tick, ROUND_HALF_UP)) for c in cents]

    bound = np.asarray(float(limit), dtype)
    np.testing.assert_array_equal(limit_up_price(prices, bound), exact(1 + Decimal(limit)))
    np.testing.assert_array_equal(limit_down_price(prices, bound), exact(1 - Decimal(limit)))


def test_fee_rates_before_and_after_each_change():
    days = ["2022-04-28", "2022-04-29", "2023-08-25", "2023-08-28"]
    fees = fee_rates(days, commission=0.0003)
    assert list(fees.columns) == ["buy", "sell"] and fees.index[0] == pd.Timestamp("2022-04-28")
    np.testing.assert_allclose(fees["buy"], [0.00032, 0.00031, 0.00031, 0.00031], rtol=1e-12)
    np.testing.assert_allclose(fees["sell"], [0.00132, 0.00131, 0.00131, 0.00081], rtol=1e-12)
    np.testing.assert_allclose(fee_rates(days, commission=0.0)["buy"], [2e-5, 1e-5, 1e-5, 1e-5], rtol=1e-12)


def test_fee_rates_say_what_is_wrong():
    with pytest.raises(ValueError, match="2010-01-04.*from 2015-08-01"):
        fee_rates(["2010-01-04", "2020-01-02"])
    for commission in (-0.1, 0.03, float("nan")):
        with pytest.raises(ValueError, match="commission is"):
            fee_rates(["2020-01-02"], commission=commission)


def test_what_an_order_pays_by_hand():
    # 100,000 yuan: commission 0.03% = 30, transfer 0.001% = 1, stamp duty of a sell 0.1%, then 0.05% = 100, 50
    fees = Fees(["2023-08-25", "2023-08-28"])
    for row, stamp in ((0, 100.0), (1, 50.0)):
        assert fees.parts(row, 1e5, sell=True) == pytest.approx((30.0, 1.0, stamp))
        assert fees.parts(row, 1e5, sell=False) == pytest.approx((30.0, 1.0, 0.0))
        assert fees.rates(row) == pytest.approx((0.00031, 0.00031 + stamp / 1e5))
    assert fees.minimum == 5.0 and fees.parts(0, 1e4, sell=False) == pytest.approx((5.0, 0.1, 0.0))
    assert fees.highest == pytest.approx((0.00031, 0.00131))


def test_the_least_commission_and_rates_of_ones_own():
    day = ["2023-08-25"]
    assert Fees(day, commission=0.0).parts(0, 1e3, sell=False) == pytest.approx((0.0, 0.01, 0.0))
    assert Fees(day, commission=0.0, minimum=7.0).parts(0, 1e3, sell=False) == pytest.approx((7.0, 0.01, 0.0))
    assert Fees(day, minimum=0.0).parts(0, 1e3, sell=False) == pytest.approx((0.3, 0.01, 0.0))
    bought = Fees(day, open_cost=0.002)  # the sell stays the rules'
    assert bought.parts(0, 1e5, sell=False) == (200.0, 0.0, 0.0) and bought.parts(0, 1e3, sell=False)[0] == 5.0
    assert bought.parts(0, 1e5, sell=True) == pytest.approx((30.0, 1.0, 100.0))
    assert Fees(day, close_cost=0.003).rates(0) == pytest.approx((0.00031, 0.003))
    old = Fees(["2010-01-04"], open_cost=0.001, close_cost=0.0)  # a day whose fees no rule knows
    assert old.parts(0, 1e5, sell=False) == (100.0, 0.0, 0.0) and old.parts(0, 1e5, sell=True) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="2010-01-04.*from 2015-08-01"):
        Fees(["2010-01-04"], open_cost=0.001)
    with pytest.raises(ValueError, match="commission is 0.01"):
        Fees(day, commission=0.01)


def test_one_price_all_day_at_the_limit_of_special_treatment():
    # 10 yuan, 5%: 10.50 and 9.50; at any other price, or with two prices of the day, there was a market
    codes, days = ["SH600000"] * 6, ["2022-01-04"]
    price = {"high": [[10.5, 10.5, 10.4, 9.5, 11.0, np.nan]], "low": [[10.5, 10.4, 10.4, 9.5, 11.0, np.nan]]}

    def locked(**options):
        return one_price_limit(codes, days, **price, prev_close=np.full((1, 6), 10.0), **options)[0].tolist()

    assert locked() == [True] + [False] * 5
    assert locked(side="down") == [False] * 3 + [True] + [False] * 2
    assert locked(near=0.1000001) == [True, False, True, False, False, False]
    first = np.full((1, 6), 1.0)  # the first day has +44% and -36%
    assert locked(listed_days=first) == [False] * 6
    low = {"high": [[6.4, 14.4]], "low": [[6.4, 14.4]], "prev_close": [[10.0, 10.0]], "listed_days": [[1.0, 1.0]]}
    for side, expected in (("down", [True, False]), ("up", [False, True])):
        assert one_price_limit(codes[:2], days, **low, side=side)[0].tolist() == expected
    star = {"high": [[12.0]], "low": [[12.0]], "prev_close": [[10.0]]}  # STAR: special treatment has the board's 20%
    assert one_price_limit(["SH688001"], days, **star).tolist() == [[True]]


def test_shares_by_any_spelling():
    assert is_a_share("sz300001") and not is_a_share("SH000300") and not is_a_share("SH900901")
    assert [read_share("code", value) for value in ("600000.sh", 1, "SZ300001")] == ["SH600000", "SZ000001", "SZ300001"]
    with pytest.raises(ValueError, match="here is 'SH000300', an index; only A shares are allowed; leave it out$"):
        read_share("here", "SH000300")
    with pytest.raises(ValueError, match="here is 'SH900901', not a known A-share code .*; why$"):
        read_share("here", "SH900901", hint="; why")


def test_lots_of_each_board():
    nan = np.nan
    lots = lot_rule(CODES, ["2019-07-19", "2022-01-04"])  # before STAR and Beijing, and with them
    np.testing.assert_array_equal(lots.minimum, [[100, 100, 100, nan, nan, nan], [100, 100, 100, 200, 200, 100]])
    np.testing.assert_array_equal(lots.step, [[100, 100, 100, nan, nan, nan], [100, 100, 100, 1, 1, 1]])


def test_the_largest_order_of_each_board():
    limit, market = (largest_order(CODES, ["2020-08-21", "2020-08-24"], market=kind) for kind in (False, True))
    million = 1e6
    np.testing.assert_array_equal(limit[0], [million, million, million, 1e5, 1e5, million])
    np.testing.assert_array_equal(limit[1], [million, million, 3e5, 1e5, 1e5, million])
    np.testing.assert_array_equal(market[0], [million, million, million, 5e4, 5e4, million])
    np.testing.assert_array_equal(market[1], [million, million, 1.5e5, 5e4, 5e4, million])


def test_t_plus_1_and_the_least_commission():
    assert settles_next_day(["1995-01-03", "2024-01-02"]).tolist() == [True, True]
    with pytest.raises(ValueError, match="1994-12-30"):
        settles_next_day(["1994-12-30"])
    assert commission_minimum(["2002-05-08", "2024-01-02"]) == 5.0
    with pytest.raises(ValueError, match="2001-01-02"):
        commission_minimum(["2001-01-02"])


def test_special_treatment_narrows_the_limit():
    days = ["2020-08-21", "2020-08-24", "2026-07-03", "2026-07-06"]
    spells = pd.DataFrame({"code": ["sh600519", "SZ300750", "SH600000"], "start": "2020-01-02", "end": None})
    mask = st_mask(spells, CODES, days)
    assert mask[0].tolist() == [True, False, True, False, False, False]
    limit = price_limit(CODES, days, st=mask)
    assert limit[:, 0].tolist() == [0.05, 0.05, 0.05, 0.10]
    assert limit[:, 2].tolist() == [0.05, 0.20, 0.20, 0.20]
    assert limit[:, 1].tolist() == [0.10] * 4
    with pytest.raises(ValueError, match=r"st has shape \(2, 2\)"):
        price_limit(CODES, days, st=np.ones((2, 2), dtype=bool))


def test_spells_from_a_file_include_both_ends(tmp_path):
    path = tmp_path / "st.csv"
    path.write_text("code,start,end\nSH600519,2020-01-02,2020-01-03\nSH600519,2020-01-07,\n")
    days = ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2030-01-01"]
    assert st_mask(path, ["SH600519"], days)[:, 0].tolist() == [False, True, True, False, True, True]
    path.write_text("证券代码\t开始日期\t结束日期\n600519\t20200102\t2020/1/3 15:00\n1\t2020-01-07\t\n", encoding="gbk")
    mask = st_mask(path, ["SH600519", "SZ000001"], days)
    assert mask[:, 0].tolist() == [False, True, True, False, False, False]
    assert mask[:, 1].tolist() == [False, False, False, False, True, True]
    path.write_text("code,start,end\n\nSH600519,01/02/2020,\n")
    with pytest.raises(ValueError, match="st.csv, line 3: start is '01/02/2020', no day"):
        st_mask(path, ["SH600519"], days)
    with pytest.raises(ValueError, match=r"columns code, start, end, once each; there are \['code'\]"):
        st_mask(pd.DataFrame({"code": []}), ["SH600519"], days)
    with pytest.raises(TypeError, match="wanted a frame or the path"):
        st_mask(["SH600519"], ["SH600519"], days)
    with pytest.raises(ValueError, match="row 0: ends on 2019-01-02, before it starts on 2020-01-02"):
        st_mask(pd.DataFrame({"code": ["SH600000"], "start": ["2020-01-02"], "end": ["2019-01-02"]}), CODES, days)


@pytest.mark.parametrize("end", ["9999-12-31", "99991231", None, "", float("nan"), pd.Timestamp("2262-01-01")])
@pytest.mark.parametrize("start", ["2020-01-02", 20200102, "1600-01-01", pd.Timestamp("2020-01-02")])
def test_a_spell_without_an_end_in_any_form(start, end):
    spells = pd.DataFrame({"code": ["SH600519"], "start": [start], "end": [end]})
    assert st_mask(spells, ["SH600519"], ["2020-01-02", "2030-01-02"])[:, 0].tolist() == [True, True]


@pytest.mark.parametrize("value", ["2020-02-30", "soon", "2020-01-02T00:00Z", "31.12"])
@pytest.mark.parametrize("name", ["start", "end"])
def test_a_spell_whose_day_is_none_names_the_row_and_the_cure(name, value):
    rows = {"code": ["SH600519"] * 2, "start": ["2020-01-02"] * 2, "end": ["2021-01-02"] * 2}
    rows[name] = ["2020-06-02", value]
    with pytest.raises(ValueError, match=f"st_mask: row 1: {name} is '{value}', .*2020-01-31"):
        st_mask(pd.DataFrame(rows), ["SH600519"], ["2020-01-02"])


@pytest.mark.parametrize("code", ["SH510300", "SH60000", "SH000300", "510300", ""])
def test_spells_of_a_code_that_is_none_are_an_error(code):
    spells = pd.DataFrame({"code": ["SH600519", code], "start": "2020-01-02", "end": None})
    with pytest.raises(ValueError, match=f"st_mask: row 1: code is '{code}', (an index|not a known|no code)"):
        st_mask(spells, CODES, ["2020-01-02"])


def test_citations_are_those_of_the_span():
    early = {row["id"] for row in citations(["2019-01-02", "2019-12-31"])}
    late = {row["id"] for row in citations(["2024-01-02", "2024-12-31"])}
    assert "cn.fee.stamp_duty_sell.2008-09-19" in early - late
    assert "cn.limit.chinext.2020-08-24" in late - early
    assert {"marina-rules", "lots", "cn.settle.a_share.1995-01-01"} <= early & late
    day = {name: {row["id"]: row for row in citations([name])} for name in ("2023-08-25", "2023-08-28")}
    old, new = (next(iter(set(day[a]) - set(day[b]))) for a, b in (tuple(day), tuple(day)[::-1]))
    assert (old, new) == (
        "cn.fee.stamp_duty_sell.2008-09-19",
        "cn.fee.stamp_duty_sell.2023-08-28",
    )  # ends as that begins
    assert new in {row["id"] for row in citations(["2023-08-25", "2023-08-28"])}
    record = day["2023-08-28"][new]
    assert (
        record["rule"] == "stamp_duty_sell" and record["value"] == 0.0005 and record["effective_from"] == "2023-08-28"
    )
    assert "http" in record["source"] and "证券交易印花税" in record["text"]
    for rows in day.values():
        assert all(set(row) >= {"id", "text", "source"} and row["source"] for row in rows.values())
        assert "marina" in rows["marina-rules"]["text"] and len(rows["marina-rules"]["text"]) > 60
        assert rows["lots"]["rule"] == "lots" and rows["largest_order"]["rule"] == "largest_order"
        assert rows["lots"]["value"]["star"] == (200, 1) and rows["largest_order"]["value"]["star"] == (1e5, 5e4)
    assert scope_of("SH688981") == "star" and scope_of("BJ430047") == "bse"
