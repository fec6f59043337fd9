"""What the published Data Agent program computes where it departs from the described method.

Kept apart, so that the released behaviour can be measured: Jackbrocp/Data-Agent, commit f489f8d, patched
to run. Its parts are wrong on purpose; only `DataAgent(variant="released")` uses them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GAMMA, LAMBDA = 0.99, 0.95
EPSILON = 1e-8


class BatchMeanNormaliser:
    """Reward scaling of the release: after the first batch its deviation is that of batch *means*.

    That is far smaller than the deviation of the rewards, so normalised rewards become large.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.mean = self.squares = self.deviation = torch.zeros(())

    def __call__(self, reward: Tensor) -> Tensor:
        """Take in one batch of rewards (B,) and return it normalised, (B,)."""
        self.batches += 1
        mean = reward.mean()
        if self.batches == 1:
            self.mean = mean
            self.squares = torch.zeros_like(mean)
            self.deviation = deviation(reward)
        else:
            step = mean - self.mean
            self.mean = self.mean + step / self.batches
            self.squares = self.squares + step * (mean - self.mean)
            self.deviation = (self.squares / self.batches).sqrt()

        return (reward - self.mean) / (self.deviation + EPSILON)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything needed to continue."""
        return {name: getattr(self, name) for name in ("batches", "mean", "squares", "deviation")}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Continue from `state_dict()`."""
        for name, value in state.items():
            setattr(self, name, value)


def deviation(values: Tensor) -> Tensor:
    """Deviation of values (B,); 0 for a single one, where the release has NaN, which would stay for good."""
    return values.std() if len(values) > 1 else torch.zeros_like(values).sum()


def rowwise_advantage(rewards: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    """Generalised advantages along row j of successive batches, as if one sample followed another.

    Where two batches differ in size, the next values become their mean and the sum starts again from 0.

    Args:
        rewards: one (B,) a batch.
        values: the critic's, likewise.

    Returns:
        One (B,) a batch.
    """
    advantages: list[Tensor] = []
    following = running = torch.zeros_like(rewards[-1])
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        if following.shape != reward.shape:
            following = following.mean().expand_as(reward)
            running = torch.zeros_like(reward)

        running = reward + GAMMA * following - value + GAMMA * LAMBDA * running
        advantages.insert(0, running)
        following = value

    return advantages


def crossed_policy_loss(log_density: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate that pairs each action with every advantage, (B, B), as the release does.

    At equal policies its gradient is the mean advantage times that of the mean log density: no sample
    is credited for its own action. Arguments and result are those of `clipped_policy_loss`.
    """
    ratio = (log_density - old).exp()[:, None]
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
