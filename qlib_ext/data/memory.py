"""MTSDayDatasetH: a DayDatasetH for qlib's TRAModel, which trains on a MTSDatasetH alone."""

from qlib.contrib.data.dataset import MTSDatasetH

from qlib_ext.data.dataset import DayDatasetH


class MTSDayDatasetH(MTSDatasetH, DayDatasetH):
    """A MTSDatasetH whose market is also served as a DayPanel, so that our records judge what TRAModel predicts.

    Args:
        handler, segments, seq_len, horizon, num_states, memory_mode, batch_size, n_samples, shuffle, drop_last,
            input_size: as for qlib's MTSDatasetH.
        liquidity, listing_age, ...: as for DayDatasetH.

    In YAML: `class: MTSDayDatasetH, module_path: qlib_ext.data`.
    """
