"""Which samples an epoch trains on, and in which order."""

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.errors import check_count, check_seed, check_share
from dsenv.plan.epoch_record import EpochRecord
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.frameworks import SCORE, SCORE_IN, check_adapter
from dsenv.plan.lengths import Lengths
from dsenv.plan.plan_guard import PlanGuard
from dsenv.plan.policies import PlanPolicies
from dsenv.plan.world import check_accumulation
from dsenv.policy.parts import LearnedSelector
from dsenv.select.base import Selection, Selector, checked
from dsenv.select.infobatch import pruning_is_on
from dsenv.select.random import UniformRandom
from dsenv.signals import SampleSignals

STREAMS = ("loader", "augment", "views")  # what draws random numbers batch by batch


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

        self.world = epoch_schedule.world
        self.facts: Callable[[], Mapping[str, Any]] = dict
        """Gives what must be equal on all ranks, beside the samples, before an epoch is trained."""
        self.adapter: str | None = None
        """Name of the adapter that goes through the epochs for a framework; None for none."""

        self._is_accumulation_known = False  # it was compared with a framework's
        self._record: EpochRecord | None = None  # of the current epoch, once its samples are chosen
        self._late: dict[int, EpochRecord] = {}  # of epochs before, whose last batches are still on their way
        self._before = 0  # samples chosen in the epochs before
        self._owed = 0  # samples wanted so far less those given, where epochs are whole steps
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

    def to_train(self) -> EpochRecord:
        """The record of the current epoch, whose batches are asked for now: the ranks have the same samples.

        Raises:
            ValueError: they have not, the training run is over, or a framework asks without its adapter.
        """
        check_adapter(self.adapter)
        record = self.record
        if not self._is_accumulation_known:
            self._is_accumulation_known = True
            check_accumulation(self.epoch_schedule.accumulate)
        if not record.is_agreed:
            parts = (record.chosen.index, record.chosen.weight)
            digest = hashlib.blake2b(digest_size=8)
            for part in parts:
                digest.update(part.cpu().numpy().tobytes())
            what = f"the samples of epoch {self.epoch}"
            self.world.agree(what, {**self.facts(), "epoch": self.epoch, "choice": digest.hexdigest()})
            record.is_agreed = True
        return record

    def record_of(self, epoch: int) -> EpochRecord | None:
        """The record of an epoch whose losses may still come; None for any other."""
        if epoch == self.epoch and epoch < self.epoch_schedule.epochs:
            return self.record
        return self._late.get(epoch)

    @property
    def late(self) -> list[EpochRecord]:
        """Records of the epochs before the current one whose last losses are still to come, oldest first."""
        return [self._late[epoch] for epoch in sorted(self._late)]

    def close_before(self, epoch: int) -> list[EpochRecord]:
        """Close the epochs before this one, and those that are done; returns those that lack losses."""
        over = [record.epoch for record in self.late if record.epoch < epoch or record.is_done]
        closed = [self._late.pop(other) for other in over]
        return [record for record in closed if not record.is_done]

    @property
    def chosen(self) -> Selection:
        """The current epoch's samples in training order; errors as for `record`."""
        return self.record.chosen

    @property
    def end(self) -> int:
        """Samples that the current epoch trains on, on all ranks; errors as for `record`."""
        return self.record.end

    @property
    def done(self) -> int:
        """Samples of the current epoch that this rank trained on."""
        return 0 if self._record is None else self._record.done

    @property
    def is_done(self) -> bool:
        """Nothing is left of the current epoch."""
        return self._record is not None and self._record.is_done

    def _begin_epoch(self) -> None:
        """Choose the samples of the current epoch and put them into random order."""
        if self.epoch >= self.epoch_schedule.epochs:
            raise ValueError(f"the plan's {self.epoch_schedule.epochs} epochs are over")
        self.world.check()
        self.began = time.perf_counter()

        # How many, and what the policies behind learned parts say
        wanted = self._wanted()
        count, self._owed = self._in_steps(wanted)
        if self.policies is not None:
            self.policies.begin(self.signals, count, self._trust)

        # Which
        riding = 0 if self.guard is None else self.guard.riding(self.epoch, count)
        selection = self._guarded(count - riding)
        if self.policies is not None:
            self.policies.chose(selection.index, wanted)  # whole steps keep its budget over the run

        # In which order
        device = self._generator.device
        order = torch.randperm(len(selection.index), generator=self._generator, device=device)
        chosen = Selection(selection.index[order], selection.weight[order])
        if self.lengths is not None:
            chosen = self.lengths.arranged(chosen, self.epoch, self._generator)
        if self.guard is not None:
            end, batch_size = self.epoch_schedule.trained(count), self.epoch_schedule.batch_size
            chosen = self.guard.with_reserve(chosen, riding, end, batch_size)
        self._record = self._new_record(self.epoch, chosen)

    def _new_record(self, epoch: int, chosen: Selection) -> EpochRecord:
        schedule, world = self.epoch_schedule, self.world
        end = schedule.trained(len(chosen.index))
        sizes = (schedule.micro_batch_size, schedule.size)
        return EpochRecord(
            epoch, chosen, end, *sizes, world.rank, world.size, parts=world.size * schedule.accumulate
        )

    def _wanted(self) -> int:
        """How many samples the current epoch is to have, before they are made whole steps."""
        size, table = self.epoch_schedule.size, self.epoch_schedule
        if table.wanted is not None:
            return table.wanted[self.epoch]
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

    def _in_steps(self, wanted: int) -> tuple[int, int]:
        """Samples of the current epoch in whole steps, where they must be, and how many are owed then."""
        table = self.epoch_schedule
        return (table.counts[self.epoch], 0) if table.counts else table.in_steps(wanted, self._owed)

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
            how = SCORE_IN.get(self.adapter or "", SCORE).format(epoch=self.epoch)
            raise ValueError(
                f"{type(self.selector).__name__} ranks the samples in a pass over them: {how} ({error})"
            ) from error
        return checked(found, self.selector, count, self.signals.size, self.signals.loss.device)

    def tokens_of(self, index: Tensor, tokens: Tensor | None) -> Tensor | None:
        """Tokens (B,) of samples (B,), by their lengths where those are known, else as the loop said it."""
        return tokens if self.lengths is None else self.lengths.tokens[index.to(self.lengths.tokens.device)]

    def settings(self) -> dict[str, Any]:
        """The settings that a continued state must share."""
        own = {"seed": self.seed, "uniform_epochs": self.uniform_epochs, "tail": self.tail}
        return own if self.lengths is None else {**own, **self.lengths.settings()}

    def finish(self, *, keep: bool = False) -> None:
        """Go to the next epoch; with `keep` losses of this one may still come."""
        if self.policies is not None:  # an epoch without training counts for a policy too
            self._before += len(self.chosen.index)
        if keep and self._record is not None and not self._record.is_done:
            self._late[self.epoch] = self._record
        self.epoch += 1
        self._record = None

    @property
    def progress(self) -> float:
        """Share of the training run that is over, see `EpochSchedule.progress`."""
        epoch, before = self.epoch, self._before
        passed, count = 0, self.epoch_schedule.size
        record = self._record
        if late := self.late:
            record, epoch = late[0], late[0].epoch
            before -= sum(len(each.chosen.index) for each in late)
        if record is not None:
            passed, count = record.passed * record.ranks, len(record.chosen.index)
        elif epoch == 0:
            return 0.0
        return self.epoch_schedule.progress(epoch, passed, count, before)

    def seed_for(self, stream: str, number: int = 0, epoch: int | None = None) -> int:
        """Seed of a stream of random numbers in batch `number` of an epoch; None for the current one.

        Streams start again with each batch, so that they do not depend on what was fetched ahead. Ranks have
        batches of other numbers, and so other streams.
        """
        key = (self.seed, self.epoch if epoch is None else epoch, STREAMS.index(stream), number)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])

    def generator_for(self, stream: str, number: int, epoch: int | None = None) -> torch.Generator:
        """A generator at the start of that stream, on the signals' device."""
        return torch.Generator(self.signals.device).manual_seed(self.seed_for(stream, number, epoch))

    def _open(self) -> list[EpochRecord]:
        """Records of the epochs whose losses may still come, oldest first."""
        return [*self.late, *([] if self._record is None else [self._record])]

    def _heard(self) -> dict[int, tuple[Tensor, list[int]]]:
        """Samples of each open epoch that any rank trained on, and those left out; all ranks must call."""
        records = self._open()
        positions = [record.trained_on() for record in records]
        epochs = [
            torch.full_like(each, record.epoch) for record, each in zip(records, positions, strict=True)
        ]
        none = torch.zeros(0, dtype=torch.int64, device=self.signals.device)
        rows = {"epoch": torch.cat([none, *epochs]), "position": torch.cat([none, *positions])}
        left_out = {record.epoch: record.left_out for record in records}
        found, told = self.world.gather("a state of the plan: samples trained on", rows, left_out)

        return {
            record.epoch: (
                found["position"][found["epoch"] == record.epoch],
                sorted({position for each in told for position in each.get(record.epoch, [])}),
            )
            for record in records
        }

    def state_dict(self, *, gather: bool = True) -> dict[str, Any]:
        """Where the training run stands, and the samples of the open epochs.

        Args:
            gather: with what was trained on by the other ranks; every rank must call it.
        """
        heard = self._heard() if gather and not self.world.is_alone else {}

        def state_of(record: EpochRecord) -> dict[str, Any]:
            return record.state_dict(*heard.get(record.epoch, ()))

        lengths = {} if self.lengths is None else {"lengths": self.lengths.state_dict()}
        return {
            **lengths,
            "epoch": self.epoch,
            "scoring_passes": self.scoring_passes,
            "before": self._before,
            "owed": self._owed,
            "policies": None if self.policies is None else self.policies.state_dict(),
            "generator": self._generator.get_state(),
            "record": None if self._record is None else state_of(self._record),
            "late": [{"epoch": record.epoch, "record": state_of(record)} for record in self.late],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.epoch = state["epoch"]
        self.scoring_passes = state["scoring_passes"]
        self._before, self._owed = state["before"], state.get("owed", 0)
        self.was_loaded, self.began = True, None

        if self.policies is not None:
            self.policies.load_state_dict(state["policies"])
        if self.lengths is not None:
            self.lengths.load_state_dict(state["lengths"])
        self._generator.set_state(state["generator"].cpu())

        self._record = None
        if (record := state["record"]) is not None:
            self._record = self._loaded(self.epoch, record)
        self._late = {
            late["epoch"]: self._loaded(late["epoch"], late["record"]) for late in state.get("late", [])
        }

    def _loaded(self, epoch: int, state: Mapping[str, Any]) -> EpochRecord:
        device = self.signals.device
        chosen = Selection(state["index"].to(device), state["weight"].to(device))
        record = self._new_record(epoch, chosen)
        record.load_state_dict(state)
        return record
