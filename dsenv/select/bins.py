"""Loss-rank bins: a few numbers by which an agent decides what to train on."""

import torch
from torch import Tensor

from dsenv import kernels


def loss_bins(score: Tensor, pool: Tensor, bins: int) -> Tensor:
    """Cut each replica's samples into equally full bins by rank, smallest score first.

    Args:
        score: (K, N) what to rank by, for example the last loss.
        pool: (K, N) bool, the samples that exist for the replica.
        bins: B, the number of bins.

    Returns:
        (K, N) int64 in 0..B-1; samples outside the pool get B - 1.
    """
    ranked = torch.where(pool, score, torch.inf)
    return kernels.rank_bins(ranked, pool.sum(1, keepdim=True).clamp(min=1), bins)


def bin_log_weights(bin_logits: Tensor, bins: Tensor, pool: Tensor) -> Tensor:
    """Give each sample the log weight of its bin; -inf outside the pool.

    Args:
        bin_logits: (K, B) log weight of each bin.
        bins: (K, N) int64 bin of each sample.
        pool: (K, N) bool, the samples that exist for the replica.
    """
    return bin_logits.gather(1, bins).masked_fill_(~pool, -torch.inf)
