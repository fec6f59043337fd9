"""Weighted sampling without replacement, batched over replicas."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.rng import Streams
from dsenv.select.base import StackedSelection


def gumbel_top_k(log_weight: Tensor, counts: Sequence[int], streams: Streams) -> StackedSelection:
    """Draw `counts[k]` samples of replica k with probability in proportion to their weights.

    Adding independent Gumbel noise to the log weights and keeping the largest draws without
    replacement, as if one sample were taken after another (Kool et al., 2019, arXiv 1903.06059).

    Args:
        log_weight: (K, N) log of the unnormalised weights; -inf leaves a sample out.
        counts: samples to draw for each replica, at most as many as have a finite weight.
        streams: the replicas' random streams; each row is shuffled by its own stream.
    """
    replicas, size = log_weight.shape
    most = max(counts, default=0)
    keys = log_weight + streams.gumbel(size)
    chosen = kernels.argsort(keys, descending=True)[:, :most]
    count = torch.tensor(counts, device=keys.device)[:, None]
    padding = torch.arange(most, device=keys.device) >= count
    place = streams.uniform(size).gather(1, chosen).masked_fill_(padding, 2.0)
    index = chosen.masked_fill(padding, size).gather(1, kernels.argsort(place))
    assert index.shape == (replicas, most)
    return StackedSelection(index, (index < size).float(), tuple(counts))
