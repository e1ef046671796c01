"""Write docs/study.md and its pictures: tables by code, words by `study.md.j2`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from qlib_ext.evaluate import read_trials, trial_row, write_trials
from studies import pictures, tables
from studies.cells import WAYS, Config
from studies.decisions import CHAIN, FIRST, Decision, rounds
from studies.final import Row, trials
from studies.run import Study
from studies.tables import mean_days

HERE = Path(__file__).parent
PAGES = ("study.md", "study.zh.md")  # all of it; the page of what was learnt in Chinese
YARDSTICKS = (", judge", ", smoothed")  # ways that nobody would choose: -128 and +4 points a year
Made = Mapping[int, tuple[Config, str, list[Decision]]]


def write_all_trials(study: Study) -> pd.DataFrame:
    """Keep every configuration and way that was looked at in FOLDER/trials.parquet, by its excess over all stocks.

    Over the buyable ones a score without skill has an excess too: "no skill" would not be a Sharpe ratio of 0.
    """
    rows = []
    for row in trials(study):
        config, way = next(iter(row.by_year.values()))
        excess = mean_days(row.frames(study))["over_all"].dropna()
        rows.append(trial_row(row.name, {**config.to_dict(), "way": way}, excess))
    write_trials(study.folder / "trials.parquet", rows)
    return read_trials(study.folder / "trials.parquet")


def so_far(study: Study) -> str:
    """Write the tables of what is there of a study that is under way: what was looked at, what was decided."""
    years, decided, lacks = range(FIRST, CHAIN[-1]), [], ""
    try:
        for _, told in rounds(replace(study, jobs=0), CHAIN):
            decided += told
    except FileNotFoundError as error:
        lacks = f"\n\nthen: {error}"
    rows = [
        replace(row, by_year={year: row.by_year[year] for year in years})
        for row in trials(study)
        if {*years} <= {*row.by_year}
    ]
    looked = tables.looked_table(study, rows) if rows else "nothing yet"
    return f"{years[0]} to {years[-1]}\n\n{looked}\n\n{tables.decisions_table(decided)}{lacks}"


def write(study: Study, made: Made, rows: Mapping[str, list[Row]], later: list[Row], docs: Path) -> None:
    """Write the page and its pictures into `docs`; what was not run is named below its table.

    Raises: FileNotFoundError where a row of the headline was not run.
    """
    head, known = rows["headline"], write_all_trials(study)
    days = pd.DatetimeIndex(head[0].frames(study)[0].index)
    indices = tables.index_steps(study, days)

    def part(name: str, make: Callable[[list[Row]], str]) -> str:
        there = [row.there(study) for row in every[name]]
        lacks = [row.name for row in there if not row.seeds]
        missing = f"Not run: {', '.join(lacks)}." if lacks else ""
        told = make([row for row in there if row.seeds]) if there[0].seeds else ""  # the others are held against it
        return "\n\n".join(filter(None, (told, missing)))

    def in_2022(those: list[Row]) -> str:
        its_days = pd.DatetimeIndex(those[0].frames(study)[0].index)
        return tables.headline_table(study, those, tables.index_steps(study, its_days))

    every = {**rows, "later": later}
    values: dict[str, Any] = {
        "decisions": tables.decisions_table(each for _, _, decisions in made.values() for each in decisions),
        "headline": tables.headline_table(study, head, indices),
        "years": tables.years_table(study, head[0], indices),
        "frozen_years": tables.years_table(study, head[2], indices),
        "horizons": tables.horizons_table(study, (head[0], head[2])),
        "money": part("money", partial(tables.money_table, study)),
        "changed": part("changed", partial(tables.changed_table, study)),
        "trading": part("trading", partial(tables.changed_table, study)),
        "deck": part("deck", partial(tables.deck_table, study)),
        "delisted": part("delisted", partial(tables.delisted_table, study, head[3])),
        "deflated": tables.deflated_table(study, head, known[~known["name"].str.endswith(YARDSTICKS)]),
        "deflated_by_all": tables.deflated_table(study, head, known),
        "looked": tables.looked_table(study, trials(study)),
        "later": part("later", in_2022),
        "ways": {name: way.what for name, way in WAYS.items()},
        "frozen": made[max(made)],
        "days": len(days),
        "at": tables.at,
        "trials": len(known),
    }
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    for name in PAGES:
        text = template.from_string((HERE / f"{name}.j2").read_text("utf-8")).render(values)
        (docs / name).write_text(text, "utf-8")
    lines = {row.name: mean_days(tables.with_indices(row.frames(study), indices)) for row in head}
    chain, frozen = lines[head[0].name], lines[head[2].name]
    pictures.curves(
        docs / "study_curves.png",
        {
            "chain, over the mean buyable stock": chain["excess"],
            "chain, over the mean of all stocks": chain["over_all"],
            "chain, over CSI500": chain["over_SH000905"],
            "frozen (selected), over the mean of all stocks": frozen["over_all"],
        },
    )
    pictures.bars(
        docs / "study_years.png",
        {"over buyable": chain["excess"], "over all": chain["over_all"], "over CSI500": chain["over_SH000905"]},
    )
