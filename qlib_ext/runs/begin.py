"""qlib started for a notebook: one line, no experiment, warnings only."""

import logging
import os
from pathlib import Path
from typing import Any

PROVIDER = "QLIB_EXT_PROVIDER_URI"
PROGRESS = "qlib.qlib_ext.progress"  # logger of the stages


def init(provider_uri: str | Path | None = None, *, logging_level: int = logging.WARNING, **options: Any) -> None:
    """Start qlib on a folder of A-share data, quietly; nothing is recorded unless you start an experiment.

    Over `qlib.init` it adds: the region of China, logs of warnings only, an error that names what the folder lacks, and
    the embedded, synthetic market where none is named (made on first use, under a minute).

    Args:
        provider_uri: qlib data folder; None: that of QLIB_EXT_PROVIDER_URI, else the embedded market.
        logging_level: of qlib's loggers and ours; logging.INFO tells of each epoch and step.
        options: of qlib.init.

    Raises: FileNotFoundError for a folder that holds no qlib data.

    >>> init(provider)
    >>> init("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: provider_uri is 'nowhere', which does not exist. ...
    """
    import qlib

    from qlib_ext.runs.qlib_init import check_folder
    from qlib_ext.runs.quiet import quieten
    from qlib_ext.synthetic import DEFAULT_PATH

    folder = Path(provider_uri or os.environ.get(PROVIDER) or DEFAULT_PATH).expanduser()
    check_folder(folder)
    qlib.init(**{"provider_uri": str(folder), "region": "cn", "logging_level": logging_level, **options})
    logging.getLogger(PROGRESS).setLevel(logging_level)
    quieten()
