"""A record that tells `progress` of its stage. Private to the records."""

from typing import Any

from qlib_ext import progress


class Staged:
    """Put before a record of qlib's: its `stage` is entered when it is generated."""

    stage: str

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Enter the stage; then as qlib does."""
        progress.stage(self.stage)
        return super().generate(*args, **kwargs)  # type: ignore[misc]
