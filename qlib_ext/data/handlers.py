"""qlib's handlers: the days that a configuration leaves out, the label's expression, the frames of the data."""

from typing import Any

import pandas as pd
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import get_callable_kwargs

from qlib_ext.data.segments import OPEN, bounds, plain_day
from qlib_ext.options import init_names, is_whole, tell
from qlib_ext.panel import LabelSpan, label_prices

DAYS = ("start_time", "end_time", "fit_start_time", "fit_end_time")


def dated_handler(handler: Any, segments: dict[str, Any]) -> Any:
    """Give a handler's configuration the days that it leaves out: those of the segments, fitted on train.

    `start_time` and `end_time` are the first and last day of all segments, `fit_start_time` and `fit_end_time` those of
    "train"; each only where the handler's class takes it, the configuration does not name it, and the end is not open.
    What is no configuration (a handler, a file's path) stays as it is; so does the configuration that came.
    """
    if not isinstance(handler, dict):
        return handler
    kwargs = dict(handler.get("kwargs") or {})
    kwargs |= {name: plain_day(f"handler: {name}", kwargs[name]) for name in DAYS if name in kwargs}
    if isinstance(kwargs.get("freq"), str) and kwargs["freq"] != "day":
        raise ValueError(
            f"DayDatasetH: the handler's freq is {kwargs['freq']!r}, but a sample is a trading day: leave it out"
        )
    every, train = [bounds(segment) for segment in segments.values()], bounds(segments.get("train", (None, None)))
    days = {"start_time": min(every)[0], "end_time": max(end for _, end in every)} if every else {}
    days |= {"fit_start_time": train[0], "fit_end_time": train[1]}
    taken = set(init_names(get_callable_kwargs(handler)[0])) - set(kwargs)
    return handler | {"kwargs": kwargs | {n: day for n, day in days.items() if n in taken and day not in OPEN}}


def tell_unlearnt(processors: Any) -> None:
    """Tell processors that a panel knows nothing of: those for learning, other than qlib's, which are of labels."""
    names = [type(one).__name__ for one in processors or ()]
    if set(names) - {"DropnaLabel", "CSZScoreNorm"}:
        tell(
            f"learn_processors ({', '.join(names)}) have no effect on models of qlib_ext: they learn from what "
            "infer_processors give and the raw label; move there what features need, use target and loss for labels"
        )


def label_expression(handler: Any) -> str | None:
    """Return the label's expression where the handler's loader tells it."""
    fields = getattr(getattr(handler, "data_loader", None), "fields", None)
    return str(fields["label"][0][0]) if isinstance(fields, dict) and "label" in fields else None


def label_days_of(pair: Any) -> LabelSpan | None:
    """Entry and reach as the user tells them, [entry, reach] or null.

    Raises: ValueError for anything but two whole numbers, 0 <= entry < reach.
    """
    if pair is None or isinstance(pair, LabelSpan):
        return pair
    right = isinstance(pair, list | tuple) and len(pair) == 2 and all(is_whole(day) for day in pair)
    if not right or not 0 <= pair[0] < pair[1]:
        raise ValueError(
            f"DayDatasetH: label_days is {pair!r}; it must be [entry, reach], whole days after the signal with "
            "0 <= entry < reach, such as [1, 2]."
        )
    return LabelSpan(*pair)


def horizons_of(days: Any) -> tuple[int, ...]:
    """Days of the labels beside the handler's, as the user lists them; none for null.

    Raises: ValueError for anything but rising whole numbers of at least 1.

    >>> horizons_of([1, 5, 10])
    (1, 5, 10)
    """
    if days is None:
        return ()
    right = isinstance(days, list | tuple) and len(days) > 0 and all(is_whole(day) and day >= 1 for day in days)
    if not right or list(days) != sorted(set(days)):
        raise ValueError(
            f"DayDatasetH: horizons is {days!r}; it must be a list of rising whole days from the entry, such as "
            "[1, 5, 10, 20], or null for the handler's label alone."
        )
    return tuple(int(day) for day in days)


def told_prices(handler: Any, label: str | None, days: LabelSpan | None) -> dict[int, str]:
    """Read the two prices of the label: days after d -> field, the entry first.

    Args:
        handler: may tell its label's expression.
        label: expression, as the user names it.
        days: entry and reach as the user names them: closes, of an expression that is not of the form of a return.

    Raises: ValueError where these say different things, where none says anything, or as `label_prices`.
    """
    own = label_expression(handler)
    if days is not None:
        expression, prices = label or own, {days.entry: "close", days.reach: "close"}
        if expression and _prices_or(expression, prices) != prices:
            raise ValueError(f"label_days={[*prices]}, closes, but the label is {expression!r}: drop label_days")
        return prices
    if label and own and label.replace(" ", "") != own.replace(" ", ""):
        raise ValueError(f"label={label!r} but the handler's label is {own!r}: drop the one, or change the other")
    if not (label or own):
        raise ValueError(
            "the handler cannot tell its label, and purging depends on it: give DayDatasetH(label='Ref($close, -2)/"
            "Ref($close, -1) - 1'), the expression that the label was made by, or label_days=[1, 2]"
        )
    return label_prices(str(label or own))


def _prices_or(expression: str, otherwise: dict[int, str]) -> dict[int, str]:
    """Read the prices of an expression; `otherwise` where it is of another form, for which there are label_days."""
    try:
        return label_prices(expression)
    except ValueError:
        return otherwise


def handler_frames(handler: Any, *, rows: bool = False) -> tuple[Any, pd.Series]:
    """Features of the inference data and the raw label of a handler, each by (datetime, instrument).

    Args:
        handler: that has its data.
        rows: take the features as `panel.PanelRows` where the handler of `qlib_ext.handler` holds them so, uncopied.

    Raises: ValueError where the handler dropped its raw data or has no label.
    """
    try:
        own = getattr(handler, "panel_rows", None) if rows else None
        feature = own if own is not None else handler.fetch(col_set="feature", data_key=DataHandlerLP.DK_I)
    except AttributeError as error:
        raise ValueError(
            "the handler holds no data (a dataset loaded from a recorder): call "
            'dataset.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_LS}) first'
        ) from error
    try:
        label = handler.fetch(col_set="label", data_key=DataHandlerLP.DK_R)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            "no raw label: give the handler a label, and set drop_raw: false (FastAlpha158 and FastAlpha360 keep the "
            "labels under drop_raw: true, qlib's own handlers do not)"
        ) from error
    return feature, label.iloc[:, 0]
