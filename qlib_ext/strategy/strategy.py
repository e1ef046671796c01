"""The deck's strategy: the capital placed down the ranking, by `portfolio.TopNPolicy`."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from qlib.backtest.signal import SignalWCache

from qlib_ext.options import argument_names, refuse_unknown
from qlib_ext.portfolio import TopNPolicy
from qlib_ext.strategy.policy_strategy import PolicyStrategy


class LiquidityTopNStrategy(PolicyStrategy):
    """Hold what `fill_top_n` places at the close of the signal day d; trade towards it at the next step.

    How it trades, and what it writes down, is that of every `PolicyStrategy`.

    >>> index = pd.MultiIndex.from_product([panel.days, panel.stocks], names=["datetime", "instrument"])
    >>> strategy = LiquidityTopNStrategy(signal=pd.Series(range(len(index)), index), participation=0.05, top_n=2)
    >>> strategy.policy.top_n, strategy.trade_participation
    (2, 0.05)
    """

    def __init__(
        self,
        *,
        signal: Any,
        capital: float | None = None,
        participation: float = 0.05,
        trade_participation: float | None = 0.05,
        top_n: int | None = None,
        rank_buffer: float | Sequence[int] = 1.0,
        score_halflife: float | None = None,
        min_holding: int = 0,
        liquidity: str = "auto",
        liquidity_window: int = 20,
        liquidity_frame: pd.DataFrame | None = None,
        trade_exchange: Any = None,
        level_infra: Any = None,
        common_infra: Any = None,
        **unknown: Any,
    ) -> None:
        """Set the policy and the caps; both caps are multiples of daily liquidity in yuan.

        Args:
            signal: see `PolicyStrategy`.
            capital: yuan to place; None means the account's value at the close before.
            participation: position cap.
            trade_participation: see `PolicyStrategy`.
            top_n: as in `fill_top_n`.
            rank_buffer: a factor of at least 1, or [n1, n2], see `TopNPolicy`.
            score_halflife: trading days over which scores are smoothed, see `TopNPolicy`.
            min_holding: see `PolicyStrategy`.
            liquidity: see `PolicyStrategy`.
            liquidity_window: see `PolicyStrategy`.
            liquidity_frame: see `PolicyStrategy`.
            trade_exchange: qlib's; so are `level_infra` and `common_infra`.
            level_infra: qlib's.
            common_infra: qlib's.
            unknown: nothing is allowed here.

        Raises:
            TypeError: an unknown option.
            ValueError: an option out of range, or scores that are not surely understood.
        """
        refuse_unknown("LiquidityTopNStrategy", unknown, argument_names(LiquidityTopNStrategy))
        try:
            policy = TopNPolicy(capital, participation, top_n, rank_buffer, score_halflife)
        except ValueError as error:
            raise ValueError(f"LiquidityTopNStrategy: {error}") from None
        super().__init__(
            policy,
            signal=signal,
            trade_participation=trade_participation,
            min_holding=min_holding,
            liquidity=liquidity,
            liquidity_window=liquidity_window,
            liquidity_frame=liquidity_frame,
            trade_exchange=trade_exchange,
            level_infra=level_infra,
            common_infra=common_infra,
        )
        if score_halflife and not isinstance(self.signal, SignalWCache):
            raise ValueError(
                f"LiquidityTopNStrategy: score_halflife is {score_halflife!r}, but a {type(self.signal).__name__} "
                "tells one day at a time: give scores or a model, or null"
            )
