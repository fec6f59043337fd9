"""No augmentation, and the same strength for all."""

from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.errors import check_count, check_share
from dsenv.signals import SampleSignals


class NoAugmentation(AugmentationController):
    """Leaves every image as it is.

    What it does: returns the batch unchanged and strength 0.

    When it helps: as the lower baseline, and where inputs must not be altered. Elsewhere it overfits earlier
    than any other controller.

    Cost: none. Source: none needed.
    """

    def __init__(self) -> None:
        super().__init__()

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """Zeros."""
        del signals, generator
        return torch.zeros(index.shape, device=index.device)

    def augment(
        self, images: Tensor, signals: SampleSignals, index: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The images themselves."""
        del signals, index, generator
        return images


class FixedStrength(AugmentationController):
    """One strength for all samples, with an optional ramp.

    What it does: one op for each sample, drawn uniformly, at `strength`; over the first `ramp_epochs` epochs
    the strength rises linearly from 0.

    When it helps: as the reference for adaptive controllers. AdaAugment's published logs end near the maximum
    strength, so a ramp to a fixed maximum is the baseline that it has to beat. It cannot tell samples apart.

    Settings: sweep `strength` over 0.3, 0.6 and 1.

    Cost: none beyond the ops. Source: our own baseline.

    Args:
        strength: in [0, 1].
        ramp_epochs: epochs until `strength` is reached, >= 0.
        settings: `ops` and `magnitudes` of `AugmentationController`.
    """

    def __init__(self, strength: float = 0.5, *, ramp_epochs: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.strength = check_share("strength", strength, zero=True)
        self.ramp_epochs = check_count("ramp_epochs", ramp_epochs, 0)

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """The strength of the current epoch, for every sample."""
        del signals, generator
        return torch.full(
            index.shape, ramped(self.strength, self.epoch, self.ramp_epochs), device=index.device
        )


def ramped(strength: float, epoch: int, ramp_epochs: int) -> float:
    """Strength in [0, 1] of an epoch under a linear ramp from 0."""
    return strength * min(1.0, epoch / ramp_epochs) if ramp_epochs else strength
