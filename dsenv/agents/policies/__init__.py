"""Policies for Stable-Baselines3's PPO and A2C, beside its own: over sets of candidates, and Beta."""

from dsenv.agents.policies.beta_policy import BetaPolicy, SetBetaPolicy
from dsenv.agents.policies.set_policy import CandidatePolicy, SetPolicy

__all__ = ["BetaPolicy", "CandidatePolicy", "SetBetaPolicy", "SetPolicy"]
