"""What is done to a batch before the forward pass, and who learns from its outputs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.kernels import cross_entropy
from dsenv.outputs import ModelOutputs
from dsenv.plan import checks
from dsenv.plan.data import Batch, to_device
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.forward import ForwardFunction, outputs
from dsenv.plan.suspects import LabelHistory
from dsenv.plan.values import ValueRecord, are_classes, are_finite, codes, mended, unmasked
from dsenv.policy.parts import LearnedVolume
from dsenv.select.base import Selector
from dsenv.signals import SampleSignals, read_outputs_and_rival
from dsenv.volume.budget import FORWARD_COST

Transform = Callable[[Any], Any]

FROM_LOGITS = ("confidence", "entropy", "margin", "correct", "forgetting_events")
FLUSH_ELEMENTS = 1 << 24  # logits, samples x classes, kept before the signals take them in
PARTS = ("select", "augment", "observe", "score")


@dataclass
class Cost:
    """What a training run has cost so far, and the time that the plan's own work took."""

    trained: int = 0
    """Samples trained on (forward and backward)."""
    extra_forwards: int = 0
    """Samples of further forward passes, over the training set, a validation split or other views."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Time on the host in "select", "augment", "observe" and "score"."""

    @property
    def compute(self) -> float:
        """All of it, in samples trained on; a forward pass alone counts as a third."""
        return self.trained + FORWARD_COST * self.extra_forwards

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of a block to `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """A copy of all of it."""
        return {"trained": self.trained, "extra_forwards": self.extra_forwards, "seconds": dict(self.seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.trained = state["trained"]
        self.extra_forwards = state["extra_forwards"]
        self.seconds = dict(state["seconds"])


class PlanSignals(SampleSignals):
    """Signals of a training loop that may give no logits.

    Without logits the signals made of them stay as they were before training, and reading them is an
    error once samples were trained on.
    """

    blind = False
    """The last samples came without logits."""
    label_history: LabelHistory | None = None
    """What the visits said about each label, for `DataPlan.suspects`; None before the first logits."""

    def __getattr__(self, name: str) -> Tensor:
        if name in FROM_LOGITS and self.blind:
            raise ValueError(
                f"the signal {name!r} needs the model's outputs: plan.loss(batch, losses, logits=logits)"
            )
        return super().__getattr__(name)

    def update_losses(self, index: Tensor, loss: Tensor, step: int, **known: Tensor | None) -> None:
        """Take in losses (B,) of samples (B,) whose logits are not known; `known` as for `update`."""
        self.blind = True
        self.update(index, loss, None, torch.zeros_like(index), step, **known)

    def _read(self, index: Tensor, logits: Tensor, labels: Tensor, known: Tensor | None) -> dict[str, Tensor]:
        """What the outputs say, as signals; the history of the labels takes it in."""
        if self.label_history is None:
            self.label_history = LabelHistory(self.size, self.device)
        said, rival, probability = read_outputs_and_rival(logits, labels)
        self.label_history.add(index, logits, labels, rival, probability, known)
        return said

    def reset(self, replicas: Iterable[int] | None = None) -> None:
        """Forget everything."""
        super().reset(replicas)
        self.label_history = None

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of every signal, and of what is known about the labels."""
        history = self.label_history or LabelHistory(self.size, self.device)
        return {**super().state_dict(), **history.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        history = LabelHistory(self.size, self.device)
        history.load_state_dict(state)
        super().load_state_dict(state)
        self.label_history = history if bool(history.visits.any()) else None


class EpochBuffer:
    """Outputs of one epoch's training batches, kept until the signals take them in together.

    Samples are chosen between epochs, so nobody needs them earlier, and ranks are those of the whole epoch.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []
        self._elements = 0

    def add(self, signals: PlanSignals, index: Tensor, loss: Tensor, *more: Tensor) -> None:
        """Keep a batch without its graph: positions and losses (B,), and logits (B, C) with labels or not."""
        if self._parts and len(self._parts[0]) != 2 + len(more):
            raise ValueError("some batches of this epoch came with logits and some without; give them always")
        # Cloned, since a compiled model may write its next outputs into the same memory.
        self._parts.append((index, loss.clone(), *(value.clone() for value in more)))
        self._elements += len(loss) * (signals.classes if more else 1)

    @property
    def is_full(self) -> bool:
        """So much is kept that the signals should take it in now."""
        return self._elements > FLUSH_ELEMENTS

    def note(self, signals: PlanSignals, record: ValueRecord) -> None:
        """Put on record what is not finite of all that is kept."""
        for index, loss, *more in self._parts:
            logits, labels = more or (None, index)
            seen = unmasked(ModelOutputs(index, labels, loss, logits))
            record.add(index, codes(seen, None if logits is None else signals.classes))

    def flush(self, signals: PlanSignals, step: int, record: ValueRecord) -> None:
        """Let the signals take in what is kept, but for what is not finite, which goes on record."""
        if not self._parts:
            return

        # What is not finite is found here, in one look at many batches
        index, loss, *more = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        logits, labels = more or (None, index)
        seen = ModelOutputs(index, labels, loss, logits)
        classes = None if logits is None else signals.classes
        known: dict[str, Tensor] = {}
        if loss.device.type != "cpu" or not (are_finite(loss, logits) and are_classes(labels, classes)):
            seen = unmasked(seen)
            code = codes(seen, classes)
            never = record.count[index] == signals.times_trained[index]
            known = {"known": code == 0, "filled": never & (code > 0)}
            record.add(index, code)
            record.count[index] += (code > 0).int()
            seen = mended(seen, code)

        if seen.logits is None:
            signals.update_losses(index, seen.loss, step, **known)
        else:
            signals.blind = False
            labels = seen.labels.clamp(0, signals.classes - 1)
            signals.update(index, seen.loss, seen.logits, labels, step, **known)
        self._parts, self._elements = [], 0

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return {"parts": [list(part) for part in self._parts], "elements": self._elements}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from `state_dict()`."""
        self._parts = [tuple(value.to(device) for value in part) for part in state["parts"]]
        self._elements = state["elements"]


class BatchTransform:
    """Augments the inputs of a batch and transforms them.

    Args:
        plan: number of the plan, with which its batches are stamped.
        controller: augments; None for no augmentation.
        transform: applied after it; None for none.
        epoch_sampler: gives signals, random streams and the epoch.
        cost: records the time.
        classes: C; None where it is not known.
    """

    def __init__(
        self,
        plan: int,
        controller: AugmentationController | None,
        transform: Transform | None,
        epoch_sampler: EpochSampler,
        cost: "Cost",
        classes: int | None,
    ) -> None:
        self.plan = plan
        self.classes = classes
        self.controller = controller
        self.transform = transform or _same
        self.epoch_sampler = epoch_sampler
        self.cost = cost

    def __call__(self, index: Tensor, inputs: Any, labels: Any, weight: Tensor, number: int) -> Batch:
        """Batch `number` of the epoch, from raw inputs (B, ...)."""
        stamp = (self.plan, self.epoch_sampler.epoch, number)
        if self.controller is None:
            return Batch(self.transform(inputs), labels, index, weight, *stamp)
        checks.check_images(inputs)
        checks.check_geometry(self.controller, inputs, labels, self.classes)

        with self.cost.timed("augment"):
            generator = self.epoch_sampler.generator_for("augment", number)
            views = self.controller.views(inputs, self.epoch_sampler.signals, index, generator)
        checks.check_views(self.controller, views)
        trained, *more = (self.transform(view) for view in views)
        return Batch(trained, labels, index, weight, *stamp, tuple(more))


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
    """

    def __init__(
        self,
        selector: Selector,
        controller: AugmentationController | None,
        signals: PlanSignals,
        cost: Cost,
        volume: LearnedVolume | None = None,
    ) -> None:
        self.selector = selector
        self.controller = controller
        self.signals = signals
        self.cost = cost
        self.values = ValueRecord(signals.size, signals.device)
        self._needing = (selector, controller, volume)
        learning: list[Any] = [selector] if selector.observes else []
        if controller is not None and (controller.observes or controller.extra_views):
            learning.append(controller)
        names = ("logits", "features")
        self._needs = {name: any(getattr(part, f"needs_{name}") for part in learning) for name in names}
        self._buffer = EpochBuffer()

    def checked(
        self,
        batch: Batch,
        losses: Any,
        logits: Tensor | None,
        features: Tensor | None,
        classes: int | None,
    ) -> ModelOutputs:
        """The batch's training forward, detached.

        Raises:
            ValueError: something is missing or has another shape.
        """
        size = len(batch.index)
        device = batch.weight.device
        checks.check_losses(losses, size, device)
        checks.check_outputs(self._needing, size, classes, logits, features, batch.labels, device)
        found = (None if value is None else value.detach() for value in (logits, features))
        return ModelOutputs(batch.index.to(self.signals.device), batch.labels, losses.detach(), *found)

    def forward_views(self, batch: Batch, forward: ForwardFunction | None) -> list[ModelOutputs]:
        """Outputs for the batch's further views, where the controller compares them."""
        if self.controller is None or not self.controller.extra_views:
            return []
        checks.check_forward(self.controller, batch, forward)
        assert forward is not None

        self.cost.extra_forwards += len(batch.views) * len(batch.index)
        found = []
        with self.cost.timed("score"):
            for view in batch.views:
                logits, features = outputs(forward, view)
                losses = cross_entropy(logits.float(), batch.labels)
                found.append(ModelOutputs(batch.index, batch.labels, losses, logits, features))
        return found

    def take_in(
        self, seen: ModelOutputs, views: list[ModelOutputs], epoch_sampler: EpochSampler, number: int
    ) -> None:
        """Learn from a training batch.

        Args:
            seen: its outputs.
            views: those of its further views.
            epoch_sampler: where the training run stands.
            number: of the batch in its epoch.
        """
        kind = self.signals.device.type
        full = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()

        with self.cost.timed("observe"), full:
            # The signals take in many batches at once, and look at their values then
            more = () if seen.logits is None else (seen.logits, seen.labels)
            self._buffer.add(self.signals, seen.index, seen.loss, *more)
            if self._buffer.is_full:
                self._buffer.flush(self.signals, epoch_sampler.epoch, self.values)

            # Who learns batch by batch gets finite values only
            controller = self.controller if self.controller is not None and self.controller.observes else None
            if not self.selector.observes and controller is None and not views:
                return
            seen, views = self._mended(seen), [self._mended(view) for view in views]
            if self.selector.observes:
                self.selector.observe(seen)
            if views and self.controller is not None:
                generator = epoch_sampler.generator_for("views", number)
                self.controller.observe_views(seen, views, generator)
            elif controller is not None:
                controller.observe(seen)

    def _mended(self, seen: ModelOutputs) -> ModelOutputs:
        """The outputs without what is not finite, or of no class, which goes on record."""
        classes = None if seen.logits is None else self.signals.classes
        if seen.loss.is_cpu:  # to ask a device would be a wait
            logits = seen.logits if self._needs["logits"] else None
            features = seen.features if self._needs["features"] else None
            of_classes = logits is None or are_classes(seen.labels, classes)
            if are_finite(seen.loss, logits, features) and of_classes:
                return replace(seen, is_finite=True)

        seen = unmasked(seen)
        code = codes(seen, classes)
        self.values.add(seen.index, code)
        if classes is not None:
            seen = replace(seen, labels=seen.labels.clamp(0, classes - 1))
        return mended(seen, code)

    def settle(self, epoch: int) -> None:
        """Let the signals take in an epoch of which every sample was trained on, before it is ended."""
        self._buffer.flush(self.signals, epoch, self.values)
        if self.signals.device.type == "cpu":  # elsewhere it would be a wait
            self.values.report(epoch, stacklevel=5)

    def leave(self, epoch: int) -> None:
        """Say which values of an epoch that is left early were not finite."""
        self._buffer.note(self.signals, self.values)
        self.values.report(epoch, stacklevel=5)

    def end_epoch(self, epoch: int) -> None:
        """Let the signals take in the epoch, and say which values were not finite."""
        with self.cost.timed("observe"):
            self._buffer.flush(self.signals, epoch, self.values)
            if self.controller is not None:
                self.controller.end_epoch()
        self.values.report(epoch, stacklevel=5)

    def state_dict(self) -> dict[str, Any]:
        """Everything learnt so far."""
        return {
            "signals": self.signals.state_dict(),
            "blind": self.signals.blind,
            "buffer": self._buffer.state_dict(),
            "values": self.values.state_dict(),
            "selector": self.selector.state_dict(),
            "controller": None if self.controller is None else self.controller.state_dict(),
            "cost": self.cost.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.signals.load_state_dict(state["signals"])
        self.signals.blind = state["blind"]
        self._buffer.load_state_dict(state["buffer"], self.signals.device)
        self.values.load_state_dict(state["values"])
        # A state read with map_location="cpu" goes on where the plan is.
        self.selector.load_state_dict(to_device(state["selector"], self.signals.device))
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        self.cost.load_state_dict(state["cost"])
