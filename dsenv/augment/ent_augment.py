"""EntAugment: the more certain the prediction, the stronger the augmentation."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dsenv.augment.base import AugmentationController
from dsenv.augment.trivial import random_levels
from dsenv.errors import check_count
from dsenv.signals import SampleSignals


class EntAugment(AugmentationController):
    """Strength 1 - H(p) / log C from the entropy of the model's last prediction for the sample.

    What it does: a sample predicted with certainty is augmented at full strength the next time it is drawn,
    one predicted uniformly not at all. The first `warm_up` epochs are TrivialAugment. The entropy is the
    signal that `SampleSignals` keeps anyway.

    When it helps: the simplest rival to SADA, at no cost; in an independent comparison on six small natural
    image sets it was ahead of RandAugment and TrivialAugment. A model that is sure of wrong or memorized
    labels counts as sure: with noisy labels late in training, mislabelled samples are augmented as strongly
    as others.

    Settings: 10 warm-up epochs as published; fewer for short training runs. The paper also trains on
    `ent_loss`.

    Cost: none beyond the ops.

    Source: Yang et al., "EntAugment", ECCV 2024; github.com/Jackbrocp/EntAugment.

    Differences from published code: the warm-up ends after exactly `warm_up` epochs (there one later), and
    every op grows with strength (there half of them do not: at strength 0 brightness is nearly black).

    Args:
        warm_up: epochs of TrivialAugment at the start, >= 0.
        settings: `ops` and `magnitudes` of `AugmentationController`.
    """

    needs_logits = True
    reads = ("entropy",)

    def __init__(self, warm_up: int = 10, **settings: Any) -> None:
        super().__init__(**settings)
        self.warm_up = check_count("warm_up", warm_up, 0)

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """Random levels in the warm-up, then one minus the last normalized entropy."""
        if self.epoch < self.warm_up:
            return random_levels(index, generator)
        entropy: Tensor = signals.entropy.gather(-1, index.clamp(max=signals.size - 1))
        return (1 - entropy).clamp_(0, 1)


def ent_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus normalized entropy of the prediction, the loss proposed beside EntAugment.

    Args:
        logits: (B, C).
        labels: (B,) int64.

    Returns:
        (B,) in nats.
    """
    log_probability = logits.log_softmax(-1)
    entropy = -(log_probability.exp() * log_probability).sum(-1)
    return F.cross_entropy(logits, labels, reduction="none") + entropy / math.log(logits.shape[-1])
