"""How far a run has come: its stages, the steps within one, and what one line says of both."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LEAST = 0.02  # share of the steps that is done before a remaining time is told


@dataclass
class Way:
    """The stages of a run in their order, the present one, and the steps within it, the outermost first.

    >>> way = Way(["data", "training", "page"], clock=iter([0.0, 10.0]).__next__)
    >>> way.enter("training"), way.enter("training")
    (True, False)
    >>> way.step("epoch", 3, 12)
    >>> way.step("day", 50, 100)
    >>> way.words()
    '[2/3] training, epoch 3 of 12, day 50 of 100, up to 0:38 left'
    """

    plan: Sequence[str] = ()
    clock: Callable[[], float] = time.monotonic
    stage: str = ""
    about: str = ""
    number: int = 0  # of the stage in the plan, from 1; 0: it is not in it
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    _reached: int = 0
    _began: float = 0.0  # of the outermost step

    def enter(self, stage: str) -> bool:
        """Go on to a stage; False for the present one."""
        if stage == self.stage:
            return False
        ahead = [n for n, name in enumerate(self.plan, 1) if name == stage and n > self._reached]
        self.number = ahead[0] if ahead else 0
        self._reached = max(self._reached, self.number)
        self.stage, self.about, self.steps = stage, "", {}
        return True

    def do(self, about: str) -> None:
        """Begin with a part of the stage, whose steps are counted anew."""
        self.about, self.steps = about, {}

    def step(self, unit: str, number: int, total: int) -> None:
        """Count a step that begins, from 1: steps within a unit begin anew with each of it."""
        if not self.steps:
            self._began = self.clock()
        steps = self.steps
        units = list(steps)
        outer = units[: units.index(unit)] if unit in steps else units
        self.steps = {**{name: steps[name] for name in outer}, unit: (number, total)}  # a new one: threads read the old

    @property
    def title(self) -> str:
        """Name of the stage with its number."""
        return f"[{self.number}/{len(self.plan)}] {self.stage}" if self.number else self.stage

    def left(self) -> float | None:
        """Seconds that the stage's steps still take at their pace so far; None where it is too early to tell."""
        done = 0.0
        for number, total in reversed(self.steps.values()):
            done = (number - 1 + done) / max(total, 1)
        return (self.clock() - self._began) * (1.0 - done) / done if done >= LEAST else None

    def words(self) -> str:
        """Say in one line where the run is; an epoch may be the last, so that what is left of epochs is the most."""
        counted = [f"{unit} {number} of {total}" for unit, (number, total) in self.steps.items()]
        left = self.left()
        if left is not None:
            counted.append(f"{'up to ' if 'epoch' in self.steps else ''}{as_time(left)} left")
        return ", ".join(filter(None, [self.title, self.about, *counted]))


def as_time(seconds: float) -> str:
    """Write seconds as minutes, from an hour on as hours.

    >>> as_time(75.4), as_time(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
