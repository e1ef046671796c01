"""MLPModel and MASTERModel: qlib models that train on day cross-sections."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from qlib.log import get_module_logger
from qlib.model.base import Model
from qlib.utils import init_instance_by_config
from qlib.workflow import R
from torch import nn

from qlib_ext import progress
from qlib_ext.data import DayDatasetH, bounds, panel_of, tell_unlearnt
from qlib_ext.evaluate import metric_name, metric_needs_liquidity
from qlib_ext.features import ALPHA158_NAMES
from qlib_ext.losses import DayLoss
from qlib_ext.model.folds import curves_frame, refuse_fitted, warn_if_thin
from qlib_ext.model.kept import let_go
from qlib_ext.model.scores import Grid, asked_rows, check_features, first_difference, heads_frame, score_series
from qlib_ext.nets import MASTER, MLP, Columns, Gate, load_official_master
from qlib_ext.options import (
    argument_lines,
    argument_names,
    check_choice,
    check_flag,
    default_of,
    describe,
    named_options,
    refuse_unknown,
    signature_with,
    tell,
)
from qlib_ext.panel import OFFICIAL_NAMES, Batch, DayPanel
from qlib_ext.portfolio import HeadWeights
from qlib_ext.runs import log_finite
from qlib_ext.training import METRIC, History, Rows, Trainer, check_heads, fit_together, seeded

logger = get_module_logger("qlib_ext.model")

MAX_STEPS = 100  # of the authors' table of positions
NO_MARKET = (
    "gate: true but the dataset has no market features: give DayDatasetH(market_state=true) or a macro_state, or set "
    "gate: false"
)

LOSS_OPTIONS = [name for name in argument_names(DayLoss) if name != "name"]
LEARNT = {"loss": "ic", "target": "rank", "metric": "rank_ic"}  # where no loss is named
NOT_OPTIONS = ("name", "net", "loss", "step_len", "**unknown")  # of DayLoss and Trainer: a model makes them
OPTIONS_LINE = "        loss, options: see DayLoss and Trainer."  # of a docstring: each option stands there in `help`
LOSS_LINES = (
    "    loss: name of DayLoss's, or one of your own, {class, module_path, kwargs}; None: ic, with the default target",
    "        rank and metric rank_ic.",
    "    columns: names of the features that the network sees, alpha158: those of Alpha158; None: all.",
)
TRAINER_OPTIONS = [name for name in argument_names(Trainer) if name not in ("net", "loss", "step_len")]


class DayModel(Model):
    """What both models share; options are those of DayLoss and Trainer, any other name is an error.

    `loss` and `metric` may be of your own: {class, module_path, kwargs} as qlib has it; see DayLoss and Trainer.
    Without a loss the IC with the day's ranks is learnt, and the epoch chosen by RankIC (`LEARNT`; measured:
    docs/scores.md); a named loss has the options that DayLoss and Trainer give it, the deck's of wpcc and liq_wpcc.

    Predictions are a Series by (datetime, instrument), sorted, of the stocks present on each day. A kind of model whose
    network looks at the day alone says so by `needs_window = False`, and gets no more than it.
    """

    __signature__: inspect.Signature
    needs_window = True
    columns: tuple[str, ...] | None = None  # recorded models may lack it
    learnt_until: pd.Timestamp | None = None  # last training day; likewise
    seen_until: pd.Timestamp | None = None  # last day of training and validation

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name each option in the signature, and explain it in the docstring, for completion and help."""
        super().__init_subclass__(**kwargs)
        inits = [
            vars(kind)["__init__"] for kind in cls.__mro__ if "__init__" in vars(kind) and issubclass(kind, DayModel)
        ]
        signature = signature_with(*inits, DayLoss.__init__, Trainer.__init__, drop=NOT_OPTIONS)
        options = [
            option.replace(default=LEARNT[name]) if name in LEARNT and name != "loss" else option
            for name, option in signature.parameters.items()
        ]
        cls.__signature__ = signature.replace(parameters=options[1:])
        if OPTIONS_LINE in (vars(cls).get("__doc__") or ""):
            lines = [*LOSS_LINES, *(line for kind in (DayLoss, Trainer) for line in argument_lines(kind, NOT_OPTIONS))]
            cls.__doc__ = str(cls.__doc__).replace(OPTIONS_LINE, "\n".join(f"    {line}".rstrip() for line in lines))

    def __init__(self, *, loss: Any = None, columns: Sequence[str] | str | None = None, **options: Any) -> None:
        own = [name for name in own_options(type(self)) if name not in options]
        refuse_unknown(type(self), options, (*own, *LOSS_OPTIONS, *TRAINER_OPTIONS))
        if loss is None:
            loss, options = LEARNT["loss"], {name: value for name, value in LEARNT.items() if name != "loss"} | options
        self.loss = DayLoss(built("loss", loss), **{k: v for k, v in options.items() if k in LOSS_OPTIONS})
        self.options = {k: built(k, v) for k, v in options.items() if k in TRAINER_OPTIONS}
        self.columns = columns_of(columns)
        Trainer(nn.Identity(), self.loss, **self.options)  # an option that cannot be is an error now, not after loading
        self.trainer: Trainer | None = None
        self.history: History | None = None
        self.features: list[str] = []
        self.market_features: list[str] = []

    def __repr__(self) -> str:
        """Options that are not the defaults, the loss, and what was learnt."""
        own = {name: getattr(self, name, None) for name in own_options(type(self)) if name != "loss"}
        changed = {name: value for name, value in own.items() if value != default_of(type(self), name)}
        options = named_options({**changed, "loss": self.loss, **self.options})
        learnt = "not trained"
        if self.history is not None and self.trainer is not None:
            best = f"best epoch {self.history.best_epoch} of {len(self.history.epochs)}"
            until = f"{self.learnt_until:%Y-%m-%d}" if self.learnt_until is not None else "?"
            learnt = f"trained to {until}, {best}: {self.trainer.metric} {self.history.best_value:.4f}"
        return f"{type(self).__name__}({options}; {learnt})"

    def _try_to_build(self) -> None:
        """Build a small network without memory: a size that cannot be is an error now, not after loading."""
        with torch.device("meta"):
            self.build(4, 1)

    def build(self, d_feat: int, d_gate: int, heads: int = 1) -> nn.Module:
        """Build the network for d_feat features and d_gate market features, with so many scores a stock."""
        raise TypeError(f"{type(self).__name__} builds no network: use MLPModel or MASTERModel")

    def check_dataset(self, dataset: Any) -> None:
        """Look at a dataset before it is loaded, see `data.rehearsed`: options, segments and processors.

        Raises: ValueError for what the model lacks in it: segments, liquidity, features of the market.
        """
        self.check_needs(dataset)
        for name in ("train", "valid"):
            if name not in dataset.segments:
                raise ValueError(f"{type(self).__name__} needs the segments train and valid, {name} is not there")
        refuse_fitted(dataset.handler, bounds(dataset.segments["train"])[1])
        if isinstance(dataset, DayDatasetH) and len(dataset.rows("train")) < 2:
            raise ValueError(f"segment 'train' has {len(dataset.rows('train'))} day to learn from: lengthen it")

    def check_needs(self, dataset: Any) -> None:
        """Refuse a dataset that lacks what loss, metric or gate need, as far as it can be told without its data."""
        tell_unlearnt(getattr(dataset.handler, "learn_processors", None))
        own = isinstance(dataset, DayDatasetH)
        metric = self.options.get("metric", METRIC)
        needs = {"loss": self.loss.needs_liquidity, "metric": metric_needs_liquidity(metric)}
        for option, needed in needs.items():
            if needed and (not own or dataset.liquidity is None):
                name = self.loss.name if option == "loss" else metric
                raise ValueError(
                    f"{option} {describe(name)} needs a DayDatasetH with liquidity (for example liquidity: auto)"
                )
        check_heads(self.options.get("horizon_weights"), getattr(dataset, "horizons", ()))
        if self.loss.neutral:
            check_neutral(self.loss.neutral, dataset)
        gate = getattr(self, "gate", False)
        if gate and not (own and dataset.market_names):
            raise ValueError(NO_MARKET)
        if own and dataset.market_names and not gate:
            tell(f"market_state and macro_state have no effect: {type(self).__name__} has no gate (MASTERModel: gate)")

    def fit(self, dataset: Any, *, reweighter: Any = None, start: "DayModel | None" = None) -> None:
        """Train on the segment "train", select on "valid"; artifact `folds/curves.pkl` where an experiment runs.

        `start`: a trained model whose network this one's begins as; it must have seen no day after these segments.

        Raises: ValueError for a reweighter (days are weighted by the loss), what the loss or metric lacks, or a start
            of another kind, size or later days.
        """
        panel, step_len, rows = opened(dataset, reweighter)
        kept: dict[str, Any] = {"keep_checkpoint": True} if self.checkpoint else {}
        history = self.fit_rows(panel, step_len, rows("train"), rows("valid"), start=start, **kept)
        let_go(self)
        save_folds(curves=curves_frame([(0, int(self.options.get("seed", 0)), history)]))

    def fit_rows(
        self,
        panel: DayPanel,
        step_len: int,
        train_rows: Rows,
        valid_rows: Rows,
        *,
        prefix: str = "",
        keep_checkpoint: bool = False,
        start: "DayModel | None" = None,
    ) -> History:
        """Train on any days of a panel, which need not follow each other, and select on others.

        The network stays on the device it was trained on.

        Args:
            panel: the market.
            step_len: T, days in a window.
            train_rows: rows in the panel to learn from. A window looks back over whatever days come before its own:
                that the two parts share no label is for the caller to see to (`splits.overlap`).
            valid_rows: rows in the panel to stop and select on.
            prefix: put before the names of the recorded metrics.
            keep_checkpoint: leave the option `checkpoint`'s file at the end.
            start: a trained model whose network this one's begins as, with a fresh optimiser and scales of these days;
                what it learnt from must come before `valid_rows`, what it was stopped on no later than they end.
        """
        trainer, facts = self._ready(panel, step_len, train_rows, valid_rows, prefix, start)
        counter = Epochs(trainer)
        history = trainer.fit(
            panel,
            train_rows,
            valid_rows,
            on_epoch=partial(report, prefix, counter),
            progress=counter.batches,
            facts=facts,
            keep_checkpoint=keep_checkpoint,
        )
        for epoch, row in enumerate(history.epochs[: history.resumed_from], 1):  # what the run before this one learnt
            record_epoch(_inside.get() + prefix, epoch, row)
        return self._fitted(panel, train_rows, valid_rows, history, prefix)

    def _ready(
        self, panel: DayPanel, step_len: int, train_rows: Rows, valid_rows: Rows, prefix: str, start: "DayModel | None"
    ) -> tuple[Trainer, dict[str, Any]]:
        """Build network and trainer for some days, and tell what a checkpoint must agree in."""
        step_len = window_of(type(self), step_len)
        with seeded(int(self.options.get("seed", 0))):
            heads = {"heads": len(panel.horizons)} if len(panel.horizons) > 1 else {}
            seen = places_of(self.columns, panel.features)
            d_feat, d_gate = len(seen or panel.features), 0 if panel.market is None else panel.market.shape[1]
            net = self.build(d_feat, d_gate, **heads)
            net = net if seen is None else Columns(net, seen)
        self.features = list(panel.features)
        facts = {option: getattr(self, option, None) for option in own_options(type(self)) if option != "loss"}
        if self.columns is None:  # files of older versions do not name it
            del facts["columns"]
        if start is not None:
            self._begin_as(start, net, panel, train_rows, valid_rows)
            facts["start"] = _digest(net)
        self.market_features = []
        if isinstance(gate := getattr(net, "gate", None), Gate) and panel.market is not None:
            self.market_features = list(panel.market_features)
            gate.fit(panel.market[torch.as_tensor(train_rows)])
        self.trainer = Trainer(net, self.loss, step_len=step_len, **self.options)
        name, days = type(self).__name__, f"{len(train_rows)} + {len(valid_rows)} days"
        logger.info(f"{prefix}{name}: {days}, {len(panel.stocks)} stocks, {self.loss}")
        if self.trainer.checkpoint is not None and Path(self.trainer.checkpoint).exists():
            text = f"{prefix}{self.trainer.checkpoint} exists: the training goes on where it was left"
            logger.info(text, extra=progress.brief(text))
        return self.trainer, facts

    def _fitted(self, panel: DayPanel, train_rows: Rows, valid_rows: Rows, h: History, prefix: str) -> History:
        """Take over what the training has found, and tell it."""
        self.history, trainer = h, self._trained()
        last = panel.days[train_rows].max()
        self.learnt_until = pd.Timestamp(last)
        self.seen_until = pd.Timestamp(max(last, panel.days[valid_rows].max()))
        logger.info(f"{prefix}best epoch {h.best_epoch}: {trainer.metric} {h.best_value:.5f}")
        report_heads(prefix, trainer.heads)
        if h.degenerate_days:
            logger.warning(f"{prefix}{h.degenerate_days} training days could not be learnt from and were counted out")
        return h

    def _begin_as(self, start: "DayModel", net: nn.Module, panel: DayPanel, train: Rows, valid: Rows) -> None:
        """Give a network the state of a trained model's; ValueError for another kind, size, or days not yet past."""
        kind = type(self).__name__
        if type(start) is not type(self) or start.trainer is None or start.learnt_until is None:
            raise ValueError(f"start must be a trained {kind} that tells its days; got {type(start).__name__}")
        check_features(start.features, panel, start.market_features)
        if start.columns != self.columns:
            raise ValueError(
                f"start has columns {start.columns}, this model {self.columns}: they see different features"
            )
        before = panel.days[train[train < valid.min()]]
        end = panel.days[valid].max()
        if not len(before) or start.learnt_until > before.max() or start.seen_until > end:
            raise ValueError(
                f"start learnt from days up to {start.learnt_until:%Y-%m-%d} and was stopped on days up to "
                f"{start.seen_until:%Y-%m-%d}; it may have learnt from no day after "
                f"{str(before.max())[:10] if len(before) else 'the beginning'}, the last training day before the "
                f"validation days, and seen none after {str(end)[:10]}: start from an earlier model"
            )
        try:
            net.load_state_dict(start.trainer.net.state_dict())
        except RuntimeError as error:
            raise ValueError(f"start is a {kind} of other sizes: {str(error).splitlines()[-1].strip()}") from error

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
        """Score a segment: Series `score` by (datetime, instrument), sorted."""
        self._trained()
        panel, rows = asked_rows(dataset, segment)
        check_features(self.features, panel, self.market_features)
        return score_series(panel, rows, self.score_rows(panel, rows))

    @property
    def checkpoint(self) -> str | None:
        """File that keeps the state after each epoch."""
        return self.options.get("checkpoint")

    @checkpoint.setter
    def checkpoint(self, file: str | None) -> None:
        self.options["checkpoint"] = file

    @property
    def metric(self) -> str:
        """Name of the metric that stopped and selected."""
        return metric_name(self.options.get("metric", METRIC))

    def score_rows(self, panel: DayPanel, rows: Rows) -> Grid:
        """Score days of a panel of the same features: (len(rows), N), NaN where a stock is not present."""
        return self._trained().predict(panel, rows)

    def _trained(self) -> Trainer:
        if self.trainer is None:
            raise ValueError("the model is not trained: call fit first")
        return self.trainer

    def predict_heads(self, dataset: Any, segment: str | slice = "test") -> pd.DataFrame:
        """Score a segment by each head: as `predict`, a column each named by its horizon in days."""
        trainer = self._trained()
        panel, rows = asked_rows(dataset, segment)
        check_features(self.features, panel, self.market_features)
        return heads_frame(panel, rows, trainer.predict_heads(panel, rows), trainer.horizons)


def _digest(net: nn.Module) -> str:
    """Tell the state of a network in a few letters."""
    digest = hashlib.blake2b(digest_size=8)
    for value in net.state_dict().values():
        digest.update(value.detach().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def check_neutral(neutral: Sequence[str], dataset: Any) -> None:
    """Raise ValueError for exposures that a dataset cannot tell, as far as it shows without its data."""
    if not isinstance(dataset, DayDatasetH) or ("liquidity" in neutral and dataset.liquidity is None):
        raise ValueError(
            f"neutral: [{', '.join(neutral)}] needs a DayDatasetH, whose panel has exposures"
            f"{' (liquidity: auto)' if 'liquidity' in neutral else ''}; or leave neutral out"
        )
    names = dataset.exposure_source().names
    for name in neutral:
        hint = "; columns of your own come by DayDatasetH(exposures=...)"
        check_choice("exposure to be neutral to", name, names, hint=hint)


def fit_in_one_pass(
    models: Sequence[DayModel],
    panel: DayPanel,
    step_len: int,
    train_rows: Rows,
    valid_rows: Rows,
    prefixes: Sequence[str],
) -> None:
    """Train models that differ by seed alone as `DayModel.fit_rows` does each, see `training.fit_together`."""
    trainers = [
        model._ready(panel, step_len, train_rows, valid_rows, prefix, None)[0]
        for model, prefix in zip(models, prefixes, strict=True)
    ]
    counter = Epochs(trainers[0])
    reports = [partial(report, prefix, counter) for prefix in prefixes]
    histories = fit_together(trainers, panel, train_rows, valid_rows, on_epochs=reports, progress=counter.batches)
    for model, history, prefix in zip(models, histories, prefixes, strict=True):
        model._fitted(panel, train_rows, valid_rows, history, prefix)


def built(option: str, value: Any) -> Any:
    """Build a loss or metric of one's own from {class, module_path, kwargs}; any other value stays as it is.

    Raises: TypeError for another key, ValueError for what cannot be called.
    """
    if option not in ("loss", "metric") or not isinstance(value, Mapping):
        return value
    refuse_unknown(option, value, ("class", "module_path", "kwargs"))
    instance = init_instance_by_config(dict(value))
    if not callable(instance):
        raise ValueError(f"{option}: {value.get('class')} gives a {type(instance).__name__}, which cannot be called")
    return instance


def columns_of(columns: Any) -> tuple[str, ...] | None:
    """Read the option `columns`."""
    if columns is None:
        return None
    names = ALPHA158_NAMES if columns == "alpha158" else columns
    listed = isinstance(names, list | tuple) and len(names) > 0
    if not listed or not all(isinstance(name, str) for name in names):
        raise ValueError(f"columns is {columns!r}; allowed: alpha158, a list of names of features, or null (all)")
    return tuple(names)


def places_of(columns: Sequence[str] | None, features: Sequence[str]) -> list[int] | None:
    """Places of the features that a network sees; None: it sees all."""
    if columns is None:
        return None
    if lacking := [name for name in columns if name not in features]:
        raise ValueError(
            f"columns: the dataset lacks {len(lacking)} of {len(columns)} features, the first is {lacking[0]!r}; it "
            f"has {len(features)}, such as {', '.join(features[:3])}"
        )
    return [features.index(name) for name in columns]


def own_options(kind: type[DayModel]) -> list[str]:
    """Names of the keyword options of a model and of those it is made of, its own first."""
    return argument_names(*(base for base in kind.__mro__ if issubclass(base, DayModel)))


class MLPModel(DayModel):
    """The deck's baseline: three linear layers on one day's cross-section, of whatever window the dataset has.

    Args:
        hidden: widths of the two hidden layers.
        dropout: between the layers.
        loss, options: see DayLoss and Trainer.

    >>> model = MLPModel(hidden=[8, 4], loss="mse", metric="ic", epochs=1)
    >>> model
    MLPModel(hidden=(8, 4), loss=DayLoss('mse', target='raw'), metric='ic', epochs=1; not trained)
    >>> model.fit(dataset)
    >>> model  # doctest: +ELLIPSIS
    MLPModel(hidden=(8, 4), ... epochs=1; trained to 2020-04-28, best epoch 1 of 1: ic ...)
    >>> model.predict(dataset, "test").index.names
    FrozenList(['datetime', 'instrument'])
    """

    needs_window = MLP.needs_window

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        loss: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(loss=loss, **options)
        self.hidden, self.dropout = hidden, dropout
        self._try_to_build()  # which checks them
        self.hidden = tuple(hidden)

    def build(self, d_feat: int, d_gate: int, heads: int = 1) -> nn.Module:
        """Build the MLP; it has no gate."""
        return MLP(d_feat, self.hidden, dropout=self.dropout, heads=heads)


class MASTERModel(DayModel):
    """MASTER (Li et al., AAAI 2024) over day cross-sections; the gate is off by default.

    Args:
        d_model, t_heads, s_heads, dropout, attention_dropout, key_dropout, beta, variant: see nets.MASTER.
        inter, inducing: attention over the stocks, "full" or "induced" through so many points, whose
            cost grows with the number of stocks and not with its square: see nets.InducedAttention.
        gate: feed the panel's market features to the gate, scaled by the training days (see nets.Gate).
        init_from: a checkpoint of MASTER's authors to start from. Sizes, heads and the gate must be those of the
            checkpoint; with 158 features they must be Alpha158's, in qlib's order, and with 63 market features those
            of `market_state: true` with all three indices. Set beta: 5 for the CSI300 checkpoints, 2 for those of
            CSI800; it is in no file. The authors' inputs were scaled by RobustZScoreNorm(clip_outlier) and Fillna on
            the training days; CSNormalise scales by the day's cross-section, so that training has to bridge the two.
        loss, options: see DayLoss and Trainer.

    >>> model = MASTERModel(d_model=8, t_heads=2, dropout=0.1, loss="wpcc", metric="ic", epochs=1, device="cpu")
    >>> model.fit(dataset)
    >>> len(model.predict(dataset, "test")) > 0
    True
    """

    inter, inducing = "full", 32  # recorded models may lack them

    def __init__(
        self,
        *,
        d_model: int = 256,
        t_heads: int = 4,
        s_heads: int = 2,
        dropout: float = 0.5,
        attention_dropout: float | None = None,
        key_dropout: float = 0.0,
        beta: float = 5.0,
        variant: str = "official",
        inter: str = "full",
        inducing: int = 32,
        gate: bool = False,
        init_from: str | None = None,
        loss: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(loss=loss, **options)
        check_flag("gate", gate)
        self.init_from, self.max_steps = init_from, MAX_STEPS
        self.d_model, self.t_heads, self.s_heads, self.dropout = d_model, t_heads, s_heads, dropout
        self.attention_dropout, self.key_dropout = attention_dropout, key_dropout
        self.beta, self.variant, self.gate = beta, variant, gate
        self.inter, self.inducing = inter, inducing
        if not gate and beta != 5.0:
            tell("MASTERModel: beta has no effect without the gate (gate: false)")
        if inter == "full" and inducing != 32:
            tell("MASTERModel: inducing has no effect with inter: full")
        self._try_to_build()

    def build(self, d_feat: int, d_gate: int, heads: int = 1) -> nn.Module:
        """Build MASTER; with the gate on, the dataset must have market features."""
        if self.gate and not d_gate:
            raise ValueError(NO_MARKET)
        d_gate = d_gate if self.gate else 0
        if self.init_from is None:
            return self._net(d_feat, d_gate, self.max_steps, heads)
        return self._official(d_feat, d_gate, heads)

    def _ready(self, panel: DayPanel, step_len: int, *rest: Any) -> tuple[Trainer, dict[str, Any]]:
        """Build as `DayModel` does; a start from the authors' weights needs their features by name."""
        if self.init_from is not None:
            _check_authors("features", ALPHA158_NAMES, panel.features, "Alpha158 or FastAlpha158")
            if self.gate:
                cure = "market_state: true with all three indices"
                _check_authors("market features", OFFICIAL_NAMES, panel.market_features, cure)
        self.max_steps = max(MAX_STEPS, step_len)
        return super()._ready(panel, step_len, *rest)

    def _try_to_build(self) -> None:
        if self.init_from is None:
            super()._try_to_build()
        else:
            self._official(None, None)

    def _net(self, d_feat: int, d_gate: int, max_steps: int, heads: int) -> MASTER:
        return MASTER(
            d_feat,
            self.d_model,
            self.t_heads,
            self.s_heads,
            self.dropout,
            d_gate,
            self.beta,
            attention_dropout=self.attention_dropout,
            key_dropout=self.key_dropout,
            variant=self.variant,  # type: ignore[arg-type]
            max_steps=max_steps,
            heads=heads,
            inter=self.inter,  # type: ignore[arg-type]
            inducing=self.inducing,
        )

    def _official(self, d_feat: int | None, d_gate: int | None, heads: int = 1) -> MASTER:
        """Build the authors' network with our dropout (None: any number of features); ValueError where it misfits.

        Each of several heads starts as the authors' one.
        """
        path = str(self.init_from)
        authors = load_official_master(path, beta=self.beta, t_heads=self.t_heads, s_heads=self.s_heads)
        sizes: dict[str, tuple[Any, Any]] = {
            "d_model": (self.d_model, authors.head.in_features),
            "gate": (self.gate, authors.d_gate > 0),
            "variant": (self.variant, "official"),
            "inter": (self.inter, "full"),
        }
        if d_feat is not None:
            sizes |= {"number of features": (d_feat, authors.d_feat)}
            sizes |= {"number of market features": (d_gate, authors.d_gate)}
        wrong = [f"{name} is {ours}, the checkpoint's is {its}" for name, (ours, its) in sizes.items() if ours != its]
        if wrong:
            raise ValueError(f"init_from={path!r} does not fit: {'; '.join(wrong)}")
        net = self._net(authors.d_feat, authors.d_gate, max(authors.max_steps, self.max_steps), heads)
        state = authors.state_dict()
        own = net.state_dict()
        net.load_state_dict(own | {name: value.expand_as(own[name]) for name, value in state.items()})
        return net


def _check_authors(what: str, authors: Sequence[str], names: Sequence[str], cure: str) -> None:
    """Raise ValueError for as many names as the authors' checkpoints have that are not theirs, in their order."""
    if len(authors) == len(names) and list(authors) != list(names):
        raise ValueError(
            f"init_from: the dataset's {what} are not those of the authors' checkpoints; "
            f"{first_difference(authors, names)}. Use {cure}"
        )


def window_of(kind: type, step_len: int) -> int:
    """Days of a window that a kind of model looks at, with a notice where it needs none and was given more."""
    if step_len == 1 or getattr(kind, "needs_window", True):
        return step_len
    logger.info(f"{kind.__name__} looks at the day alone: step_len={step_len} becomes 1")
    return 1


def refuse_reweighter(reweighter: Any) -> None:
    """Raise ValueError for a reweighter: days are weighted by the loss."""
    if reweighter is not None:
        raise ValueError("reweighter is not used by day losses: choose loss, target and weight_by instead")


def opened(dataset: Any, reweighter: Any) -> tuple[DayPanel, int, Any]:
    """Panel, days of a window and rows of the segments to train on: the stage "training" begins.

    Raises: ValueError for a reweighter, and features fitted beyond the training days.
    """
    refuse_reweighter(reweighter)
    panel, step_len, rows = panel_of(dataset)
    refuse_fitted(dataset.handler, bounds(dataset.segments["train"])[1])
    progress.stage("training")
    warn_if_thin(panel, rows("train"))
    return panel, step_len, rows


# --- told and recorded


def recording() -> bool:
    """Tell whether a qlib experiment runs; qlib need not be initialised."""
    manager = getattr(R, "exp_manager", None)
    return manager is not None and manager.active_experiment is not None


_inside: ContextVar[str] = ContextVar("inside", default="")


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Let what is trained within be a part of an ensemble: `place` before its metrics, no artifacts of its own."""
    token = _inside.set(_inside.get() + place)
    try:
        yield
    finally:
        _inside.reset(token)


Listener = Callable[[str, int, Mapping[str, float]], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def hearing(listener: Listener) -> Iterator[None]:
    """Tell a listener each epoch within (prefix, number, metrics); what it raises ends the training."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Epochs:
    """Counts the epochs and batches of a training for `progress`, and says in a few words what an epoch brought."""

    def __init__(self, trainer: Trainer) -> None:
        self.total, self.metric, self.done = trainer.epochs, trainer.metric, 0

    def batches(self, batches: Iterator[Batch], total: int) -> Iterator[Batch]:
        """Count the batches of an epoch as they go by."""
        progress.step("epoch", self.done + 1, self.total)
        for number, batch in enumerate(batches, 1):
            yield batch
            progress.step("batch", number, total)

    def brief(self, epoch: int, row: dict[str, float]) -> str:
        """Say which epoch of how many it was, what it brought and how sure that is."""
        self.done = epoch
        value, error = row[self.metric], row[f"{self.metric}_se"]
        losses = f"loss {row['train_loss']:.4f} in training, {row['valid_loss']:.4f} in validation"
        return f"epoch {epoch} of {self.total}: {self.metric} {value:.4f} +- {error:.4f}, {losses}"


def report(prefix: str, counter: Epochs | None, epoch: int, row: dict[str, float]) -> None:
    """Log an epoch, and record it where an experiment runs; without a counter it is what an ensemble has come to."""
    prefix = _inside.get() + prefix
    every = ", ".join(f"{k} {v:.5f}" for k, v in row.items())
    words = f"epoch {epoch}: {every}" if counter is None else counter.brief(epoch, row)
    logger.info(f"{prefix}epoch {epoch}: {every}", extra=progress.brief(f"  {prefix}{words}"))
    record_epoch(prefix, epoch, row)


def record_epoch(prefix: str, epoch: int, row: Mapping[str, float]) -> None:
    """Record an epoch's numbers where an experiment runs, and tell a listener, see `hearing`."""
    if (listener := _listener.get()) is not None:
        listener(prefix, epoch, row)
    if recording():
        log_finite(R, {f"{prefix}{name}": value for name, value in row.items()}, step=epoch)


def report_heads(prefix: str, heads: HeadWeights | None) -> None:
    """Log the weights of several heads, and record them where an experiment runs; nothing with one."""
    if heads is None:
        return
    prefix = _inside.get() + prefix
    logger.info(f"{prefix}{heads.in_words()}")
    if recording():
        weights = zip(heads.horizons, heads.weights, strict=True)
        log_finite(R, {f"{prefix}head_weight_{days}": weight for days, weight in weights})


def is_part() -> bool:
    """Whether what is trained is a part of an ensemble, see `inside`."""
    return bool(_inside.get())


def save_folds(**objects: Any) -> None:
    """Save frames as artifacts `folds/<name>.pkl` where an experiment runs; not those of a part of an ensemble."""
    if recording() and not is_part():
        R.save_objects(artifact_path="folds", **{f"{name}.pkl": value for name, value in objects.items()})
