"""Which samples an epoch trains on, and in which order."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.errors import check_count, check_seed, check_share
from dsenv.plan.epoch_record import EpochRecord
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.lengths import Lengths
from dsenv.plan.plan_guard import PlanGuard
from dsenv.plan.policies import PlanPolicies
from dsenv.policy.parts import LearnedSelector
from dsenv.select.base import Selection, Selector, checked
from dsenv.select.infobatch import pruning_is_on
from dsenv.select.random import UniformRandom
from dsenv.signals import SampleSignals

STREAMS = ("loader", "augment", "views")  # what draws random numbers batch by batch


def check_world() -> None:
    """Check that the plan is alone: several processes would train the same samples.

    Raises:
        ValueError: this process is in a `torch.distributed` group of several.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return

    ranks = distributed.get_world_size()
    if ranks > 1:
        raise ValueError(
            f"this process is rank {distributed.get_rank()} of {ranks} of a torch.distributed group, and a "
            "plan works in one process only: every rank would train the same samples, at several times the "
            "cost and for no gain. Train in one process, or without a plan until plans know of ranks"
        )


class EpochSampler:
    """Goes through the epochs of a schedule and chooses the samples of each.

    Args:
        selector: chooses them.
        signals: what it reads.
        epoch_schedule: how many, and in which steps.
        uniform_epochs: first epochs whose samples are drawn uniformly instead.
        tail: share of the epochs, at the end, on all data where the selector sets its own count.
        seed: decides the choices, their order, and the streams of `generator_for`.
        policies: the policies behind learned parts; None where there are none.
        guard: mixes what is chosen with a safe choice; None for no guard.
        lengths: of the samples, which order them or are what the budget counts; None where they are not
            known.
    """

    def __init__(
        self,
        selector: Selector,
        signals: SampleSignals,
        epoch_schedule: EpochSchedule,
        uniform_epochs: int,
        tail: float,
        seed: int,
        policies: PlanPolicies | None = None,
        guard: PlanGuard | None = None,
        lengths: Lengths | None = None,
    ) -> None:
        self.selector = selector
        self.signals = signals
        self.epoch_schedule = epoch_schedule
        self.uniform_epochs = check_count("uniform_epochs", uniform_epochs, 0)
        self.tail = check_share("tail", tail, zero=True)
        self.seed = check_seed("seed", seed)
        self.policies = policies
        self.guard = guard
        self.lengths = lengths

        self.epoch = 0
        """Number of the current epoch; as many as there are after the last."""
        self.was_loaded = False
        """It goes on from a state."""
        self.began: float | None = None
        """When the current epoch's samples were chosen, as `time.perf_counter`; None where not known."""
        self.scoring_passes = 0
        """Scoring passes that the selector was given."""

        self._record: EpochRecord | None = None  # of the current epoch, once its samples are chosen
        self._before = 0  # samples chosen in the epochs before
        self._generator = torch.Generator(signals.device).manual_seed(self.seed)

    @property
    def record(self) -> EpochRecord:
        """The current epoch's samples, and which were trained on; the first call chooses them.

        Raises:
            ValueError: the training run is over.
        """
        if self._record is None:
            self._begin_epoch()
        assert self._record is not None
        return self._record

    @property
    def begun(self) -> EpochRecord | None:
        """The record of the current epoch; None where its samples are not chosen yet."""
        return self._record

    @property
    def chosen(self) -> Selection:
        """The current epoch's samples in training order; errors as for `record`."""
        return self.record.chosen

    @property
    def end(self) -> int:
        """Samples that the current epoch trains on; errors as for `record`."""
        return self.record.end

    @property
    def done(self) -> int:
        """Samples of the current epoch that were trained on."""
        return 0 if self._record is None else self._record.done

    @property
    def is_done(self) -> bool:
        """Nothing is left of the current epoch."""
        return self._record is not None and self._record.is_done

    def _begin_epoch(self) -> None:
        """Choose the samples of the current epoch and put them into random order."""
        if self.epoch >= self.epoch_schedule.epochs:
            raise ValueError(f"the plan's {self.epoch_schedule.epochs} epochs are over")
        check_world()
        self.began = time.perf_counter()

        # How many, and what the policies behind learned parts say
        count = self._count()
        if self.policies is not None:
            self.policies.begin(self.signals, count, self._trust)

        # Which
        riding = 0 if self.guard is None else self.guard.riding(self.epoch, count)
        selection = self._guarded(count - riding)
        if self.policies is not None:
            self.policies.chose(selection.index, count)

        # In which order
        device = self._generator.device
        order = torch.randperm(len(selection.index), generator=self._generator, device=device)
        chosen = Selection(selection.index[order], selection.weight[order])
        if self.lengths is not None:
            chosen = self.lengths.arranged(chosen, self.epoch, self._generator)
        if self.guard is not None:
            end, batch_size = self.epoch_schedule.trained(count), self.epoch_schedule.batch_size
            chosen = self.guard.with_reserve(chosen, riding, end, batch_size)
        self._begin_record(chosen)

    def _begin_record(self, chosen: Selection) -> None:
        schedule = self.epoch_schedule
        end = schedule.trained(len(chosen.index))
        self._record = EpochRecord(self.epoch, chosen, end, schedule.batch_size, schedule.size)

    def _count(self) -> int:
        """How many samples the current epoch is to have."""
        size, table = self.epoch_schedule.size, self.epoch_schedule
        if table.counts is not None:
            return table.counts[self.epoch]
        if table.shares is not None:
            assert self.lengths is not None
            return self.lengths.count(self.epoch)
        if self.policies is not None and self.policies.decides_count:
            return self.policies.count(self.signals, self._trust)
        if not pruning_is_on(self.epoch, table.epochs, round(1 - self.tail, 12)):
            return size

        count = self.selector.own_count(self.signals)
        assert count is not None, self.selector  # else the schedule had counts
        return count

    @property
    def _trust(self) -> float:
        """How much of what policies say counts, [0, 1]."""
        if self.guard is None:
            return 1.0
        return self.guard.share if isinstance(self.selector, LearnedSelector) else self.guard.settings.start

    def _guarded(self, count: int) -> Selection:
        """Selection of `count` samples to train on, unshuffled; by the guard, where there is one."""
        if self.guard is None:
            return self._choose(count)
        return self.guard.choose(self.epoch, count, self._choose, self.signals, self._generator)

    def _choose(self, count: int) -> Selection:
        """The selector's choice of `count` samples, unshuffled."""
        if self.epoch < self.uniform_epochs:
            return UniformRandom().select(self.signals, count, self._generator)

        unready = self.selector.needs_pass and not self.scoring_passes
        if unready and count == self.signals.size:  # nothing to choose, so nothing to rank
            return UniformRandom().select(self.signals, count, self._generator)

        # Under a guard the policy behind the selector is told later what the epoch trains on
        select = self.selector.select
        if self.guard is not None and isinstance(self.selector, LearnedSelector):
            select = self.selector.draw
        try:
            found = select(self.signals, count, self._generator)
        except ValueError as error:
            if not unready:
                raise
            raise ValueError(
                f"{type(self.selector).__name__} ranks the samples in a pass over them: call "
                f"plan.score(forward) before the first batch of epoch {self.epoch}; or train a little first, "
                f"with DataPlan(uniform_epochs=1) and plan.score(forward) in epoch 1 ({error})"
            ) from error
        return checked(found, self.selector, count, self.signals.size, self.signals.loss.device)

    def tokens_of(self, index: Tensor, tokens: Tensor | None) -> Tensor | None:
        """Tokens (B,) of samples (B,), by their lengths where those are known, else as the loop said it."""
        return tokens if self.lengths is None else self.lengths.tokens[index.to(self.lengths.tokens.device)]

    def settings(self) -> dict[str, Any]:
        """The settings that a continued state must share."""
        own = {"seed": self.seed, "uniform_epochs": self.uniform_epochs, "tail": self.tail}
        return own if self.lengths is None else {**own, **self.lengths.settings()}

    def finish(self) -> None:
        """Go to the next epoch."""
        if self.policies is not None:  # an epoch without training counts for a policy too
            self._before += len(self.chosen.index)
        self.epoch += 1
        self._record = None

    @property
    def progress(self) -> float:
        """Share of the training run that is over, see `EpochSchedule.progress`."""
        passed, count = 0, self.epoch_schedule.size
        if self._record is not None:
            passed, count = self._record.passed, len(self._record.chosen.index)
        return self.epoch_schedule.progress(self.epoch, passed, count, self._before)

    def seed_for(self, stream: str, number: int = 0) -> int:
        """Seed of a stream of random numbers in batch `number` of the current epoch.

        Streams start again with each batch, so that they do not depend on what was fetched ahead.
        """
        key = (self.seed, self.epoch, STREAMS.index(stream), number)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])

    def generator_for(self, stream: str, number: int) -> torch.Generator:
        """A generator at the start of that stream, on the signals' device."""
        return torch.Generator(self.signals.device).manual_seed(self.seed_for(stream, number))

    def state_dict(self) -> dict[str, Any]:
        """Where the training run stands, and the current epoch's samples."""
        lengths = {} if self.lengths is None else {"lengths": self.lengths.state_dict()}
        return {
            **lengths,
            "epoch": self.epoch,
            "scoring_passes": self.scoring_passes,
            "before": self._before,
            "policies": None if self.policies is None else self.policies.state_dict(),
            "generator": self._generator.get_state(),
            "record": None if self._record is None else self._record.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.epoch = state["epoch"]
        self.scoring_passes = state["scoring_passes"]
        self._before = state["before"]
        self.was_loaded, self.began = True, None

        if self.policies is not None:
            self.policies.load_state_dict(state["policies"])
        if self.lengths is not None:
            self.lengths.load_state_dict(state["lengths"])
        self._generator.set_state(state["generator"].cpu())

        self._record = None
        if (record := state["record"]) is not None:
            device = self.signals.device
            self._begin_record(Selection(record["index"].to(device), record["weight"].to(device)))
            self.record.load_state_dict(record)
