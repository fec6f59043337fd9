"""The cosine volume schedule."""

import math

from dsenv.volume.base import SwingSchedule


class Cosine(SwingSchedule):
    """A ratio that rises, or falls, along half a cosine.

    What it does: stays near `target - swing` for the first epochs, crosses the target in the middle and
    stays near `target + swing` for the last. The curve is symmetric about its middle, so the budget is
    the constant one.

    When it helps: as `Linear`, with more time at both ends; it goes well with a cosine learning rate,
    whose smallest steps then get the most data (rising). When not: as `Linear`.

    Settings: `swing` in ratio points; positive rises, negative falls, 0 is the constant schedule.
    Cost: none.

    Source: own; the shape is that of SGDR's annealing (arXiv 1608.03983). No published code to differ from.

    Args:
        target: mean ratio, (0, 1].
        swing: distance of either end from the target; None for `default_swing(target)`, rising.
    """

    def shape(self, progress: float) -> float:
        return -math.cos(math.pi * progress)
