"""Tables of the study's page, from the days of its rows: Markdown, with errors over days and seeds.

Money is in % a year of 242 days, correlations in %; "±" is the standard error over blocks of 20 days and over seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.bench_step import table
from qlib_ext.evaluate import deflated_sharpe, headline, sharpe_error
from studies.cells import Config
from studies.decisions import Decision
from studies.final import Row
from studies.run import Study
from studies.scores import Sample
from studies.years import YEAR

PERCENT, MONEY = 100.0, 100.0 * YEAR
INDICES = {"SH000300": "CSI300", "SH000905": "CSI500", "SH000852": "CSI1000"}
LACKS = "(not run)"
Frames = list[pd.DataFrame]
Shown = Mapping[str, tuple[str, float, int]]  # title: column, factor, digits
SCORE: Shown = {
    "IC": ("ic10", PERCENT, 1), "RankIC": ("rank_ic10", PERCENT, 1), "neutral IC": ("neutral_ic", PERCENT, 1),
    "neutral RankIC": ("neutral_rank_ic", PERCENT, 1), "top twentieth": ("top10", MONEY, 1),
}  # fmt: skip
ACCOUNT: Shown = {"over buyable": ("excess", MONEY, 1), "over all": ("over_all", MONEY, 1)}
OVER: Shown = {f"over {name}": (f"over_{code}", MONEY, 1) for code, name in INDICES.items()}
HELD: Shown = {
    "turnover a day": ("turnover", PERCENT, 1), "names": ("names", 1.0, 0), "on volatility": ("held_volatility", 1, 2),
    "on liquidity": ("held_liquidity", 1, 2), "on beta": ("held_beta", 1, 2),
}  # fmt: skip
HORIZONS: Shown = {
    f"{title} {days}": (f"{name}{days}", PERCENT, 1)
    for name, title in (("ic", "IC"), ("rank_ic", "RankIC"))
    for days in (1, 5, 10, 20)
}
DECK: Shown = {
    "IC, 1 day": ("ic1", PERCENT, 1), "RankIC, 1 day": ("rank_ic1", PERCENT, 1), "IC, 10 days": ("ic10", PERCENT, 1),
    "RankIC, 10 days": ("rank_ic10", PERCENT, 1), "top twentieth, 1 day": ("top1", MONEY, 1),
    "over all, before costs": ("before", MONEY, 1), "over all": ("over_all", MONEY, 1),
}  # fmt: skip


# --- numbers


def with_indices(frames: Frames, indices: pd.DataFrame) -> Frames:
    """Add the account's excess over indices, `over_CODE`."""

    def added(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{f"over_{code}": frame["net"] - indices[code].reindex(frame.index) for code in indices})

    return [added(frame) for frame in frames]


def mean_days(frames: Frames) -> pd.DataFrame:
    """Average the seeds, day by day."""
    return sum(frames[1:], frames[0]) / len(frames)


def annual_sharpe(frames: Frames, column: str) -> tuple[float, float]:
    """Average the seeds' Sharpe ratios, a year; its error over days, of the seeds' mean account."""
    ratios = [headline(frame[column].dropna(), year=YEAR)["sharpe"] for frame in frames]
    return float(np.mean(ratios)), sharpe_error(mean_days(frames)[column].dropna()) * np.sqrt(YEAR)


def drawdown(frames: Frames, column: str = "over_all") -> float:
    """Average the seeds' largest fall of the running sum of the daily excess."""
    return float(np.mean([headline(frame[column].dropna(), year=YEAR)["max_drawdown"] for frame in frames]))


def sure(frames: Frames, shown: Shown, place: int = 0) -> list[str]:
    """Write "mean ± error" of columns; `place` draws the seeds of each row apart."""
    columns = [column for column, _, _ in shown.values()]
    drawn, _ = Sample.of(pd.DatetimeIndex(frames[0].index)).means(frames, columns, place)
    spread = drawn[1:].std(axis=0)
    return [
        f"{scale * drawn[0, n]:.{digits}f} ± {scale * spread[n]:.{digits}f}"
        for n, (_, scale, digits) in enumerate(shown.values())
    ]


def plain(frames: Frames, shown: Shown) -> list[str]:
    """Write means without errors."""
    mean = mean_days(frames).mean()
    return [f"{scale * mean[column]:.{digits}f}" for column, scale, digits in shown.values()]


def picked(shown: Shown, *titles: str) -> Shown:
    """Pick some of the columns."""
    return {title: shown[title] for title in titles}


# --- tables


def at(told: str, row: str, column: str) -> str:
    """Look a cell of a table up, for the page's words; KeyError for a column that it has not.

    >>> at(table(["", "IC"], [["chain", "9.5 ± 0.4"]]), "chain", "IC")
    '9.5 ± 0.4'
    """
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if line.startswith("|")]
    by_name = {line[0]: line for line in lines[2:]}
    return dict(zip(lines[0], by_name[row], strict=True))[column] if row in by_name else LACKS


def headline_table(study: Study, rows: Sequence[Row], indices: pd.DataFrame) -> str:
    """Scores, money, risk and holdings of each row, a column a row."""
    titles = ["Sharpe, over buyable", "Sharpe, over all", "tracking error", "drawdown", "worst year, over all"]
    columns = []
    for place, row in enumerate(rows):
        frames = with_indices(row.frames(study), indices)
        ratios = [annual_sharpe(frames, column) for column in ("excess", "over_all")]
        off = np.sqrt(YEAR) * np.mean([frame["over_all"].std() for frame in frames])
        risk = [f"{PERCENT * off:.1f}", f"{PERCENT * drawdown(frames):.1f}", worst_year(frames)]
        told = [*(f"{value:.2f} ± {error:.2f}" for value, error in ratios), *risk]
        columns.append([*sure(frames, {**SCORE, **ACCOUNT, **OVER}, place), *told, *plain(frames, HELD)])
    first = [*SCORE, *ACCOUNT, *OVER, *titles, *HELD]
    lines = [[title, *values] for title, values in zip(first, zip(*columns, strict=True), strict=True)]
    return table(["", *(row.name for row in rows)], lines)


def years_table(study: Study, row: Row, indices: pd.DataFrame) -> str:
    """Tell what was traded how in each year, and what came of it."""
    score, held = picked(SCORE, "IC", "RankIC", "neutral RankIC"), picked(HELD, "turnover a day", "names")
    every, lines = with_indices(row.frames(study), indices), []
    for year, (config, way) in sorted(row.by_year.items()):
        frames = [frame[frame.index.year == year] for frame in every]
        ratios = [f"{annual_sharpe(frames, column)[0]:.1f}" for column in ("excess", "over_all")]
        money = [*sure(frames, ACCOUNT), *plain(frames, OVER), *ratios]
        lines.append([str(year), config.name, way, *plain(frames, score), *money, *plain(frames, held)])
    titles = [*score, *ACCOUNT, *OVER, "Sharpe, over buyable", "Sharpe, over all", *held]
    return table(["year", "configuration", "trading", *titles], lines)


def horizons_table(study: Study, rows: Iterable[Row]) -> str:
    """IC and RankIC with the returns of 1, 5, 10, 20 days."""
    return table(["", *HORIZONS], [[row.name, *sure(row.frames(study), HORIZONS)] for row in rows])


def money_table(study: Study, rows: Iterable[Row]) -> str:
    """Excess by b and capital; rows are named "who|b|million yuan"."""
    lines = []
    for row in rows:
        frames = row.frames(study)
        ratios = [f"{annual_sharpe(frames, column)[0]:.2f}" for column in ("excess", "over_all")]
        lines.append([*row.name.split("|"), *sure(frames, ACCOUNT), *ratios])
    return table(["", "b", "million yuan", *ACCOUNT, "Sharpe, over buyable", "Sharpe, over all"], lines)


def changed_table(study: Study, rows: Sequence[Row]) -> str:
    """Change one thing of the first row: its own numbers, and those less the first's, day by day and seed by seed."""
    shown = picked({**SCORE, **ACCOUNT}, "RankIC", "neutral RankIC", "top twentieth", "over all")
    less = picked(shown, "RankIC", "top twentieth", "over all")
    own = dict(zip(rows[0].seeds, rows[0].frames(study), strict=True))
    lines = [[rows[0].name, str(len(own)), *plain([*own.values()], shown), "", "", ""]]
    for place, row in enumerate(rows[1:]):
        frames = row.frames(study)
        gaps = [frame - own[seed] for seed, frame in zip(row.seeds, frames, strict=True)]
        lines.append([row.name, str(len(frames)), *plain(frames, shown), *sure(gaps, less, place)])
    return table(["", "seeds", *shown, *(f"{title}, less" for title in less)], lines)


def deck_table(study: Study, rows: Iterable[Row]) -> str:
    """Set the deck's protocol beside walk-forward: next-day IC, the account before and after costs."""
    lines = []
    for place, row in enumerate(rows):
        before = [frame["over_all"] + frame["fees"] + frame["impact"] for frame in row.frames(study)]
        frames = [frame.assign(before=gross) for frame, gross in zip(row.frames(study), before, strict=True)]
        ratios = [f"{annual_sharpe(frames, column)[0]:.1f}" for column in ("before", "over_all")]
        lines.append([row.name, *sure(frames, DECK, place), *ratios])
    return table(["", *DECK, "Sharpe before costs", "Sharpe, over all"], lines)


def delisted_table(study: Study, base: Row, rows: Iterable[Row]) -> str:
    """Tell what synthetic delistings change, % a year: mean of the draws, its error."""
    columns = ["over_all", "excess", "net"]
    real, found = base.frames(study)[0][columns].mean(), {}
    for row in rows:
        gap = MONEY * (row.frames(study)[0][columns].mean() - real)
        found.setdefault(row.name.split("|")[0], []).append(gap.to_numpy())
    lines = []
    for kind, gaps in found.items():
        mean, sure = np.mean(gaps, axis=0), np.std(gaps, axis=0, ddof=1) / np.sqrt(len(gaps))
        lines.append([kind, str(len(gaps)), *(f"{a:+.2f} ± {b:.2f}" for a, b in zip(mean, sure, strict=True))])
    return table(["delisted a year", "draws", "over all", "over buyable", "account itself"], lines)


def decisions_table(decisions: Iterable[Decision]) -> str:
    """List what each decision saw, best first, as Sharpe ratios of a year."""
    lines = []
    for each in decisions:
        order = sorted(each.seen, key=each.seen.__getitem__, reverse=True)
        seen = ", ".join(f"{value_of(each, name)} {each.seen[name] * YEAR**0.5:.2f}" for name in order)
        lines.append([str(each.year), each.step, value_of(each, each.chosen), seen])
    return table(["for", "step", "chosen", "seen on the years before"], lines)


def looked_table(study: Study, rows: Iterable[Row]) -> str:
    """Tell what came of each configuration and way that was looked at, over all of its years."""
    shown = {**picked(SCORE, "IC", "RankIC", "neutral RankIC", "top twentieth"), **ACCOUNT}
    held, lines = picked(HELD, "turnover a day", "names"), []
    for place, row in enumerate(rows):
        frames = row.frames(study)
        ratios = [f"{annual_sharpe(frames, column)[0]:.2f}" for column in ("excess", "over_all")]
        worst = worst_year(frames)
        lines.append([row.name, str(len(frames)), *sure(frames, shown, place), *ratios, worst, *plain(frames, held)])
    titles = [*shown, "Sharpe, over buyable", "Sharpe, over all", "worst year, over all", *held]
    return table(["", "seeds", *titles], lines)


def worst_year(frames: Frames) -> str:
    """Write the lowest of the years' excesses over all stocks, and the year."""
    daily = mean_days(frames)["over_all"]
    by_year = daily.groupby(daily.index.year).mean()
    return f"{MONEY * by_year.min():.1f} ({by_year.idxmin()})"


def value_of(decision: Decision, name: str) -> str:
    """Value that a decision is about, of an option's name."""
    if decision.step == "way":
        return name
    return " on ".join(str(getattr(Config.read(name), field)) or "none" for field in decision.step.split(", "))


def deflated_table(study: Study, rows: Iterable[Row], trials: pd.DataFrame) -> str:
    """Sharpe ratios over the mean of all stocks, as in the file of trials, after all trials."""
    shown = {"trials": 0, "correlation": 2, "independent": 1, "deviation": 2, "highest": 2, "probability": 4}
    lines = []
    for row in rows:
        told: Mapping[str, Any] = deflated_sharpe(mean_days(row.frames(study))["over_all"].dropna(), trials, year=YEAR)
        ratio = f"{told['sharpe']:.2f} ± {told['sharpe_error']:.2f}"
        lines.append([row.name, ratio, *(f"{told[name]:.{digits}f}" for name, digits in shown.items())])
    return table(["", "Sharpe, over all", *shown], lines)


def index_steps(study: Study, days: pd.DatetimeIndex) -> pd.DataFrame:
    """Read the indices' returns from the close after each day to the next one, as the accounts earn them."""
    file = study.folder / "indices.parquet"
    if not file.exists():
        from qlib.data import D

        close: Any = D.features([*INDICES], ["$close"])["$close"].unstack(0)
        (close.shift(-2) / close.shift(-1) - 1.0).to_parquet(file)
    return pd.read_parquet(file).reindex(days)[[*INDICES]]
