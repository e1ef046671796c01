"""What trades pay for impact: published rules by hand, and b recovered from simulated executions."""

import numpy as np
import pandas as pd
import pytest
import test_data
from qlib.data import D

from qlib_ext import cli
from qlib_ext.portfolio import almgren_rate, fit_impact, rules_table
from qlib_ext.provider import calendar, load_liquidity, read_traded
from qlib_ext.rules import is_a_share
from qlib_ext.strategy import read_executions, with_market

B = 0.6


def orders(seed, *, days=80, each=25, market=0.3, jumps=0.02, b=B):
    """Simulated orders: what b says, the market's move of the day, noise, and some jumps of four deviations."""
    rng = np.random.default_rng(seed)
    n = days * each
    liquidity, volatility = rng.lognormal(18, 1, n), rng.uniform(0.01, 0.05, n)
    yuan, side = liquidity * rng.lognormal(-4, 1, n), np.where(rng.random(n) < 0.5, 1.0, -1.0)
    move = np.repeat(market * rng.normal(size=days), each) + 0.3 * rng.normal(size=n)
    move += np.where(rng.random(n) < jumps, 4.0 * np.sign(move), 0.0)
    paid = side * b * np.sqrt(yuan / liquidity) + move  # in standard deviations of the price's return
    return pd.DataFrame(
        {
            "day": np.repeat(np.arange(days), each), "side": np.where(side > 0, "buy", "sell"), "yuan": yuan,
            "arrival": 10.0, "average": 10.0 * (1.0 + volatility * paid), "liquidity": liquidity,
            "volatility": volatility,
        }
    )  # fmt: skip


def test_published_rules_by_hand():
    """4% of the turnover at a volatility of 2.8%: 0.2 * 280 = 56 basis points at b = 1."""
    fills = pd.DataFrame({"day": 1, "code": ["A", "A"], "yuan": [1e4, 3e4], "used": [0.01, 0.03], "volatility": 0.028})
    table = rules_table(fills)  # two fills of a stock and day are one order
    assert table["bp_of_traded"].to_dict() == pytest.approx(
        {"b033": 56 / 3, "b067": 112 / 3, "b100": 56, "toth": 112 / 3, "almgren_day": 9.97, "almgren_half_hour": 24.28},
        abs=0.01,
    )
    temporary, permanent = 0.142 * 280 * 0.04**0.6, 0.314 * 280 * 0.04 * 33**0.25
    assert 1e4 * almgren_rate(0.04, 0.028) == pytest.approx(temporary + permanent / 2)
    assert table.loc["b100", "yuan"] == pytest.approx(4e4 * 56e-4)
    millions = rules_table(fills.assign(yuan=fills["yuan"] / 1e6))  # a share of what was dealt, in any money
    np.testing.assert_allclose(millions["bp_of_traded"], table["bp_of_traded"])
    assert rules_table(fills.iloc[:0])["bp_of_traded"].isna().all()


def test_almgren_by_part_of_the_day_and_float():
    # a quarter of the turnover in a quarter of the day: 0.142; the float of 16 days: half of 0.314 * 0.25 * 2
    assert almgren_rate(0.25, 0.02, day=0.25, float_days=16.0) == pytest.approx(0.02 * (0.142 + 0.0785))
    fills = pd.DataFrame({"day": 1, "code": ["A", "B", "C", "D"], "yuan": 1e4, "used": [0.25, 0.25, np.nan, 0.25]})
    fills["volatility"] = [0.02, 0.02, 0.02, np.nan]  # two orders of 1%; what has no turnover or volatility is left out
    table = rules_table(fills, float_days=16.0)
    assert table.loc["b100"].tolist() == pytest.approx([200.0, 100.0])
    assert table.loc["almgren_day", "bp_of_traded"] == pytest.approx(200 * (0.142 * 0.25**0.6 + 0.0785))
    assert table.loc["almgren_half_hour", "bp_of_traded"] == pytest.approx(200 * (0.142 * 2**0.6 + 0.0785))


def test_b_and_its_error_by_hand():
    # sqrt(x / V) = 0.1; paid 0.05, 0.06, 0.10 deviations: b = 0.7, left over -0.02, -0.01, 0.03, none of them far out.
    # Three days: sqrt(3 / 2 * (0.002^2 + 0.001^2 + 0.003^2)) / (3 * 0.01)
    rows = pd.DataFrame({"day": [1, 2, 3], "side": ["buy", "sell", "buy"], "yuan": 1e4, "arrival": 20.0})
    rows = rows.assign(average=20.0 * (1 + 0.02 * np.array([0.05, -0.06, 0.10])), liquidity=1e6, volatility=0.02)
    assert fit_impact(rows) == pytest.approx((0.7, np.sqrt(1.5 * 14e-6) / 0.03))
    # left over -0.02, -0.02, 0.02, 0.02, the first two on one day: their scores are added
    four = pd.concat([rows, rows.iloc[:1]]).assign(day=[1, 1, 2, 3], side="sell")
    four["average"] = 20.0 * (1 - 0.02 * np.array([0.05, 0.05, 0.09, 0.09]))
    assert fit_impact(four) == pytest.approx((0.7, np.sqrt(1.5 * (0.004**2 + 2 * 0.002**2)) / 0.04))


def test_b_solves_hubers_equation_and_the_error_is_that_of_days():
    rows = orders(2)
    b, error = fit_impact(rows)
    sign, x = np.where(rows["side"] == "buy", 1.0, -1.0), np.sqrt(rows["yuan"] / rows["liquidity"])
    rest = sign * (rows["average"] / rows["arrival"] - 1.0) / rows["volatility"] - b * x
    edge = 1.345 * rest.abs().median() / 0.6745  # a normal law's standard deviation from its median
    pull = rest.clip(-edge, edge)
    assert abs((pull * x).sum()) < 1e-7 * (rest * x).abs().sum() and (pull != rest).sum() > 100
    days = (pull * x).groupby(rows["day"]).sum()
    slope = (x**2)[rest.abs() <= edge].sum()
    assert error == pytest.approx(np.sqrt(80 / 79 * (days**2).sum()) / slope, rel=1e-6)


def test_b_is_found_within_its_error():
    """Over thirty draws, each with a market that all orders of a day share, and with jumps."""
    fits = np.array([fit_impact(orders(seed)) for seed in range(30)])
    off = (fits[:, 0] - B) / fits[:, 1]
    assert abs(off.mean()) < 3 / np.sqrt(30) and 0.7 < off.std() < 1.4
    assert (fits[:, 1] < 0.1).all()


def test_orders_of_a_day_are_no_independent_evidence():
    """All buy and the market moves as one: the error is that of days."""
    one = orders(0, market=1.0, jumps=0.0)
    one = one[one["side"] == "buy"]
    each = one.assign(day=np.arange(len(one)))
    assert fit_impact(one)[1] > 2 * fit_impact(each)[1]
    assert fit_impact(one)[0] == fit_impact(each)[0]


def test_without_noise_it_is_exact():
    rows = orders(1, market=0.0, jumps=0.0)
    sign, root = np.where(rows["side"] == "buy", 1.0, -1.0), np.sqrt(rows["yuan"] / rows["liquidity"])
    rows["average"] = 10.0 * (1.0 + sign * B * rows["volatility"] * root)
    assert fit_impact(rows) == pytest.approx((B, 0.0), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"side": "long"}, "side is 'long'; allowed: buy, sell"),
        ({"yuan": 0.0}, "row 0: yuan is 0.0; it must be a number above 0"),
        ({"volatility": np.nan}, "row 0: volatility is nan"),
        ({"day": 1}, "executions of 1 days: an error needs three"),
    ],
)
def test_what_cannot_be_fitted_is_an_error(change, match):
    with pytest.raises(ValueError, match=match):
        fit_impact(orders(0).assign(**change))
    with pytest.raises(ValueError, match=r"lack \['arrival'\]"):
        fit_impact(orders(0).drop(columns="arrival"))


def test_the_command_fits_a_file(base, tmp_path, capsys):
    """Executions of the embedded market by a known b, in a broker's words; of the close before, and no day later."""
    test_data.start_qlib(base, tmp_path)
    days, rng = calendar(), np.random.default_rng(0)
    codes = [c for c in D.list_instruments(D.instruments("all"), as_list=True) if is_a_share(c)][:12]
    span = days[100:160]
    liquidity = load_liquidity(codes, days[60], span[-1], profile="community").shift(1)
    close = read_traded(codes, [], days[60], span[-1])["$close"].astype(float)
    sigma = (close / close.shift(1) - 1).rolling(20, min_periods=2).std().ffill().shift(1)
    lines = ["成交日期,证券代码,买卖标志,成交金额,到达价,成交均价"]
    for day in span:
        for code in codes:
            traded, deviation = liquidity.ffill().at[day, code], sigma.at[day, code]
            if np.isfinite(traded) and np.isfinite(deviation):
                yuan, sign = 0.02 * traded * rng.random(), rng.choice([1.0, -1.0])
                paid = sign * B * deviation * np.sqrt(yuan / traded) + 0.1 * deviation * rng.normal()
                side = "买入" if sign > 0 else "卖出"
                lines.append(f"{day:%Y/%m/%d},{code[2:]},{side},{yuan:.2f},10,{10 * (1 + paid):.8f}")
    file = tmp_path / "own.csv"
    file.write_text("\n".join(lines), encoding="gbk")
    known = with_market(read_executions(file))
    row = known.iloc[0]
    assert row["liquidity"] == pytest.approx(liquidity.ffill().at[row["day"], row["code"]], rel=1e-6)
    assert row["volatility"] == pytest.approx(sigma.at[row["day"], row["code"]], rel=1e-5)
    assert cli.main(["fit-impact", str(file), "--provider-uri", str(base)]) == 0
    said = capsys.readouterr()
    b, error = (float(part.split()[0]) for part in said.out.removeprefix("b = ").split(" +- "))
    assert abs(b - B) < 4 * error < 0.4 and "60 days" in said.err


def test_what_was_known_at_the_close_before(monkeypatch):
    """By hand: the liquidity of the eve or the last before it, the deviation likewise."""
    days, asked = pd.bdate_range("2022-01-03", periods=5), []
    close = pd.DataFrame({"A": [10.0, 11.0, 13.2, np.nan, 9.0], "B": [5.0, 6.0, 6.0, 6.0, 6.0]}, days)
    traded = pd.DataFrame({"A": [2e6, 0.5, np.nan, 0.0, 9e6], "B": [3e6, np.nan, 0.0, 4e6, 9e6]}, days)

    def read(*names, **options):
        asked.append((names, options))
        return {"$close": close[:4]}

    def liquidity(*names, **options):
        asked.append((names, options))
        return traded[:4]

    for name, answer in (("calendar", lambda: days), ("read_traded", read), ("load_liquidity", liquidity)):
        monkeypatch.setattr(f"qlib_ext.strategy.executions.{name}", answer)
    orders = pd.DataFrame({"day": days[[4, 3, 3, 1]], "code": ["A", "B", "A", "B"], "yuan": 1.0}, [2, 3, 5, 7])
    known = with_market(orders, profile="p", window=2)
    assert asked == [
        ((["A", "B"], [], days[0], days[3]), {"lead": 250}),
        ((["A", "B"], days[0], days[3]), {"profile": "p", "window": 2, "past": True}),
    ]
    # A to the 5th: 10%, 20%; its 6th has no bar. B to the 5th: 20%, 0. B to the 3rd: no return yet.
    assert known.index.tolist() == [2, 3, 5] and known.attrs["left_out"] == 1 and "liquidity" not in orders
    assert known["liquidity"].tolist() == [0.5, 3e6, 0.5]
    assert known["volatility"].tolist() == pytest.approx([0.1 / 2**0.5, 0.2 / 2**0.5, 0.1 / 2**0.5])
    early = with_market(orders.iloc[:3].assign(day=days[[2, 2, 3]], code=["B", "A", "A"]), window=2)
    assert asked[-1][1] == {"profile": "auto", "window": 2, "past": True} and early.attrs["left_out"] == 2
    for day in (days[0], pd.Timestamp("2022-01-08")):
        words = f"line 5: {day:%Y-%m-%d} is no trading day .* with one before it .2022-01-03 to 2022-01-07"
        with pytest.raises(ValueError, match=words):
            with_market(orders.assign(day=[days[1], days[4], day, day]))
    with pytest.raises(ValueError, match="no order has a known liquidity"):
        with_market(orders[3:])


def test_a_file_of_executions_by_hand(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(
        "date,code,side,yuan,arrival,average\n2022-01-04,600000,B,0.5,0.2,0.25\n\n20220105,1, 卖 ,2e3,10,9\n"
    )
    assert read_executions(file).to_dict("split") == {
        "index": [2, 4],
        "columns": ["day", "code", "side", "yuan", "arrival", "average"],
        "data": [
            [pd.Timestamp("2022-01-04"), "SH600000", "buy", 0.5, 0.2, 0.25],
            [pd.Timestamp("2022-01-05"), "SZ000001", "sell", 2e3, 10.0, 9.0],
        ],
    }


def test_a_deal_at_the_widest_limit_is_one_of_the_day(tmp_path):
    """Limits are rounded to cents: 20% up from 31.28 is 37.54, 30% up from 3.33 is 4.33, both a little beyond."""
    file = tmp_path / "own.csv"
    rows = ["2022-01-04,300001,buy,1e5,31.28,37.54", "2022-01-04,BJ430001,sell,1e5,3.33,4.33"]
    file.write_text("\n".join(["date,code,side,yuan,arrival,average", *rows]))
    assert read_executions(file)["average"].tolist() == [37.54, 4.33]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("2022-01-04,600000,hold,1e5,10,10.1", r"line 2: side is 'hold'; allowed: buy, sell"),
        ("2022-01-04,600000,buy,1e5,10,14", r"line 2: average 14 is more than 31% from arrival 10"),
        ("2022-01-04,600000,buy,-1,10,10.1", r"line 2: yuan is -1; it must be above 0"),
        ("2022-01-04,600000,buy,some,10,10.1", r"line 2: yuan is 'some'"),
        ("2022-01-04,600000,buy,0,10,10.1", r"line 2: yuan is 0; it must be above 0"),
        ("2022-01-04,000300.SH,buy,1e5,10,10.1", r"line 2: code is '000300.SH', an index"),
        ("01/02/2022,600000,buy,1e5,10,10.1", r"line 2: date is '01/02/2022', no day"),
    ],
)
def test_a_file_that_is_not_surely_understood_is_refused(tmp_path, row, match):
    file = tmp_path / "own.csv"
    file.write_text(f"date,code,side,yuan,arrival,average\n{row}\n")
    with pytest.raises(ValueError, match=match):
        read_executions(file)


def test_the_command_tells_what_is_no_row_an_order(base, tmp_path, capsys):
    """Two fills of one order, and yuan that nobody can have dealt."""
    test_data.start_qlib(base, tmp_path)
    code = next(c for c in D.list_instruments(D.instruments("all"), as_list=True) if is_a_share(c))
    close = read_traded([code], [], *calendar()[[100, 160]])["$close"][code].dropna()
    lines = [f"{day.date()},{code},buy,1e5,10,10.01" for day in close.index[5:9]]
    file = tmp_path / "own.csv"
    file.write_text(
        "\n".join(["date,code,side,yuan,arrival,average", *lines, lines[2], lines[3].replace("1e5", "1e13")])
    )
    assert cli.main(["fit-impact", str(file), "--provider-uri", str(base)]) == 0
    said = capsys.readouterr().err
    assert "note: 4 orders share day, stock and side with another (line 4 is the first)" in said
    assert "note: 1 orders are above a whole day's turnover" in said and "(line 7)" in said
