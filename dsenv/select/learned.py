"""WHAT, by a trained policy."""

import torch

from dsenv.policy.parts import LearnedPart, PolicyChoice
from dsenv.policy.runner import PolicyRunner
from dsenv.rng import Streams
from dsenv.select.base import Selection, Selector
from dsenv.select.gumbel import gumbel_top_k
from dsenv.select.ranking import check_count
from dsenv.signals import SampleSignals


class Learned(LearnedPart, Selector):
    """Draws samples by the weights that a trained policy gives them.

    A policy of the control "curriculum" or "joint" weighs loss-rank bins, one of "mask" scores every sample.
    It is asked once an epoch, at its begin, and sees what it saw in its environment.

    Helps: where the training is like those the policy was trained on (data, label noise, length, ratio; its
    card says which). Does not help: far from them; compare with "random".

    Cost: a sort of the losses and a small network, once an epoch. State: that of the `PolicyRunner`.
    Source: our own; the weights over bins are trained by `train_agent.py`.

    Args:
        policy: a `Policy`, its file, the name of a pretrained one, or a `PolicyRunner`.

    Raises:
        ValueError: the policy does not decide what to train on.
    """

    question = "what"
    needs_logits = True

    def __init__(self, policy: PolicyChoice | PolicyRunner) -> None:
        LearnedPart.__init__(self, policy)

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Draw `count` samples, each with weight 1, and tell the runner which."""
        check_count(count, signals.size)
        weight = self.runner.decide(signals, count).log_weight
        assert weight is not None
        drawn = gumbel_top_k(weight, [count], Streams.of(generator))
        self.runner.chose(drawn.index[0])
        return Selection(drawn.index[0], drawn.weight[0])
