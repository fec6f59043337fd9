"""Policy networks in plain torch, to be exported and used without Stable-Baselines3."""

from dsenv.policy.networks import SetBetaNetwork, SetNetwork

__all__ = ["SetBetaNetwork", "SetNetwork"]
