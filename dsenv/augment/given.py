"""Strengths that the caller decides."""

from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController, checked_device
from dsenv.errors import check_count
from dsenv.signals import SampleSignals


class GivenStrength(AugmentationController):
    """Augments each sample at the strength it is told.

    What it does: one op for each sample, drawn uniformly, at the strength that `strength` holds for it.

    When it helps: where an agent or your own rule decides the strengths; the controls "strength" and
    "joint" of the environments use it. On its own it is the identity.

    Cost: none beyond the ops. Source: none needed.

    Args:
        size: N, the number of training samples.
        device: where the strengths live.
        settings: `ops` and `magnitudes` of `AugmentationController`.
    """

    takes_strengths = True

    def __init__(self, size: int, device: torch.device | str = "cpu", **settings: Any) -> None:
        super().__init__(**settings)
        self.size = check_count("size", size)
        self._memory = {"strength": torch.zeros(self.size, device=checked_device(device))}

    @property
    def strength(self) -> Tensor:
        """(N,) strength of each sample, in [0, 1]; write to it."""
        return self._memory["strength"]

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """The strengths that were given."""
        del signals, generator
        return self.strength[index]
