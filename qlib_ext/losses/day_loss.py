"""Losses over one day's stocks: the deck's WPCC and LIQ-WPCC, and IC, CCC and MSE beside them.

A batch holds ``B`` days of ``N`` stocks. ``mask`` is True where a stock is real; a real stock whose label is
not finite carries no weight either ("labelled" = real with a finite label), so padding, suspended stocks and
unknown outcomes change nothing, whatever stands in their places. A score that is not finite at a labelled
stock makes its day's loss NaN on purpose: the trainer stops on it. Sources: slides, page 2 (listing, WPCC)
and page 4 (LIQ-WPCC).

Weights that are taken from the outcome pay for volatility: the derivation and the remedies stand in `docs/formulas.md`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlib_ext import cross_section
from qlib_ext.cross_section import (
    CENTERS,
    check_days,
    concordance,
    information_coefficient,
    mean_squared_error,
    weighted_pearson,
)
from qlib_ext.options import check_choice, check_number, describe, refuse_unknown

TARGETS = ("raw", "rank", "volatility")
WEIGHT_SOURCES = ("label", "score", "target")
TIES = ("stable", "average")
BASE = 0.5
ALPHA = 40.0
BASE_HINT = f"; the deck's is {BASE}, 1 weighs all alike"
ALPHA_HINT = f"; the deck's is {ALPHA}"


# --- weights


def rank_weight(label: Tensor, mask: Tensor, *, base: float = BASE, ties: str = "stable") -> Tensor:
    """Weight a day's stocks by the rank of their outcome: base ** ((j-1)/(n-1)) for the j-th highest of n.

    Source: slides, page 2 (the listing). The top stock weighs 1, the last one ``base``.

    Args:
        label: (B, N) values to rank, any unit; ignored where not labelled.
        mask: (B, N) bool, True = real.
        base: weight of the last stock, in (0, 1]; 1 weighs all alike.
        ties: "stable" ranks equal labels by position, "average" gives them their mean rank.

    Returns:
        (B, N) weights, 0 where not labelled; a day with one labelled stock has weight 0 everywhere.

    Raises:
        ValueError: for shapes, ``base`` or ``ties`` that are not allowed.

    >>> import torch
    >>> rank_weight(torch.tensor([[0.03, -0.01, 0.01]]), torch.ones(1, 3, dtype=torch.bool))
    tensor([[1.0000, 0.5000, 0.7071]])
    """
    check_number("base", base, "(0, 1]", hint=BASE_HINT)
    check_choice("ties", ties, TIES)
    check_days(label=label, mask=mask)
    (label,) = cross_section.widen(label)
    real = cross_section.labelled(label, mask)
    count = real.sum(dim=1, keepdim=True)
    exponent = cross_section.places(label, real, ties=ties) / (count - 1).clamp(min=1)
    weight = torch.exp2(math.log2(base) * exponent)  # several times as fast as base**exponent
    return torch.where(real & (count > 1), weight, 0.0)


def liquidity_weight(label: Tensor, liquidity: Tensor, mask: Tensor, *, alpha: float = ALPHA) -> Tensor:
    """Weight by outcome and liquidity: 0.5 + 0.5 * sigmoid(alpha * l * r), l = the day's min-max of the log.

    Source: slides, page 4. The limits of a day keep alpha * l * r within [-4, 4] at 10%, so ``label`` is the
    raw return, never a normalised one. A stock with l = 0 weighs 0.75 whatever its return.

    Args:
        label: (B, N) raw forward return (0.01 = 1%).
        liquidity: (B, N) yuan a day, known at the close. A stock whose liquidity is not positive and finite gets
            l = 0 and is left out of the minimum and maximum.
        mask: (B, N) bool, True = real; the minimum and maximum run over the labelled stocks.
        alpha: steepness, at least 0.

    Returns:
        (B, N) weights in (0.5, 1), 0 where not labelled. Where all liquidity is equal l = 0, as sklearn's
        ``MinMaxScaler`` has it, and every weight is 0.75.

    Raises:
        ValueError: for shapes or an ``alpha`` that are not allowed.

    >>> import torch
    >>> liquidity = torch.tensor([[1e6, 1e7, 1e8]])
    >>> liquidity_weight(torch.tensor([[0.1, -0.05, 0.05]]), liquidity, torch.ones(1, 3, dtype=torch.bool))
    tensor([[0.7500, 0.6345, 0.9404]])
    """
    check_number("alpha", alpha, "[0, inf)", hint=ALPHA_HINT)
    check_days(label=label, liquidity=liquidity, mask=mask)
    label, liquidity = cross_section.widen(label, liquidity)
    real = cross_section.labelled(label, mask)
    level = cross_section.log_min_max(liquidity, real)
    weight = 0.5 + 0.5 * torch.sigmoid(alpha * level * torch.where(real, label, 0.0))
    return torch.where(real, weight, 0.0)


# --- target


def target_transform(label: Tensor, mask: Tensor, *, target: str = "raw", volatility: Tensor | None = None) -> Tensor:
    """Turn raw returns into what the score is correlated with (why one may want to: `docs/formulas.md`).

    - "raw": the label itself.
    - "rank": the day's ascending ranks, mean 0 and variance (over n) 1; equal labels share their average
      rank.
    - "volatility": label * (day's median volatility) / volatility, so still a return. The volatility is
      floored at a tenth of the median; a missing one (not finite, or negative) is the median. The median runs
      over the labelled stocks with a positive volatility; without any the label stays as it is.

    Args:
        label: (B, N) raw forward return.
        mask: (B, N) bool, True = real.
        target: "raw", "rank" or "volatility".
        volatility: (B, N) standard deviation of past daily returns, known at the close; for "volatility" only.

    Returns:
        (B, N), NaN where not labelled.

    Raises:
        ValueError: for shapes or a ``target`` that are not allowed, or a volatility that is needed and not given.
    """
    check_choice("target", target, TARGETS)
    check_days(label=label, mask=mask)
    (label,) = cross_section.widen(label)
    real = cross_section.labelled(label, mask)
    if target == "rank":
        label = cross_section.unit_ranks(label, real)
    elif target == "volatility":
        if volatility is None:
            raise ValueError(
                "target='volatility' got volatility=None: pass a (B, N) tensor with each stock's trailing "
                "volatility (standard deviation of past daily returns, known at the close), or choose "
                "target='raw' or 'rank'"
            )
        check_days(label=label, volatility=volatility, mask=mask)
        (volatility,) = cross_section.widen(volatility)
        label = label * cross_section.volatility_factor(volatility, real).to(label.dtype)
    return torch.where(real, label, torch.nan)


# --- the losses


@dataclass(frozen=True)
class LossDays:
    """What a loss sees of a batch of days; what stands where `real` is False is to be ignored.

    Attributes:
        score: (B, N) the model's scores; gradients flow here and nowhere else.
        label: (B, N) raw forward return.
        target: (B, N) the label after ``target_transform``: what the score is compared with.
        real: (B, N) bool, stocks with a label on days that count.
        liquidity, volatility: (B, N) or None, as they were given.
        exposures: (B, N, K) where the loss is neutral to some, None elsewhere. Score and target are then off them
            already, with equal weights; `correlation` takes them off with the weights of the loss.
    """

    score: Tensor
    label: Tensor
    target: Tensor
    real: Tensor
    liquidity: Tensor | None = None
    volatility: Tensor | None = None
    exposures: Tensor | None = None

    def correlation(self, weight: Tensor, center: str) -> Tensor:
        """Correlate score and target under weights (B, N), the partial correlation where there are exposures: (B,)."""
        score, target = self.score, self.target
        if self.exposures is not None:
            score, target = (
                cross_section.project_off(value, self.exposures, weight, self.real) for value in (score, target)
            )
        return weighted_pearson(score, target, weight, self.real, center=center)

    def source(self, weight_by: str) -> Tensor:
        """Take what weights are made of: (B, N), a constant to the gradient."""
        return {"label": self.label, "score": self.score.detach(), "target": self.target}[weight_by]


def wpcc(days: LossDays, *, weight_by: str, base: float, center: str, ties: str) -> Tensor:
    """Minus the correlation under weights that fall with the rank of the outcome, (B,)."""
    weight = rank_weight(days.source(weight_by), days.real, base=base, ties=ties)
    return -days.correlation(weight, center)


def liq_wpcc(days: LossDays, *, weight_by: str, alpha: float, center: str) -> Tensor:
    """Minus the correlation under weights that rise with outcome times liquidity, (B,)."""
    returns = days.source(weight_by)
    if weight_by == "score":
        returns = cross_section.deal(days.label, returns, days.real)
    weight = liquidity_weight(returns, needed_liquidity("liq_wpcc", days.liquidity, days.label), days.real, alpha=alpha)
    return -days.correlation(weight, center)


def needed_liquidity(loss: str, liquidity: Tensor | None, label: Tensor) -> Tensor:
    """Return the liquidity of a loss that needs it, of the label's shape."""
    if liquidity is None:
        raise ValueError(
            f"loss {loss!r} got liquidity=None: pass a (B, N) tensor in yuan a day (DayDatasetH has it), or choose "
            "'wpcc', 'ic', 'ccc' or 'mse', which need none"
        )
    check_days(label=label, liquidity=liquidity)
    return liquidity


@dataclass(frozen=True)
class Loss:
    """One row of `LOSSES`.

    Attributes:
        per_day: ``LossDays`` and the options by name -> (B,), smaller is better; of a class of your own its `__call__`.
        options: those of ``DayLoss`` that it takes, beside `target`, which all do.
        needs_liquidity: whether a day without any counts for nothing.
    """

    per_day: Callable[..., Tensor]
    options: tuple[str, ...] = ()
    needs_liquidity: bool = False


LOSSES = {
    "wpcc": Loss(wpcc, ("weight_by", "base", "center", "ties")),
    "liq_wpcc": Loss(liq_wpcc, ("weight_by", "alpha", "center"), needs_liquidity=True),
    "ic": Loss(lambda days: -information_coefficient(days.score, days.target, days.real)),
    "ccc": Loss(lambda days: -concordance(days.score, days.target, days.real)),
    "mse": Loss(lambda days: mean_squared_error(days.score, days.target, days.real)),
}


class DayLoss:
    """A loss over batches of days: smaller is better, degenerate days count for nothing.

    Source: slides, pages 1, 2 and 4; with its defaults "wpcc" and "liq_wpcc" take the deck's weights.

    Args:
        name: "wpcc", "liq_wpcc", "ic", "ccc" (minus the correlation) or "mse"; or a function of ``LossDays`` -> (B,) of
            your own, its result 0 where a day has nothing real (`needs_liquidity = True` on it where it does).
        target: what the score is compared with, see ``target_transform``.
        weight_by: wpcc, liq_wpcc: where the weights come from. "label": the raw outcome, as in the deck. "score": the
            same decreasing weights by the rank of the detached score; in liq_wpcc the day's raw returns,
            sorted, are dealt to the stocks in the order of their scores, so the set of returns in the weights
            stays the day's own. "target": the transformed target; not with liq_wpcc and target="rank", whose
            weights need returns.
        base: wpcc: see ``rank_weight``.
        alpha: liq_wpcc: see ``liquidity_weight``.
        center: wpcc, liq_wpcc: see ``weighted_pearson``; "plain" is the deck's listing to the letter.
        ties: wpcc: see ``rank_weight``.
        neutral: names of exposures (`portfolio.KINDS`, columns of the user's) that score and target are projected off,
            after ``target``: the loss is then the partial correlation, with the loss's own weights in wpcc and liq_wpcc
            (those by the score go by the projected one), with equal weights in ic, ccc, mse and a loss of your own. ccc
            and mse compare deviations only, as a projection takes the day's mean off. Not with center="plain", whose
            guard and means are those of a plain correlation. None: nothing.
        **unknown: none is accepted; they are named in the error together with the close ones.

    Raises:
        TypeError: for an option that does not exist.
        ValueError: for a value that is not allowed, or one that would have no effect on the named loss.

    >>> import torch
    >>> score, label = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.03, 0.01, 0.02]])
    >>> DayLoss("ic")(score, label, torch.ones(1, 3, dtype=torch.bool))
    tensor(-0.5000)
    """

    neutral: tuple[str, ...] = ()  # losses of recorded runs lack it

    def __init__(
        self,
        name: str | Callable[[LossDays], Tensor],
        *,
        target: str = "raw",
        weight_by: str = "label",
        base: float = BASE,
        alpha: float = ALPHA,
        center: str = "weighted",
        ties: str = "stable",
        neutral: Sequence[str] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("DayLoss", unknown, ("name", *DayLoss._defaults()))
        if not callable(name):
            check_choice("loss", name, LOSSES)
        check_choice("target", target, TARGETS)
        check_choice("weight_by", weight_by, WEIGHT_SOURCES)
        check_choice("center", center, CENTERS)
        check_choice("ties", ties, TIES)
        check_number("base", base, "(0, 1]", hint=BASE_HINT)
        check_number("alpha", alpha, "[0, inf)", hint=ALPHA_HINT)
        self.name, self.target, self.weight_by = name, target, weight_by
        self.base, self.alpha, self.center, self.ties = base, alpha, center, ties
        self.neutral = exposure_names(neutral)
        self._check_effect()

    def __repr__(self) -> str:
        """Name the loss and the options it uses."""
        used = [f"{key}={value!r}" for key, value in self._used().items()]
        name = repr(self.name) if isinstance(self.name, str) else describe(self.name)
        return f"DayLoss({', '.join([name, *used])})"

    @staticmethod
    def _defaults() -> dict[str, Any]:
        return DayLoss.__init__.__kwdefaults__ or {}

    @property
    def _row(self) -> Loss:
        if isinstance(self.name, str):
            return LOSSES[self.name]
        return Loss(self.name, needs_liquidity=getattr(self.name, "needs_liquidity", False))

    def _used(self) -> dict[str, Any]:
        """Options that the loss uses, in the order of the signature."""
        used = {"target", *self._row.options, *(["neutral"] if self.neutral else [])}
        return {key: getattr(self, key) for key in self._defaults() if key in used}

    @property
    def needs_liquidity(self) -> bool:
        """Whether ``liquidity`` must be passed."""
        return self._row.needs_liquidity

    @property
    def needs_volatility(self) -> bool:
        """Whether ``volatility`` must be passed."""
        return self.target == "volatility"

    def valid_days(
        self, label: Tensor, mask: Tensor, liquidity: Tensor | None = None, exposures: Tensor | None = None
    ) -> Tensor:
        """Tell the days that can be learnt from.

        Args:
            label: (B, N) raw forward return, NaN where unknown.
            mask: (B, N) bool, True = real (present).
            liquidity: (B, N) yuan a day; needed by liq_wpcc.
            exposures: (B, N, K); needed by `neutral`.

        Returns: (B,) bool, False with fewer than two labelled stocks, with labels all equal (within 8 float
            steps), for liq_wpcc without any positive finite liquidity among the labelled stocks, and for a neutral loss
            with fewer labelled stocks than 2 + the exposures that vary among them.
        """
        check_days(label=label, mask=mask)
        (label,) = cross_section.widen(label)
        real = cross_section.labelled(label, mask)
        valid = cross_section.varied_days(label, real)
        if self.needs_liquidity:
            liquidity = needed_liquidity(describe(self.name), liquidity, label)
            valid = valid & (real & cross_section.is_positive(liquidity)).any(dim=1)
        if (loads := self._loads(exposures, label)) is not None:
            valid = valid & (real.sum(dim=1) >= 2 + cross_section.varied_exposures(loads, real))
        return valid

    def _loads(self, exposures: Tensor | None, label: Tensor) -> Tensor | None:
        """Return the exposures of a neutral loss, of the label's days and stocks; None for any other."""
        if not self.neutral:
            return None
        if exposures is None:
            raise ValueError(
                f"neutral={[*self.neutral]} got exposures=None: pass a (B, N, K) tensor (DayPanel.exposures of a "
                "DayDatasetH has them), or leave neutral out"
            )
        cross_section.check_exposures(exposures, label=label)
        return exposures

    def per_day(
        self,
        score: Tensor,
        label: Tensor,
        mask: Tensor,
        liquidity: Tensor | None = None,
        volatility: Tensor | None = None,
        exposures: Tensor | None = None,
    ) -> Tensor:
        """Compute each day's loss.

        Args:
            score: (B, N) the model's scores; gradients flow here and nowhere else.
            label: (B, N) raw forward return, NaN where unknown.
            mask: (B, N) bool, True = real (present).
            liquidity: (B, N) yuan a day; needed by liq_wpcc.
            volatility: (B, N) trailing volatility; needed by target="volatility".
            exposures: (B, N, K) in the order of `neutral`, 0 where unknown; needed by it.

        Returns:
            (B,) minus the correlation, or the squared error; 0 without gradient on degenerate days.

        Raises:
            ValueError: for unequal shapes, or an input that the loss needs and did not get.
        """
        check_days(score=score, label=label)
        grids = (liquidity, volatility, exposures)
        return self._per_day(score, label, mask, *grids, self.valid_days(label, mask, liquidity, exposures))

    def _per_day(
        self,
        score: Tensor,
        label: Tensor,
        mask: Tensor,
        liquidity: Tensor | None,
        volatility: Tensor | None,
        exposures: Tensor | None,
        valid: Tensor,
    ) -> Tensor:
        """Compute ``per_day`` of checked shapes with the valid days (B,) given."""
        score, label = cross_section.widen(score, label.detach())
        real = cross_section.labelled(label, mask) & valid[:, None]
        target = target_transform(label, real, target=self.target, volatility=volatility)
        if (loads := self._loads(exposures, label)) is not None:
            score, target = (cross_section.project_off(value, loads, real, real) for value in (score, target))
            target = torch.where(real, target, torch.nan)
        days = LossDays(score, label, target, real, liquidity, volatility, loads)
        options = {key: value for key, value in self._used().items() if key in self._row.options}
        return self._row.per_day(days, **options)

    def __call__(
        self,
        score: Tensor,
        label: Tensor,
        mask: Tensor,
        liquidity: Tensor | None = None,
        volatility: Tensor | None = None,
        exposures: Tensor | None = None,
        *,
        day_weight: Tensor | None = None,
    ) -> Tensor:
        """Average ``per_day`` over the valid days: a scalar, 0 with zero gradients where no day is valid.

        With `day_weight` (B,) it is the sum of weight * loss over the number of valid days, whatever the weights.
        """
        check_days(score=score, label=label)
        valid = self.valid_days(label, mask, liquidity, exposures)
        loss = self._per_day(score, label, mask, liquidity, volatility, exposures, valid)
        if day_weight is not None:
            loss = loss * day_weight.to(loss.dtype)
        return loss.sum() / valid.sum().clamp(min=1)

    def _check_effect(self) -> None:
        if self.neutral and self.center == "plain":
            raise ValueError(
                f"neutral={[*self.neutral]} with center='plain': the deck's listing knows no projection; use "
                "center='weighted', or leave neutral out"
            )
        for key, default in self._defaults().items():
            if key != "neutral" and getattr(self, key) != default and key not in self._used():
                names = ", ".join(name for name, row in LOSSES.items() if key in row.options)
                raise ValueError(
                    f"{key}={getattr(self, key)!r} has no effect on the loss {self.name!r}; it belongs to: {names}. "
                    f"Remove {key} or choose one of these losses"
                )
        if (self.name, self.weight_by, self.target) == ("liq_wpcc", "target", "rank"):
            raise ValueError(
                "liq_wpcc with weight_by='target' and target='rank' would put normalised ranks where its "
                "weights need returns (alpha * l * r would saturate): use weight_by='label' or 'score', or "
                "target='volatility'"
            )


def exposure_names(names: Sequence[str] | None) -> tuple[str, ...]:
    """Read the option `neutral`. Raises: ValueError for anything but a list of distinct names."""
    if names is None:
        return ()
    listed = [] if isinstance(names, str) or not isinstance(names, Sequence) else [*names]
    if not listed or not all(isinstance(name, str) and name for name in listed) or len(set(listed)) < len(listed):
        raise ValueError(
            f"neutral is {names!r}; it must be null, or a list of distinct names of exposures, such as "
            "[volatility, liquidity]"
        )
    return tuple(listed)
