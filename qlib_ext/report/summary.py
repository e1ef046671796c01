"""What a person needs first of a run: its numbers, a verdict in words computed from them, alarms. Imports no qlib.

The words are chosen by the numbers: above, below, or not to be told apart at `T_CLEAR` standard errors. What a run does
not tell is left out of the numbers and said to be not known.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from qlib_ext.evaluate import (
    EXPOSURE_LIMIT,
    has_benchmark,
    headline,
    idle,
    is_price_index,
    newey_west,
    strategy_crossings,
)
from qlib_ext.portfolio import ForecastSchedule
from qlib_ext.report.page import Context, written
from qlib_ext.report.score import chosen_metric, judged_days
from qlib_ext.report.texts import Text, join, money, plain, sentence, text, title

SUMMARY = "summary.json"  # artifact of a run: `Summary.to_dict`
MONEY, TRADES, FACTS = "liquidity_analysis/", "portfolio_analysis/", "run_facts.pkl"
SUMMARY_ARTIFACTS = (
    *(f"{MONEY}{name}.pkl" for name in ("daily", "headline", "diagnostics", "exposures", "positions")),
    *(f"{TRADES}{name}.pkl" for name in ("report_normal_1day", "account_daily", "execution", "capacity_strategy")),
    *("folds/curves.pkl", "folds/members.pkl", "forecast.json", FACTS),
)
T_CLEAR = 2.0  # standard errors beyond which a difference counts
LARGEST_WEIGHT, DRIFT = 0.05, 1.2  # of the account in one stock; what prices may add to it after the trade
MOSTLY = 0.5  # mean rank correlation with a factor from which on a score is mostly that
WIDTH = 100  # of a line of a terminal
FEW_STOCKS, FEW_NAMES, FEW_DAYS = 30, 20, 60
TURNOVER = (1e6, 2e10)  # yuan a day, between which the median of the stocks held lies in the market
KINDS = {  # of numbers that stand below others
    **dict.fromkeys(("ic_error", "rank_ic"), "number"),
    **dict.fromkeys(("largest_weight", "gross", "account"), "percent"),
    "capital": "money",
}
BARS = ("all", "buyable", "index")  # what an account is compared with, the strictest first


@dataclass(frozen=True, repr=False)
class Summary:
    """The first screen of a run.

    Attributes:
        title: of the run.
        scope: days and universe.
        numbers: by name; returns and costs a year, turnover a day, as fractions; what is not known is not in it.
        verdict: whether the account is above what it is compared with after all costs, by how many standard errors.
        better: what would have to be better, or what it rests on.
        judge: why the judge's figure differs from the account's; None where one of them is not known.
        alarms: by name, what makes the numbers mean little or the account dangerous.
    """

    title: str
    scope: Text
    numbers: dict[str, float]
    verdict: Text
    better: tuple[Text, ...] = ()
    judge: Text | None = None
    alarms: dict[str, Text] | None = None

    def __repr__(self) -> str:
        """Say the verdict; all lines are its text, `print(summary)`."""
        return f"Summary({self.title}: {self.verdict.en})"

    def __str__(self) -> str:
        """Give all lines as a text."""
        return "\n".join(self.lines())

    @property
    def way(self) -> str:
        """Say where the money stands: above, below, unclear, or unknown."""
        pair = compared(self.numbers)
        return "unknown" if pair is None or self.numbers.get("idle") else _way(self.numbers, f"{pair[0]}over_{pair[1]}")

    def lines(self) -> list[str]:
        """About twelve sentences of plain English for a terminal, in lines of at most `WIDTH` characters.

        The judge, and more of what would have to be better, stand on the page.
        """
        said = [*_told(self.numbers), *(("better", words.en) for words in self.better[:1])]
        said += [("ALARM", words.en) for words in (self.alarms or {}).values()]
        lines = [(f"{self.title}: {self.scope.en}", ""), (self.verdict.en, "")]
        lines += [(f"  {name:<11} {words}", " " * 14) for name, words in said]
        return [line for words, indent in lines for line in _wrapped(words, indent)]

    def to_dict(self) -> dict[str, Any]:
        """Numbers and words, for JSON: a text is [English, Chinese]."""
        return {
            "title": self.title,
            "scope": _pair(self.scope),
            "numbers": self.numbers,
            "verdict": _pair(self.verdict),
            "better": [_pair(words) for words in self.better],
            "judge": None if self.judge is None else _pair(self.judge),
            "alarms": {name: _pair(words) for name, words in (self.alarms or {}).items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also through JSON.

        >>> import json
        >>> summary = Summary("a run", text("no costs"), {"ic": 0.05}, text("no costs"), alarms={"x": text("no costs")})
        >>> Summary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary
        True
        """
        return cls(
            title=str(values["title"]),
            scope=Text(*values["scope"]),
            numbers=dict(values["numbers"]),
            verdict=Text(*values["verdict"]),
            better=tuple(Text(*pair) for pair in values["better"]),
            judge=None if values["judge"] is None else Text(*values["judge"]),
            alarms={name: Text(*pair) for name, pair in values["alarms"].items()},
        )


def _wrapped(words: str, indent: str) -> list[str]:
    return textwrap.wrap(
        words, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )  # a path or a name stays whole


def _pair(words: Text) -> list[str]:
    return [words.en, words.zh]


def summarise(artifacts: Mapping[str, Any], context: Context) -> Summary:
    """Sum a run up.

    Args:
        artifacts: objects by path, of `SUMMARY_ARTIFACTS` those that the run has.
        context: of its page.

    >>> summarise({}, Context("a run")).verdict.en
    'What the money made is not known: the run has neither a backtest nor a judge of its scores.'
    """
    found = {name: artifacts.get(name) for name in SUMMARY_ARTIFACTS}
    account, daily = found[f"{TRADES}report_normal_1day.pkl"], found[f"{MONEY}daily.pkl"]
    numbers = _score(found, context) | _judge(daily, context)
    numbers |= _account(account, found[f"{TRADES}account_daily.pkl"], daily, context.year)
    numbers |= _holdings(found, account) | _capacity(found[f"{TRADES}capacity_strategy.pkl"], account)
    numbers = {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}
    days = account.index if account is not None else daily.index if daily is not None else ()
    return Summary(
        title=context.title,
        scope=context.scope(days),
        numbers=numbers,
        verdict=_verdict(numbers, context),
        better=tuple(_better(numbers)),
        judge=_reconciled(numbers),
        alarms={
            name: sentence(f"alarm.{name.partition('.')[0]}", **fields) for name, fields in _alarms(numbers, context)
        },
    )


# --- numbers


def _yearly(name: str, series: pd.Series, year: float) -> dict[str, float]:
    """Mean of a daily series times the days of a year, with its Newey-West error."""
    mean, error, _ = newey_west(series)
    return {name: mean * year, f"{name}_error": error * year}


def _account(report: Any, beside: Any, daily: Any, year: float) -> dict[str, float]:
    """Numbers of the backtest's account, after all costs that its exchange charges."""
    if report is None:
        return {}
    gross, net = report["return"].astype(float), (report["return"] - report["cost"]).astype(float)
    found: dict[str, float] = {
        "days": len(report),
        "account": float(net.mean()) * year,
        "made": float((1.0 + net).prod() - 1.0),
        "gross": float(gross.mean()) * year,
        "cost": float(report["cost"].mean()) * year,
    }
    if "turnover" in report:
        found |= {"turnover": float(report["turnover"].mean()), "idle": float(idle(report))}
    if "account" in report:
        found["capital"] = float(report["account"].iloc[0])
        found["cash"] = float((report["cash"] / report["account"]).mean()) if "cash" in report else math.nan
    if has_benchmark(report):
        found |= _yearly("over_index", net - report["bench"].astype(float), year)
    if beside is not None:
        found |= _yearly("over_buyable", net - beside["mean_stock"], year)
        if "mean_all" in beside:
            found |= _yearly("over_all", net - beside["mean_all"], year)
        elif daily is not None and {"market", "buyable"} <= set(daily):  # of before: by the means of the judge's days
            found["over_all"] = found["over_buyable"] + float((daily["buyable"] - daily["market"]).mean()) * year
            found |= {"over_all_error": found["over_buyable_error"], "over_all_by_judge": 1.0}
    bases = (_of(beside, "mean_all"), _of(beside, "mean_stock"), _of(report, "bench"))
    excess = (net - next((base for base in bases if base is not None), 0.0)).reindex(net.index).dropna()
    told = headline(excess, year=year) if len(excess) else {"annual_volatility": math.nan, "max_drawdown": math.nan}
    return found | {"tracking_error": told["annual_volatility"], "drawdown": abs(told["max_drawdown"])}


def _of(frame: Any, column: str) -> Any:
    return None if frame is None or column not in frame else frame[column].astype(float)


def _judge(daily: Any, context: Context) -> dict[str, float]:
    """Numbers of the judge, who places the capital anew every day: after fees and impact, where it charges one."""
    if daily is None or "capped_buyable_gross" not in daily:
        return {}
    days = daily.loc[judged_days(daily)]
    net = next(
        name for name in ("capped_buyable_net_impact", "capped_buyable_net", "capped_buyable_gross") if name in days
    )
    found = {"judge_cost": float((days["capped_buyable_gross"] - days[net]).mean()) * context.year}
    for bar, base in zip(BARS, ("market", "buyable", str(context.benchmark)), strict=True):
        if base in days:
            found |= _yearly(f"judge_over_{bar}", days[net] - days[base], context.year)
            gross = float((days["capped_buyable_gross"] - days[base]).mean())
            found[f"judge_gross_over_{bar}"] = gross * context.year
    return found


def _score(found: Mapping[str, Any], context: Context) -> dict[str, float]:
    """Numbers of the score: IC, exposures, forecast, epochs, and what it was learnt from."""
    numbers: dict[str, float] = {}
    quality, exposed = found[f"{MONEY}diagnostics.pkl"], found[f"{MONEY}exposures.pkl"]
    for name in ("ic", "rank_ic"):
        if quality is not None and name in quality.index:
            numbers |= {name: quality["value"][name], f"{name}_error": quality["standard_error"][name]}
    if exposed is not None:
        numbers |= {f"exposure.{name}": float(exposed[name].mean()) for name in exposed}
    if found["forecast.json"] is not None:
        learnt = ForecastSchedule.read(found["forecast.json"]).forecasts
        if any(own.days for own in learnt):
            numbers |= {"forecast_t": learnt[0].t, "forecast_worth": max(float(own.significant) for own in learnt)}
    facts = found[FACTS] or {}
    if "daily_stocks" in facts:
        numbers["daily_stocks"] = float(facts["daily_stocks"])
    return numbers | _epochs(found["folds/curves.pkl"], found["folds/members.pkl"], context)


def _epochs(curves: Any, members: Any, context: Context) -> dict[str, float]:
    """Epochs that the longest member ran, and the share of members whose first one was the best."""
    if curves is None or curves.empty:
        return {}
    metric = chosen_metric(context, curves, members)
    runs = [rows.set_index("epoch")[metric].dropna() for _, rows in curves.groupby(["fold", "seed"])]
    firsts = [float(rows.idxmax() == rows.index[0]) for rows in runs if len(rows)]
    return {"epochs": float(curves["epoch"].max()), "first_best": sum(firsts) / len(firsts)} if firsts else {}


def _holdings(found: Mapping[str, Any], account: Any) -> dict[str, float]:
    """Names held and the largest weight: of the account, else of the judge's positions."""
    numbers: dict[str, float] = {}
    positions, book = found[f"{MONEY}positions.pkl"], (found[f"{TRADES}execution.pkl"] or {}).get("book")
    if positions is not None:
        numbers["judge_placed"] = float(len(positions) > 0)
        if "liquidity" in positions and len(positions):
            numbers["liquidity_held"] = float(positions["liquidity"].median())
    if book is not None:
        held = book[book["names"] > 0]
        numbers["names_held"] = float(held["names"].mean())
        if "largest" in held:
            numbers |= {"largest_weight": float(held["largest"].mean()), "largest_weight_most": held["largest"].max()}
    elif account is None and positions is not None and len(positions):
        by_day = positions["weight"].groupby(level="datetime")
        numbers |= {"names_held": float(by_day.size().mean()), "largest_weight": float(by_day.max().mean())}
        numbers["largest_weight_most"] = float(positions["weight"].max())
    return numbers


def _capacity(curve: Any, account: Any) -> dict[str, float]:
    """Give the capital (yuan) at which the strategy's excess after all costs falls through zero, at the largest b."""
    if curve is None or not len(curve):
        return {}
    b = max(curve.index.unique("b"))
    rows, falls = curve.loc[b], strategy_crossings(curve)["falls_at"][b]
    numbers = {"capacity": float(falls), "capacity_largest": float(rows.index.max())}
    return numbers | {"capacity_excess": float(rows["net_impact_excess"].iloc[-1])}


# --- words


def bar_title(bar: str, numbers: Mapping[str, float], context: Context) -> Text:
    """Name what an account is compared with."""
    if bar == "all" and "over_all_by_judge" in numbers:
        return text("the mean of all stocks (as the judge's days have it)")
    means = {"all": text("the mean of all stocks"), "buyable": text("the mean buyable stock")}
    return means.get(bar) or plain(context.benchmark or text("its benchmark"))


def standard_errors(numbers: Mapping[str, float], name: str) -> float:
    """Tell by how many standard errors a number differs from 0; NaN where the error is not known."""
    error = numbers.get(f"{name}_error", math.nan)
    return numbers[name] / error if error > 0 else math.nan


def compared(numbers: Mapping[str, float]) -> tuple[str, str] | None:
    """Name the prefix ("" of the account, "judge_") and the strictest bar that the money is compared with."""
    pairs = ((who, bar) for who in ("", "judge_") for bar in BARS)
    return next(((who, bar) for who, bar in pairs if f"{who}over_{bar}" in numbers), None)


def _way(numbers: Mapping[str, float], name: str) -> str:
    t = standard_errors(numbers, name)
    return "above" if t >= T_CLEAR else "below" if t <= -T_CLEAR else "unclear"


def _verdict(numbers: Mapping[str, float], context: Context) -> Text:
    """Say where the money stands after all costs."""
    if (pair := compared(numbers)) is None:
        return sentence("verdict.unknown")
    if numbers.get("idle"):
        return sentence("verdict.idle")
    who, bar = pair
    t = standard_errors(numbers, f"{who}over_{bar}")
    way = _way(numbers, f"{who}over_{bar}")
    words = {"who": title("judge" if who else "account", "summary"), "bar": bar_title(bar, numbers, context)}
    first = sentence(f"verdict.{way}", **words, over=numbers[f"{who}over_{bar}"], errors=_errors(t))
    others = [other for other in BARS if other != bar and f"{who}over_{other}" in numbers]
    more = [_over(numbers, f"{who}over_{other}", bar_title(other, numbers, context)) for other in others]
    return join([first, sentence("verdict.others", others=join(more))], " ") if more else first


def _errors(t: float) -> Text:
    return text("{t:.1f} standard errors", t=t) if math.isfinite(t) else text("its standard error is not known")


def _over(numbers: Mapping[str, float], name: str, bar: Text) -> Text:
    t = standard_errors(numbers, name)
    return text("{over:+.1%} over {bar} ({errors})", over=numbers[name], bar=bar, errors=_errors(t))


def _better(numbers: Mapping[str, float]) -> Iterator[Text]:
    """Say what would have to be better for the account to be clearly above its bar; of one that is, what carries it."""
    pair = compared(numbers)
    if pair is None or pair[0] or numbers.get("idle"):
        return
    over, error, cost = (numbers.get(name, math.nan) for name in (f"over_{pair[1]}", f"over_{pair[1]}_error", "cost"))
    gross, needed = over + cost, cost + T_CLEAR * error
    if over >= T_CLEAR * error:
        yield sentence("better.spare", cost=cost, gross=gross, spare=over - T_CLEAR * error)
    elif gross <= 0:
        yield sentence("better.score", gross=gross, cost=cost)
    else:
        yield sentence("better.cost", gross=gross, cost=cost, needed=max(gross - T_CLEAR * error, 0.0))
        if numbers.get("ic", 0.0) > 0 and math.isfinite(error):
            yield sentence("better.ic", ic=numbers["ic"], needed=numbers["ic"] * needed / gross)
        if over > 0 and math.isfinite(error):
            yield sentence("better.days", days=numbers["days"], needed=numbers["days"] * (T_CLEAR * error / over) ** 2)
    if numbers.get("names_held", math.inf) < FEW_NAMES:
        swing = numbers["tracking_error"]
        yield sentence("better.breadth", names=numbers["names_held"], swing=swing)
    if numbers.get("capital", 0.0) > numbers.get("capacity", math.inf):
        yield sentence("better.capacity", **{name: money(numbers[name]) for name in ("capital", "capacity")})


def _reconciled(numbers: Mapping[str, float]) -> Text | None:
    """Say why the judge's figure differs from the account's: what each makes before costs, and pays."""
    bar = next((b for b in BARS if {f"over_{b}", f"judge_over_{b}"} <= set(numbers)), None)
    if bar is None or numbers.get("idle"):
        return None
    fields = {"judge": numbers[f"judge_over_{bar}"], "over": numbers[f"over_{bar}"]}
    fields |= {"judge_gross": numbers[f"judge_gross_over_{bar}"], "judge_cost": numbers["judge_cost"]}
    return sentence("summary.judge", **fields, gross=fields["over"] + numbers["cost"], cost=numbers["cost"])


def _alarms(numbers: Mapping[str, float], context: Context) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the alarms that hold, and the numbers of their words."""
    largest, ic = numbers.get("largest_weight", 0.0), standard_errors(numbers, "ic") if "ic" in numbers else math.inf
    if numbers.get("idle") or numbers.get("judge_placed") == 0.0:
        yield "idle", {}
    if largest > LARGEST_WEIGHT * DRIFT:
        yield "largest", {"largest": largest, "most": numbers["largest_weight_most"], "bound": LARGEST_WEIGHT}
    exposed = {name.partition(".")[2]: value for name, value in numbers.items() if name.startswith("exposure.")}
    for name, value in sorted(exposed.items(), key=lambda pair: -abs(pair[1])):
        if abs(value) > EXPOSURE_LIMIT:
            kind = "mostly" if abs(value) >= MOSTLY else "leans"
            yield f"{kind}.{name}", {"factor": title(f"exposure.{name}"), "value": value}
    if abs(ic) < T_CLEAR:
        yield "ic", {"ic": numbers["ic"], "error": numbers["ic_error"]}
    if numbers.get("forecast_worth") == 0.0:
        yield "forecast", {"t": numbers["forecast_t"]}
    if numbers.get("first_best", 0.0) > 0.5 and numbers["epochs"] > 1:
        yield "first_epoch", {"epochs": int(numbers["epochs"])}
    turnover = numbers.get("liquidity_held", TURNOVER[0])
    if not TURNOVER[0] <= turnover <= TURNOVER[1]:
        yield "units", {"yuan": turnover}
    if numbers.get("daily_stocks", FEW_STOCKS) < FEW_STOCKS:
        yield "thin", {"n": numbers["daily_stocks"]}
    if numbers.get("days", FEW_DAYS) < FEW_DAYS:
        yield "short", {"n": int(numbers["days"])}
    if numbers.get("cost", 1.0) == 0.0 and not numbers.get("idle"):
        yield "free", {}
    if is_price_index(context.benchmark) and (compared(numbers) or "")[-1:] == ("index",):
        yield "price_index", {"code": context.benchmark}


def _told(numbers: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Yield names and words of the numbers, lines of a terminal."""

    def known(name: str, kind: str) -> Any:
        return written(numbers[name], kind) if name in numbers else "not known"

    if "account" in numbers:
        made = f"made {numbers['made']:+.1%} in {numbers['days']:.0f} days, in sums {numbers['account']:+.1%} a year"
        yield "account", f"{made}; swings by {known('tracking_error', 'percent')} against the bar"
        yield "cost", f"{known('cost', 'percent')} a year; turnover {known('turnover', 'percent')} of the account a day"
    if "names_held" in numbers or "account" in numbers:
        held = f"{numbers['names_held']:.1f} names" if "names_held" in numbers else "names not known"
        yield (
            "holdings",
            f"{held}; the largest, share of the account on the mean day: {known('largest_weight', 'percent')}",
        )
    for name in ("ic", "rank_ic"):
        if name in numbers:
            t = _errors(standard_errors(numbers, name)).en
            yield title(name).en, f"{numbers[name]:.4f} ± {numbers.get(f'{name}_error', math.nan):.4f} ({t})"
    if "capacity" in numbers:
        yield "capacity", f"the excess is gone at {money(numbers['capacity']).en}"
    elif "capacity_excess" in numbers:
        side = "above" if numbers["capacity_excess"] > 0 else "below"
        yield "capacity", f"the excess is {side} zero at {money(numbers['capacity_largest']).en}"


def first_numbers(summary: Summary, context: Context) -> list[dict[str, Any]]:
    """Cards of the first screen: what it is over each bar, the score, what is held, traded and paid, the capacity."""
    numbers, cards = summary.numbers, []

    def card(name: str, kind: str, wording: Text, remark: Text | str) -> None:
        if name in numbers:
            cards.append({"key": name, "title": wording, "value": numbers[name], "kind": kind, "remark": remark})

    who = (compared(numbers) or ("",))[0]
    for bar in BARS:
        name = f"{who}over_{bar}"
        t = _errors(standard_errors(numbers, name)) if name in numbers else ""
        card(name, "gain", text("a year over {bar}", bar=bar_title(bar, numbers, context)), t)
    shown = {name: written(numbers.get(name, math.nan), KINDS[name]) for name in KINDS}
    card("ic", "number", title("ic"), text("± {ic_error}, RankIC {rank_ic}", **shown))
    held = text("largest {largest_weight} of the account", **shown)
    card("names_held", "count", title("names_held"), held if "largest_weight" in numbers else text("mean over days"))
    card("turnover", "percent", title("turnover", "account"), text("of the account"))
    card("cost", "percent", text("costs a year"), text("{gross} a year before, {account} after", **shown))
    card("capacity", "money", text("capacity"), text("where the excess is gone; here {capital}", **shown))
    return cards
