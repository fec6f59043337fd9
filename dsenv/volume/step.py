"""The step volume schedule."""

import math

from dsenv.errors import check_count
from dsenv.volume.base import VolumeSchedule, check_swing


class Step(VolumeSchedule):
    """A ratio that rises, or falls, in steps.

    What it does: cuts the training run into equally long stages, whose ratios lie evenly between
    `target - swing` and `target + swing`. As many stages are below the target as above it, so the
    budget is the constant one. An epoch in which the stage changes gets the mean over that epoch.

    When it helps: where the amount of data should change together with a stepwise learning rate; the
    model has time to settle at each level. When not: with few epochs it is nearly `Linear`.

    Settings: `stages`; `swing` in ratio points, positive rises, negative falls, 0 is the constant
    schedule. Cost: none.

    Source: own; steps as in stepwise learning rates. No published code to differ from.

    Args:
        target: mean ratio, (0, 1].
        swing: distance of the first and the last stage from the target; None for
            `default_swing(target)`, rising.
        stages: number of stages, at least 2.

    Raises:
        ValueError: a level would leave (0, 1], or there is only one stage.
    """

    def __init__(self, target: float, swing: float | None = None, stages: int = 2) -> None:
        super().__init__(target)
        self.swing = check_swing(self.target, swing)
        self.stages = check_count("stages", stages, 2, hint="for one stage use Constant")

    def _ratio(self, step: int, total: int) -> float:
        width = self.stages / total
        stage = (_stages_passed((step + 1) * width) - _stages_passed(step * width)) / width
        return self.target + self.swing * (2 * stage / (self.stages - 1) - 1)


def _stages_passed(time: float) -> float:
    """Integral from 0 to `time` of the number of the stage, where each stage lasts 1."""
    whole = math.floor(time)
    return whole * (whole - 1) / 2 + whole * (time - whole)
