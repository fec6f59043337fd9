"""How far a plan has come, and what follows it: learning-rate schedules."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dsenv.plan import checks
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.epoch_schedule import EpochSchedule


class Clock:
    """Epochs, steps and progress of a training."""

    epoch_sampler: EpochSampler
    epoch_schedule: EpochSchedule

    @property
    def epochs(self) -> int:
        """Length of the training."""
        return self.epoch_schedule.epochs

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        return self.epoch_schedule.batch_size

    @property
    def epoch(self) -> int:
        """Number of the present epoch, as many as there are after the last."""
        return self.epoch_sampler.epoch

    @property
    def progress(self) -> float:
        """Share of the training that is over, in [0, 1]: that of the budget of sample presentations."""
        return self.epoch_sampler.progress

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole plan.

        Raises:
            ValueError: numbers of samples are decided as the training goes.
        """
        return self.epoch_schedule.total_steps

    def steps_in_epoch(self, epoch: int | None = None) -> int:
        """Optimiser steps of an epoch; None for the present one."""
        epoch = self.epoch_sampler.epoch if epoch is None else epoch
        if epoch == self.epoch_sampler.epoch and self.epoch_schedule.counts is None:
            return self.epoch_schedule.steps(len(self.epoch_sampler.chosen.index))
        return self.epoch_schedule.steps_in(epoch)

    def lr_scheduler(self, optimizer: Optimizer, shape: Callable[[float], float]) -> LambdaLR:
        """A scheduler to step after each optimiser step, which ends when the plan does.

        Args:
            optimizer: whose learning rates are scaled.
            shape: maps progress in [0, 1] to a factor on the learning rate.
        """
        return LambdaLR(optimizer, lambda _: shape(self.progress))

    def check_scheduler(self, scheduler: Any) -> None:
        """Warn when a scheduler is made for another number of steps than the plan has."""
        checks.check_total_steps(scheduler, self.total_steps, self.epochs)
