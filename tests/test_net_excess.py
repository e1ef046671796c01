"""The metric `net_excess`: what trading a score earns after its costs, cross-fitted over two halves of the days."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qlib_ext.evaluate import NetExcess, daily_metrics, metric_needs_trading, metric_value, newey_west
from qlib_ext.losses import DayLoss
from qlib_ext.nets import MLP
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import Forecast, market_of
from qlib_ext.training import Trainer

DAYS, STOCKS = 60, 80


def market(seed, days=DAYS, stocks=STOCKS, level=0.004):
    """(signal that is right for days, a panel, what trading meets): daily returns of 2% beside the signal's."""
    rng = np.random.default_rng(seed)
    signal = np.zeros((days, stocks))
    signal[0] = rng.normal(size=stocks)
    for d in range(1, days):
        signal[d] = 0.9 * signal[d - 1] + np.sqrt(0.19) * rng.normal(size=stocks)
    step = 0.001 + level * signal + 0.02 * rng.normal(size=signal.shape)

    def grid(values):
        return torch.tensor(np.broadcast_to(values, signal.shape).astype(np.float32))

    every = torch.ones(signal.shape, dtype=torch.bool)
    panel = DayPanel(
        days=np.arange("2022-03-01", days, dtype="datetime64[D]").astype("datetime64[ns]"),
        stocks=np.array([f"SH60{n:04d}" for n in range(stocks)], dtype=object),
        features=["signal"],
        x=grid(signal)[..., None],
        present=every,
        label=grid(step),
        liquidity=grid(rng.lognormal(19.0, 0.5, stocks)),
        volatility=grid(0.02),
        buyable=every.clone(),
        sellable=every.clone(),
        step_return=grid(step),
    )
    return signal, panel, market_of(panel, np.arange(days))


def measured(score, panel, trading, metric="net_excess", **options):
    return metric_value(metric, score, panel.label, panel.liquidity, panel.buyable, trading=trading, **options)


def test_a_good_score_earns_and_noise_does_not():
    values = []
    for seed in range(4):
        signal, panel, trading = market(seed)
        good, error = measured(signal, panel, trading, capital=2e7)
        noise, _ = measured(np.random.default_rng(seed + 100).normal(size=signal.shape), panel, trading, capital=2e7)
        values.append((good, error, noise))
    good, error, noise = np.mean(values, axis=0)
    assert good > 0.001 and good > 4 * error and abs(noise) < 2 * error


def test_an_account_that_expects_nothing_stays_the_mean_portfolio():
    signal, panel, trading = market(1)
    assert np.abs(NetExcess().account(Forecast(), signal, trading, capital=2e7)[:5]).max() < 1e-4


def test_costs_and_size_take_from_it():
    signal, panel, trading = market(1)
    cheap, small, large = (
        measured(signal, panel, trading, metric, capital=capital)[0]
        for metric, capital in ((NetExcess(impact=0.0), 2e7), ("net_excess", 2e7), ("net_excess", 2e9))
    )
    assert cheap > small > large


def test_a_half_is_traded_by_what_the_other_half_taught():
    """With hardly a return in the first half the second half's forecast knows nothing: it stays near the mean stock."""
    signal, panel, trading = market(2)
    blind = trading["step_return"].copy()
    blind[: DAYS // 2] = np.random.default_rng(9).normal(0.0, 1e-4, (DAYS // 2, STOCKS))
    kinds = [NetExcess(), NetExcess(topn={"rank_buffer": 2.0})]
    daily = daily_metrics(
        signal, panel.label, panel.liquidity, names=kinds[:1], capital=2e7, trading=trading | {"step_return": blind}
    )
    first, second = np.split(daily["NetExcess"].to_numpy(), 2)
    assert first.mean() < -5e-4 and abs(second.mean()) < 3e-4  # the first half pays for trades that earn nothing
    known = daily_metrics(signal, panel.label, panel.liquidity, names=kinds[:1], capital=2e7, trading=trading)
    assert known["NetExcess"].to_numpy()[DAYS // 2 :].mean() > 1e-3
    assert (
        measured(signal, panel, trading, kinds[1], capital=2e7)[0] != measured(signal, panel, trading, capital=2e7)[0]
    )


def test_a_bet_on_volatility_is_kept_small():
    """A score that is nothing but volatility, which happened to pay: within the bounds little of it is left."""
    _, panel, _ = market(6, level=0.0)
    rng = np.random.default_rng(6)
    kind = np.broadcast_to(rng.permutation(np.linspace(-1.5, 1.5, STOCKS)), (DAYS, STOCKS))
    step = 0.003 * kind + 0.01 * rng.normal(size=kind.shape)
    changed = {"volatility": 0.02 * np.exp(0.3 * kind), "step_return": step, "label": step}
    panel = replace(panel, **{name: torch.tensor(grid.astype(np.float32)) for name, grid in changed.items()})
    trading = market_of(panel, np.arange(DAYS))
    free, bound = (
        measured(kind, panel, trading, NetExcess(exposures=b), capital=2e7)[0] for b in ({}, {"volatility": 0.2})
    )
    assert free > 2e-3 and bound < 0.5 * free


def test_its_error_allows_for_days_that_resemble_each_other():
    signal, panel, trading = market(3)
    daily = daily_metrics(signal, panel.label, panel.liquidity, names=["net_excess"], trading=trading)["net_excess"]
    assert measured(signal, panel, trading) == newey_west(daily)[:2]


def test_a_training_can_stop_by_it():
    _, panel, _ = market(4, level=0.01)
    torch.manual_seed(0)
    trainer = Trainer(MLP(1, (4,)), DayLoss("ic"), metric="net_excess", epochs=3, lr=0.01, capital=2e7, device="cpu")
    history = trainer.fit(panel, np.arange(30), np.arange(32, DAYS))
    row = history.epochs[-1]
    assert np.isfinite(row["net_excess"]) and row["net_excess_se"] > 0 and row["ic"] > 0.2
    assert history.best_value == max(epoch["net_excess"] for epoch in history.epochs) > 0


def test_what_it_needs_and_refuses():
    signal, panel, trading = market(5, days=7)
    assert metric_needs_trading("net_excess") and not metric_needs_trading("capped_excess")
    assert np.isnan(measured(signal, panel, trading)[0])  # too few days
    with pytest.raises(ValueError, match="needs trading=market_of"):
        metric_value("net_excess", signal, panel.label, panel.liquidity)
    with pytest.raises(ValueError, match="give one of them"):
        NetExcess(topn={}, policy={})
    with pytest.raises(TypeError, match="risk_aversoin"):
        NetExcess(policy={"risk_aversoin": 1.0})
    with pytest.raises(ValueError, match="unknown exposure of NetExcess 'volatilty'.*volatility"):
        NetExcess(exposures={"volatilty": 0.1})
