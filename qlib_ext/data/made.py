"""A DayDatasetH in one call: the provider's universe and days, and what the documents recommend for the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

from qlib_ext.data.dataset import DayDatasetH
from qlib_ext.options import argument_names, check_choice, refuse_unknown, signature_with
from qlib_ext.panel import FIVE_DAY_LABEL

FEATURES: dict[str, tuple[str, dict[str, Any]]] = {  # -> handler and its options
    "alpha158": ("FastAlpha158", {}),
    "alpha360": ("FastAlpha360", {}),
    "daily": ("FastDaily", {}),
    "alpha158+daily": ("FastDaily", {"with_alpha158": True, "exclude": ["survivor"]}),
}
Days = Sequence[Any]  # first and last day


def day_dataset(
    universe: str | Sequence[str] = "all",
    *,
    train: Days,
    valid: Days,
    test: Days,
    features: str = "alpha158+daily",
    factors: Mapping[str, str] | None = None,
    frames: Any = None,
    label: str = FIVE_DAY_LABEL,
    processors: Sequence[Any] = ({"class": "CSNormalise", "module_path": "qlib_ext.processor"},),
    **options: Any,
) -> DayDatasetH:
    """Load a data set of the provider that qlib was started on, as the workflows configure it.

    Args:
        universe: a market of the provider (all, csi300, ...), or codes.
        train: first and last day to learn from.
        valid: first and last day to stop and select on; the forecast is learnt on them too.
        test: first and last day to judge; None as a last day: of the data.
        features: alpha158, alpha360, daily (the factors of `features.DAILY`), or both without those that data of
            survivors flatter, alpha158+daily.
        factors: more features, name -> expression, as of FastAlpha158.
        frames: files of factors of your own, as of FastAlpha158.
        label: expression of a raw return; by default of five days from the next close (docs/study.md).
        processors: of the features, qlib's or ours; by default each day's cross-section is centred and scaled.
        options: of DayDatasetH.

    Raises: TypeError, ValueError as DayDatasetH and the handlers do, before anything is loaded where that can be told.

    >>> data = day_dataset("all", train=["2020-02-03", "2020-04-30"], valid=["2020-05-06", "2020-05-29"],
    ...     test=["2020-06-01", "2020-06-22"], features="daily", step_len=2)
    >>> len(data.panel.features) > 50, data.panel.x.shape[1]
    (True, 12)
    """
    check_choice("features", features, FEATURES)
    own = [name for name in argument_names(DayDatasetH) if name not in ("handler", "segments", "label")]
    refuse_unknown("day_dataset", options, own)
    handler, kwargs = FEATURES[features]
    kwargs = kwargs | {"instruments": universe if isinstance(universe, str) else list(universe)}
    kwargs |= {"infer_processors": list(processors), "learn_processors": [], "drop_raw": True}
    kwargs |= {name: value for name, value in (("factors", factors), ("frames", frames)) if value is not None}
    kwargs["label"] = ([label], ["LABEL0"])
    config = {"class": handler, "module_path": "qlib_ext.handler", "kwargs": kwargs}
    segments = {"train": list(train), "valid": list(valid), "test": list(test)}
    return DayDatasetH(handler=config, segments=segments, **options)


day_dataset.__signature__ = signature_with(  # type: ignore[attr-defined]
    day_dataset, DayDatasetH, drop=("label", "fetch_kwargs")
)
