"""Composite: progress in difficulty and uncertainty over the training samples; no validation split."""

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.control.observation import squash
from dsenv.env.rewards.base import Reward, RewardInputs, Transition, mean_over, variance_over
from dsenv.errors import check_share
from dsenv.select.data_agent_reward import EPSILON


class CompositeReward(Reward):
    """Fall of difficulty and uncertainty over the training samples, weighted by their variances.

    Data Agent (arXiv 2603.07433) scores a sample by difficulty d and uncertainty u, with the weight
    r = Var(d) / (Var(d) + Var(u)). As published it pays for taking hard samples, so most for wrong labels.
    As an environment's reward it is turned into progress: with D and U the means of d and u over the samples
    that exist,

        r (D before - D after) + (1 - r) (U before - U after).

    d = l / (l + log C) of the loss at a sample's last visit; this fixed range of 0 to 1 takes the place of
    the paper's range of each batch, under which the mean says nothing about progress. u is the entropy at
    the last visit over log C where the model predicted the label, else 1: being sure of another class than
    the label is not progress. Samples never visited count as a uniform guess. Wrong labels keep both up,
    whether the agent trains on them or leaves them.

    Everything comes from the training forward, so no validation split is read and nothing is paid twice.

    Args:
        quantile: losses above this quantile of the pool are cut to it, (0, 1]; 0.95 in the paper.

    Raises:
        ValueError: the quantile is out of range.
    """

    reads = ("entropy", "correct")

    def __init__(self, quantile: float = 0.95) -> None:
        self.quantile = check_share("reward.quantile", quantile)

    def measure(self, inputs: RewardInputs) -> Tensor:
        """D, U, Var(d) and Var(u), (K, 4)."""
        signals, pool = inputs.signals, inputs.pool
        cut = upper_quantile(signals.loss, pool, self.quantile)
        hard = squash(torch.minimum(signals.loss, cut[:, None]), signals.guess_loss)
        unsure = torch.where(signals.correct > 0, signals.entropy, 1.0)
        parts = [summary(values, pool) for summary in (mean_over, variance_over) for values in (hard, unsure)]
        return torch.stack(parts, 1)

    def compute(self, transition: Transition) -> Tensor:
        hard, unsure = (transition.before - transition.after)[:, :2].unbind(1)
        spread, other = transition.after[:, 2:].unbind(1)
        return torch.lerp(unsure, hard, spread / (spread + other + EPSILON))


def upper_quantile(values: Tensor, pool: Tensor, quantile: float) -> Tensor:
    """Quantile (K,) of the values (K, N) within the pool, the value above it where it falls between two."""
    ordered = kernels.sort(values.masked_fill(~pool, torch.inf))
    place = (quantile * (pool.sum(1, keepdim=True) - 1)).ceil().long().clamp(min=0)
    return ordered.gather(1, place).squeeze(1)
