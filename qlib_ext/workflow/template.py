"""What a survey found, in words, and as a workflow for qrun (`template.yaml`)."""

import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from qlib_ext.features import ALPHA158_NAMES, chosen
from qlib_ext.options import check_choice
from qlib_ext.portfolio import CAPITAL, MAX_WEIGHT, PARTICIPATION
from qlib_ext.rules import PROFILES
from qlib_ext.workflow.findings import DAYS_A_YEAR, HORIZON, LABEL, MOST_ROWS, MOST_YEARS, WINDOWS, Survey, Universe

FEATURES = len(ALPHA158_NAMES) + len(chosen(exclude=["survivor"]))
_LACKS = {
    "vwap": "$vwap: the feature VWAP0 will be 0",
    "factor": "$factor: limits and lots will be approximate",
    "amount": "$amount: turnover is $close * $volume",
    "change": "$change: not needed here, but by qlib's own exchange",
}


def workflow_text(survey: Survey, model: str) -> str:
    """Write the workflow of a survey as YAML for qrun; it needs no other file.

    Raises: ValueError for an unknown model.

    >>> from qlib_ext.synthetic import make_market
    >>> from qlib_ext.workflow import survey
    >>> folder = make_market(provider.parent / "year", n_stocks=60, years=1)  # or a folder of your own
    >>> workflow_text(survey(folder), "mlp").splitlines()[7]
    'experiment_name: "mlp_5_days_all"'
    """
    check_choice("model", model, WINDOWS)
    text = (Path(__file__).parent / "template.yaml").read_text(encoding="utf-8")
    template = Environment(  # its marks are not those of the workflow that is written, which qrun renders in its turn
        variable_start_string="@(",
        variable_end_string=")@",
        block_start_string="@%",
        block_end_string="%@",
        keep_trailing_newline=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    quoted = {"provider": str(survey.folder), "universe": survey.universe.name}
    return template.from_string(text).render(
        survey=survey,
        model=model,
        window=WINDOWS[model],
        turnover=PROFILES[survey.profile],
        label=LABEL,
        horizon=HORIZON,
        weight=MAX_WEIGHT,
        capacity=_capacity(survey),
        **{name: json.dumps(value, ensure_ascii=False) for name, value in quoted.items()},
    )


def _capacity(survey: Survey) -> str:
    """Comment on the universe: how many names take the capital."""
    daily, order = survey.universe.daily, f"{CAPITAL / 1e6:.0f} million yuan at {PARTICIPATION:.0%} of a day's turnover"
    names = f"top_n: {survey.top_n}, {survey.top_n / max(daily, 1.0):.0%} of {daily:,.0f} stocks a day"
    return "\n    ".join(
        (
            f"# {order} fit into {survey.names} names of median liquidity",
            f"# ({survey.liquidity / 1e6:,.0f} million yuan a day). {names}: the capital fits, and",
            f"# no name needs more than {MAX_WEIGHT:.0%} of it, which max_weight forbids (the deck has no such cap)",
        )
    )


def describe(survey: Survey) -> str:
    """Say what was found and chosen, in lines."""
    (first, last), (begin, end) = survey.calendar, survey.bars
    whole = sum(survey.days.values()) * survey.universe.daily
    lines = [
        f"Provider   {survey.folder}",
        f"Calendar   {first.date()} to {last.date()}; bars from {begin.date()} to {end.date()}",
        f"Units      {survey.profile}: turnover in yuan = {PROFILES[survey.profile]}, "
        f"{survey.turnover / 1e6:,.0f} million a stock and day",
        "Universes  " + "; ".join(_sizes(u) for u in survey.universes),
        f"Chosen     {survey.universe.name}: {survey.reason}",
    ]
    lines += [
        f"{name:11}{a.date()} to {b.date()}, {survey.days[name]:,} days" for name, (a, b) in survey.segments.items()
    ]
    lines += _left_out(survey)
    size = whole * FEATURES * 4 / 1e9
    lines.append(
        f"Size       {whole:,.0f} stock days, {size:.1f} GB of features; while they load {1.2 * size + 1.0:.1f} GB"
    )
    lines.append(
        f"Capacity   {survey.names} names of median liquidity, {survey.liquidity / 1e6:,.0f} million yuan a day, take "
        f"{CAPITAL / 1e6:.0f} million at {PARTICIPATION:.0%}; the judge's top_n is {survey.top_n}, so that none needs "
        f"more than {MAX_WEIGHT:.0%}"
    )
    index = survey.benchmark or f"none has bars; the backtest is held against the mean of {len(survey.stand_in)} stocks"
    lines.append(f"Benchmark  {index}")
    lines += [f"Missing    {_LACKS[name]}" for name in survey.missing]
    lines += [f"Warning    {line}" for line in survey.warnings]
    return "\n".join(lines)


def _left_out(survey: Survey) -> list[str]:
    """Say which days with bars no part has at their beginning, and why."""
    begin, first = survey.bars[0], survey.segments["train"][0]
    years = (first - begin).days / 365.25
    if years < 1.0:  # what the features look back, and a little more
        return []
    most = MOST_ROWS[survey.model] / survey.universe.daily
    why = f"at most {MOST_YEARS} years, half of them to learn from: three were measured (docs/scores.md), more were not"
    if most < MOST_YEARS * DAYS_A_YEAR:
        why = (
            f"at most {MOST_ROWS[survey.model] / 1e6:g} million stock days, for memory and time; three years to learn "
            "from were measured (docs/scores.md): on a large machine begin train earlier"
        )
    return [f"Left out   {begin.date()} to the day before {first.date()}, {years:.1f} years: {why}"]


def _sizes(universe: Universe) -> str:
    indices = f" and {universe.indices} indices" if universe.indices else ""
    return f"{universe.name} {universe.stocks:,} stocks{indices} ({universe.daily:,.0f} a day)"
