"""How many samples and steps every epoch has, and how far a training run has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dsenv.errors import check_count, check_flag, check_share, pick
from dsenv.plan.world import World

RATIOS = ("samples", "tokens")
"""What a ratio may be one of."""
MOST_EPOCHS = 1_000_000  # a schedule of more would take long to plan; count steps as epochs of fewer


@dataclass(frozen=True)
class Budgeted:
    """What a user said of the length of a plan, see `DataPlan`."""

    epochs: int
    batch_size: int
    drop_last: bool
    ratio: float | None
    scoring_passes: int | None
    ratio_of: str = "samples"
    accumulate: int = 1
    whole_steps: bool | None = None
    world: World | None = None

    def __post_init__(self) -> None:
        checked = {
            "epochs": check_count("epochs", self.epochs, 1, MOST_EPOCHS),
            "batch_size": check_count("batch_size", self.batch_size),
            "drop_last": check_flag("drop_last", self.drop_last),
            "ratio": None if self.ratio is None else check_share("ratio", self.ratio),
            "scoring_passes": self.scoring_passes,
            "ratio_of": pick("ratio_of", self.ratio_of, RATIOS),
            "accumulate": check_count("accumulate", self.accumulate),
        }
        if self.whole_steps is not None:
            checked["whole_steps"] = check_flag("whole_steps", self.whole_steps)
        if self.scoring_passes is not None:
            checked["scoring_passes"] = check_count("scoring_passes", self.scoring_passes, 0)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def shared(self) -> dict[str, Any]:
        """Who shares a step, as arguments of `EpochSchedule`."""
        return {"accumulate": self.accumulate, "whole_steps": self.whole_steps, "world": self.world}


class EpochSchedule:
    """Samples and optimiser steps of each epoch.

    A step may be taken by several ranks, each in several batches; then every epoch is a whole number of
    steps, so that all batches are of one size and no rank waits for another. What rounding leaves over goes
    to later epochs, so that the mean ratio holds to within a step over the run. An epoch has at most the
    whole steps that N samples give.

    Args:
        size: N, samples in the training set.
        epochs: number of epochs.
        batch_size: samples a step, of all ranks and batches together.
        drop_last: leave out an epoch's last batch where it is smaller.
        counts: samples chosen in each epoch; None where the number is set during the training run.
        total: samples chosen in the whole training run where a policy sets the numbers under this budget.
        least: fewest samples that it may give an epoch.
        in_tokens: `counts` are shares of the samples, and each epoch gets that share of all tokens; then the
            number of its samples is set during the training run.
        accumulate: batches of each rank whose gradients one step takes.
        whole_steps: every epoch is a whole number of steps; None where ranks or batches share them.
        world: the ranks; None for a process that is alone.

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
        accumulate: int = 1,
        whole_steps: bool | None = None,
        world: World | None = None,
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
        self.accumulate, self.world = accumulate, World(None) if world is None else world
        self.wanted = None if counts is None else tuple(counts)
        """Samples of each epoch before they are made whole steps; None as for `counts`."""
        self._whole_steps = whole_steps
        self.total = total
        """Samples chosen in the whole training run, where a policy decides the numbers; else None."""

        if counts is not None:
            least = min(counts)
        elif total is None:
            least = size

        self._check_least(least)

    def _check_least(self, least: int) -> None:
        """Check that an epoch of the fewest samples has a step."""
        if self.drop_last and least < self.batch_size:
            raise ValueError(
                f"an epoch of {least} samples has no full batch of {self.batch_size}; lower batch_size, "
                "raise the ratio, or set drop_last=False"
            )

    # Whole steps

    @cached_property
    def micro_batch_size(self) -> int:
        """Samples of one batch of one rank: `batch_size` over ranks and batches; looks up the ranks.

        Raises:
            ValueError: they do not divide it.
        """
        parts = self.world.size * self.accumulate
        if self.batch_size % parts:
            fitting = max(1, round(self.batch_size / parts)) * parts
            raise ValueError(
                f"batch_size={self.batch_size} is the samples of one optimiser step of all ranks together, "
                f"and {self.world.size} ranks with {self.accumulate} batches each (accumulate) cannot share "
                f"it evenly: give a multiple of {parts}, such as {fitting}"
            )
        return self.batch_size // parts

    @cached_property
    def is_whole(self) -> bool:
        """Whether every epoch is a whole number of steps; looks up the ranks.

        Raises:
            ValueError: the data are fewer than one step.
        """
        found = self._whole_steps
        if found is None:
            found = self.micro_batch_size < self.batch_size
        if found and self.size < self.batch_size:
            raise ValueError(
                f"{self.size} samples are fewer than one step of {self.batch_size} (of all ranks and batches "
                "together): lower batch_size"
            )
        return found

    @cached_property
    def counts(self) -> tuple[int, ...] | None:
        """Samples chosen in each epoch; None where the number is set during the training run."""
        if self.wanted is None or not self.is_whole:
            return self.wanted
        return whole_counts(self.wanted, self.batch_size, self.size)

    def in_steps(self, wanted: int, owed: int) -> tuple[int, int]:
        """Samples of an epoch whose number is set during the training run, and how many are then owed.

        Args:
            wanted: by who sets them.
            owed: samples wanted so far, less those given.
        """
        if not self.is_whole:
            return wanted, 0
        most = self.size // self.batch_size
        if self.shares is not None:  # the tokens decide, and what they leave over goes to later epochs
            return self.batch_size * min(most, -(-wanted // self.batch_size)), 0
        steps = min(most, max(1, round((wanted + owed) / self.batch_size)))
        return steps * self.batch_size, owed + wanted - steps * self.batch_size

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
        trained = "on as many as the selector sets"
        if self.shares is not None:
            trained = f"on {sum(self.shares) / self.size / self.epochs:.3g} of all tokens each"
        elif self.total is not None or self.wanted is not None:
            # To look up the ranks here would be a use
            is_known = self.world.is_known or self.wanted is None
            trained = f"on {self.total_samples if is_known else sum(self.wanted or ())} in all"
        parts = self.world.size * self.accumulate if self.world.is_known else self.accumulate
        shared = "batches" if parts == 1 else f"steps of {parts} batches, together"
        return f"{self.size} samples, {self.epochs} epochs {trained}, {shared} of {self.batch_size}"

    def as_dict(self) -> dict[str, Any]:
        """Its settings."""
        shares = {} if self.shares is None else {"shares": list(self.shares)}
        return {
            **shares,
            "samples": self.size,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "whole_steps": self.is_whole,
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


def whole_counts(wanted: Sequence[int], batch_size: int, size: int) -> tuple[int, ...]:
    """Samples of each epoch in whole steps, whose sum stays within half a step of what was wanted so far.

    Where the data or an epoch's one step do not allow that, later epochs make up for it as far as they can.

    Args:
        wanted: samples of each epoch.
        batch_size: samples a step.
        size: N.
    """
    most, spent, due, found = size // batch_size, 0, 0, []
    for count in wanted:
        due += count
        steps = min(most, max(1, round(due / batch_size) - spent))
        found.append(steps * batch_size)
        spent += steps
    return tuple(found)
