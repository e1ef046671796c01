"""Artifacts of a run for the tests of its page."""

from dataclasses import replace

import numpy as np
import pandas as pd

from qlib_ext import evaluate, record
from qlib_ext.exchange import SETTLED
from qlib_ext.portfolio import Forecast, rules_table
from qlib_ext.record import selections
from qlib_ext.report import Context

CONTEXT = Context(title="a run", universe="csi300", capital=100.0, benchmark="SH000300")
MONEY, TRADES = "liquidity_analysis/", "portfolio_analysis/"
DAYS = pd.bdate_range("2022-01-04", periods=45)
FALLS = ("drawdowns", "excess_drawdowns")


def make_forecast(rng, sign):
    """A forecast of a score that predicts, or does not."""
    score = rng.normal(size=(45, 30))
    forecast = Forecast.fit(score, 0.004 * sign * score + rng.normal(0, 0.01, score.shape), horizons=[1, 2, 5])
    error = forecast.half_life_error or 5.0  # a score that predicts nothing has no half-life, hence no error of it
    return replace(forecast, first="2021-10-08", last="2021-12-31", half_life_error=error)


def make_artifacts(seed=0, sign=1.0):
    """Artifacts of all records, small and random."""
    rng = np.random.default_rng(seed)
    names = [f"{kind}_buyable_{money}{over}" for kind in ("capped", "topn") for money in ("gross", "net", "net_impact")
             for over in ("", "_over_market", "_over_buyable", "_over_SH000300")]  # fmt: skip
    means = ("market", "buyable", "SH000300")
    returns = {name: pd.Series(sign * rng.normal(0.002, 0.01, len(DAYS)), DAYS) for name in (*names, *means)}
    daily = pd.DataFrame(returns)
    for name in ("ic", "rank_ic", "capped_cash_share", "capped_names_held", "volatility_exposure"):
        daily[name] = rng.uniform(0, 0.2, len(DAYS))
    index = pd.MultiIndex.from_product([DAYS, ["SH600000", "SZ300001"]], names=["datetime", "instrument"])
    positions = pd.DataFrame({"yuan": rng.uniform(10, 50, len(index))}, index)
    table = pd.DataFrame({"mean_ic": [0.1, 0.2], "gross_annual_return": [0.3, sign * 0.4]}, index=["model", "reversal"])
    table = table.assign(days=45, first=DAYS[0], last=DAYS[-1])
    quality = pd.DataFrame({"value": [0.05, 0.06], "standard_error": [0.01, 0.02], "t": [5.0, 3.0], "days": [45, 45]})
    blocks = pd.DataFrame(
        {
            "fold": np.repeat([0, 1], 45),
            "day": np.tile(DAYS, 2),
            "part": np.tile(["train"] * 30 + ["gap"] * 2 + ["valid"] * 13, 2),
        }
    )
    ics = pd.DataFrame(
        0.03 * 0.5 ** (np.arange(20) / 8) + np.random.default_rng(9).normal(0, 0.01, (45, 20)), columns=range(1, 21)
    )
    ics = {name: ics.rename_axis(columns="lag") for name in ("score", "head_5")}
    curves = pd.DataFrame({"fold": [0, 0, 1, 1], "seed": 0, "epoch": [1, 2, 1, 2], "train_loss": [3.0, 2, 3, 1],
                           "valid_loss": [3.0, 2.5, 3, 2], "rank_ic": [0.01, 0.02, 0.03, 0.01]})  # fmt: skip
    fills = pd.DataFrame({"day": DAYS[:4], "code": "SH600000", "side": "buy", "yuan": [1e4, 2e4, 3e4, 4e4],
                          "commission": 3.0, "transfer": 1.0, "stamp_duty": 0.0, "impact": 6.0,
                          "used": [0.01, 0.02, 0.03, 0.05], "volatility": 0.02})  # fmt: skip
    blocked = pd.DataFrame({"day": DAYS[[0, 1, 1]], "code": ["A", "B", "A"], "side": ["buy", "buy", "sell"],
                            "wanted": [100.0, 50.0, 30.0], "dealt": [40.0, 0.0, 0.0],
                            "reason": ["limit_up", "limit_up", "suspended"]})  # fmt: skip
    account = pd.DataFrame(
        {"return": sign * rng.normal(0.001, 0.01, 45), "cost": 0.001, "bench": 0.001, "turnover": 0.5}, DAYS
    )
    tear = make_tear(account, rng)
    if sign < 0:  # as many drawdowns: the page's words are compared
        tear |= {name: make_tear(account.assign(**{"return": -account["return"]}), rng)[name] for name in FALLS}
    return {
        "label.pkl": pd.DataFrame({"LABEL0": rng.normal(0, 0.01, len(index))}, index),
        f"{MONEY}daily.pkl": daily,
        f"{MONEY}headline.pkl": evaluate.headline_table(returns, ic=daily["ic"], unscored=means),
        f"{MONEY}definitions.pkl": evaluate.DEFINITIONS
        | record.ROW_DEFINITIONS
        | evaluate.DIAGNOSTICS_DEFINITIONS
        | {f"lags.{key}": words for key, words in evaluate.LAG_DEFINITIONS.items()}
        | record.FACTOR_DEFINITIONS
        | {f"{name}.{key}": text for name, of in evaluate.SCORE_TEAR_DEFINITIONS.items() for key, text in of.items()},
        f"{MONEY}diagnostics.pkl": quality.set_axis(["ic", "rank_ic"]),
        f"{MONEY}positions.pkl": positions.assign(weight=positions["yuan"] / 100, liquidity=1000.0),
        f"{MONEY}quantiles.pkl": pd.DataFrame(rng.normal(0, 0.01, (45, 10)), DAYS, pd.RangeIndex(1, 11)),
        "forecast.json": make_forecast(rng, sign).to_dict(),
        f"{MONEY}lags.pkl": pd.concat({name: evaluate.ic_by_lag(one) for name, one in ics.items()}, names=["score"]),
        f"{MONEY}decay.pkl": evaluate.decay_table(ics).assign(weight=pd.Series({"head_5": 1.0})),
        f"{MONEY}exposures.pkl": pd.DataFrame(rng.uniform(-1, 1, (45, 2)), DAYS, ["volatility", "liquidity"]),
        f"{MONEY}selection.pkl": "nothing",
        f"{MONEY}capacity.pkl": pd.DataFrame(
            {"gross": [0.2, 0.1], "net_excess": [0.1, -0.1], "cash_share": [0.0, 0.5]}, index=[1e7, 1e9]
        ),
        f"{MONEY}capacity_topn.pkl": pd.DataFrame({"gross": [0.3, 0.1], "cash_share": [0.0, 0.9]}, index=[1e7, 1e9]),
        "fold_analysis/headline_folds.pkl": table.set_axis(["fold 0", "test"]).assign(selected="text"),
        "fold_analysis/definitions.pkl": record.TABLE_DEFINITIONS,
        "folds/fold_map.pkl": blocks,
        "folds/curves.pkl": curves,
        "baselines/baselines.pkl": table,
        "gate/weights.pkl": pd.DataFrame(rng.uniform(0, 2, (45, 4)), DAYS, list("abcd")),
        "gate/regimes.pkl": make_regimes(),
        f"{TRADES}report_normal_1day.pkl": account,
        f"{TRADES}blocked.pkl": blocked,
        f"{TRADES}fills.pkl": fills,
        f"{TRADES}settled.pkl": pd.DataFrame({"day": [DAYS[3]], "code": ["C"], "yuan": [5.0]}),
        f"{TRADES}rules_citations.pkl": [{"id": "x", "rule": "lots", "text": "<b>quoted</b>", "source": "law"}],
        f"{TRADES}waterfall.pkl": pd.DataFrame({"annual_return": [0.5, sign * 0.2]}, index=["paper", "impact"]),
        f"{TRADES}account.pkl": pd.DataFrame({"account_excess": [0.1, sign * 0.2]}, index=[1.0, 1 / 3]),
        f"{TRADES}tear_account.pkl": tear,
        f"{MONEY}tear_score.pkl": make_score_tear(),
        f"{TRADES}execution.pkl": {"some_table": pd.DataFrame({"yuan": [1.0, 2.0]}, index=["p", "q"])},
    }  # fmt: skip


def make_tear(account, rng, trials=None):
    """The tear sheet of an account, over a mean stock and a benchmark."""
    book = pd.DataFrame(np.random.default_rng(2).uniform(-1, 3, (len(account), 6)), account.index, list("ABCDEF"))
    mean = pd.Series(np.random.default_rng(3).normal(0.0005, 0.01, len(account)), account.index)
    return evaluate.account_tear(account, mean, mean + 0.0002, holdings=book.where(book > 0), trials=trials)


def make_score_tear(days=DAYS, stocks=60):
    """The tear sheet of a score."""
    rng = np.random.default_rng(4)
    score, step = rng.normal(size=(len(days), stocks)), rng.normal(0.0, 0.02, (len(days), stocks))
    held = pd.DataFrame(np.where(score > 0.5, score, np.nan), days)
    kinds = np.array(["bank", "steel"], dtype=object)[np.arange(stocks) % 2]
    factors = {"volatility": np.abs(step), "industry": np.tile(kinds, (len(days), 1))}
    return {
        "horizons": evaluate.horizon_ics(score, step),
        "autocorrelation": evaluate.rank_autocorrelation(score),
        "overlap": evaluate.holdings_overlap(held),
        "groups": evaluate.group_ics(score, step, factors),
    }


def make_full_artifacts():
    """The same with the backtest's own tables, made by `execution`, and what a real run's records say in words."""
    made = make_artifacts()
    account, fills = made[f"{TRADES}report_normal_1day.pkl"], made[f"{TRADES}fills.pkl"]
    rng = np.random.default_rng(1)
    book = pd.DataFrame(rng.uniform(1e5, 1e6, (len(DAYS), 2)), DAYS, ["SH600000", "SZ300001"])
    settled = [(DAYS[3], "SZ000001", kind, 100.0, 5.0, 1.0, 2.0) for kind in ("last_price", "write_off")]
    settled = pd.DataFrame(settled, columns=list(SETTLED))
    columns = ["target", "value", "held", "cash", "unreached", "unreached_names", "share_reached", "names"]
    log = pd.DataFrame(rng.uniform(0.5, 1.0, (5, len(columns))), DAYS[:5], columns).rename_axis("date").reset_index()
    value = pd.Series(1e6, DAYS)
    tables = {
        "performance": evaluate.performance(account),
        "target_reached": evaluate.target_reached(log),
        "turnover": evaluate.turnover(fills, value),
        "cost_split": evaluate.cost_split(fills, value, settled),
        "impact_rules": rules_table(fills),
        "participation": evaluate.participation_histogram(fills),
        "blocked": evaluate.blocked_by_reason(made[f"{TRADES}blocked.pkl"]),
        "book": evaluate.book(book, value),
        "liquidation": evaluate.days_to_liquidate(book, book * 10, 0.05),
    }
    for name, table in tables.items():
        table.attrs.setdefault("definitions", evaluate.EXECUTION_DEFINITIONS[name])
    words = {
        f"{table}.{key}": text for table, known in evaluate.EXECUTION_DEFINITIONS.items() for key, text in known.items()
    }
    members = pd.DataFrame({"fold": [0, 1], "seed": 0, "best_epoch": 1, "best_value": 0.1, "metric": "rank_ic"})
    folds = pd.concat([made["fold_analysis/headline_folds.pkl"]] * 2).set_axis(
        ["fold 0", "mean over folds", "all out-of-fold days", "test"]
    )
    return made | {
        f"{MONEY}selection.pkl": f"test {DAYS[0].date()} to {DAYS[-1].date()}: nothing was selected on it by this run",
        "fold_analysis/headline_folds.pkl": folds.assign(selected=list(selections(members, walked=False).values())),
        "fold_analysis/definitions.pkl": evaluate.DEFINITIONS | record.TABLE_DEFINITIONS,
        "folds/members.pkl": members,
        f"{TRADES}settled.pkl": settled,
        f"{TRADES}execution.pkl": tables,
        f"{TRADES}capacity_strategy.pkl": make_strategy_capacity(),
        f"{TRADES}definitions.pkl": words
        | {f"waterfall.{key}": text for key, text in evaluate.STAGES.items()}
        | {f"capacity_strategy.{key}": text for key, text in evaluate.STRATEGY_CAPACITY_DEFINITIONS.items()}
        | {f"account.{key}": text for key, text in evaluate.ACCOUNT_METRICS.items()}
        | {f"{name}.{key}": text for name, of in evaluate.ACCOUNT_TEAR_DEFINITIONS.items() for key, text in of.items()},
        f"{MONEY}definitions.pkl": made[f"{MONEY}definitions.pkl"]
        | {f"capacity.{key}": text for key, text in evaluate.CAPACITY_DEFINITIONS.items()},
    }


def make_strategy_capacity():
    """As `evaluate.strategy_curve` gives it; at b = 1 the excess falls through zero half way in the log."""
    rows = pd.MultiIndex.from_product([[1 / 3, 1.0], [1e7, 1e9]], names=["b", "capital"])
    excess = [0.2, 0.1, 0.1, -0.1]
    columns = {name: excess for name in evaluate.STRATEGY_CAPACITY_DEFINITIONS if name not in rows.names}
    return pd.DataFrame(columns, rows)


def make_regimes():
    """As `gate_record.regimes` writes it: by feature, those that move most first."""
    moved = ["vix_level", "us10y_level", "vix_level", "cpi_level"]
    numbers = {"correlation": [0.9, -0.8, 0.7, -0.6], "low": [0.4, 1.3, 1.2, 1.1], "high": [1.6, 0.7, 0.8, 0.9]}
    return pd.DataFrame({"mean": 1.0, "standard_deviation": 0.1, "moved_by": moved, **numbers}, index=list("dbca"))


def make_large_artifacts(held=200):
    """Three years of the whole market: every frame by day or by fill as long as it would be then."""
    made, rng = make_full_artifacts(), np.random.default_rng(0)
    days, codes = pd.bdate_range("2020-01-02", periods=730), np.array([f"SH{600000 + i}" for i in range(5000)])
    chosen = np.concatenate([rng.choice(5000, held, replace=False) for _ in days])
    index = pd.MultiIndex.from_arrays([np.repeat(days, held), codes[chosen]], names=["datetime", "instrument"])
    yuan = rng.uniform(1e5, 1e7, len(index))
    positions = pd.DataFrame({"yuan": yuan, "weight": yuan / 150e6, "liquidity": 20 * yuan}, index)

    def by_day(path, names=None):
        names = made[path].columns if names is None else names
        return pd.DataFrame(rng.uniform(0.0, 0.01, (len(days), len(names))), days, names)

    def rows(path, count):
        few = made[path]
        return few.iloc[rng.integers(0, len(few), count)].assign(day=np.repeat(days, count // len(days)))

    fills, blocked = (rows(f"{TRADES}{name}.pkl", 730 * 240) for name in ("fills", "blocked"))
    daily = {f"{MONEY}{name}.pkl": by_day(f"{MONEY}{name}.pkl") for name in ("daily", "quantiles", "exposures")}
    account = f"{TRADES}report_normal_1day.pkl"
    return made | daily | {
        f"{MONEY}positions.pkl": positions,
        "label.pkl": pd.DataFrame({"LABEL0": rng.normal(0, 0.01, len(index))}, index),
        "gate/weights.pkl": by_day("gate/weights.pkl", [f"feature_{i}" for i in range(158)]),
        "gate/regimes.pkl": None,
        account: by_day(account),
        f"{TRADES}fills.pkl": fills.assign(used=rng.uniform(0, 0.05, len(fills))),
        f"{TRADES}blocked.pkl": blocked,
    }  # fmt: skip
