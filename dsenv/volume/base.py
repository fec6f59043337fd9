"""What every volume schedule is, and how its ratios become sample counts."""

import math
from abc import ABC, abstractmethod

from dsenv.describe import Described
from dsenv.errors import check_share

LARGEST_SWING = 0.25  # default distance of the levels from the target ratio


class VolumeSchedule(Described, ABC):
    """How much of the training set each epoch trains on.

    A schedule is a pure function of the epoch it is asked for: it counts nothing itself, so that it can
    be asked twice, out of order, or after a restart. Over a whole training run its ratios add up to
    `target * total`, the budget of the constant schedule. `settings()` tells what it was built with; keep
    each setting in an attribute of its name.

    Use::

        import torch
        from dsenv import DataPlan, VolumeSchedule

        class Falling(VolumeSchedule):  # from 1.2 to 0.8 times the target, which stays the mean
            def _ratio(self, step, total):
                progress = step / (total - 1) if total > 1 else 0.5
                return self.target * (1.2 - 0.4 * progress)

        data = torch.rand(100, 5), torch.randint(0, 4, (100,))
        plan = DataPlan(data, epochs=10, batch_size=20, volume=Falling(0.5))

    Args:
        target: mean selection ratio over the training run, (0, 1].
    """

    def __init__(self, target: float) -> None:
        self.target = check_share("target", target)

    def ratio(self, step: int, total: int) -> float:
        """Share of the training set to train on, in (0, 1].

        Args:
            step: number of the epoch (or interval), 0..total-1.
            total: number of epochs of the training run.

        Raises:
            ValueError: `step` is outside the training run.
        """
        if not 0 <= step < total:
            raise ValueError(f"step must be in 0..{total - 1} for total {total}, got {step}; count from 0")

        value = min(1.0, self._ratio(step, total))
        assert value > 0, (self, step, total, value)
        return value

    @abstractmethod
    def _ratio(self, step: int, total: int) -> float:
        """`ratio` for a step inside the training run."""


class SwingSchedule(VolumeSchedule):
    """A schedule that moves from one end of a range around the target to the other.

    Args:
        target: mean ratio, (0, 1].
        swing: distance of either end from the target; None for `default_swing(target)`, rising.
    """

    def __init__(self, target: float, swing: float | None = None) -> None:
        super().__init__(target)
        self.swing = check_swing(target, swing)

    @abstractmethod
    def shape(self, progress: float) -> float:
        """Position in the range, from -1 at progress 0 to 1 at progress 1; odd about the middle."""

    def _ratio(self, step: int, total: int) -> float:
        return self.target + self.swing * self.shape(step / (total - 1) if total > 1 else 0.5)


def counts(schedule: VolumeSchedule, size: int, total: int) -> list[int]:
    """Samples that each epoch trains on.

    Rounding errors are carried over: after each epoch the sum is within one sample of the sum of the ratios,
    and after the last it is `budget(schedule.target, size, total)` exactly. Every epoch gets 1..size.

    Args:
        schedule: gives the ratios.
        size: N, samples in the training set.
        total: T, number of epochs.

    Raises:
        ValueError: the budget is less than one sample an epoch.
    """
    samples = budget(schedule.target, size, total)
    if samples < total:
        raise ValueError(
            f"a target ratio of {schedule.target} of {size} samples is less than one sample in each "
            f"of {total} epochs; raise the target to at least {1 / size:.3g}"
        )

    ratios = [schedule.ratio(step, total) for step in range(total)]
    chosen: list[int] = []
    due, spent = 0.0, 0
    for later, ratio in zip(range(total - 1, -1, -1), ratios, strict=True):
        due += ratio * size

        # What this epoch may take so that every later one can have between 1 and `size` samples
        most = min(size, samples - spent - later)
        least = max(1, samples - spent - later * size)
        count = max(least, min(most, round(due) - spent))
        chosen.append(count)
        spent += count

    return chosen


def budget(target: float, size: int, total: int) -> int:
    """Samples seen in a whole training run: the target share of `size` samples in each of `total` epochs."""
    return round(target * size * total)


def default_swing(target: float) -> float:
    """Distance of the low and the high level from the target where none is given.

    A quarter, or two thirds of the way to 0 or 1 where that is less: levels of 0.25 and 0.75 around
    0.5, 0.5 and 0.9 around 0.7, 0.1 and 0.5 around 0.3.
    """
    return min(LARGEST_SWING, 2 * min(target, 1 - target) / 3)


def check_swing(target: float, swing: float | None) -> float:
    """Return the swing (the default one for None) if both levels stay in (0, 1].

    Raises:
        ValueError: a level would leave (0, 1].
    """
    if swing is None:
        return default_swing(target)

    room = min(target, 1 - target)
    if math.isfinite(swing) and abs(swing) <= room and abs(swing) < target:
        return swing
    raise ValueError(
        f"swing must keep the ratio in (0, 1]: at most {room:.3g} either way around a target of {target}, "
        f"got {swing}"
    )
