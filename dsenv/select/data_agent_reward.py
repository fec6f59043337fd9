"""What a sample is worth to the Data Agent: difficulty and uncertainty, weighted by their variances."""

import math

import torch
from torch import Tensor

from dsenv import kernels

EPSILON = 1e-8


def difficulty(loss: Tensor, quantile: float = 0.95) -> Tensor:
    """Losses scaled to [0, 1] within their batch, after the largest are cut (Data Agent, eq. 1).

    Args:
        loss: (B,) per-sample loss, in nats.
        quantile: losses above this quantile are cut to it, (0, 1].

    Returns:
        (B,) in [0, 1]; all 0 where the losses are equal.
    """
    cut = torch.minimum(loss, kernels.quantile(loss, quantile))
    return (cut - cut.min()) / (cut.max() - cut.min() + EPSILON)


def uncertainty(logits: Tensor) -> Tensor:
    """Entropy of each prediction over log C (Data Agent, eq. 3).

    Args:
        logits: (B, C).

    Returns:
        (B,) in [0, 1].
    """
    log_probability = logits.log_softmax(-1)
    return -(log_probability.exp() * log_probability).sum(-1) / math.log(logits.shape[-1])


def adaptive_weight(hard: Tensor, unsure: Tensor) -> Tensor:
    """Share of difficulty in the reward: its part of both variances over the batch.

    Args:
        hard: (B,) difficulty.
        unsure: (B,) uncertainty.

    Returns:
        A scalar in [0, 1].
    """
    spread, other = ((part - part.mean()).square().mean() for part in (hard, unsure))
    return (spread / (spread + other + EPSILON)).clamp(0, 1)


def composite(loss: Tensor, unsure: Tensor, quantile: float = 0.95) -> Tensor:
    """Worth of each sample, r * difficulty + (1 - r) * uncertainty, with r the adaptive weight.

    Args:
        loss: (B,) per-sample loss, in nats.
        unsure: (B,) `uncertainty`, or the entropy in [0, 1] that another kind of task reads.
        quantile: see `difficulty`.

    Returns:
        (B,) in [0, 1].
    """
    hard = difficulty(loss, quantile)
    return torch.lerp(unsure, hard, adaptive_weight(hard, unsure))


def take_reward(action: Tensor, worth: Tensor) -> Tensor:
    """Reward for training on a share of each sample instead of an average sample of its batch.

    The batch mean is subtracted, so that a larger action is rewarded for the better half of a batch and
    punished for the other; with the plain product every larger action would be rewarded.

    Args:
        action: (B,) weight given to each sample, [0, 1].
        worth: (B,) `composite` of each.

    Returns:
        (B,).
    """
    assert action.shape == worth.shape, (action.shape, worth.shape)
    return action * (worth - worth.mean())
