"""RandAugment: several random ops at one global strength."""

from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.errors import check_count, check_share
from dsenv.signals import SampleSignals

MOST_OPS = 100


class RandAugment(AugmentationController):
    """Several ops in a row for each sample, all at one global strength.

    What it does: `ops_per_sample` times, draws one op for each sample uniformly and applies it at `strength`.

    When it helps: where the two settings are tuned for the data set; then it is on a par with learned
    policies. Untuned it may be too weak for a large network or too strong for a small one.

    Settings: 2 ops at strength 9/30 are the common start; larger networks and data sets take up to 0.6.

    Cost: `ops_per_sample` times the ops of the other controllers.

    Source: Cubuk et al., "RandAugment", arXiv 1909.13719.

    Differences from published code, here torchvision's: autocontrast and equalize are blended in by the
    strength; full strength translates by 10/32 of the width or height, there by 150/331; solarize inverts
    from 256 (1 - strength) on, there from 255 (1 - strength), which inverts white at strength 0; the strength
    is any number in [0, 1], there one of 31 levels.

    Args:
        ops_per_sample: 1 to 100.
        strength: in [0, 1].
        settings: `ops` and `magnitudes` of `AugmentationController`.
    """

    def __init__(self, ops_per_sample: int = 2, strength: float = 0.3, **settings: Any) -> None:
        super().__init__(**settings)
        self.ops_per_sample = check_count(
            "ops_per_sample", ops_per_sample, most=MOST_OPS, hint="for none take NoAugmentation"
        )
        self.strength = check_share("strength", strength, zero=True)

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """The global strength, for every sample."""
        del signals, generator
        return torch.full(index.shape, self.strength, device=index.device)
