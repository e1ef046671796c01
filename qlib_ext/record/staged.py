"""A record that tells `progress` of its stage. Private to the records."""

from contextlib import nullcontext
from typing import Any

from qlib_ext import progress


class Staged:
    """Put before a record of qlib's: its `stage` is entered when it is generated.

    What a run of the same task had finished before it was cut short is not done again, see `runs.kept`.
    """

    recorder: Any
    stage: str
    lasting = True  # what it writes is the same in another run

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Enter the stage; then as qlib does."""
        progress.stage(self.stage)
        once = getattr(self.recorder, "once", None) if self.lasting else None
        with nullcontext(False) if once is None else once(self) as done:
            return None if done else super().generate(*args, **kwargs)  # type: ignore[misc]
