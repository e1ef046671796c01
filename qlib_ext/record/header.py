"""What the header of a run's page says: its task, its facts and its costs, in words."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.data import is_series, label_span, read_benchmark
from qlib_ext.evaluate import DAYS_A_YEAR, DIVIDENDS, has_benchmark, idle, is_price_index
from qlib_ext.exchange import Options, prices
from qlib_ext.model import FEW_DAYS, FEW_STOCKS
from qlib_ext.record.facts import package_versions
from qlib_ext.record.judgement import Money
from qlib_ext.report import Context, Text, money, plain, text
from qlib_ext.runs import BENCHMARK, PLAN, Task, class_name, options_of

_REPORT = "portfolio_analysis/report_normal_1day.pkl"
_PACKAGES = ("qlib_ext", "pyqlib", "torch", "pandas", "numpy", "plotly")
UNKNOWN = text("not recorded")


def context_of(
    task: Mapping[str, Any],
    artifacts: Mapping[str, Any],
    run: Mapping[str, str],
    *,
    provider: str,
    facts: Mapping[str, Any] | None = None,
    title: str | None = None,
    label: str | None = None,
) -> Context:
    """Gather what the header says of the run; what is not known is said to be not recorded, never assumed.

    Args:
        task: the task that qlib recorded: model, dataset, record.
        artifacts: by path.
        run: experiment, run (id) and started, as texts.
        provider: folder of the data.
        facts: the run's artifact `run_facts.pkl`; None: it has none.
        title: of the page; None: the experiment's name.
        label: expression, where it is known better than by the task.
    """
    plan, facts = Task(task, recorded=True, plan=artifacts.get(PLAN)), facts or {}
    universe = _universe(options_of(plan.handler).get("instruments", "?"))
    record, expression = plan.record("LiquidityRecord"), label or plan.label
    money = None if record is None else Money(**{f.name: record[f.name] for f in fields(Money) if f.name in record})
    benchmark = None if record is None else read_benchmark(record.get("benchmark", BENCHMARK))
    benchmark = Path(str(benchmark)).stem if is_series(benchmark) else benchmark
    rows: dict[str, Text | str | None] = {  # None: the run has no such thing
        **{name: run.get(name) or None for name in ("experiment", "run", "started")},
        **_model_facts(plan),
        "score neutral to": ", ".join(facts.get("neutral", ())) or None,
        "seeds": _seeds(plan, facts),
        "data": provider,
        "beside the bars": ", ".join(facts.get("side_files", ())) or None,
        "universe": universe,
        **{name: _span(days) for name, days in plan.segments.items()},
        "features": str(plan.handler.get("class", "?")),
        "label": expression or UNKNOWN,
        "stocks": f"{facts['stocks']:,}" if "stocks" in facts else UNKNOWN,
        "days used": _days(facts) if "days" in facts else UNKNOWN,
        "trading days a year": f"{facts['days_a_year']:.1f}" if "days_a_year" in facts else UNKNOWN,
        "device": _device(facts) if "devices" in facts else UNKNOWN,
        "versions": _versions(facts["versions"]) if facts.get("versions") else UNKNOWN,
        "liquidity": _liquidity(plan, facts),
        "capital": UNKNOWN if money is None else _capital(money),
        "costs": UNKNOWN if money is None else _costs(money),
        "benchmark": UNKNOWN if money is None else _priced(benchmark) or text("none, the universe's means alone"),
        "backtest": _backtest(plan, artifacts),
        "units": text("money in yuan, returns as per cent of the capital unless a day's account is named"),
        "cautions": _cautions(facts, artifacts),
        "rules": _rules(artifacts, facts.get("versions", {}).get("marina-rules") or text("(version not recorded)")),
        "versions of this page": _versions(package_versions(_PACKAGES)),
    }
    return Context(
        title=title or run.get("experiment", "qlib_ext"),
        facts=tuple((text(name), value) for name, value in rows.items() if value is not None),
        universe=universe,
        capital=None if money is None else float(money.capital),
        costs=text("costs are not known") if money is None else _costs(money),
        benchmark=benchmark,
        horizon=_horizon(plan.dataset.get("label_days"), expression),
        year=facts.get("days_a_year", DAYS_A_YEAR),
        names=facts.get("names", {}),
    )


def _backtest(plan: Task, artifacts: Mapping[str, Any]) -> Text | None:
    """Say what PortAnaRecord's backtest deals with; None where it has no AShareExchange."""
    if plan.exchange is None:
        return None
    options: dict[str, Any] = {field.name: field.default for field in fields(Options)} | plan.exchange
    account, share = plan.backtest.get("account", 1e9), options["participation"]
    rates = options["commission"], options["open_cost"], options["close_cost"]
    commission, buy, sell = (None if rate is None else float(rate) for rate in rates)
    cap = text("no cap on a day's share of turnover")
    return text(
        "account {money}, dealt at {price}, {cap}; buys pay {buy}, "
        "sells {sell}; impact: {impact}; benchmark: {benchmark}",
        money=money(float(account["cash"] if isinstance(account, Mapping) else account)),
        price=" / ".join(dict.fromkeys(prices(options["deal_price"]))),
        cap=cap if share is None else text("at most {share:.1%} of a stock's turnover a day", share=float(share)),
        buy=text("{rate:.3%} and transfer fee", rate=commission) if buy is None else f"{buy:.3%}",
        sell=text("{rate:.3%}, transfer fee and stamp duty", rate=commission) if sell is None else f"{sell:.3%}",
        impact=_impact(options["impact"], options["impact_exponent"]),
        benchmark=_benchmark(plan.backtest.get("benchmark", BENCHMARK), artifacts.get(_REPORT)),
    )


def _impact(impact: Any, exponent: float) -> Text | str:
    """Say the rule of the impact: the square-root rule's numbers, or the class of one's own."""
    if isinstance(impact, Mapping):
        return class_name(impact)
    rule = "{impact:g} × volatility × (share of turnover) ^ {power:g} a trade"
    return text(rule, impact=float(impact), power=float(exponent))


def _priced(benchmark: Any) -> Any:
    """Name a benchmark; of a price index say what it lacks."""
    if not is_price_index(benchmark):
        return benchmark
    words = "{code} (a price index: it lacks about {share:.1%} a year of dividends, which an excess over it has)"
    return text(words, code=benchmark, share=DIVIDENDS)


def _benchmark(given: Any, report: pd.DataFrame | None) -> Text | str:
    """Name the backtest's benchmark; runs of before took qlib's index for `null`, and their report shows it."""
    if given is None:
        return text("none") if report is None or not has_benchmark(report) else BENCHMARK
    if isinstance(given, pd.Series):
        return text("a series of its own") if given.name is None else str(given.name)
    return _priced(given) if isinstance(given, str) else ", ".join(map(str, given))


def _liquidity(plan: Task, facts: Mapping[str, Any]) -> Text:
    """Say what liquidity is, by the run's facts or the dataset's configuration."""
    options = plan.dataset
    if "units" in facts:
        profile = facts["units"]
    elif "liquidity" not in options and class_name(plan.config.get("dataset")) != "DayDatasetH":
        return UNKNOWN
    else:
        profile = options.get("liquidity", "auto")
        profile = text("auto, its outcome not recorded") if profile == "auto" else profile
    if profile is None:
        return text("none")
    return text("trailing mean turnover in yuan, unit profile {profile}", profile=profile)


def _capital(placed: Money) -> Text:
    return text(
        "{money}, at most {participation:.1%} of a stock's liquidity",
        money=money(placed.capital),
        participation=placed.participation,
    )


def _costs(money: Money) -> Text:
    """Say what the net rows charge."""
    if money.buy_rate is not None and money.sell_rate is not None:
        return text(
            "net: {buy:.3%} of buys and {sell:.3%} of sells; net of impact: also {impact:g} × volatility × "
            "sqrt(share of turnover) a trade", buy=money.buy_rate, sell=money.sell_rate, impact=money.impact,
        )  # fmt: skip
    return text(
        "net: commission {commission:.3%} each way, transfer fee and stamp duty of the day; net of impact: also "
        "{impact:g} × volatility × sqrt(share of turnover) a trade",
        commission=money.commission,
        impact=money.impact,
    )


def _rules(artifacts: Mapping[str, Any], version: Text | str) -> Text:
    cited = artifacts.get("portfolio_analysis/rules_citations.pkl")
    if cited:
        return text("marina-rules {version}; {n} records cited below", version=version, n=len(cited))
    return text("marina-rules {version}", version=version)


def _model_facts(plan: Task) -> dict[str, str]:
    """Class and loss; of an ensemble also of its members."""
    kind, *inner = (str(model.get("class", "?")) for model in plan.models or [{}])
    inner += [", ".join(map(class_name, options_of((plan.models or [{}])[-1]).get("members", [])))]
    facts = {"model": f"{kind} ({', '.join(filter(None, inner))})" if any(inner) else kind}
    member = options_of(plan.models[-1]) if plan.models else {}
    for name, key in (("loss", "loss"), ("target", "target"), ("weights by", "weight_by"), ("metric", "metric")):
        if key in member:
            own = member[key]
            facts[name] = str(own.get("class") if isinstance(own, Mapping) else own)
    return facts


def _seeds(plan: Task, facts: Mapping[str, Any]) -> Text:
    """Say the members' seeds: as they were recorded, or as the workflow states them."""
    options = [options_of(model) for model in plan.models] or [{}]
    stated = options[0].get("seeds", options[-1].get("seed", []))
    members = facts.get("seeds", stated if isinstance(stated, list | tuple) else [] if stated is None else [stated])
    seeds = plain(", ".join(dict.fromkeys(map(str, members))))
    if not members:
        return UNKNOWN
    return seeds if len(members) == len(set(members)) else text("{seeds} ({n} members)", seeds=seeds, n=len(members))


def _span(days: Any) -> str | None:
    """Write first and last day of a segment, … for an open end; None where it is something else."""
    return " – ".join("…" if day is None else str(day)[:10] for day in days) if isinstance(days, list | tuple) else None


def _cautions(facts: Mapping[str, Any], artifacts: Mapping[str, Any]) -> Text | None:
    """Say what makes the page's numbers mean little; None where nothing does."""
    stocks, days = facts.get("daily_stocks", FEW_STOCKS), facts.get("days", {}).get("train", (None, None, FEW_DAYS))[2]
    report, positions = artifacts.get(_REPORT), artifacts.get("liquidity_analysis/positions.pkl")
    some = [
        text("{n:.0f} stocks on the median training day, fewer than {least}", n=stocks, least=FEW_STOCKS),
        text("{n} training days, fewer than {least}", n=days, least=FEW_DAYS),
        text("the backtest traded nothing"),
        text("the judge placed no money"),
    ]
    true = (stocks < FEW_STOCKS, days < FEW_DAYS, idle(report), positions is not None and not len(positions))
    chosen = [words for words, holds in zip(some, true, strict=True) if holds]
    return Text("; ".join(one.en for one in chosen), "；".join(one.zh for one in chosen)) if chosen else None


def _horizon(label_days: Any, expression: str | None) -> int | None:
    """Days of the label; None for one that is not understood."""
    if label_days is not None:
        return int(label_days[1]) - int(label_days[0])
    try:
        return None if expression is None else label_span(expression).horizon
    except ValueError:
        return None


def _universe(instruments: Any) -> Text | str:
    by_code = isinstance(instruments, list | tuple)
    return text("{n} stocks given by code", n=len(instruments)) if by_code else str(instruments)


def _device(facts: Mapping[str, Any]) -> Text:
    pairs = zip(facts["devices"], facts["precisions"], strict=True)
    return plain(", ".join(dict.fromkeys(f"{name} {precision}" for name, precision in pairs)))


def _versions(versions: Mapping[str, str]) -> Text:
    """List packages and their versions."""
    return plain(", ".join(f"{name} {version}" for name, version in versions.items()))


def _days(facts: Mapping[str, Any]) -> Text:
    parts = [
        text("{name} {first} – {last} ({n} days)", name=text(name), first=first, last=last, n=count)
        for name, (first, last, count) in facts["days"].items()
    ]
    days = Text("; ".join(part.en for part in parts), "；".join(part.zh for part in parts))
    return text("{days}, in {n} folds", days=days, n=facts["folds"]) if facts.get("folds", 1) > 1 else days
