"""PODS: a volume schedule that alternates between little and much data."""

from functools import lru_cache

from dsenv.errors import check_count, check_number, check_positive, check_share
from dsenv.volume.base import VolumeSchedule, default_swing


class Pods(VolumeSchedule):
    """Alternating phases of few and of many samples, under the budget of the constant schedule.

    What it does: a low phase at ratio `low` is followed by a high phase at `high`, over and over, low
    first. With the levels and `high_length` given, the equal budget leaves one length for the low
    phase: `high_length * (high - target) / (target - low)`. Phases need not be whole epochs;
    an epoch belongs to the phase in which its middle lies. Both levels are shifted by one number, the same
    for the whole training run. It pays for the warm-up, for the tail and for the phase that the end cuts
    off, so that the budget is met without a correction in the last epochs (0.25/0.75 becomes 0.249/0.749
    over 200 epochs). Where a short training run would push a level out of (0, 1], both move towards their
    mean. It works on top of any selector, static ones too: those give the high phase more of their
    ranking.

    When it helps: the paper reports gains for selectors at a fixed ratio of 30 to 70 %, most for static
    ones. The low phase is meant to regularise, the high phase to recover, and a high phase at 75 to 90 %
    also refreshes the scores of samples that are otherwise left out. When not: the regularising term,
    averaged over optimiser steps, is the same for every schedule of one budget (it grows only in the
    mean over epochs), so expect little on top of random selection, and compare with `Linear` and with
    `high_length` 2, 5 and 10.

    Settings: `low` and `high`; `high_length`, longer for a slower swing; `warmup` 1 where a selector
    needs scores of all samples first, else 0; `tail` 0.125 for the full-data end of InfoBatch. Equal
    levels switch PODS off: the run is the constant schedule, bit for bit, without warm-up and tail.
    Cost: none.

    Source: PODS, arXiv 2605.14773. Differences from published code: none is published. The paper's
    rule for levels and lengths is not known to us; the length is our reading of the equal budget, the
    default levels are 0.2 to 0.25 from targets of 0.3 to 0.7, after the swing of the regulariser in its
    figure (2.5 in log units there, 2.2 with these levels), and default phases last one epoch each, as drawn
    there.

    Args:
        target: mean ratio, (0, 1].
        low: ratio of the low phase, (0, target]; None for `default_swing` below the target.
        high: ratio of the high phase, [target, 1]; None for as far above.
        high_length: epochs of a high phase; None for the shortest at which both phases last an epoch.
        warmup: epochs on all data at the start, paid from the budget.
        tail: share of the training run on all data at the end, [0, 1), paid from the budget.

    Raises:
        ValueError: a level is on the wrong side of the target, or a phase is shorter than an epoch.
    """

    def __init__(
        self,
        target: float,
        low: float | None = None,
        high: float | None = None,
        high_length: float | None = None,
        warmup: int = 1,
        tail: float = 0.0,
    ) -> None:
        super().__init__(target)
        target = self.target
        swing = default_swing(target)
        self.low = check_share("low", target - swing if low is None else low)
        self.high = check_share("high", target + swing if high is None else high)

        self.off = self.low == self.high == target
        if not self.off and not self.low < target < self.high:
            raise ValueError(
                f"low < target < high is needed, got {self.low}, {target} and {self.high}; "
                f"set both levels to {target} to switch PODS off"
            )
        self.warmup = check_count("warmup", warmup, 0)
        self.tail = check_number("tail", tail, 0, 1, open_high=True)
        if high_length is not None:
            high_length = check_positive("high_length", high_length)
        self.high_length, self.low_length = self._lengths(high_length)

    def _lengths(self, high_length: float | None) -> tuple[float, float]:
        """Epochs of a high and of a low phase."""
        low_per_high = 1.0 if self.off else (self.high - self.target) / (self.target - self.low)
        if high_length is None:
            high_length = max(1.0, 1 / low_per_high)

        shortest = min(high_length, high_length * low_per_high)
        if not shortest >= 1 - 1e-9:
            raise ValueError(
                f"with high_length {high_length} a phase would last {shortest:.3g} epochs; "
                f"high_length must be at least {max(1.0, 1 / low_per_high):.4g}"
            )

        return high_length, high_length * low_per_high

    def phase(self, step: int, total: int) -> str:
        """Name of an epoch's phase: warm-up, low, high or tail; constant where PODS is off."""
        if self.off:
            return "constant"
        if step < self.warmup:
            return "warm-up"
        if step >= total - round(self.tail * total):
            return "tail"
        return "low" if _is_low(step - self.warmup, self.low_length, self.high_length) else "high"

    def _ratio(self, step: int, total: int) -> float:
        phase = self.phase(step, total)
        if phase == "constant":
            return self.target
        if phase in ("warm-up", "tail"):
            return 1.0
        low, high = self.levels(total)
        return low if phase == "low" else high

    def levels(self, total: int) -> tuple[float, float]:
        """Ratios of the low and the high phase in a training run of `total` epochs.

        Raises:
            ValueError: the budget does not pay for the warm-up and the tail.
        """
        epochs = total - self.warmup - round(self.tail * total)
        left = self.target * total - (total - epochs)
        if epochs <= 0 or left <= 0:
            raise ValueError(
                f"{self.target} of {total} epochs does not pay for {self.warmup} epochs of warm-up and a "
                f"tail of {self.tail}; train longer, or lower warmup or tail"
            )

        lows = _low_epochs(epochs, self.low_length, self.high_length)
        return _fit_levels(self.low, self.high, lows / epochs, left / epochs)


def _is_low(epoch: int, low_length: float, high_length: float) -> bool:
    """Whether the middle of an epoch, counted from the end of the warm-up, lies in a low phase."""
    return (epoch + 0.5) % (low_length + high_length) < low_length


@lru_cache(maxsize=64)
def _low_epochs(epochs: int, low_length: float, high_length: float) -> int:
    """Number of low epochs among the first `epochs` after the warm-up."""
    return sum(_is_low(epoch, low_length, high_length) for epoch in range(epochs))


def _fit_levels(low: float, high: float, low_share: float, mean: float) -> tuple[float, float]:
    """Shift two levels so that their mean is `mean`; move them together where one would leave (0, 1].

    Args:
        low: level of `low_share` of the epochs.
        high: level of the others.
        low_share: share of low epochs, [0, 1].
        mean: what both must average to, (0, 1].
    """
    below, above = (1 - low_share) * (high - low), low_share * (high - low)
    floor = min(low, mean) / 2
    scale = min(1.0, (mean - floor) / max(below, 1e-12), (1 - mean) / max(above, 1e-12))
    return mean - scale * below, mean + scale * above
