"""What the trades to come make of today's gain and risk: the value function of a stock whose signal fades.

A yuan that is held today is held for a while: it earns the forecast of the next days too, as far as it will not have
been traded away by then, and a deviation from the best holding is paid for until it is traded away. How fast that is
depends on the costs. With quadratic costs of trade L u^2 / 2 it is known exactly (Garleanu and Pedersen 2013, "Dynamic
trading with predictable returns and transaction costs", Journal of Finance 68(6), here without discount). A stock whose
forecast today is f, and k days later decay(k) f, has beside what does not depend on its holding x the value

    max over u of  f x' - x'^2 / 2 - L u^2 / 2 + sum over k >= 1 of theta^k decay(k) f x' - A x'^2 / 2,   x' = x + u,
    A = L (1 + A) / (L + 1 + A),   theta = L / (L + 1 + A),

for each day the distance to the aim shrinks to the share theta. So today's forecast counts sum(theta^k decay(k)) times,
k from 0, today's risk 1 + A times. Fees and the square-root law are not quadratic; L is the quadratic cost whose
marginal cost fits theirs best over the trades that the policy then makes (statistical linearisation, a fixed point).
Today's own trade pays its true cost (`optimal_trades`), so that there is a zone without trade.

Units: risk 1 a day, spread of the forecast 1; so the best holding without costs has the standard deviation 1.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Decay = Callable[[Vector], Vector]

DAYS = 1000  # that a forecast is followed
ROUNDS = 200  # of the fixed point, each half the way on a logarithmic scale: L to a relative 2e-4
NODES = np.sinh(np.linspace(0.0, 17.0, 171)) / 1e3  # of the impact in the table: 0 to 12,000
MEAN, MEAN_15 = np.sqrt(2 / np.pi), 0.8600399873  # of |z| and |z|^1.5, z standard normal
SLOWEST = 0.9999  # persistence a day
TINY = 1e-12


def foresight(impact: Vector, fee: float, *, persistence: float, decay: Decay) -> tuple[Vector, Vector]:
    """Tell how much more a yuan held today gains, and risks, than on its first day alone.

    Args:
        impact: (N,) cost of a trade u is impact |u|^1.5, in the units above: c / sqrt(risk spread) of a stock.
        fee: of a trade, mean of both sides, over the spread.
        persistence: correlation of the forecast with the next day's.
        decay: share of today's forecast that is left some days later; must be hashable.

    Returns:
        (N,) multiples of today's forecast and of today's risk, at least 1.

    >>> gain, risk = foresight(np.array([0.0, 1.0]), 0.0, persistence=0.9, decay=lambda days: 0.9**days)
    >>> gain.round(2).tolist(), risk.round(2).tolist()  # without costs only the next day counts
    ([1.0, 2.02], [1.0, 2.27])
    """
    gain, risk = _table(float(fee), float(persistence), decay)
    at = np.arcsinh(np.asarray(impact) * 1e3)
    nodes = np.arcsinh(NODES * 1e3)
    return np.interp(at, nodes, gain), np.interp(at, nodes, risk)


@lru_cache(maxsize=256)
def _table(fee: float, persistence: float, decay: Decay) -> tuple[Vector, Vector]:
    """Multiples of gain and risk at the nodes."""
    cost = _quadratic(NODES, fee, min(max(persistence, 0.0), SLOWEST))
    ahead = _ahead(cost)
    kept = cost / (cost + 1.0 + ahead)
    left = np.asarray(decay(np.arange(DAYS, dtype=np.float64)))
    return (kept[:, None] ** np.arange(DAYS)) @ left, 1.0 + ahead


def _ahead(cost: Vector) -> Vector:
    """Risk of the days to come, A, by the quadratic cost of trade: A = cost (1 + A) / (cost + 1 + A)."""
    return (np.sqrt(1.0 + 4.0 * cost) - 1.0) / 2.0


def _quadratic(impact: Vector, fee: float, rho: float) -> Vector:
    """Quadratic cost of trade (n,) that fits impact and fee best over the trades it leads to; 0 without costs.

    With it the holding is x' = theta x + (1 - theta) aim z, the signal z' = rho z + noise: the variance of the trades
    x' - x in the long run follows, and from it the marginal cost that fits.
    """
    cost = np.ones_like(impact)
    for _ in range(ROUNDS):
        ahead = _ahead(cost)
        theta = cost / (cost + 1.0 + ahead)
        step = (1 - theta) * (1 + theta * rho / (1 - theta * rho)) / (1 + ahead)
        variance = step**2 * (1 + theta * rho) / ((1 - theta**2) * (1 - theta * rho))
        traded = (1 - theta) ** 2 * variance + step**2 - 2 * (1 - theta) * step**2 * rho / (1 - theta * rho)
        size = np.sqrt(np.maximum(traded, TINY**2))
        fitted = (1.5 * MEAN_15 * impact * np.sqrt(size) + MEAN * fee) / size
        cost = np.sqrt(cost * fitted)
    return cost
