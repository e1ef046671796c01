"""The file that a training leaves, from which a run of the same configuration goes on.

It is read without running any code in it (`torch.load` with `weights_only`), and ends with a digest of what it holds.
"""

import hashlib
import io
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qlib_ext import ranks
from qlib_ext.beside import beside
from qlib_ext.options import tell
from qlib_ext.panel import DayPanel
from qlib_ext.training.device import generator_states, set_generator_states

FORMAT = "qlib_ext.trainer 2"
OLDER_FORMAT = "qlib_ext.trainer 1"  # its files have no digest
_SEAL = b"\nblake2b "  # before the digest
SHOWN = 60  # letters of a fact in an error


@dataclass(repr=False)
class History:
    """What every epoch did: rows of metrics, the best epoch (1-based) and the days left out as degenerate.

    `resumed_from` is the last epoch (1-based) that came from a checkpoint, 0 where there was none.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = -math.inf
    degenerate_days: int = 0
    resumed_from: int = 0

    def __repr__(self) -> str:
        """Count the epochs and name the best."""
        return f"History({len(self.epochs)} epochs, the best {self.best_epoch}: {self.best_value:.5f})"


@dataclass
class Run:
    """Everything that the next epoch depends on; `best` is the network's best state so far."""

    net: nn.Module
    scaler: nn.Module | None
    optimiser: torch.optim.Optimizer
    order: np.random.Generator
    device: torch.device
    history: History
    best: dict[str, Tensor]


class Checkpoint:
    """A file of one run.

    Args:
        path: of the file; its folder is made where it is missing.
        facts: what the run is, name -> text; another run's file is refused.

    Raises: ValueError for a folder.
    """

    def __init__(self, path: str, facts: Mapping[str, str]) -> None:
        self.path, self.facts = Path(path), dict(facts)
        if self.path.is_dir():
            raise ValueError(f"checkpoint={path!r} is a folder: name a file in it")
        if ranks.is_first():
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def save(self, run: Run) -> None:
        """Write the state of a network's training; of several ranks the first does."""
        if not ranks.is_first():
            return
        state = {
            "net": run.net.state_dict(),
            "scaler": None if run.scaler is None else run.scaler.state_dict(),
            "optimiser": run.optimiser.state_dict(),
            "order": json.dumps(run.order.bit_generator.state),
            "generators": generator_states(run.device),
            "best": run.best,
            "history": vars(run.history),
            "ranks": ranks.count(),
        }
        self.write(state)

    def write(self, content: Mapping[str, Any]) -> None:
        """Write tensors, numbers and texts; the file is the old one or the new one at any time, never half of it."""
        raw = io.BytesIO()
        torch.save({"format": FORMAT, "facts": self.facts, **content}, raw)  # a file would not tell of a full disk
        with beside(self.path) as partial, partial.open("wb") as file:
            file.write(raw.getbuffer())
            file.write(_SEAL + _seal_of(raw.getbuffer()))

    def load(self, run: Run) -> bool:
        """Put the run where the file left it; False where there is no file. All ranks go by the first one's file.

        Raises: ValueError as `read`.
        """
        content = ranks.of_first(self.read)
        if content is None:
            return False
        if (before := content.get("ranks", 1)) != ranks.count() and ranks.is_first():
            tell(
                f"{self.path} is of {before} ranks, now there are {ranks.count()}: the training goes on, with "
                f"{ranks.count()} x batch_days a step, where it had {before} x"
            )
        run.net.load_state_dict(content["net"])
        if run.scaler is not None:
            run.scaler.load_state_dict(content["scaler"])
        run.optimiser.load_state_dict(content["optimiser"])
        run.order.bit_generator.state = json.loads(content["order"])
        set_generator_states(content["generators"], run.device)
        run.best = content["best"]
        vars(run.history).update(content["history"])
        return True

    def remove(self) -> None:
        """Delete the file."""
        if ranks.is_first():
            self.path.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """Give what the file holds; None where there is no file.

        Raises: ValueError for a file that is no checkpoint, is damaged, or is of another run: what differs, the cure.
        """
        if not self.path.exists():
            return None
        cure = f"delete {self.path} or name another file (checkpoint: ...)"
        raw, mark, seal = self.path.read_bytes().rpartition(_SEAL)
        damaged = f"{self.path} is damaged, it does not hold what was written: {cure}"
        if mark and seal != _seal_of(raw):
            raise ValueError(damaged)
        try:
            content: Any = torch.load(io.BytesIO(raw if mark else seal), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{self.path} is no checkpoint of a training ({type(error).__name__}): {cure}") from error
        if not isinstance(content, dict) or content.get("format") not in (FORMAT, OLDER_FORMAT):
            raise ValueError(f"{self.path} is no checkpoint of this version's trainings: {cure}")
        if not mark and content["format"] == FORMAT:
            raise ValueError(damaged)
        if told := _differences(self.facts, content["facts"], "in the file"):
            raise ValueError(f"{self.path} is the checkpoint of another training: {told}. To start anew {cure}")
        return content


def check_file(checkpoint: Any) -> str | None:
    """Read the option `checkpoint`; ValueError for anything but a text."""
    if checkpoint is not None and (not isinstance(checkpoint, str) or not checkpoint):
        raise ValueError(f"checkpoint={checkpoint!r}; allowed: null, or the path of a file")
    return checkpoint


def facts_of(
    options: Mapping[str, Any],
    net: nn.Module | None,
    panel: DayPanel,
    train: npt.NDArray[Any],
    valid: npt.NDArray[Any],
    exposures: Sequence[str] = (),
) -> dict[str, str]:
    """Say what a training is: its options, network, days and data; lists have a line an item.

    The data are told by a digest of all that the days' labels, masks and money are made of, of the named exposures, and
    of the features of the first and the last training day. The network's first weights are not told: they come from the
    options.
    """
    shapes = [] if net is None else [f"{name} {tuple(value.shape)}" for name, value in net.state_dict().items()]
    return {
        **{name: str(value) for name, value in options.items()},
        **({} if net is None else {"network": "\n".join([repr(net), *shapes])}),
        "features": "\n".join(panel.features),
        "market features": "\n".join(panel.market_features),
        "training days": _days_words(panel, train),
        "validation days": _days_words(panel, valid),
        "stocks": "\n".join(map(str, panel.stocks)),
        "data (digest)": _digest(panel, train, valid, exposures),
    }


def _seal_of(raw: Any) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).hexdigest().encode()


def _days_words(panel: DayPanel, rows: npt.NDArray[Any]) -> str:
    days = panel.days[rows]
    digest = hashlib.blake2b(days.astype("datetime64[ns]").tobytes(), digest_size=4).hexdigest()
    return f"{len(days)}, {str(days[0])[:10]} to {str(days[-1])[:10]} ({digest})"


def _digest(panel: DayPanel, train: npt.NDArray[Any], valid: npt.NDArray[Any], exposures: Sequence[str]) -> str:
    loads = (panel.loads[name].grid for name in exposures)
    known = (panel.label, panel.present, panel.liquidity, panel.volatility, panel.buyable, panel.market, panel.labels)
    grids = [*known, *loads]
    rows, ends = torch.as_tensor(np.concatenate([train, valid])), torch.as_tensor(train[[0, -1]])
    tensors = [panel.x[ends.to(panel.x.device)], *(grid[rows.to(grid.device)] for grid in grids if grid is not None)]
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def check_ranks(facts: Mapping[str, str]) -> None:
    """Compare what each rank is about to train; all of them raise ValueError where one differs: which, in what."""
    every = ranks.gather(dict(facts))
    for number, other in enumerate(every):
        if told := _differences(every[0], other, f"on rank {number}", "on rank 0"):
            raise ValueError(
                f"rank {number} would train something else: {told}. Start all ranks with the same workflow, data, "
                "versions and environment"
            )


def _differences(ours: Mapping[str, str], others: Mapping[str, str], there: str, here: str = "here") -> str:
    """Say in what facts differ, the first three; "" where they do not."""
    wrong = [name for name in {**ours, **others} if ours.get(name) != others.get(name)]
    return "; ".join(_difference(name, ours.get(name), others.get(name), here, there) for name in wrong[:3])


def _difference(name: str, own: str | None, other: str | None, here: str, there: str) -> str:
    """Say the first line in which a fact differs, or that one of the two lacks it."""
    ours, its = ("not given" if fact is None else fact for fact in (own, other))
    places = zip(ours.splitlines(), its.splitlines(), strict=False)
    first = next(((a, b) for a, b in places if a != b), None)
    if first is None:
        return f"{name}: {len(ours.splitlines())} {here}, {len(its.splitlines())} {there}"
    return f"{name} is {first[0].strip()[:SHOWN]} {here}, {first[1].strip()[:SHOWN]} {there}"
