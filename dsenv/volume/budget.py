"""Budget: the number of samples that a training run may see, met exactly."""

import numpy as np
from numpy.typing import NDArray

from dsenv.errors import check_share

Counts = NDArray[np.int64]

LONGEST_INTERVAL = 100  # epochs
FORWARD_COST = 1 / 3  # of a forward pass, where training on a sample (forward and backward) costs 1


class Budget:
    """Cumulative budgets of K training runs of T intervals each, counted in samples seen.

    Whatever is asked for, `grant` gives each interval at least its floor and at most its capacity,
    never overspends, and leaves nothing unspent: after the last interval exactly `total` is spent. Without
    `spend_all` only the floors have to be spent.

    Args:
        capacity: (K,) most samples that one interval can train on.
        intervals: T.
        ratio: target share of the capacity over the whole training run, (0, 1].
        minimum: share of the capacity that every interval gets at least, (0, ratio].
        spend_all: whether all of the total has to be spent; else it is an upper bound.

    Raises:
        ValueError: a share is out of range, or the budget is too small for one sample an interval.
    """

    def __init__(
        self, capacity: Counts, intervals: int, ratio: float, minimum: float, *, spend_all: bool = True
    ) -> None:
        check_share("ratio", ratio)
        if not 0 < minimum <= ratio:
            raise ValueError(f"minimum ratio must be in (0, {ratio}] (the target ratio), got {minimum}")

        self.intervals, self.spend_all = intervals, spend_all
        self.capacity = np.asarray(capacity, np.int64)
        self.total = np.rint(ratio * self.capacity * intervals).astype(np.int64)
        self.spent = np.zeros_like(self.capacity)
        self.floor = np.maximum(1, np.floor(minimum * self.capacity)).astype(np.int64)
        if (self.total < self.floor * intervals).any():
            raise ValueError(
                f"a ratio of {ratio} of {self.capacity.min()} samples is less than one sample in each of "
                f"{intervals} intervals; raise the ratio"
            )

    @property
    def left(self) -> Counts:
        """(K,) samples that each run may still see."""
        left: Counts = self.total - self.spent
        return left

    def grant(self, wanted: Counts, interval: Counts) -> Counts:
        """How many samples each run may train on in `interval`, as close to `wanted` as the budget allows.

        Args:
            wanted: (K,) samples asked for.
            interval: (K,) number of each run's interval, from 0.

        Returns:
            (K,) samples; pass them to `spend`.
        """
        later = self.intervals - interval - 1
        most = np.minimum(self.capacity, self.left - self.floor * later)
        least = np.maximum(self.floor, self.left - self.capacity * later) if self.spend_all else self.floor

        granted: Counts = np.clip(wanted, least, most)
        return granted

    def spend(self, counts: Counts) -> None:
        """Count these samples as seen."""
        self.spent = self.spent + counts
        assert (self.spent <= self.total).all(), (self.spent, self.total)

    def progress(self, interval: Counts, counts: Counts) -> tuple[list[int], list[int]]:
        """Samples seen and in total, by which the learning rate comes down over a training run.

        A budget that need not be spent says nothing about the end: there all intervals count the same.

        Args:
            interval: (K,) intervals done.
            counts: (K,) samples of the coming interval.
        """
        if self.spend_all:
            return self.spent.tolist(), self.total.tolist()
        counts = np.maximum(counts, 1)
        return (interval * counts).tolist(), (self.intervals * counts).tolist()

    def put(self, replica: int, other: "Budget") -> None:
        """Restart one run under the budget of `other`, which has a single run."""
        for name in ("capacity", "total", "spent", "floor"):
            getattr(self, name)[replica] = getattr(other, name)[0]
