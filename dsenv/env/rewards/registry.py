"""The rewards by name."""

from dsenv.catalogue import Choice, build_part
from dsenv.env.rewards.base import Reward
from dsenv.env.rewards.composite import CompositeReward
from dsenv.env.rewards.cost_aware import CostAwareReward
from dsenv.env.rewards.final import FinalReward
from dsenv.env.rewards.validation import ValidationReward

REWARDS: dict[str, type[Reward]] = {
    "validation": ValidationReward,
    "composite": CompositeReward,
    "cost_aware": CostAwareReward,
    "final": FinalReward,
}


def make_reward(setting: Choice | Reward) -> Reward:
    """Build a reward from any form that `build_part` takes.

    Raises:
        ValueError: the name or a setting is unknown, or a value out of range.
    """
    reward: Reward = build_part("reward", REWARDS, setting, expected=Reward)
    return reward
