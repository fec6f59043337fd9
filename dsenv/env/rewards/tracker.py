"""RewardTracker: what K trainings stood at, so that an interval's reward can be told."""

import torch
from torch import Tensor

from dsenv.env.rewards.base import Reward, RewardInputs, Transition


class RewardTracker:
    """Keeps what a reward measured at the start and after the last interval of K trainings.

    Args:
        reward: measures and pays.
        replicas: K.
        device: where the trainings run.
    """

    def __init__(self, reward: Reward, replicas: int, device: torch.device) -> None:
        self._reward = reward
        self._start = self._last = torch.zeros(replicas, 1, device=device)

    def restart(self, inputs: RewardInputs, rows: Tensor) -> None:
        """Begin new trainings in the rows (K,) bool."""
        measured = self._reward.measure(inputs)
        self._start = torch.where(rows[:, None], measured, self._start)
        self._last = torch.where(rows[:, None], measured, self._last)

    def compute(self, inputs: RewardInputs, rows: Tensor, presentations: Tensor, is_last: Tensor) -> Tensor:
        """Payment (K,) for the interval that the rows (K,) bool have just done.

        Args:
            inputs: after it.
            rows: the trainings that are not over.
            presentations: (K,) of the interval.
            is_last: (K,) bool, whether it was the last one.
        """
        before = self._last
        self._last = torch.where(rows[:, None], self._reward.measure(inputs), before)
        samples_seen = presentations / inputs.pool.sum(1)
        return self._reward.compute(Transition(self._start, before, self._last, samples_seen, is_last))
