"""FastAlpha158, FastAlpha360: qlib's handlers, the same numbers in a small part of the time. FastDaily: more factors.

In YAML: `class: FastAlpha158, module_path: qlib_ext.handler`, with the arguments of qlib's Alpha158 (Alpha360) and
`factors`, more of them by expression. The raw fields are read once a stock through qlib's storage and the factors
computed straight into the one array that the frame then shows without a copy. Whatever this path does not serve goes
through qlib's own loader, with a notice: numba missing, another frequency than "day", inst_processors, a feature set
that does not begin with one of the two; and labels that are no raw simple return (see `panel.label_prices`).

FastDaily has the factors of `features.DAILY` behind the same arguments, with or without Alpha158 in front of them, in
the same one array; qlib has no expressions for them, so what is not served is an error.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.contrib.data.handler import Alpha158, Alpha360
from qlib.contrib.data.loader import Alpha158DL, Alpha360DL
from qlib.data import D
from qlib.data import filter as filters
from qlib.data.data import Cal, DatasetProvider, ExpressionD, FeatureD
from qlib.data.dataset.handler import DataHandlerLP
from qlib.data.dataset.loader import QlibDataLoader
from qlib.data.storage.file_storage import FileFeatureStorage
from qlib.log import TimeInspector, get_module_logger
from qlib.utils import code_to_fname

from qlib_ext.features import factors as alpha
from qlib_ext.features.daily import DAILY_FIELDS, DAILY_LEAD, chosen, fill_daily
from qlib_ext.features.daily_table import DAILY_NAMES
from qlib_ext.features.frame_loader import OwnFactors, beside
from qlib_ext.features.kernels import Float32
from qlib_ext.features.processor import CSNormalise
from qlib_ext.features.storage import FrameRows
from qlib_ext.frames import Frame
from qlib_ext.options import argument_names, check_choice, check_flag, enough_memory, refuse_unknown
from qlib_ext.panel import DEFAULT_LABEL, PanelRows, label_prices
from qlib_ext.provider import ages, filled_days, first_known, listed_from, listings, read_series, traded_closes

logger = get_module_logger("qlib_ext.handler")

LABEL = DEFAULT_LABEL  # of qlib's handlers
_CLOSE, _VOLUME = alpha.FIELDS.index("close"), alpha.FIELDS.index("volume")


class FastAlphaLoader(QlibDataLoader):
    """QlibDataLoader that computes the Alpha158 or Alpha360 features itself; arguments as for QlibDataLoader.

    The rows, index and columns are qlib's; the values are float32 and agree as `qlib_ext.features` tells. A row stands
    for a day within the span of a stock's own six fields: a label of fields that span more days adds none. Factors of
    `frames` (see `FrameLoader`) are the last of the features.

    Args:
        config: as of QlibDataLoader.
        daily: names of the factors of `features.DAILY` that come behind those of Alpha158, where these are there.
        frames: options of `frames.Frame`, or a list of them.
        options: as of QlibDataLoader.
    """

    daily: tuple[str, ...] = ()  # of loaders in older pickles
    frames: Sequence[Frame] = ()

    def __init__(self, config: Any, *, daily: Sequence[str] = (), frames: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.daily, self.frames = tuple(daily), Frame.of(frames)

    @enough_memory("take a smaller universe, fewer years or fewer factors, or a larger machine")
    def load(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Load the frame (datetime, instrument) x (group, name) of the instruments, from start to end."""
        names, days, reason = self._plan(start_time, end_time)
        if reason:
            if self.daily:
                raise ValueError(f"FastDaily cannot be computed: {reason}")
            logger.warning(f"qlib's own loader is used, the fast one does not serve this: {reason}")
            return self._with_own(super().load(instruments, start_time, end_time))
        frame: pd.DataFrame = self._rows(self._spans(instruments, days), names, days)
        return frame

    @enough_memory("take a smaller universe, fewer years or fewer factors, or a larger machine")
    def load_rows(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> FrameRows | None:
        """Load the same laid out as a panel has it; None where that is not served."""
        names, days, reason = self._plan(start_time, end_time)
        if reason:
            return None
        rows: FrameRows = self._rows(self._spans(instruments, days), names, days, laid_out=True)
        return rows

    def _plan(self, start_time: Any, end_time: Any) -> tuple[tuple[str, ...], pd.DatetimeIndex, str]:
        """Names of the factors to compute and the days, and the reason where it cannot be."""
        names, reason = self._served()
        days = pd.DatetimeIndex([] if reason else D.calendar(start_time, end_time, freq="day"))
        return names, days, reason or ("" if len(days) else "no trading day")

    def _spans(self, instruments: Any, days: pd.DatetimeIndex) -> dict[str, Any]:
        """Codes of the instruments, in order, -> spans of membership, or None for always."""
        market = "all" if instruments is None else instruments
        if isinstance(market, str):
            market = D.instruments(market, filter_pipe=self.filter_pipe)
        spans = DatasetProvider.get_instruments_d(market, "day")
        spans = spans if isinstance(spans, dict) else dict.fromkeys(spans)
        if not spans:
            raise _empty([], days)
        return dict(sorted(spans.items()))

    def _with_own(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Add the factors of `frames` to a frame that has none."""
        if not self.frames:
            return frame
        index: Any = frame.index
        own = beside(None, OwnFactors(self.frames, frame["feature"]), index)
        rest = [column for column in frame.columns if column[0] != "feature"]
        return pd.concat([frame[["feature"]], own, frame[rest]], axis=1)

    def _served(self) -> tuple[tuple[str, ...], str]:
        """Names of the factors to compute, or () and the reason why not."""
        group = self.fields["feature"] if self.is_group and next(iter(self.fields)) == "feature" else ((), ())
        for names, config in ((alpha.ALPHA158_NAMES, Alpha158DL), (alpha.ALPHA360_NAMES, Alpha360DL)):
            if [list(column[: len(names)]) for column in group] == [*config.get_feature_config()]:
                break
        else:
            if not self.daily:
                return (), "the features are not those of Alpha158 or Alpha360"
            names = ()
        if self.freq != "day" or self.inst_processors or not self.swap_level:
            return (), f"freq={self.freq!r}, inst_processors={self.inst_processors!r}, swap_level={self.swap_level!r}"
        if not hasattr(FeatureD, "backend_obj"):
            return (), "the feature provider has no local storage"
        try:
            alpha.require_numba()
        except ImportError as error:
            return (), str(error)
        return names, ""

    def _rows(
        self, spans: dict[str, Any], names: tuple[str, ...], days: pd.DatetimeIndex, *, laid_out: bool = False
    ) -> Any:
        """Frame of the stocks in `spans`: code, in order, -> spans of membership, or None for always; or FrameRows."""
        begin = Cal.locate_index(days[0], days[-1], freq="day", future=False)[2]
        returns = {group: _returns(self.fields[group][0]) for group in list(self.fields)[1:]}
        ahead = max((day for some in returns.values() for ends in some or () for day in ends), default=0)
        codes, lead = list(spans), DAILY_LEAD if self.daily else alpha.LEAD
        fields = DAILY_FIELDS if self.daily else alpha.FIELDS
        whole, first, last, odd, known = read_bars(codes, begin - lead, lead + len(days) + ahead, fields)
        bars = whole[: len(alpha.FIELDS), :, lead - alpha.LEAD :]
        wanted = _wanted(spans, days, first - lead, last - lead)
        if not wanted.any():
            raise _empty(codes, days)
        index = _index(wanted, days, codes)
        own = OwnFactors(self.frames, (*self.fields["feature"][1], *self.daily))
        every = [*names, *self.daily, *self.fields["feature"][1][len(names) :], *own.names]
        held = _Held(index, every, [(group, name) for group in returns for name in self.fields[group][1]], laid_out)
        rows = np.full(wanted.shape, -1, dtype=np.int64)
        rows.T[wanted.T] = held.at
        if names:
            extra, begins = -np.ones((len(spans), ahead), dtype=np.int64), np.maximum(first - (lead - alpha.LEAD), 0)
            alpha.fill(held.feature, bars, begins, np.hstack([rows, extra]), names)
        if self.daily:
            bars_of = {"codes": codes, "names": self.daily} | _around(spans, begin, lead, len(days), known)
            daily = held.feature[:, len(names) :]
            fill_daily(daily, whole[:, :, : lead + len(days)], rows, **bars_of)
            _tell_lacking(self.daily, daily, held.at, whole)
        place = len(names) + len(self.daily)
        if len(every) > place:
            rest: Float32 = np.empty((len(index), len(every) - place), dtype=np.float32)
            self._by_qlib("feature", len(names), spans, days, index, rest)
            own.fill(rest[:, rest.shape[1] - len(own.names) :], index)
            held.feature[held.at, place:] = rest
        place = 0
        for group, ends in returns.items():
            for number, prices in enumerate(ends or ()):
                held.other[:, place + number] = _forward(bars, prices, len(days)).T[wanted.T]
            if ends is None and self.fields[group][0]:
                logger.warning(f"qlib's own loader is used for {group}, no raw simple return: {self.fields[group][0]}")
                self._by_qlib(group, 0, spans, days, index, held.other[:, place:])
            place += len(self.fields[group][1])
        if odd.any():
            strange = {codes[n]: spans[codes[n]] for n in np.flatnonzero(odd)}
            apart = {*own.names, *self.daily}
            theirs = np.flatnonzero([name not in apart for name in every])
            self._by_qlib_too(held, theirs, strange, days, index, np.flatnonzero(odd[np.nonzero(wanted.T)[1]]))
        return held.rows()

    def _by_qlib(
        self, group: str, skip: int, spans: dict[str, Any], days: pd.DatetimeIndex, index: pd.MultiIndex, out: Float32
    ) -> None:
        """Write qlib's values of a group's expressions, the first ones skipped, into the leading columns of `out`."""
        expressions, names = (part[skip:] for part in self.fields[group])
        if not expressions:
            return
        frame = _by_qlib({group: (expressions, names)}, spans, days).reindex(index)
        out[:, : len(names)] = frame.to_numpy(dtype=np.float32)
        if nothing := [str(name) for name, values in frame[group].items() if values.isna().all()]:
            logger.warning(f"{nothing} are NaN everywhere: does the provider have the fields that they name?")

    def _by_qlib_too(
        self, held: "_Held", theirs: Any, spans: dict[str, Any], days: pd.DatetimeIndex, index: Any, rows: Any
    ) -> None:
        """Write qlib's values of stocks whose fields differ in length into their rows and the columns of qlib's own."""
        logger.info(f"{len(spans)} stocks whose fields differ in length are computed by qlib: {[*spans][:6]}")
        values = _by_qlib(self.fields, spans, days).reindex(index[rows]).to_numpy(np.float32)
        held.feature[np.ix_(held.at[rows], theirs)] = values[:, : len(theirs)]
        held.other[rows] = values[:, len(theirs) :]


class _Held:
    """Where the values of a frame are written: one array, or the features as a panel has them.

    Attributes:
        feature: (>= R, F) float32.
        at: (R,) its rows that are rows of the frame.
        other: (R, L) float32, the columns of other groups.
    """

    def __init__(
        self, index: pd.MultiIndex, features: Sequence[str], other: Sequence[tuple[str, str]], laid_out: bool
    ) -> None:
        self._index, self._columns = index, [*(("feature", name) for name in features), *other]
        count, self._laid_out = len(features), PanelRows(index, features) if laid_out else None
        self._values = np.empty((len(index), len(other) + (0 if laid_out else count)), dtype=np.float32)
        if self._laid_out is None:
            self.feature, self.other, self.at = self._values[:, :count], self._values[:, count:], np.arange(len(index))
        else:
            self.feature, self.other, self.at = self._laid_out.x.reshape(-1, count), self._values, self._laid_out.cells

    def rows(self) -> Any:
        """Give the frame, a view, or FrameRows."""
        kept = self._columns[len(self._columns) - self._values.shape[1] :]
        frame = pd.DataFrame(self._values, self._index, pd.MultiIndex.from_tuples(kept), copy=False)
        if self._laid_out is None:
            return frame
        return FrameRows(self._laid_out, frame, self._columns[: -len(kept)])


class _FastLoading(DataHandlerLP):
    """Stands between a handler of qlib's and its base: a FastAlphaLoader by the loader's configuration, `drop_raw`."""

    NAMES: tuple[str, ...]  # of the handler's own factors
    _data: pd.DataFrame
    _infer: Any
    _learn: Any
    _daily: tuple[str, ...] = ()

    def __init__(
        self,
        *args: Any,
        data_loader: Any = None,
        factors: Mapping[str, str] | None = None,
        frames: Any = None,
        **kwargs: Any,
    ) -> None:
        config = data_loader["kwargs"]["config"]
        expressions, names = config["feature"]
        self.check_options(factors=factors, label=config["label"])
        config["feature"] = [*expressions, *(factors or {}).values()], [*names, *(factors or ())]
        loader = FastAlphaLoader(**data_loader["kwargs"], daily=self._daily, frames=frames)
        super().__init__(*args, data_loader=loader, **kwargs)

    def __repr__(self) -> str:
        """Universe and days; loads nothing."""
        days = f"{str(self.start_time)[:10]} to {str(self.end_time)[:10]}"
        return f"{type(self).__name__}({self.instruments!r}, {days})"

    @classmethod
    def check_options(
        cls, factors: Any = None, label: Any = None, filter_pipe: Any = None, frames: Any = None, **_others: Any
    ) -> None:
        """Look at factors, label, filters, own files before anything is loaded.

        Raises: ValueError or TypeError for what qlib refuses, and for files that are not understood.
        """
        named = isinstance(factors or {}, Mapping)
        if not named or not all(isinstance(text, str) for text in (factors or {}).values()):
            raise ValueError(f"factors is {factors!r}; wanted are names and expressions, {{TURN20: $volume/Mean(...)}}")
        if twice := sorted({*cls.NAMES} & {*(factors or ())}):
            raise ValueError(f"factors has {', '.join(twice)}, which the handler has already; give another name")
        labels = {} if label is None else _label_parts(label)
        for what, parts in (("factors", factors or {}), ("label", labels)):
            for name, text in parts.items():
                try:
                    ExpressionD.get_expression_instance(text)
                except (NameError, SyntaxError, TypeError, AttributeError) as error:
                    raise ValueError(f"{what}: {name} is {text!r}, no expression of qlib's: {error}") from error
        OwnFactors(Frame.of(frames), [*cls.NAMES, *(factors or ())])
        for number, config in enumerate(filter_pipe or ()):
            if isinstance(config, dict):
                _check_filter(f"filter_pipe[{number}]", config)

    def setup_data(self, init_type: str = DataHandlerLP.IT_FIT_SEQ, **kwargs: Any) -> None:
        """Set up as qlib does; with `drop_raw` and CSNormalise alone in the array that a panel will show."""
        rows = None
        if self._held_once and init_type in (self.IT_FIT_SEQ, self.IT_FIT_IND, self.IT_LS):
            with TimeInspector.logt("Loading data"):
                rows = self.data_loader.load_rows(self.instruments, self.start_time, self.end_time)
        if rows is None:
            super().setup_data(init_type, **kwargs)
            return
        with TimeInspector.logt("CSNormalise"):
            self.infer_processors[0].in_place(rows.rows)
        self._infer = self._learn = rows
        self._data = rows.label

    @property
    def _held_once(self) -> bool:
        """Whether nothing but CSNormalise stands between the loader and what is fetched: no class of a user's own."""
        own = type(self).__module__ == __name__ and type(self.data_loader) is FastAlphaLoader
        plain = [type(one) for one in self.infer_processors] == [CSNormalise] and not self.learn_processors
        plain = plain and not self.shared_processors and self.process_type == self.PTYPE_A
        whole = plain and self.infer_processors[0].fields_group == "feature"
        return own and self.drop_raw and whole and [*self.data_loader.fields] == ["feature", "label"]

    @property
    def panel_rows(self) -> PanelRows | None:
        """The features as a panel has them; None where the handler holds a frame."""
        held = getattr(self, "_infer", None)
        return held.rows if isinstance(held, FrameRows) else None

    def get_cols(self, col_set: Any = DataHandlerLP.CS_ALL, data_key: str = DataHandlerLP.DK_I) -> list[Any]:
        """Names of the columns of a set."""
        held = self._get_df_by_key(data_key)
        return [*held.columns_of(col_set)] if isinstance(held, FrameRows) else super().get_cols(col_set, data_key)

    def _fetch_data(self, data_storage: Any, *args: Any, **kwargs: Any) -> Any:
        """Fetch as qlib does, with a user's `proc_func` too, which wants a frame."""
        if isinstance(data_storage, FrameRows) and kwargs.get("proc_func") is not None:
            data_storage = data_storage.fetch(col_set=self.CS_RAW)
        return super()._fetch_data(data_storage, *args, **kwargs)

    def process_data(self, with_fit: bool = False) -> None:
        """Process as qlib does; with `drop_raw` the raw labels are kept, which take little and which records need."""
        label = self._data["label"].copy() if self.drop_raw and "label" in self._data else None
        super().process_data(with_fit=with_fit)
        if label is not None:
            self._data = pd.concat({"label": label}, axis=1)

    def _get_df_by_key(self, data_key: str = DataHandlerLP.DK_I) -> pd.DataFrame:
        """Give the frame of a key; qlib refuses DK_R after `drop_raw`, here it holds the labels."""
        if data_key == self.DK_R and hasattr(self, "_data"):
            return self._data
        return super()._get_df_by_key(data_key)


def _check_filter(where: str, config: dict[str, Any]) -> None:
    """Check the configuration of a filter of qlib's, which wants each of its keys."""
    name = str(config.get("filter_type"))
    check_choice(f"{where}: filter_type", name, ("NameDFilter", "ExpressionDFilter"))
    kind = getattr(filters, name)
    known = list(kind(".").to_config())
    refuse_unknown(where, config, known)
    if missing := [key for key in known if key not in config]:
        raise ValueError(f"{where} lacks {', '.join(missing)}; a {name} has {', '.join(known)} (null: no such day)")
    try:
        kind.from_config(config)
        re.compile(str(config.get("name_rule_re", "")))
        ExpressionD.get_expression_instance(str(config.get("rule_expression", "$close")))
    except (re.error, NameError, SyntaxError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where} is {config}: {error}") from error


class _Strict:
    """Stands before a handler of qlib's, which would pass a misspelt argument on to its base."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = [name for name in argument_names(*type(self).__mro__) if name != "data_loader"]
        refuse_unknown(type(self), kwargs, (*names, "label"))
        super().__init__(*args, **kwargs)


class FastAlpha158(_Strict, Alpha158, _FastLoading):
    """qlib's Alpha158, quick; the same arguments (`label` and the other keyword arguments included), and three more.

    Args:
        frames: files of factors of one's own, options of `frames.Frame` or a list of them: the last of the features.
        factors: more features, name -> expression of qlib's, such as {"TURN20": "$volume/Mean($volume, 20)"}. What
            expressions cannot say is an operator in Python: a class named to qlib by `custom_ops` (see qlib.init).
        drop_raw: the raw features go once they are processed, half of the memory, and the raw labels stay: `label.pkl`
            and all of qlib_ext need no more of DK_R. With CSNormalise alone, no frame is made: a panel shows the array.
            (qlib's own handler drops the labels too: no label, no analysis.)

    Raises:
        TypeError: an unknown argument, with the close ones.
        ValueError: a factor by the name of one that is there.

    >>> handler = FastAlpha158(instruments="all", factors={"TURN20": "$volume/Mean($volume, 20)"})
    >>> handler.fetch(col_set="feature").shape[1]
    159
    """

    NAMES = alpha.ALPHA158_NAMES


class FastAlpha360(_Strict, Alpha360, _FastLoading):
    """qlib's Alpha360, quick; the same arguments, `frames`, `factors` and `drop_raw` as of FastAlpha158.

    Raises: as FastAlpha158.

    >>> handler = FastAlpha360(instruments="all", start_time="2020-05-06", infer_processors=[], learn_processors=[])
    >>> handler.fetch(col_set="feature").columns[-1]
    'VOLUME0'
    """

    NAMES = alpha.ALPHA360_NAMES


class FastDaily(_Strict, Alpha158, _FastLoading):
    """Factors of daily bars that Alpha158 lacks (docs/factors.md); arguments as of FastAlpha158, and three more.

    The mean stock, which some factors look at, is that of `instruments` on each day, members of that day only.

    Args:
        with_alpha158: the 158 factors of Alpha158 come first, in the same frame.
        groups: of factors to have (see `features.GROUPS`); None: all.
        exclude: groups or factors to leave out. `[survivor]` are those that data without the delisted stocks flatter:
            listing age, price level, limit days.

    Raises: as FastAlpha158; ValueError for a group or factor that is not there, or where factors cannot be computed
        (no numba, another frequency, inst_processors).

    >>> handler = FastDaily(instruments="all", exclude=["survivor"], with_alpha158=True)
    >>> [name for name in handler.fetch(col_set="feature").columns if name in ("KMID", "AMIHUD20", "AGE")]
    ['KMID', 'AMIHUD20']
    """

    NAMES = (*alpha.ALPHA158_NAMES, *DAILY_NAMES)

    def __init__(
        self,
        *args: Any,
        with_alpha158: bool = False,
        groups: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        **kwargs: Any,
    ) -> None:
        check_flag("FastDaily: with_alpha158", with_alpha158)
        self._daily, self._alpha = chosen(groups, exclude), with_alpha158
        super().__init__(*args, **kwargs)

    @classmethod
    def check_options(
        cls, factors: Any = None, label: Any = None, filter_pipe: Any = None, frames: Any = None, **others: Any
    ) -> None:
        """Look at the groups too, see FastAlpha158."""
        chosen(others.get("groups"), others.get("exclude", ()))
        check_flag("FastDaily: with_alpha158", others.get("with_alpha158", False))
        super().check_options(factors, label, filter_pipe, frames)

    def get_feature_config(self) -> Any:
        """Expressions and names that come before the factors of daily bars: Alpha158's, or none."""
        return super().get_feature_config() if self._alpha else ([], [])


def _empty(codes: list[str], days: pd.DatetimeIndex) -> ValueError:
    span = f"{days[0].date()} to {days[-1].date()}"
    return ValueError(
        f"instruments: {len(codes)} codes {codes[:3]} have no bar from {span}: name a list of the provider's, "
        "or codes such as SH600000, and days on which they trade"
    )


def _label_parts(label: Any) -> dict[str, str]:
    """Expression of each label by name, from the forms that qlib takes; ValueError for any other."""
    pair = isinstance(label, list | tuple) and len(label) == 2 and all(isinstance(part, list | tuple) for part in label)
    texts, names = label if pair else (label, label)
    listed = isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in [*texts, *names])
    if not listed or len(texts) != len(names) or len(set(names)) < len(names):
        raise ValueError(
            f"label is {label!r}; wanted are expressions and as many names, each once: [[{LABEL}], [LABEL0]]"
        )
    return dict(zip(names, texts, strict=True))


def _by_qlib(
    fields: Mapping[str, tuple[Sequence[str], Sequence[str]]], spans: dict[str, Any], days: pd.DatetimeIndex
) -> pd.DataFrame:
    """Frame of the fields, group -> (expressions, names), by qlib's own engine."""
    instruments, frames = list(spans) if None in spans.values() else spans, {}
    for group, (expressions, names) in ((group, both) for group, both in fields.items() if both[0]):
        frame = D.features(instruments, list(expressions), days[0], days[-1], freq="day")
        frame.columns = list(names)
        frames[group] = frame.swaplevel().sort_index()
    return pd.concat(frames, axis=1)


def _returns(expressions: Sequence[str]) -> list[dict[int, str]] | None:
    """Entry and exit of each label (see `panel.label_prices`), None where one of them is no raw simple return."""
    try:
        return [label_prices(expression) for expression in expressions]
    except ValueError:
        return None


def _forward(bars: Float32, prices: dict[int, str], days: int) -> Float32:
    """Compute a label of N stocks and D days, (N, D), in float32 as qlib does; `bars` as from `read_bars`."""
    entry, reach = (
        bars[alpha.FIELDS.index(field), :, alpha.LEAD + day : alpha.LEAD + day + days] for day, field in prices.items()
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(reach / entry - 1)


def _around(spans: dict[str, Any], begin: int, lead: int, days: int, known: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Give `fill_daily` what it wants beside the bars, from `lead` rows before the first day on."""
    every = pd.DatetimeIndex(D.calendar(freq="day"))[max(begin - lead, 0) : begin + days]
    member = np.zeros((len(spans), lead + days), dtype=np.bool_)
    always = np.zeros(len(spans), dtype=np.int64)
    member[:, -len(every) :] = _wanted(spans, every, always, always + len(every))
    listed = listed_from(list(spans), known) if len(known) else listings(list(spans))[0]
    rows = np.arange(begin - lead, begin + days)
    age = np.where(rows >= 0, ages(listed, rows).T, np.nan)  # before the calendar no day is known, and no halt
    return {"days": every, "member": member, "age": age}


def _tell_lacking(names: Sequence[str], values: Float32, rows: npt.NDArray[np.int64], bars: Float32) -> None:
    """Warn of columns that are NaN in all `rows` of `values` as the provider lacks a field of `DAILY_FIELDS`."""
    lacking = [f"${f}" for f, grid in zip(DAILY_FIELDS, bars, strict=True) if f != "vwap" and np.isnan(grid).all()]
    nothing = [name for name, column in zip(names, values.T, strict=False) if lacking and np.isnan(column[rows]).all()]
    if nothing:
        logger.warning(f"without {', '.join(lacking)} these are NaN everywhere, exclude them: {', '.join(nothing)}")


def read_bars(
    codes: list[str], begin: int, length: int, fields: Sequence[str] = alpha.FIELDS
) -> tuple[Float32, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Read the six raw fields of N stocks, and others behind them, through qlib's storage, once each.

    Args:
        codes: N codes.
        begin: position in the calendar of the first row; below 0 such rows are NaN.
        length: P, rows to read.
        fields: those of Alpha158 first.

    Returns:
        bars (fields, N, P) float32, NaN where not known or (the six) not traded (`filled_days`); the first and the last
        row (N,) of each series of the six within it, P and -1 where it has none; (N,) True where the six fields of a
        stock do not share one span (or there is no close); with other fields the calendar's position of the first
        traded close (N,), none where the storage is not read whole.
    """
    six, end, every = len(alpha.FIELDS), begin + length, len(D.calendar(freq="day"))
    bars = np.full((len(fields), len(codes), length), np.nan, dtype=np.float32)
    first, last = np.full(len(codes), length, dtype=np.int64), np.full(len(codes), -1, dtype=np.int64)
    odd = np.zeros(len(codes), dtype=np.bool_)
    read, whole = _reader(codes[0] if codes else "", fields)
    known = np.full(len(codes) if whole and len(fields) > six else 0, every, dtype=np.int64)
    for n, code in enumerate(codes):
        ends, priced, series = [], False, read(code, max(begin, 0), end)
        for f, (start, values) in enumerate(series):
            low, high = max(start, begin), min(start + len(values), end)
            if low < high:
                bars[f, n, low - begin : high - begin] = values[low - start : high - start]
                priced |= f == _CLOSE
                if f < six:
                    ends.append((low - begin, high - begin - 1))
        if len(known):
            known[n] = first_known(*traded_closes(series[_CLOSE], series[_VOLUME]), every)
        if ends:
            first[n], last[n] = min(a for a, _ in ends), max(b for _, b in ends)
            odd[n] = len(set(ends)) > 1 or not priced
    bars[:six, filled_days(bars[_CLOSE].T, bars[_VOLUME].T).T] = np.nan
    return bars, first, last, odd, known


def _reader(
    code: str, fields: Sequence[str]
) -> tuple[Callable[[str, int, int], list[tuple[int, npt.NDArray[np.float32]]]], bool]:
    """Choose how to read (code, begin, end) by the storage of `code`: qlib's binary files directly, others by slices.

    The reader gives each field's values, with the calendar's position of the first: all of them (True), or those within
    the positions [begin, end) (False).
    """
    sample = FeatureD.backend_obj(instrument=code_to_fname(code), field="close", freq="day")

    def slices(code: str, begin: int, end: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
        name = code_to_fname(code)
        parts = [FeatureD.backend_obj(instrument=name, field=f, freq="day")[begin:end] for f in fields]
        return [(int(s.index[0]) if len(s) else 0, s.to_numpy(np.float32)) for s in parts]

    if type(sample) is not FileFeatureStorage:
        return slices, False
    root = sample.uri.parents[1]

    def files(code: str, begin: int, end: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
        folder = f"{root}/{code_to_fname(code).lower()}"  # a Path takes as long as the reading
        return [read_series(f"{folder}/{field}.day.bin") for field in fields]

    return files, True


def _wanted(
    spans: dict[str, Any], days: pd.DatetimeIndex, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Tell (N, D) which rows the frame has: within the stock's series and within one of its spans of membership."""
    number = np.arange(len(days))
    wanted = (number >= first[:, None]) & (number <= last[:, None])
    some = [(n, *span) for n, spells in enumerate(spans.values()) for span in spells or ()]
    starts, ends = (pd.DatetimeIndex([span[k] for span in some]) for k in (1, 2))
    inside = np.zeros(wanted.shape, dtype=np.bool_)
    inside[[n for n, spells in enumerate(spans.values()) if spells is None]] = True
    for (n, *_), begin, end in zip(some, days.searchsorted(starts), days.searchsorted(ends, side="right"), strict=True):
        inside[n, begin:end] = True
    return wanted & inside


def _index(wanted: npt.NDArray[np.bool_], days: pd.DatetimeIndex, codes: list[str]) -> pd.MultiIndex:
    """Index (datetime, instrument) of the wanted rows (N, D), sorted as its levels; no day or code without a row."""
    stocks, used = (np.flatnonzero(wanted.any(axis=axis)) for axis in (1, 0))
    levels: Any = [days[used], pd.Index(codes)[stocks]]
    places: Any = np.nonzero(wanted[np.ix_(stocks, used)].T)
    return pd.MultiIndex(levels, places, names=["datetime", "instrument"])
