"""How many samples and steps every epoch has, and how far a training run has come."""

from collections.abc import Sequence
from typing import Any


class EpochSchedule:
    """Samples and optimiser steps of each epoch.

    Args:
        size: N, samples in the training set.
        epochs: number of epochs.
        batch_size: samples a step.
        drop_last: leave out an epoch's last batch where it is smaller.
        counts: samples chosen in each epoch; None where the number is set during the training run.
        total: samples chosen in the whole training run where a policy sets the numbers under this budget.
        least: fewest samples that it may give an epoch.
        in_tokens: `counts` are shares of the samples, and each epoch gets that share of all tokens; then the
            number of its samples is set during the training run.

    Raises:
        ValueError: an epoch would have no step, or a number is out of range.
    """

    def __init__(
        self,
        size: int,
        epochs: int,
        batch_size: int,
        drop_last: bool,
        counts: Sequence[int] | None,
        total: int | None = None,
        least: int = 1,
        *,
        in_tokens: bool = False,
    ) -> None:
        if min(size, epochs, batch_size) < 1:
            raise ValueError(
                f"samples, epochs and batch_size must be at least 1, got {size}, {epochs} and {batch_size}"
            )

        self.size = size
        self.epochs = epochs
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.shares = tuple(counts) if in_tokens and counts is not None else None
        """Of N in each epoch, where tokens are counted; else None."""
        counts = None if in_tokens else counts
        self.counts = None if counts is None else tuple(counts)
        self.total = total
        """Samples chosen in the whole training run, where a policy decides the numbers; else None."""

        if counts is not None:
            least = min(counts)
        elif total is None:
            least = size

        if self.steps(least) == 0:
            raise ValueError(
                f"an epoch of {least} samples has no full batch of {batch_size}; lower batch_size, raise "
                "the ratio, or set drop_last=False"
            )

    def trained(self, count: int) -> int:
        """Samples that an epoch of `count` chosen ones trains on."""
        return count - count % self.batch_size if self.drop_last else count

    def steps(self, count: int) -> int:
        """Optimiser steps of an epoch of `count` chosen samples."""
        return -(-self.trained(count) // self.batch_size)

    def steps_in(self, epoch: int) -> int:
        """Optimiser steps of epoch `epoch`, 0..epochs-1; errors as for `total_steps`."""
        if not 0 <= epoch < self.epochs:
            raise ValueError(f"the plan has the epochs 0 to {self.epochs - 1}, got {epoch}")
        return self.steps(self._known()[epoch])

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training run.

        Raises:
            ValueError: numbers of samples are set during the training run.
        """
        return sum(map(self.steps, self._known()))

    @property
    def most_steps(self) -> int:
        """Most optimiser steps that the training run can have: exact where `total_steps` is known."""
        if self.counts is not None:
            return self.total_steps
        if self.total is None:
            return self.epochs * self.steps(self.size)
        if self.drop_last:
            return self.total // self.batch_size
        return (self.total + self.epochs * (self.batch_size - 1)) // self.batch_size

    @property
    def total_samples(self) -> int:
        """Samples trained on in the whole run; errors as for `total_steps`, but a budget is known."""
        if self.total is not None and not self.drop_last:
            return self.total
        return sum(map(self.trained, self._known()))

    def progress(self, epoch: int, done: int, count: int, before: int = 0) -> float:
        """Share of the training run that is over, in [0, 1].

        It is the share of the budget of samples seen, or of tokens as they were planned. Where the selector
        sets its own count, the budget is not known beforehand: then it is the share of the epochs.

        Args:
            epoch: number of the current epoch, `epochs` after the last.
            done: samples trained on in it.
            count: samples chosen for it, at least 1.
            before: samples chosen in the epochs before, where a policy sets the numbers.
        """
        if epoch >= self.epochs:
            return 1.0

        share = min(1.0, done / self.trained(count))
        if self.shares is not None:
            return (sum(self.shares[:epoch]) + share * self.shares[epoch]) / sum(self.shares)
        if self.total is not None:
            return (before + share * count) / self.total
        if self.counts is None:
            return (epoch + share) / self.epochs
        before = sum(map(self.trained, self.counts[:epoch]))
        return (before + share * self.trained(count)) / self.total_samples

    def __str__(self) -> str:
        known = self.counts is not None or self.total is not None
        trained = f"on {self.total_samples} in all" if known else "on as many as the selector sets"
        if self.shares is not None:
            trained = f"on {sum(self.shares) / self.size / self.epochs:.3g} of all tokens each"
        return f"{self.size} samples, {self.epochs} epochs {trained}, batches of {self.batch_size}"

    def as_dict(self) -> dict[str, Any]:
        """Its settings."""
        shares = {} if self.shares is None else {"shares": list(self.shares)}
        return {
            **shares,
            "samples": self.size,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "counts": None if self.counts is None else list(self.counts),
            "total": self.total,
        }

    def _known(self) -> tuple[int, ...]:
        if self.total is not None:
            raise ValueError(
                f"a policy sets the number of samples of each epoch as it goes: {self.total} in all, in at "
                f"most {self.most_steps} steps (epoch_schedule.most_steps); let the schedule follow "
                "plan.progress (plan.lr_scheduler)"
            )
        if self.shares is not None:
            raise ValueError(
                "the ratio is one of tokens, so the number of samples follows from how long the chosen ones "
                "are, and the total is not known; let the schedule follow plan.progress (plan.lr_scheduler)"
            )
        if self.counts is None:
            raise ValueError(
                "the selector sets the number of samples of each epoch as it goes, so the total is not "
                "known; give ratio=..., or let the schedule follow plan.progress (plan.lr_scheduler)"
            )
        return self.counts
