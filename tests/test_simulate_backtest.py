"""`simulate` against qlib's backtest of the strategy on AShareExchange, day by day, where lots are off."""

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.backtest import backtest
from qlib.data import D

from qlib_ext.exchange import AShareExchange
from qlib_ext.portfolio import Forecast, Risk, exposures, simulate
from qlib_ext.provider import load_liquidity, read_traded
from qlib_ext.strategy import CostAwareStrategy, LiquidityTopNStrategy
from qlib_ext.synthetic import make_market

ENDS = "SH601600"  # is delisted on the way, and always liked until then
FIRST, LAST = 30, 200
STEPS = {"time_per_step": "day", "generate_portfolio_metrics": True}
EXECUTOR = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": STEPS}


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """(days, liquidity, score): signals that persist for some days, with gaps."""
    path = make_market(tmp_path_factory.mktemp("simulate") / "market", n_stocks=80, years=1, start="2021-06-01")
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    days = pd.DatetimeIndex(D.calendar(freq="day"))
    codes = [c for c in D.list_instruments(D.instruments("all"), as_list=True) if not c.startswith(("SH000", "SZ399"))]
    rng = np.random.default_rng(5)
    noise = pd.DataFrame(rng.normal(size=(len(days), len(codes))), days, sorted(codes))
    score = noise.ewm(halflife=3).mean().where(rng.random(noise.shape) < 0.95)
    score[ENDS] = 9.0
    score.iloc[60] = np.nan
    return days, load_liquidity(sorted(codes), days[0], days[-1]), score


def both(market, kind, exchange, *, account, **options):
    """(qlib's report, the simulation's daily frame by the day of the trades, the strategy, the exchange)."""
    days, liquidity, score = market
    dealt = AShareExchange(start_time=days[FIRST], end_time=days[LAST], codes=list(score.columns), **exchange)
    eve = days[FIRST - 1 : LAST]
    signal = score.loc[eve].stack().rename_axis(["datetime", "instrument"])
    strategy = kind(signal=signal, liquidity_frame=liquidity, **options)
    kwargs = {"benchmark": None, "account": account, "exchange_kwargs": {"exchange": dealt}}
    report, _ = next(iter(backtest(days[FIRST], days[LAST], strategy, EXECUTOR, **kwargs)[0].values()))
    rules = dealt.day_rules
    where = [dealt.quote.codes.index(code) for code in score.columns]
    price = rules.last_close[:, where].astype(float)
    step = np.full(price.shape, np.nan)
    step[:-1] = price[1:] / price[:-1] - 1.0
    gone = np.arange(len(price))[:, None] >= rules.gone[where]
    locked = [np.asarray(rules.data[name])[:, where] for name in ("limit_buy", "limit_sell")]
    rates = [dealt.fee_rates(day) for day in days[FIRST : LAST + 1]]
    close = read_traded(list(score.columns), ["$close"], days[0], days[LAST])["$close"].astype(float)
    risk = {name: pd.DataFrame(grid, close.index).ffill() for name, grid in vars(Risk.of_closes(close)).items()}
    told = {name: grid.loc[eve].to_numpy() for name, grid in risk.items()}
    loads = exposures(score.loc[eve].notna().to_numpy(), volatility=rules.sigma[:, where])
    daily = simulate(
        strategy.policy,
        score.loc[eve],
        liquidity=liquidity.loc[eve, score.columns],
        volatility=rules.sigma[:, where],
        step_return=step,
        buyable=~locked[0] & ~gone,
        sellable=~locked[1] & ~gone,
        delisted=gone,
        risk=Risk(told["specific"], told["beta"], told["market"][:, 0]),
        exposures=loads["volatility"][..., None],
        buy_rate=[buy for buy, _ in rates],
        sell_rate=[sell for _, sell in rates],
        account=account,
        participation=options.get("trade_participation", 0.05),
        min_holding=options.get("min_holding", 0),
    ).daily
    return report, daily.set_index(report.index), strategy, dealt


SETTINGS = [
    {"capital": 2e8},
    {"rank_buffer": 2.0, "participation": 0.02, "trade_participation": 0.01},
    {"capital": 5e7, "rank_buffer": [8, 20], "min_holding": 4},
    {"top_n": 10, "score_halflife": 3.0, "participation": 0.3},
]


@pytest.mark.parametrize(("options", "limit_threshold"), zip(SETTINGS, [None, "rules", None, "rules"], strict=True))
def test_the_account_is_the_backtest_s(market, options, limit_threshold):
    """Fees with their minimum, impact, caps, cash in the order of ranks, suspensions, limits, a delisting: the same."""
    exchange = {"trade_unit": None, "limit_threshold": limit_threshold}
    report, daily, strategy, dealt = both(market, LiquidityTopNStrategy, exchange, account=2e8, **options)
    np.testing.assert_allclose(daily["value"], report["account"], rtol=1e-9)
    np.testing.assert_allclose(daily["cash"], report["cash"], atol=0.1)
    before = 2e8 * (1 + daily["net"]).cumprod().shift(1, fill_value=1.0)
    paid = (daily["fees"] + daily["impact"]) * before
    assert paid.cumsum().to_numpy() == pytest.approx(report["total_cost"].to_numpy(), rel=1e-9)
    assert (daily["turnover"] * before).cumsum().to_numpy() == pytest.approx(
        report["total_turnover"].to_numpy(), rel=1e-9
    )
    assert dealt.settled["code"].tolist() == [ENDS] and daily["turnover"].mean() > 0.05
    log = pd.DataFrame(strategy.daily_log)
    assert (log[["blocked_buy", "trade_cap"]].sum() > 0).all()


@pytest.mark.parametrize("options", [{"exposures": None}, {"exposures": {"volatility": 0.3}, "max_weight": 0.1}])
def test_the_account_of_a_cost_aware_strategy_is_the_backtest_s(market, options):
    forecast = Forecast(
        0.0, (0.02, 0.5, 0.98), (-0.01, 0.0, 0.01), (5.0,), persistence=0.8, spread=4e-3, significant=True
    )
    more = {"account": 2e8, "forecast": forecast, **options}
    report, daily, *_ = both(market, CostAwareStrategy, {"trade_unit": None}, **more)
    np.testing.assert_allclose(daily["value"], report["account"], rtol=1e-6)
    assert daily["turnover"].mean() > 0.02 and daily["names"].mean() > 5


def test_lots_make_little_difference_without_a_rank_buffer(market):
    report, daily, *_ = both(market, LiquidityTopNStrategy, {}, account=2e8, capital=2e8)
    apart = (daily["value"] / report["account"] - 1.0).abs()
    assert 0 < apart.max() < 2e-4
