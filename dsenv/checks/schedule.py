"""check_schedule: the contract of volume schedules."""

import math
from typing import Any

from dsenv.checks.calls import call, maker
from dsenv.checks.made_up import TARGET
from dsenv.volume import VolumeSchedule, counts
from dsenv.volume.registry import SCHEDULES

TOLERANCE = 0.01  # of the target: how far the mean of the ratios may be from it
SIZE = 1000


def check_schedule(part: Any, *, total: int = 12) -> None:
    """Check that a volume schedule of your own keeps the contract of those that come with dsenv.

    It asks for the ratios of training runs of `total` and of five times `total` epochs, in order and
    backwards.

    Use::

        from dsenv import VolumeSchedule, check_schedule

        class Sawtooth(VolumeSchedule):
            def _ratio(self, step, total):
                paired = step < total - total % 2  # an odd last epoch stays at the target
                return self.target * (1 + 0.2 * (-1) ** step * paired)

        check_schedule(Sawtooth)  # None: all is right

    Args:
        part: an object, a class, "module:Class", or a name or table as for `DataPlan(volume=...)`. A class is
            built with what it takes of target (0.5), epochs and size.
        total: epochs of the training run.

    Raises:
        ValueError: something is wrong; the message names it, what was allowed, and the next step.
    """
    given = {"target": TARGET, "epochs": total, "size": SIZE}
    make = maker("schedule", part, VolumeSchedule, SCHEDULES, given)
    schedule = make()
    name = type(schedule).__name__
    target = getattr(schedule, "target", None)
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target <= 1:
        raise ValueError(
            f"{name}.target must be a number in (0, 1], the mean ratio, got {target!r}; set it by "
            "super().__init__(target)"
        )

    for epochs in (total, 5 * total):
        _check_ratios(schedule, epochs)
        if round(target * SIZE * epochs) >= epochs:
            counts(schedule, SIZE, epochs)


def _check_ratios(schedule: Any, total: int) -> None:
    name = type(schedule).__name__
    ratios = [_ratio(schedule, step, total) for step in range(total)]

    again = [_ratio(schedule, step, total) for step in reversed(range(total))][::-1]
    for step, (one, other) in enumerate(zip(ratios, again, strict=True)):
        if one != other:
            raise ValueError(
                f"{name} gave the ratio {one} for step {step} of {total}, and {other} when it was asked "
                "again; a schedule is a function of step and total only: count and draw nothing in it"
            )

    mean, target = math.fsum(ratios) / total, schedule.target
    if abs(mean - target) > TOLERANCE * target:
        raise ValueError(
            f"{name}: the mean ratio of {total} epochs is {mean:.4g}, far from the target {target:.4g}; "
            "spend elsewhere what an epoch leaves or takes, so that the budget is that of a constant ratio"
        )


def _ratio(schedule: Any, step: int, total: int) -> float:
    """The ratio of a step as the class gives it, before the base class cuts it to 1."""
    own = "_ratio" if type(schedule).ratio is VolumeSchedule.ratio else "ratio"
    value = call(schedule, own, step, total)
    where = f"{type(schedule).__name__}.{own}({step}, {total})"

    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must give a number, got {type(value).__name__}; use float(...)")
    if not 0 < value <= 1 + 1e-9:
        raise ValueError(
            f"{where} must be in (0, 1], got {value}; keep swings within min(target, 1 - target)"
        )
    return float(value)
