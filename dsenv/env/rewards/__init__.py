"""Rewards: what an agent is paid for an interval; one module each."""

from dsenv.env.rewards.base import Reward, Transition
from dsenv.env.rewards.registry import REWARDS, make_reward

__all__ = ["REWARDS", "Reward", "Transition", "make_reward"]
