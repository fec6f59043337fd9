"""What is done to a batch before the forward pass, and who learns from its outputs."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.kernels import cross_entropy
from dsenv.outputs import ModelOutputs
from dsenv.plan import checks, places
from dsenv.plan.batch_loss import BatchLoss
from dsenv.plan.cost import Cost
from dsenv.plan.data import Batch, to_device
from dsenv.plan.epoch_buffer import FLUSH_ELEMENTS, EpochBuffer
from dsenv.plan.epoch_record import EpochRecord
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.exchange import EVERY, PendingBatches, gather_epochs, shared_pass
from dsenv.plan.forward import ForwardFunction, full_pass, outputs, read
from dsenv.plan.moved import moved_views
from dsenv.plan.plan_guard import PlanGuard
from dsenv.plan.said import Said, check_guard, check_needed
from dsenv.plan.signals import PlanSignals
from dsenv.plan.source import Source
from dsenv.plan.values import ValueRecord, are_classes, are_finite, codes, mended, unmasked
from dsenv.policy.parts import LearnedVolume
from dsenv.select.base import Selector

Transform = Callable[[Any], Any]


class BatchTransform:
    """Augments the inputs of a batch and transforms them.

    Args:
        plan: number of the plan, with which its batches are stamped.
        controller: augments; None for no augmentation.
        transform: applied after it; None for none.
        epoch_sampler: gives signals, random streams and the epoch.
        cost: records the time.
        classes: C; None where it is not known.
        kind: of task; says by `on_images` which plain targets lie on the images, and by `ignore_index` what
            pixels from outside of an image are.
    """

    def __init__(
        self,
        plan: int,
        controller: AugmentationController | None,
        transform: Transform | None,
        epoch_sampler: EpochSampler,
        cost: "Cost",
        classes: int | None,
        kind: Any = None,
    ) -> None:
        self.plan = plan
        self.classes = classes
        self.kind = kind
        self.controller = controller
        self.transform = transform or _same
        self.epoch_sampler = epoch_sampler
        self.cost = cost

    def __call__(
        self, index: Tensor, inputs: Any, labels: Any, weight: Tensor, number: int, epoch: int
    ) -> Batch:
        """Batch `number` of an epoch, from raw inputs (B, ...)."""
        stamp = (self.plan, epoch, number)
        if self.controller is None:
            return Batch(self.transform(inputs), labels, index, weight, *stamp)
        places.check_images(inputs)
        moves = places.check_geometry(self.controller, inputs, labels, self.classes, self.kind)
        if self.controller.noted is None:
            self.controller.note_strengths(self.epoch_sampler.signals)

        with self.cost.timed("augment"):
            generator = self.epoch_sampler.generator_for("augment", number, epoch)
            known = (self.epoch_sampler.signals, index, generator)
            of_views: Sequence[Any] = ()
            if moves or not isinstance(inputs, Tensor):
                views, (labels, *of_views) = moved_views(self.controller, known, inputs, labels, self.kind)
            else:
                views = self.controller.views(inputs, *known)
        checks.check_views(self.controller, views)
        trained, *more = (self.transform(view) for view in views)
        return Batch(trained, labels, index, weight, *stamp, tuple(more), tuple(of_views))


def _same(inputs: Any) -> Any:
    return inputs


class Feedback:
    """Hands every training batch to those who learn from it, and knows what they need.

    Args:
        selector: sees every batch.
        controller: sees every batch; None where nothing is augmented.
        signals: take in an epoch's batches at its end.
        cost: records time and further forwards.
        volume: a learned one, which needs logits; None for any other.
        guard: of a choice, with a reserve that nobody else learns from; None for none.
        epoch_sampler: where the training run stands, and the ranks.
        batch_loss: what is made of the loss of a batch; None where losses are those of samples.
    """

    def __init__(
        self,
        selector: Selector,
        controller: AugmentationController | None,
        signals: PlanSignals,
        cost: Cost,
        volume: LearnedVolume | None,
        guard: PlanGuard | None,
        epoch_sampler: EpochSampler,
        batch_loss: BatchLoss | None = None,
    ) -> None:
        check_guard(guard, signals.kind)
        self.guard, self.batch_loss = guard, batch_loss
        self.epoch_sampler, self.world = epoch_sampler, epoch_sampler.world
        self.selector = selector
        self.controller = controller
        self.signals = signals
        self.cost = cost
        self.values = ValueRecord(signals.size, signals.device)
        self._needing = (selector, controller, volume, guard)
        learning: list[Any] = [selector] if selector.observes else []
        if controller is not None and (controller.observes or controller.extra_views):
            learning.append(controller)
        names = ("logits", "features")
        self._needs = {name: any(getattr(part, f"needs_{name}") for part in learning) for name in names}
        self.buffer = EpochBuffer(batch_loss)
        self.late: dict[int, EpochBuffer] = {}
        """Outputs of batches of epochs before the current one, heard after the next was chosen."""
        self.pending = PendingBatches()
        self.settled: int | None = None
        """The last epoch that was taken in before it was ended."""

    def checked(
        self,
        batch: Batch,
        losses: Any,
        said: Said,
        classes: int | None,
        tokens: Tensor | None = None,
    ) -> ModelOutputs:
        """The batch's training forward, detached.

        Raises:
            ValueError: something is missing or has another shape.
        """
        size, device = len(batch.index), batch.weight.device
        if self.batch_loss is not None:
            self.batch_loss.check_alone(said)
            losses = self.batch_loss.spread(losses, size, device)
        checks.check_losses(losses, size, device)
        if tokens is not None:
            checks.check_tokens(tokens, size, device, losses)
        logits, readings = said.read(self.signals.kind, batch, losses.detach(), classes)
        check_needed(self._needing, said, logits, readings, self.signals.kind)
        features = None if said.features is None else said.features.detach()

        index = batch.index.to(self.signals.device)
        labels = batch.labels if isinstance(batch.labels, Tensor) and logits is not None else None
        labels = torch.full_like(index, -1) if labels is None else labels
        return ModelOutputs(index, labels, losses.detach(), logits, features, readings)

    def forward_views(self, batch: Batch, forward: ForwardFunction | None) -> list[ModelOutputs]:
        """Outputs for the batch's further views, where the controller compares them."""
        if self.controller is None or not self.controller.extra_views:
            return []
        checks.check_forward(self.controller, batch, forward)
        assert forward is not None

        self.cost.extra_forwards += len(batch.views) * len(batch.index)
        found = []
        with self.cost.timed("score"):
            targets = batch.view_labels or (batch.labels,) * len(batch.views)
            for view, labels in zip(batch.views, targets, strict=True):
                logits, features = outputs(forward, view)
                if self.signals.kind.classes is None:
                    found.append(read(self.signals.kind, batch.index, logits, features, labels))
                    continue
                losses = cross_entropy(logits.float(), labels)
                found.append(ModelOutputs(batch.index, labels, losses, logits, features))
        return found

    def take_in(
        self, seen: ModelOutputs, views: list[ModelOutputs], record: EpochRecord, number: int
    ) -> None:
        """Learn from a training batch.

        Args:
            seen: its outputs.
            views: those of its further views.
            record: of its epoch.
            number: of the batch in its epoch.
        """
        kind = self.signals.device.type
        full = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
        epoch, is_late = record.epoch, record.epoch < self.epoch_sampler.epoch

        with self.cost.timed("observe"), full:
            # The signals take in many batches at once, and look at their values then
            buffer = self.late.setdefault(epoch, EpochBuffer(self.batch_loss)) if is_late else self.buffer
            buffer.add(seen)
            if self._is_full(seen, record, number):
                self._flush(self.epoch_sampler.epoch)

            # Who learns batch by batch sees the batches of all ranks
            controller = self.controller if self.controller is not None and self.controller.observes else None
            if not self.selector.observes and controller is None and not views:
                return
            if self.world.is_alone:
                self._show(epoch, number, seen, views)
                return
            self.pending.add(epoch, number, seen, views)
            if (number // record.ranks + 1) % EVERY == 0:
                self._show_pending()

    def _is_full(self, seen: ModelOutputs, record: EpochRecord, number: int) -> bool:
        """Whether so much is kept that the signals should take it in; on all ranks at the same batch."""
        if self.world.is_alone:
            return self.buffer.is_full
        if seen.logits is None:
            return False
        elements = record.batch_size * record.ranks * seen.logits.shape[1]
        return (number // record.ranks + 1) % max(1, FLUSH_ELEMENTS // elements) == 0

    def _show_pending(self) -> None:
        """Show the batches of all ranks to who learns batch by batch; all ranks come here."""
        for found in self.pending.taken(self.world, self.signals.device):
            self._show(*found)

    def _show(self, epoch: int, number: int, seen: ModelOutputs, views: list[ModelOutputs]) -> None:
        """Show a batch to who learns batch by batch: finite values only, and none of a reserve."""
        controller = self.controller if self.controller is not None and self.controller.observes else None
        seen, *views = [self._mended(each) for each in self._shown(seen, *views)]
        if not len(seen.index):
            return
        if self.selector.observes:
            self.selector.observe(seen)
        if views and self.controller is not None:
            generator = self.epoch_sampler.generator_for("views", number, epoch)
            self.controller.observe_views(seen, views, generator)
        elif controller is not None:
            controller.observe(seen)

    def _shown(self, *batch: ModelOutputs) -> Iterator[ModelOutputs]:
        """The outputs of a batch and its views without the guard's reserve; a wait for a device."""
        if self.guard is None:
            yield from batch
            return
        rows = (~self.guard.holds(batch[0].index)).nonzero().flatten()
        for seen in batch:
            yield seen.rows(rows)

    def _mended(self, seen: ModelOutputs) -> ModelOutputs:
        """The outputs without what is not finite, or of no class, which goes on record."""
        classes = None if seen.logits is None else self.signals.classes
        if seen.loss.is_cpu:  # to ask a device would be a wait
            logits = seen.logits if self._needs["logits"] else None
            features = seen.features if self._needs["features"] else None
            of_classes = logits is None or are_classes(seen.labels, classes)
            readings = (seen.readings or {}).values()
            if are_finite(seen.loss, logits, features, *readings) and of_classes:
                return replace(seen, is_finite=True)

        seen = unmasked(seen)
        code = codes(seen, classes)
        self.values.add(seen.index, code)
        if classes is not None:
            seen = replace(seen, labels=seen.labels.clamp(0, classes - 1))
        return mended(seen, code)

    def pass_over(
        self, source: Source, forward: ForwardFunction, classes: int | None, **how: Any
    ) -> ModelOutputs:
        """A scoring pass over a source; `how` are `transform`, `sample_loss`, `of` and loader settings."""
        sample_loss, size, of = how.pop("sample_loss", None), len(source.dataset), how.pop("of", None)
        rules = (sample_loss, classes, of, self.signals.kind)
        with self.cost.timed("score"):
            if self.world.is_alone:
                found = full_pass(forward, source.batches(**how), size, *rules)
            else:
                found = shared_pass(self.world, source, forward, *rules, **how)
        self.cost.extra_forwards += size if self.world.is_alone else len(self.world.share(size))
        return found

    def settle(self, epoch: int) -> None:
        """Let the signals take in an epoch of which every sample was trained on, before it is ended."""
        if self.settled == epoch:
            return
        self._flush(epoch)
        self.cost.settle(self.world)
        self.settled = epoch
        if self.signals.device.type == "cpu":  # elsewhere it would be a wait
            self.values.report(epoch, stacklevel=5)

    def leave(self, epoch: int) -> None:
        """Say which values of an epoch that is left early were not finite."""
        self.buffer.note(self.signals, self.values)
        self.values.report(epoch, stacklevel=5)

    def end_epoch(self, epoch: int) -> None:
        """Let the signals take in the epoch, and say which values were not finite."""
        with self.cost.timed("observe"):
            self._flush(epoch)
            if not self.world.is_alone:
                self._show_pending()
            self.cost.settle(self.world)
            if self.controller is not None:
                self.controller.end_epoch()
        self.values.report(epoch, stacklevel=6)
        if self.guard is not None:
            self.guard.end_epoch(epoch, self.signals)

    def _flush(self, epoch: int) -> None:
        """Let the signals take in what was kept of an epoch, and of those before it; all ranks come here."""
        kept = {**self.late, epoch: self.buffer}
        if not self.world.is_alone:
            kept = self._gathered(f"what was heard until the turn of epoch {epoch}", kept)
        for number in sorted(kept):
            kept[number].flush(self.signals, number, self.values, self.guard, is_late=number < epoch)
        self.buffer, self.late = EpochBuffer(self.batch_loss), {}

    def _gathered(self, what: str, kept: Mapping[int, EpochBuffer]) -> dict[int, EpochBuffer]:
        """What all ranks keep, by epoch."""
        own = {epoch: buffer.columns() for epoch, buffer in kept.items()}
        found, twice = gather_epochs(self.world, what, own, self.signals.device)
        if twice:
            warnings.warn(
                f"{what}: {twice} samples were trained on by more than one rank; some frameworks deal "
                "samples out again or repeat them, see docs/frameworks.md",
                stacklevel=6,
            )
        return {epoch: EpochBuffer.of(rows, self.batch_loss) for epoch, rows in found.items()}

    def state_dict(self, *, gather: bool = True) -> dict[str, Any]:
        """Everything learnt so far.

        Args:
            gather: with what the other ranks keep; every rank must call it.
        """
        buffers = {**self.late, self.epoch_sampler.epoch: self.buffer}
        rows: dict[str, Tensor] = {}
        if gather and not self.world.is_alone:
            what, device = "a state of the plan", self.signals.device
            buffers = self._gathered(what, buffers)
            rows = self.pending.gathered(self.world, what, device)
        buffer = buffers.pop(self.epoch_sampler.epoch, EpochBuffer(self.batch_loss))

        return {
            "signals": self.signals.state_dict(),
            "blind": self.signals.blind,
            "buffer": buffer.state_dict(),
            "late": [{"epoch": epoch, "buffer": buffers[epoch].state_dict()} for epoch in sorted(buffers)],
            "pending": rows,
            "values": self.values.state_dict(),
            "selector": self.selector.state_dict(),
            "controller": None if self.controller is None else self.controller.state_dict(),
            "cost": self._cost_state() if gather else self.cost.state_dict(),
            "guard": None if self.guard is None else self.guard.state_dict(),
        }

    def _cost_state(self) -> dict[str, Any]:
        """What all ranks have cost, and the seconds of the first one; all ranks come here."""
        self.cost.settle(self.world)
        state = self.cost.state_dict()
        return {**state, "seconds": self.world.tell("a state of the plan: seconds", state["seconds"])[0]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.signals.load_state_dict(state["signals"])
        self.signals.blind = state["blind"]
        self.buffer.load_state_dict(state["buffer"], self.signals.device)
        self.late = {late["epoch"]: EpochBuffer(self.batch_loss) for late in state.get("late", [])}
        for late in state.get("late", []):
            self.late[late["epoch"]].load_state_dict(late["buffer"], self.signals.device)
        if self.world.rank > 0:  # what all ranks had heard, the first one keeps for all
            self.buffer, self.late = EpochBuffer(self.batch_loss), {}
        self.values.load_state_dict(state["values"])
        # A state read with map_location="cpu" goes on where the plan is.
        self.selector.load_state_dict(to_device(state["selector"], self.signals.device))
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        self.cost.load_state_dict(state["cost"])
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
        self.settled = None
        self.pending.load(state.get("pending", {}), self.world, self.signals.device)
        if self.world.is_alone:
            self._show_pending()
