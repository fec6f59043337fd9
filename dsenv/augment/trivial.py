"""TrivialAugment: a random op at a random strength."""

from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.signals import SampleSignals

LEVELS = 31  # strengths 0/30, 1/30, ..., 30/30


class TrivialAugment(AugmentationController):
    """A random op at a random strength, drawn again for each sample at each visit.

    What it does: draws one of the ops uniformly and one of 31 strengths uniformly, and nothing else.

    When it helps: almost always a strong baseline, and free of settings; adaptive controllers must beat it.
    It ignores how well a sample is learned, so a hard sample may get the strongest op in the first epoch.

    Settings: the wide space (`magnitudes=dsenv.augment.WIDE`) is the published recommendation for long
    training runs; the default here is the moderate space that all controllers share, so that they can be
    compared.

    Cost: none beyond the ops.

    Source: Müller and Hutter, "TrivialAugment", ICCV 2021, arXiv 2103.10158.

    Differences from published code: autocontrast and equalize, which have no magnitude, are blended in by the
    strength; translations scale with the image (full strength is 10/32 of its side, in the wide space the
    whole side; there 10 and 32 pixels); solarize inverts from 256 (1 - strength) on, in torchvision's code
    from 255 (1 - strength).

    Args:
        settings: `ops` and `magnitudes` of `AugmentationController`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """Random levels."""
        del signals
        return random_levels(index, generator)


def random_levels(index: Tensor, generator: torch.Generator) -> Tensor:
    """One of 31 evenly spaced strengths in [0, 1] for each element of `index`, of its shape."""
    level = torch.randint(LEVELS, index.shape, generator=generator, device=generator.device)
    return level.to(index.device) / (LEVELS - 1)
