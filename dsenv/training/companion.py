"""Companion: selectors and augmentation controllers that work inside the training loop of K replicas."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.augment.draw import Draw
from dsenv.augment.magnitudes import Magnitudes
from dsenv.augment.ops import apply_drawn
from dsenv.rng import Streams
from dsenv.select.base import Forward, Selector
from dsenv.signals import SampleSignals
from dsenv.training.base import Outputs


class Companion:
    """Augments every batch and hands every batch's outputs to those who learn from them.

    Args:
        signals: (K, N) signals of all replicas.
        streams: random streams of the replicas, for augmentation.
        selectors: one for each replica, or None.
        controllers: one augmentation controller for each replica, or None.
        positions: for each replica the (M,) positions of its pool in the training set. Selectors count
            samples within the pool.
    """

    def __init__(
        self,
        signals: SampleSignals,
        streams: Streams,
        selectors: Sequence[Selector] | None,
        controllers: Sequence[AugmentationController] | None,
        positions: Sequence[Tensor],
    ) -> None:
        self._signals, self._streams = signals, streams
        self._selectors, self._controllers = selectors, controllers
        # where each sample of the training set stands in the pool; padding and strangers are never asked for
        self._place = [_inverse(where, signals.size) for where in positions] if selectors else []
        learners: list[Selector | AugmentationController] = [*(selectors or ()), *(controllers or ())]
        self.needs_features = any(learner.needs_features for learner in learners)

    @property
    def augments(self) -> bool:
        """Whether batches are augmented."""
        return self._controllers is not None

    def augment(self, samples: Tensor, index: Tensor, sizes: Sequence[int]) -> Tensor:
        """Augment stored samples (K, B, C, H, W) at the positions (K, B); padding is left as it is."""
        assert self._controllers is not None
        magnitudes = self._controllers[0].magnitudes
        if all(c.draws_first and c.magnitudes == magnitudes for c in self._controllers):
            return self._augment_at_once(samples, index, sizes, magnitudes)
        augmented = samples.clone()
        for k, (controller, size) in enumerate(zip(self._controllers, sizes, strict=True)):
            if size:
                own = self._signals.of_replica(k)
                augmented[k, :size] = controller.augment(
                    samples[k, :size], own, index[k, :size], self._streams[k]
                )
        return augmented

    def _augment_at_once(
        self, samples: Tensor, index: Tensor, sizes: Sequence[int], magnitudes: Magnitudes
    ) -> Tensor:
        """`augment` in one call of the ops; each replica draws from its own stream."""
        assert self._controllers is not None
        draws = [
            controller.draw(self._signals.of_replica(k), index[k, :size], self._streams[k])
            for k, (controller, size) in enumerate(zip(self._controllers, sizes, strict=True))
            if size
        ]
        if not draws:
            return samples
        draw = Draw(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
        batch = index.shape[1]
        if all(size == batch for size in sizes):
            return apply_drawn(samples.flatten(0, 1), draw, magnitudes).view_as(samples)
        where = torch.cat(
            [torch.arange(size, device=index.device) + k * batch for k, size in enumerate(sizes)]
        )
        flat = samples.flatten(0, 1).clone()
        flat[where] = apply_drawn(flat[where], draw, magnitudes)
        return flat.view_as(samples)

    def observe(self, index: Tensor, labels: Tensor, outputs: Outputs, sizes: Sequence[int]) -> None:
        """Show a training batch, (K, B), to the selector and the controller of each replica."""
        assert outputs.loss is not None
        for k, size in enumerate(sizes):
            if not size:
                continue
            features = None if outputs.features is None else outputs.features[k, :size]
            rest = (labels[k, :size], outputs.loss[k, :size], outputs.logits[k, :size], features)
            if self._selectors is not None:
                self._selectors[k].observe(Forward(self._place[k][index[k, :size]], *rest))
            if self._controllers is not None:
                self._controllers[k].observe(Forward(index[k, :size], *rest))


def _inverse(positions: Tensor, size: int) -> Tensor:
    """(size,) place of each sample among `positions`."""
    place = torch.zeros(size, dtype=torch.int64, device=positions.device)
    place[positions] = torch.arange(len(positions), device=positions.device)
    return place
