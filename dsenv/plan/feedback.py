"""What learns from a training batch: signals, selector and augmentation controller."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from dsenv.augment import AdaAugment, AugmentationController
from dsenv.kernels import cross_entropy
from dsenv.outputs import ModelOutputs
from dsenv.plan import checks
from dsenv.plan.batch import Batch, ViewBatch, to_device
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.forward import ForwardFunction, outputs
from dsenv.plan.records import Cost, EpochBuffer, PlanSignals
from dsenv.select.base import Selector
from dsenv.volume.learned import Learned as LearnedVolume

Views = tuple[ModelOutputs, ModelOutputs]
"""Forwards of the plain and of the fully augmented view."""


class Feedback:
    """Hands every training batch to those who learn from it, and knows what they need.

    Args:
        selector: sees every batch.
        controller: sees every batch; None where nothing is augmented.
        signals: take in an epoch's batches at its end.
        cost: where time and further forwards are written down.
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
        self.selector, self.controller, self.signals, self.cost = selector, controller, signals, cost
        self._needing = (selector, controller, volume)
        self._buffer = EpochBuffer()

    def checked(
        self,
        batch: Batch | ViewBatch,
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
        checks.check_losses(losses, size, batch.weight.device)
        checks.check_outputs(self._needing, size, classes, logits, features, batch.labels)
        found = (None if value is None else value.detach() for value in (logits, features))
        return ModelOutputs(batch.index.to(self.signals.device), batch.labels, losses.detach(), *found)

    def forward_views(self, batch: Batch | ViewBatch, forward: ForwardFunction | None) -> Views | None:
        """Forwards of the batch's other views, where the controller compares them."""
        if not isinstance(self.controller, AdaAugment):
            return None
        if forward is None:
            raise ValueError(
                "AdaAugment compares the losses of three views: plan.loss(batch, losses, features=features, "
                "forward=forward), with forward(inputs) -> (logits, features)"
            )
        if not isinstance(batch, ViewBatch):
            raise ValueError("AdaAugment needs the batch as the plan made it, with its views")
        self.cost.extra_forwards += 2 * len(batch.index)
        with self.cost.timed("score"):
            found = []
            for view in (batch.plain, batch.full):
                logits, features = outputs(forward, view)
                losses = cross_entropy(logits.float(), batch.labels)
                found.append(ModelOutputs(batch.index, batch.labels, losses, logits, features))
        return found[0], found[1]

    def take_in(self, seen: ModelOutputs, views: Views | None, epoch_sampler: EpochSampler) -> None:
        """Learn from a training batch.

        Args:
            seen: its forward.
            views: those of its other views.
            epoch_sampler: where the training stands.
        """
        kind = self.signals.device.type
        full = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
        with self.cost.timed("observe"), full:
            more = () if seen.logits is None else (seen.logits, seen.labels)
            self._buffer.add(self.signals, epoch_sampler.epoch, seen.index, seen.loss, *more)
            self.selector.observe(seen)
            if isinstance(self.controller, AdaAugment) and views is not None:
                generator = epoch_sampler.generator_for(
                    "views", epoch_sampler.done // epoch_sampler.epoch_schedule.batch_size
                )
                self.controller.observe_views(views[0], seen, views[1], generator)
            elif self.controller is not None:
                self.controller.observe(seen)

    def end_epoch(self, epoch: int) -> None:
        """Let the signals take in the epoch."""
        with self.cost.timed("observe"):
            self._buffer.flush(self.signals, epoch)
            if self.controller is not None:
                self.controller.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Everything learnt so far."""
        return {
            "signals": self.signals.state_dict(),
            "blind": self.signals.blind,
            "buffer": self._buffer.state_dict(),
            "selector": self.selector.state_dict(),
            "controller": None if self.controller is None else self.controller.state_dict(),
            "cost": self.cost.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.signals.load_state_dict(state["signals"])
        self.signals.blind = state["blind"]
        self._buffer.load_state_dict(state["buffer"], self.signals.device)
        # A state read with map_location="cpu" goes on where the plan is.
        self.selector.load_state_dict(to_device(state["selector"], self.signals.device))
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        self.cost.load_state_dict(state["cost"])
