"""Where the capital was: the largest holdings of each day, every stock ever held. Private to `report`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.report import figures
from qlib_ext.report.page import Chart, Section, embedded, label, words
from qlib_ext.report.score import MONEY, Artifacts, Context

TOP_HOLDINGS = 30  # of a day, shown before a stock is searched
MOST_PACKED = 150_000  # holdings in the page (about 18 bytes each); beyond it only the largest of each day


def holdings(artifacts: Artifacts, context: Context) -> Section | None:
    """Show names and cash by day, the largest holdings of each day, and every stock ever held."""
    daily, positions = artifacts.get(f"{MONEY}daily.pkl"), artifacts.get(f"{MONEY}positions.pkl")
    if positions is None or positions.empty:
        return None
    parts: list[str | Chart] = []
    if daily is not None and "capped_names_held" in daily:
        figure = figures.two_lines(
            daily, {"capped_names_held": label("capped_names_held")}, {"capped_cash_share": label("capped_cash_share")},
            (words("stocks (number)"), words("cash (% of capital)")),
        )  # fmt: skip
        parts.append(Chart("names", figure, words("Stocks held and cash left over by the caps, each day.")))
    packed = packed_holdings(positions, artifacts.get("label.pkl"), context)
    parts.append(_search(packed["depth"]))
    parts.append(embedded("json-holdings", packed))
    amount = words("the capital is not known") if context.capital is None else words(
        "{million:,.0f} million yuan each day, placed in full under the caps, what cannot be bought stays cash",
        million=context.capital / 1e6,
    )  # fmt: skip
    days = positions.index.get_level_values("datetime")
    return Section("holdings", words("Where the money went"), context.scope(days, amount), tuple(parts))


def _search(depth: int | None) -> str:
    """Lay out controls and empty tables, which the page's script fills; `depth` as of `packed_holdings`."""
    day, stock = words("day of the signal"), words("Search a stock by its code")
    head = "".join(
        f"<th>{t.html()}</th>" for t in (words("yuan"), words("share of capital"), words("share of its liquidity"))
    )
    every = "".join(
        f"<th>{t.html()}</th>"
        for t in (
            *(words("days held"), words("mean yuan"), words("largest share of capital")),
            *(words("largest share of its liquidity"), words("gain (yuan)")),
        )
    )
    top = words("The {n} largest holdings of the day", n=TOP_HOLDINGS)
    absent = words("Not held on this day.")
    if depth is not None:
        absent = words("Not among the {n} largest holdings of this day, which are those in the page.", n=depth)
    share = words(
        "Share of its liquidity: yuan / trailing mean turnover of the stock, known on the day of the signal. Search a "
        "stock to see it whatever its rank."
    )
    all_of = words(
        "Every stock ever held (the first 200 found). Gain: yuan times label summed over its days, before costs; "
        "labels of several days overlap, and the gain is divided by their number."
    )
    return (
        f'<div class="finder"><label>{day.html()} <input id="day" type="date"></label>'
        f'<button id="before" type="button" '
        f'aria-label="previous day" data-aria-zh="前一日">◀</button>'
        f'<button id="after" type="button" aria-label="next day" data-aria-zh="后一日">▶</button>'
        f'<label>{stock.html()} <input id="stock" type="search" placeholder="SH600519" autocomplete="off">'
        "</label></div>"
        f'<div class="pair"><div><h3>{top.html()} <span id="shown-day"></span></h3>'
        '<div class="scroll short"><table id="top">'
        f'<thead><tr><th></th>{head}</tr></thead><tbody></tbody></table></div><p id="absent" hidden>{absent.html()}</p>'
        f'<p class="scope">{share.html()}</p></div>'
        f'<div><h3>{words("Stocks").html()}</h3><div class="scroll short"><table id="stocks"><thead>'
        f"<tr><th></th>{every}</tr>"
        f'</thead><tbody></tbody></table></div><p class="scope">{all_of.html()}</p></div></div>'
    )


def packed_holdings(positions: pd.DataFrame, labels: pd.DataFrame | None, context: Context) -> dict[str, Any]:
    """Pack the holdings into what a page can carry: those of each day, the largest first, and sums by stock.

    Returns:
        days: ISO; codes; depth: None where all holdings are packed, else how many of each day; top: for each day
        [place in codes, yuan, hundredths of a per cent of the stock's liquidity (-1: not known), ...]; stocks: rows
        [place in codes, days, mean yuan, largest share of the capital, largest share of the liquidity or null, gain in
        yuan or null].

    """
    yuan = positions["yuan"]
    days, codes = (positions.index.get_level_values(name) for name in ("datetime", "instrument"))
    place, names = pd.factorize(codes, sort=True)
    long = pd.DataFrame({"day": days, "place": place, "yuan": yuan.to_numpy()})
    long["share"] = positions["weight"].to_numpy()
    gain = None
    if labels is not None and context.horizon is not None:
        gain = yuan.to_numpy() * labels.iloc[:, 0].reindex(positions.index).fillna(0.0).to_numpy() / context.horizon
    long["gain"] = np.nan if gain is None else gain
    long["used"] = yuan.to_numpy() / positions["liquidity"].to_numpy() if "liquidity" in positions else np.nan
    depth = None if len(long) <= MOST_PACKED else max(MOST_PACKED // long["day"].nunique(), TOP_HOLDINGS)
    largest = long.sort_values(["day", "yuan"], ascending=[True, False], kind="stable")
    largest = largest if depth is None else largest.groupby("day", sort=True).head(depth)
    whole = pd.DataFrame(
        {
            "place": largest["place"],
            "yuan": largest["yuan"].round(),
            "used": (1e4 * largest["used"].where(np.isfinite(largest["used"]))).round().fillna(-1),
        }
    ).astype(np.int64)
    top = [rows.to_numpy().ravel().tolist() for _, rows in whole.groupby(largest["day"], sort=True)]
    by_stock = long.groupby("place")
    sums = by_stock.agg(
        days=("yuan", "size"), yuan=("yuan", "mean"), share=("share", "max"), used=("used", "max"), gain=("gain", "sum")
    )
    stocks = [
        [
            *(int(i), int(n), round(float(y)), round(float(s), 6)),
            round(float(u), 6) if np.isfinite(u) else None,
            None if gain is None else round(float(g)),
        ]
        for i, n, y, s, u, g in sums.sort_values("yuan", ascending=False).itertuples()
    ]
    iso = [str(day)[:10] for day in sorted(long["day"].unique())]
    return {
        "days": iso,
        "codes": [str(name) for name in names],
        "capital": context.capital,
        "depth": depth,
        "top": top,
        "stocks": stocks,
    }
