"""The constant volume schedule."""

from dsenv.volume.base import VolumeSchedule


class Constant(VolumeSchedule):
    """The same ratio in every epoch.

    What it does: trains on `target` of the training set, always.

    When it helps: as the baseline of every other schedule, and when a selector should be judged alone.
    When not: where early epochs need more data than late ones, or the other way round.

    Settings: `target`. Cost: none.

    Source: the fixed-ratio protocol of dynamic selection, for example InfoBatch (arXiv 2303.04947).
    Differences from published code: published runs add epochs on full data at the start or the end and
    still name the ratio of the epochs between; here `target` is the mean over the whole training run.

    Args:
        target: selection ratio, (0, 1].
    """

    def _ratio(self, step: int, total: int) -> float:
        del step, total
        return self.target
