"""HOW STRONG, by a trained policy."""

from typing import Any

import torch

from dsenv.augment.given import GivenStrength
from dsenv.policy.parts import LearnedPart, PolicyChoice
from dsenv.policy.runner import PolicyRunner
from dsenv.signals import SampleSignals


class Learned(LearnedPart, GivenStrength):
    """Augments each sample at the strength that a trained policy gives to its stability bin.

    What it does: bins the samples by the variance of their influence, as the control "strength", and applies
    one op to each, drawn uniformly, at the strength of its bin.

    When it helps: where the training is like those the policy was trained on. When not: far from them;
    compare with "fixed" and "sada".

    Cost: once an epoch, as for `dsenv.select.Learned`, and the ops. Source: our own.

    Args:
        policy: a `Policy`, its file, the name of a pretrained one, or a `PolicyRunner`.
        size: N, the number of training samples.
        device: where the strengths live.
        settings: `ops` and `magnitudes` of `AugmentationController`.

    Raises:
        ValueError: the policy does not decide how strongly to augment.
    """

    question = "how_strong"
    needs_logits = True

    def __init__(
        self,
        policy: PolicyChoice | PolicyRunner,
        size: int,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> None:
        LearnedPart.__init__(self, policy)
        GivenStrength.__init__(self, size, device, **settings)

    def begin_epoch(self, signals: SampleSignals) -> None:
        """Take over the strengths of the next epoch, given the (N,) signals of those before."""
        strength = self.runner.decide(signals).strength
        assert strength is not None
        self.strength.copy_(strength[0])
