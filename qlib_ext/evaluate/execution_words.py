"""What stands in each table of `execution`, in words. Private to it."""

from __future__ import annotations

from qlib_ext.evaluate.headline import DAYS_A_YEAR

EXECUTION_DEFINITIONS: dict[str, dict[str, str]] = {
    "performance": {
        "gross": "return of the account before costs, on its value at the previous close",
        "net": "gross less all costs of the day (impact too where the exchange charges it): the account's own growth",
        "benchmark": "return of the benchmark; 0 on a day that lacks it, of which a warning tells",
        "excess_gross": "gross less benchmark, day by day",
        "excess_net": "net less benchmark, day by day",
    },
    "turnover": {
        "buy": "yuan bought on the day",
        "sell": "yuan sold on the day, delisted holdings that were settled at their last price among it",
        "two_way": "(buy + sell) / value of the account at the previous close",
        "one_way": "smaller of buy and sell / value of the account at the previous close: what was exchanged, so that "
        "placing or withdrawing money is none",
    },
    "cost_split": {
        "yuan": "paid over all days",
        "bp_of_traded": "in basis points (0.01%) of all yuan dealt: buys, sells, delisted holdings that were settled",
        "share_a_year": f"of the account's mean value, a year of {DAYS_A_YEAR} days",
        "impact": "an estimate charged as a cost: b * volatility * (share of the day's turnover) ** exponent",
        "delisting": "fees of the sales of delisted holdings, and what was written off",
    },
    "participation": {
        "low": "share of the stock's mean daily turnover (known at the previous close) dealt on one day, above this",
        "high": "and up to this; the last bin is open, and NaN stands for an unknown turnover",
        "trades": "pairs of stock and day; buys and sells of one stock on one day are one; the settlement of a "
        "delisted holding is none",
        "yuan": "dealt in them",
        "share": "of all yuan dealt",
    },
    "liquidation": {
        "mean_days": "days to sell all at `participation` of each stock's mean daily turnover, weighted by yuan held; "
        "stocks whose turnover is not known are left out",
        "max_days": "the same, of the slowest stock; without end while a stock is held whose turnover is not known",
        "gone_1, gone_2, ...": "share of the book's value that is sold after so many days, all stocks at once",
        "unknown": "share of the book's value in stocks whose turnover is not known; it counts as never sold",
    },
    "target_reached": {
        "share_reached": "share of the previous step's target that the holdings had reached",
        "unreached": "target less holding, if all orders of the step fill, over the stocks below target / all target",
        "unreached_names": "number of these stocks",
        "cash": "cash / value of the account before the step's orders",
        "held": "yuan in stocks / value of the account before the step's orders",
        "names": "stocks with a target",
    },
    "blocked": {
        "cuts": "orders that the reason cut, in part or in full",
        "wanted": "yuan of these orders before the cut",
        "cut": "yuan cut; an order that is sent again on later days counts again",
        "share": "of all yuan cut",
    },
}
