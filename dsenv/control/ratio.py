"""HOW MUCH: the ratio of each interval; and no question at all."""

import numpy as np

from dsenv.control.base import Actions, Control, Decision, from_unit, spread, to_unit
from dsenv.control.state import TrainingState
from dsenv.errors import check_count, check_share

MOST_LEVELS = 1000


class RatioControl(Control):
    """HOW MUCH: the share of the data the next interval trains on; which samples is left to the selector.

    The action runs from the smallest ratio to 1; the budget clips it.

    Args:
        bins: B of the observation; the action does not depend on it.
        target: target ratio of the environment, (0, 1].
        minimum: smallest ratio of an interval, (0, 1]; no more than the target is ever asked of an interval.
        levels: number of ratios that a discrete action space offers, 2 to 1,000.
    """

    decides_how_much = True
    answer = "ratio"

    def __init__(self, bins: int, target: float, minimum: float = 0.1, levels: int = 9) -> None:
        del bins
        self.least = self.minimum = min(check_share("control.minimum", minimum), target)
        self.size, self.target, self.levels = 1, target, check_count("control.levels", levels, 2, MOST_LEVELS)
        self.names = (f"ratio of the interval, from {self.least:g} at -1 to 1 at 1",)

    def decode(self, actions: Actions) -> dict[str, Actions]:
        return {self.answer: self.least + (1 - self.least) * to_unit(actions)}

    def encode(self, ratio: float | Actions | None = None) -> Actions:  # type: ignore[override]
        wanted = spread(self.answer, self.target if ratio is None else ratio, 1, self.least, 1)
        room = max(1 - self.least, 1e-9)
        return from_unit((wanted - self.least) / room).clip(-1, 1)

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        ratio = self.decode(actions)[self.answer][:, 0].astype(np.float64)
        wanted = np.rint(ratio * state.budget.capacity).astype(np.int64)
        return Decision(counts=state.budget.grant(wanted, state.interval))

    def choices(self) -> Actions:
        """Evenly spaced ratios from the smallest to 1."""
        return np.linspace(-1, 1, self.levels, dtype=np.float32)[:, None]


class RuleControl(Control):
    """Nobody decides: the environment follows its parts; the action is ignored.

    Args:
        bins: B of the observation.
        target: target ratio of the environment.
    """

    answer = "ignored"

    def __init__(self, bins: int, target: float) -> None:
        del bins, target
        self.size, self.names = 1, ("ignored",)

    def decode(self, actions: Actions) -> dict[str, Actions]:
        return {self.answer: actions}

    def encode(self) -> Actions:  # type: ignore[override]
        return np.zeros(1, np.float32)

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        del actions, state
        return Decision()

    def choices(self) -> Actions:
        """One action, which means nothing."""
        return np.zeros((1, 1), np.float32)
