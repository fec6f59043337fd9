"""The linear volume schedule."""

from dsenv.volume.base import SwingSchedule


class Linear(SwingSchedule):
    """A ratio that rises, or falls, evenly.

    What it does: runs on a straight line from `target - swing` in the first epoch to `target + swing`
    in the last. The line is as long above the target as below it, so the budget is the constant one.

    When it helps: rising where the model should first settle on what a selector picks and then see
    everything, as full-data tails do; falling where early epochs must cover the data. It is the
    baseline for PODS: the same budget and levels without the alternation. When not: a target near 0 or
    1 leaves little room to swing.

    Settings: `swing` in ratio points; positive rises, negative falls, 0 is the constant schedule.
    Cost: none.

    Source: own; proposed as a baseline for PODS (arXiv 2605.14773). No published code to differ from.

    Args:
        target: mean ratio, (0, 1].
        swing: distance of either end from the target; None for `default_swing(target)`, rising.
    """

    def shape(self, progress: float) -> float:
        return 2 * progress - 1
