"""Trainings that see the same days in the same order, in one pass: each batch is gathered once for all of them."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qlib_ext import ranks
from qlib_ext.options import enough_memory
from qlib_ext.panel import DayPanel
from qlib_ext.training.checkpoint import History, Run, check_ranks, facts_of
from qlib_ext.training.device import fixed_threads, generator_states, seeded, set_generator_states
from qlib_ext.training.trainer import LESS, OnEpoch, Progress, Rows, Trainer, _Pass, day_weight


@enough_memory(LESS)
def fit_together(
    trainers: Sequence[Trainer],
    panel: DayPanel,
    train: Rows,
    valid: Rows,
    *,
    on_epochs: Sequence[OnEpoch],
    progress: Progress | None = None,
) -> list[History]:
    """Train as `Trainer.fit` does each of them, with the same numbers to the last bit.

    Within a step the networks follow one another: on a CPU that is faster than stacked parameters and one product for
    all, whose values no longer fit into the cache (docs/ensembles.md). Each has its own random numbers for dropout, its
    own optimiser, clipping, best epoch and early stop.

    Args:
        trainers: of any networks, with the same options but `seed`; `order_seed` is given.
        panel: the market.
        train: rows to learn from.
        valid: rows to select on.
        on_epochs: of each trainer, called with the epoch (1-based) and its metrics.
        progress: wraps the batches of a training epoch and their number.

    Raises: ValueError for trainers whose order of days is not one, or that keep a checkpoint; and as `Trainer.fit`.

    >>> from qlib_ext.nets import MLP
    >>> options = {"metric": "ic", "epochs": 2, "order_seed": 0, "device": "cpu"}
    >>> trainers = [Trainer(MLP(2, (8,)), "ic", seed=seed, **options) for seed in (0, 1)]
    >>> train, valid = panel.rows("2020-02-03", "2020-04-30"), panel.rows("2020-05-06", "2020-05-29")
    >>> histories = fit_together(trainers, panel, train, valid, on_epochs=[lambda epoch, row: None] * 2)
    >>> [len(history.epochs) for history in histories]
    [2, 2]
    """
    first = trainers[0]
    own = {(str(one._facts() | {"seed": None}), one.order_seed, one.epochs, one.patience) for one in trainers}
    if len(own) > 1 or first.order_seed is None or any(one.checkpoint for one in trainers):
        raise ValueError("trainings share a pass only with the same options, an order_seed, and without a checkpoint")
    for one in trainers:
        one.horizons, one.heads = panel.horizons, None
    train, valid, history = first._usable(panel, train, valid)
    if ranks.count() > 1:
        own_facts = first._facts() | {"seeds": [one.seed for one in trainers]}
        check_ranks(facts_of(own_facts, first.net, panel, train, valid, first.loss.neutral) | first._ends())
    with seeded(first.seed, first.device), fixed_threads(first.deterministic, first.device):
        runs = [one._start(panel, train, copy.deepcopy(history), None) for one in trainers]
        _epochs(trainers, panel.to(first.device), train, valid, runs, on_epochs, progress)
    for one in trainers:
        one._weigh_heads(panel, valid)
    return [run.history for run in runs]


def _epochs(
    trainers: Sequence[Trainer],
    panel: DayPanel,
    train: Rows,
    valid: Rows,
    runs: Sequence[Run],
    on_epochs: Sequence[OnEpoch],
    progress: Progress | None,
) -> None:
    """Run the epochs of all whose metric still rises; each network ends with its best state."""
    first, trading = trainers[0], trainers[0]._trading(panel, valid)
    weight = None if first.day_halflife is None else day_weight(train, first.day_halflife)
    order, draws = runs[0].order, [_Draws(one) for one in trainers]
    learnt, judged = first._learnable(panel, train), first._learnable(panel, valid)
    while left := [n for n, one in enumerate(trainers) if one._goes_on(runs[n].history)]:
        place = order.permutation(len(train))
        days, own = train[place], None if weight is None else weight[place]
        passes = {n: _Pass(trainers[n], panel, days, learnt[place], runs[n].optimiser, own) for n in left}
        for n in left:
            with draws[n].in_use():
                trainers[n]._draw_anew(len(runs[n].history.epochs))
        for step, part, batch in first._batches(panel, days, progress):
            for n in left:
                with draws[n].in_use():
                    passes[n].step(step, part, batch)
        losses = {n: passes[n].result()[0] for n in left}
        passes = {n: _Pass(trainers[n], panel, valid, judged) for n in left}
        for step, part, batch in first._batches(panel, valid, None):
            for n in left:
                passes[n].step(step, part, batch)
        for n in left:
            valid_loss, score = passes[n].result()
            row = {"train_loss": losses[n], "valid_loss": valid_loss}
            trainers[n]._note(runs[n], row | trainers[n]._judge(panel, valid, score, trading))
            on_epochs[n](len(runs[n].history.epochs), runs[n].history.epochs[-1])
    for one, run in zip(trainers, runs, strict=True):
        one._end(run)


class _Draws:
    """Random numbers of one training: what `seeded` gives it when it is alone."""

    def __init__(self, trainer: Trainer) -> None:
        self.device = trainer.device
        with seeded(trainer.seed, trainer.device):
            self.states = generator_states(trainer.device)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Draw from them within."""
        set_generator_states(self.states, self.device)
        yield
        self.states = generator_states(self.device)
