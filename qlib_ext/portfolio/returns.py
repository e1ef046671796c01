"""What holdings earn day by day."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_ext.options import check_number, check_shapes
from qlib_ext.portfolio.allocation import CAPITAL
from qlib_ext.portfolio.costs import known_step


def sleeve_returns(
    yuan: ArrayLike, step_return: ArrayLike, horizon: int, *, capital: float = CAPITAL
) -> NDArray[np.float64]:
    """Mark overlapping holdings daily: each day one of ``horizon`` sleeves of capital / horizon is renewed.

    yuan[d] / horizon is bought at the entry of signal day d and held, drifting, through the ``horizon`` steps
    d, d+1, ...; the first horizon - 1 days are therefore partly in cash. Gains are paid out, so that the base
    stays ``capital``; with horizon 1 the result is sum(yuan * step_return) / capital.

    Args:
        yuan: (D, N) the allocation of the whole capital on each signal day.
        step_return: (D, N) one-day return that follows the entry of signal day d; what is not finite counts
            as 0.
        horizon: days that the label spans, at least 1.
        capital: yuan.

    Returns:
        (D,) return of step t on the capital.

    Raises:
        ValueError: for shapes or a horizon that are not allowed.
    """
    held, step = np.asarray(yuan, dtype=np.float64), np.asarray(step_return, dtype=np.float64)
    check_shapes("(D, N) = (days, stocks)", yuan=held, step_return=step)
    check_number("horizon", horizon, "[1, inf)", whole=True, hint=" (days of the label)")
    check_number("capital", capital, "(0, inf)", hint=" (yuan)")
    days, step = len(held), known_step(step)
    value, gain = held / horizon, np.zeros(days)
    for age in range(min(horizon, days)):
        value = value[: days - age]
        earned = value * step[age:]
        gain[age:] += earned.sum(axis=1)
        value = value + earned
    return gain / capital
