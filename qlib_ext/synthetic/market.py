"""The embedded market as a whole: simulated, scored by its oracle, written to a folder."""

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.beside import alone
from qlib_ext.options import check_flag, check_number, refuse_unknown
from qlib_ext.synthetic import files
from qlib_ext.synthetic.listings import MAX_STOCKS, BoolArray, FloatArray, Setup, build_setup, trading_days
from qlib_ext.synthetic.macro import macro_table, macro_text, regime_at_close
from qlib_ext.synthetic.process import Process

VERSION = 2  # of the embedded market; a change of the process raises it and `ensure_market` rebuilds
DEFAULT_PATH = Path("~/.qlib/qlib_data/qlib_ext_demo").expanduser()
INDEX = "SH000300"
MACRO = "macro.csv"  # in the market's folder
FIELDS = ("open", "high", "low", "close", "vwap", "factor", "volume", "amount", "change", "adjclose")
_NUMBERS: dict[str, tuple[str, type]] = {  # option -> what is allowed
    "n_stocks": (f"[10, {MAX_STOCKS}]", int),
    "years": ("[0.25, 30]", float),
    "seed": ("[0, inf)", int),
    "signal": ("[0, 0.02]", float),
    "rho": ("[0, 1)", float),
}
DEFAULT_BOUND: dict[str, Any] = {  # of the market with the default options: what `benchmarks.bench_bound` computes
    "first": "2022-01-04",
    "last": "2022-12-23",
    "capital": 150e6,
    "participation": 0.05,
    "b": 1.0,
    "days": 236,
    "upper_bound": {"excess": 0.9929, "costs": 0.09197, "turnover": 35.23},
    "planned": {"excess": 0.8943, "costs": 0.2037, "turnover": 65.09},
}
_BLOCK = 256  # stocks whose fields are held in memory at once while writing
Say = Callable[[str], object]


@dataclass(frozen=True)
class Market:
    """A simulated market in raw units; `D` days, `N` stocks.

    `bars`: name -> (D, N) float64, NaN where the stock does not trade: open, high, low, close, vwap (raw
    yuan), lots (100 shares), reference (previous close after ex-rights, raw yuan), latent (s), slow (l) and
    expected (m); NaN only where it is not listed: adjustment (cumulative, 1 at first), cap (yuan) and planted (m, of
    suspended days too). `members` (D,
    N) bool: in the index csi300. `index`: field -> (D,) of SH000300.
    """

    setup: Setup
    bars: dict[str, FloatArray]
    members: BoolArray
    index: dict[str, FloatArray]
    parameters: dict[str, Any]

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the N stocks, sorted."""
        return self.setup.codes

    @property
    def days(self) -> npt.NDArray[np.datetime64]:
        """The D trading days."""
        return self.setup.days

    def label(self) -> FloatArray:
        """Ref($close,-2)/Ref($close,-1)-1, (D, N): NaN where a price is missing or d is not listed."""
        close = self.bars["close"] * self.bars["adjustment"]
        out = np.full_like(close, np.nan)
        out[:-2] = close[2:] / close[1:-1] - 1.0
        return np.where(np.isfinite(self.bars["adjustment"]), out, np.nan)

    def fields(self, stocks: slice = slice(None)) -> dict[str, FloatArray]:
        """Give the provider's fields, name -> (D, n); NaN on suspended days in all but `factor`."""
        bars = {name: values[:, stocks] for name, values in self.bars.items()}
        raw, adjustment = bars["close"], bars["adjustment"]
        start = self.setup.first[stocks]
        factor = adjustment / (raw * adjustment)[start, np.arange(raw.shape[1])]
        out = {name: bars[name] * factor for name in ("open", "high", "low", "close", "vwap")}
        out["factor"] = factor
        out["volume"] = bars["lots"] / factor
        out["amount"] = bars["lots"] * bars["vwap"] / 10.0
        out["change"] = raw / bars["reference"] - 1.0
        out["adjclose"] = raw * adjustment
        return out


def simulate(*, say: Say | None = None, **options: Any) -> Market:
    """Simulate a market (pure; the same arguments give the same numbers).

    Args:
        say: called with a line on the progress.
        options: `n_stocks`, `start`, `years`, `seed`, `signal`, `rho`, `regime`, as of `make_market`.

    Raises:
        TypeError: an unknown option.
        ValueError: an option out of its range.

    >>> market = simulate(n_stocks=12, years=0.25, seed=1)
    >>> market.bars["close"].shape == (len(market.days), len(market.codes))
    True
    """
    parameters = _checked(options)
    signal, rho, seed = parameters["signal"], parameters["rho"], parameters["seed"]
    rng = np.random.default_rng(seed)
    setup = build_setup(rng, **{name: parameters[name] for name in ("n_stocks", "start", "years")})
    state: dict[str, Any] = {"slow": np.random.default_rng([seed, 4])}
    if "regime" in parameters:
        state |= {"regime": regime_at_close(setup.days, seed), "extra": np.random.default_rng([seed, 3])}
    bars = Process(setup, rng, signal=signal, rho=rho, **state).run(say or _quiet)
    members = _index_members(setup, bars["cap"])
    return Market(setup, bars, members, _index_bars(bars, members), parameters)


def oracle(market: Market) -> dict[str, float | int]:
    """Score every stock with m[d] = E[label of d | state at the close of d] and say what that reaches.

    Over days with at least 30 stocks that trade on d and have a label: mean daily IC and RankIC, mean label
    of the tenth with the highest m, of the same among the more liquid half, and of all stocks. Limits are
    not accounted for in m. NaN where there is no such day or, for the correlations, no signal.
    """
    import torch  # here, since the commands start without it

    from qlib_ext.cross_section import pearson, rank_shares, spearman

    label = market.label()
    scored = np.isfinite(market.bars["expected"]) & np.isfinite(label)
    days = scored.sum(axis=1) >= 30
    scored, label = scored[days], np.where(scored, label, np.nan)[days]
    score = np.where(scored, market.bars["expected"][days], np.nan)
    turnover = np.where(scored, (market.bars["lots"] * market.bars["vwap"])[days], np.nan)
    liquid_rank = rank_shares(np.where(rank_shares(turnover) > 0.5, score, np.nan))
    top = rank_shares(score) > 0.9
    grids = [torch.from_numpy(grid) for grid in (label, score, scored)]  # no signal: NaN, as for equal labels
    return {
        "days": int(days.sum()),
        "ic": float(pearson(*grids).nanmean()),
        "rank_ic": float(spearman(*grids).nanmean()),
        "top_decile_return": _mean_of_days(label, top),
        "top_decile_return_liquid_half": _mean_of_days(label, liquid_rank > 0.9),
        "market_return": _mean_of_days(label, scored),
    }


def bound_of(parameters: dict[str, Any]) -> dict[str, Any] | None:
    """Tell the bound of a market by its parameters, which takes minutes to compute: known of the default one alone."""
    return DEFAULT_BOUND if parameters == _checked({}) else None


def make_market(
    path: str | Path,
    *,
    n_stocks: int = 300,
    start: str = "2020-01-02",
    years: float = 3,
    seed: int = 7,
    signal: float = 0.003,
    rho: float = 0.9,
    regime: bool = False,
    say: Say | None = None,
) -> Path:
    """Simulate a market and write it to `path` as a qlib provider folder, replacing an embedded market there.

    Written beside `path` and renamed at the end, so that an interrupted build is never taken for a complete one and
    builds at the same time do no harm. The same arguments give identical files.

    Args:
        path: provider folder, new, empty or an embedded market.
        n_stocks: all stocks that are ever listed in the period, 10 to 5,500.
        start: first calendar day, ISO date from 1997 on.
        years: length of the calendar, 0.25 to 30.
        seed: of all randomness.
        signal: standard deviation of the label's planted mean at the median liquidity; 0 (plants nothing) to 0.02.
        rho: autocorrelation of the fast signal from day to day, in [0, 1).
        regime: plant two fast signals, of which the macro state decides which one works.
        say: called with a line on the progress.

    Returns: the folder.

    Raises:
        ValueError: an argument out of its range, or `path` holds something else than an embedded market.

    >>> import tempfile
    >>> folder = make_market(tempfile.mkdtemp(), n_stocks=12, years=0.25)
    >>> sorted(place.name for place in folder.iterdir())
    ['README.md', 'calendars', 'features', 'instruments', 'macro.csv', 'oracle.json']
    """
    target = Path(path).expanduser().resolve()
    files.check_target(target)
    size = {"n_stocks": n_stocks, "start": start, "years": years, "seed": seed}
    market = simulate(**size, signal=signal, rho=rho, regime=regime, say=say)
    target.parent.mkdir(parents=True, exist_ok=True)
    build = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        _write(market, build, say or _quiet)
        files.replace(build, target)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return target


def is_market(path: str | Path) -> bool:
    """Whether `path` holds a complete embedded market of this version."""
    return files.read_oracle(path).get("version") == VERSION and (Path(path).expanduser() / MACRO).is_file()


def write_macro(folder: str | Path, parameters: dict[str, Any]) -> Path:
    """Write the macro series that go with the parameters of a market to `macro.csv` in `folder`."""
    days = trading_days(parameters["start"], parameters["years"])
    target = Path(folder) / MACRO
    build = target.with_name(f".{MACRO}.{uuid.uuid4().hex[:12]}")
    build.write_text(macro_text(macro_table(days, parameters["seed"])), encoding="utf-8", newline="\n")
    return build.replace(target)


def ensure_market(path: str | Path = DEFAULT_PATH, *, say: Say | None = None, **options: Any) -> Path:
    """Build the embedded market at `path` unless a complete one of this version is there; others wait for the builder.

    Args:
        path: provider folder.
        say: called with a line on the progress of a build, and where another process has to be waited for.
        options: of `make_market`; a market there that was built with others is an error, not replaced.

    Returns: the folder.
    """
    target = Path(path).expanduser().resolve()
    if files.read_oracle(target).get("version") != VERSION:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target, say or _quiet):
            if files.read_oracle(target).get("version") != VERSION:
                files.remove_left(target)
                return make_market(target, say=say, **options)
    there = files.read_oracle(target)["parameters"]
    if not is_market(target):  # of a release before the macro series, which need nothing but the parameters
        write_macro(target, there)
    wanted = {"regime": False} | _checked(there | options)
    there = {"regime": False} | there
    differs = {name: there[name] for name in options if there[name] != wanted[name]}
    if differs:
        raise ValueError(
            f"{target} holds an embedded market built with {differs}, asked for is {options}; give another folder, or "
            "add --force (in Python: make_market) to replace it."
        )
    return target


def _quiet(_line: str) -> None:
    """Say nothing."""


def _write(market: Market, folder: Path, say: Say) -> None:
    """Write a provider folder; `oracle.json`, which marks it complete, comes last."""
    setup, days = market.setup, market.days
    listed = zip(market.codes, setup.first, setup.last, strict=True)
    everything = [(code, str(days[first]), str(days[last])) for code, first, last in listed]
    stays = zip(market.codes, market.members.T, strict=True)
    members = [(code, *span) for code, inside in stays for span in files.spans_of(days, inside)]
    files.write_lists(folder, days, {"all": everything, "csi300": members})
    for begin in range(0, len(market.codes), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        fields = {name: np.ascontiguousarray(values.T) for name, values in market.fields(block).items()}
        for row, code in enumerate(market.codes[block]):
            first, last = int(setup.first[begin + row]), int(setup.last[begin + row])
            own = {name: fields[name][row, first : last + 1] for name in FIELDS}
            files.write_fields(folder, code, first, own)
        say(f"{min(begin + _BLOCK, len(market.codes))} of {len(market.codes)} stocks written")
    files.write_fields(folder, INDEX, 0, {name: market.index[name] for name in FIELDS})
    write_macro(folder, market.parameters)
    say("scoring the oracle")
    facts: dict[str, Any] = {"parameters": market.parameters, "first": str(days[0]), "last": str(days[-1])}
    facts["bound"] = bound_of(market.parameters)
    files.write_notes(folder, version=VERSION, facts=facts, oracle=oracle(market))


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Check the options of `make_market`; returns all of them in plain types, `regime` only where it is true."""
    defaults = dict(make_market.__kwdefaults__ or {})
    del defaults["say"]
    refuse_unknown("the embedded market", options, defaults)
    wanted = defaults | options
    for name, (within, kind) in _NUMBERS.items():
        check_number(name, wanted[name], within, whole=kind is int)
        wanted[name] = kind(wanted[name])
    check_flag("regime", wanted["regime"])
    try:
        start = pd.Timestamp(wanted["start"])
    except ValueError as error:
        raise ValueError(f"start is {wanted['start']!r}; give an ISO date such as 2020-01-02.") from error
    if not pd.Timestamp("1997-01-01") <= start < pd.Timestamp("2100-01-01"):
        raise ValueError(f"start is {wanted['start']!r}; allowed: a date from 1997 to 2099.")
    if len(trading_days(wanted["start"], wanted["years"])) < 40:
        raise ValueError(f"years is {wanted['years']!r}: fewer than 40 trading days; make it longer.")
    wanted["start"] = str(start.date())
    return {name: value for name, value in wanted.items() if name != "regime" or value}


def _index_members(setup: Setup, cap: FloatArray) -> BoolArray:
    """Members of csi300, (D, N): the largest min(300, 40%), known before mid June and mid December."""
    days = pd.DatetimeIndex(setup.days)
    cuts = {0}
    for year in range(days[0].year, days[-1].year + 1):
        cuts |= {int(days.searchsorted(pd.Timestamp(year, month, 15))) for month in (6, 12)}
    starts = sorted(cut for cut in cuts if cut < len(days))
    main = ~np.char.startswith(setup.codes, "BJ")
    members = np.zeros(cap.shape, dtype=bool)
    for begin, end in zip(starts, [*starts[1:], len(days)], strict=True):
        review = max(begin - 10, 0)  # sizes of two weeks before
        eligible = main & np.isfinite(cap[review]) & ((setup.age[review] > 60) | (begin == 0))
        size = np.where(eligible & (setup.last >= begin), cap[review], -1.0)
        n_members = min(300, round(0.4 * int(eligible.sum())))
        members[begin:end, np.argsort(-size, kind="stable")[:n_members]] = True
    return members & np.isfinite(cap)


def _index_bars(bars: dict[str, FloatArray], members: BoolArray) -> dict[str, FloatArray]:
    """SH000300, name -> (D,): members weighted by size, a suspended one unchanged; it starts from 4000."""
    trades = members & np.isfinite(bars["close"])
    reference = bars["reference"]
    moves = {name: np.where(trades, bars[name] / reference - 1.0, 0.0) for name in ("open", "high", "low", "close")}
    weight = np.where(members, bars["cap"], 0.0) / (1.0 + moves["close"])
    weight /= weight.sum(axis=1, keepdims=True)
    mean = {name: (weight * move).sum(axis=1) for name, move in moves.items()}
    close = 4000.0 * np.cumprod(1.0 + mean["close"])
    before = close / (1.0 + mean["close"])
    out = {"open": before * (1.0 + mean["open"]), "close": close, "change": mean["close"]}
    upper, lower = np.maximum(out["open"], close), np.minimum(out["open"], close)
    out["high"] = upper + 0.4 * (before * (1.0 + mean["high"]) - upper)  # members peak at different times
    out["low"] = lower + 0.4 * (before * (1.0 + mean["low"]) - lower)
    out["volume"] = np.where(trades, bars["lots"], 0.0).sum(axis=1)
    out["amount"] = np.where(trades, bars["lots"] * bars["vwap"], 0.0).sum(axis=1) / 10.0
    out["vwap"] = 10.0 * out["amount"] / out["volume"]
    return out | {"factor": np.ones(len(close)), "adjclose": close}


def _mean_of_days(label: FloatArray, chosen: BoolArray) -> float:
    """Mean over days of the mean label of the chosen stocks; NaN if there is none."""
    count = chosen.sum(axis=1)
    total = np.where(chosen, np.nan_to_num(label), 0.0).sum(axis=1)
    return float((total[count > 0] / count[count > 0]).mean()) if (count > 0).any() else float("nan")
