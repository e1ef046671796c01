"""What a survey found, in words, and as a workflow for qrun (`template.yaml`)."""

import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from qlib_ext.options import check_choice
from qlib_ext.rules import PROFILES
from qlib_ext.workflow.findings import CAPITAL, PARTICIPATION, WINDOWS, Survey, Universe

FEATURES = 158
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
    >>> workflow_text(survey(folder), "mlp").splitlines()[5]
    'experiment_name: "mlp_liq_all"'
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
        capacity=_capacity(survey),
        **{name: json.dumps(value, ensure_ascii=False) for name, value in quoted.items()},
    )


def _capacity(survey: Survey) -> str:
    """Comment on the universe: how many names take the capital."""
    daily, order = survey.universe.daily, f"{CAPITAL / 1e6:.0f} million yuan at {PARTICIPATION:.0%} of a day's turnover"
    first = f"# {order} fit into {survey.names} names of median liquidity"
    share = f"{survey.names / max(daily, 1.0):.0%} of {daily:,.0f} stocks a day"
    return f"{first}\n    # ({survey.liquidity / 1e6:,.0f} million yuan a day), {share}"


def describe(survey: Survey) -> str:
    """Say what was found and chosen, in lines."""
    (first, last), (begin, end) = survey.calendar, survey.bars
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
    whole = sum(survey.days.values()) * survey.universe.daily
    lines.append(f"Size       {whole:,.0f} stock days, {whole * FEATURES * 4 / 1e9:.1f} GB of features")
    lines.append(
        f"Capacity   {survey.names} names of median liquidity, {survey.liquidity / 1e6:,.0f} million yuan a day, take "
        f"{CAPITAL / 1e6:.0f} million at {PARTICIPATION:.0%}"
    )
    index = survey.benchmark or f"none has bars; the backtest is held against the mean of {len(survey.stand_in)} stocks"
    lines.append(f"Benchmark  {index}")
    lines += [f"Missing    {_LACKS[name]}" for name in survey.missing]
    lines += [f"Warning    {line}" for line in survey.warnings]
    return "\n".join(lines)


def _sizes(universe: Universe) -> str:
    indices = f" and {universe.indices} indices" if universe.indices else ""
    return f"{universe.name} {universe.stocks:,} stocks{indices} ({universe.daily:,.0f} a day)"
