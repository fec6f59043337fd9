"""The last step of making a batch: augmentation and transform, on the device."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dsenv.augment import AdaAugment, AugmentationController
from dsenv.plan.batch import Batch, ViewBatch
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.records import Cost

Transform = Callable[[Any], Any]


class BatchTransform:
    """Augments the inputs of a batch and transforms them.

    Args:
        controller: augments; None for no augmentation.
        transform: applied after it; None for none.
        epoch_sampler: gives signals and random streams.
        cost: where the time is written down.
    """

    def __init__(
        self,
        controller: AugmentationController | None,
        transform: Transform | None,
        epoch_sampler: EpochSampler,
        cost: Cost,
    ) -> None:
        self.controller, self.transform = controller, transform or _same
        self.epoch_sampler, self.cost = epoch_sampler, cost

    def __call__(
        self, index: Tensor, inputs: Any, labels: Any, weight: Tensor, number: int
    ) -> Batch | ViewBatch:
        """Batch `number` of the epoch, from raw inputs (B, ...)."""
        change = self.transform
        if self.controller is None:
            return Batch(change(inputs), labels, index, weight)
        if not isinstance(inputs, Tensor):
            raise ValueError(f"augment needs images as one tensor a batch, got {type(inputs).__name__}")
        with self.cost.timed("augment"):
            generator = self.epoch_sampler.generator_for("augment", number)
            if isinstance(self.controller, AdaAugment):
                current, full = self.controller.views(inputs, index, generator)
                return ViewBatch(change(current), labels, index, weight, change(inputs), change(full))
            augmented = self.controller.augment(inputs, self.epoch_sampler.signals, index, generator)
        return Batch(change(augmented), labels, index, weight)


def _same(inputs: Any) -> Any:
    return inputs
