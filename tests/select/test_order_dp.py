"""OrderDP: the top of a uniform pool."""

import math

import pytest
import torch

from dsenv.select.order_dp import OrderDP, top_of_pool
from dsenv.signals import SampleSignals


def test_chances_are_those_of_an_order_statistic() -> None:
    """Of n samples, the j-th highest is chosen if it is in the pool with fewer than q higher ones."""
    size, count, pool, draws = 12, 3, 6, 2500
    generator, hits = torch.Generator().manual_seed(0), torch.zeros(size)
    for _ in range(draws):
        hits[top_of_pool(torch.arange(12.0), count, count / pool, generator)] += 1
    for sample in range(size):
        higher = size - 1 - sample
        ways = sum(math.comb(higher, h) * math.comb(sample, pool - 1 - h) for h in range(count))
        chance = ways / math.comb(size, pool)
        assert float(hits[sample]) / draws == pytest.approx(chance, abs=4.5 * 0.5 / draws**0.5)


@pytest.mark.fast
def test_high_losses_are_kept_and_all_of_a_full_pool_are_ranked() -> None:
    signals, index = SampleSignals(10, 2), torch.arange(10)
    signals.update(index, torch.arange(10.0), torch.zeros(10, 2), torch.zeros_like(index), 0)
    generator = torch.Generator().manual_seed(0)
    assert set(OrderDP(share=0.6).select(signals, 6, generator).index.tolist()) == set(range(4, 10))
    mean = torch.stack([OrderDP().select(signals, 3, generator).index.float().mean() for _ in range(200)])
    assert float(mean.mean()) > 5.5
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\]"):
        OrderDP(share=0)
