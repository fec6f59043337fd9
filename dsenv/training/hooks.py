"""BatchHooks: selectors and augmentation controllers that work inside the training loop of K replicas."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.augment.draw import Draw
from dsenv.augment.ops import apply_drawn
from dsenv.outputs import ModelOutputs
from dsenv.rng import Streams
from dsenv.select.base import Selector
from dsenv.signals import SampleSignals


class BatchHooks:
    """Augments every batch, and gives its outputs to the selectors and controllers that learn from them.

    Args:
        signals: (K, N) signals of all replicas.
        streams: random streams of the replicas, for augmentation.
        selectors: one for each replica, or None.
        controllers: one augmentation controller for each replica, or None.
        positions: for each replica the (M,) positions of its pool in the training set, ascending. Selectors
            count samples within the pool.
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
        self._of = [signals.of_replica(k) for k in range(signals.replicas or 0)] if controllers else []
        self._positions = positions

        learners: list[Selector | AugmentationController] = [*(selectors or ()), *(controllers or ())]
        self.needs_features = any(learner.needs_features for learner in learners)

    @property
    def augments(self) -> bool:
        """Whether batches are augmented."""
        return self._controllers is not None

    def augment(self, samples: Tensor, index: Tensor, sizes: Sequence[int]) -> Tensor:
        """Augment stored samples (K, B, C, H, W) at the positions (K, B); padding is left as it is."""
        assert self._controllers is not None
        alike = {(c.magnitudes, c.ops_per_sample) for c in self._controllers}
        if len(alike) == 1 and all(controller.draws_first for controller in self._controllers):
            return self._augment_at_once(samples, index, sizes, self._controllers)
        return self._augment_in_turn(samples, index, sizes, self._controllers)

    def _augment_in_turn(
        self,
        samples: Tensor,
        index: Tensor,
        sizes: Sequence[int],
        controllers: Sequence[AugmentationController],
    ) -> Tensor:
        """Replica by replica: works for any controller, and `_augment_at_once` must give the same."""
        augmented = samples.clone()
        for k, (controller, size) in enumerate(zip(controllers, sizes, strict=True)):
            if size:
                augmented[k, :size] = controller.augment(
                    samples[k, :size], self._of[k], index[k, :size], self._streams[k]
                )
        return augmented

    def _augment_at_once(
        self,
        samples: Tensor,
        index: Tensor,
        sizes: Sequence[int],
        controllers: Sequence[AugmentationController],
    ) -> Tensor:
        """All replicas in one call of the ops; each draws from its own stream."""
        draws = [
            controller.draws(self._of[k], index[k, :size], self._streams[k])
            for k, (controller, size) in enumerate(zip(controllers, sizes, strict=True))
            if size
        ]
        if not draws:
            return samples

        # Augment all samples as one batch; rows of padding are left out
        batch, flat = index.shape[1], samples.flatten(0, 1)  # (K * B, C, H, W)
        is_full = all(size == batch for size in sizes)
        starts = [torch.arange(size, device=index.device) + k * batch for k, size in enumerate(sizes)]
        where = None if is_full else torch.cat(starts)
        chosen = flat if where is None else flat[where]

        for of_one_op in zip(*draws, strict=True):
            draw = Draw(*(torch.cat(parts) for parts in zip(*of_one_op, strict=True)))
            chosen = apply_drawn(chosen, draw, controllers[0].magnitudes)
        return (chosen if where is None else flat.index_copy(0, where, chosen)).view_as(samples)

    def observe(self, outputs: ModelOutputs, sizes: Sequence[int]) -> None:
        """Give the outputs of K replicas for a training batch (K, B) to their selectors and controllers."""
        for k, size in enumerate(sizes):
            if not size:
                continue
            own = outputs.of_replica(k, size)

            # A selector counts samples within its pool
            if self._selectors is not None:
                place = torch.searchsorted(self._positions[k], own.index)
                self._selectors[k].observe(replace(own, index=place))
            if self._controllers is not None and self._controllers[k].observes:
                self._controllers[k].observe(own)
