"""The DayDatasetH that records judge by, where a run trained on another data set of qlib's."""

from collections.abc import Mapping
from typing import Any

from qlib.data.dataset import DatasetH
from qlib.log import get_module_logger
from qlib.utils import init_instance_by_config

from qlib_ext.data.dataset import DayDatasetH
from qlib_ext.data.handlers import label_expression

logger = get_module_logger("qlib_ext.data")


def judging(dataset: Any, keep: Any = None) -> Any:
    """Return what scores are judged by: a DayDatasetH as it came, of another DatasetH one over its handler.

    Of a DatasetH, TSDatasetH or MTSDatasetH it has the defaults (liquidity: auto, ...), is made once, and shares the
    handler's data. What cannot tell its label, or is no data set, comes back as it came.

    Args:
        dataset: or a configuration, which is built.
        keep: object, such as the run's recorder, to keep what was built with: the next one asking for the same gets it.

    >>> from qlib.data.dataset import TSDatasetH
    >>> plain = TSDatasetH(handler=dataset.handler, segments=dataset.segments, step_len=2)
    >>> judging(plain).liquidity, judging(plain) is judging(plain), judging(dataset) is dataset
    ('auto', True, True)
    """
    if isinstance(dataset, Mapping):
        built = {} if keep is None else vars(keep).setdefault("_judging", {})
        if repr(dataset) not in built:
            built[repr(dataset)] = judging(init_instance_by_config(dataset))
        return built[repr(dataset)]
    if isinstance(dataset, DayDatasetH) or not isinstance(dataset, DatasetH):
        return dataset
    if label_expression(getattr(dataset, "handler", None)) is None:
        return dataset
    own: DayDatasetH | None = getattr(dataset, "_judging", None)  # qlib drops it from pickles
    if own is None:
        own = dataset._judging = DayDatasetH(handler=dataset.handler, segments=dataset.segments)
        logger.info(
            f"the run's {type(dataset).__name__} has no liquidity: its scores are judged by a DayDatasetH over the "
            "same handler, with its defaults (a record's option dataset: {class: DayDatasetH, ...} names another)"
        )
    return own
