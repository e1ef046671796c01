"""One day's routine: data checked, new days scored, orders written, the run updated, the journal continued.

Nothing is written before everything is computed; then the scores go first, and what they were made of after them, so
that a routine that was killed is finished by the next one. Before the first scores goes what they would hide, the end
of the test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from qlib.config import C
from qlib.log import get_module_logger
from qlib.workflow import R

from qlib_ext.beside import alone, write_text
from qlib_ext.check_data import check_data
from qlib_ext.daily.journal import read_journal, sum_fills, write_line
from qlib_ext.daily.update import (
    LIVE,
    PRED,
    STATE,
    bars_to_keep,
    changed_bars,
    days_to_score,
    horizon_of,
    is_whole,
    keep,
    load_data,
    reference_of,
    scored_anew,
    state_of,
)
from qlib_ext.daily.watch import SIGMAS, drift, live_ic
from qlib_ext.data import panel_of
from qlib_ext.panel import check_scores
from qlib_ext.provider import calendar
from qlib_ext.runs import Run, find_run, load_artifacts, options_of
from qlib_ext.strategy import ScoredRun, last_prices, next_day, plan_orders

logger = get_module_logger("qlib_ext.daily")

CHECKED = 20  # last days that are checked
MANY = 0.1  # of the features: so many have to drift for an alarm
EVENING = 18  # hour in Shanghai from which the day's data should be there
DONE, ALARM, NOTHING = 0, 1, 3


@dataclass(frozen=True)
class Outcome:
    """What came of a day: exit status (0 done, 1 alarm, 3 nothing new), a line, the alarms, orders, journal's line.

    An alarm is one the first time: a day that is run again, or a holiday, tells it in the line and ends with 3.
    """

    status: int
    line: str
    alarms: list[str]
    orders: pd.DataFrame
    entry: dict[str, Any]


def run_day(
    scored: ScoredRun,
    uri: str,
    out: str | Path,
    holdings: pd.DataFrame,
    *,
    capital: float | None = None,
    cash: float | None = None,
    fills: pd.DataFrame | None = None,
    force: bool = False,
    now: pd.Timestamp | None = None,
    say: Callable[[str], object] = logger.info,
) -> Outcome:
    """Do what a day asks for, of a recorded run; qlib must be initialised on the provider, with the run's recorder.

    Args:
        scored: of `strategy.read_run`; its model and data set are unpickled, which runs code of the run.
        uri: where the runs are, as for `runs.find_run`.
        out: folder of the order lists and the journal.
        holdings: of `strategy.read_holdings`, as they are after the last day of the data.
        capital: yuan to place; None: holdings and cash together.
        cash: yuan at hand; None: capital less the holdings. One of the two must be told.
        fills: of `strategy.read_executions`, for the journal.
        force: go on where the data have errors, or lack the newest bars.
        now: what tells whether the data should be newer; None: it is not looked at.
        say: told of another process that does the same.

    Raises: ValueError for errors in the data, with the cure, and whatever `plan_orders` refuses; nothing is written.
    """
    if capital is None and cash is None:
        raise ValueError("what there is to place is not told: give --cash (yuan at hand), or --capital, or both")
    folder = Path(out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    journal, run = read_journal(folder), find_run(scored.identifier, uri=uri, trust=True)
    lacking = [name for name in ("params.pkl", "dataset") if not (run.folder / name).is_file()]
    if lacking:
        raise ValueError(f"run {run.id} has no artifact {lacking[0]}, which scores new days: name a run that qrun made")
    with alone(run.folder / STATE, say):
        return _Day(scored, run, journal, folder, holdings, fills, force).run(capital, cash, now)


@dataclass
class _Day:
    """The parts of one routine."""

    scored: ScoredRun
    run_: Run
    journal: pd.DataFrame
    folder: Path
    holdings: pd.DataFrame
    fills: pd.DataFrame | None
    force: bool

    def run(self, capital: float | None, cash: float | None, now: pd.Timestamp | None) -> Outcome:
        """Check, score, list and note the day."""
        last = calendar()[-1]
        found, wrong = self._check()
        recorder = R.get_recorder(recorder_id=self.run_.id, experiment_name=self.run_.experiment)
        kept = load_artifacts(self.run_, [PRED, STATE, "label.pkl"])
        scores = check_scores(kept[PRED], PRED)
        state = before = state_of(recorder, scores, kept.get(STATE))
        changed = changed_bars(state)
        days = days_to_score(scores, state["tested"], changed)
        dataset = load_data(recorder, calendar()[-LIVE:][0], days[0] if len(days) else last, last)
        panel, model = panel_of(dataset)[0], recorder.load_object("params.pkl")
        new = days[~days.isin(scores.index.unique("datetime"))]
        if len(days):
            scores = scored_anew(scores, model, dataset, days)
        state = state | {"bars": bars_to_keep(panel), "corrected": _noticed(state["corrected"], changed, last)}
        orders, entry = self._orders(scores, capital, cash)
        entry |= self._watched(scores, kept.get("label.pkl"), dataset, state)
        alarms = _alarms(entry, state, model, last)
        alarms += [f"errors in the data ({wrong}), gone on by --force"] if wrong else []
        entry |= {"found": " ".join(found), "alarm": "; ".join(alarms)}
        if STATE not in kept:  # the end of the test is not known any more once days have been added
            keep(self.run_, {STATE: before})
        if len(days) or not is_whole(self.run_, PRED):
            keep(self.run_, {PRED: scores.to_frame("score")})
        listed = orders.to_csv(index=False, float_format="%.10g")
        write_text(self.folder / f"orders-{entry['date']:%Y-%m-%d}.csv", listed)
        told = self.journal.loc[self.journal["data_day"] == last, "alarm"].fillna("")  # none by one that was killed
        fresh, late = len(days) > 0 or entry["alarm"] not in set(told), _late(last, now)
        if len(days) or len(changed) or before["bars"] is None or before["bars"].index.unique("datetime")[-1] < last:
            keep(self.run_, {STATE: state})
        write_line(self.folder, entry)
        status = ALARM if late or (alarms and fresh) else DONE if fresh else NOTHING
        alarms += late
        return Outcome(status, _line(entry, new, len(days) - len(new), alarms), alarms, orders, entry)

    def _check(self) -> tuple[list[str], str]:
        """Check the last days of the data: names of what was found, those of errors among them.

        Raises: ValueError for errors, unless forced.
        """
        place, days = Path(C.dpm.get_data_uri("day")), calendar()[-CHECKED:]
        if not (place / "features").is_dir():
            logger.info("the data are not checked: they are no files of qlib's")
            return [], ""
        universe = options_of(self.scored.recorded_task.handler).get("instruments")
        named = universe if isinstance(universe, str) else None
        table = check_data(place, universe=named, start=days[0], end=days[-1])
        errors = table[table["severity"] == "error"]
        lines = [f"{row['check']}: {row['example']}; {row['cure']}" for row in errors.to_dict("records")]
        if lines and not self.force:
            raise ValueError(
                f"errors in the data of {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}: {'; '.join(lines)}. Nothing was "
                "written; correct the data, or go on with them by --force"
            )
        return table["check"][table["severity"] != "info"].tolist(), ", ".join(errors["check"])

    def _orders(self, scores: pd.Series, capital: float | None, cash: float | None) -> tuple[Any, dict[str, Any]]:
        """List the next day's orders, and what the journal says of them."""
        last = scores.index.unique("datetime")[-1]
        held, worth = self.holdings, 0.0
        if len(held):
            prices = last_prices(list(held.index), last)
            worth = float((held["shares"] * prices).sum())
        cash = float(capital or 0.0) - worth if cash is None else cash
        account = worth + cash
        run = ScoredRun(self.scored.identifier, scores, self.scored.task, self.scored.qlib_init, self.scored.plan)
        placed = account if capital is None else capital
        orders = plan_orders(run, held, capital=placed, cash=cash, fresh=not self.force)
        sums = orders.groupby("side")["yuan"].agg(["size", "sum"]).reindex(["sell", "buy", "none"], fill_value=0.0)
        before = self.journal.loc[self.journal["data_day"] < last, "data_day"].max()
        between = calendar()[(calendar() > before) & (calendar() < last)] if pd.notna(before) else []
        since = last - pd.Timedelta(days=1) if pd.isna(before) else before
        entry = {"data_day": last, "date": next_day(last)[0], "run": run.identifier[:8]}
        entry |= {"account": round(account, 2), "cash": round(cash, 2), "holdings": len(held)}
        for side in ("sell", "buy"):
            entry |= {f"{side}s": int(sums["size"][side]), f"{side}_yuan": round(float(sums["sum"][side]), 2)}
        entry |= {"not_traded": int(sums["size"]["none"]), "missed": len(between)}
        return orders, entry | sum_fills(self.fills, since, last)

    def _watched(self, scores: pd.Series, tested: Any, dataset: Any, state: dict[str, Any]) -> dict[str, Any]:
        """Look at the realised IC and at the features."""
        panel = panel_of(dataset)[0]
        index = pd.MultiIndex.from_product([panel.days, panel.stocks], names=scores.index.names)
        labels = pd.Series(panel.label.numpy().ravel(), index)
        if tested is not None:
            labels = labels.combine_first(tested.iloc[:, 0])
        table = drift(reference_of(state), panel)
        worst = table.iloc[0]
        out = live_ic(scores, labels, state["tested"], LIVE, horizon_of(dataset))
        out |= {"drifted": int(table["drifted"].sum()), "feature": table.index[0], "psi": round(float(worst["psi"]), 4)}
        return out | {"lost": table.index[table["lost"]].tolist(), "of": len(table)}


def _noticed(before: pd.DataFrame | None, changed: pd.DataFrame, day: pd.Timestamp) -> pd.DataFrame:
    """Add bars that were issued again to those of before, with the day on which they were noticed."""
    fresh = changed.assign(noticed=day)
    return fresh if before is None or before.empty else pd.concat([before, fresh], ignore_index=True)


def _alarms(entry: dict[str, Any], state: dict[str, Any], model: Any, day: pd.Timestamp) -> list[str]:
    """Say what a person should look at; what only alarms need is taken out of the entry."""
    told = []
    gap, lost, of = entry.pop("ic_gap"), entry.pop("lost"), entry.pop("of")
    mine, tested = state["corrected"].loc[lambda table: table["noticed"] == day], state["tested"]
    entry["corrected"] = len(mine.drop_duplicates(["datetime", "instrument"]))
    if len(mine):
        first, since = mine.iloc[0], mine["datetime"].min()
        anew, kept = f"scored anew from {since:%Y-%m-%d} on", f"scores of the test, to {tested:%Y-%m-%d}, stay"
        told.append(
            f"{entry['corrected']} bars were issued again, {first['instrument']} of {first['datetime']:%Y-%m-%d} "
            f"({first['field']} {first['old']:.6g}, now {first['new']:.6g}): {anew if since > tested else kept}"
        )
    if gap < -SIGMAS:
        told.append(
            f"the IC of the last {entry['ic_days']} days is {entry['ic']:.4f}, {-gap:.1f} standard errors below the "
            f"{entry['ic_test']:.4f} of the test"
        )
    if entry["drifted"] > MANY * of:
        told.append(f"{entry['drifted']} of {of} features have drifted, {entry['feature']} most")
    if lost:
        told.append(f"features that are as good as constant that day: {', '.join(map(str, lost[:5]))}")
    starts, step = getattr(model, "starts", None), getattr(model, "step", None)
    if starts and step and (age := int((calendar() >= starts[-1]).sum())) > step:
        told.append(f"the walk-forward's last block began {age} trading days ago (step: {step}): train anew")
    return told


def _late(last: pd.Timestamp, now: pd.Timestamp | None) -> list[str]:
    """Say that data should be there; silence where no calendar tells the next trading day."""
    date, told = next_day(last)
    if now is None or not told:
        return []
    there = now.normalize() if now.hour >= EVENING else now.normalize() - pd.Timedelta(days=1)
    if date > there:
        return []
    return [f"the data end {last:%Y-%m-%d}, but {date:%Y-%m-%d} was a trading day: they are LATE"]


def _line(entry: dict[str, Any], new: pd.DatetimeIndex, again: int, alarms: list[str]) -> str:
    """Sum a day up in one line."""
    scored = f"scored {len(new)} day{'' if len(new) == 1 else 's'}" if len(new) else "no new day"
    scored += f", {again} again" if again else ""
    missed = f", {entry['missed']} missed before" if entry["missed"] else ""
    ic = f"IC {entry['ic']:.4f} in {entry['ic_days']} days, test {entry['ic_test']:.4f}; " if entry["ic_days"] else ""
    return (
        f"{entry['data_day']:%Y-%m-%d}: {scored}{missed}; orders for {entry['date']:%Y-%m-%d}: "
        f"sell {entry['sells']} ({entry['sell_yuan']:,.0f} yuan), buy {entry['buys']} ({entry['buy_yuan']:,.0f} yuan); "
        f"account {entry['account']:,.0f} yuan; {ic}{'ALARM: ' + '; '.join(alarms) if alarms else 'no alarm'}"
    )
