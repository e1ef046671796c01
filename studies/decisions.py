"""The chain of decisions: what of each step is taken for a year, by the accounts of the years before it alone."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.cells import TRADED, WAYS, Config
from studies.run import Cell, Study, read, run

FIRST, CHAIN = 2013, range(2015, 2022)  # years to start on; years whose configuration is chosen by those before
CHOSEN = (*CHAIN, CHAIN[-1] + 1)  # the last is the frozen configuration's
SEEDS = (0, 1)  # of what is looked at on the way
LATE = 2  # days at a year's end whose account is known only in the next


@dataclass(frozen=True)
class Step:
    """A decision: which values of fields of `Config` are taken; the other fields are as chosen before.

    Attributes:
        fields: of `Config`.
        values: that are compared, of each field one.
        seeds: that they are compared by.
    """

    fields: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    seeds: tuple[int, ...] = SEEDS

    @property
    def name(self) -> str:
        """Fields, joined."""
        return ", ".join(self.fields)

    def options(self, config: Config) -> list[Config]:
        """List the configurations that are compared; the one in force is among them."""
        made = [replace(config, **dict(zip(self.fields, values, strict=True))) for values in self.values]
        own, seen = [], []
        for option in [*made, config]:  # trees know two losses, a blend with itself is none
            if option.members not in seen:
                own, seen = [*own, option], [*seen, option.members]
        return own


def _one(field: str, *values: Any, seeds: tuple[int, ...] = SEEDS) -> Step:
    return Step((field,), tuple((value,) for value in values), seeds)


LEARNT, SEEN = ("ic", "by_score", "neutral", "neutral_by_score"), ("alpha158", "daily", "daily_alone")
STEPS = (
    _one("horizon", 1, 5, 10, 20),
    _one("loss", "mse", "ic", "wpcc", "liq_wpcc", "by_score", "neutral"),
    _one("factors", *SEEN),
    Step(("loss", "factors"), tuple(product(LEARNT, SEEN[:2]))),  # neither alone says what both together do
    _one("kind", "mlp", "lightgbm", "mlp+lightgbm"),  # MASTER, six times as dear, in the end: final.changed
    Step(("loss", "factors"), tuple(product(("by_score", "neutral_by_score"), SEEN[:2]))),  # of that kind
    _one("blend", "", "by_score~alpha158", "by_score~daily", "neutral~alpha158", "neutral~daily"),
)


@dataclass(frozen=True)
class Decision:
    """What was chosen for a year: the measure of each option on the years before, and the best.

    Attributes:
        year: that it is for.
        step: fields of `Config`, or way.
        seen: name of an option -> Sharpe ratio of a day of the account over the mean of all stocks.
        chosen: the highest.
    """

    year: int
    step: str
    seen: Mapping[str, float]
    chosen: str


def sharpe(frames: Iterable[pd.DataFrame], column: str = "over_all") -> float:
    """Sharpe ratio of a day, of seeds' mean."""
    daily = np.mean([frame[column].to_numpy() for frame in frames], axis=0)
    daily = daily[np.isfinite(daily)]
    return float(daily.mean() / daily.std(ddof=1))


def known(frame: pd.DataFrame, year: int) -> pd.DataFrame:
    """Keep the days whose outcome is known when a year begins."""
    return frame[frame.index.year < year].iloc[:-LATE]


def rounds(study: Study, years: Iterable[int]) -> Iterator[tuple[dict[int, Config], list[Decision]]]:
    """Decide step by step, for each year by the accounts of the years from `FIRST` on and before it.

    Returns: after each step the configurations in force, by year, and what was decided.
    """
    current = dict.fromkeys(sorted(years), Config())
    for step in STEPS:
        options = {config: step.options(config) for config in dict.fromkeys(current.values())}
        last = _last_years(current)
        run(study, [cell for config in options for cell in _cells(options[config], last[config], step.seeds)])
        told = []
        for year, config in current.items():
            seen = {option: _seen(study, option, year, step.seeds) for option in options[config]}
            current[year] = max(seen, key=seen.__getitem__)
            named = {option.name: value for option, value in seen.items()}
            told.append(Decision(year, step.name, named, current[year].name))
        yield dict(current), told


def chain(study: Study, years: Iterable[int] = CHOSEN) -> dict[int, tuple[Config, str, list[Decision]]]:
    """Take all decisions, the way to trade at last; the year after the chain's last is the frozen configuration's.

    Returns: by year: configuration, way, the decisions that led to them.
    """
    current: dict[int, Config] = {}
    told: list[Decision] = []
    for current, decided in rounds(study, years):  # noqa: B007  the last one counts
        told += decided
    last, out = _last_years(current), {}
    run(study, [cell for way in WAYS for config in last for cell in _cells([config], last[config], SEEDS, way)])
    for year, config in current.items():
        seen = {way: _seen(study, config, year, SEEDS, way) for way in WAYS}
        way = max(seen, key=seen.__getitem__)
        own = [*(each for each in told if each.year == year), Decision(year, "way", seen, way)]
        out[year] = (config, way, own)
    return out


def _seen(study: Study, config: Config, year: int, seeds: Iterable[int], way: str = TRADED) -> float:
    """Sharpe ratio that is known of a configuration when a year begins."""
    return sharpe(known(frame, year) for frame in read(study, config, range(FIRST, year), seeds, way))


def _last_years(current: Mapping[int, Config]) -> dict[Config, int]:
    """Last year that each configuration is in force for."""
    return {config: year for year, config in sorted(current.items())}


def _cells(configs: Iterable[Config], end: int, seeds: Iterable[int], way: str = TRADED) -> list[Cell]:
    return [Cell(config, year, seed, way) for config in configs for year in range(FIRST, end) for seed in seeds]


def write(file: Path, made: Mapping[int, tuple[Config, str, list[Decision]]]) -> None:
    """Keep the decisions as JSON."""
    rows = [
        {"year": year, "step": each.step, "seen": each.seen, "chosen": each.chosen}
        for year, (_, _, decisions) in made.items()
        for each in decisions
    ]
    file.write_text(json.dumps(rows, indent=1), "utf-8")
