"""The epochs of a plan: how many, how long, how far, and what happens at the end of each."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dsenv.errors import check_count
from dsenv.plan import epoch_checks, rates
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.feedback import Feedback
from dsenv.plan.log import PlanLog
from dsenv.plan.metrics import PlanMetrics
from dsenv.plan.world import World


class PlanEpochs:
    """The part of a `DataPlan` that goes through its epochs."""

    epoch_schedule: EpochSchedule
    epoch_sampler: EpochSampler
    _feedback: Feedback
    _metrics: PlanMetrics
    _log: PlanLog

    @property
    def epochs(self) -> int:
        """Length of the training run."""
        return self.epoch_schedule.epochs

    @property
    def batch_size(self) -> int:
        """Samples a step: of all ranks and micro-batches together."""
        return self.epoch_schedule.batch_size

    @property
    def micro_batch_size(self) -> int:
        """Samples of one batch of one rank: `batch_size` over ranks and `accumulate`; a use of the plan."""
        return self.epoch_schedule.micro_batch_size

    @property
    def accumulate(self) -> int:
        """Batches of each rank whose gradients one step takes."""
        return self.epoch_schedule.accumulate

    @property
    def world(self) -> World:
        """The ranks that share the steps; to ask for `rank` or `size` is a use of the plan."""
        return self.epoch_schedule.world

    @property
    def epoch(self) -> int:
        """Number of the current epoch, as many as there are after the last."""
        return self.epoch_sampler.epoch

    @property
    def epochs_trained(self) -> int:
        """Epochs of which this rank has trained on everything; under a stream it may lag behind `epoch`."""
        sampler = self.epoch_sampler
        return sampler.late[0].epoch if sampler.late else sampler.epoch + sampler.is_done

    @property
    def progress(self) -> float:
        """Share of the training run that is over, in [0, 1]: that of the budget of samples."""
        return self.epoch_sampler.progress

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole plan.

        Raises:
            ValueError: numbers of samples are decided during the training run.
        """
        return self.epoch_schedule.total_steps

    @property
    def nonfinite(self) -> Tensor:
        """(N,) int32 visits of each sample at which its loss or logits were not finite, and were left out.

        Visits of the epochs that have ended, and of the last one once all of it was trained on.
        """
        return self._feedback.values.count

    def steps_in_epoch(self, epoch: int | None = None) -> int:
        """Optimiser steps of an epoch; None for the current one."""
        epoch = self.epoch_sampler.epoch if epoch is None else check_count("epoch", epoch, 0)
        if epoch == self.epoch_sampler.epoch and self.epoch_schedule.counts is None:
            return self.epoch_schedule.steps(len(self.epoch_sampler.chosen.index))
        return self.epoch_schedule.steps_in(epoch)

    def epochs_left(self) -> Iterator[int]:
        """Numbers of the epochs to train, from the current one on; each is ended after its loop body."""
        if self.epoch_sampler.is_done:  # the state was saved after an epoch's last batch
            self._end_epoch()
        while self.epoch_sampler.epoch < self.epochs:
            epoch = self.epoch_sampler.epoch
            self._log.is_in_loop = True
            try:
                yield epoch
            except GeneratorExit:  # the loop was left; not at the end of Python, when torch is half gone
                if not sys.is_finalizing():
                    self._log.leave()
                    self._feedback.leave(epoch)
                raise
            self._log.is_in_loop = False
            if self.epoch_sampler.epoch == epoch:
                self._end_epoch()

    def start_epoch(self, epoch: int) -> None:
        """Go to epoch `epoch`, the current or the next one: for loops that count epochs themselves."""
        if epoch_checks.check_next_epoch(self.epoch, epoch) > self.epoch:
            self._end_epoch()

    def settle(self) -> None:
        """Take in what was said in the current epoch, where all of it was trained on, before it ends.

        Then `metrics()` speaks of all ranks, each of which must call this. Where something is left of the
        epoch, nothing happens.
        """
        if self.epoch_sampler.is_done:
            self._feedback.settle(self.epoch)

    def _end_epoch(self) -> None:
        sampler = self.epoch_sampler
        epoch_checks.check_epoch(sampler.epoch, sampler.begun)
        self._turn()

    def _turn(self, *, keep: bool = False) -> None:
        """Go to the next epoch: what was heard is taken in; with several ranks, all of them come here.

        Args:
            keep: losses of the current one may still come, and are taken in at the next turn.
        """
        sampler = self.epoch_sampler
        self._feedback.end_epoch(sampler.epoch)
        self._metrics.end_epoch()
        if sampler.policies is not None:
            sampler.policies.agree(self.world)
        sampler.finish(keep=keep)
        self._log.write()

    def lr_scheduler(self, optimizer: Optimizer, shape: Callable[[float], float]) -> LambdaLR:
        """A scheduler to step after each optimiser step; `shape` maps progress to a factor on the rate."""
        return LambdaLR(optimizer, rates.following(lambda: shape(self.progress)))

    def check_scheduler(self, scheduler: Any, *, accumulate: int = 1) -> None:
        """Warn when a scheduler of torch is made for another number of steps than the plan has.

        Args:
            scheduler: those that are made of others (SequentialLR, ChainedScheduler) are looked into.
            accumulate: steps of the plan whose gradients one step of the optimiser takes; leave it out where
                the plan was told, by `DataPlan(accumulate=...)`.

        Raises:
            ValueError: numbers of samples are decided during the training run.
        """
        steps = [self.epoch_schedule.steps_in(epoch) for epoch in range(self.epochs)]
        rates.check_scheduler(scheduler, steps, check_count("accumulate", accumulate))
