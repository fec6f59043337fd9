"""What a plan decided and saw in an epoch, as plain numbers that are made when they are asked for."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dsenv.control.state import loss_bins
from dsenv.outputs import ModelOutputs
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.feedback import Feedback
from dsenv.plan.values import codes, unmasked
from dsenv.policy.runner import PolicyRunner
from dsenv.states import Anything, Either, TensorOf
from dsenv.task_kinds.classification import read_outputs
from dsenv.tracking import names
from dsenv.tracking.constant import Changing

BINS = 5
"""Loss-rank bins, as many as an environment has by default."""


@dataclass
class EpochNote:
    """What is kept of one epoch: 4 bytes a sample for the losses, and 8 a chosen one once it is over."""

    losses: Tensor | None = None
    """(N,) float32 last loss of each sample before the epoch; None where it is not known."""
    nonfinite: Tensor | None = None
    """(N,) int32 visits left out before it, see `ValueRecord.count`; None where not known, and in epoch 0."""
    epoch: int = 0
    """Number of the epoch."""
    chosen: Tensor | None = None
    """(M,) positions of the samples to train on."""
    trained: Tensor | None = None
    """(M,) the same without the reserve of a guard."""
    strengths: Tensor | None = None
    """(N,) strengths, see `AugmentationController.noted`."""
    acted_on: Sequence[Tensor | None] = ()
    """(G,) each: what the policies behind learned parts saw, see `PolicyRunner.acted_on`."""
    guard: Mapping[str, float] = field(default_factory=dict)
    """What the guard said, by names of `dsenv.tracking.names`."""
    seconds: float | None = None
    """Time since its samples were chosen, until its end."""


@dataclass
class Series:
    """What a log has written so far and needs again after a resume."""

    changing: Changing = field(default_factory=Changing)
    """Withholds what never changes."""
    bins: dict[int, list[float]] = field(default_factory=dict)
    """Epoch -> share of the chosen from each loss-rank bin."""

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "changing": self.changing.state_dict(),
            "bins": [[epoch, *row] for epoch, row in self.bins.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.changing.load_state_dict(state["changing"])
        self.bins = {int(epoch): [float(share) for share in row] for epoch, *row in state["bins"]}


@dataclass
class PlanMetrics:
    """Makes the numbers of `DataPlan.metrics`. Nothing here runs in a step of the training."""

    epoch_sampler: EpochSampler
    feedback: Feedback
    knows_guess: bool
    """Whether the loss of a guess is known, which unseen samples have."""
    now: EpochNote = field(default_factory=EpochNote)
    """Of the current epoch."""
    before: EpochNote | None = None
    """Of the epoch that ended last; None for none in this process."""
    series: Series | None = None
    """Of the log; None where there never was one."""
    written: int | None = None
    """The epoch that the log wrote last, in this process."""

    # What is noted between epochs

    def end_epoch(self) -> None:
        """Note what the metrics of the epoch that ends, and of the next one, are made of."""
        self.before, epoch = self._present(), self.epoch_sampler.epoch
        if (controller := self.feedback.controller) is not None:
            controller.noted = None
        self._begin(epoch + 1)

    def _present(self) -> EpochNote:
        """The note of the current epoch with all that is known by now."""
        sampler, controller = self.epoch_sampler, self.feedback.controller
        note = EpochNote(self.now.losses, self.now.nonfinite, sampler.epoch)
        note.strengths = None if controller is None else controller.noted
        if (record := sampler.begun) is not None:
            note.chosen = record.chosen.index[: record.end]
            note.trained = self._without_reserve(note.chosen)
            note.acted_on = [runner.acted_on for runner in self._runners]
            guard, waiting = sampler.guard, self.feedback.buffer.joined
            note.guard = {} if guard is None else guard.numbers(waiting())
            note.seconds = None if sampler.began is None else time.perf_counter() - sampler.began
        return note

    @property
    def _runners(self) -> list[PolicyRunner]:
        policies = self.epoch_sampler.policies
        return [] if policies is None else policies.runners

    def _begin(self, epoch: int) -> None:
        """Note what is known before an epoch; a copy of (N,) losses on the device, and no wait."""
        self.now = EpochNote(self.feedback.signals.loss.clone(), self.feedback.values.count, epoch)

    # What is said of an epoch

    def note(self) -> EpochNote | None:
        """The epoch that the metrics speak of; None where nothing was trained on yet."""
        return self._present() if self.epoch_sampler.done else self.before

    def read(self) -> dict[str, float]:
        """The numbers, by names of `dsenv.tracking.names`; what is not known is left out."""
        note, cost = self.note(), self.feedback.cost
        found: dict[str, float] = {
            names.SAMPLES: cost.trained,
            **({names.TOKENS: cost.tokens} if cost.tokens else {}),
            names.FORWARDS: cost.extra_forwards,
            names.PLAN_SECONDS: sum(cost.seconds.values()),
        }
        if note is not None:
            seen = self.feedback.buffer.joined()
            found |= self._decided(note) | self._seen(note, seen) | self._strength(note, seen)
            found |= {} if note.seconds is None else {names.EPOCH_SECONDS: note.seconds}
            found |= self._acted_on(note) | dict(note.guard)
        return {name: float(value) for name, value in found.items() if math.isfinite(value)}

    def _flushed(self, note: EpochNote) -> Tensor:
        """Samples (N,) of the epoch that the signals have taken in."""
        return self.feedback.signals.last_step == note.epoch

    def _without_reserve(self, index: Tensor) -> Tensor:
        """The samples (M,) that are not of a guard's reserve."""
        guard = self.epoch_sampler.guard
        return index if guard is None else index[~guard.holds(index)]

    def _decided(self, note: EpochNote) -> dict[str, float]:
        """How many were chosen, and from where."""
        if note.chosen is None or note.trained is None or not len(note.trained):
            return {}
        signals = self.feedback.signals
        number = len(note.trained)
        known = signals.times_trained - self._flushed(note).int() > 0
        found = {
            names.SHARE: len(note.chosen) / signals.size,
            names.NEW: 1 - int(known[note.trained].sum()) / number,
        }

        # Without classes nobody can say what loss a sample has that was never trained on
        can_rank = bool(known.any() if self.knows_guess else known.all())
        if note.losses is not None and can_rank:
            every = torch.zeros_like(known)
            every[self._without_reserve(torch.arange(signals.size, device=every.device))] = True
            bins = loss_bins(note.losses[None], every[None], BINS)[0]
            counted = torch.bincount(bins[note.trained], minlength=BINS).tolist()
            found |= {names.loss_bin(b): count / number for b, count in enumerate(counted)}
        return found

    def _seen(self, note: EpochNote, seen: ModelOutputs | None) -> dict[str, float]:
        """What the training forward said: of what the signals have taken in, and of what waits for it."""
        signals, values = self.feedback.signals, self.feedback.values
        flushed = self._flushed(note)
        has_flushed = bool(flushed.any())
        before: Tensor | int | None = 0 if note.epoch == 0 else note.nonfinite
        if has_flushed and before is None:
            return {}

        # Sums over the signals
        number, left_out, loss, correct = 0, 0, 0.0, 0.0
        has_logits = True
        if has_flushed and before is not None:
            is_bad = flushed & (values.count > before)
            good = flushed & ~is_bad
            number, left_out = int(good.sum()), int(is_bad.sum())
            loss = float(signals.loss[good].sum())
            has_logits = signals.knows("correct")
            correct = float(signals.correct[good].sum()) if has_logits else 0.0

        # And over the batches that they have not taken in yet
        if seen is not None:
            code = codes(unmasked(seen), None if seen.logits is None else signals.classes)
            guard = self.feedback.guard
            own = torch.ones_like(code > 0) if guard is None else ~guard.holds(seen.index)
            good = (code == 0) & own
            left_out += int(((code > 0) & own).sum())
            number += int(good.sum())
            loss += float(seen.loss[good].float().sum())
            right = _correct(seen, good)
            has_logits &= right is not None
            correct += 0.0 if right is None else float(right.sum())

        found = {names.NOT_FINITE: float(left_out)}
        if number:
            found[names.TRAIN_LOSS] = loss / number
        if number and has_logits:
            found[names.TRAIN_ACCURACY] = correct / number
        return found

    def _strength(self, note: EpochNote, seen: ModelOutputs | None) -> dict[str, float]:
        """Mean strength of the samples trained on, where that of every one is known."""
        if note.strengths is None:
            return {}
        trained = self._flushed(note)
        if seen is not None:
            trained = trained.index_fill(0, self._without_reserve(seen.index), True)
        strength = note.strengths[trained]
        is_known = len(strength) > 0 and bool((strength >= 0).all())
        return {names.STRENGTH: float(strength.mean())} if is_known else {}

    def _acted_on(self, note: EpochNote) -> dict[str, float]:
        """What the policies behind learned parts saw when they decided."""
        pairs = zip(self._runners, note.acted_on, strict=False)  # none where the epoch was never begun
        return {
            names.feature(name, number): value
            for number, (runner, shown) in enumerate(pairs, 1)
            if shown is not None
            for name, value in zip(runner.entries, shown.tolist(), strict=True)
        }

    # States

    def state_dict(self) -> dict[str, Any]:
        """What cannot be told from the rest of a plan's state: None where it can."""
        controller = self.feedback.controller
        is_begun = self.epoch_sampler.begun is not None
        needs = is_begun and bool(self._flushed(self._present()).any())
        is_shared = is_begun and not self.epoch_sampler.world.is_alone  # each rank noted its own samples
        noted = controller.noted if controller is not None and is_begun and not is_shared else None
        kept = {"losses": self.now.losses, "nonfinite": self.now.nonfinite} if needs else {}
        return {
            **{name: _copied(kept.get(name)) for name in ("losses", "nonfinite")},
            "strengths": _copied(noted),
            "series": None if self.series is None else self.series.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from `state_dict()`, after the rest of the plan; None for one of an older version."""
        state = state or dict.fromkeys(("losses", "nonfinite", "strengths", "series"))
        device = self.feedback.signals.device
        self.before, self.written = None, None
        self._begin(self.epoch_sampler.epoch)
        if bool(self._flushed(self.now).any()):  # what was known before is no longer in the signals
            self.now.losses = _copied(state["losses"], device)
            self.now.nonfinite = _copied(state["nonfinite"], device)

        if (controller := self.feedback.controller) is not None:
            controller.noted = _copied(state["strengths"], device)
        if state["series"] is not None or self.series is not None:
            self.series = Series()
        if state["series"] is not None and self.series is not None:
            self.series.load_state_dict(state["series"])


def _correct(seen: ModelOutputs, good: Tensor) -> Tensor | None:
    """Which of the good (B,) bool samples are predicted as labelled; None where the outputs do not say."""
    if seen.logits is not None:
        logits = unmasked(seen).logits
        assert logits is not None
        return read_outputs(logits[good], seen.labels[good])["correct"]
    found = (seen.readings or {}).get("correct")
    return None if found is None else found[good]


def _copied(value: Tensor | None, device: torch.device | None = None) -> Tensor | None:
    return None if value is None else value.to(device or value.device).clone()


def state_like(size: int) -> Either:
    """How the metrics' part of a state for N samples must look."""
    numbers = TensorOf(torch.float32, (size,))
    kept = {
        "losses": Either(None, numbers),
        "nonfinite": Either(None, TensorOf(torch.int32, (size,))),
        "strengths": Either(None, numbers),
        "series": Anything(),
    }
    return Either(None, kept)
