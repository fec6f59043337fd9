"""Rewards: what an agent is paid for an interval; one module each."""

from dsenv.env.rewards.base import Change, Reward
from dsenv.env.rewards.registry import REWARDS, make_reward

__all__ = ["REWARDS", "Change", "Reward", "make_reward"]
