"""The benchmark of a backtest: whether it has one; its returns on the days that it lacks.

A few days are taken as 0 with a warning, more are an error.
"""

import warnings

import pandas as pd

from qlib_ext.rules import is_index

UNKNOWN_BENCHMARK, UNKNOWN_DAYS = 0.05, 2  # largest share of days without the benchmark's return; so many always may


DIVIDENDS = 0.024  # a year, of the CSI 300


def is_price_index(name: object) -> bool:
    """Whether a benchmark is an index without its dividends, SH000300 and the like.

    >>> is_price_index("SH000300"), is_price_index("H00300")
    (True, False)
    """
    return isinstance(name, str) and is_index(name)


def has_benchmark(report: pd.DataFrame) -> bool:
    """Whether qlib's report has a benchmark in `bench`; without one it is NaN or 0 on every day."""
    return "bench" in report and bool((report["bench"].astype(float).fillna(0.0) != 0.0).any())


def idle(report: pd.DataFrame | None) -> bool:
    """Whether nothing was traded on any day of qlib's report; False without one."""
    return report is not None and "turnover" in report and not bool((report["turnover"] > 0).any())


def known_benchmark(returns: pd.Series) -> pd.Series:
    """Take a benchmark's return to be 0 on the days that lack it, and warn of them: number and first day.

    Args:
        returns: (D,) by day, NaN where not known.

    Raises: ValueError where more than 5% of the days, and more than two, lack it: a difference would mean nothing.
    """
    missing = returns.index[returns.isna()]
    if not len(missing):
        return returns
    name = "the benchmark" if returns.name in (None, "bench") else f"the benchmark {returns.name}"
    text = f"{name} has no return on {len(missing)} of {len(returns)} days, the first {str(missing[0])[:10]}"
    if len(missing) > max(UNKNOWN_DAYS, UNKNOWN_BENCHMARK * len(returns)):
        raise ValueError(
            f"{text}: more than {UNKNOWN_BENCHMARK:.0%}. Complete its prices in the provider, choose days that it has, "
            "or another benchmark (null: none)"
        )
    warnings.warn(f"{text}: taken as 0 there", stacklevel=3)
    return returns.fillna(0.0)
