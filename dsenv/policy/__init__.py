"""Trained policies in plain torch: one file each, used without Stable-Baselines3."""

from dsenv.policy.card import PolicyCard
from dsenv.policy.networks import MlpNetwork, SetBetaNetwork, SetNetwork
from dsenv.policy.parts import LearnedAugmentation, LearnedSelector, LearnedVolume
from dsenv.policy.policy import Policy
from dsenv.policy.runner import PolicyRunner

__all__ = [
    "LearnedAugmentation",
    "LearnedSelector",
    "LearnedVolume",
    "MlpNetwork",
    "Policy",
    "PolicyCard",
    "PolicyRunner",
    "SetBetaNetwork",
    "SetNetwork",
]
