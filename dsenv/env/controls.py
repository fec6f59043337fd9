"""Controls: which question the agent's action answers, and how it becomes a decision."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.catalogue import Choice, build_part
from dsenv.errors import check_share
from dsenv.select.bins import bin_log_weights
from dsenv.volume.budget import Budget, Counts

Actions = NDArray[np.float32]


@dataclass(frozen=True)
class Decision:
    """What one interval is to train on, for each of K replicas."""

    counts: Counts
    """(K,) sample presentations."""
    log_weight: Tensor
    """(K, N) log of the weights by which samples are drawn; -inf leaves one out."""


@dataclass(frozen=True)
class Situation:
    """What a control may read to turn actions into a decision."""

    bins: Tensor
    """(K, N) int64 loss-rank bin of each sample."""
    pool: Tensor
    """(K, N) bool, the samples that exist."""
    budget: Budget
    planned: Counts
    """(K,) presentations of the coming interval by the volume schedule."""
    interval: Counts
    """(K,) number of the coming interval of each replica."""


class Control(ABC):
    """A way for actions in [-1, 1]^size to say what an interval trains on."""

    size: int
    """A, number of action components."""
    names: tuple[str, ...]
    """What each action component is, in words."""
    minimum: float | None = None
    """Smallest ratio an interval gets; None where the volume schedule decides."""
    decides_what: bool = False
    """Whether the action says which samples."""
    decides_how_much: bool = False
    """Whether the action says how many."""

    @abstractmethod
    def choices(self) -> Actions:
        """(M, A) the actions that a discrete action space offers."""

    @abstractmethod
    def decide(self, actions: Actions, situation: Situation) -> Decision:
        """Turn (K, size) actions in [-1, 1] into a decision."""


class CurriculumControl(Control):
    """WHAT: weights over loss-rank bins; how many is left to the volume schedule.

    Component b is the log weight of bin b (bin 0 has the smallest losses), scaled by `sharpness`: with
    the default, the ends of the scale are e^10 apart, so an agent can all but exclude a bin.

    Args:
        bins: B, number of bins.
        target: target ratio of the environment.
        sharpness: log weight that an action of 1 stands for.
    """

    decides_what = True

    def __init__(self, bins: int, target: float, sharpness: float = 5.0) -> None:
        del target
        self.size, self.sharpness = bins, sharpness
        self.names = tuple(f"log weight of loss bin {b} / {sharpness:g}" for b in range(bins))

    def decide(self, actions: Actions, situation: Situation) -> Decision:
        logits = torch.from_numpy(actions).to(situation.bins.device) * self.sharpness
        weight = bin_log_weights(logits, situation.bins, situation.pool)
        return Decision(situation.planned, weight)

    def choices(self) -> Actions:
        """Every run of neighbouring bins: bins first..last at 1, the others at -1."""
        number = np.arange(self.size)
        runs = [(first, last) for first in number for last in number if first <= last]
        inside = [(number >= first) & (number <= last) for first, last in runs]
        return np.where(inside, 1.0, -1.0).astype(np.float32)


class RatioControl(Control):
    """HOW MUCH: the share of the data the next interval trains on; which samples is left to the selector.

    The action runs from the smallest ratio to 1; the budget clips it.

    Args:
        bins: B of the observation; the action does not depend on it.
        target: target ratio of the environment, (0, 1].
        minimum: smallest ratio of an interval, (0, 1]; no more than the target is ever asked of an interval.
        levels: number of ratios that a discrete action space offers.
    """

    decides_how_much = True

    def __init__(self, bins: int, target: float, minimum: float = 0.1, levels: int = 9) -> None:
        del bins
        self.minimum = min(check_share("control.minimum", minimum), target)
        self.size, self.target, self.levels = 1, target, levels
        self.names = (f"ratio of the interval, from {self.minimum:g} at -1 to 1 at 1",)

    def decide(self, actions: Actions, situation: Situation) -> Decision:
        assert self.minimum is not None
        ratio = self.minimum + (1 - self.minimum) * (actions[:, 0].astype(np.float64) + 1) / 2
        wanted = np.rint(ratio * situation.budget.capacity).astype(np.int64)
        counts = situation.budget.grant(wanted, situation.interval)
        return Decision(counts, _uniform(situation.pool))

    def choices(self) -> Actions:
        """Evenly spaced ratios from the smallest to 1."""
        return np.linspace(-1, 1, self.levels, dtype=np.float32)[:, None]

    def action_for(self, ratio: float) -> float:
        """The action that asks for `ratio`."""
        assert self.minimum is not None
        room = max(1 - self.minimum, 1e-9)
        return float(np.clip(2 * (ratio - self.minimum) / room - 1, -1, 1))


class RuleControl(Control):
    """Nobody decides: the environment follows its selector and its volume schedule; the action is ignored.

    Args:
        bins: B of the observation.
        target: target ratio of the environment.
    """

    def __init__(self, bins: int, target: float) -> None:
        del bins, target
        self.size, self.names = 1, ("ignored",)

    def decide(self, actions: Actions, situation: Situation) -> Decision:
        del actions
        return Decision(situation.planned, _uniform(situation.pool))

    def choices(self) -> Actions:
        """One action, which means nothing."""
        return np.zeros((1, 1), np.float32)


def _uniform(pool: Tensor) -> Tensor:
    """Log weights that give every sample of the pool the same chance."""
    return torch.zeros_like(pool, dtype=torch.float32).masked_fill_(~pool, -torch.inf)


CONTROLS: dict[str, Callable[..., Control]] = {
    "curriculum": CurriculumControl,
    "ratio": RatioControl,
    "rule": RuleControl,
}


def make_control(setting: Choice, bins: int, target: float) -> Control:
    """Build a control from its name, or from a table with `name` and its settings.

    Args:
        setting: the name or table.
        bins: B, number of loss-rank bins.
        target: target ratio of the environment.
    """
    known = {"bins": bins, "target": target}
    control: Control = build_part("control", CONTROLS, setting, known, Control)
    return control
