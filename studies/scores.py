"""Compare scores, each piece on and off, walk-forward by years on real data: the tables of docs/scores.md.

    python -m studies.scores STUDY --provider-uri DIR --years 2018 2019 2020 2021 --last 2021-12-31

A piece is a row of `PIECES`: a model that learns on three years but their last 120 days, which select the epoch, or
scores made of those of other pieces. STUDY/features keeps the factors (1 GB a year), STUDY/scores what each piece and
seed says of those 120 days and of the test year, STUDY/daily its numbers by test day, STUDY/lines.csv a line for each
piece, year and seed; what is there is not run again. `--tables` prints the tables of what is there. No return counts
that ends after `--last`.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import qlib
import torch

from benchmarks.bench_step import table
from qlib_ext.cross_section import project_off, rank_shares
from qlib_ext.evaluate import (
    LightGBM,
    blend_inputs,
    blend_weights,
    circular_blocks,
    daily_metrics,
    ic_decay,
    rank_correlation,
    seed_shares,
)
from qlib_ext.features import ALPHA158_NAMES, chosen
from qlib_ext.model import DayModel, MASTERModel, MLPModel
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import CostAwarePolicy
from qlib_ext.provider import calendar
from studies.years import BOUNDS, MLP, TRAINED, VALID, YEAR, Features, Grid, Year, days_of, outcomes, parser

HORIZON = 10  # days of the label that all pieces are judged by
EVERY = 3  # of the training days are learnt from: ten-day returns overlap, and a third of them serves as well
THIN = MLP | {"batch_days": 2, "every_days": EVERY}  # as many steps an epoch then
LAGS = 40
TOP = 20  # the best 1 / TOP of the scores
BLOCK, DRAWS = 20, 2000
NEUTRAL = 2  # of years.KINDS: volatility, liquidity
DAILY = ("FastDaily", {"with_alpha158": True})
OWN = len(ALPHA158_NAMES)
KEPT = OWN + len(chosen(exclude=["survivor"]))
FACTORS = {  # of the features of DAILY: Alpha158, FastDaily, of which those that survivors flatter are the last
    "alpha158": slice(OWN),
    "daily": slice(KEPT),
    "daily_alone": slice(OWN, KEPT),
    "survivors": slice(None),
}
KEY = ["piece", "year", "seed"]
SHOWN = {  # column of the tables: column of the days, factor, digits
    "IC": ("ic", 100, 2), "RankIC": ("rank_ic", 100, 2),
    "neutral IC": ("neutral_ic", 100, 2), "neutral RankIC": ("neutral_rank_ic", 100, 2),
    "top, 1 day": ("top1", 100 * YEAR, 1), "top, 10 days": ("top10", 100 * YEAR, 1),
    "net excess": ("net", 100 * YEAR, 1), "over all": ("net_all", 100 * YEAR, 1),
    "on volatility": ("on_volatility", 1, 2), "on liquidity": ("on_liquidity", 1, 2),
}  # fmt: skip
YEARLY = ("neutral RankIC", "top, 10 days", "over all")
COMPARED = ("RankIC", "neutral IC", "neutral RankIC", "top, 1 day", "top, 10 days", "over all")


# --- what pieces work with


class Bench:
    """A test year, and what pieces need of it; features are read when a piece asks for them.

    Attributes:
        year: what trades meet.
    """

    def __init__(self, folder: Path, universe: str, year: int, last: pd.Timestamp) -> None:
        self.folder, self.universe, self.last, self.panels = folder, universe, last, {}
        every = pd.DatetimeIndex(calendar())
        test, before = days_of(year, 1)
        most = int(every.searchsorted(last, side="right")) - 3  # the step after a signal ends two days after it
        end = every[min(int(every.searchsorted(test[-1])) + LAGS + HORIZON, most)]
        self.year = Year(outcomes(universe, before[-VALID], end), year, last)

    def panel(self, factors: str = "alpha158", years: int = TRAINED, gap: int = 0) -> DayPanel:
        """Factors (of `FACTORS`) and ten-day label of the year and of `years` + `gap` before it."""
        if (factors, years + gap) not in self.panels:
            files = Features(self.folder / "features", self.universe, DAILY[0], **DAILY[1])
            first, last = self.year.year - years - gap, self.year.year
            self.panels[factors, years + gap] = files.panel(first, last, FACTORS[factors])
        return self.panels[factors, years + gap]

    def rows(self, panel: DayPanel, reach: int = HORIZON + 1, gap: int = 0) -> dict[str, npt.NDArray[np.int64]]:
        """Rows of a panel to learn from (train), to select on (valid) and to score; labels end before the next.

        Those to learn from and to select on end `gap` years before the test year.
        """
        every, (fresh, first) = np.arange(len(panel.days)), (self._begins(panel, back) for back in (gap, 0))
        start = fresh - VALID
        return {
            "train": every[: start - reach],
            "valid": every[start : fresh - reach],
            "scored": every[first - VALID :],
        }

    def _begins(self, panel: DayPanel, back: int) -> int:
        """Row of the first day of the test year, or of one `back` years before."""
        return len(panel.days) - len(panel.rows(f"{self.year.year - back}-01-01", None))

    def returns(self, panel: DayPanel, days: int) -> torch.Tensor:
        """Return (D, N) of other days than ten, where a stock trades at entry and exit."""
        traded = (panel.buyable | panel.sellable).numpy()
        left = np.zeros_like(traded)
        left[:-days] = traded[days:]
        label = np.where(traded & left, forward(panel.step_return.numpy(), days), np.nan)
        return torch.from_numpy(label.astype(np.float32))

    def known(self, panel: DayPanel, days: int) -> torch.Tensor:
        """Label (D, N) of so many days, NaN where it ends after the last day that counts."""
        every = pd.DatetimeIndex(calendar())
        end = every[np.minimum(every.searchsorted(panel.days) + days + 1, len(every) - 1)]
        late = torch.from_numpy(np.asarray(end > self.last))
        return torch.where(late[:, None], torch.nan, panel.label)

    def frame(self, score: npt.NDArray[Any], panel: DayPanel | None = None) -> pd.DataFrame:
        """Name scores (days, N) of a panel's last days; of the year's where none is given."""
        if panel is None:
            return pd.DataFrame(score, self.year.days, self.year.stocks)
        return pd.DataFrame(score, panel.days[-len(score) :], panel.stocks)

    def score(self, piece: str, seed: int) -> Grid:
        """Give the scores (D, N) of a piece, made where they are not there."""
        file = self.folder / "scores" / piece / f"{self.year.year}_{seed}.parquet"
        if not file.exists():
            start, made = time.perf_counter(), PIECES[piece].make(self, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            made.astype(np.float32).to_parquet(file)
            print(f"{piece}, {self.year.year}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        return self.year.grid(pd.read_parquet(file))


Make = Callable[[Bench, int], pd.DataFrame]


@dataclass(frozen=True)
class Piece:
    """A way to make scores.

    Attributes:
        what: in a few words.
        make: of a bench and a seed -> day x code.
        against: the piece without it; "": none.
        seeds: those below it are run; 1: nothing in it is random.
    """

    what: str
    make: Make
    against: str = ""
    seeds: int = 100


def net(
    kind: Callable[..., DayModel] = MLPModel,
    *,
    days: int | None = None,
    every: int = EVERY,
    horizons: tuple[int, ...] = (),
    step_len: int = 1,
    factors: str = "alpha158",
    years: int = TRAINED,
    **options: Any,
) -> Make:
    """Train a network with options over `THIN`.

    Args:
        kind: of model.
        days: of the return that is learnt, None: the label's ten.
        every: so many training days one is learnt from.
        horizons: days of returns that have a head each.
        step_len: days in a window.
        factors: of `FACTORS`.
        years: to learn from, the days that select among them.
        options: of the model.
    """

    def make(bench: Bench, seed: int) -> pd.DataFrame:
        panel = bench.panel(factors, years)
        if days is not None:
            panel = replace(panel, label=bench.returns(panel, days))
        if horizons:
            labels = torch.stack([bench.returns(panel, held) for held in horizons], dim=-1)
            panel = replace(panel, labels=labels, horizons=horizons)
        model, rows = (
            kind(**{**THIN, "every_days": every, **options}, seed=seed),
            bench.rows(panel, max(horizons, default=HORIZON) + 1),
        )
        model.fit_rows(panel, step_len, rows["train"], rows["valid"])
        return bench.frame(model.trainer.predict(panel, rows["scored"]), panel)

    return make


def deck(loss: str) -> Make:
    """Train as the deck does: raw next-day returns, weights by the outcome; from every day."""
    return net(days=1, every=1, batch_days=4, loss=loss, target="raw")


def lightgbm(factors: str = "alpha158", **options: Any) -> Make:
    """Train the baseline of the records on the ranks of ten-day returns."""

    def make(bench: Bench, seed: int) -> pd.DataFrame:
        panel = bench.panel(factors)
        score, _ = LightGBM(seed=seed, **options).fit_predict(panel, *bench.rows(panel).values())
        return bench.frame(score, panel)

    return make


def projected(piece: str) -> Make:
    """Project a piece's scores off volatility and liquidity, with equal weights over the day's stocks."""

    def make(bench: Bench, seed: int) -> pd.DataFrame:
        score = bench.score(piece, seed)
        inside = np.isfinite(score) & bench.year.market["universe"]
        return bench.frame(residual(score, bench.year.exposures[..., :NEUTRAL], inside))

    return make


def mean_rank(*pieces: str, seeds: Iterable[int] | None = None) -> Make:
    """Average the day's ranks of several pieces, and of several seeds (None: the one that is asked for)."""

    def make(bench: Bench, seed: int) -> pd.DataFrame:
        every = [bench.score(piece, n) for piece in pieces for n in ([seed] if seeds is None else seeds)]
        return bench.frame(np.mean([rank_shares(score) for score in every], axis=0))

    return make


def weighted(*pieces: str) -> Make:
    """Add the ranks of several pieces by weights of the days that select, see `evaluate.blend_weights`."""

    def make(bench: Bench, seed: int) -> pd.DataFrame:
        every, inside = [bench.score(piece, seed) for piece in pieces], bench.year.market["universe"]
        ranks = [np.where(np.isfinite(score), unit(score), np.nan) for score in every]
        past = slice(0, bench.year.first - HORIZON - 1)
        label = np.where(inside, forward(bench.year.step, HORIZON)[: len(inside)], np.nan)
        weights = blend_weights(*blend_inputs([rank[past] for rank in ranks], label[past]))
        return bench.frame(np.tensordot(weights, ranks, axes=1))

    return make


def minus(kind: str) -> Make:
    """Rank by minus a number that is known at the close."""
    return lambda bench, seed: bench.frame(np.where(bench.year.market["universe"], -bench.year.market[kind], np.nan))


def random(bench: Bench, seed: int) -> pd.DataFrame:
    """Score by chance: what the account earns without knowing anything."""
    chance = np.random.default_rng(seed).normal(size=bench.year.market["universe"].shape)
    return bench.frame(np.where(bench.year.market["universe"], chance, np.nan))


HEADS, KINDS = (1, 5, 10, 20), ["volatility", "liquidity"]
MASTER = {"step_len": 8, "d_model": 32, "attention_dropout": 0.0, "inter": "induced"}
PIECES = {
    "mlp": Piece("MLP on Alpha158, IC with the ranks of ten-day returns", net()),
    "mlp_all_days": Piece("the same, from every day", net(every=1, batch_days=4), "mlp"),
    "random": Piece("random numbers", random, "mlp"),
    "volatility": Piece("minus the 20-day volatility", minus("volatility"), "mlp", 1),
    "liquidity": Piece("minus the 20-day liquidity", minus("liquidity"), "mlp", 1),
    "wpcc_1": Piece("the deck's WPCC, next-day return, every day", deck("wpcc"), "mlp"),
    "liq_wpcc_1": Piece("the deck's LIQ-WPCC, next-day return, every day", deck("liq_wpcc"), "mlp"),
    "mlp_projected": Piece("its score projected off volatility, liquidity", projected("mlp"), "mlp"),
    "neutral": Piece("neutral to volatility, liquidity", net(neutral=KINDS), "mlp"),
    "horizons": Piece("heads of 1, 5, 10, 20 days", net(horizons=HEADS), "mlp"),
    "neutral_horizons": Piece("neutral, heads of 1, 5, 10, 20 days", net(neutral=KINDS, horizons=HEADS), "neutral"),
    "six_years": Piece("six years to learn from", net(years=6), "mlp"),
    "day_halflife": Piece("old days count half after 242 days", net(day_halflife=YEAR), "mlp"),
    "master": Piece("MASTER of width 32, windows of 8 days", net(MASTERModel, **MASTER), "mlp"),
    "master_full": Piece("its full attention", net(MASTERModel, **MASTER | {"inter": "full"}), "master"),
    "lightgbm": Piece("LightGBM on the same", lightgbm(), "mlp"),
    "daily": Piece("FastDaily too, without what survivors flatter", net(factors="daily"), "mlp"),
    "survivors": Piece("all of FastDaily too", net(factors="survivors"), "daily"),
    "neutral_daily": Piece("neutral, FastDaily", net(factors="daily", neutral=KINDS), "daily"),
    "lightgbm_daily": Piece("LightGBM, FastDaily", lightgbm("daily"), "lightgbm"),
    "daily+lightgbm": Piece("mean rank, FastDaily", mean_rank("daily", "lightgbm_daily"), "daily"),
    "mlp_seeds": Piece("mean rank of three seeds", mean_rank("mlp", seeds=range(3)), "mlp", 1),
    "mlp+lightgbm": Piece("mean rank of MLP and LightGBM", mean_rank("mlp", "lightgbm"), "mlp"),
    "mlp+lightgbm_weighted": Piece("their ranks by weights", weighted("mlp", "lightgbm"), "mlp+lightgbm"),
    "neutral+lightgbm": Piece("mean rank of neutral MLP and LightGBM", mean_rank("neutral", "lightgbm"), "neutral"),
}


# --- a score's numbers by day


def forward(step: npt.NDArray[Any], days: int) -> Grid:
    """Compound one-day returns (D, N): the return of `days` days from each entry; NaN where one is not known."""
    total = np.zeros((2, len(step) + 1, step.shape[1]))
    np.cumsum([np.log1p(np.nan_to_num(step)), np.isnan(step)], axis=1, out=total[:, 1:])
    growth, unknown = total[:, days:] - total[:, :-days]
    out = np.full(step.shape, np.nan)
    out[: len(growth)] = np.where(unknown > 0, np.nan, np.expm1(growth))
    return out


def residual(value: Grid, exposures: Grid, inside: npt.NDArray[np.bool_]) -> Grid:
    """Take the least-squares fit on a constant and exposures (D, N, K) off values (D, N), day by day; NaN outside."""
    grids = (torch.from_numpy(np.where(inside, value, 0.0)), torch.from_numpy(exposures))
    real = torch.from_numpy(inside)
    return np.where(inside, project_off(*grids, real, real).numpy(), np.nan)


def correlation(left: Grid, right: Grid) -> Grid:
    """Correlate (D,) values (D, N) of mean 0 that are NaN in the same places."""
    one, other = np.nan_to_num(left), np.nan_to_num(right)
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return (one * other).sum(axis=1) / np.where(scale > 0, scale, np.nan)


def unit(value: Grid) -> Grid:
    """Rank (D, N) within the day, mean 0 and variance 1; 0 where there is none."""
    share = rank_shares(value)
    real = np.isfinite(share)
    count = np.maximum(real.sum(axis=1, keepdims=True), 1)
    gap = np.where(real, share - np.where(real, share, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
    spread = np.sqrt((gap**2).sum(axis=1, keepdims=True) / count)
    return gap / np.where(spread > 0, spread, 1.0)


def daily_numbers(year: Year, score: Grid) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Measure scores (D, N) on the days of the test year.

    Returns: a row a day, and the year's facts. A day's numbers that end after the last day are NaN. Of the top those
        count that could be bought; the mean is that of the stocks that could.
    """
    rows, market = slice(year.first, None), year.market
    days = len(year.days)
    score = np.where(market["universe"], score, np.nan)
    label = forward(year.step, HORIZON)[:days]
    label = np.where(market["buyable"] | market["sellable"], label, np.nan)
    plain = daily_metrics(score[rows], label[rows], names=["ic", "rank_ic"])
    out = {name: plain[name].to_numpy() for name in ("ic", "rank_ic")}
    inside = np.isfinite(score) & np.isfinite(label)
    loads = year.exposures[rows, :, :NEUTRAL]
    for name, both in {"neutral_ic": (score, label), "neutral_rank_ic": (unit(score), unit(label))}.items():
        out[name] = correlation(*(residual(value[rows], loads, inside[rows]) for value in both))
    out |= {"top1": top(year, score, year.step[:days])[rows], "top10": top(year, score, label)[rows] / HORIZON}
    for number, kind in enumerate(("volatility", "liquidity")):
        out[f"on_{kind}"] = rank_correlation(score[rows], year.exposures[rows, :, number])
    ranks, steps = unit(score)[rows], unit(year.step)
    count = np.isfinite(score[rows]).sum(axis=1)
    for lag in range(1, LAGS + 1):
        at = np.arange(year.first, days) + lag - 1
        later = (ranks * steps[at.clip(max=len(steps) - 1)]).sum(axis=1) / np.maximum(count, 1)
        out[f"lag{lag}"] = np.where(at < len(steps), later, np.nan)
    forecast = year.forecast(score)
    account, line = year.traded(CostAwarePolicy(forecast, impact=1.0, bounds=BOUNDS), score, 0.05, 1.0)
    told_by = {name: getattr(forecast, name) for name in ("smoothing", "t", "significant", "slope")}
    out |= {"net": account["excess"].to_numpy()}
    out["net_all"] = account["net"].to_numpy() - mean_of(year.step[:days], market["universe"])[rows]
    frame = pd.DataFrame(out, index=year.days[rows])
    traded = {f"account_{name}": value for name, value in line.items()}
    return frame, traded | {f"forecast_{name}": value for name, value in told_by.items()}


def top(year: Year, score: Grid, gain: Grid) -> Grid:
    """Excess (D,) of the top twentieth of the day's scores over the mean stock, of those that could be bought."""
    bought = year.market["universe"] & year.market["buyable"]
    return mean_of(gain, bought & (rank_shares(score) > 1.0 - 1.0 / TOP)) - mean_of(gain, bought)


def mean_of(value: Grid, picked: npt.NDArray[np.bool_]) -> Grid:
    """Average (D,) what is known of the picked values (D, N); NaN where there is none."""
    real = picked & np.isfinite(value)
    count = real.sum(axis=1)
    return np.where(real, value, 0.0).sum(axis=1) / np.where(count > 0, count, np.nan)


# --- tables


@dataclass(frozen=True)
class Sample:
    """Days of several years, drawn in blocks: (R, D) how often each counts; seeds are drawn anew for each piece."""

    days: pd.DatetimeIndex
    counts: Grid

    @classmethod
    def of(cls, days: pd.DatetimeIndex) -> "Sample":
        """Draw blocks of successive days, circular; the first row takes each day once."""
        drawn = circular_blocks(len(days), BLOCK, DRAWS, seed=0)
        counts = np.zeros((DRAWS + 1, len(days)))
        counts[0] = 1.0
        for draw, rows in enumerate(drawn):
            counts[draw + 1] = np.bincount(rows, minlength=len(days))
        return cls(days, counts)

    def means(self, frames: list[pd.DataFrame], columns: list[str], place: int) -> tuple[Grid, Grid]:
        """Average columns over the draws' days and seeds.

        Args:
            frames: of the seeds, by day.
            columns: of them.
            place: of the piece, for its draws of seeds.

        Returns: (R, columns), the first row the mean itself, and (S, columns) means of each seed.
        """
        shares = np.vstack([np.full(len(frames), 1 / len(frames)), seed_shares(len(frames), DRAWS, (0, place))])
        drawn, own = np.zeros((DRAWS + 1, len(columns))), []
        for share, frame in zip(shares.T, frames, strict=True):
            value = frame.reindex(self.days)[columns].to_numpy()
            mean = (self.counts @ np.nan_to_num(value)) / np.maximum(self.counts @ np.isfinite(value), 1)
            drawn += share[:, None] * mean
            own.append(mean[0])
        return drawn, np.array(own)


def decay(frames: list[pd.DataFrame]) -> str:
    """Half-life in days, and one error less and more, of the seeds' mean score (`evaluate.ic_decay`)."""
    lags = range(1, LAGS + 1)
    mean = sum(frame[[f"lag{lag}" for lag in lags]] for frame in frames) / len(frames)
    fitted = ic_decay(pd.DataFrame({lag: mean[f"lag{lag}"].shift(lag - 1) for lag in lags}))  # by day of the return
    return "" if np.isnan(fitted.half_life) else f"{fitted.half_life:.0f} ({fitted.low:.0f} to {fitted.high:.0f})"


def measured(folder: Path, years: Iterable[int], pieces: Iterable[str]) -> dict[str, dict[int, pd.DataFrame]]:
    """Read the days of each piece by seed, of seeds that have all years."""
    found: dict[str, dict[int, pd.DataFrame]] = {}
    for piece in pieces:
        kept = folder / "daily" / piece
        names = {file.stem for file in kept.glob("*.parquet")}
        seeds = sorted({int(name.split("_")[1]) for name in names})
        for seed in seeds:
            if names >= (wanted := {f"{year}_{seed}" for year in years}):
                parts = [pd.read_parquet(kept / f"{name}.parquet") for name in sorted(wanted)]
                found.setdefault(piece, {})[seed] = pd.concat(parts)
    return found


def days_in(found: dict[str, dict[int, pd.DataFrame]]) -> pd.DatetimeIndex:
    """Days of what `measured` found."""
    return pd.DatetimeIndex(next(iter(next(iter(found.values())).values())).index)


def without(piece: str, found: dict[str, dict[int, pd.DataFrame]]) -> list[pd.DataFrame]:
    """Take the piece that it is measured against off, day by day, of the same seed; one of no seed off each."""
    own, base = found[piece], found.get(PIECES[piece].against, {})
    if PIECES[piece].seeds == 1:
        return [own[0] - frame for frame in base.values()]
    return [frame - base[seed] for seed, frame in own.items() if seed in base]


def tables(folder: Path, years: list[int], pieces: Iterable[str]) -> str:
    """Write the table of values and that of differences from the piece without, with errors of the block bootstrap."""
    found = measured(folder, years, pieces)
    if not found:
        return f"nothing there for {years}"
    sample, columns = Sample.of(days_in(found)), [name for name, _, _ in SHOWN.values()]
    values, gaps = [], []
    for piece, by_seed in found.items():
        frames, place = list(by_seed.values()), list(PIECES).index(piece)
        drawn, own = sample.means(frames, columns, place)
        off = np.sqrt(YEAR) * np.mean([frame["net"].std() for frame in frames])
        row = [piece, str(len(frames))]
        for number, (name, (_, scale, digits)) in enumerate(SHOWN.items()):
            value, sure = scale * drawn[0, number], scale * drawn[1:, number].std()
            spread = f" ({scale * own[:, number].std(ddof=1):.{digits}f})" if len(own) > 1 else ""
            row.append(f"{value:.{digits}f}" + ("" if name.startswith("on ") else f" ± {sure:.{digits}f}{spread}"))
        values.append([*row, decay(frames), f"{100 * off:.1f}"])
        if apart := without(piece, found):
            gap, row = sample.means(apart, columns, place)[0], [piece, PIECES[piece].against, str(len(apart))]
            for name in COMPARED:
                number, (_, scale, digits) = list(SHOWN).index(name), SHOWN[name]
                row.append(f"{scale * gap[0, number]:+.{digits}f} ± {scale * gap[1:, number].std():.{digits}f}")
            gaps.append(row)
    money = "IC in %, money in % a year; ± standard error over days (deviation over seeds)"
    head = f"{years}, {len(sample.days)} days; {money}\n\n"
    first = table(["piece", "seeds", *SHOWN, "half-life", "tracking error"], values)
    second = table(["piece", "against", "pairs of seeds", *COMPARED], gaps)
    return f"{head}{first}\n\nless the piece without\n\n{second}"


def by_year(folder: Path, years: list[int], pieces: Iterable[str]) -> str:
    """Write a table a number of `YEARLY`, a column a year."""
    found, parts = measured(folder, years, pieces), []
    for name in YEARLY if found else ():
        column, scale, digits = SHOWN[name]
        rows = [[piece] for piece in found]
        for year in years:
            days = days_in(found)
            sample = Sample.of(days[days.year == year])
            for row, (piece, by_seed) in zip(rows, found.items(), strict=True):
                drawn = scale * sample.means(list(by_seed.values()), [column], list(PIECES).index(piece))[0][:, 0]
                row.append(f"{drawn[0]:.{digits}f} ± {drawn[1:].std():.{digits}f}")
        parts.append(f"{name}\n\n{table(['piece', *map(str, years)], rows)}")
    return "\n\n".join(parts)


def main() -> None:
    """Run what was not run, print the tables."""
    asked = parser(__doc__, "of scores, daily numbers and lines.csv")
    asked.add_argument("--pieces", nargs="+", default=list(PIECES), choices=list(PIECES), metavar="PIECE")
    asked.add_argument("--tables", action="store_true", help="run nothing")
    wanted = asked.parse_args()
    if not wanted.tables:
        qlib.init(provider_uri=wanted.provider_uri, region="cn")
        for year in wanted.years:
            run(wanted.folder, wanted.universe, year, wanted.last, wanted.seeds, wanted.pieces)
    years = sorted(wanted.years)
    print(tables(wanted.folder, years, wanted.pieces))
    if len(years) > 1:
        print("\n" + by_year(wanted.folder, years, wanted.pieces))


def run(folder: Path, universe: str, year: int, last: pd.Timestamp, seeds: list[int], pieces: list[str]) -> None:
    """Make and measure the scores of a year that are not there; a line each."""
    kept, bench = folder / "lines.csv", None
    for seed in seeds:
        for piece in (name for name in pieces if seed < PIECES[name].seeds):
            file = folder / "daily" / piece / f"{year}_{seed}.parquet"
            if file.exists():
                continue
            bench = bench or Bench(folder, universe, year, last)
            daily, facts = daily_numbers(bench.year, bench.score(piece, seed))
            lines = pd.read_csv(kept) if kept.exists() else pd.DataFrame(columns=KEY)
            line = {"piece": piece, "year": year, "seed": seed, "days": len(daily), **daily.mean().to_dict(), **facts}
            pd.concat([lines, pd.DataFrame([line])], ignore_index=True).to_csv(kept, index=False)
            file.parent.mkdir(parents=True, exist_ok=True)
            daily.to_parquet(file)
            shown = {name: f"{scale * line[column]:.{digits}f}" for name, (column, scale, digits) in SHOWN.items()}
            print(piece, year, seed, shown, flush=True)


if __name__ == "__main__":
    main()
