"""Rewards: what an agent is paid for an interval."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """Validation accuracy before and after an interval, for each of K replicas."""

    before: Tensor
    """(K,) in [0, 1]."""
    after: Tensor
    """(K,) in [0, 1]."""


def validation_gain(progress: Progress) -> Tensor:
    """Gain in accuracy on the trusted validation split, (K,); positive when the model got better.

    Undiscounted, the rewards of an episode add up to the final accuracy less the initial one.
    """
    return progress.after - progress.before


REWARDS = {"validation": validation_gain}
