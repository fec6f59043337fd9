"""Where a training stands, and which samples its present epoch has."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.policies import PlanPolicies
from dsenv.select.base import Selection, Selector
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
    ) -> None:
        if seed < 0 or uniform_epochs < 0:
            raise ValueError(f"seed and uniform_epochs must be at least 0, got {seed} and {uniform_epochs}")
        self.selector, self.signals, self.epoch_schedule = selector, signals, epoch_schedule
        self.uniform_epochs, self.tail, self.seed, self.policies = uniform_epochs, tail, seed, policies
        self.epoch = 0
        """Number of the present epoch; as many as there are after the last."""
        self.done = 0
        """Samples of the present epoch that are trained on."""
        self.scoring_passes = 0
        """Passes that the selector was given."""
        self._chosen: Selection | None = None
        self._before = 0  # samples chosen in the epochs before
        self._generator = torch.Generator(signals.device).manual_seed(seed)
        self._weights = torch.zeros(signals.size, device=signals.device)  # 0: not in this epoch
        self._host_weights: Tensor | None = None  # a copy, to look at without waiting for the device

    @property
    def chosen(self) -> Selection:
        """The present epoch's samples in training order; the first call chooses them.

        Raises:
            ValueError: the training is over.
        """
        if self._chosen is None:
            if self.epoch >= self.epoch_schedule.epochs:
                raise ValueError(f"the plan's {self.epoch_schedule.epochs} epochs are over")
            count = self._count()
            if self.policies is not None:
                self.policies.begin(self.signals, count)
            selection = self._choose(count)
            if self.policies is not None:
                self.policies.chose(selection.index)
            order = torch.randperm(
                len(selection.index), generator=self._generator, device=self._generator.device
            )
            self._set(Selection(selection.index[order], selection.weight[order]))
        assert self._chosen is not None
        return self._chosen

    def _set(self, chosen: Selection) -> None:
        self._chosen = chosen
        self._weights.zero_()
        self._weights[chosen.index] = chosen.weight
        self._host_weights = None

    def _count(self) -> int:
        """How many samples the present epoch is to have."""
        size, table = self.epoch_schedule.size, self.epoch_schedule
        if table.counts is not None:
            return table.counts[self.epoch]
        if self.policies is not None and self.policies.decides_count:
            return self.policies.count(self.signals)
        if not pruning_is_on(self.epoch, table.epochs, 1 - self.tail):
            return size
        count: int = self.selector.count(self.signals)  # type: ignore[attr-defined]  # the epoch_schedule's None says so
        return count

    def _choose(self, count: int) -> Selection:
        """Selection of `count` samples, unshuffled."""
        if self.epoch < self.uniform_epochs:
            return UniformRandom().select(self.signals, count, self._generator)
        unready = self.selector.needs_pass and not self.scoring_passes
        if unready and count == self.signals.size:  # nothing to choose, so nothing to rank
            return UniformRandom().select(self.signals, count, self._generator)
        try:
            return self.selector.select(self.signals, count, self._generator)
        except ValueError as error:
            if not unready:
                raise
            raise ValueError(
                f"{type(self.selector).__name__} ranks the samples in a pass over them: call "
                f"plan.score(forward) before the first batch of epoch {self.epoch}; or train a little first, "
                f"with DataPlan(uniform_epochs=1) and plan.score(forward) in epoch 1 ({error})"
            ) from error

    @property
    def end(self) -> int:
        """Samples that the present epoch trains on."""
        return self.epoch_schedule.trained(len(self.chosen.index))

    @property
    def is_done(self) -> bool:
        """All samples of the present epoch are trained on."""
        return self._chosen is not None and self.done >= self.end

    def left(self) -> Selection:
        """What is left of the present epoch, in training order.

        Raises:
            ValueError: nothing is.
        """
        chosen = self.chosen
        if self.is_done:
            raise ValueError(
                f"epoch {self.epoch} is over; go on with `for epoch in plan.epochs_left()`, or call "
                f"plan.start_epoch({self.epoch + 1})"
            )
        return Selection(chosen.index[self.done : self.end], chosen.weight[self.done : self.end])

    def check_room(self, size: int) -> None:
        """Check that `size` more samples can be trained on in the present epoch.

        Raises:
            ValueError: it is not begun, or has fewer samples left.
        """
        if self._chosen is None or self.done + size > self.end:
            raise ValueError(
                f"plan.loss was given {size} samples, more than epoch {self.epoch} has left; call it once "
                "for each batch of the present epoch (for gradient accumulation too)"
            )

    def weights_of(self, index: Tensor) -> Tensor:
        """Weights (B,) of samples (B,) of the present epoch.

        Raises:
            ValueError: one of them was not chosen (looked at where the positions are on the CPU, as from a
                DataLoader; elsewhere looking would wait for the device).
        """
        if index.device.type == "cpu":
            if self._host_weights is None:
                self._host_weights = self._weights.cpu()
            strange = index[self._host_weights[index] <= 0]
            if len(strange):
                raise ValueError(
                    f"the batch holds sample {int(strange[0])}, which is not among those of epoch "
                    f"{self.epoch}: another sampler made it, or it is left over from another epoch; some "
                    "frameworks replace samplers"
                )
        return self._weights[index.to(self._weights.device)]

    def settings(self) -> dict[str, Any]:
        """What a state of the course can be continued under."""
        return {"seed": self.seed, "uniform_epochs": self.uniform_epochs, "tail": self.tail}

    def finish(self) -> None:
        """Go to the next epoch."""
        if self.policies is not None:  # an epoch without training counts for a policy too
            self._before += len(self.chosen.index)
        self.epoch, self.done, self._chosen = self.epoch + 1, 0, None

    @property
    def progress(self) -> float:
        """Share of the training that is over, see `EpochSchedule.progress`."""
        count = self.epoch_schedule.size if self._chosen is None else len(self._chosen.index)
        return self.epoch_schedule.progress(self.epoch, self.done, count, self._before)

    def seed_for(self, stream: str, number: int = 0) -> int:
        """Seed of a stream of random numbers in batch `number` of the present epoch.

        Streams start anew with each batch, so that they do not depend on what was fetched ahead.
        """
        key = (self.seed, self.epoch, STREAMS.index(stream), number)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])

    def generator_for(self, stream: str, number: int) -> torch.Generator:
        """A generator at the start of that stream, on the signals' device."""
        return torch.Generator(self.signals.device).manual_seed(self.seed_for(stream, number))

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands, and the present epoch's samples."""
        chosen = self._chosen
        return {
            "epoch": self.epoch,
            "done": self.done,
            "scoring_passes": self.scoring_passes,
            "before": self._before,
            "policies": None if self.policies is None else self.policies.state_dict(),
            "generator": self._generator.get_state(),
            "index": None if chosen is None else chosen.index.clone(),
            "weight": None if chosen is None else chosen.weight.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.epoch, self.done, self.scoring_passes = state["epoch"], state["done"], state["scoring_passes"]
        self._before = state["before"]
        if self.policies is not None:
            self.policies.load_state_dict(state["policies"])
        self._generator.set_state(state["generator"].cpu())
        self._chosen = None
        if state["index"] is not None:
            device = self.signals.device
            self._set(Selection(state["index"].to(device), state["weight"].to(device)))
