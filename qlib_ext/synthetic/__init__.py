"""The embedded market: a synthetic A-share market with planted signals, written as a qlib provider folder.

For examples, tests and benchmarks without a download. **Everything in it is invented**; codes are drawn at
random. What is real in it: the boards and their price limits by date, listings, suspensions, delistings,
splits and dividends, heavy tails, locked days, log-normal turnover that goes with size, an index with
point-in-time members.

Units are the community's (chenditc/investment_data): `$volume` adjusted lots of 100 shares, `$amount`
thousand yuan unadjusted, prices adjusted with the first close scaled to 1 (raw = `$close / $factor`),
`$change` a fraction, `$adjclose` = raw close x cumulative adjustment. Identity: `$volume * $vwap = 10 *
$amount`.

Two signals are planted, one that is gone within weeks and one that lasts for months. For stock i and day t:

    s[t]  = rho * s[t-1] + sqrt(1 - rho^2) * e[t]             fast: latent, standard normal, rho = 0.9 (7 days)
    l[t]  = 0.98 * l[t-1] + sqrt(1 - 0.98^2) * u[t]           slow: the same, half of it is left after 34 days
    g(s)  = s + 0.5 * max(s, 0)^2                              convex: stronger at the top of the ranking
    m[t]  = signal * (sqrt(0.8) * (1.5 - q[t]) * (g(s[t]) - E g) / sd g + sqrt(0.2) * l[t])
    r[t+2] = beta * market + sector + m[t] + own part          the label of day t is r[t+2]

q is the rank of liquidity, 0 (least) to 1 (most): the fast signal fades with liquidity, the slow one does not.
`signal` is the standard deviation of the label's mean, in return a day, at the median liquidity; it
does not depend on the stock's volatility. The own part is Student-t with a slowly varying log-normal
volatility, plus news; a move that a limit cuts off partly comes on the next day. Liquidity is an
exponential mean (20 days) of turnover. The fast signal shows in each day's intraday shape only, the slow one in
which days have the turnover, those of gains or those of losses, both under much noise (sigma: the stock's daily
volatility, n: noise):

    log(close / open)                    = 0.6 * r[t] + sigma * (0.08 * s[t] + 0.30 * n1)   KMID
    log(lower shadow / upper shadow) / 2 = 0.16 * s[t] + 0.70 * n2 + ...                     KSFT, KSFT2
    log(typical price / vwap)            = sigma * (0.05 * s[t] + 0.25 * n3)                 VWAP0
    log(turnover)                        = 0.15 * l[t] * r[t] / sigma + 0.25 * n4 + ...      CORD20, CORD60

With `regime=True` there are two fast signals: s shows in the body and the shadows, a second one s' in VWAP0, and an
invented macro series (`vix` of `macro.csv`, as known at the close of day t: of the foreign day before) decides which of
them works; the other one misleads; in m[t]

    (g(s) - g(s')) / (sd g * sqrt(2))     calm; the other sign when stressed; instead of     (g(s) - E g) / sd g

One day shows s with a correlation of about 0.3, the mean of the last eight days with about 0.5: a temporal
model finds more than a cross-sectional one. CORD20 shows l with a correlation of about 0.55. The **oracle** scores
every stock with m[t]; what it reaches is in `oracle.json`.
"""

from qlib_ext.synthetic.bounds import Account, Terms, best_account, bound, terms
from qlib_ext.synthetic.files import read_oracle, write_fields, write_lists
from qlib_ext.synthetic.macro import macro_table, macro_text, regime_at_close
from qlib_ext.synthetic.market import (
    DEFAULT_BOUND,
    DEFAULT_PATH,
    FIELDS,
    MACRO,
    VERSION,
    Market,
    bound_of,
    ensure_market,
    is_market,
    make_market,
    oracle,
    simulate,
)

__all__ = [
    "Account",
    "Terms",
    "best_account",
    "bound",
    "bound_of",
    "terms",
    "DEFAULT_BOUND",
    "DEFAULT_PATH",
    "FIELDS",
    "MACRO",
    "Market",
    "VERSION",
    "ensure_market",
    "is_market",
    "regime_at_close",
    "macro_table",
    "macro_text",
    "make_market",
    "oracle",
    "read_oracle",
    "simulate",
    "write_fields",
    "write_lists",
]
