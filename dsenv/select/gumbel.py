"""Weighted sampling without replacement, batched over replicas."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.rng import Streams
from dsenv.select.base import Selection, StackedSelection
from dsenv.select.ranking import chunks, equally_weighted, random_order


def gumbel_top_k(log_weight: Tensor, counts: Sequence[int], streams: Streams) -> StackedSelection:
    """Draw `counts[k]` samples of replica k with probability in proportion to their weights.

    Independent Gumbel noise is added to the log weights, and the largest are kept. This draws without
    replacement, as if one sample were taken after another (Kool et al., 2019, arXiv 1903.06059).

    Args:
        log_weight: (K, N) log of the unnormalised weights; -inf leaves a sample out.
        counts: samples to draw for each replica, at most as many as have a finite weight.
        streams: the replicas' random streams; each row is shuffled by its own stream.
    """
    size = log_weight.shape[1]
    if len(log_weight) and kernels.is_large(log_weight[0]):
        drawn = [
            _draw(row, count, streams[k])
            for k, (row, count) in enumerate(zip(log_weight, counts, strict=True))
        ]
        return StackedSelection.of(drawn, size)

    most = max(counts, default=0)
    keys = log_weight + streams.gumbel(size)
    chosen = kernels.argsort(keys, descending=True)[:, :most]

    # Shorter rows are padded with index N
    count = torch.tensor(counts, device=keys.device)[:, None]
    padding = torch.arange(most, device=keys.device) >= count

    index = chosen.masked_fill(padding, size)
    return shuffled(StackedSelection(index, (index < size).float(), tuple(counts)), size, streams)


def _draw(log_weight: Tensor, count: int, generator: torch.Generator) -> Selection:
    """Draw one row over millions of samples: noise in chunks, a threshold, a shuffle of the chosen ones.

    The noise is float64, because the largest of 10^8 float32 uniforms are equal.
    """
    keys = torch.empty_like(log_weight)
    for part in chunks(len(keys)):
        uniform = torch.rand(len(keys[part]), generator=generator, dtype=torch.float64)
        exponential = uniform.clamp_(min=torch.finfo(torch.float64).tiny).log_().neg_()
        keys[part] = log_weight[part] - exponential.log_()

    chosen = kernels.top_k(keys, count, generator)
    return equally_weighted(chosen[random_order(count, generator)])


def shuffled(selection: StackedSelection, size: int, streams: Streams) -> StackedSelection:
    """Put each row of a selection in random order, drawn from its own stream; padding stays behind.

    Args:
        selection: of K training runs.
        size: N, the number of training samples.
        streams: the replicas' random streams.
    """
    place = streams.uniform(size + 1)
    place[:, size] = 2.0  # behind every sample
    order = kernels.argsort(place.gather(1, selection.index), stable=True)  # whatever the rows' length
    index, weight = selection.index.gather(1, order), selection.weight.gather(1, order)
    return StackedSelection(index, weight, selection.counts)
